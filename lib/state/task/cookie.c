/* SPDX-License-Identifier: MIT */
/*
 * Core scheduling: tasks with the same cookie may run on one core at the same time. A cookie's value is the kernel's own;
 * what matters is who shares one. The first task that has it makes a new one, the others take it from there.
 *
 * Written by the kernel's documentation (admin-guide/hw-vuln/core-scheduling).
 */
#include <sys/prctl.h>

#include "lib/kernel/uapi.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/task/task.h"
#include "lib/state/ns/nested.h"

#define SCOPE_THREAD 0
#define SCOPE_PROCESS 1

void cookie_dump(struct op *op, const struct task_dump *d, TaskExtra *x)
{
	unsigned long leader = 0, other;

	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, d->task->host, SCOPE_THREAD, (unsigned long)&leader) < 0)
		return;
	if (leader)
		msg_set(x, core_cookie, leader);
	for (size_t i = 1; i < d->target->threads.n; i++) {
		other = leader;
		prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, d->target->threads.v[i].tid, SCOPE_THREAD, (unsigned long)&other);
		if (other != leader)
			log_warn(op, "thread %d has a core scheduling cookie of its own; restored, it has that of its process",
				 d->target->threads.v[i].tid);
	}
}

static pid_t first_with(const struct snapshot *s, uint64_t cookie)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].extra && s->tasks.v[i].extra->has_core_cookie && s->tasks.v[i].extra->core_cookie == cookie)
			return s->tasks.v[i].pid;
	return 0;
}

static int core_call(struct plan_build *b, enum plan_phase phase, uint64_t command, pid_t pid, uint64_t scope)
{
	struct plan_call c = { .nr = __NR_prctl, .flags = PLAN_CALL_MAY_FAIL, .args = { PR_SCHED_CORE, command, (uint64_t)pid, scope } };

	return MIN(plan_call(b, phase, &c, "core scheduling cookie"), 0);
}

int cookie_plan(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	pid_t first;
	int r;

	if (!x->has_core_cookie || !x->core_cookie)
		return 0;
	first = first_with(b->s, x->core_cookie);
	if (first == b->task->pid || !nested_seen(b->s, b->task, first))
		return core_call(b, PLAN_OPEN, PR_SCHED_CORE_CREATE, 0, SCOPE_PROCESS);
	/* Taking one gives it to the calling thread only, which then gives it to the others. */
	r = core_call(b, PLAN_LINK, PR_SCHED_CORE_SHARE_FROM, nested_seen(b->s, b->task, first), SCOPE_THREAD);
	return r ?: core_call(b, PLAN_LINK, PR_SCHED_CORE_SHARE_TO, nested_seen(b->s, b->task, b->task->pid), SCOPE_PROCESS);
}
