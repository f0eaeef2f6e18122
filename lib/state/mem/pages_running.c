/* SPDX-License-Identifier: MIT */
/*
 * The pages of a task that runs while they are written. It may unmap what we were going to read; the pagemap is made
 * anew from what could be read, and left to the parent.
 */
#include "lib/state/mem/mem.h"
#include "lib/state/msg.h"

#define STEP (256ul << 10)

struct running {
	struct task_dump *d;
	int mem;
	struct pages_out *out;
	char *buf;
	size_t cap, used;
	struct snap_pagemap made;
	struct snap_pagemap next; /* of that, what is not announced yet */
};

static int append(struct op *op, struct snap_pagemap *pm, const PagemapEntry *e, uint64_t start, uint64_t n)
{
	PagemapEntry **last = pm->entries.n ? &pm->entries.v[pm->entries.n - 1] : NULL, **slot, *made;

	pm->n_pages += e->flags & PE_PRESENT ? n : 0;
	if (last && (*last)->flags == e->flags && (*last)->vaddr + (*last)->nr_pages * PAGE_SIZE == start) {
		(*last)->nr_pages += n;
		return 0;
	}
	made = msg_new(op, PagemapEntry, pagemap_entry);
	slot = made ? ARRAY_ADD(op->arena, &pm->entries) : NULL;
	if (!slot)
		return op_nomem(op);
	made->vaddr = start;
	msg_set(made, nr_pages, n);
	msg_set(made, flags, e->flags);
	*slot = made;
	return 0;
}

static int add(struct op *op, struct running *w, const PagemapEntry *e, uint64_t start, uint64_t n)
{
	int r = append(op, &w->made, e, start, n);

	return r || !pages_elsewhere(w->d->s->dir) ? r : append(op, &w->next, e, start, n);
}

/* Another host is told of pages right before it gets them. */
static int announce(struct op *op, struct running *w)
{
	int r = pages_announce_more(op, w->d->s->dir, w->next.entries.v, w->next.entries.n);

	w->next = (struct snap_pagemap){ 0 };
	return r;
}

/* Whole pages that could be read from the start of [at, at + n). */
static size_t read_some(const struct running *w, char *to, uint64_t at, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t got = pread(w->mem, to + done, n - done, (off_t)(at + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		done += (size_t)got;
	}
	return ALIGN_DOWN(done, PAGE_SIZE);
}

static int one_entry(struct op *op, struct running *w, const PagemapEntry *e)
{
	uint64_t at = e->vaddr, end = at + e->nr_pages * PAGE_SIZE;
	int r = 0;

	if (!(e->flags & PE_PRESENT))
		return add(op, w, e, at, e->nr_pages);
	while (at < end && !r) {
		size_t want, got;
		void *p;

		if (!w->buf) {
			r = pages_buffer(op, w->out, &p, &w->cap);
			if (r)
				return r;
			w->buf = p;
			w->used = 0;
		}
		want = MIN((size_t)MIN(end - at, (uint64_t)STEP), w->cap - w->used);
		got = read_some(w, w->buf + w->used, at, want);
		if (got)
			r = add(op, w, e, at, got / PAGE_SIZE);
		w->used += got;
		at += got < want ? got + PAGE_SIZE : got; /* a page that is not there any more is left out */
		if (w->used < w->cap)
			continue;
		w->buf = NULL;
		r = r ?: announce(op, w) ?: pages_submit(op, w->out, w->used) ?: op_check_cancel(op);
	}
	return r;
}

int pages_write_running(struct op *op, struct task_dump *d, int mem)
{
	struct snap_pagemap *pm = &d->task->pagemap;
	struct running w = { .d = d, .mem = mem, .made = { .pages_id = pm->pages_id } };
	int r;

	r = pages_announce(op, d->s->dir, IMG_PAGEMAP, (uint32_t)d->task->pid, NULL, 0);
	if (r || (!pm->n_pages && !pages_elsewhere(d->s->dir)))
		return r;
	r = pages_create_open_end(op, d->s->dir, pm->pages_id, &w.out);
	for (size_t i = 0; i < pm->entries.n && !r; i++)
		r = one_entry(op, &w, pm->entries.v[i]);
	r = r ?: announce(op, &w);
	if (!r && w.buf && w.used)
		r = pages_submit(op, w.out, w.used);
	r = r ?: pages_close(op, w.out);
	op->stats->pages_written += w.made.n_pages;
	*pm = w.made;
	return r;
}
