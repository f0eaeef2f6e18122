/* SPDX-License-Identifier: MIT */
/*
 * A page that is stored in a set of images is not read from its parents any more, however far up the chain it was: it is
 * freed there. Only what is there again is freed; what a set does not mention stays.
 */
#include "lib/engine/dedup.h"

#include <dirent.h>
#include <fcntl.h>

#include "lib/image/punch.h"
#include "lib/state/pieces.h"

/* Pages of one source that go. */
struct goner {
	ARRAY(struct block_range) v;
};

struct dedup {
	struct snapshot s;   /* its chain and sources */
	struct img_dir *dir; /* the set that is looked at */
	size_t level;	     /* of its parent in the chain */
	ARRAY(struct goner) goners; /* by source */
	uint64_t freed;
};

static int note(struct op *op, struct dedup *d, const struct page_piece *p, uint64_t first, uint64_t n)
{
	struct block_range *last;
	struct goner *g;

	while (d->goners.n <= p->source) {
		g = ARRAY_ADD(op->arena, &d->goners);
		if (!g)
			return op_nomem(op);
		*g = (struct goner){ 0 };
	}
	g = &d->goners.v[p->source];
	last = g->v.n ? &g->v.v[g->v.n - 1] : NULL;
	if (last && last->first + last->n == first) {
		last->n += n;
		return 0;
	}
	last = ARRAY_ADD(op->arena, &g->v);
	if (!last)
		return op_nomem(op);
	*last = (struct block_range){ d->s.source_places.v[p->source].pages_id, first, n };
	return 0;
}

/* Of the pieces of the parents, what the entry has itself. */
static int supersede(struct op *op, struct dedup *d, const struct pieces *p, size_t *at, const PagemapEntry *e)
{
	uint64_t end = e->vaddr + pagemap_pages(e) * PAGE_SIZE;
	int r = 0;

	while (*at < p->v.n && piece_end(&p->v.v[*at]) <= e->vaddr)
		(*at)++;
	for (size_t i = *at; i < p->v.n && p->v.v[i].start < end && !r; i++) {
		const struct page_piece *x = &p->v.v[i];
		uint64_t from = MAX(x->start, e->vaddr), to = MIN(piece_end(x), end);

		if (x->source != PIECE_REMOTE)
			r = note(op, d, x, x->first + (from - x->start) / PAGE_SIZE, (to - from) / PAGE_SIZE);
	}
	return r;
}

/* Folder by folder, for each has one file that tells of its pages. */
static int punch(struct op *op, struct dedup *d)
{
	int r = 0;

	for (size_t i = 0; i < d->goners.n && !r; i++) {
		struct img_dir *dir = d->s.source_places.v[i].dir;
		ARRAY(struct block_range) all = { 0 };

		for (size_t k = i; k < d->goners.n; k++) {
			struct goner *g = &d->goners.v[k];

			if (g->v.n && pagein_plain(d->s.sources.v[k]) < 0) {
				log_info(op, "%s is not in plain form: nothing of it is freed", pagein_name(d->s.sources.v[k]));
				g->v.n = 0;
			}
			for (size_t n = 0; n < g->v.n && d->s.source_places.v[k].dir == dir; n++) {
				struct block_range *slot = ARRAY_ADD(op->arena, &all);

				if (!slot)
					return op_nomem(op);
				*slot = g->v.v[n];
			}
			if (d->s.source_places.v[k].dir == dir)
				g->v.n = 0;
		}
		r = pages_punch(op, dir, all.v, all.n, &d->freed);
	}
	d->goners.n = 0;
	return r;
}

