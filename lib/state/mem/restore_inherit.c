/* SPDX-License-Identifier: MIT */
#include "lib/state/mem/restore_inherit.h"

#include <sys/mman.h>

#define MADV_NOT_COPIED (1ull << MADV_DONTFORK | 1ull << MADV_WIPEONFORK)

static uint64_t advice(const VmaEntry *v)
{
	return v->has_madv ? v->madv : 0;
}

bool vma_inherits(const VmaEntry *child, const VmaEntry *parent)
{
	const uint32_t locked = MAP_LOCKED;
	bool grows = child->flags & MAP_GROWSDOWN;

	if (!vma_is_private(child) || !vma_is_private(parent) || ((child->status | parent->status) & (VMA_VDSO | VMA_SHSTK)))
		return false;
	if ((child->flags | locked) != (parent->flags | locked) || child->status != parent->status ||
	    advice(child) != advice(parent) || (advice(parent) & MADV_NOT_COPIED))
		return false;
	if ((child->status & VMA_FILE_PRIVATE) &&
	    (child->shmid != parent->shmid || child->pgoff - child->start != parent->pgoff - parent->start))
		return false;
	/* An area can be made longer, but for a stack not be made to begin earlier. */
	return grows ? child->end == parent->end : child->start >= parent->start && child->start < parent->end;
}

/* Guard pages are not dropped with the others. */
static bool guarded(const MmEntry *mm, const VmaEntry *v)
{
	for (size_t i = mm->n_vmas; i-- > 0 && (mm->vmas[i]->status & VMA_GUARD);)
		if (mm->vmas[i]->start < v->end && v->start < mm->vmas[i]->end)
			return true;
	return false;
}

static int keep(struct plan_build *b, struct plan_vma *v, const VmaEntry *child, const VmaEntry *parent)
{
	struct plan_inherited *in = ARRAY_ADD(b->op->arena, &b->inherited);
	struct plan_range *range = ARRAY_ADD(b->op->arena, &b->keeps);
	uint64_t start = MAX(child->start, parent->start), end = MIN(child->end, parent->end);

	if (!in || !range)
		return op_nomem(b->op);
	*in = (struct plan_inherited){
		.have_prot = parent->prot,
		.have_end = end < child->end ? end : 0,
		.have_start = start > child->start ? start : 0,
	};
	*range = (struct plan_range){ start, end - start };
	v->inherited = (uint32_t)b->inherited.n;
	v->prot = parent->prot;
	return 0;
}

int inherit_mark(struct plan_build *b, struct plan_vma *v, const VmaEntry *const *e, size_t n)
{
	const MmEntry *mm = b->memory_from ? b->memory_from->mm : NULL;
	int r = 0;

	for (size_t i = 0, k = 0; mm && i < n && k < mm->n_vmas && !r;) {
		const VmaEntry *parent = mm->vmas[k];

		if (parent->status & VMA_GUARD)
			break;
		if (parent->start < e[i]->end && e[i]->start < parent->end && !v[i].inherited && vma_inherits(e[i], parent) &&
		    !guarded(mm, parent))
			r = keep(b, &v[i], e[i], parent);
		if (e[i]->end < parent->end)
			i++;
		else
			k++;
	}
	return r;
}

static int add_drop(struct plan_build *b, uint64_t start, uint64_t end)
{
	struct plan_range *d = start < end ? ARRAY_ADD(b->op->arena, &b->drops) : NULL;

	if (start >= end)
		return 0;
	if (!d)
		return op_nomem(b->op);
	*d = (struct plan_range){ start, end - start };
	return 0;
}

static uint64_t entry_end(const PagemapEntry *e)
{
	return e->vaddr + (e->has_nr_pages ? e->nr_pages : e->compat_nr_pages) * PAGE_SIZE;
}

/* [start, end) is there in the copy: what of it is not in the child's own map goes. *@at: the first of those to look at. */
static int drop_rest(struct plan_build *b, uint64_t start, uint64_t end, size_t *at)
{
	const struct snap_pagemap *own = &b->task->pagemap;
	int r = 0;

	while (*at < own->entries.n && entry_end(own->entries.v[*at]) <= start)
		(*at)++;
	for (size_t i = *at; i < own->entries.n && own->entries.v[i]->vaddr < end && !r; i++) {
		r = add_drop(b, start, own->entries.v[i]->vaddr);
		start = MAX(start, entry_end(own->entries.v[i]));
	}
	return r ?: add_drop(b, start, end);
}

static int find_drops(struct plan_build *b)
{
	const struct snap_pagemap *theirs = &b->memory_from->pagemap;
	size_t at = 0;
	int r = 0;

	for (size_t i = 0, k = 0; i < theirs->entries.n && k < b->keeps.n && !r;) {
		const PagemapEntry *e = theirs->entries.v[i];
		uint64_t start = MAX(e->vaddr, b->keeps.v[k].start), keep_end = b->keeps.v[k].start + b->keeps.v[k].len;
		uint64_t end = MIN(entry_end(e), keep_end);

		if (start < end)
			r = drop_rest(b, start, end, &at);
		if (entry_end(e) < keep_end)
			i++;
		else
			k++;
	}
	return r;
}

int inherit_put(struct plan_build *b)
{
	struct plan_array keeps, drops, inherited;
	struct plan_range *room = op_alloc(b->op, (b->keeps.n + 1) * sizeof(*room));
	int r = b->keeps.n ? find_drops(b) : 0;

	if (!room)
		return CKPT_E_NOMEM;
	r = r ?: plan_put_array(b, room, b->keeps.n + 1, sizeof(*room), &keeps);
	r = r ?: plan_put_array(b, b->drops.v, b->drops.n, sizeof(*b->drops.v), &drops);
	r = r ?: plan_put_array(b, b->inherited.v, b->inherited.n, sizeof(*b->inherited.v), &inherited);
	if (r)
		return r;
	PLAN(b)->keeps = keeps;
	PLAN(b)->drops = drops;
	PLAN(b)->inherited = inherited;
	return 0;
}

void inherit_keep_area(struct plan_build *b)
{
	struct plan_range *to = PLAN_AT(PLAN(b), struct plan_range, PLAN(b)->keeps), own = { PLAN(b)->base, PLAN(b)->area_len };
	size_t at = 0;

	if (!PLAN(b)->keeps.n)
		return;
	for (size_t i = 0; i <= b->keeps.n; i++) {
		bool here = at == i && (i == b->keeps.n || own.start < b->keeps.v[i].start);

		to[i] = here ? own : b->keeps.v[at];
		at += !here;
	}
}
