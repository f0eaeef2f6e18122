/* SPDX-License-Identifier: MIT */
/* Properties of areas: what the kinds have in common, and those that take two lines: locks on fault and seals. */
#include <sys/mman.h>

#include "lib/kernel/uapi.h"
#include "lib/state/mem/areas.h"
#include "lib/state/msg.h"

int areas_collect(struct op *op, const struct proc_maps *maps, bool (*want)(const struct proc_vma *), AreaRange ***ret, size_t *n)
{
	AreaRange *last = NULL;
	size_t cap = 0;

	*ret = NULL;
	*n = 0;
	for (size_t i = 0; i < maps->vmas.n; i++) {
		const struct proc_vma *v = &maps->vmas.v[i];

		if (!want(v))
			continue;
		if (last && last->end == v->start) {
			last->end = v->end;
			continue;
		}
		last = msg_new(op, AreaRange, area_range);
		if (!last || (*n == cap && arena_grow(op->arena, (void **)ret, &cap, *n, sizeof(**ret))))
			return op_nomem(op);
		last->start = v->start;
		last->end = v->end;
		(*ret)[(*n)++] = last;
	}
	return 0;
}

static bool on_fault(const struct proc_vma *v)
{
	return v->vmflags & VMF_LF;
}

/* The kernel seals its own areas, [vdso] and [vvar]; those of the restored task are its own matter again. */
static bool sealed(const struct proc_vma *v)
{
	return (v->vmflags & VMF_SL) && strncmp(v->name, "[v", 2) != 0;
}

int areas_dump(struct op *op, struct task_dump *d)
{
	TaskExtra *x = d->task->extra;
	int r = areas_collect(op, d->maps, on_fault, &x->onfault, &x->n_onfault);

	r = r ?: areas_collect(op, d->maps, sealed, &x->sealed, &x->n_sealed);
	return r ?: pkeys_dump(op, d);
}

/* --------------------------------------------------------------------------------------------------- restore */

/* The area that has @addr, or the index of the first behind it. plan_memory() has seen to it that they ascend. */
static size_t find_area(const MmEntry *mm, uint64_t addr)
{
	size_t lo = 0, hi = mm->n_vmas;

	while (hi && (mm->vmas[hi - 1]->status & VMA_GUARD))
		hi--;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (mm->vmas[mid]->end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct plan_vma *areas_planned(struct plan_build *b, uint64_t addr)
{
	struct plan_array arr = PLAN(b)->vmas;
	struct plan_vma *v = PLAN_AT(PLAN(b), struct plan_vma, arr);
	uint64_t lo = 0, hi = arr.n;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (v[mid].start + v[mid].len <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < arr.n && v[lo].start <= addr ? &v[lo] : NULL;
}

int areas_check(struct plan_build *b, uint64_t start, uint64_t end, const char *what)
{
	const MmEntry *mm = b->task->mm;
	uint64_t at = start;

	if (!(start % PAGE_SIZE) && !(end % PAGE_SIZE) && start < end)
		for (size_t i = find_area(mm, start); i < mm->n_vmas && at < end; i++) {
			if (!(mm->vmas[i]->status & VMA_REGULAR) || mm->vmas[i]->start > at)
				break;
			at = mm->vmas[i]->end;
		}
	if (at > start && at >= end)
		return 0;
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = start, .kind = "vma"),
		       "%s of task %d at %#lx-%#lx: no area is there", what, b->task->pid, start, end);
}

int areas_call(struct plan_build *b, enum plan_phase phase, uint32_t nr, uint32_t flags, uint64_t start, uint64_t end,
	       const uint64_t rest[4], const char *what)
{
	struct plan_call c = { .nr = nr, .flags = flags, .args = { start, end - start, rest[0], rest[1], rest[2], rest[3] } };
	const char *text = arena_printf(b->op->arena, "memory at %lx-%lx: %s", start, end, what);

	return MIN(plan_call(b, phase, &c, text), 0);
}

/* A lock as the format has it would fill the area. */
static void leave_unlocked(struct plan_build *b, const AreaRange *r)
{
	const struct plan_vma *end = PLAN_AT(PLAN(b), struct plan_vma, PLAN(b)->vmas) + PLAN(b)->vmas.n;

	for (struct plan_vma *v = areas_planned(b, r->start); v && v < end && v->start < r->end; v++)
		v->lock = 0;
}

static int plan_on_fault(struct plan_build *b, const TaskExtra *x)
{
	int r = 0;

	for (size_t i = 0; i < x->n_onfault && !r; i++) {
		const AreaRange *a = x->onfault[i];

		r = areas_check(b, a->start, a->end, "the locks on fault");
		if (r)
			return r;
		leave_unlocked(b, a);
		r = areas_call(b, PLAN_MEMORY, __NR_mlock2, 0, a->start, a->end, (const uint64_t[4]){ MLOCK_ONFAULT },
			       "lock on fault");
	}
	return r;
}

int areas_plan(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	int r = plan_on_fault(b, x);

	r = r ?: pkeys_plan(b);
	return r ?: mbind_plan(b);
}

int areas_plan_late(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	int r = 0;

	if (x->has_mlock_future) {
		if (x->mlock_future & ~(uint32_t)(MCL_FUTURE | MCL_ONFAULT) || !(x->mlock_future & MCL_FUTURE))
			return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "mlockall"),
				       "the mlockall flags of task %d make no sense in the image", b->task->pid);
		r = plan_call(b, PLAN_LAST, &(struct plan_call){ .nr = __NR_mlockall, .args = { x->mlock_future } },
			      "mlockall(MCL_FUTURE)");
	}
	for (size_t i = 0; i < x->n_sealed && r >= 0; i++) {
		r = areas_check(b, x->sealed[i]->start, x->sealed[i]->end, "the seal");
		if (!r)
			r = areas_call(b, PLAN_LAST, __NR_mseal, 0, x->sealed[i]->start, x->sealed[i]->end,
				       (const uint64_t[4]){ 0 }, "seal it (mseal)");
	}
	return MIN(r, 0);
}
