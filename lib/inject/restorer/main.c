/* SPDX-License-Identifier: MIT */
/*
 * The restorer: what becomes the restored task. It is executed (so that the address space is new and nothing of the
 * engine's process is in it), maps the plan memfd, which holds a second copy of this program, goes on in that copy, and
 * makes the task what the plan says. When everything is in place each thread stops with int3; the engine, which traces
 * it, then takes the area away and loads the registers.
 */
#include <linux/auxvec.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>

#include "lib/inject/restorer/restorer.h"

_Noreturn void restorer_boot(uint64_t *stack);

_Noreturn void fail(struct plan *p, enum plan_step step, uint64_t index, long err)
{
	uint32_t free = PLAN_STEP_NONE;

	/* pad claims the record; step is written last, so that the engine never sees half of it. */
	if (__atomic_compare_exchange_n(&p->error.pad, &free, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
		p->error.err = (int32_t)-err;
		p->error.tid = (int32_t)sys(__NR_gettid);
		p->error.index = index;
		__atomic_store_n(&p->error.step, step, __ATOMIC_RELEASE);
	}
	for (;;)
		sys(__NR_exit_group, 1);
}

static void barrier(struct plan *p, enum plan_barrier which)
{
	if (p->barriers & which)
		stop();
}

/* The process's place in the tree: children, session, group. Its memory is filled on the way, for some children copy it. */
static void take_place(struct plan *p)
{
	group_lead(p);
	children_create(p, 0);
	if (!p->late_session) {
		session_begin(p);
		calls_make(p, p->phases[PLAN_SESSION]);
	}
	children_create(p, 1);
	if (p->kind == PLAN_TASK && !p->shares_memory)
		memory_restore(p);
	children_create(p, 2);
	if (p->late_session) {
		session_begin(p);
		calls_make(p, p->phases[PLAN_SESSION]);
	}
	children_create(p, 3);
}

static void join_others(struct plan *p)
{
	barrier(p, PLAN_BARRIER_TREE);
	if (p->lazy) /* the engine has it by now */
		sys(__NR_close, p->uffd);
	if (!p->leads_group)
		group_join(p);
	barrier(p, PLAN_BARRIER_JOINED);
	/* Who leads a group that others are in, and is itself in another one. */
	if (p->leads_group)
		group_join(p);
}

static long make_uffd(struct plan *p)
{
	if (p->uffd_device >= 0)
		return sys(__NR_ioctl, fetched(p, p->uffd_device), 0xaa00 /* USERFAULTFD_IOC_NEW */, O_CLOEXEC | O_NONBLOCK);
	return sys(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
}

_Noreturn void restorer_go_on(struct plan *p, uint64_t vdso)
{
	p->vdso_now = vdso;
	become(p);
	fetch_all(p);
	if (p->time_ns >= 0) /* who shares memory with somebody may not */
		must(p, PLAN_STEP_TIME_NS, 0, sys(__NR_setns, fetched(p, p->time_ns), 0x80 /* CLONE_NEWTIME */));
	if (p->subreaper)
		must(p, PLAN_STEP_PRCTL, PR_SET_CHILD_SUBREAPER, sys(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	take_place(p);
	if (p->kind == PLAN_FORKS)
		end_as_told(p);
	if (p->kind == PLAN_TASK) {
		calls_make(p, p->phases[PLAN_MEMORY]);
		task_restore(p);
		if (p->lazy)
			p->uffd = (int32_t)must(p, PLAN_STEP_UFFD, 0, make_uffd(p));
		if (p->last_pid_file < 0)
			fetch_close(p);
	}
	join_others(p);
	if (p->kind == PLAN_ENDS)
		end_as_told(p);
	sigactions_restore(p, false);
	threads_create(p);
	files_restore(p);
	barrier(p, PLAN_BARRIER_OPEN);
	files_link(p);
	helpers_reap(p);
	sigactions_restore(p, true);
	timers_restore(p);
	signals_queue(p, p->signals, 0);
	rlimits_restore(p);
	calls_make(p, p->phases[PLAN_LAST]);
	thread_restore(p, PLAN_AT(p, struct plan_thread, p->threads));
	for (;;)
		stop();
}

static uint64_t number(const char *s)
{
	uint64_t v = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (uint64_t)(*s - '0');
	return v;
}

/* argv: name, descriptor of the memfd, base, length, offset of the plan; or name, and the three numbers of init_main(). */
_Noreturn void restorer_boot(uint64_t *stack)
{
	char **argv = (char **)(stack + 1);
	uint64_t *aux = stack + 1 + stack[0] + 1, vdso = 0, base, len;
	struct plan *p;
	long ret;

	if (stack[0] == 4)
		init_main((int)number(argv[1]), (int)number(argv[2]), (int)number(argv[3]));
	while (*aux++) /* the environment */
		;
	for (; aux[0] != AT_NULL; aux += 2)
		if (aux[0] == AT_SYSINFO_EHDR)
			vdso = aux[1];
	base = number(argv[2]);
	len = number(argv[3]);
	ret = sys(__NR_mmap, base, len, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED_NOREPLACE,
		  number(argv[1]), 0);
	if (ret != (long)base)
		for (;;)
			sys(__NR_exit_group, 2);
	sys(__NR_close, number(argv[1]));
	p = (struct plan *)(base + number(argv[4]));
	restorer_jump(p, vdso, (void *)(base + (uint64_t)((char *)restorer_go_on - blob_image)),
		      base + p->stacks + PLAN_MAIN_STACK);
}
