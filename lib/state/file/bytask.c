/* SPDX-License-Identifier: MIT */
/*
 * Restore: descriptors that a task opens itself, by a name under /proc/PID, because what is opened belongs to a process
 * that has to exist first. All processes do when tables are filled, and the other holders of the description get it from
 * the task that opens it. But threads of other processes may not exist yet: what belongs to them is opened when all tasks
 * have come so far, and until then something else keeps the number.
 */
#include <asm/unistd.h>

#include "lib/state/file/core.h"
#include "lib/state/task/plan_build.h"

struct bytask {
	pid_t pid;	   /* whose it is, one of the tree */
	const struct fs_view *view;
	const char *path;  /* in that view */
	const char *kind;
	uint32_t flags;
	uint64_t pos;
	bool late;	   /* it is there only when all tasks have filled their tables */
	pid_t opener;	   /* the last task that was planned to open it, and the number it has there */
	uint32_t opener_fd;
};

int bytask_open(struct op *op, struct snapshot *s, struct snap_file *f, const struct bytask_what *what)
{
	struct bytask *t = op_new(op, struct bytask);

	if (!t)
		return CKPT_E_NOMEM;
	*t = (struct bytask){ .pid = what->pid, .view = what->view, .path = what->path, .kind = what->kind, .pos = what->pos };
	t->flags = reg_open_flags(what->flags);
	t->late = what->thread && snapshot_first_holder(s, f->id) != t->pid;
	if (t->late) {
		f->fd = file_high(open("/dev/null", O_RDONLY | O_CLOEXEC));
		if (f->fd < 0)
			return op_errno(op, errno, AT(.kind = what->kind), "cannot open /dev/null");
	}
	return index_add(op, &s->file_state->bytask, KEY(f->id), t);
}

const char *file_path_in_task(const struct plan_build *b, const char *path)
{
	const struct snap_file *root = b->task->fs ? snapshot_file(b->s, b->task->fs->root_id) : NULL;
	const char *dir = root && root->msg->reg ? root->msg->reg->name : "/";
	size_t n = strlen(dir);

	if (strcmp(dir, "/") == 0)
		return path;
	return strncmp(path, dir, n) == 0 && path[n] == '/' ? path + n : NULL;
}

static int out_of_root(struct plan_build *b, const struct bytask *t, const FdinfoEntry *e)
{
	return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, AT_FD((int)e->fd), .kind = t->kind),
		       "%s lies outside of the root directory of task %d: it cannot be opened again there", t->path,
		       b->task->pid);
}

static uint32_t call_flags(const FdinfoEntry *e)
{
	return PLAN_CALL_FD | (e->flags & FD_CLOEXEC ? PLAN_CALL_CLOEXEC : 0);
}

/* The root directory of all, as a descriptor that is not in the way of the program's: the number of the call that gives it. */
static int plan_our_root(struct plan_build *b, const struct fs_view *view, enum plan_phase phase, const char *what)
{
	const struct snap_task *t = b->task;
	uint64_t above = t->fds.v[t->fds.n - 1]->fd + 1;
	int *held = ARRAY_ADD(b->op->arena, &b->s->file_state->held), low, high, r;

	if (!held)
		return op_nomem(b->op);
	*held = file_high(view_open(view, "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
	if (*held < 0)
		return op_errno(b->op, errno, NULL, "cannot open /");
	low = plan_call(b, phase,
			&(const struct plan_call){ .nr = __NR_pidfd_getfd, .fd = -1, .engine_args = 1, .args = { 0, (uint64_t)*held } },
			what);
	if (low < 0)
		return low;
	high = plan_call(b, phase,
			 &(const struct plan_call){ .nr = __NR_fcntl, .fd = -1, .result_args = 1,
						    .args = { (uint64_t)low, F_DUPFD_CLOEXEC, above } }, what);
	if (high < 0)
		return high;
	r = plan_call(b, phase, &(const struct plan_call){ .nr = __NR_close, .fd = -1, .result_args = 1, .args = { (uint64_t)low } },
		      what);
	return r < 0 ? r : high;
}

/* By its name in the task's root directory; by ours, where that does not reach it. */
static int plan_openat(struct plan_build *b, const struct bytask *t, const FdinfoEntry *e, enum plan_phase phase, const char *what)
{
	const char *path = file_path_in_task(b, t->path);
	struct plan_call c = {
		.nr = __NR_openat, .flags = call_flags(e), .data_args = 1 << 1, .fd = (int32_t)e->fd,
		.args = { (uint64_t)AT_FDCWD, 0, t->flags | O_CLOEXEC | O_NOCTTY },
	};
	int root = -1, r;

	if (!path && b->op->opts->new_pidns)
		return out_of_root(b, t, e);
	if (!path) {
		path = t->path + 1;
		root = plan_our_root(b, t->view, phase, what);
		if (root < 0)
			return root;
		c.args[0] = (uint64_t)root;
		c.result_args = 1;
	}
	r = plan_put(b, path, strlen(path) + 1, &c.args[1]);
	r = r ? r : plan_call(b, phase, &c, what);
	if (r < 0 || root < 0)
		return r;
	return plan_call(b, phase, &(const struct plan_call){ .nr = __NR_close, .fd = -1, .result_args = 1, .args = { (uint64_t)root } },
			 what);
}

static int plan_open(struct plan_build *b, const struct bytask *t, const FdinfoEntry *e, enum plan_phase phase)
{
	const char *what = arena_printf(b->op->arena, "fd %u: %s: open %s", e->fd, t->kind, t->path);
	int r = what ? plan_openat(b, t, e, phase, what) : op_nomem(b->op);

	if (r < 0 || !t->pos || t->pos == POS_NONE || (t->flags & O_PATH))
		return r;
	what = arena_printf(b->op->arena, "fd %u: %s: seek in %s", e->fd, t->kind, t->path);
	if (!what)
		return op_nomem(b->op);
	return plan_call(b, phase,
			 &(const struct plan_call){ .nr = __NR_lseek, .fd = -1, .args = { e->fd, t->pos, SEEK_SET } }, what);
}

static int plan_copy(struct plan_build *b, const struct bytask *t, const FdinfoEntry *e)
{
	const char *what = arena_printf(b->op->arena, "fd %u: %s: copy descriptor %u", e->fd, t->kind, t->opener_fd);
	struct plan_call c = { .nr = __NR_fcntl, .flags = call_flags(e), .fd = (int32_t)e->fd,
			       .args = { t->opener_fd, F_DUPFD_CLOEXEC, 0 } };

	return what ? plan_call(b, PLAN_LINK, &c, what) : op_nomem(b->op);
}

static int plan_late(struct plan_build *b, struct bytask *t, const FdinfoEntry *e)
{
	int r;

	if (t->opener == b->task->pid)
		return plan_copy(b, t, e);
	if (t->opener)
		log_warn(b->op, "task %d: fd %u: %s: it does not share its position with task %d any more", b->task->pid,
			 e->fd, t->path, t->opener);
	r = plan_open(b, t, e, PLAN_LINK);
	t->opener = b->task->pid;
	t->opener_fd = e->fd;
	return r;
}

int bytask_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first)
{
	struct bytask *t = index_find(&b->s->file_state->bytask, KEY(f->id));
	int r = 0;

	if (!t)
		return 0;
	if (t->late)
		r = plan_late(b, t, e);
	else if (first)
		r = plan_open(b, t, e, PLAN_OPEN);
	return r < 0 ? r : 0;
}
