/* SPDX-License-Identifier: MIT */
/*
 * Threads with AMX tiles in use. The kernel makes room for tiles when a thread touches the first one, and takes them from a
 * tracer only then: the thread is made to touch one, with code in the restorer's scratch page.
 */
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/arch/x86_64/tiles.h"

static int touch(struct op *op, struct new_task *r, pid_t tid, uint64_t code)
{
	struct user_regs_struct regs;
	int status = 0, ret;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	regs.rip = code;
	regs.orig_rax = (unsigned long long)-1;
	ret = restore_set_regs(op, tid, &regs);
	while (!ret) {
		if (ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
			return op_errno(op, errno, AT(.pid = tid), "resume thread %d", tid);
		ret = restore_wait(op, r, tid, &status);
		if (ret || (WIFSTOPPED(status) && !(status >> 16)))
			break;
		if (!WIFSTOPPED(status))
			return op_fail(op, CKPT_E_SYS, AT(.pid = tid), "thread %d was killed while it was restored", tid);
	}
	if (!ret && WSTOPSIG(status) != SIGTRAP)
		return op_fail(op, CKPT_E_KERNEL, AT(.pid = tid, .kind = "AMX"), "thread %d cannot use AMX here (signal %d)", tid,
			       WSTOPSIG(status));
	return ret;
}

int restore_tiles(struct op *op, struct new_task *r)
{
	uint8_t code[X86_TILES_CODE];
	uint64_t at = 0;
	int ret = 0;

	for (size_t i = 0; i < r->n_threads && !ret; i++) {
		struct new_thread *t = &r->threads[i];

		if (!x86_tiles_in_use(t->xstate, t->xstate_len))
			continue;
		x86_tiles_code(code);
		ret = at ? 0 : restore_scratch(op, r, code, sizeof(code), &at);
		ret = ret ?: touch(op, r, t->tid, at);
	}
	return ret;
}
