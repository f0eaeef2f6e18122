/* SPDX-License-Identifier: MIT */
/* Entry of the freshly executed restorer: the kernel's initial stack becomes the argument. */
	.section .text.start, "ax", @progbits
	.globl _start
_start:
	xorl %ebp, %ebp
	movq %rsp, %rdi
	andq $-16, %rsp
	call restorer_boot
	ud2

/* restorer_jump(plan, vdso, entry, stack): go on in the copy, on its stack. */
	.globl restorer_jump
restorer_jump:
	movq %rcx, %rsp
	xorl %ebp, %ebp
	call *%rdx
	ud2

/*
 * NAME(args, size, plan, what): clone3; the new task calls entry(plan, what) on its stack. Returns in the caller only.
 */
.macro clone_into name, entry
	.globl \name
\name:
	movq %rdx, %r8
	movq %rcx, %r9
	movl $435, %eax
	syscall
	testq %rax, %rax
	jnz 1f
	xorl %ebp, %ebp
	movq %r8, %rdi
	movq %r9, %rsi
	call \entry
	ud2
1:	ret
.endm

	clone_into restorer_clone, restorer_thread	/* a thread, and its plan_thread */
	clone_into restorer_clone_child, restorer_child /* a process, and its plan_child */

	.section .note.GNU-stack, "", @progbits
