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
 * restorer_clone(args, size, plan, thread): clone3; the new thread calls restorer_thread(plan, thread) on its stack.
 * Returns in the caller only.
 */
	.globl restorer_clone
restorer_clone:
	movq %rdx, %r8
	movq %rcx, %r9
	movl $435, %eax
	syscall
	testq %rax, %rax
	jnz 1f
	xorl %ebp, %ebp
	movq %r8, %rdi
	movq %r9, %rsi
	call restorer_thread
	ud2
1:	ret
/* restorer_clone_child(args, size, plan, child): the same for a process, which calls restorer_child(plan, child). */
	.globl restorer_clone_child
restorer_clone_child:
	movq %rdx, %r8
	movq %rcx, %r9
	movl $435, %eax
	syscall
	testq %rax, %rax
	jnz 1f
	xorl %ebp, %ebp
	movq %r8, %rdi
	movq %r9, %rsi
	call restorer_child
	ud2
1:	ret
	.section .note.GNU-stack, "", @progbits
