/* SPDX-License-Identifier: MIT */
#include "lib/state/mem/copy.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/state/mem/mem.h"

#define DROP_STEP (16ul << 20)

static struct twin *twin_of(const struct task_dump *d)
{
	return d->copy && d->copy->twin.target.pid ? &d->copy->twin : NULL;
}

const struct target *mem_target(const struct task_dump *d)
{
	return twin_of(d) ? &twin_of(d)->target : d->target;
}

/*
 * Pages are read once and in ascending order: what was read goes from the twin. Then the program can write to its page without
 * a copy being made, and the copies that were made go back to the system. That is for speed: nothing depends on it.
 */
static int drop_read(struct op *op, struct task_dump *d, uint64_t end)
{
	struct mem_copy *c = d->copy;
	int64_t ret;
	int r;

	if (!twin_of(d) || end < c->dropped + DROP_STEP)
		return 0;
	if (!c->dropped || end - c->dropped > 4 * DROP_STEP) { /* the first, or behind a gap */
		c->dropped = end;
		return 0;
	}
	r = twin_syscall(op, &c->twin, SYS_madvise, (uint64_t[6]){ c->dropped, end - c->dropped, MADV_DONTNEED }, &ret);
	c->dropped = end;
	return r;
}

int mem_read(struct op *op, struct task_dump *d, uint64_t at, void *buf, size_t n)
{
	const struct stash_area *area;
	size_t done = 0, some;
	int r = 0;

	while (done < n && !r) {
		area = d->copy ? stash_find(&d->copy->stash, at + done) : NULL;
		if (area) {
			some = stash_read(&d->copy->stash, area, at + done, (char *)buf + done, n - done);
			if (!some)
				return op_fail(op, CKPT_E_INTERNAL, AT(.pid = d->task->host, .addr = at + done),
					       "memory of task %d at %#lx was not kept", d->task->host, at + done);
		} else {
			some = d->copy ? MIN(n - done, stash_next(&d->copy->stash, at + done) - at - done) : n;
			r = target_read(op, mem_target(d), (struct raddr){ at + done }, (char *)buf + done, some);
		}
		done += some;
	}
	return r ?: drop_read(op, d, at + n);
}

int mem_copy_explain(struct op *op, const struct task_dump *d, int r)
{
	if (r < 0 && r != CKPT_E_CANCELED && twin_of(d) && target_has_ended(&twin_of(d)->target))
		return op_wrap(op, r, "the snapshot of task %d was ended (for lack of memory, perhaps)", d->task->host);
	return r;
}

/* ------------------------------------------------------------------------------- what a twin does not have */

/* Whether there are pages worth saving in an area. */
static int any_page(struct op *op, int pagemap, pid_t pid, const VmaEntry *v, bool *any)
{
	struct page_region one;
	struct pm_scan_arg arg = {
		.size = sizeof(arg), .start = v->start, .end = v->end, .vec = (uint64_t)(uintptr_t)&one, .vec_len = 1, .max_pages = 1,
		.category_inverted = PAGE_IS_PFNZERO, .category_mask = PAGE_IS_PFNZERO,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_GUARD, .return_mask = PAGE_IS_PRESENT,
	};
	int n;

	do
		n = ioctl(pagemap, PAGEMAP_SCAN, &arg);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return op_errno(op, errno, AT(.pid = pid, .addr = v->start), "look at the page tables of task %d", pid);
	*any = n > 0;
	return 0;
}

static int open_pagemap(struct op *op, pid_t pid, int *fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	return *fd < 0 ? op_errno(op, errno, AT(.pid = pid), "open %s", path) : 0;
}

struct lacks {
	struct proc_maps maps; /* the twin's */
	size_t at;
	int theirs, twins; /* pagemaps */
};

static bool twin_has_area(struct lacks *l, const VmaEntry *v)
{
	while (l->at < l->maps.vmas.n && l->maps.vmas.v[l->at].start < v->start)
		l->at++;
	return l->at < l->maps.vmas.n && l->maps.vmas.v[l->at].start == v->start;
}

/*
 * An area that is not there (MADV_DONTFORK), or that is empty though the task's is not (MADV_WIPEONFORK). What the areas are
 * advised is known only later, and may have changed a moment ago: this is what happened.
 */
static int is_lacking(struct op *op, const struct task_dump *d, struct lacks *l, const VmaEntry *v, bool *lacks)
{
	bool any = false;
	int r;

	*lacks = v->status & VMA_AIORING || v->flags & MAP_HUGETLB || !twin_has_area(l, v);
	if (*lacks || !(v->status & VMA_ANON_PRIVATE) || v->status & VMA_VDSO)
		return 0;
	r = any_page(op, l->twins, d->task->host, v, &any);
	if (r || any)
		return r;
	r = any_page(op, l->theirs, d->task->host, v, &any);
	*lacks = any;
	return r;
}

static int stash_area(struct op *op, struct task_dump *d, struct stash_room *room, int pagemap, const VmaEntry *v)
{
	return stash_add(op, &d->copy->stash, room, d->target, v->status & (VMA_VDSO | VMA_AIORING) ? -1 : pagemap, v->start, v->end);
}

static int stash_lacking(struct op *op, struct task_dump *d, struct stash_room *room, struct lacks *l)
{
	const MmEntry *mm = d->task->mm;
	int r = 0;

	for (size_t i = 0; i < mm->n_vmas && !r; i++) {
		const VmaEntry *v = mm->vmas[i];
		bool lacks = false;

		if (!vma_has_pages(v))
			continue;
		r = is_lacking(op, d, l, v, &lacks);
		if (!r && lacks)
			r = stash_area(op, d, room, l->theirs, v);
	}
	return r;
}

int mem_copy_fill(struct op *op, struct task_dump *d, struct stash_room *room, bool all)
{
	_cleanup_close_ int theirs = -1, twins = -1;
	const MmEntry *mm = d->task->mm;
	struct lacks l = { 0 };
	int r = open_pagemap(op, d->task->host, &theirs);

	if (!all) {
		r = r ?: proc_read_maps(op, d->copy->twin.target.pid, &l.maps);
		r = r > 0 ? op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->host), "the snapshot of task %d has ended", d->task->host) : r;
		r = r ?: open_pagemap(op, d->copy->twin.target.pid, &twins);
		l.theirs = theirs;
		l.twins = twins;
		return r ?: stash_lacking(op, d, room, &l);
	}
	for (size_t i = 0; i < mm->n_vmas && !r; i++)
		if (vma_has_pages(mm->vmas[i]))
			r = stash_area(op, d, room, theirs, mm->vmas[i]);
	return r;
}
