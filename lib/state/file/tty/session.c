/* SPDX-License-Identifier: MIT */
/*
 * Restore: what only tasks can do with a terminal. A session leader makes its terminal the controlling one, when it has its
 * session and before it has children, who inherit it. When all process groups exist it puts the right one into the
 * foreground. A descriptor of /dev/tty is opened by a task that has that terminal.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>

#include "lib/state/file/tty/tty.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/nested.h"

static const struct snap_task *first_with(const struct snapshot *s, uint32_t file_id)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t k = 0; k < s->tasks.v[i].fds.n; k++)
			if (s->tasks.v[i].fds.v[k]->id == file_id)
				return &s->tasks.v[i];
	return NULL;
}

/* Which pseudo terminal of the tree a descriptor of /dev/tty is; NULL: none, it is our caller's. */
static struct terminal *ctty_terminal(const struct snapshot *s, const struct snap_file *f, const TtyInfoEntry *info)
{
	struct tty_state *ts = s->file_state->tty;

	for (size_t i = 0; s->extra && i < s->extra->n_ctty_files; i++)
		if (s->extra->ctty_files[i]->file_id == f->id && s->extra->ctty_files[i]->index <= PTY_INDEX_MAX)
			return terminal_of_info(ts, s->extra->ctty_files[i]->index << 1);
	for (size_t i = 0; i < ts->all.n; i++)
		if (terminal_session(ts->all.v[i]) && info->sid && terminal_session(ts->all.v[i])->sid == info->sid)
			return ts->all.v[i];
	return NULL;
}

int ctty_open(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info)
{
	struct terminal *t = ctty_terminal(s, f, info);
	const struct snap_task *task = first_with(s, f->id);
	int r = 0;

	if (!t)
		return open_own(op, s, f, info);
	r = ptys_make(op, s);
	if (!r && !terminal_session(t))
		return image_bad(op, "ckpt-extra: terminal %u is no pseudo terminal of the tree", t->index);
	/* A task that is not in the session (any more) has it from one that was: it gets the same thing, under its other name. */
	if (!r && !(task && task->ps->sid == terminal_session(t)->sid))
		r = pty_open_slave(op, s, t, f);
	return r;
}

static const char *say(struct plan_build *b, uint32_t fd, const char *what)
{
	return arena_printf(b->op->arena, "fd %u: %s", fd, what);
}

/* A descriptor of /dev/tty that was left to the task. */
int tty_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first)
{
	static const char name[] = "/dev/tty";
	struct plan_call call = { .nr = SYS_openat, .flags = PLAN_CALL_FD, .data_args = 1 << 1, .fd = (int32_t)e->fd };
	int r;

	if (f->fd >= 0 || !first)
		return 0;
	call.args[0] = (uint64_t)AT_FDCWD;
	call.args[2] = f->msg->tty->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND | O_SYNC);
	if (e->flags & FD_CLOEXEC)
		call.flags |= PLAN_CALL_CLOEXEC;
	r = plan_put(b, name, sizeof(name), &call.args[1]);
	r = r ? r : plan_call(b, PLAN_OPEN, &call, say(b, e->fd, "open /dev/tty"));
	if (r < 0 || !(f->msg->tty->flags & O_ASYNC))
		return r < 0 ? r : 0;
	call = (struct plan_call){ .nr = SYS_fcntl, .args = { e->fd, F_SETFL, call.args[2] | O_ASYNC } };
	r = plan_call(b, PLAN_OPEN, &call, say(b, e->fd, "set the flags of /dev/tty"));
	return r < 0 ? r : 0;
}

/* The task gets our descriptor @fd for a moment, and makes ioctl @request on it. */
static int plan_ioctl(struct plan_build *b, enum plan_phase phase, int fd, unsigned long request, const void *data, size_t n,
		      uint32_t flags, const char *what)
{
	struct plan_call get = { .nr = SYS_pidfd_getfd, .engine_args = 1 << 0, .args = { 0, (uint64_t)fd, 0 } };
	struct plan_call call = { .nr = SYS_ioctl, .flags = flags, .result_args = 1 << 0, .args = { 0, request, 0 } };
	struct plan_call put = { .nr = SYS_close, .result_args = 1 << 0 };
	int r = plan_call(b, phase, &get, what);

	if (r < 0)
		return r;
	call.args[0] = put.args[0] = (uint64_t)r;
	r = 0;
	if (n) {
		call.data_args = 1 << 2;
		r = plan_put(b, data, n, &call.args[2]);
	}
	r = r ? r : plan_call(b, phase, &call, what);
	r = r < 0 ? r : plan_call(b, phase, &put, what);
	return r < 0 ? r : 0;
}

