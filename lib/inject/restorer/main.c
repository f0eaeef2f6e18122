/* SPDX-License-Identifier: MIT */
/*
 * The restorer: what becomes the restored task. It is executed (so that the address space is new and nothing of the
 * engine's process is in it), maps the plan memfd, which holds a second copy of this program, goes on in that copy, and
 * makes the task what the plan says. When everything is in place each thread stops with int3; the engine, which traces
 * it, then takes the area away and loads the registers.
 */
#include <linux/auxvec.h>
#include <linux/mman.h>

#include "lib/inject/restorer/restorer.h"

_Noreturn void restorer_boot(uint64_t *stack);
_Noreturn void restorer_jump(struct plan *p, uint64_t vdso, void *entry, uint64_t stack);

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

static void ready(void)
{
	for (;;)
		__asm__ volatile("int3" : : : "memory");
}

static _Noreturn void restore(struct plan *p, uint64_t vdso)
{
	fetch_all(p);
	memory_restore(p, vdso);
	calls_make(p, p->phases[PLAN_MEMORY]);
	task_restore(p);
	threads_create(p);
	files_restore(p);
	timers_restore(p);
	signals_queue(p, p->signals, 0);
	rlimits_restore(p);
	calls_make(p, p->phases[PLAN_LAST]);
	thread_restore(p, PLAN_AT(p, struct plan_thread, p->threads));
	ready();
	__builtin_unreachable();
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
	restorer_jump(p, vdso, (void *)(base + (uint64_t)((char *)restore - blob_image)),
		      base + p->stacks + PLAN_MAIN_STACK);
}
