/* SPDX-License-Identifier: MIT */
/*
 * Memory policies of areas: mbind(2). /proc shows the policy that counts, which may be the thread's; the task itself can ask
 * for that of the area.
 */
#include <linux/mempolicy.h>

#include "lib/kernel/uapi.h"
#include "lib/state/mem/areas.h"
#include "lib/state/msg.h"
#include "lib/state/task/numa.h"

static int add_policy(struct op *op, struct task_dump *d, const struct proc_vma *v, const struct parasite_args *a, size_t *cap)
{
	TaskExtra *x = d->task->extra;
	AreaPolicy *p = msg_new(op, AreaPolicy, area_policy);

	if (!p || (x->n_area_policies == *cap && arena_grow(op->arena, (void **)&x->area_policies, cap, x->n_area_policies,
							     sizeof(*x->area_policies))))
		return op_nomem(op);
	p->start = v->start;
	p->end = v->end;
	x->area_policies[x->n_area_policies++] = p;
	return numa_message(op, a->areas[0].mode, a->nodes, &p->policy);
}

static int ask(struct op *op, struct task_dump *d, struct parasite_args *a, const struct proc_vma *v, size_t n)
{
	*a = (struct parasite_args){ .what = PARASITE_AREAS, .n_areas = (int32_t)n };
	for (size_t i = 0; i < n; i++)
		a->areas[i].addr = v[i].start;
	return parasite_run(op, d->target, &d->target->threads.v[0], d->parasite, a);
}

/* Of @n areas from @v on. Few have one, so that each of those may be asked for a second time, for the nodes. */
static int some_areas(struct op *op, struct task_dump *d, struct parasite_args *a, const struct proc_vma *v, size_t n, size_t *cap)
{
	struct parasite_area_policy answers[PARASITE_AREAS_N];
	int r = ask(op, d, a, v, n);

	memcpy(answers, a->areas, sizeof(answers));
	for (size_t i = 0; i < n && !r; i++) {
		if (answers[i].result < 0 || answers[i].mode == MPOL_DEFAULT)
			continue;
		r = ask(op, d, a, v + i, 1);
		r = r ?: add_policy(op, d, v + i, a, cap);
	}
	return r;
}

int mbind_dump(struct op *op, struct task_dump *d)
{
	struct parasite_args *a = op_new(op, struct parasite_args);
	const struct proc_maps *maps = d->maps;
	size_t cap = 0;
	int r = a ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; i < maps->vmas.n && !r; i += PARASITE_AREAS_N) {
		r = some_areas(op, d, a, &maps->vmas.v[i], MIN(maps->vmas.n - i, (size_t)PARASITE_AREAS_N), &cap);
		if (!r && a->areas[0].result == -ENOSYS)
			break; /* a kernel without NUMA */
	}
	return r;
}

int mbind_plan(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	uint64_t nodes[PARASITE_NODE_WORDS], at;
	int r = 0;

	for (size_t i = 0; i < x->n_area_policies && !r; i++) {
		const AreaPolicy *p = x->area_policies[i];
		struct plan_call c = { .nr = __NR_mbind, .flags = PLAN_CALL_MAY_FAIL, .data_args = 1 << 3 };

		r = areas_check(b, p->start, p->end, "the memory policy");
		r = r ?: numa_nodes(b->op, b->task->pid, p->policy, nodes);
		r = r ?: plan_put(b, nodes, sizeof(nodes), &at);
		if (r)
			return r;
		/* Pages are moved to where the policy wants them. The nodes may be others here: a warning then. */
		memcpy(c.args, (const uint64_t[6]){ p->start, p->end - p->start, p->policy->mode, at, NUMA_MAX_NODE, MPOL_MF_MOVE },
		       sizeof(c.args));
		r = MIN(plan_call(b, PLAN_MEMORY, &c,
				  arena_printf(b->op->arena, "memory at %lx-%lx: memory policy (mbind)", p->start, p->end)), 0);
	}
	return r;
}
