/* SPDX-License-Identifier: MIT */
/* What went wrong in a process that is restored: from the restorer's record, or from how it ended. */
#include <signal.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"

static const char *const step_names[PLAN_N_STEPS] = {
	[PLAN_STEP_FETCH] = "take a descriptor from the engine",
	[PLAN_STEP_VDSO_PARK] = "move the vDSO", [PLAN_STEP_UNMAP] = "empty the address space",
	[PLAN_STEP_MAP] = "map an area", [PLAN_STEP_READ] = "read pages", [PLAN_STEP_MOVE] = "move pages into place", [PLAN_STEP_CHECK] = "check pages", [PLAN_STEP_PROTECT] = "protect an area",
	[PLAN_STEP_ADVISE] = "give advice on an area", [PLAN_STEP_LOCK] = "lock an area into memory",
	[PLAN_STEP_GUARD] = "install a guard range", [PLAN_STEP_NAME] = "name an area",
	[PLAN_STEP_VDSO_OLD] = "keep the old vDSO",
	[PLAN_STEP_VDSO_MOVE] = "put the vDSO in place", [PLAN_STEP_MM] = "set the fields of the address space",
	[PLAN_STEP_SESSION] = "set session and group", [PLAN_STEP_GROW] = "lengthen an area",
	[PLAN_STEP_DROP] = "drop pages of a copied area", [PLAN_STEP_REAP] = "wait for a helper", [PLAN_STEP_CWD] = "enter the working directory",
	[PLAN_STEP_ROOT] = "change the root directory", [PLAN_STEP_PERSONALITY] = "set the personality",
	[PLAN_STEP_PRCTL] = "prctl", [PLAN_STEP_MEMBARRIER] = "register for membarrier",
	[PLAN_STEP_SIGACTION] = "set the action of a signal", [PLAN_STEP_THREAD] = "make a thread",
	[PLAN_STEP_FD] = "put a descriptor in place", [PLAN_STEP_FOWN] = "set the owner of a descriptor",
	[PLAN_STEP_LOCKFILE] = "take a file lock again", [PLAN_STEP_ITIMER] = "set an interval timer",
	[PLAN_STEP_TIMER] = "make a POSIX timer", [PLAN_STEP_SIGNAL] = "queue a signal",
	[PLAN_STEP_RLIMIT] = "set a resource limit", [PLAN_STEP_COMM] = "set the name",
	[PLAN_STEP_ALTSTACK] = "set the signal stack", [PLAN_STEP_ROBUST] = "set the robust futex list",
	[PLAN_STEP_RSEQ] = "register restartable sequences", [PLAN_STEP_THREAD_AREA] = "set a TLS descriptor",
	[PLAN_STEP_SLACK] = "set the timer slack", [PLAN_STEP_SECCOMP] = "install a seccomp filter",
	[PLAN_STEP_GROUPS] = "set the supplementary groups", [PLAN_STEP_IDS] = "set user and group",
	[PLAN_STEP_CAPS] = "set the capabilities", [PLAN_STEP_SECUREBITS] = "set the securebits",
	[PLAN_STEP_TIME_NS] = "join a time namespace", [PLAN_STEP_UFFD] = "make a userfaultfd", [PLAN_STEP_AMBIENT] = "raise an ambient capability", [PLAN_STEP_BOUNDING] = "drop a capability from the bounding set",
};

static uint64_t area_of(const struct new_task *t, const struct plan_error *e)
{
	const struct plan *p = (const struct plan *)t->build.buf;

	switch (e->step) {
	case PLAN_STEP_MAP:
	case PLAN_STEP_PROTECT:
	case PLAN_STEP_ADVISE:
	case PLAN_STEP_LOCK:
		return e->index < p->vmas.n ? PLAN_AT(p, const struct plan_vma, p->vmas)[e->index].start : 0;
	case PLAN_STEP_READ:
		return e->index < p->extents.n ? PLAN_AT(p, const struct plan_extent, p->extents)[e->index].addr : 0;
	case PLAN_STEP_GUARD:
		return e->index < p->guards.n ? PLAN_AT(p, const struct plan_range, p->guards)[e->index].start : 0;
	default:
		return 0;
	}
}

static int no_number(struct op *op, pid_t pid, int err, const char *what)
{
	if (err == EEXIST)
		return restore_pid_taken(op, pid);
	if (!err)
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid), "%s number %d was not to be had: too much is started here", what, pid);
	return op_errno(op, err, AT(.pid = pid, .kind = what), "make %s %d", what, pid);
}