static bool has_group(const struct snapshot *s, uint32_t pgrp)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].ps->pgid == pgrp)
			return true;
	return false;
}

static int plan_leader(struct plan_build *b, const TtyInfoEntry *info, int fd, uint32_t flags)
{
	const char *what = arena_printf(b->op->arena, "make terminal %u the controlling one", info->id >> 1);
	int32_t pgrp = (int32_t)nested_seen(b->s, b->task, (pid_t)info->pgrp);
	int r = plan_ioctl(b, PLAN_SESSION, fd, TIOCSCTTY, NULL, 0, flags, what);

	if (r || !pgrp || !has_group(b->s, info->pgrp) || info->pgrp == info->sid)
		return r;
	what = arena_printf(b->op->arena, "put process group %d into the foreground of terminal %u", pgrp, info->id >> 1);
	return plan_ioctl(b, PLAN_LINK, fd, TIOCSPGRP, &pgrp, sizeof(pgrp), flags, what);
}

/* One given with --inherit-fd: it may be somebody else's already, then there is only a warning. */
static int given_fd(const struct snapshot *s, const TtyInfoEntry *info)
{
	for (size_t i = 0; i < s->files.n; i++)
		if (s->files.v[i]->msg->type == FD_TYPES__TTY && s->files.v[i]->msg->tty->tty_info_id == info->id)
			return s->files.v[i]->fd;
	return -1;
}

/* A job of a shell whose new terminal has another size is told so, as it would have been if that had changed under it. */
static int plan_resized(struct plan_build *b, const struct tty_state *ts)
{
	const struct plan_call call = { .nr = SYS_kill, .flags = PLAN_CALL_MAY_FAIL, .args = { (uint64_t)nested_seen(b->s, b->task, b->task->pid), SIGWINCH } };
	int r = 0;

	for (size_t i = 0; ts->own_resized && i < b->task->fds.n; i++) {
		const struct snap_file *f = snapshot_file(b->s, b->task->fds.v[i]->id);

		if (f->kind != &file_tty || f->priv != ts)
			continue;
		r = plan_call(b, PLAN_LAST, &call, "signal the size of the new terminal");
		break;
	}
	return r < 0 ? r : 0;
}

static bool is_of_session(const struct terminal *t, uint32_t sid)
{
	const TtyInfoEntry *info = terminal_session(t);

	return info && info->sid == sid && t->slave_fd >= 0;
}

/* When it has its children, who may have the terminal that it gives up. */
static int plan_without(struct plan_build *b, const struct tty_state *ts)
{
	const CkptExtraEntry *x = b->s->extra;
	bool listed = false;

	for (size_t i = 0; x && i < x->n_no_ctty; i++)
		listed |= x->no_ctty[i] == (uint32_t)b->task->pid;
	for (size_t i = 0; listed && i < ts->all.n; i++)
		if (is_of_session(ts->all.v[i], b->task->ps->sid))
			return plan_ioctl(b, PLAN_LINK, ts->all.v[i]->slave_fd, TIOCNOTTY, NULL, 0, 0, "give the terminal up");
	return 0;
}

int plan_terminal(struct plan_build *b)
{
	const struct tty_state *ts = b->s->file_state ? b->s->file_state->tty : NULL;
	uint32_t sid = b->task->ps->sid;
	int r = ts ? plan_resized(b, ts) : 0;

	if (r || !ts || sid != b->task->ps->pid)
		return r || !ts ? r : plan_without(b, ts);
	for (size_t i = 0; i < ts->all.n; i++)
		if (is_of_session(ts->all.v[i], sid))
			return plan_leader(b, terminal_session(ts->all.v[i]), ts->all.v[i]->slave_fd, 0);
	for (size_t i = 0; i < b->s->ttys.n; i++) {
		const TtyInfoEntry *info = b->s->ttys.v[i];
		int fd = info->type == TTY_TYPE__EXT_TTY && info->sid == sid ? given_fd(b->s, info) : -1;

		if (fd >= 0)
			return plan_leader(b, info, fd, PLAN_CALL_MAY_FAIL);
	}
	return 0;
}
