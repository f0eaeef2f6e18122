/* SPDX-License-Identifier: MIT */
/* Scheduling policy, nice, affinity, I/O priority and timer slack of a thread; resource limits of the process. */
#include <sched.h>
#include <sys/resource.h>

#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/msg.h"
#include "lib/state/task/task.h"

#define RESET_ON_FORK_IN_POLICY 0x40000000u
#define MAX_CPU_BYTES 1024
#define IOPRIO_WHO_PROCESS 1

/*
 * Beyond the format: the numbers of a deadline thread, a time slice of its own, clamps of its utilisation. The kernel gives
 * everybody's time slice and says not which are the default; ours is.
 */
static int dump_extra(struct op *op, const struct sched_attr *attr, ThreadExtra *extra)
{
	struct sched_attr own = { .size = sizeof(own) };
	SchedExtra *e = msg_new(op, SchedExtra, sched_extra);
	bool fair = attr->sched_policy == SCHED_OTHER || attr->sched_policy == SCHED_BATCH;

	if (!e)
		return CKPT_E_NOMEM;
	extra->sched = e;
	sys_sched_getattr(0, &own, sizeof(own), 0);
	if (attr->sched_policy == SCHED_DEADLINE) {
		msg_set(e, flags, attr->sched_flags);
		msg_set(e, runtime, attr->sched_runtime);
		msg_set(e, deadline, attr->sched_deadline);
		msg_set(e, period, attr->sched_period);
	} else if (fair && attr->sched_runtime && attr->sched_runtime != own.sched_runtime) {
		msg_set(e, runtime, attr->sched_runtime);
	}
	/* Without support in the kernel everybody has a maximum of 0. */
	if (attr->sched_util_max || attr->sched_util_min || own.sched_util_max) {
		msg_set(e, util_min, attr->sched_util_min);
		msg_set(e, util_max, attr->sched_util_max);
	}
	return 0;
}

static int dump_policy(struct op *op, const struct tracee *tr, ThreadCoreEntry *tc, ThreadExtra *extra)
{
	struct sched_attr attr = { .size = sizeof(attr) };

	if (sys_sched_getattr(tr->tid, &attr, sizeof(attr), 0) < 0)
		return op_errno(op, errno, AT(.pid = tr->tid), "read the scheduling of thread %d", tr->tid);
	msg_set(tc, sched_policy, attr.sched_policy |
		(attr.sched_flags & SCHED_FLAG_RESET_ON_FORK ? RESET_ON_FORK_IN_POLICY : 0));
	msg_set(tc, sched_nice, attr.sched_nice);
	if (attr.sched_priority)
		msg_set(tc, sched_prio, attr.sched_priority);
	return dump_extra(op, &attr, extra);
}

int sched_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
	       ThreadCoreEntry *tc, ThreadExtra *extra)
{
	uint8_t mask[MAX_CPU_BYTES];
	long n, prio;
	int r = dump_policy(op, tr, tc, extra);

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
	int r = proc_read_limits(op, d->task->host, limits);

	if (r || !e)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->host), "task %d ended", d->task->host);
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

/* "/autogroup-25 nice 0". A session has it in common; its leader stands for it. */
void autogroup_dump(struct op *op, const struct task_dump *d, TaskExtra *x)
{
	char *text, *nice;
	size_t len;

	if (d->target->stat.session != d->task->host)
		return;
	if (proc_read_file(op, d->task->host, "autogroup", &text, &len) != 0) {
		op_forget(op);
		return;
	}
	nice = strstr(text, " nice ");
	if (nice && atoi(nice + 6))
		msg_set(x, autogroup_nice, atoi(nice + 6));
}
