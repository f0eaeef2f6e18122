// SPDX-License-Identifier: MIT
#include "lib/engine/page_source.h"

#include "lib/state/pieces.h"

#define END_OF_MEMORY (1ull << 57)

struct source_task {
	uint32_t id;
	struct pieces pieces;
};

struct page_source {
	struct snapshot s;
	struct ps_source ops;
	ARRAY(struct source_task *) tasks;
	struct source_task *last;
};

static int read_map(struct op *op, struct page_source *ps, uint32_t id, struct snap_pagemap *pm)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, ps->s.dir, IMG_PAGEMAP, id, &in);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server"), "pages of process %u are asked for, which is not in the checkpoint",
			       id);
	r = r ?: img_read(op, in, &m);
	if (r == 0)
		pm->pages_id = ((PagemapHead *)m)->pages_id;
	while (r == 0) {
		PagemapEntry **e;

		r = img_read(op, in, &m);
		if (r)
			break;
		e = ARRAY_ADD(op->arena, &pm->entries);
		if (!e)
			r = op_nomem(op);
		else
			*e = (PagemapEntry *)m;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int task_of(struct op *op, struct page_source *ps, uint32_t id, struct source_task **ret)
{
	struct snap_pagemap pm = { 0 };
	struct source_task **slot, *t;
	int r;

	if (ps->last && ps->last->id == id) {
		*ret = ps->last;
		return 0;
	}
	for (size_t i = 0; i < ps->tasks.n; i++)
		if (ps->tasks.v[i]->id == id) {
			*ret = ps->last = ps->tasks.v[i];
			return 0;
		}
	t = op_new(op, struct source_task);
	if (!t)
		return CKPT_E_NOMEM;
	t->id = id;
	r = read_map(op, ps, id, &pm);
	r = r ?: pieces_resolve(op, &ps->s, &pm, IMG_PAGEMAP, id, END_OF_MEMORY, &t->pieces);
	if (r)
		return r;
	slot = ARRAY_ADD(op->arena, &ps->tasks);
	if (!slot)
		return op_nomem(op);
	*slot = *ret = ps->last = t;
	return 0;
}

/* Pieces that follow one another without a gap are one run, whichever file they are in. */
static int source_have(struct op *op, void *arg, uint32_t id, uint64_t start, uint64_t max, uint64_t *n)
{
	struct source_task *t;
	uint64_t at = start, end = start + max * PAGE_SIZE;
	int r = task_of(op, arg, id, &t);

	if (r)
		return r;
	for (size_t i = pieces_find(&t->pieces, start); i < t->pieces.v.n && at < end; i++) {
		const struct page_piece *p = &t->pieces.v.v[i];

		if (p->start > at || p->source == PIECE_REMOTE)
			break;
		at = p->start + p->n_pages * PAGE_SIZE;
	}
	*n = (MIN(at, end) - start) / PAGE_SIZE;
	return 0;
}

static int source_read(struct op *op, void *arg, uint32_t id, uint64_t start, size_t n, void *buf)
{
	struct page_source *ps = arg;
	struct source_task *t;
	int r = task_of(op, ps, id, &t);

	return r ?: pieces_read(op, &ps->s, &t->pieces, start, start + n * PAGE_SIZE, buf);
}

int page_source_open(struct op *op, struct page_source **ret)
{
	struct page_source *ps = op_new(op, struct page_source);
	int r;

	if (!ps)
		return CKPT_E_NOMEM;
	ps->ops = (struct ps_source){ .have = source_have, .read = source_read, .arg = ps };
	r = img_dir_open_verified(op, &ps->s.dir, &ps->s.inventory);
	if (r == 0)
		*ret = ps;
	return r;
}

struct page_source *page_source_close(struct page_source *ps)
{
	if (!ps)
		return NULL;
	pieces_done(&ps->s);
	ps->s.dir = img_dir_close(ps->s.dir);
	return NULL;
}

const struct ps_source *page_source_ops(const struct page_source *ps)
{
	return &ps->ops;
}
