/* SPDX-License-Identifier: MIT */
/* Restartable sequences. */
#include <sys/ptrace.h>

#include "lib/kernel/uapi.h"
#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define RSEQ_CS_OFFSET 8 /* of rseq_cs in struct rseq */
#define CS_NO_RESTART_ON_SIGNAL 0x2

struct rseq_critical_section {
	uint32_t version, flags;
	uint64_t start_ip, post_commit_offset, abort_ip;
};

/*
 * A thread that was stopped inside a critical section has to abort it, as it would for any preemption: its restored life
 * starts at the abort handler, unless the section says that signals do not restart it.
 */
static int leave_section(struct op *op, const struct task_dump *d, uint64_t rseq, struct user_regs_struct *regs, RseqEntry *e)
{
	struct rseq_critical_section cs;
	uint64_t at;
	int r = target_read(op, d->target, (struct raddr){ rseq + RSEQ_CS_OFFSET }, &at, sizeof(at));

	if (r || !at)
		return r;
	r = target_read(op, d->target, (struct raddr){ at }, &cs, sizeof(cs));
	if (r || regs->rip - cs.start_ip >= cs.post_commit_offset)
		return r;
	if (cs.flags & CS_NO_RESTART_ON_SIGNAL)
		msg_set(e, rseq_cs_pointer, at);
	else
		regs->rip = cs.abort_ip;
	return 0;
}

int rseq_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, struct user_regs_struct *regs,
	      ThreadCoreEntry *tc)
{
	struct ptrace_rseq_configuration conf = { 0 };
	RseqEntry *e;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tr->tid, sizeof(conf), &conf) < 0)
		return op_errno(op, errno, AT(.pid = tr->tid), "read the rseq registration of thread %d", tr->tid);
	if (!conf.rseq_abi_pointer)
		return 0;
	e = msg_new(op, RseqEntry, rseq_entry);
	if (!e)
		return CKPT_E_NOMEM;
	e->rseq_abi_pointer = conf.rseq_abi_pointer;
	e->rseq_abi_size = conf.rseq_abi_size;
	e->signature = conf.signature;
	tc->rseq_entry = e;
	return leave_section(op, d, conf.rseq_abi_pointer, regs, e);
}
