/* SPDX-License-Identifier: MIT */
/* The IPC namespace: doing something inside one, making one, and its limits (ipcns-var). */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>

#include "lib/state/ipc/core.h"
#include "lib/state/msg.h"

struct errand {
	struct op *op;
	struct snapshot *s;
	ipc_errand fn;
	int ret;
};

static void *run(void *arg)
{
	struct errand *e = arg;
	int fd = e->s->ipc->ns_fd;

	if (fd >= 0 && setns(fd, CLONE_NEWIPC) < 0)
		e->ret = op_errno(e->op, errno, AT(.kind = "namespace"), "enter the IPC namespace of the tree");
	else
		e->ret = e->fn(e->op, e->s);
	return NULL;
}

int ipc_run(struct op *op, struct snapshot *s, ipc_errand fn)
{
	struct errand e = { op, s, fn, 0 };
	pthread_t thread;
	int eno = pthread_create(&thread, NULL, run, &e);

	if (eno)
		return op_errno(op, eno, NULL, "start a thread");
	pthread_join(thread, NULL);
	return e.ret;
}

/* ------------------------------------------------------------------------------------------------- limits */

/* Numbers of one file below /proc/sys, which shows those of the reader's namespace. How many were there; -1: no file. */
static int sysctl_read(const char *name, uint64_t *v, int n)
{
	_cleanup_close_ int fd = -1;
	char path[64], text[256], *at = text, *end;
	ssize_t got;
	int i;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	got = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
	if (got < 0)
		return -1;
	text[got] = '\0';
	for (i = 0; i < n; i++, at = end) {
		/* -1, which an id that was not asked for is shown as, comes out as UINT64_MAX. */
		v[i] = strtoull(at, &end, 10);
		if (end == at)
			break;
	}
	return i;
}

static int sysctl_write(struct op *op, const char *name, const uint64_t *v, int n)
{
	_cleanup_close_ int fd = -1;
	char path[64], text[128];
	int len = 0;

	for (int i = 0; i < n; i++)
		len += snprintf(text + len, sizeof(text) - (size_t)len, "%s%lu", i ? " " : "", v[i]);
	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, (size_t)len) != len)
		return op_errno(op, errno, AT(.kind = "namespace"), "set %s of the IPC namespace to %s", path, text);
	return 0;
}

bool ipc_rmid_forced(void)
{
	uint64_t v = 0;

	return sysctl_read("kernel/shm_rmid_forced", &v, 1) == 1 && v;
}

/* Fields that are one number each. */
#define FIELD(name, member, has, size) { name, offsetof(IpcVarEntry, member), has, size }
static const struct limit {
	const char *name;
	size_t field;
	size_t has; /* offset of has_...; 0: required */
	size_t size;
} limits[] = {
	FIELD("kernel/msgmax", msg_ctlmax, 0, 4),
	FIELD("kernel/msgmnb", msg_ctlmnb, 0, 4),
	FIELD("kernel/msgmni", msg_ctlmni, 0, 4),
	FIELD("kernel/shmmax", shm_ctlmax, 0, 8),
	FIELD("kernel/shmall", shm_ctlall, 0, 8),
	FIELD("kernel/shmmni", shm_ctlmni, 0, 4),
	FIELD("fs/mqueue/queues_max", mq_queues_max, 0, 4),
	FIELD("fs/mqueue/msg_max", mq_msg_max, 0, 4),
	FIELD("fs/mqueue/msgsize_max", mq_msgsize_max, 0, 4),
	FIELD("fs/mqueue/msg_default", mq_msg_default, offsetof(IpcVarEntry, has_mq_msg_default), 4),
	FIELD("fs/mqueue/msgsize_default", mq_msgsize_default, offsetof(IpcVarEntry, has_mq_msgsize_default), 4),
}, later[] = {
	/* What tasks asked for and did not use yet. The objects that are made use them up. */
	FIELD("kernel/msg_next_id", msg_next_id, offsetof(IpcVarEntry, has_msg_next_id), 4),
	FIELD("kernel/sem_next_id", sem_next_id, offsetof(IpcVarEntry, has_sem_next_id), 4),
	FIELD("kernel/shm_next_id", shm_next_id, offsetof(IpcVarEntry, has_shm_next_id), 4),
	FIELD("kernel/shm_rmid_forced", shm_rmid_forced, 0, 4),
};

