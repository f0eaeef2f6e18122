/* SPDX-License-Identifier: MIT */
/*
 * Semaphore sets: their values. Who used a semaphore last, and when, is not in the format and not put back. What the
 * kernel would undo for a process that ends (SEM_UNDO) nobody can read: undo.c says what is done about it.
 */
#include <sys/sem.h>

#include "lib/state/ipc/core.h"
#include "lib/state/msg.h"

#define SEMS_MAX 65536u /* SEMMSL can be raised to 32-bit numbers, but one set is one allocation of the kernel's */

union semun { /* the C library leaves it to its users */
	int val;
	struct semid_ds *buf;
	unsigned short *array;
	struct seminfo *info;
};

static bool used_by_tree(const struct snapshot *s, int id, unsigned long n)
{
	pid_t last = 0;

	for (unsigned long i = 0; i < n; i++) {
		pid_t pid = semctl(id, (int)i, GETPID);

		if (pid > 0 && pid != last && ipc_of_tree(s, pid))
			return true;
		last = pid;
	}
	return false;
}

static int collect_one(struct op *op, struct snapshot *s, int id, const struct semid_ds *ds)
{
	struct ipc_sem *sem = op_new(op, struct ipc_sem), **slot;

	if (!s->ipc->own && !used_by_tree(s, id, ds->sem_nsems))
		return 0;
	slot = sem ? ARRAY_ADD(op->arena, &s->ipc->sems) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = sem;
	sem->msg = msg_new(op, IpcSemEntry, ipc_sem_entry);
	sem->values = op_alloc(op, ALIGN_UP(ds->sem_nsems * sizeof(*sem->values), 8));
	if (!sem->msg || !sem->values || !(sem->msg->desc = ipc_desc(op, &ds->sem_perm, id)))
		return CKPT_E_NOMEM;
	sem->msg->nsems = (uint32_t)ds->sem_nsems;
	return semctl(id, 0, GETALL, (union semun){ .array = sem->values }) == 0 ? 0 : ipc_errno(op, sem->msg->desc, "sem", "read");
}

static int sem_collect(struct op *op, struct snapshot *s)
{
	struct seminfo info;
	struct semid_ds ds;
	int last = semctl(0, 0, SEM_INFO, (union semun){ .info = &info }), r = 0;

	s->ipc->sets = info.semusz > 0; /* how many there are */
	for (int i = 0; i <= last && info.semusz && !r; i++) {
		int id = semctl(i, 0, SEM_STAT, (union semun){ .buf = &ds });

		if (id >= 0)
			r = collect_one(op, s, id, &ds);
	}
	return r;
}

static int sem_write(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r = s->ipc->sems.n ? img_create(op, s->dir, IMG_IPCNS_SEM, s->ipc->ns_id, &out) : 0;

	for (size_t i = 0; !r && i < s->ipc->sems.n; i++) {
		const struct ipc_sem *sem = s->ipc->sems.v[i];

		r = img_write(op, out, &sem->msg->base);
		r = r ?: img_write_payload(op, out, sem->values, ALIGN_UP(sem->msg->nsems * sizeof(*sem->values), 8));
	}
	return out ? r ?: img_close(op, out) : r;
}

static int read_one(struct op *op, struct snapshot *s, struct img_in *in, IpcSemEntry *m)
{
	struct ipc_sem *sem = op_new(op, struct ipc_sem), **slot = sem ? ARRAY_ADD(op->arena, &s->ipc->sems) : NULL;
	int r = ipc_check_desc(op, m->desc, "ipcns-sem");

	if (!slot)
		return op_nomem(op);
	*slot = sem;
	sem->msg = m;
	if (!r && (!m->nsems || m->nsems > SEMS_MAX))
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "SysV IPC"), "ipcns-sem: set %u has %u semaphores", m->desc->id, m->nsems);
	return r ?: img_read_payload(op, in, ALIGN_UP(m->nsems * sizeof(*sem->values), 8), (void **)&sem->values);
}

static int sem_read(struct op *op, struct snapshot *s)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, s->dir, IMG_IPCNS_SEM, s->ipc->ns_id, &in);

	if (r)
		return r < 0 ? r : 0;
	while ((r = img_read(op, in, &m)) == 0 && (r = read_one(op, s, in, (IpcSemEntry *)m)) == 0)
		;
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int get(const void *arg, int key, int flags)
{
	const struct ipc_sem *sem = arg;

	return semget(key, (int)sem->msg->nsems, flags);
}

static void remove_set(int id)
{
	semctl(id, 0, IPC_RMID);
}

/* One that is there already is as good, if it is what it was. */
static int take_over(struct op *op, const struct ipc_sem *sem, const struct semid_ds *ds)
{
	const IpcDescEntry *d = sem->msg->desc;
	uint16_t *now = op_alloc(op, ds->sem_nsems * sizeof(*now));

	if (!now)
		return CKPT_E_NOMEM;
	if (!ipc_same(d, &ds->sem_perm) || ds->sem_nsems != sem->msg->nsems)
		return ipc_in_the_way(op, d, "sem", "another one has its id");
	if (semctl((int)d->id, 0, GETALL, (union semun){ .array = now }) < 0)
		return ipc_errno(op, d, "sem", "read");
	if (memcmp(now, sem->values, ds->sem_nsems * sizeof(*now)))
		return ipc_in_the_way(op, d, "sem", "it is there, and its values are not those of the checkpoint any more");
	return 0;
}

static int make_one(struct op *op, struct ipc_sem *sem)
{
	const IpcDescEntry *d = sem->msg->desc;
	struct semid_ds ds;
	int r;

	if (semctl((int)d->id, 0, IPC_STAT, (union semun){ .buf = &ds }) == 0)
		return take_over(op, sem, &ds);
	r = ipc_create(op, d, "sem", get, remove_set, sem);
	if (r)
		return r;
	sem->made = true;
	ds = (struct semid_ds){ .sem_perm = { .uid = d->uid, .gid = d->gid, .mode = (mode_t)d->mode } };
	if (semctl((int)d->id, 0, SETALL, (union semun){ .array = sem->values }) < 0 ||
	    semctl((int)d->id, 0, IPC_SET, (union semun){ .buf = &ds }) < 0)
		return ipc_errno(op, d, "sem", "set values and owner of");
	return 0;
}

static int sem_make(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->ipc->sems.n && !r; i++)
		r = make_one(op, s->ipc->sems.v[i]);
	return r;
}

static void sem_unmake(struct op *op, struct snapshot *s)
{
	(void)op;
	for (size_t i = 0; i < s->ipc->sems.n; i++)
		if (s->ipc->sems.v[i]->made)
			remove_set((int)s->ipc->sems.v[i]->msg->desc->id);
}

const struct ipc_kind ipc_kind_sem = {
	.name = "sem",
	.collect = sem_collect,
	.write = sem_write,
	.read = sem_read,
	.make = sem_make,
	.unmake = sem_unmake,
};
