/* SPDX-License-Identifier: MIT */
/* Making a thread of a new process do a system call, while it still has the restorer's area. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"

int restore_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs)
{
	struct iovec iov = { (void *)regs, sizeof(*regs) };

	if (ptrace(PTRACE_SETREGSET, tid, (void *)1 /* NT_PRSTATUS */, &iov) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = tid), "load the registers of thread %d", tid);
}

static int wait_syscall_stop(struct op *op, struct new_task *r, pid_t tid)
{
	int status, ret = restore_wait(op, r, tid, &status);

	if (ret)
		return ret;
	if (WIFEXITED(status) || WIFSIGNALED(status)) {
		if (tid == r->pid)
			r->pid = 0;
		return op_fail(op, CKPT_E_SYS, AT(.pid = tid), "thread %d was killed while it was restored", tid);
	}
	if (WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80))
		return 0;
	return 1; /* another stop */
}

void restore_call_regs(const struct new_task *r, struct user_regs_struct *regs, long nr, const uint64_t *args)
{
	regs->rip = r->syscall_at;
	regs->rax = (unsigned long long)nr;
	regs->orig_rax = (unsigned long long)-1;
	regs->rdi = args[0];
	regs->rsi = args[1];
	regs->rdx = args[2];
	regs->r10 = args[3];
	regs->r8 = args[4];
	regs->r9 = args[5];
}

int restore_call(struct op *op, struct new_task *r, pid_t tid, long nr, const uint64_t *args, long *result)
{
	struct user_regs_struct regs;
	int stops = 0, ret;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	restore_call_regs(r, &regs, nr, args);
	ret = restore_set_regs(op, tid, &regs);
	while (!ret && stops < 2) {
		ret = restore_resume(op, r, tid, PTRACE_SYSCALL, 0) ?: wait_syscall_stop(op, r, tid);
		if (!ret)
			stops++;
		else if (ret == 1)
			ret = 0;
	}
	if (ret)
		return ret;
	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	*result = (long)regs.rax;
	return 0;
}

int restore_must_call(struct op *op, struct new_task *r, long nr, const uint64_t *args, const char *what)
{
	long result = 0;
	int ret = restore_call(op, r, r->pid, nr, args, &result);

	if (!ret && result < 0)
		ret = op_errno(op, (int)-result, AT(.pid = r->pid), "task %d: %s", r->pid, what);
	return ret;
}

int restore_scratch(struct op *op, struct new_task *r, const void *p, size_t n, uint64_t *at)
{
	uint64_t scratch = r->plan->base + r->plan->map_len - PLAN_SCRATCH;
	struct iovec local = { (void *)p, n }, remote = { (void *)scratch, n };

	*at = scratch;
	if (process_vm_writev(r->pid, &local, 1, &remote, 1, 0) == (ssize_t)n)
		return 0;
	return op_errno(op, errno, AT(.pid = r->pid), "write into task %d", r->pid);
}
