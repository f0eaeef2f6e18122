/* SPDX-License-Identifier: MIT */
/*
 * The tree as it comes into being, phase by phase: between two of them every process stands still at a barrier. They work
 * side by side; we look after them one after the other, parents first, which nobody has to wait for but those who wait
 * for a child to end.
 */
#include <sys/ptrace.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/sys.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/ns/nested.h"

#define EACH_TASK(r, ret, t) for (struct new_task *t = (r)->tasks; t < (r)->tasks + (r)->n_tasks && !ret; t++)

static bool is_task(const struct new_task *t)
{
	return t->node->kind == TREE_TASK;
}

/* Lets everybody go on from the barrier. */
static int resume_all(struct op *op, struct restore *r)
{
	int ret = 0;

	EACH_TASK(r, ret, t) {
		if (t->ended)
			continue;
		t->threads[0].ready = false;
		ret = restore_resume(op, t, t->pid, PTRACE_CONT, 0);
	}
	return ret;
}

/* Who ends comes first: parents wait for it. */
static int follow_all(struct op *op, struct restore *r)
{
	int ret = 0;

	EACH_TASK(r, ret, t)
		if (!is_task(t) && !t->ended && t->pid)
			ret = restore_follow(op, t);
	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = restore_follow(op, t);
	return ret;
}

/* The first phase: processes appear while others are followed, so that creators come first. */
static int follow_births(struct op *op, struct restore *r)
{
	int ret = 0;

	EACH_TASK(r, ret, t) {
		if (t->ended)
			continue;
		if (!t->pid)
			return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->node->pid), "task %d was not forked", t->node->pid);
		ret = restore_follow(op, t);
	}
	return ret;
}

/* Descriptors that only a task could open, and that others have, too: we take them from it and hand them on. */
static int hand_on(struct op *op, struct restore *r, struct new_task *t)
{
	struct plan_array arr = PLAN(&t->build)->fdops;
	struct plan_fdop *v = PLAN_AT(t->plan, struct plan_fdop, arr);

	for (uint64_t i = 0; i < arr.n; i++) {
		struct snap_file *f;
		_cleanup_close_ int pidfd = -1;

		if (PLAN_AT(PLAN(&t->build), struct plan_fdop, arr)[i].source != PLAN_FD_LATE)
			continue;
		f = snapshot_file(&r->s, t->task->fds.v[i]->id);
		for (size_t k = 0; k < r->n_tasks && f->fd < 0; k++)
			if (r->tasks[k].node->pid == f->task)
				pidfd = sys_pidfd_open(r->tasks[k].pid, 0);
		if (f->fd < 0)
			f->fd = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, f->task_fd);
		if (f->fd < 0)
			return op_errno(op, errno, AT(.pid = f->task, AT_FD(f->task_fd)), "take fd %d from task %d", f->task_fd, f->task);
		v[i].from = f->fd;
	}
	return 0;
}

static int check_threads(struct op *op, const struct new_task *t)
{
	if (t->n_born == t->n_threads)
		return 0;
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->node->pid), "task %d has %zu threads instead of %zu", t->node->pid, t->n_born,
		       t->n_threads);
}

/* As we see the thread @tid of the image; 0: it is not there. */
static pid_t host_of(void *arg, pid_t tid)
{
	const struct restore *r = arg;

	for (size_t i = 0; i < r->n_tasks; i++) {
		const struct new_task *t = &r->tasks[i];

		for (size_t k = 0; is_task(t) && k < t->task->threads.n; k++)
			if (t->task->threads.v[k].tid == tid)
				return t->threads[k].tid;
	}
	return 0;
}

int restore_drive(struct op *op, struct restore *r)
{
	uint32_t barriers = PLAN(&r->tasks[0].build)->barriers;
	int ret = follow_births(op, r) ?: cgroups_move(op, &r->s, host_of, r) ?: restore_lazy_hand_over(op, r);

	for (uint32_t barrier = PLAN_BARRIER_TREE; barrier <= PLAN_BARRIER_OPEN && !ret; barrier <<= 1) {
		if (!(barriers & barrier))
			continue;
		if (barrier == PLAN_BARRIER_OPEN)
			EACH_TASK(r, ret, t)
				ret = is_task(t) ? hand_on(op, r, t) : 0;
		ret = ret ?: resume_all(op, r);
		ret = ret ?: follow_all(op, r);
	}
	/* With what no restorer has read: the vdso is placed, not filled. */
	if (!ret && r->n_pages * PAGE_SIZE > op->moved.bytes_done)
		op_bytes_done(op, r->n_pages * PAGE_SIZE - op->moved.bytes_done);
	EACH_TASK(r, ret, t)
		if (is_task(t)) {
			ret = check_threads(op, t);
			restore_warn(op, t);
		}
	return ret ?: cgroups_move_threads(op, &r->s, host_of, r);
}

/* Stops who was stopped, while its parent cannot see it yet. */
static int stop_tasks(struct op *op, struct restore *r)
{
	int ret = 0;

	EACH_TASK(r, ret, t) {
		struct new_task *parent = t->node->parent == TREE_NONE ? NULL : &r->tasks[t->node->parent];

		if (!is_task(t) || !task_to_be_stopped(op, t))
			continue;
		ret = task_stop(op, t);
		if (!ret && parent)
			ret = task_forget_stop(op, parent, nested_seen(&r->s, parent->task, t->node->pid));
	}
	return ret;
}

int restore_finish(struct op *op, struct restore *r)
{
	int ret = cgroups_settle(op, &r->s);

	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = task_touch(op, t);
	ret = ret ?: stop_tasks(op, r);
	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = task_load(op, t);
	return ret;
}

int restore_untie(struct op *op, struct restore *r)
{
	int ret = 0;

	/* From here on signals are delivered: as soon as a thread is let go. */
	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = task_set_masks(op, t);
	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = task_untie(op, t, r->seccomp);
	return ret;
}

int restore_release(struct op *op, struct restore *r)
{
	int ret = 0;

	EACH_TASK(r, ret, t)
		if (is_task(t))
			ret = task_release(op, t);
	return ret;
}
