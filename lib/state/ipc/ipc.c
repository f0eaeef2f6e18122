/* SPDX-License-Identifier: MIT */
/* The walk over all kinds of System V objects, in a dump and in a restore. */
#include "lib/state/ipc/core.h"

#include <fcntl.h>
#include <sys/shm.h>
#include <sys/stat.h>

#include "lib/state/msg.h"

#define NOBODY ((uint32_t)-1)

static const struct ipc_kind *const kinds[] = { &ipc_kind_shm, &ipc_kind_sem, &ipc_kind_msg, &ipc_kind_mqueue };

struct ipc_state *ipc_state(struct op *op, struct snapshot *s)
{
	if (s->ipc)
		return s->ipc;
	s->ipc = op_new(op, struct ipc_state);
	if (s->ipc)
		s->ipc->ns_fd = -1;
	return s->ipc;
}

static int collect_all(struct op *op, struct snapshot *s)
{
	int r = s->ipc->own ? ipc_var_read(op, s) : 0;

	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !r; i++)
		r = kinds[i]->collect(op, s);
	return r;
}

/* One namespace for the whole tree. Tasks that have ended are in none. */
static int check_tasks(struct op *op, const struct snapshot *s)
{
	for (size_t i = 1; i < s->tasks.n; i++)
		if (s->tasks.v[i].ids && ns_of(s, &s->tasks.v[i], NS_IPC) != ns_of(s, &s->tasks.v[0], NS_IPC))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = s->tasks.v[i].host, .kind = "namespace"),
				       "task %d is in another IPC namespace than the root of the tree, which is not supported",
				       s->tasks.v[i].host);
	return 0;
}

/* Users and groups, as the tree's user namespace calls them, or as we do. */
static int number(struct op *op, const struct snapshot *s, IpcDescEntry *d, bool inside)
{
	uint32_t (*const user)(const struct snapshot *, uint32_t) = inside ? ns_uid_inside : ns_uid_outside;
	uint32_t (*const group)(const struct snapshot *, uint32_t) = inside ? ns_gid_inside : ns_gid_outside;
	const IpcDescEntry was = *d;

	d->uid = user(s, was.uid);
	d->cuid = user(s, was.cuid);
	d->gid = group(s, was.gid);
	d->cgid = group(s, was.cgid);
	if (d->uid != NOBODY && d->cuid != NOBODY && d->gid != NOBODY && d->cgid != NOBODY)
		return 0;
	return op_fail(op, inside ? CKPT_E_UNSUPPORTED : CKPT_E_IMAGE, AT(.kind = "SysV IPC"),
		       "object %u (key 0x%x) belongs to a user or group that its user namespace has no number for", was.id, was.key);
}

static int number_all(struct op *op, const struct snapshot *s, bool inside)
{
	const struct ipc_state *st = s->ipc;
	int r = 0;

	for (size_t i = 0; i < st->shms.n && !r; i++)
		r = number(op, s, st->shms.v[i]->msg->desc, inside);
	for (size_t i = 0; i < st->sems.n && !r; i++)
		r = number(op, s, st->sems.v[i]->msg->desc, inside);
	for (size_t i = 0; i < st->queues.n && !r; i++)
		r = number(op, s, st->queues.v[i]->msg->desc, inside);
	return r;
}

int ipc_dump_begin(struct op *op, struct snapshot *s)
{
	struct ipc_state *st = ipc_state(op, s);
	int r = st ? check_tasks(op, s) : CKPT_E_NOMEM;

	if (r)
		return r;
	st->ns_id = ns_of(s, &s->tasks.v[0], NS_IPC)->id;
	st->own = ns_own(s, NS_IPC) != NULL;
	return 0;
}

static int open_namespace(struct op *op, struct snapshot *s)
{
	s->ipc->ns_fd = fcntl(ns_own(s, NS_IPC)->fd, F_DUPFD_CLOEXEC, 3);
	return s->ipc->ns_fd >= 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "keep the IPC namespace of the tree");
}

/* What other readers would leave out without a word. */
static int mark(struct op *op, struct snapshot *s)
{
	const struct ipc_state *st = s->ipc;
	int r = 0;

	if (!st->own && (st->shms.n || st->sems.n || st->queues.n))
		r = snapshot_mark(op, s, IMG_OWN_SYSV_IPC);
	return r || !st->mqueues.n ? r : snapshot_mark(op, s, IMG_OWN_MQUEUE);
}

int ipc_dump(struct op *op, struct snapshot *s)
{
	int r;

	if (!s->ipc->own)
		r = collect_all(op, s);
	else
		r = open_namespace(op, s) ?: ipc_run(op, s, collect_all);
	r = r ?: number_all(op, s, true);
	r = r ?: ipc_check_attachments(op, s);
	r = r ?: ipc_undo_check(op, s);
	return r ?: mark(op, s);
}

