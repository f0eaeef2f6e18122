/* SPDX-License-Identifier: MIT */
/*
 * Descriptors: from the snapshot to the plan. An open file description is usually open in the engine already, under some
 * number, from which the new task takes a copy (pidfd_getfd). What only a task can open is opened by the first that has it.
 */
#include <fcntl.h>

#include "lib/engine/restore_parts.h"
#include "lib/state/file/file.h"
#include "lib/state/mount/mount.h"
#include "lib/state/ns/nested.h"

#define LOCK_POSIX_FLAG 1

static int bad_fd(struct plan_build *b, uint32_t fd, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, AT_FD((int)fd), .kind = "fdinfo"),
		       "fd %u of task %d: %s", fd, b->task->pid, what);
}

static int by_fd(const void *a, const void *b)
{
	const FdinfoEntry *x = *(FdinfoEntry *const *)a, *y = *(FdinfoEntry *const *)b;

	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static struct snap_file *file_of(struct plan_build *b, const FdinfoEntry *e)
{
	return snapshot_file(b->s, e->id);
}

static int check_fds(struct plan_build *b)
{
	struct snap_task *t = b->task;

	if (t->fds.n)
		qsort(t->fds.v, t->fds.n, sizeof(*t->fds.v), by_fd);
	for (size_t i = 0; i < t->fds.n; i++) {
		const FdinfoEntry *e = t->fds.v[i];
		const struct snap_file *f = file_of(b, e);

		if (e->fd >= PLAN_MAX_FD || (i && t->fds.v[i - 1]->fd == e->fd))
			return bad_fd(b, e->fd, "the number is out of range, or is there twice");
		if (!f || (f->fd < 0 && !f->kind->plan))
			return bad_fd(b, e->fd, "what it refers to is not in the image");
	}
	return 0;
}

/* Where the task gets this descriptor from. */
static int plan_fd(struct plan_build *b, const FdinfoEntry *e, struct plan_fdop *op)
{
	struct snap_file *f = file_of(b, e);
	bool first = !f->task;
	int r = 0;

	if (first) {
		f->task = b->task->pid;
		f->task_fd = (int)e->fd;
	}
	*op = (struct plan_fdop){ f->fd, (int32_t)e->fd, e->flags & FD_CLOEXEC, PLAN_FD_ENGINE };
	if (f->fd < 0 && f->task == b->task->pid) {
		op->from = f->task_fd;
		op->source = PLAN_FD_OWN;
	} else if (f->fd < 0) {
		op->source = PLAN_FD_LATE;
	}
	if (f->kind && f->kind->plan)
		r = f->kind->plan(b, f, e, first);
	return op_wrap(b->op, r, "task %d: fd %u", b->task->pid, e->fd);
}

static int plan_descriptors(struct plan_build *b)
{
	struct snap_task *t = b->task;
	struct plan_fdop *ops = op_alloc(b->op, (t->fds.n + 1) * sizeof(*ops));
	struct plan_array arr;
	int r = check_fds(b);

	if (!ops)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->fds.n && !r; i++)
		r = plan_fd(b, t->fds.v[i], &ops[i]);
	r = r ?: plan_put_array(b, ops, t->fds.n, sizeof(*ops), &arr);
	if (r)
		return r;
	PLAN(b)->fdops = arr;
	PLAN(b)->highest = t->fds.n ? (int32_t)t->fds.v[t->fds.n - 1]->fd : -1;
	PLAN(b)->highest = MAX(PLAN(b)->highest, (int32_t)b->numbers - 1);
	return 0;
}

static int plan_owners(struct plan_build *b)
{
	const struct snap_task *t = b->task;
	struct plan_fown *v = op_alloc(b->op, (t->fds.n + 1) * sizeof(*v));
	struct plan_array arr;
	size_t n = 0;
	int r;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->fds.n; i++) {
		const struct snap_file *f = file_of(b, t->fds.v[i]);
		const FownEntry *o = files_fown(b->s, f);

		/* Once, by the first task that has it, on the first of its descriptors. */
		if (!o || f->task != t->pid || f->task_fd != (int)t->fds.v[i]->fd)
			continue;
		if (o->signum > 64 || o->pid_type > 2)
			return bad_fd(b, t->fds.v[i]->fd, "its owner makes no sense");
		v[n++] = (struct plan_fown){ (int32_t)t->fds.v[i]->fd, o->uid, o->euid, o->signum, o->pid_type,
					    (int32_t)nested_seen(b->s, t, (pid_t)o->pid) };
	}
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->fowns = arr;
	return r;
}

/* POSIX locks belong to the task; the others were taken when the descriptions were opened. */
static int plan_locks(struct plan_build *b)
{
	const struct snapshot *s = b->s;
	struct plan_lock *v = op_alloc(b->op, (s->locks.n + 1) * sizeof(*v));
	struct plan_array arr;
	size_t n = 0;
	int r;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->locks.n; i++) {
		const FileLockEntry *e = s->locks.v[i];

		if (e->flag == LOCK_POSIX_FLAG && e->pid == b->task->pid)
			v[n++] = (struct plan_lock){ .fd = e->fd, .type = (int32_t)e->type, .start = e->start, .len = e->len };
	}
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->locks = arr;
	return r;
}

/* A folder of the task, fetched from us; or opened by its name, where the task has other mounts than we have. */
static int plan_folder(struct plan_build *b, uint32_t id, const char *what, int32_t *file)
{
	char link[32], path[4096];
	ssize_t n;
	int fd, r = files_open_special(b->op, b->s, id, what, &fd);

	r = r ?: plan_fetch(b, fd, false, file);
	if (r || !b->op->opts->new_pidns)
		return r;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return op_errno(b->op, errno, AT(.pid = b->task->pid), "find the name of the %s of task %d", what, b->task->pid);
	path[n] = '\0';
	return plan_put(b, path, (size_t)n + 1, &b->fetches.v[*file].path);
}

static int plan_folders(struct plan_build *b)
{
	const FsEntry *fs = b->task->fs;
	const struct snap_ns *mounts = b->s->ns ? ns_of(b->s, b->task, NS_MNT) : NULL;
	const struct snap_file *root = snapshot_file(b->s, fs->root_id);
	/* Our own root is not theirs, either, where they have mounts of their own. */
	bool chrooted = mounts_own(b->s) || !root || !root->msg->reg || strcmp(root->msg->reg->name, "/");
	int32_t file;
	int r;

	PLAN(b)->umask = fs->has_umask ? fs->umask & 0777 : 022;
	PLAN(b)->root_file = PLAN(b)->mnt_ns_file = -1;
	if (mounts && mounts != ns_of(b->s, &b->s->tasks.v[0], NS_MNT)) {
		r = plan_fetch(b, mounts->fd, false, &file);
		if (r)
			return r;
		PLAN(b)->mnt_ns_file = file;
	}
	r = plan_folder(b, fs->cwd_id, "cwd", &file);
	if (r)
		return r;
	PLAN(b)->cwd_file = file;
	if (!chrooted)
		return 0;
	r = plan_folder(b, fs->root_id, "root", &file);
	if (!r)
		PLAN(b)->root_file = file;
	return r;
}

int plan_files(struct plan_build *b)
{
	int r = plan_folders(b);

	if (r || b->shares_files)
		return r;
	r = plan_locks(b);
	r = r ?: plan_descriptors(b);
	r = r ?: plan_owners(b);
	r = r ?: locks_plan(b);
	return r ?: plan_terminal(b);
}
