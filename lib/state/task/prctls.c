/* SPDX-License-Identifier: MIT */
/*
 * Properties of a thread or process that are set by prctl(2) and the like and that we can see but not put back yet: a task
 * that has one is refused by name rather than restored without it.
 */
#include <linux/seccomp.h>
#include <sys/ptrace.h>

#include "lib/kernel/uapi.h"
#include "lib/state/task/task.h"

#define MCE_KILL_DEFAULT 2
#define TSC_ENABLED 1
#define SPEC_PRCTL 0x1
#define SPEC_RESTRICTED 0x1c /* DISABLE, FORCE_DISABLE, DISABLE_NOEXEC */

static int refuse(struct op *op, const struct tracee *tr, const char *kind, const char *what)
{
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = tr->tid, .kind = kind), "thread %d has %s: not supported yet", tr->tid,
		       what);
}

static bool speculation_restricted(int64_t v)
{
	return v > 0 && (v & SPEC_PRCTL) && (v & SPEC_RESTRICTED);
}

static bool dispatches_syscalls(const struct tracee *tr)
{
	struct ptrace_sud_config conf = { 0 };

	return ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tr->tid, sizeof(conf), &conf) == 0 && conf.mode;
}

int prctls_check(struct op *op, const struct tracee *tr, const struct parasite_args *a)
{
	if (dispatches_syscalls(tr))
		return refuse(op, tr, "syscall user dispatch", "syscall user dispatch turned on");
	/* Strict seccomp forbids the time stamp counter by itself. */
	if (a->tsc != TSC_ENABLED && tr->status.seccomp != SECCOMP_MODE_STRICT)
		return refuse(op, tr, "TSC", "the time stamp counter forbidden (PR_SET_TSC)");
	if (a->mce_kill >= 0 && a->mce_kill != MCE_KILL_DEFAULT)
		return refuse(op, tr, "machine check policy", "a machine check policy of its own (PR_MCE_KILL)");
	if (speculation_restricted(a->speculation[0]) || speculation_restricted(a->speculation[1]))
		return refuse(op, tr, "speculation control", "speculation restricted (PR_SET_SPECULATION_CTRL)");
	if (a->mempolicy_result == 0 && a->mempolicy)
		return refuse(op, tr, "NUMA policy", "a NUMA memory policy of its own (set_mempolicy)");
	if (!(a->what & PARASITE_PROCESS))
		return 0;
	if (a->mdwe > 0)
		return refuse(op, tr, "MDWE", "memory-deny-write-execute turned on (PR_SET_MDWE)");
	if (a->memory_merge == 1)
		return refuse(op, tr, "KSM", "merging of equal pages turned on (PR_SET_MEMORY_MERGE)");
	return 0;
}