int ipc_write(struct op *op, struct snapshot *s)
{
	int r = 0;

	if (!s->ipc)
		return 0;
	if (s->ipc->var)
		r = img_write_one(op, s->dir, IMG_IPC_VAR, s->ipc->ns_id, &s->ipc->var->base);
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !r; i++)
		r = kinds[i]->write(op, s);
	return r;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int read_var(struct op *op, struct snapshot *s)
{
	ProtobufCMessage *m = NULL;
	int r = img_read_one(op, s->dir, IMG_IPC_VAR, s->ipc->ns_id, &m);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "ipcns-var-%u.img is missing", s->ipc->ns_id);
	s->ipc->var = (IpcVarEntry *)m;
	if (s->ipc->var->n_sem_ctls != 4)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "namespace"), "ipcns-var-%u.img has %zu limits of semaphores instead of 4",
			       s->ipc->ns_id, s->ipc->var->n_sem_ctls);
	return 0;
}

int ipc_read(struct op *op, struct snapshot *s)
{
	const TaskKobjIdsEntry *ids = s->tasks.v[0].ids, *root = s->inventory->root_ids;
	struct ipc_state *st = ipc_state(op, s);
	int r = 0;

	if (!st)
		return CKPT_E_NOMEM;
	for (size_t i = 1; i < s->tasks.n; i++)
		if (ids && s->tasks.v[i].ids && s->tasks.v[i].ids->ipc_ns_id != ids->ipc_ns_id)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = s->tasks.v[i].pid, .kind = "namespace"),
				       "task %d has another IPC namespace than the root of the tree, which is not supported", s->tasks.v[i].pid);
	st->ns_id = ids && ids->has_ipc_ns_id ? ids->ipc_ns_id : root->ipc_ns_id;
	/* Nothing of one that is joined is ours: there, too, objects may be in the way. */
	st->own = st->ns_id != root->ipc_ns_id && !(ns_own(s, NS_IPC) && ns_own(s, NS_IPC)->joined);
	if (st->own)
		r = read_var(op, s);
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !r; i++)
		r = kinds[i]->read(op, s);
	return r ?: number_all(op, s, false);
}

static bool is_attached(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t j = 0; s->tasks.v[i].mm && j < s->tasks.v[i].mm->n_vmas; j++)
			if (s->tasks.v[i].mm->vmas[j]->status & 1u << 10 && s->tasks.v[i].mm->vmas[j]->shmid == id)
				return true;
	return false;
}

/* With kernel.shm_rmid_forced a segment goes with its last attachment: ours, if no task has one. */
static int check_forced(struct op *op, struct snapshot *s)
{
	bool forced = s->ipc->var ? s->ipc->var->shm_rmid_forced : s->ipc->shms.n && ipc_rmid_forced();

	for (size_t i = 0; forced && i < s->ipc->shms.n; i++)
		if (!is_attached(s, s->ipc->shms.v[i]->msg->desc->id))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "SysV shared memory"),
				       "shared memory segment %u is attached nowhere, and would vanish at once (kernel.shm_rmid_forced)",
				       s->ipc->shms.v[i]->msg->desc->id);
	return 0;
}

static int make_all(struct op *op, struct snapshot *s)
{
	int r = ipc_var_prepare(op, s);

	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !r; i++)
		r = kinds[i]->make(op, s);
	return r ?: ipc_var_apply(op, s);
}

int ipc_make(struct op *op, struct snapshot *s)
{
	int r = check_forced(op, s);

	if (!r && ns_own(s, NS_IPC))
		r = open_namespace(op, s);
	if (r || (!s->ipc->own && !s->ipc->shms.n && !s->ipc->sems.n && !s->ipc->queues.n && !s->ipc->mqueues.n))
		return r;
	return ipc_run(op, s, make_all);
}

static int unmake_all(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		kinds[i]->unmake(op, s);
	return 0;
}

static bool made_something(const struct ipc_state *st)
{
	bool made = ipc_mqueues_made(st);

	for (size_t i = 0; i < st->shms.n; i++)
		made |= st->shms.v[i]->made;
	for (size_t i = 0; i < st->sems.n; i++)
		made |= st->sems.v[i]->made;
	for (size_t i = 0; i < st->queues.n; i++)
		made |= st->queues.v[i]->made;
	return made;
}

void ipc_detach(struct snapshot *s)
{
	for (size_t i = 0; s->ipc && i < s->ipc->shms.n; i++) {
		struct ipc_shm *shm = s->ipc->shms.v[i];

		close_fd_p(&shm->mem.fd);
		shm->mem.fd = -1;
		if (shm->at)
			shmdt(shm->at);
		shm->at = NULL;
	}
}

void ipc_done(struct op *op, struct snapshot *s, bool success)
{
	struct ipc_state *st = s->ipc;

	if (!st)
		return;
	/* A namespace of the tree's own goes by itself, with everything in it. */
	if (!success && !st->own && made_something(st))
		unmake_all(op, s);
	ipc_detach(s);
	ipc_mqueues_close(st);
	close_fd_p(&st->ns_fd);
	st->ns_fd = -1;
}
