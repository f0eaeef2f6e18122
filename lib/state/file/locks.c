/* SPDX-License-Identifier: MIT */
/*
 * File locks and leases. The kernel shows them in the fdinfo of the descriptors they were taken through. flock and OFD locks
 * belong to the open file description and are taken again here, on the restored one; POSIX locks belong to the task, and the
 * restorer takes them. A lease is of the description, but its owner is told by a signal when somebody opens the file: the
 * task takes it, when everything that may be in the way of it is there. One that is being broken is broken again.
 */
#include <asm/unistd.h>
#include <sys/file.h>
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"
#include "lib/state/pids.h"
#include "lib/state/task/plan_build.h"

#define LOCK_POSIX 1u
#define LOCK_FLOCK 2u
#define LOCK_OFD 4u
#define LOCK_LEASE 8u
#define LOCK_BREAKING 4u /* with LOCK_LEASE: type is what it is to become */

static int check_one(struct op *op, const struct fd_view *v, const struct proc_lock *lock)
{
	if (lock->kind == PROC_LOCK_DELEG)
		return file_refuse(op, v, "file delegation", NULL, "%s: delegations are not supported", v->link);
	/* To save its content it would have to be opened, which breaks such a lease. */
	if (lock->kind == PROC_LOCK_LEASE && lock->write && v->st.st_nlink == 0)
		return file_refuse(op, v, "file lease", NULL, "%s: a write lease on a deleted file is not supported", v->link);
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
	case PROC_LOCK_LEASE:
		return LOCK_LEASE | (strcmp(lock->lease_type, "BREAKING") == 0 ? LOCK_BREAKING : 0);
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

		if (m->flag == LOCK_POSIX && m->pid == pids_inside(v->pids, v->pid) && m->start == (int64_t)lock->start &&
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
	m->pid = pids_inside(v->pids, v->pid);
	m->fd = v->fd;
	if (m->flag == (LOCK_LEASE | LOCK_BREAKING)) {
		int type = fcntl(v->copy, F_GETLEASE);

		if (type < 0)
			return file_errno(op, v, "ask for its lease");
		m->type = (uint32_t)type;
	}
	if (lock->kind == PROC_LOCK_POSIX || lock->kind == PROC_LOCK_OFD) {
		m->start = (int64_t)lock->start;
		m->len = (int64_t)length_of(lock);
	}
	*slot = m;
	return 0;
}

static int refuse_mapped(struct op *op, const struct fd_view *v)
{
	return file_refuse(op, v, "file lease", "the program must give up the lease before the checkpoint",
			   "%s: a write lease on a file that is mapped is not supported", v->link);
}

int locks_dump(struct op *op, struct snapshot *s, const struct fd_view *v, bool seen_before)
{
	int r = locks_check(op, v);

	for (size_t i = 0; !r && i < v->info.locks.n; i++) {
		const struct proc_lock *lock = &v->info.locks.v[i];

		if (lock->blocked)
			continue;
		if (lock->kind == PROC_LOCK_LEASE && lock->write && index_find(&s->file_state->mapped, KEY(v->st.st_dev, v->st.st_ino)))
			return refuse_mapped(op, v);
		/* Locks of the description were recorded with its first descriptor. */
		if (seen_before && (lock->kind != PROC_LOCK_POSIX || known_posix(s, v, lock)))
			continue;
		r = add(op, s, v, lock);
	}
	return r;
}

/* A line of /proc/locks looks as in fdinfo. */
static int add_lease(struct op *op, struct file_state *fs, const char *line, size_t n)
{
	const char *text = arena_printf(op->arena, "pos:\t0\nflags:\t0\nlock:\t%.*s\n", (int)n, line);
	struct proc_fdinfo info;
	struct proc_lock *slot;

	if (!text)
		return op_nomem(op);
	if (proc_parse_fdinfo(op->arena, text, strlen(text), &info) < 0 || !info.locks.n || info.locks.v[0].kind != PROC_LOCK_LEASE)
		return 0;
	slot = ARRAY_ADD(op->arena, &fs->leases);
	if (!slot)
		return op_nomem(op);
	*slot = info.locks.v[0];
	return 0;
}

static int read_leases(struct op *op, struct file_state *fs)
{
	size_t len;
	char *text;
	int r = proc_read_file(op, getpid(), "../locks", &text, &len);

	for (char *p = text, *end; !r && *p; p = *end ? end + 1 : end) {
		end = strchrnul(p, '\n');
		if (memmem(p, (size_t)(end - p), " LEASE ", 7))
			r = add_lease(op, fs, p, (size_t)(end - p));
	}
	fs->leases_read = !r;
	return r;
}

/* Mapped files are opened, for their build-id and for their content: that breaks a lease of a writer. */
int locks_check_mapped(struct op *op, struct snapshot *s, const struct fd_view *v)
{
	struct file_state *fs = s->file_state;
	int r = fs->leases_read ? 0 : read_leases(op, fs);

	for (size_t i = 0; !r && i < fs->leases.n; i++) {
		const struct proc_lock *l = &fs->leases.v[i];

		if (l->inode == v->st.st_ino && makedev(l->dev_major, l->dev_minor) == v->st.st_dev && l->write)
			r = refuse_mapped(op, v);
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

static bool is_lease(const FileLockEntry *m)
{
	return m->flag & LOCK_LEASE && (m->flag & ~(LOCK_LEASE | LOCK_BREAKING)) == 0;
}

static int apply(struct op *op, const struct snapshot *s, const FileLockEntry *m)
{
	const struct snap_file *f = file_of(s, m);
	bool may_end = is_lease(m) && m->flag & LOCK_BREAKING && m->type == F_UNLCK;

	if (!f)
		return image_bad(op, "filelocks.img: task %d has no descriptor %d", m->pid, m->fd);
	if (m->type != F_RDLCK && m->type != F_WRLCK && !may_end)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lock"),
			       "task %d: fd %d: a lock of type %u is not supported", m->pid, m->fd, m->type);
	if (is_lease(m))
		return f->msg->reg ? 0 : image_bad(op, "filelocks.img: a lease on descriptor %d, which is no file", m->fd);
	switch (m->flag) {
	case LOCK_POSIX:
		return 0;
	case LOCK_FLOCK:
		return take_flock(op, m, f->fd);
	case LOCK_OFD:
		return take_ofd(op, m, f->fd);
	default:
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lock"),
			       "task %d: fd %d: a lock of kind %u is not supported", m->pid, m->fd, m->flag);
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

static int plan_one(struct plan_build *b, const FileLockEntry *m, const struct plan_call *c, const char *what)
{
	const char *text = arena_printf(b->op->arena, "fd %d: file lease: %s", m->fd, what);

	return text ? plan_call(b, PLAN_LINK, c, text) : op_nomem(b->op);
}

/* As somebody did before the dump: the open fails, since the lease is in the way, and its owner has to give it up. */
static int plan_break(struct plan_build *b, const FileLockEntry *m, const RegFileEntry *reg)
{
	const char *path = file_path_in_task(b, reg->name);
	struct plan_call c = {
		.nr = __NR_openat, .flags = PLAN_CALL_EXPECT, .expect = -EAGAIN, .fd = -1, .data_args = 1 << 1,
		.args = { (uint64_t)AT_FDCWD, 0, (m->type == F_RDLCK ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_CLOEXEC },
	};
	int r;

	if (!path)
		return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = m->pid, AT_FD(m->fd), .kind = "file lease"),
			       "task %d: fd %d: %s lies outside of its root directory: its lease cannot be broken again", m->pid,
			       m->fd, reg->name);
	r = plan_put(b, path, strlen(path) + 1, &c.args[1]);
	return r ? r : plan_one(b, m, &c, "break it again");
}

/* What was broken was for writing, but for one that only readers could have. */
static uint64_t type_before(const FileLockEntry *m, const RegFileEntry *reg)
{
	if (!(m->flag & LOCK_BREAKING))
		return m->type;
	return m->type == F_UNLCK && (reg->flags & O_ACCMODE) == O_RDONLY ? F_RDLCK : F_WRLCK;
}

static int lease_plan(struct plan_build *b, const FileLockEntry *m)
{
	const RegFileEntry *reg = file_of(b->s, m)->msg->reg;
	uint64_t fd = (uint64_t)m->fd;
	int r = plan_one(b, m, &(const struct plan_call){ .nr = __NR_fcntl, .fd = -1, .args = { fd, F_SETLEASE, type_before(m, reg) } },
			 "take it again");

	/* Who takes it is its owner, where there is none: that comes later, and nobody is to be told of what happens here. */
	r = r < 0 ? r : plan_one(b, m, &(const struct plan_call){ .nr = __NR_fcntl, .fd = -1, .args = { fd, F_SETOWN, 0 } }, "forget its owner");
	if (r >= 0 && m->flag & LOCK_BREAKING)
		r = plan_break(b, m, reg);
	return r < 0 ? r : 0;
}

int locks_plan(struct plan_build *b)
{
	int r = 0;

	for (size_t i = 0; !r && i < b->s->locks.n; i++)
		if (is_lease(b->s->locks.v[i]) && b->s->locks.v[i]->pid == b->task->pid)
			r = lease_plan(b, b->s->locks.v[i]);
	return r;
}
