/* SPDX-License-Identifier: MIT */
/*
 * The engine as tracer of a new process: follows the restorer until every thread stands at its int3, meets the children
 * and threads that it makes, and says what went wrong where one does not come so far.
 */
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#define SPIN 400
#define PAUSE_MIN_US 20u
#define PAUSE_MAX_US 1000u
#define TRAP_CODE_KERNEL 0x80 /* SI_KERNEL: int3 */

/* The restorers count what they have read; here it is collected now and then. */
void restore_progress(struct op *op, const struct restore *r)
{
	uint64_t done = 0;

	if (!r->n_pages)
		return;
	for (size_t i = 0; i < r->n_tasks; i++)
		done += __atomic_load_n(&r->tasks[i].plan->pages_done, __ATOMIC_RELAXED);
	done *= PAGE_SIZE;
	if (done > op->moved.bytes_done)
		op_bytes_done(op, done - op->moved.bytes_done);
}

/*
 * The end of a process is not reported for its leader before all its traced threads were reaped: whoever waits for one
 * thread has to look at the others now and then.
 */
static int look_around(struct op *op, struct new_task *t)
{
	struct new_thread *th = &t->threads[1];
	int status;

	if (__atomic_load_n(&t->plan->error.step, __ATOMIC_ACQUIRE))
		return restore_report(op, t, t->pid, 0);
	if (t->n_threads < 2 || !th->tid || th->gone)
		return 0;
	if (waitpid(th->tid, &status, __WALL | WNOHANG | WNOWAIT) == th->tid && (WIFEXITED(status) || WIFSIGNALED(status)))
		return restore_report(op, t, th->tid, status);
	return 0;
}

int restore_wait(struct op *op, struct new_task *t, pid_t tid, int *status)
{
	unsigned pause = PAUSE_MIN_US;

	for (unsigned i = 0;; i++) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);
		int ret;

		if (got == tid)
			return 0;
		if (got < 0 && errno != EINTR)
			return op_errno(op, errno, AT(.pid = tid), "wait for thread %d", tid);
		if (i < SPIN) {
			sched_yield();
			continue;
		}
		ret = op_check_cancel(op) ?: look_around(op, t) ?: restore_lazy_check(op, t->r);
		if (ret)
			return ret;
		restore_progress(op, t->r);
		usleep(pause);
		pause = MIN(pause * 2, PAUSE_MAX_US);
	}
}

int restore_resume(struct op *op, struct new_task *t, pid_t tid, int request, int sig)
{
	if (ptrace((enum __ptrace_request)request, tid, NULL, (void *)(long)sig) == 0)
		return 0;
	if (errno == ESRCH) {
		/* Killed under our hands: the next wait tells. */
		return 0;
	}
	return op_errno(op, errno, AT(.pid = tid), "resume thread %d of task %d", tid, t->node->pid);
}

static int crashed(struct op *op, struct new_task *t, pid_t tid, const siginfo_t *si)
{
	struct user_regs_struct regs = { 0 };

	ptrace(PTRACE_GETREGS, tid, NULL, &regs);
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = tid, .addr = (uintptr_t)si->si_addr),
		       "the restorer of task %d met signal %d at +%#llx (address %p)", t->node->pid, si->si_signo,
		       (unsigned long long)(regs.rip - t->plan->base), si->si_addr);
}

/* A stop for a signal: 1 when it is the thread's int3. */
static int on_signal(struct op *op, struct new_task *t, pid_t tid)
{
	siginfo_t si;

	if (ptrace(PTRACE_GETSIGINFO, tid, NULL, &si) < 0)
		return restore_resume(op, t, tid, PTRACE_CONT, 0);
	/* One that ends by a signal, as the original did. */
	if (t->node->kind == TREE_ZOMBIE && si.si_code == SI_TKILL && si.si_pid == t->own_number)
		return restore_resume(op, t, tid, PTRACE_CONT, si.si_signo);
	switch (si.si_signo) {
	case SIGTRAP:
		if (si.si_code == TRAP_CODE_KERNEL)
			return 1;
		break;
	case SIGSTOP:
		t->stop_wanted = true;
		break;
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
		return crashed(op, t, tid, &si);
	}
	return restore_resume(op, t, tid, PTRACE_CONT, 0);
}

static bool has_ended(int status)
{
	return WIFEXITED(status) || WIFSIGNALED(status);
}

/* Through ns_last_pid a process or thread can have got another number; it ends by itself, and is tried again. */
static int let_end(struct op *op, struct new_task *t, pid_t tid, int status)
{
	int ret = 0;

	while (!ret && !has_ended(status))
		ret = restore_resume(op, t, tid, PTRACE_CONT, 0) ?: restore_wait(op, t, tid, &status);
	return ret;
}

static int new_thread(struct op *op, struct new_task *t, pid_t tid, int status)
{
	if (t->n_born >= t->n_threads)
		return op_fail(op, CKPT_E_INTERNAL, AT(.pid = tid), "task %d has more threads than it should", t->node->pid);
	if (t->r->last_pid_fd >= 0 && tid != t->task->threads.v[t->n_born].tid)
		return let_end(op, t, tid, status);
	t->threads[t->n_born++].tid = tid;
	if (has_ended(status)) {
		t->threads[t->n_born - 1].gone = true;
		return restore_report(op, t, tid, status);
	}
	return restore_resume(op, t, tid, PTRACE_CONT, 0);
}

