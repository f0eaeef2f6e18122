/* SPDX-License-Identifier: MIT */
/* Properties of a task and its threads that only our own file has, and in which order the task takes them on again. */
#include <sys/prctl.h>

#include "lib/kernel/uapi.h"
#include "lib/state/mem/uring_area.h"
#include "lib/state/ns/nested.h"
#include "lib/state/task/plan_build.h"

static int plan_thread_props(struct plan_build *b, size_t thread)
{
	int r = 0;

	if (!b->task->threads.v[thread].extra)
		return 0;
	r = r ?: plan_prctls(b, thread);
	return r ?: plan_numa(b, thread);
}

/* After it nothing may become executable that is not yet. */
static int plan_mdwe(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	int r;

	if (!x->has_mdwe || !x->mdwe)
		return 0;
	r = plan_call(b, PLAN_LAST, &(struct plan_call){ .nr = __NR_prctl, .args = { PR_SET_MDWE, x->mdwe } }, "PR_SET_MDWE");
	return MIN(r, 0);
}

int plan_props(struct plan_build *b)
{
	int r = 0;

	for (size_t i = 0; i < b->task->threads.n && !r; i++)
		r = plan_thread_props(b, i);
	r = r ?: nested_plan(b);
	r = r ?: uring_areas_plan(b);
	if (r || !b->task->extra)
		return r;
	r = x86_plan_task(b);
	r = r ?: cookie_plan(b);
	/* The rest belongs to the address space. */
	if (r || b->shares_memory || !b->task->mm)
		return r;
	r = plan_prctls_task(b);
	r = r ?: areas_plan(b);
	r = r ?: areas_plan_late(b);
	return r ?: plan_mdwe(b);
}
