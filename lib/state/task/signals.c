/* SPDX-License-Identifier: MIT */
/* Signal actions and queues. Masks and alternate stacks are set by core.c. */
#include <signal.h>
#include <sys/ptrace.h>

#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define N_SIGACTIONS (PARASITE_NSIG - 2) /* all but SIGKILL and SIGSTOP */
#define SIGINFO_SIZE 128

int sigactions_dump(struct op *op, const struct task_dump *d, const struct parasite_args *a, TaskCoreEntry *tc)
{
	SaEntry *entries = op_alloc(op, N_SIGACTIONS * sizeof(*entries));

	tc->sigactions = op_alloc(op, N_SIGACTIONS * sizeof(*tc->sigactions));
	if (!entries || !tc->sigactions)
		return CKPT_E_NOMEM;
	for (int sig = 1; sig <= PARASITE_NSIG; sig++) {
		const struct parasite_sigaction *sa = &a->sigactions[sig - 1];
		SaEntry *e = &entries[tc->n_sigactions];

		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		if (a->sigaction_result[sig - 1] < 0)
			return op_errno(op, (int)-a->sigaction_result[sig - 1], AT(.pid = d->task->host),
					"read the action of signal %d", sig);
		sa_entry__init(e);
		e->sigaction = sa->handler;
		e->flags = sa->flags;
		e->restorer = sa->restorer;
		e->mask = sa->mask;
		msg_set(e, compat_sigaction, 0);
		tc->sigactions[tc->n_sigactions++] = e;
	}
	return 0;
}

static int add_siginfo(struct op *op, pid_t tid, const void *info, SignalQueueEntry *q, size_t *cap)
{
	SiginfoEntry *e = msg_new(op, SiginfoEntry, siginfo_entry);
	int sig = ((const siginfo_t *)info)->si_signo;

	if (!e)
		return CKPT_E_NOMEM;
	/* The restorer stops by SIGTRAP, and a queued SIGSTOP would stop it. */
	if (sig == SIGTRAP || sig == SIGSTOP)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = tid, .kind = "pending signal", .hint = "try again a moment later"),
			       "thread %d has a pending %s, which cannot be restored", tid, sig == SIGTRAP ? "SIGTRAP" : "SIGSTOP");
	e->siginfo.len = SIGINFO_SIZE;
	e->siginfo.data = arena_memdup(op->arena, info, SIGINFO_SIZE);
	if (!e->siginfo.data ||
	    (q->n_signals == *cap && arena_grow(op->arena, (void **)&q->signals, cap, q->n_signals, sizeof(e))))
		return op_nomem(op);
	q->signals[q->n_signals++] = e;
	return 0;
}

int sigqueue_dump(struct op *op, pid_t tid, bool shared, SignalQueueEntry **ret)
{
	struct __ptrace_peeksiginfo_args args = { .flags = shared ? PTRACE_PEEKSIGINFO_SHARED : 0, .nr = 32 };
	SignalQueueEntry *q = msg_new(op, SignalQueueEntry, signal_queue_entry);
	uint8_t infos[32][SIGINFO_SIZE];
	size_t cap = 0;
	long n;

	if (!q)
		return CKPT_E_NOMEM;
	while ((n = ptrace(PTRACE_PEEKSIGINFO, tid, &args, infos)) > 0) {
		for (long i = 0; i < n; i++) {
			int r = add_siginfo(op, tid, infos[i], q, &cap);

			if (r)
				return r;
		}
		args.off += (uint64_t)n;
	}
	if (n < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the pending signals of thread %d", tid);
	*ret = q;
	return 0;
}
