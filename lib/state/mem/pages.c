/* SPDX-License-Identifier: MIT */
/*
 * Private pages: which there are (PAGEMAP_SCAN gives regions instead of eight bytes a page), and their way to the disk
 * (/proc/PID/mem into the page writer's buffers: no page is pinned, so that none that a fork shares is copied).
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/image/pages_sink.h"
#include "lib/kernel/uapi.h"
#include "lib/state/mem/copy.h"
#include "lib/state/mem/dirty.h"
#include "lib/state/mem/move.h"
#include "lib/state/msg.h"

#define REGIONS 512

struct scan {
	struct task_dump *d;
	int pagemap;
	struct page_region *regions;
	size_t guard_cap, guards;
	VmaEntry **guard;
	bool tracked;	  /* the area that is looked at */
	size_t parent_at; /* in tracking->parent: the first piece that may matter still */
	size_t dirty_at;  /* the same of tracking->dirty */
};

/* Whether a region's pages belong into the checkpoint: there, and neither the zero page nor just the file's. */
static bool is_stored(const VmaEntry *v, uint64_t categories)
{
	if (v->status & VMA_VDSO)
		return true;
	if (!(categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED)) || (categories & PAGE_IS_PFNZERO))
		return false;
	/* What may be dropped at any time the format does not keep: it reads as zeroes, as after a drop. */
	return !(categories & PAGE_IS_FILE) && !(v->flags & MAP_DROPPABLE);
}

/* May be loaded after the program runs: nothing that the kernel or the restorer needs at once. */
static bool is_lazy(const struct task_dump *d, const VmaEntry *v)
{
	if ((v->status & (VMA_ANON_PRIVATE | VMA_VDSO)) != VMA_ANON_PRIVATE || (v->flags & (MAP_LOCKED | MAP_HUGETLB)))
		return false;
	for (size_t i = 0; i < d->task->threads.n; i++) {
		uint64_t sp = d->task->threads.v[i].core->thread_info->gpregs->sp;

		if (sp >= v->start && sp < v->end)
			return false;
	}
	return true;
}

static int add_entry(struct op *op, struct snap_pagemap *pm, uint64_t start, uint64_t end, uint32_t flags)
{
	PagemapEntry **last = pm->entries.n ? &pm->entries.v[pm->entries.n - 1] : NULL, **slot;
	uint64_t n = (end - start) / PAGE_SIZE;
	PagemapEntry *e;

	if (flags & PE_PRESENT)
		pm->n_pages += n;
	if (last && (*last)->vaddr + (*last)->nr_pages * PAGE_SIZE == start && (*last)->flags == flags) {
		(*last)->nr_pages += n;
		return 0;
	}
	e = msg_new(op, PagemapEntry, pagemap_entry);
	slot = e ? ARRAY_ADD(op->arena, &pm->entries) : NULL;
	if (!slot)
		return op_nomem(op);
	e->vaddr = start;
	msg_set(e, nr_pages, n);
	msg_set(e, flags, flags);
	*slot = e;
	return 0;
}

static int add_guard(struct op *op, struct scan *s, uint64_t start, uint64_t end)
{
	VmaEntry *last = s->guards ? s->guard[s->guards - 1] : NULL, *e;

	if (last && last->end == start) {
		last->end = end;
		return 0;
	}
	e = msg_new(op, VmaEntry, vma_entry);
	if (!e || (s->guards == s->guard_cap &&
		   arena_grow(op->arena, (void **)&s->guard, &s->guard_cap, s->guards, sizeof(*s->guard))))
		return op_nomem(op);
	e->start = start;
	e->end = end;
	e->status = VMA_GUARD;
	e->fd = -1;
	s->guard[s->guards++] = e;
	return 0;
}

/* Clean pages: those that the parent has are left to it. */
static int add_clean(struct op *op, struct scan *s, uint64_t start, uint64_t end, uint32_t flags)
{
	struct page_tracking *t = s->d->tracking;
	int r = 0;

	while (start < end && !r) {
		const struct page_piece *p;
		uint64_t stop = end;
		bool there;

		while (s->parent_at < t->parent.v.n && piece_end(&t->parent.v.v[s->parent_at]) <= start)
			s->parent_at++;
		p = s->parent_at < t->parent.v.n ? &t->parent.v.v[s->parent_at] : NULL;
		there = p && p->start <= start;
		if (p)
			stop = MIN(end, there ? piece_end(p) : p->start);
		if (there)
			t->n_parent += (stop - start) / PAGE_SIZE;
		r = add_entry(op, &s->d->task->pagemap, start, stop, there ? (uint32_t)PE_PARENT : flags);
		start = stop;
	}
	return r;
}

