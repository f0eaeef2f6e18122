/* SPDX-License-Identifier: MIT */
/*
 * Syscall user dispatch (SUD) of a stopped thread. A call of ours in it would be dispatched, too, as a SIGSYS that ends the
 * program: it is off while we inject. Where the thread's own switch says that calls are let through, which it mostly does
 * when a thread waits in the kernel, nothing has to be changed.
 */
#include "lib/inject/sud.h"

#include <sys/ptrace.h>

#define SELECTOR_ALLOW 0

static int set(pid_t tid, const struct ptrace_sud_config *conf)
{
	return ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(*conf), conf) == 0 ? 0 : -1;
}

static bool lets_through(const struct target *t, const struct ptrace_sud_config *conf)
{
	uint8_t selector;

	return conf->selector && pread(t->mem, &selector, 1, (off_t)conf->selector) == 1 && selector == SELECTOR_ALLOW;
}

static int note(struct op *op, const struct target *t, const struct tracee *tr, struct journal *j)
{
	uint32_t n = j ? atomic_load(&j->n_suds) : 0;
	struct journal_sud *e;

	if (!j)
		return 0;
	if (n >= JOURNAL_SUDS)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "syscall user dispatch"),
			       "more than %d threads have their system calls dispatched (syscall user dispatch)", JOURNAL_SUDS);
	e = &j->suds[n];
	e->pid = t->pid;
	e->starttime = t->stat.starttime;
	e->conf = tr->sud;
	atomic_store(&e->tid, tr->tid);
	atomic_store(&j->n_suds, n + 1);
	return 0;
}

static int suspend(struct op *op, const struct target *t, struct tracee *tr, struct journal *j)
{
	static const struct ptrace_sud_config off;
	int r;

	if (tr->sud_off)
		return 0;
	if (ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tr->tid, sizeof(tr->sud), &tr->sud) < 0)
		tr->sud = off; /* before Linux 6.4 nobody can tell */
	if (!tr->sud.mode || lets_through(t, &tr->sud))
		return 0;
	r = note(op, t, tr, j);
	if (r)
		return r;
	tr->sud_off = true;
	if (set(tr->tid, &off) < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "suspend the syscall user dispatch of thread %d", tr->tid);
	return 0;
}

int sud_suspend(struct op *op, struct target *t, struct journal *j)
{
	int r = 0;

	for (size_t i = 0; i < t->threads.n && !r; i++)
		r = suspend(op, t, &t->threads.v[i], j);
	return r;
}

void sud_resume(struct target *t, struct journal *j)
{
	uint32_t n = j ? atomic_load(&j->n_suds) : 0;

	for (size_t i = 0; i < t->threads.n; i++) {
		struct tracee *tr = &t->threads.v[i];

		if (!tr->sud_off || tr->exited || set(tr->tid, &tr->sud) < 0)
			continue;
		tr->sud_off = false;
		for (uint32_t k = 0; k < n; k++)
			if (atomic_load(&j->suds[k].tid) == tr->tid)
				atomic_store(&j->suds[k].tid, 0);
	}
}
