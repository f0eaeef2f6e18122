/* SPDX-License-Identifier: MIT */
/*
 * Relative sleeps go on with what was left of them. The kernel keeps the end of such a sleep in a restart block that
 * nobody can write; so the thread makes the call itself, with the time that is left, is interrupted in it, and has the
 * right restart block. Registers then say ERESTART_RESTARTBLOCK, as in any interrupted sleep: the call is resumed, or
 * returns EINTR when a handler runs first.
 */
#include <linux/futex.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/uapi.h"

#define ERESTART_RESTARTBLOCK 516
#define NSEC_PER_SEC 1000000000ull
#define SLEEP_MIN_NS 1000000ull /* shorter ones end before they could be interrupted, and may as well */

/* The call with the time left in place of what it asked for first. False: not one we know. */
static bool rewrite(const RestartEntry *e, uint64_t scratch, uint64_t args[6])
{
	memcpy(args, e->args, 6 * sizeof(*args));
	switch (e->nr) {
	case __NR_nanosleep:
		args[0] = scratch;
		return true;
	case __NR_clock_nanosleep:
		args[2] = scratch;
		return !(args[1] & TIMER_ABSTIME);
	case __NR_poll:
		args[2] = MIN(e->remaining_ns / 1000000, (uint64_t)INT32_MAX);
		return true;
	case __NR_futex:
		args[3] = scratch;
		return (args[1] & FUTEX_CMD_MASK) == FUTEX_WAIT;
	default:
		return false;
	}
}

static int begin(struct op *op, struct new_task *r, const struct new_thread *t, const RestartEntry *e, const uint64_t *args)
{
	struct user_regs_struct regs = t->regs;

	restore_call_regs(r, &regs, e->nr, args);
	return restore_set_regs(op, t->tid, &regs);
}

static int run(struct op *op, struct new_task *r, struct new_thread *t, int request, int *status)
{
	int ret;

	if (ptrace((enum __ptrace_request)request, t->tid, NULL, NULL) < 0)
		return op_errno(op, errno, AT(.pid = t->tid), "resume thread %d", t->tid);
	ret = restore_wait(op, r, t->tid, status);
	if (!ret && !WIFSTOPPED(*status))
		ret = op_fail(op, CKPT_E_SYS, AT(.pid = t->tid), "thread %d was killed while it was restored", t->tid);
	return ret;
}

/*
 * Entered at the call's entry stop, the interrupt is pending when the call begins: it goes to sleep and is woken at once,
 * with the block filled in. Ends in the event stop where restarts are decided, or at the call's exit where it is over.
 */
static int sleep_on(struct op *op, struct new_task *r, struct new_thread *t, long *result)
{
	struct user_regs_struct regs;
	int status, ret = run(op, r, t, PTRACE_SYSCALL, &status);

	if (!ret && ptrace(PTRACE_INTERRUPT, t->tid, NULL, NULL) < 0)
		ret = op_errno(op, errno, AT(.pid = t->tid), "interrupt thread %d", t->tid);
	do
		ret = ret ?: run(op, r, t, PTRACE_CONT, &status);
	while (!ret && status >> 16 != PTRACE_EVENT_STOP);
	if (!ret && ptrace(PTRACE_GETREGS, t->tid, NULL, &regs) < 0)
		ret = op_errno(op, errno, AT(.pid = t->tid), "read the registers of thread %d", t->tid);
	if (!ret)
		*result = (long)regs.rax;
	return ret;
}

static int go_on(struct op *op, struct new_task *r, const struct snap_thread *st, struct new_thread *t)
{
	const RestartEntry *e = st->extra ? st->extra->restart : NULL;
	uint64_t args[6], at;
	struct timespec ts;
	long result = 0;
	int ret;

	/* Only where the image says EINTR: what else it says would be the truth. */
	if (!e || e->n_args != 6 || (long)t->regs.rax != -EINTR)
		return 0;
	ts.tv_sec = (time_t)(MAX(e->remaining_ns, SLEEP_MIN_NS) / NSEC_PER_SEC);
	ts.tv_nsec = (long)(MAX(e->remaining_ns, SLEEP_MIN_NS) % NSEC_PER_SEC);
	ret = restore_scratch(op, r, &ts, sizeof(ts), &at);
	if (ret || !rewrite(e, at, args))
		return ret;
	ret = begin(op, r, t, e, args);
	ret = ret ?: sleep_on(op, r, t, &result);
	if (ret)
		return ret;
	t->regs.rax = (unsigned long long)result;
	if (result == -ERESTART_RESTARTBLOCK)
		t->regs.orig_rax = e->nr;
	log_debug(op, "thread %d goes on in call %u with %lu ns left: %ld", st->tid, e->nr, e->remaining_ns, result);
	return 0;
}

int restore_sleeps(struct op *op, struct new_task *r)
{
	int ret = 0;

	for (size_t i = 0; i < r->task->threads.n && !ret; i++)
		ret = go_on(op, r, &r->task->threads.v[i], &r->threads[i]);
	return ret;
}