static uint64_t get(const IpcVarEntry *m, const struct limit *l)
{
	const char *at = (const char *)m + l->field;

	return l->size == 8 ? *(const uint64_t *)at : *(const uint32_t *)at;
}

static bool is_set(const IpcVarEntry *m, const struct limit *l)
{
	return !l->has || *(const protobuf_c_boolean *)((const char *)m + l->has);
}

static void put(IpcVarEntry *m, const struct limit *l, uint64_t v)
{
	char *at = (char *)m + l->field;

	if (l->size == 8)
		*(uint64_t *)at = v;
	else
		*(uint32_t *)at = (uint32_t)v;
	if (l->has)
		*(protobuf_c_boolean *)((char *)m + l->has) = 1;
}

static int read_limits(struct op *op, IpcVarEntry *m, const struct limit *l, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t v;
		int got = sysctl_read(l[i].name, &v, 1);

		if (got != 1 && !l[i].has && strncmp(l[i].name, "fs/", 3)) /* a kernel without POSIX message queues has no limits of them */
			return op_errno(op, errno, AT(.kind = "namespace"), "read /proc/sys/%s", l[i].name);
		if (got == 1 && !(l[i].has && v == UINT64_MAX))
			put(m, &l[i], v);
	}
	return 0;
}

int ipc_var_read(struct op *op, struct snapshot *s)
{
	IpcVarEntry *m = msg_new(op, IpcVarEntry, ipc_var_entry);
	uint64_t sem[4];
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	m->sem_ctls = op_alloc(op, 4 * sizeof(*m->sem_ctls));
	if (!m->sem_ctls)
		return CKPT_E_NOMEM;
	if (sysctl_read("kernel/sem", sem, 4) != 4)
		return op_errno(op, errno, AT(.kind = "namespace"), "read /proc/sys/kernel/sem");
	for (; m->n_sem_ctls < 4; m->n_sem_ctls++)
		m->sem_ctls[m->n_sem_ctls] = (uint32_t)sem[m->n_sem_ctls];
	r = read_limits(op, m, limits, ARRAY_SIZE(limits));
	s->ipc->var = m;
	return r ?: read_limits(op, m, later, ARRAY_SIZE(later));
}

/* Only what differs is written: some files are not there, some may not be written by everybody. */
static int set(struct op *op, const char *name, const uint64_t *want, int n, bool only_raise)
{
	uint64_t have[4], v[4];
	bool differs = false;

	if (sysctl_read(name, have, n) != n)
		return 0;
	for (int i = 0; i < n; i++) {
		v[i] = only_raise ? MAX(want[i], have[i]) : want[i];
		differs |= v[i] != have[i];
	}
	return differs ? sysctl_write(op, name, v, n) : 0;
}

static int set_all(struct op *op, const IpcVarEntry *m, bool only_raise)
{
	uint64_t sem[4], v;
	int r;

	for (int i = 0; i < 4; i++)
		sem[i] = m->sem_ctls[i];
	r = set(op, "kernel/sem", sem, 4, only_raise);
	for (size_t i = 0; i < ARRAY_SIZE(limits) && !r; i++) {
		v = get(m, &limits[i]);
		/* The limits of POSIX queues of a kernel that had none. */
		if (is_set(m, &limits[i]) && (v || strncmp(limits[i].name, "fs/", 3)))
			r = set(op, limits[i].name, &v, 1, only_raise);
	}
	return r;
}

int ipc_var_prepare(struct op *op, struct snapshot *s)
{
	return s->ipc->var ? set_all(op, s->ipc->var, true) : 0;
}

int ipc_var_apply(struct op *op, struct snapshot *s)
{
	const IpcVarEntry *m = s->ipc->var;
	uint64_t v;
	int r = m ? set_all(op, m, false) : 0;

	for (size_t i = 0; m && i < ARRAY_SIZE(later) && !r; i++) {
		v = get(m, &later[i]);
		if (is_set(m, &later[i]))
			r = set(op, later[i].name, &v, 1, false);
	}
	return r;
}