/* Where pages go that the task read from check @check, block @block of it. */
static uint64_t address_of_block(const struct plan *p, struct plan_array extents, uint32_t check, uint64_t block)
{
	const struct plan_extent *x = PLAN_AT(p, const struct plan_extent, extents);

	for (uint64_t i = 0; i < extents.n; i++)
		if (x[i].check == check + 1 && x[i].offset < (block + 1) * PLAN_BLOCK && x[i].offset + x[i].len > block * PLAN_BLOCK)
			return x[i].addr + (block * PLAN_BLOCK > x[i].offset ? block * PLAN_BLOCK - x[i].offset : 0);
	return 0;
}

static int bad_block(struct op *op, const struct new_task *t, const struct plan_error *e)
{
	const struct plan *p = (const struct plan *)t->build.buf;
	uint32_t check = (uint32_t)(e->index >> 32);
	uint64_t block = (uint32_t)e->index, addr;

	if (check >= p->checks.n || check >= t->build.sources.n)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = e->tid), "pages of task %d are not what was written", t->node->pid);
	block += PLAN_AT(p, const struct plan_check, p->checks)[check].first;
	addr = address_of_block(p, p->extents, check, block) ?: address_of_block(p, p->compares, check, block);
	return op_fail(op, CKPT_E_IMAGE, AT(.pid = e->tid, .addr = addr, .kind = "pages"),
		       "image %s is damaged: pages %lu to %lu (memory at %#lx) are not what was written",
		       pagein_name(t->r->s.sources.v[t->build.sources.v[check].source]), block * BLOCK_PAGES,
		       (block + 1) * BLOCK_PAGES - 1, addr);
}

static int report(struct op *op, const struct new_task *t, const struct plan_error *e)
{
	const char *what = e->step < PLAN_N_STEPS && step_names[e->step] ? step_names[e->step] : "an unknown step";
	uint64_t addr = area_of(t, e);
	pid_t pid = t->node->pid;

	if (e->step == PLAN_STEP_THREAD && t->task)
		return no_number(op, e->index < t->task->threads.n ? t->task->threads.v[e->index].tid : 0, e->err, "thread");
	if (e->step == PLAN_STEP_CHILD)
		return no_number(op, e->index < t->n_kids ? t->kids[e->index]->node->pid : (pid_t)e->index, e->err, "process");
	if (e->step == PLAN_STEP_CHECK)
		return bad_block(op, t, e);
	if (e->step == PLAN_STEP_CALL && e->index < t->build.calls.n) {
		const struct build_call *c = &t->build.calls.v[e->index];

		if (e->err == PLAN_UNEXPECTED)
			return op_fail(op, CKPT_E_SYS, AT(.pid = e->tid), "task %d: %s: the kernel gave something else", pid, c->what);
		return op_errno(op, e->err, AT(.pid = e->tid), "task %d: %s", pid, c->what);
	}
	if (addr)
		return op_errno(op, e->err, AT(.pid = e->tid, .addr = addr, .kind = "vma"), "task %d: %s at %#lx", pid, what, addr);
	if (e->step == PLAN_STEP_FD || e->step == PLAN_STEP_FOWN || e->step == PLAN_STEP_LOCKFILE)
		return op_errno(op, e->err, AT(.pid = e->tid, AT_FD((int)e->index), .kind = "fd"), "task %d: fd %lu: %s", pid,
				e->index, what);
	return op_errno(op, e->err, AT(.pid = e->tid), "thread %d: %s (%lu)", e->tid, what, e->index);
}

/* The record of a failure: in its own plan, or, for one that did not come so far, in that of whoever forked it. */
static const struct new_task *who_failed(const struct new_task *t)
{
	for (;;) {
		if (t->plan && __atomic_load_n(&t->plan->error.step, __ATOMIC_ACQUIRE))
			return t;
		if (t->node->creator == TREE_NONE)
			return NULL;
		t = &t->r->tasks[t->node->creator];
	}
}

int restore_report(struct op *op, struct new_task *t, pid_t tid, int status)
{
	const struct new_task *failed = who_failed(t);
	pid_t pid = t->node->pid;

	if (failed) {
		struct plan_error e = failed->plan->error;

		return report(op, failed, &e);
	}
	if (t->r->exec_errno)
		return op_errno(op, t->r->exec_errno, AT(.pid = tid), "task %d: %s", pid, t->r->child_step ?: "execute the restorer");
	if (WIFSIGNALED(status))
		return op_fail(op, CKPT_E_SYS, AT(.pid = tid), "task %d was killed by signal %d while it was restored%s", pid,
			       WTERMSIG(status), WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = tid), "the restorer of task %d ended with status %d", pid,
		       WEXITSTATUS(status));
}
