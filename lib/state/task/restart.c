/* SPDX-License-Identifier: MIT */
/*
 * Sleeps that were cut short. The kernel keeps what is left of a relative sleep in a restart block, which nobody can read.
 * Where the call was given a place for the rest (the rem of nanosleep) the kernel has written it there, exactly; otherwise
 * it is what was asked for, less the time since the thread last went to sleep (se.exec_start, read before the stop). The
 * error of that estimate is the time the thread needed to be scheduled out, and all of an earlier part of the same sleep
 * if it was interrupted before.
 */
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define ERESTART_RESTARTBLOCK 516
#define NSEC_PER_SEC 1000000000ull

/* The call that a restarted one (restart_syscall) stands for is told by where it slept. */
uint64_t restart_original_call(const struct tracee *tr)
{
	uint64_t nr = tr->regs.orig_rax;

	if ((long)tr->regs.rax != -ERESTART_RESTARTBLOCK)
		return 0;
	if (nr != SYS_restart_syscall)
		return nr;
	if (strstr(tr->wchan, "futex"))
		return SYS_futex;
	if (strstr(tr->wchan, "poll"))
		return SYS_poll;
	/*
	 * nanosleep(req, rem) and clock_nanosleep(clock, flags, req, rem): a clock is a small number, a pointer is not. The
	 * functions that go on with an interrupted one are all scheduler code, which wchan skips: it then names their caller.
	 */
	if (strstr(tr->wchan, "nanosleep") || strstr(tr->wchan, "syscall"))
		return tr->regs.rdi < 4096 ? SYS_clock_nanosleep : SYS_nanosleep;
	return 0;
}

static int read_timespec(struct op *op, const struct task_dump *d, uint64_t at, uint64_t *ns)
{
	struct timespec ts;
	int r = target_read(op, d->target, (struct raddr){ at }, &ts, sizeof(ts));

	if (!r)
		*ns = (uint64_t)ts.tv_sec >= UINT64_MAX / NSEC_PER_SEC ? UINT64_MAX / 2
								      : (uint64_t)ts.tv_sec * NSEC_PER_SEC + (uint64_t)ts.tv_nsec;
	return r;
}

/* What was asked for, and whether *@ns is already the rest. Returns 1 when the call is none that we can go on with. */
static int asked_for(struct op *op, const struct task_dump *d, const struct tracee *tr, uint64_t nr, uint64_t *ns, bool *rest)
{
	const struct user_regs_struct *regs = &tr->regs;
	uint64_t rem = nr == SYS_nanosleep ? regs->rsi : regs->r10;

	*rest = false;
	switch (nr) {
	case SYS_nanosleep:
	case SYS_clock_nanosleep:
		*rest = rem != 0;
		return read_timespec(op, d, rem ? rem : nr == SYS_nanosleep ? regs->rdi : regs->rdx, ns);
	case SYS_poll:
		if ((int32_t)regs->rdx < 0)
			return 1;
		*ns = (uint64_t)(uint32_t)regs->rdx * 1000000;
		return 0;
	case SYS_futex:
		if ((regs->rsi & FUTEX_CMD_MASK) != FUTEX_WAIT || !regs->r10)
			return 1;
		return read_timespec(op, d, regs->r10, ns);
	default:
		return 1;
	}
}

int restart_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, RestartEntry **ret)
{
	uint64_t nr = restart_original_call(tr), ns = 0, slept;
	uint64_t args[6] = { tr->regs.rdi, tr->regs.rsi, tr->regs.rdx, tr->regs.r10, tr->regs.r8, tr->regs.r9 };
	bool rest;
	RestartEntry *e;
	int r;

	*ret = NULL;
	if (!nr)
		return 0;
	r = asked_for(op, d, tr, nr, &ns, &rest);
	if (r == 1)
		return 0;
	if (r) {
		/* The request lies in memory that is gone: the thread gets EINTR, as the format has it. */
		op_forget(op);
		return 0;
	}
	if (!rest) {
		slept = tr->slept_since && d->target->seized_at > tr->slept_since ? d->target->seized_at - tr->slept_since : 0;
		ns -= MIN(slept, ns);
	}
	e = msg_new(op, RestartEntry, restart_entry);
	if (!e)
		return CKPT_E_NOMEM;
	e->nr = (uint32_t)nr;
	e->remaining_ns = ns;
	e->n_args = 6;
	e->args = arena_memdup(op->arena, args, sizeof(args));
	*ret = e;
	return e->args ? 0 : op_nomem(op);
}
