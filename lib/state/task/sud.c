/* SPDX-License-Identifier: MIT */
/* Syscall user dispatch: read by the injection, which has to turn it off; put back when no call of ours is left to make. */
#include <sys/ptrace.h>

#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/task/task.h"

int sud_dump(struct op *op, const struct tracee *tr, ThreadExtra *x)
{
	if (!tr->sud.mode)
		return 0;
	x->sud = msg_new(op, SudEntry, sud_entry);
	if (!x->sud)
		return CKPT_E_NOMEM;
	x->sud->mode = tr->sud.mode;
	x->sud->selector = tr->sud.selector;
	x->sud->offset = tr->sud.offset;
	x->sud->len = tr->sud.len;
	return 0;
}

int sud_restore(struct op *op, const struct snap_thread *t, pid_t tid)
{
	const SudEntry *e = t->extra ? t->extra->sud : NULL;
	struct ptrace_sud_config conf;

	if (!e)
		return 0;
	conf = (struct ptrace_sud_config){ e->mode, e->selector, e->offset, e->len };
	if (ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(conf), &conf) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = tid, .kind = "syscall user dispatch", .hint = "this needs Linux 6.4"),
			"turn on the syscall user dispatch of thread %d", tid);
}
