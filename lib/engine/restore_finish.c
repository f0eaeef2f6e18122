/* SPDX-License-Identifier: MIT */
/*
 * The last touches on a process whose threads all stand at their int3: each becomes the thread that was checkpointed:
 * mask, registers, what only a tracer can set. Nothing of the program runs before task_release().
 */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#define TASK_STOPPED 3

static int ignore_sigtrap(struct op *op, struct new_task *r)
{
	const SaEntry *sa = r->task->threads.v[0].core->tc->sigactions[SIGTRAP - 1];
	uint64_t act[4] = { sa->sigaction, sa->flags, sa->restorer, sa->mask }, at;
	int ret;

	if (sa->sigaction != (uint64_t)(uintptr_t)SIG_IGN)
		return 0;
	ret = restore_scratch(op, r, act, sizeof(act), &at);
	return ret ?: restore_must_call(op, r, __NR_rt_sigaction, (const uint64_t[6]){ SIGTRAP, at, 0, 8 }, "ignore SIGTRAP");
}

/* The pointer to a critical section that must survive signals: registering took it away. */
static int set_rseq_cs(struct op *op, struct new_task *r)
{
	for (size_t i = 0; i < r->n_threads; i++) {
		const RseqEntry *e = r->task->threads.v[i].core->thread_core->rseq_entry;

		if (!e || !e->has_rseq_cs_pointer)
			continue;
		/* rseq_cs is the third field, after two u32 */
		if (ptrace(PTRACE_POKEDATA, r->threads[i].tid, (void *)(e->rseq_abi_pointer + 8), (void *)e->rseq_cs_pointer) < 0)
			return op_errno(op, errno, AT(.pid = r->threads[i].tid, .kind = "rseq"),
					"set the critical section of thread %d", r->threads[i].tid);
	}
	return 0;
}

/* A change of user takes the dumpable flag away: it comes after the last thread's. */
static int set_dumpable(struct op *op, struct new_task *r)
{
	const MmEntry *mm = r->task->mm;

	if (!mm || !mm->has_dumpable || mm->dumpable < 0 || mm->dumpable > 1 || (mm->dumpable == 1 && !r->build.creds_change))
		return 0;
	return restore_must_call(op, r, __NR_prctl, (const uint64_t[6]){ PR_SET_DUMPABLE, (uint64_t)mm->dumpable }, "set the dumpable flag");
}

static int unmap_area(struct op *op, struct new_task *r)
{
	return restore_must_call(op, r, __NR_munmap, (const uint64_t[6]){ r->plan->base, r->plan->area_len }, "remove the restorer");
}

static int load_thread(struct op *op, struct new_task *r, size_t i)
{
	struct new_thread *t = &r->threads[i];
	struct iovec iov = { t->xstate, t->xstate_len };
	int ret = restore_set_regs(op, t->tid, &t->regs);

	if (ret)
		return ret;
	if (ptrace(PTRACE_SETREGSET, t->tid, (void *)NT_X86_XSTATE, &iov) < 0)
		return op_errno(op, errno, AT(.pid = t->tid), "load the extended registers of thread %d", t->tid);
	return 0;
}

static int set_mask(struct op *op, struct new_thread *t)
{
	if (ptrace((enum __ptrace_request)PTRACE_SETSIGMASK, t->tid, (void *)sizeof(t->sigmask), &t->sigmask) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = t->tid), "set the signal mask of thread %d", t->tid);
}

/* Runs the leader into its next stop, without a step of the program. */
static int next_stop(struct op *op, struct new_task *r, int request, int sig, int *status)
{
	int ret = restore_resume(op, r, r->pid, request, sig) ?: restore_wait(op, r, r->pid, status);

	if (!ret && !WIFSTOPPED(*status)) {
		r->pid = 0;
		ret = op_fail(op, CKPT_E_SYS, AT(.pid = r->threads[0].tid), "task %d was killed while it was restored",
			      r->threads[0].tid);
	}
	return ret;
}

/*
 * A call that is to be restarted is restarted on the way out of a stop for a signal or an event. The leader's last stop
 * was the exit from a remote call.
 */
static int leave_call(struct op *op, struct new_task *r)
{
	int status = 0, ret = 0;

	if ((long)r->threads[0].regs.orig_rax < 0)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, r->pid, NULL, NULL) < 0)
		return op_errno(op, errno, AT(.pid = r->pid), "interrupt task %d", r->pid);
	while (!ret && status >> 16 != PTRACE_EVENT_STOP)
		ret = next_stop(op, r, PTRACE_CONT, 0, &status);
	return ret;
}