/* Of an area that is tracked: what was written is stored. */
static int add_tracked(struct op *op, struct scan *s, uint64_t start, uint64_t end, uint32_t flags)
{
	struct page_tracking *t = s->d->tracking;
	int r = 0;

	while (start < end && !r) {
		const struct dirty_range *x;
		uint64_t stop = end;

		while (s->dirty_at < t->dirty.n && t->dirty.v[s->dirty_at].end <= start)
			s->dirty_at++;
		x = s->dirty_at < t->dirty.n ? &t->dirty.v[s->dirty_at] : NULL;
		if (x)
			stop = MIN(end, x->start <= start ? x->end : x->start);
		if (x && x->start <= start)
			r = add_entry(op, &s->d->task->pagemap, start, stop, flags);
		else
			r = add_clean(op, s, start, stop, flags);
		start = stop;
	}
	return r;
}

static int add_region(struct op *op, struct scan *s, const VmaEntry *v, const struct page_region *g, uint32_t flags)
{
	if (g->categories & PAGE_IS_GUARD)
		return add_guard(op, s, g->start, g->end);
	if (!is_stored(v, g->categories))
		return 0;
	if (s->tracked)
		return add_tracked(op, s, g->start, g->end, flags);
	return add_entry(op, &s->d->task->pagemap, g->start, g->end, flags);
}

static int from_stash(struct op *op, struct scan *s, const VmaEntry *v, const struct stash_area *area, uint32_t flags)
{
	int r = 0;

	for (size_t i = 0; i < area->n && !r; i++)
		r = add_region(op, s, v, &s->d->copy->stash.regions.v[area->first + i].pages, flags);
	return r;
}

/* Only when it is needed: a task whose pages are all in the stash runs on, and may have ended. */
static int open_pagemap(struct op *op, struct scan *s)
{
	char path[64];

	if (s->pagemap >= 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", mem_target(s->d)->pid);
	s->pagemap = open(path, O_RDONLY | O_CLOEXEC);
	return s->pagemap < 0 ? op_errno(op, errno, AT(.pid = s->d->task->host), "open %s", path) : 0;
}

static int scan_vma(struct op *op, struct scan *s, const VmaEntry *v)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = v->start,
		.end = v->end,
		.vec = (uint64_t)(uintptr_t)s->regions,
		.vec_len = REGIONS,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_GUARD,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_PFNZERO | PAGE_IS_GUARD,
	};
	uint32_t flags = PE_PRESENT | (is_lazy(s->d, v) ? PE_LAZY : 0);
	const struct stash_area *area;
	int r = 0;

	if (v->status & (VMA_VDSO | VMA_AIORING)) {
		op->stats->pages_scanned += (v->end - v->start) / PAGE_SIZE;
		return add_entry(op, &s->d->task->pagemap, v->start, v->end, flags);
	}
	/* Whether a page is a file's costs a look at the page itself: only asked where it can be. */
	if (!(v->status & VMA_ANON_PRIVATE))
		arg.return_mask |= PAGE_IS_FILE;
	op->stats->pages_scanned += (v->end - v->start) / PAGE_SIZE;
	if (s->d->copy && (area = stash_find(&s->d->copy->stash, v->start)))
		return from_stash(op, s, v, area, flags);
	r = open_pagemap(op, s);
	if (r)
		return r;
	while (arg.start < v->end) {
		int n = ioctl(s->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return op_errno(op, errno, AT(.pid = s->d->task->host, .addr = v->start),
					"scan the page tables of task %d at %lx-%lx", s->d->task->host, v->start, v->end);
		for (int i = 0; i < n && !r; i++)
			r = add_region(op, s, v, &s->regions[i], flags);
		r = r ?: op_check_cancel(op);
		if (r)
			return r;
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return 0;
}

/* Guard ranges are entries of their own, after all others. */
static int append_guards(struct op *op, struct scan *s)
{
	MmEntry *mm = s->d->task->mm;
	VmaEntry **all;

	if (!s->guards)
		return 0;
	all = op_alloc(op, (mm->n_vmas + s->guards) * sizeof(*all));
	if (!all)
		return CKPT_E_NOMEM;
	memcpy(all, mm->vmas, mm->n_vmas * sizeof(*all));
	memcpy(all + mm->n_vmas, s->guard, s->guards * sizeof(*all));
	mm->vmas = all;
	mm->n_vmas += s->guards;
	return 0;
}

static bool is_wanted(const struct task_dump *d, const VmaEntry *v, bool tracked)
{
	return vma_has_pages(v) && (tracked || !d->tracking || !d->tracking->only_tracked);
}

int pages_collect(struct op *op, struct task_dump *d)
{
	struct scan s = { .d = d, .pagemap = -1 };
	int r = 0;

	s.regions = op_alloc(op, REGIONS * sizeof(*s.regions));
	if (!s.regions)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < d->task->mm->n_vmas && !r; i++) {
		s.tracked = d->tracking && d->tracking->tracked && d->tracking->tracked[i];
		if (is_wanted(d, d->task->mm->vmas[i], s.tracked))
			r = scan_vma(op, &s, d->task->mm->vmas[i]);
	}
	close_fd_p(&s.pagemap);
	return r ?: append_guards(op, &s);
}