/* The next of its children. One that only forks another is followed to its end at once: its creator waits for it. */
static int new_child(struct op *op, struct new_task *t, pid_t pid, int status)
{
	struct new_task *k = t->kids[t->n_kids_born];

	if (t->r->last_pid_fd >= 0 && k->node->pid && pid != k->node->pid)
		return let_end(op, t, pid, status);
	t->n_kids_born++;
	k->pid = k->threads[0].tid = pid;
	k->n_born = 1;
	if (has_ended(status)) {
		k->pid = 0;
		return restore_report(op, k, pid, status);
	}
	return restore_resume(op, k, pid, PTRACE_CONT, 0) ?: k->node->kind == TREE_STEP ? restore_follow(op, k) : 0;
}

/* @tid made a process or a thread: all children come before the first thread. */
static int on_birth(struct op *op, struct new_task *t, pid_t tid)
{
	unsigned long born;
	int status, ret;

	if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &born) < 0)
		return op_errno(op, errno, AT(.pid = tid), "ask for what task %d forked", t->node->pid);
	ret = restore_wait(op, t, (pid_t)born, &status);
	if (ret)
		return ret;
	ret = t->n_kids_born < t->n_kids ? new_child(op, t, (pid_t)born, status) : new_thread(op, t, (pid_t)born, status);
	return ret ?: restore_resume(op, t, tid, PTRACE_CONT, 0);
}

/* Zombies and helpers: their end is their part. */
static int on_end(struct op *op, struct new_task *t, struct new_thread *th, int status)
{
	bool meant = t->node->kind != TREE_TASK && t->n_kids_born == t->n_kids;
	int want = t->node->kind == TREE_ZOMBIE ? (int)t->task->threads.v[0].core->tc->exit_code & ~0x80 : 0;

	th->gone = true;
	if (th == &t->threads[0])
		t->pid = 0;
	if (!meant || status != want)
		return restore_report(op, t, th->tid, status);
	t->ended = true;
	t->zombie = t->node->kind == TREE_ZOMBIE ? th->tid : 0;
	return 0;
}

static int follow_thread(struct op *op, struct new_task *t, struct new_thread *th)
{
	int status, ret = 0;

	while (!ret && !th->ready && !t->ended) {
		ret = restore_wait(op, t, th->tid, &status);
		if (ret)
			return ret;
		if (has_ended(status)) {
			ret = on_end(op, t, th, status);
		} else if (status >> 16 == PTRACE_EVENT_CLONE || status >> 16 == PTRACE_EVENT_FORK) {
			ret = on_birth(op, t, th->tid);
		} else if (status >> 16) {
			ret = restore_resume(op, t, th->tid, PTRACE_CONT, 0);
		} else {
			ret = on_signal(op, t, th->tid);
			if (ret == 1 && restore_wants_fill(t)) {
				ret = restore_fill(op, t) ?: restore_resume(op, t, th->tid, PTRACE_CONT, 0);
			} else if (ret == 1) {
				th->ready = true;
				ret = 0;
			}
		}
	}
	return ret;
}

int restore_follow(struct op *op, struct new_task *t)
{
	int ret = follow_thread(op, t, &t->threads[0]);

	for (size_t i = 1; i < t->n_born && !ret; i++)
		ret = follow_thread(op, t, &t->threads[i]);
	return ret;
}

static void warn_of_timers(struct op *op, const struct new_task *t)
{
	/* Where they are is read from our own copy: the other one the new task can write. */
	struct plan_array arr = ((const struct plan *)t->build.buf)->timers;
	const struct plan_timer *v = PLAN_AT(t->plan, const struct plan_timer, arr);

	for (uint64_t i = 0; i < arr.n; i++)
		if (v[i].lost)
			log_warn(op, "task %d: the overrun count of timer %u is lost", t->node->pid, v[i].id);
}

static void warn_of_calls(struct op *op, const struct new_task *t)
{
	struct plan_array arr = ((const struct plan *)t->build.buf)->calls;
	const struct plan_call *c = PLAN_AT(t->plan, const struct plan_call, arr);

	for (uint64_t i = 0; i < arr.n; i++)
		if (c[i].result < 0 && c[i].result > -PLAN_UNEXPECTED)
			log_warn(op, "task %d: %s: %s", t->node->pid, t->build.calls.v[i].what, strerror((int)-c[i].result));
}

/* In a user namespace nobody may; we, outside of it, may. */
static bool raise_limit(struct new_task *t, unsigned resource)
{
	const struct plan_rlimit *l = PLAN_AT(PLAN(&t->build), struct plan_rlimit, PLAN(&t->build)->rlimits);

	for (uint64_t i = 0; i < PLAN(&t->build)->rlimits.n; i++)
		if (l[i].resource == resource)
			return prlimit(t->pid, (__rlimit_resource_t)resource, &(struct rlimit){ l[i].cur, l[i].max }, NULL) == 0;
	return false;
}

void restore_warn(struct op *op, struct new_task *t)
{
	uint32_t w = t->plan->warnings;

	warn_of_timers(op, t);
	warn_of_calls(op, t);

	if (w & PLAN_WARN_IO_FLUSHER)
		log_warn(op, "task %d: PR_SET_IO_FLUSHER was refused", t->node->pid);
	if (w & PLAN_WARN_NAME)
		log_warn(op, "task %d: an anonymous area could not be given its name", t->node->pid);
	if (w & PLAN_WARN_MEMBARRIER)
		log_warn(op, "task %d: a membarrier registration was refused", t->node->pid);
	for (unsigned i = 0; i < 16; i++)
		if (t->plan->rlimits_short >> i & 1 && !raise_limit(t, i))
			log_warn(op, "task %d: the hard limit of resource %u cannot be raised to what it was without CAP_SYS_RESOURCE",
				 t->node->pid, i);
}