int task_touch(struct op *op, struct new_task *r)
{
	int ret = restore_tiles(op, r) ?: ignore_sigtrap(op, r);

	for (size_t i = 0; i < r->n_threads && !ret; i++)
		ret = sched_restore(op, &r->task->threads.v[i], r->threads[i].tid);
	if (!ret)
		proc_values_restore(op, r->task, r->pid);
	ret = ret ?: set_dumpable(op, r);
	return ret ?: restore_sleeps(op, r);
}

int task_load(struct op *op, struct new_task *r)
{
	int ret = unmap_area(op, r);

	ret = ret ?: set_rseq_cs(op, r);
	ret = ret ?: leave_call(op, r);
	for (size_t i = 0; i < r->n_threads && !ret; i++)
		ret = load_thread(op, r, i) ?: sud_restore(op, &r->task->threads.v[i], r->threads[i].tid);
	return ret;
}

/* -------------------------------------------------------------------------------------------------- job control */

bool task_to_be_stopped(struct op *op, const struct new_task *r)
{
	return op->opts->leave_stopped || r->stop_wanted || r->task->threads.v[0].core->tc->task_state == TASK_STOPPED;
}

/*
 * A group stop begins with the delivery of a SIGSTOP to the leader; the other threads join it as they are resumed. None of
 * them comes to run anything.
 */
int task_stop(struct op *op, struct new_task *r)
{
	int status = 0, ret = 0;

	if (sys_tgkill(r->pid, r->pid, SIGSTOP) < 0)
		return op_errno(op, errno, AT(.pid = r->pid), "stop task %d", r->pid);
	for (int i = 0; i < 16 && !ret; i++) {
		ret = next_stop(op, r, PTRACE_CONT, 0, &status);
		if (!ret && !(status >> 16) && WSTOPSIG(status) == SIGSTOP)
			break;
	}
	/* Deliver it: the leader reports the group stop. */
	ret = ret ?: next_stop(op, r, PTRACE_CONT, SIGSTOP, &status);
	for (size_t i = 1; i < r->n_threads && !ret; i++)
		ret = restore_resume(op, r, r->threads[i].tid, PTRACE_CONT, 0) ?: restore_wait(op, r, r->threads[i].tid, &status);
	return ret;
}

static bool has_pending(const SignalQueueEntry *q, int signo)
{
	for (size_t i = 0; q && i < q->n_signals; i++)
		if (q->signals[i]->siginfo.len >= sizeof(int32_t) && !memcmp(q->signals[i]->siginfo.data, &signo, sizeof(int32_t)))
			return true;
	return false;
}

/*
 * That a child stopped was told to its parent long ago, and is told again by the kernel now. Where the parent had not taken
 * the signal yet nothing is to be done: it is one signal, and the child's state is still to be waited for.
 */
int task_forget_stop(struct op *op, struct new_task *r, pid_t child)
{
	const TaskCoreEntry *tc = r->task->threads.v[0].core->tc;
	const struct {
		uint64_t set, at_once[2];
	} wait = { .set = 1ull << (SIGCHLD - 1) };
	uint64_t at;
	long result;
	int ret;

	if (has_pending(tc->signals_s, SIGCHLD))
		return 0;
	ret = restore_call(op, r, r->pid, __NR_waitid,
			   (const uint64_t[6]){ P_PID, (uint64_t)child, 0, WSTOPPED | WNOHANG, 0 }, &result);
	ret = ret ?: restore_scratch(op, r, &wait, sizeof(wait), &at);
	/* Only what the parent leaves blocked or handles can be pending, and it has blocked everything so far. */
	return ret ?: restore_call(op, r, r->pid, __NR_rt_sigtimedwait, (const uint64_t[6]){ at, 0, at + 8, 8 }, &result);
}

/* --------------------------------------------------------------------------------------------- letting go */

int task_set_masks(struct op *op, struct new_task *r)
{
	int ret = 0;

	for (size_t i = 0; i < r->n_threads && !ret; i++)
		ret = set_mask(op, &r->threads[i]);
	return ret;
}

/* The end of their tracer is the end of none of them any more. */
int task_untie(struct op *op, struct new_task *r, bool seccomp)
{
	const long options = seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0;

	for (size_t i = r->n_threads; i-- > 0;)
		if (ptrace(PTRACE_SETOPTIONS, r->threads[i].tid, NULL, options) < 0 && errno != ESRCH)
			return op_errno(op, errno, AT(.pid = r->threads[i].tid), "untie thread %d from us", r->threads[i].tid);
	return 0;
}

int task_release(struct op *op, struct new_task *r)
{
	for (size_t i = r->n_threads; i-- > 0;)
		if (ptrace(PTRACE_DETACH, r->threads[i].tid, NULL, NULL) < 0 && errno != ESRCH)
			return op_errno(op, errno, AT(.pid = r->threads[i].tid), "let thread %d go", r->threads[i].tid);
	return 0;
}
