/* SPDX-License-Identifier: MIT */
/* clone3 with CLONE_VM: the child runs on a stack of its own, so this cannot be an ordinary function call. */
#ifndef CKPT_ARCH_X86_64_CLONE_VM_H
#define CKPT_ARCH_X86_64_CLONE_VM_H

#include "lib/kernel/uapi.h"

/* Raw system call: negative errno on failure. */
static inline long raw_syscall(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return ret;
}

/*
 * The child calls @fn(@arg) on the stack in @args and must not return from it. It shares our memory and, as a task of its
 * own, nothing else that @args does not say: it must use raw system calls only. Returns the child's number in the parent.
 */
static inline long clone_vm(struct clone_args *args, size_t size, void (*fn)(void *), void *arg)
{
	register void *r8 __asm__("r8") = (void *)fn;
	register void *r9 __asm__("r9") = arg;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "testq %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xorl %%ebp, %%ebp\n\t"
			 "movq %%r9, %%rdi\n\t"
			 "call *%%r8\n\t"
			 "ud2\n"
			 "1:"
			 : "=a"(ret)
			 : "a"((long)__NR_clone3), "D"(args), "S"(size), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}

/*
 * For a process that only has to exist while @parent, who made it, does: stays until then, and ends. Raw system calls only.
 * What it has of its parent's descriptors would otherwise stay open after a parent that was killed.
 */
__attribute__((noreturn, no_sanitize("address", "undefined", "thread"))) static inline void stay_while(long parent)
{
	const struct {
		long s, ns;
	} a_while = { 0, 100000000 };

	raw_syscall(__NR_prctl, 1 /* PR_SET_PDEATHSIG */, 9 /* SIGKILL */, 0, 0, 0);
	/* Who was killed before that sends no signal any more. */
	while (raw_syscall(__NR_getppid, 0, 0, 0, 0, 0) == parent)
		raw_syscall(__NR_nanosleep, (long)&a_while, 0, 0, 0, 0);
	for (;;)
		raw_syscall(__NR_exit, 0, 0, 0, 0, 0);
}

#endif
