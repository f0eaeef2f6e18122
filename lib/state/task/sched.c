/* SPDX-License-Identifier: MIT */
/* Scheduling policy, nice, affinity, I/O priority and timer slack of a thread; resource limits of the process. */
#include <sched.h>
#include <sys/resource.h>

#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define POLICY_DEADLINE 6
#define POLICY_EXT 7
#define RESET_ON_FORK_IN_POLICY 0x40000000u
#define MAX_CPU_BYTES 1024
#define IOPRIO_WHO_PROCESS 1

static int dump_policy(struct op *op, const struct tracee *tr, ThreadCoreEntry *tc)
{
	struct sched_attr attr = { .size = sizeof(attr) };

	if (sys_sched_getattr(tr->tid, &attr, sizeof(attr), 0) < 0)
		return op_errno(op, errno, AT(.pid = tr->tid), "read the scheduling of thread %d", tr->tid);
	if (attr.sched_policy == POLICY_DEADLINE || attr.sched_policy == POLICY_EXT)
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = tr->tid, .kind = "scheduling",
				  .hint = "give it another policy with chrt(1) for the checkpoint"),
			       "thread %d is scheduled by policy %s, which the image format cannot hold", tr->tid,
			       attr.sched_policy == POLICY_DEADLINE ? "SCHED_DEADLINE" : "SCHED_EXT");
	msg_set(tc, sched_policy, attr.sched_policy |
		(attr.sched_flags & SCHED_FLAG_RESET_ON_FORK ? RESET_ON_FORK_IN_POLICY : 0));
	msg_set(tc, sched_nice, attr.sched_nice);
	if (attr.sched_priority)
		msg_set(tc, sched_prio, attr.sched_priority);
	return 0;
}

int sched_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
	       ThreadCoreEntry *tc, ThreadExtra *extra)
{
	uint8_t mask[MAX_CPU_BYTES];
	long n, prio;
	int r = dump_policy(op, tr, tc);

	(void)d;
	if (r)
		return r;
	n = sched_getaffinity(tr->tid, sizeof(mask), (cpu_set_t *)mask) == 0 ? (long)sizeof(mask) : -1;
	if (n > 0) {
		while (n > 8 && !mask[n - 1])
			n--;
		extra->has_affinity = 1;
		extra->affinity.len = (size_t)n;
		extra->affinity.data = arena_memdup(op->arena, mask, (size_t)n);
		if (!extra->affinity.data)
			return op_nomem(op);
	}
	prio = sys_ioprio_get(IOPRIO_WHO_PROCESS, tr->tid);
	if (prio >= 0)
		msg_set(extra, ioprio, (uint32_t)prio);
	if (a->timerslack > 0)
		msg_set(extra, timerslack_ns, (uint64_t)a->timerslack);
	return 0;
}

int rlimits_dump(struct op *op, const struct task_dump *d, TaskCoreEntry *tc)
{
	struct proc_limit limits[16];
	TaskRlimitsEntry *e = msg_new(op, TaskRlimitsEntry, task_rlimits_entry);
	/* From /proc: prlimit(2) on another user's task needs CAP_SYS_RESOURCE. */
	int r = proc_read_limits(op, d->task->pid, limits);

	if (r || !e)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->pid), "task %d ended", d->task->pid);
	e->rlimits = op_alloc(op, ARRAY_SIZE(limits) * sizeof(*e->rlimits));
	if (!e->rlimits)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		RlimitEntry *l = msg_new(op, RlimitEntry, rlimit_entry);

		if (!l)
			return CKPT_E_NOMEM;
		l->cur = limits[i].cur;
		l->max = limits[i].max;
		e->rlimits[e->n_rlimits++] = l;
	}
	tc->rlimits = e;
	return 0;
}