/* The way of a task's pages into its image. */
struct writer {
	struct pages_out *out;
	struct moves *moves; /* what goes without us, NULL: nothing */
	uint64_t off;	     /* in the image, of what comes next */
	char *buf;	     /* NULL: none yet */
	size_t cap, used;
};

static int flush(struct op *op, struct writer *w)
{
	int r = w->buf && w->used ? pages_submit(op, w->out, w->used) : 0;

	if (w->used)
		w->buf = NULL;
	w->used = 0;
	return r ?: moves_poll(op, w->moves) ?: op_check_cancel(op);
}

/* Fills the writer's buffers from the task's memory; the disk works on one while we fill the next. */
static int copy_part(struct op *op, struct task_dump *d, struct writer *w, uint64_t at, uint64_t most, size_t *n)
{
	void *buf = w->buf;
	int r = buf ? 0 : pages_buffer(op, w->out, &buf, &w->cap);

	if (r)
		return r;
	w->buf = buf;
	*n = MIN(most, (uint64_t)(w->cap - w->used));
	r = mem_read(op, d, at, w->buf + w->used, *n);
	if (r)
		return r;
	w->used += *n;
	return w->used == w->cap ? flush(op, w) : 0;
}

static int skip_part(struct op *op, struct writer *w, size_t n)
{
	return flush(op, w) ?: pages_skip(op, w->out, n);
}

static int write_range(struct op *op, struct task_dump *d, struct writer *w, uint64_t at, uint64_t left)
{
	int r = 0;

	while (left && !r) {
		uint64_t until;
		size_t n = MIN(moves_at(w->moves, w->off, &until), left);

		r = n ? skip_part(op, w, n) : copy_part(op, d, w, at, MIN(left, until - w->off), &n);
		w->off += n;
		at += n;
		left -= n;
	}
	return r;
}

int pages_write(struct op *op, struct task_dump *d)
{
	struct snap_pagemap *pm = &d->task->pagemap;
	struct writer w = { 0 };
	int r, r2;

	r = pages_announce(op, d->s->dir, IMG_PAGEMAP, (uint32_t)d->task->pid, pm->entries.v, pm->entries.n);
	if (r || !pm->n_pages)
		return r;
	r = pages_create(op, d->s->dir, pm->pages_id, pm->n_pages * PAGE_SIZE, &w.out);
	r = r ?: moves_begin(op, d, w.out, &w.moves);
	for (size_t i = 0; i < pm->entries.n && !r; i++)
		if (pm->entries.v[i]->flags & PE_PRESENT)
			r = write_range(op, d, &w, pm->entries.v[i]->vaddr, pm->entries.v[i]->nr_pages * PAGE_SIZE);
	r = r ?: flush(op, &w);
	r = r ?: moves_finish(op, w.moves);
	r2 = moves_end(op, w.moves);
	r = r ?: r2;
	op->stats->pages_written += pm->n_pages;
	return r ?: pages_close(op, w.out);
}
