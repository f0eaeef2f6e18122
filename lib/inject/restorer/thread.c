/* SPDX-License-Identifier: MIT */
/* Threads: made with their ids, each then puts its own state in place and stops. */
#include <linux/prctl.h>
#include <linux/sched.h>

#include "lib/inject/restorer/restorer.h"

long restorer_clone(void *args, size_t size, struct plan *p, struct plan_thread *t);
_Noreturn void restorer_thread(struct plan *p, struct plan_thread *t);

#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)
/* Others fork between the write and the clone at any time; an attempt takes some ten microseconds. */
#define LAST_PID_TRIES 1000
#define FREE_TRIES 500 /* of a millisecond and more */
#define EEXIST 17

struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

void last_pid_write(struct plan *p, enum plan_step step, uint64_t index, int pid)
{
	char text[16];
	int n = sizeof(text);

	do
		text[--n] = (char)('0' + pid % 10);
	while (pid /= 10);
	must(p, step, index, sys(__NR_pwrite64, fetched(p, p->last_pid_file), text + n, sizeof(text) - n, 0));
}

/* Without set_tid a thread may get another number than it should: it sees that itself and ends. */
static void create_by_last_pid(struct plan *p, struct clone3_args *args, struct plan_thread *t, uint64_t index)
{
	static const uint64_t pause[2] = { 0, 1000000 };

	for (int i = 1; i <= LAST_PID_TRIES; i++) {
		long tid;

		/* A process that got the number in between may be short-lived. */
		if (i % 50 == 0)
			sys(__NR_nanosleep, pause, 0);
		last_pid_write(p, PLAN_STEP_THREAD, index, t->tid - 1);
		tid = must(p, PLAN_STEP_THREAD, index, restorer_clone(args, sizeof(*args), p, t));
		if (tid == t->tid)
			return;
	}
	fail(p, PLAN_STEP_THREAD, index, 0);
}

/*
 * A thread that has ended is gone for everybody a moment before its number is free, and that moment lasts until it is
 * scheduled again. Whoever restores right after a kill would get EEXIST.
 */
static long clone_when_free(struct clone3_args *args, struct plan *p, struct plan_thread *t)
{
	static const uint64_t pause[2] = { 0, 1000000 };
	long tid = restorer_clone(args, sizeof(*args), p, t);

	for (int i = 0; tid == -EEXIST && i < FREE_TRIES; i++) {
		sys(__NR_nanosleep, pause, 0);
		tid = restorer_clone(args, sizeof(*args), p, t);
	}
	return tid;
}

void threads_create(struct plan *p)
{
	struct plan_thread *t = PLAN_AT(p, struct plan_thread, p->threads);

	if (p->share_filters)
		seccomp_restore(p, &t[0]);
	for (uint64_t i = 1; i < p->threads.n; i++) {
		struct clone3_args args = {
			.flags = THREAD_FLAGS,
			.stack = p->base + p->stacks + PLAN_MAIN_STACK + (i - 1) * PLAN_THREAD_STACK,
			.stack_size = PLAN_THREAD_STACK,
		};

		if (p->last_pid_file >= 0) {
			create_by_last_pid(p, &args, &t[i], i);
			continue;
		}
		args.set_tid = t[i].tids.n ? (uint64_t)PLAN_AT(p, int32_t, t[i].tids) : (uint64_t)&t[i].tid;
		args.set_tid_size = t[i].tids.n ?: 1;
		must(p, PLAN_STEP_THREAD, i, clone_when_free(&args, p, &t[i]));
	}
}

static void thread_area(struct plan *p, struct plan_thread *t)
{
	struct plan_user_desc *d = PLAN_AT(p, struct plan_user_desc, t->thread_area);

	for (uint64_t i = 0; i < t->thread_area.n; i++)
		must(p, PLAN_STEP_THREAD_AREA, d[i].entry_number, sys(__NR_set_thread_area, &d[i]));
}

static void altstack(struct plan *p, struct plan_thread *t)
{
	struct {
		uint64_t sp;
		int32_t flags, pad;
		uint64_t size;
	} ss = { t->altstack_sp, (int32_t)t->altstack_flags, 0, t->altstack_size };

	must(p, PLAN_STEP_ALTSTACK, 0, sys(__NR_sigaltstack, &ss, 0));
}

void thread_restore(struct plan *p, struct plan_thread *t)
{
	must(p, PLAN_STEP_COMM, 0, sys(__NR_prctl, PR_SET_NAME, t->comm, 0, 0, 0));
	thread_area(p, t);
	if (t->has_altstack)
		altstack(p, t);
	if (t->robust_list)
		must(p, PLAN_STEP_ROBUST, 0, sys(__NR_set_robust_list, t->robust_list, t->robust_len));
	if (t->has_rseq)
		must(p, PLAN_STEP_RSEQ, 0, sys(__NR_rseq, t->rseq, t->rseq_len, 0, t->rseq_signature));
	sys(__NR_set_tid_address, t->clear_tid);
	if (t->timerslack_ns)
		must(p, PLAN_STEP_SLACK, 0, sys(__NR_prctl, PR_SET_TIMERSLACK, t->timerslack_ns, 0, 0, 0));
	signals_queue(p, t->signals, t->tid);
	calls_make(p, t->calls);
	/* Filters before credentials: an unprivileged task may have got its filters while it was privileged. They do not
	 * bite yet, the engine has them suspended. */
	if (!p->share_filters)
		seccomp_restore(p, t);
	creds_restore(p, t);
	if (t->pdeath_sig)
		must(p, PLAN_STEP_PRCTL, PR_SET_PDEATHSIG, sys(__NR_prctl, PR_SET_PDEATHSIG, t->pdeath_sig, 0, 0, 0));
}

_Noreturn void restorer_thread(struct plan *p, struct plan_thread *t)
{
	if (sys(__NR_gettid) != t->tid)
		for (;;)
			sys(__NR_exit, 0);
	thread_restore(p, t);
	for (;;)
		__asm__ volatile("int3" : : : "memory");
}
