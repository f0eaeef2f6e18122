/* SPDX-License-Identifier: MIT */
/* The tree: children are forked by their parents, sessions begun, groups joined; helpers end when they were of use. */
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "lib/inject/restorer/restorer.h"

#define EEXIST 17
#define FREE_TRIES 500 /* of a millisecond and more */
#define SIGCHLD 17
#define WALL 0x40000000
/* Others fork between the write and the clone at any time; an attempt takes some ten microseconds. */
#define LAST_PID_TRIES 1000

long restorer_clone_child(void *args, size_t size, struct plan *p, struct plan_child *c);

/* Runs in the child, on a stack in its creator's area: goes over to its own plan. */
_Noreturn void restorer_child(struct plan *p, struct plan_child *c)
{
	long fd, ret;
	struct plan *own;

	if (!c->await && p->last_pid_file >= 0 && sys(__NR_getpid) != c->pid)
		for (;;)
			sys(__NR_exit, 0);
	fd = must(p, PLAN_STEP_CHILD, c->pid, sys(__NR_pidfd_getfd, c->engine_fd, c->plan_fd, 0));
	/* In a copy of the creator's memory whatever lies there is in nobody's way. */
	ret = sys(__NR_mmap, c->base, c->map_len, PROT_READ | PROT_WRITE | PROT_EXEC,
		  MAP_SHARED | (c->flags & CLONE_VM ? MAP_FIXED_NOREPLACE : MAP_FIXED), fd, 0);
	must(p, PLAN_STEP_CHILD, c->pid, ret);
	sys(__NR_close, fd);
	own = (struct plan *)(c->base + c->plan_off);
	own->engine_fd = c->engine_fd;
	restorer_jump(own, c->vdso_now, (void *)(c->base + (uint64_t)((char *)restorer_go_on - blob_image)),
		      own->base + own->stacks + PLAN_MAIN_STACK);
}

static void create_by_last_pid(struct plan *p, struct clone_args *args, struct plan_child *c, uint64_t index)
{
	static const uint64_t pause[2] = { 0, 1000000 };

	for (int i = 1; i <= LAST_PID_TRIES; i++) {
		long pid;

		if (i % 50 == 0)
			sys(__NR_nanosleep, pause, 0);
		last_pid_write(p, PLAN_STEP_CHILD, index, c->pid - 1);
		pid = must(p, PLAN_STEP_CHILD, index, restorer_clone_child(args, CLONE_ARGS_SIZE_VER2, p, c));
		if (pid == c->pid || (c->await && pid > c->pid)) {
			c->pid = (int32_t)pid;
			return;
		}
		sys(__NR_wait4, pid, 0, WALL, 0);
	}
	fail(p, PLAN_STEP_CHILD, index, 0);
}

/* A step takes any number that nobody has, and that nobody of the tree is to have: those lie below its lowest. */
static long clone_numbered(struct plan *p, struct clone_args *args, struct plan_child *c)
{
	static const uint64_t pause[2] = { 0, 1000000 };
	long pid = restorer_clone_child(args, CLONE_ARGS_SIZE_VER2, p, c);

	/* Other processes wait a moment for a number that somebody had who was just ended. */
	for (int i = 0; pid == -EEXIST && (c->await || i < FREE_TRIES); i++) {
		if (c->await)
			c->pid++;
		else
			sys(__NR_nanosleep, pause, 0);
		pid = restorer_clone_child(args, CLONE_ARGS_SIZE_VER2, p, c);
	}
	return pid;
}

static void create(struct plan *p, struct plan_child *c, uint64_t index)
{
	struct clone_args args = {
		.flags = c->flags,
		.exit_signal = c->flags & CLONE_PARENT ? 0 : SIGCHLD,
		.stack = p->base + p->child_stacks + index * PLAN_CHILD_STACK,
		.stack_size = PLAN_CHILD_STACK,
	};

	c->vdso_now = p->vdso_now;
	c->engine_fd = p->engine_fd;
	if (p->last_pid_file >= 0) {
		create_by_last_pid(p, &args, c, index);
	} else {
		args.set_tid = c->tids.n ? (uint64_t)PLAN_AT(p, int32_t, c->tids) : (uint64_t)&c->pid;
		args.set_tid_size = c->tids.n ?: 1;
		c->pid = (int32_t)must(p, PLAN_STEP_CHILD, index, clone_numbered(p, &args, c));
	}
	if (c->await)
		sys(__NR_wait4, c->pid, 0, WALL, 0);
}

void children_create(struct plan *p, uint32_t when)
{
	struct plan_child *c = PLAN_AT(p, struct plan_child, p->children);

	for (uint64_t i = 0; i < p->children.n; i++)
		if (c[i].when == when)
			create(p, &c[i], i);
}

void session_begin(struct plan *p)
{
	if (p->setsid)
		must(p, PLAN_STEP_SESSION, 0, sys(__NR_setsid));
}

void group_lead(struct plan *p)
{
	if (p->leads_group)
		must(p, PLAN_STEP_SESSION, 1, sys(__NR_setpgid, 0, 0));
}

void group_join(struct plan *p)
{
	if (p->join)
		must(p, PLAN_STEP_SESSION, 2, sys(__NR_setpgid, 0, p->join));
}

/* Helpers and zombies have ended by now. What the kernel queued about that is not the program's. */
void helpers_reap(struct plan *p)
{
	const int32_t *h = PLAN_AT(p, int32_t, p->helpers);
	uint64_t set = 1ull << (SIGCHLD - 1), at_once[2] = { 0, 0 };

	for (uint64_t i = 0; i < p->helpers.n; i++)
		must(p, PLAN_STEP_REAP, h[i], sys(__NR_wait4, h[i], 0, WALL, 0));
	if (p->children.n)
		while (sys(__NR_rt_sigtimedwait, &set, 0, at_once, 8) > 0)
			;
}

/* By exit, or by the signal that ended the original: with its default action, which SIGKILL needs nobody's leave for. */
_Noreturn void end_as_told(struct plan *p)
{
	int32_t signo = p->end & 0x7f;

	if (p->comm[0])
		sys(__NR_prctl, PR_SET_NAME, p->comm, 0, 0, 0);
	if (signo) {
		uint64_t act[4] = { 0 }, mask = ~(1ull << (signo - 1)), limit[2] = { 0, 0 };

		/* The original's core was written, or not, long ago. */
		sys(__NR_prlimit64, 0, 4 /* RLIMIT_CORE */, limit, 0);
		sys(__NR_rt_sigaction, signo, act, 0, 8);
		sys(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, 8);
		sys(__NR_tgkill, sys(__NR_getpid), sys(__NR_gettid), signo);
	}
	for (;;)
		sys(__NR_exit_group, p->end >> 8 & 0xff);
}
