// SPDX-License-Identifier: MIT
#include "lib/state/pieces.h"

struct resolving {
	struct op *op;
	struct snapshot *s;
	struct img_dir *dir;
	size_t level; /* of the parent of @dir in the chain */
	const struct snap_pagemap *pm;
	enum img_kind kind;
	uint64_t id, limit;
	char name[96]; /* of the image, for messages */
	struct pieces parent;
	size_t parent_at; /* the first piece of it that may matter still */
	bool parent_read;
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
	struct source_place *place;
	struct pagein **slot, *in;
	int ret;

	if (r->opened)
		return 0;
	ret = pagein_open(r->op, r->dir, r->pm->pages_id, &in);
	if (ret)
		return ret < 0 ? ret : op_fail(r->op, CKPT_E_IMAGE, AT(.kind = "pages"), "pages-%u.img, which %s needs, is missing",
					       r->pm->pages_id, r->name);
	slot = ARRAY_ADD(r->op->arena, &r->s->sources);
	place = ARRAY_ADD(r->op->arena, &r->s->source_places);
	if (!slot || !place) {
		pagein_close(in);
		return op_nomem(r->op);
	}
	*slot = in;
	*place = (struct source_place){ r->dir, r->pm->pages_id };
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

/*
 * What the parent has of an entry, which must be all of it. The pieces are of the folder that really has the pages, however
 * far up the chain.
 */
static int from_parent(struct resolving *r, const PagemapEntry *e)
{
	uint64_t at = e->vaddr, end = at + pagemap_pages(e) * PAGE_SIZE;
	int ret = 0;

	if (!r->parent_read) {
		ret = pieces_of_parent(r->op, r->s, r->level, r->kind, r->id, r->limit, &r->parent);
		if (ret == IMG_ABSENT)
			return bad(r, e, "says that its pages are in the parent, which has none under this name");
		r->parent_read = true;
	}
	while (!ret && at < end) {
		const struct page_piece *p;
		uint64_t n;

		while (r->parent_at < r->parent.v.n && piece_end(&r->parent.v.v[r->parent_at]) <= at)
			r->parent_at++;
		p = r->parent_at < r->parent.v.n ? &r->parent.v.v[r->parent_at] : NULL;
		if (!p || p->start > at || p->source == PIECE_REMOTE)
			return bad(r, e, "says that its pages are in the parent, which lacks some of them");
		n = (MIN(end, piece_end(p)) - at) / PAGE_SIZE;
		ret = add(r, at, n, p->first + (at - p->start) / PAGE_SIZE, p->source, p->lazy);
		at += n * PAGE_SIZE;
	}
	return ret;
}

static int one_entry(struct resolving *r, const PagemapEntry *e)
{
	uint64_t n = pagemap_pages(e);
	uint32_t flags = pagemap_flags(e);
	int ret;

	if (flags & PE_PARENT)
		return from_parent(r, e);
	if (!(flags & PE_PRESENT))
		return flags & PE_LAZY ? add(r, e->vaddr, n, 0, PIECE_REMOTE, true) : bad(r, e, "says of no place where its pages are");
	ret = open_source(r) ?: add(r, e->vaddr, n, r->first, r->source, flags & PE_LAZY);
	r->first += n;
	return ret;
}

static int resolve(struct resolving *r)
{
	uint64_t after = 0, have;
	int err = 0;

	*r->to = (struct pieces){ 0 };
	for (size_t i = 0; i < r->pm->entries.n && !err; i++) {
		const PagemapEntry *e = r->pm->entries.v[i];
		uint64_t n = pagemap_pages(e);

		if (e->vaddr % PAGE_SIZE || !n || e->vaddr > r->limit || n > (r->limit - e->vaddr) / PAGE_SIZE)
			return bad(r, e, "makes no sense");
		if (e->vaddr < after)
			return bad(r, e, "is out of order");
		after = e->vaddr + n * PAGE_SIZE;
		err = one_entry(r, e);
		err = err ?: i % 4096 ? err : op_check_cancel(r->op);
	}
	have = r->opened ? pagein_pages(r->s->sources.v[r->source]) : r->first;
	if (!err && have < r->first)
		return op_fail(r->op, CKPT_E_IMAGE, AT(.kind = "pages"), "pages-%u.img is truncated: %lu pages of %lu are there",
			       r->pm->pages_id, have, r->first);
	return err;
}

int pieces_resolve(struct op *op, struct snapshot *s, const struct snap_pagemap *pm, enum img_kind kind, uint64_t id,
		   uint64_t limit, struct pieces *ret)
{
	struct resolving r = { .op = op, .s = s, .dir = s->dir, .pm = pm, .kind = kind, .id = id, .limit = limit, .to = ret };

	img_name(kind, id, r.name, sizeof(r.name));
	return resolve(&r);
}

int pieces_of_parent(struct op *op, struct snapshot *s, size_t level, enum img_kind kind, uint64_t id, uint64_t limit,
		     struct pieces *ret)
{
	struct resolving r = { .op = op, .s = s, .level = level + 1, .kind = kind, .id = id, .limit = limit, .to = ret };
	struct snap_pagemap pm = { 0 };
	struct img_parent *parent;
	char name[64];
	int err;

	if (!s->chain.dir)
		s->chain = (struct chain){ .dir = s->dir, .expected = s->extra ? s->extra->parent_run_id : NULL };
	err = chain_level(op, &s->chain, level, &parent);

	if (err)
		return err;
	err = pagemap_read(op, parent->dir, kind, id, &pm);
	if (err)
		return err < 0 ? op_wrap(op, err, "parent number %zu", level + 1) : err;
	r.dir = parent->dir;
	r.pm = &pm;
	snprintf(r.name, sizeof(r.name), "%s of parent number %zu", img_name(kind, id, name, sizeof(name)), level + 1);
	return resolve(&r);
}

int pagemap_read(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct snap_pagemap *ret)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m = NULL;
	char name[64];
	int r = img_open(op, dir, kind, id, &in);

	if (r)
		return r;
	r = img_read(op, in, &m);
	if (r == IMG_END)
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "pagemap"), "%s is empty", img_name(kind, id, name, sizeof(name)));
	if (!r)
		ret->pages_id = ((PagemapHead *)m)->pages_id;
	while (!r && (r = img_read(op, in, &m)) == 0) {
		PagemapEntry **e = ARRAY_ADD(op->arena, &ret->entries);

		if (!e)
			r = op_nomem(op);
		else
			*e = (PagemapEntry *)m;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
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
	s->sources.n = s->source_places.n = 0;
	chain_done(&s->chain);
}
