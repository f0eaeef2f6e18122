/* SPDX-License-Identifier: MIT */
/*
 * File locks. The kernel shows them in the fdinfo of the descriptors they were taken through. flock and OFD locks belong to
 * the open file description and are taken again here, on the restored one; POSIX locks belong to the task, and the
 * restorer takes them.
 */
#include <sys/file.h>

#include "lib/state/file/core.h"

#define LOCK_POSIX 1u
#define LOCK_FLOCK 2u
#define LOCK_OFD 4u

static int check_one(struct op *op, const struct fd_view *v, const struct proc_lock *lock)
{
	if (lock->kind == PROC_LOCK_LEASE || lock->kind == PROC_LOCK_DELEG)
		return file_refuse(op, v, "file lease", NULL, "%s: leases are not supported yet", v->link);
	if (lock->mandatory)
		return file_refuse(op, v, "file lock", NULL, "%s: mandatory locks are not supported", v->link);
	if (!op->opts->file_locks)
		return file_refuse(op, v, "file lock", "save and take locks again with --file-locks (at restore too)",
				   "%s is locked", v->link);
	return 0;
}

int locks_check(struct op *op, const struct fd_view *v)
{
	for (size_t i = 0; i < v->info.locks.n; i++) {
		int r = check_one(op, v, &v->info.locks.v[i]);

		if (r)
			return r;
	}
	return 0;
}

static uint32_t flag_of(const struct proc_lock *lock)
{
	switch (lock->kind) {
	case PROC_LOCK_FLOCK:
		return LOCK_FLOCK;
	case PROC_LOCK_OFD:
		return LOCK_OFD;
	default:
		return LOCK_POSIX;
	}
}

static uint64_t length_of(const struct proc_lock *lock)
{
	return lock->end >= INT64_MAX ? 0 : lock->end - lock->start + 1;
}

/* A POSIX lock shows in every descriptor of the task that shares the description. */
static bool known_posix(const struct snapshot *s, const struct fd_view *v, const struct proc_lock *lock)
{
	for (size_t i = 0; i < s->locks.n; i++) {
		const FileLockEntry *m = s->locks.v[i];

		if (m->flag == LOCK_POSIX && m->pid == v->pid && m->start == (int64_t)lock->start &&
		    m->len == (int64_t)length_of(lock) && m->type == (lock->write ? F_WRLCK : F_RDLCK))
			return true;
	}
	return false;
}

static int add(struct op *op, struct snapshot *s, const struct fd_view *v, const struct proc_lock *lock)
{
	FileLockEntry *m = op_new(op, FileLockEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &s->locks) : NULL;
	if (!slot)
		return op_nomem(op);
	file_lock_entry__init(m);
	m->flag = flag_of(lock);
	m->type = lock->write ? F_WRLCK : F_RDLCK;
	m->pid = v->pid;
	m->fd = v->fd;
	if (lock->kind != PROC_LOCK_FLOCK) {
		m->start = (int64_t)lock->start;
		m->len = (int64_t)length_of(lock);
	}
	*slot = m;
	return 0;
}

int locks_dump(struct op *op, struct snapshot *s, const struct fd_view *v, bool seen_before)
{
	int r = locks_check(op, v);

	for (size_t i = 0; !r && i < v->info.locks.n; i++) {
		const struct proc_lock *lock = &v->info.locks.v[i];

		if (lock->blocked)
			continue;
		/* Locks of the description were recorded with its first descriptor. */
		if (seen_before && (lock->kind != PROC_LOCK_POSIX || known_posix(s, v, lock)))
			continue;
		r = add(op, s, v, lock);
	}
	return r;
}

/* ------------------------------------------------------------------------------------------- restore half */

static const struct snap_file *file_of(const struct snapshot *s, const FileLockEntry *m)
{
	for (size_t i = 0; i < s->tasks.n; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		if (t->pid != m->pid)
			continue;
		for (size_t j = 0; j < t->fds.n; j++)
			if (t->fds.v[j]->fd == (uint32_t)m->fd)
				return snapshot_file(s, t->fds.v[j]->id);
	}
	return NULL;
}

static int lock_fail(struct op *op, const FileLockEntry *m)
{
	bool held = errno == EWOULDBLOCK || errno == EACCES;

	return op_errno(op, errno,
			AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lock",
			   .hint = held ? "another process holds a lock on this file now" : NULL),
			"task %d: fd %d: cannot take its lock again", m->pid, m->fd);
}

static int take_flock(struct op *op, const FileLockEntry *m, int fd)
{
	return flock(fd, (m->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB) < 0 ? lock_fail(op, m) : 0;
}

static int take_ofd(struct op *op, const FileLockEntry *m, int fd)
{
	struct flock fl = {
		.l_type = (short)m->type, .l_whence = SEEK_SET, .l_start = (off_t)m->start, .l_len = (off_t)m->len,
	};

	return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? lock_fail(op, m) : 0;
}

static int apply(struct op *op, const struct snapshot *s, const FileLockEntry *m)
{
	const struct snap_file *f = file_of(s, m);

	if (!f)
		return image_bad(op, "filelocks.img: task %d has no descriptor %d", m->pid, m->fd);
	if (m->type != F_RDLCK && m->type != F_WRLCK)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lock"),
			       "task %d: fd %d: a lock of type %u is not supported", m->pid, m->fd, m->type);
	switch (m->flag) {
	case LOCK_POSIX:
		return 0;
	case LOCK_FLOCK:
		return take_flock(op, m, f->fd);
	case LOCK_OFD:
		return take_ofd(op, m, f->fd);
	default:
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lease"),
			       "task %d: fd %d: leases are not supported yet", m->pid, m->fd);
	}
}

int locks_apply(struct op *op, struct snapshot *s)
{
	int r = 0;

	if (s->locks.n && !op->opts->file_locks)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "file lock", .hint = "take them again with --file-locks"),
			       "the checkpoint has file locks");
	for (size_t i = 0; !r && i < s->locks.n; i++)
		r = apply(op, s, s->locks.v[i]);
	return r;
}
