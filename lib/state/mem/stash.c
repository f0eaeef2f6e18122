/* SPDX-License-Identifier: MIT */
#include "lib/state/mem/stash.h"

#include <sys/ioctl.h>
#include <sys/mman.h>

#define REGIONS 256

int stash_room_make(struct op *op, struct stash_room *room, size_t cap)
{
	void *mem = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return op_nomem(op);
	*room = (struct stash_room){ mem, cap, 0 };
	return 0;
}

void stash_room_free(struct stash_room *room)
{
	if (room->mem)
		munmap(room->mem, room->cap);
	*room = (struct stash_room){ 0 };
}

/* Whether there are bytes to save; what kind of area it is decides later whether they are. */
static bool has_bytes(uint64_t categories)
{
	return (categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)) && !(categories & (PAGE_IS_PFNZERO | PAGE_IS_FILE | PAGE_IS_GUARD));
}

static int add_region(struct op *op, struct stash *st, struct stash_room *room, const struct target *t,
		      const struct page_region *pages, bool bytes)
{
	size_t n = pages->end - pages->start;
	struct stash_region *g;

	if (bytes && n > room->cap - room->used)
		return STASH_FULL;
	g = ARRAY_ADD(op->arena, &st->regions);
	if (!g)
		return op_nomem(op);
	*g = (struct stash_region){ *pages, bytes ? room->mem + room->used : NULL };
	if (!bytes)
		return 0;
	room->used += n;
	return target_read(op, t, (struct raddr){ pages->start }, g->bytes, n);
}

static int add_all(struct op *op, struct stash *st, struct stash_room *room, const struct target *t, int pagemap,
		   struct stash_area *area)
{
	struct page_region regions[REGIONS];
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .start = area->start, .end = area->end,
		.vec = (uint64_t)(uintptr_t)regions, .vec_len = REGIONS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_GUARD,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_FILE | PAGE_IS_GUARD,
	};
	int r = 0;

	while (arg.start < area->end && !r) {
		int n = ioctl(pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return op_errno(op, errno, AT(.pid = t->pid, .addr = area->start), "scan the page tables of task %d", t->pid);
		for (int i = 0; i < n && !r; i++)
			r = add_region(op, st, room, t, &regions[i], has_bytes(regions[i].categories));
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return r;
}

int stash_add(struct op *op, struct stash *st, struct stash_room *room, const struct target *t, int pagemap, uint64_t start,
	      uint64_t end)
{
	struct stash_area area = { .start = start, .end = end, .first = st->regions.n }, *slot;
	struct page_region all = { start, end, PAGE_IS_PRESENT };
	size_t used = room->used;
	int r = pagemap < 0 ? add_region(op, st, room, t, &all, true) : add_all(op, st, room, t, pagemap, &area);

	if (r) {
		st->regions.n = area.first;
		room->used = used;
		return r;
	}
	area.n = st->regions.n - area.first;
	slot = ARRAY_ADD(op->arena, &st->areas);
	if (!slot)
		return op_nomem(op);
	*slot = area;
	return 0;
}

/* Index of the first area that ends behind @at. */
static size_t find(const struct stash *st, uint64_t at)
{
	size_t lo = 0, hi = st->areas.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (st->areas.v[mid].end <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct stash_area *stash_find(const struct stash *st, uint64_t start)
{
	size_t i = find(st, start);

	return i < st->areas.n && st->areas.v[i].start <= start ? &st->areas.v[i] : NULL;
}

uint64_t stash_next(const struct stash *st, uint64_t at)
{
	size_t i = find(st, at);

	if (i < st->areas.n && st->areas.v[i].start <= at)
		i++;
	return i < st->areas.n ? st->areas.v[i].start : UINT64_MAX;
}

size_t stash_read(const struct stash *st, const struct stash_area *area, uint64_t at, void *buf, size_t n)
{
	size_t lo = area->first, hi = area->first + area->n;
	const struct stash_region *g;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (st->regions.v[mid].pages.end <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	g = lo < area->first + area->n ? &st->regions.v[lo] : NULL;
	if (!g || g->pages.start > at || !g->bytes)
		return 0;
	n = MIN(n, g->pages.end - at);
	memcpy(buf, g->bytes + (at - g->pages.start), n);
	return n;
}