static int one_pagemap(struct op *op, struct dedup *d, enum img_kind kind, uint64_t id)
{
	struct snap_pagemap pm = { 0 };
	struct pieces parents;
	size_t at = 0;
	int r = pagemap_read(op, d->dir, kind, id, &pm);

	r = r ?: pieces_of_parent(op, &d->s, d->level, kind, id, UINT64_MAX, &parents);
	if (r)
		return r < 0 ? r : 0;
	for (size_t i = 0; i < pm.entries.n && !r; i++)
		if (pagemap_flags(pm.entries.v[i]) & PE_PRESENT)
			r = supersede(op, d, &parents, &at, pm.entries.v[i]);
	return r;
}

static void close_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

static int one_set(struct op *op, struct dedup *d)
{
	int fd = openat(img_dir_fd(d->dir), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	_cleanup_(close_dir_p) DIR *names = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!names)
		return op_errno(op, errno, NULL, "read the images folder");
	while (!r && (e = readdir(names))) {
		unsigned id;
		int n = 0;

		if (sscanf(e->d_name, "pagemap-%u.img%n", &id, &n) == 1 && n && !e->d_name[n])
			r = one_pagemap(op, d, IMG_PAGEMAP, id);
		n = 0;
		if (!r && sscanf(e->d_name, "pagemap-shmem-%u.img%n", &id, &n) == 1 && n && !e->d_name[n])
			r = one_pagemap(op, d, IMG_SHMEM_PAGEMAP, id);
	}
	return r ?: punch(op, d);
}

static int all_sets(struct op *op, struct dedup *d)
{
	struct img_parent *parent;
	int r;

	for (;;) {
		r = chain_level(op, &d->s.chain, d->level, &parent);
		if (r)
			return r < 0 ? r : 0;
		r = one_set(op, d);
		if (r)
			return r;
		d->dir = parent->dir;
		d->level++;
	}
}

int dedup_run(struct op *op, uint64_t *freed)
{
	struct dedup *d = op_new(op, struct dedup);
	struct img_parent base;
	int r;

	if (!d)
		return CKPT_E_NOMEM;
	r = img_set_open(op, &base);
	if (r)
		return r;
	d->dir = d->s.dir = base.dir;
	d->s.chain = (struct chain){ .dir = base.dir, .expected = base.parent_run_id };
	r = all_sets(op, d);
	pieces_done(&d->s);
	img_dir_close(base.dir);
	if (freed)
		*freed = d->freed;
	return r ? op_wrap(op, r, "deduplication") : 0;
}

void dedup_after_dump(struct op *op, struct img_dir *dir)
{
	struct dedup *d = op_new(op, struct dedup);
	struct img_parent *parent;
	int r = d ? 0 : CKPT_E_NOMEM;

	if (!r) {
		d->dir = d->s.dir = dir;
		d->s.chain = (struct chain){ .dir = dir };
		r = chain_level(op, &d->s.chain, 0, &parent);
		r = r ?: one_set(op, d);
		pieces_done(&d->s);
		log_info(op, "%lu MiB of earlier images freed", d->freed >> 20);
	}
	if (r < 0) {
		log_warn(op, "earlier images were not freed: %s", op->err ? ckpt_err_message(op->err) : ckpt_code_name(r));
		op_forget(op);
	}
}

void dedup_after_restore(struct op *op, const struct snapshot *s, const struct pieces *const *p, size_t n)
{
	struct dedup *d = op_new(op, struct dedup);
	int r = d ? 0 : CKPT_E_NOMEM;

	if (!r)
		d->s = *s;
	for (size_t i = 0; i < n && !r; i++)
		for (size_t k = 0; k < p[i]->v.n && !r; k++)
			if (p[i]->v.v[k].source != PIECE_REMOTE)
				r = note(op, d, &p[i]->v.v[k], p[i]->v.v[k].first, p[i]->v.v[k].n_pages);
	r = r ?: punch(op, d);
	if (!r) {
		log_info(op, "%lu MiB of images freed", d->freed >> 20);
		return;
	}
	log_warn(op, "images were not freed: %s", op->err ? ckpt_err_message(op->err) : ckpt_code_name(r));
	op_forget(op);
}
