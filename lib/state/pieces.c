// SPDX-License-Identifier: MIT
#include "lib/state/pieces.h"

struct resolving {
	struct op *op;
	struct snapshot *s;
	const struct snap_pagemap *pm;
	char name[64]; /* of the image, for messages */
	uint32_t source;
	bool opened;
	uint64_t first; /* page that the next PRESENT entry begins with */
	struct pieces *to;
};

uint32_t pagemap_flags(const PagemapEntry *e)
{
	if (e->has_flags)
		return e->flags;
	return e->has_in_parent && e->in_parent ? PE_PARENT : PE_PRESENT;
}

uint64_t pagemap_pages(const PagemapEntry *e)
{
	return e->has_nr_pages ? e->nr_pages : e->compat_nr_pages;
}

static int bad(struct resolving *r, const PagemapEntry *e, const char *what)
{
	return op_fail(r->op, CKPT_E_IMAGE, AT(.addr = e->vaddr, .kind = "pagemap"), "%s: the entry at %#lx %s", r->name, e->vaddr,
		       what);
}

static int open_source(struct resolving *r)
{
	struct pagein **slot, *in;
	int ret;

	if (r->opened)
		return 0;
	ret = pagein_open(r->op, r->s->dir, r->pm->pages_id, &in);
	if (ret)
		return ret < 0 ? ret : op_fail(r->op, CKPT_E_IMAGE, AT(.kind = "pages"), "pages-%u.img, which %s needs, is missing",
					       r->pm->pages_id, r->name);
	slot = ARRAY_ADD(r->op->arena, &r->s->sources);
	if (!slot) {
		pagein_close(in);
		return op_nomem(r->op);
	}
	*slot = in;
	r->source = (uint32_t)r->s->sources.n - 1;
	r->opened = true;
	return 0;
}

static int add(struct resolving *r, uint64_t start, uint64_t n, uint64_t first, uint32_t source, bool lazy)
{
	struct page_piece *last = r->to->v.n ? &r->to->v.v[r->to->v.n - 1] : NULL;

	r->to->n_pages += n;
	if (last && last->source == source && last->lazy == lazy && last->start + last->n_pages * PAGE_SIZE == start &&
	    last->first + last->n_pages == first) {
		last->n_pages += n;
		return 0;
	}
	last = ARRAY_ADD(r->op->arena, &r->to->v);
	if (!last)
		return op_nomem(r->op);
	*last = (struct page_piece){ .start = start, .n_pages = n, .first = first, .source = source, .lazy = lazy };
	return 0;
}

static int one_entry(struct resolving *r, const PagemapEntry *e)
{
	uint64_t n = pagemap_pages(e);
	uint32_t flags = pagemap_flags(e);
	int ret;

	if (flags & PE_PARENT)
		return op_fail(r->op, CKPT_E_UNSUPPORTED, AT(.addr = e->vaddr, .kind = "pagemap"),
			       "%s: this is an incremental checkpoint (some pages are in its parent), which is not supported yet", r->name);
	if (!(flags & PE_PRESENT))
		return flags & PE_LAZY ? add(r, e->vaddr, n, 0, PIECE_REMOTE, true) : bad(r, e, "says of no place where its pages are");
	ret = open_source(r) ?: add(r, e->vaddr, n, r->first, r->source, flags & PE_LAZY);
	r->first += n;
	return ret;
}

int pieces_resolve(struct op *op, struct snapshot *s, const struct snap_pagemap *pm, enum img_kind kind, uint64_t id,
		   uint64_t limit, struct pieces *ret)
{
	struct resolving r = { .op = op, .s = s, .pm = pm, .to = ret };
	uint64_t after = 0, have;
	int err = 0;

	*ret = (struct pieces){ 0 };
	img_name(kind, id, r.name, sizeof(r.name));
	for (size_t i = 0; i < pm->entries.n && !err; i++) {
		const PagemapEntry *e = pm->entries.v[i];
		uint64_t n = pagemap_pages(e);

		if (e->vaddr % PAGE_SIZE || !n || e->vaddr > limit || n > (limit - e->vaddr) / PAGE_SIZE)
			return bad(&r, e, "makes no sense");
		if (e->vaddr < after)
			return bad(&r, e, "is out of order");
		after = e->vaddr + n * PAGE_SIZE;
		err = one_entry(&r, e);
		err = err ?: i % 4096 ? err : op_check_cancel(op);
	}
	have = r.opened ? pagein_pages(s->sources.v[r.source]) : r.first;
	if (!err && have < r.first)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "pages-%u.img is truncated: %lu pages of %lu are there", pm->pages_id,
			       have, r.first);
	return err;
}

size_t pieces_find(const struct pieces *p, uint64_t start)
{
	size_t lo = 0, hi = p->v.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (p->v.v[mid].start + p->v.v[mid].n_pages * PAGE_SIZE <= start)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

int pieces_read(struct op *op, struct snapshot *s, const struct pieces *p, uint64_t start, uint64_t end, void *buf)
{
	int r = 0;

	for (size_t i = pieces_find(p, start); i < p->v.n && p->v.v[i].start < end && !r; i++) {
		const struct page_piece *piece = &p->v.v[i];
		uint64_t from = MAX(start, piece->start), to = MIN(end, piece->start + piece->n_pages * PAGE_SIZE);

		if (from >= to)
			continue;
		if (piece->source == PIECE_REMOTE)
			return op_fail(op, CKPT_E_IMAGE, AT(.addr = from, .kind = "pagemap"), "the page at %#lx is not in the checkpoint", from);
		r = pagein_read(op, s->sources.v[piece->source], piece->first + (from - piece->start) / PAGE_SIZE, (to - from) / PAGE_SIZE,
				(char *)buf + (from - start));
	}
	return r;
}

void pieces_done(struct snapshot *s)
{
	for (size_t i = 0; i < s->sources.n; i++)
		pagein_close(s->sources.v[i]);
	s->sources.n = 0;
}
