/* SPDX-License-Identifier: MIT */
/*
 * Where the pages of a pagemap are: its entries resolved to pieces of page images. Whoever needs memory out of a checkpoint
 * goes by pieces, not by entries.
 */
#ifndef CKPT_STATE_PIECES_H
#define CKPT_STATE_PIECES_H

#include "lib/image/pagein.h"
#include "lib/state/snapshot.h"

/* Where a piece ends in the address space or object. */
static inline uint64_t piece_end(const struct page_piece *p)
{
	return p->start + p->n_pages * PAGE_SIZE;
}

#define PIECE_REMOTE UINT32_MAX /* a source: not in the checkpoint, but with a page server */

/* flags of pagemap_entry */
enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };
uint32_t pagemap_flags(const PagemapEntry *e); /* also of the older forms */
uint64_t pagemap_pages(const PagemapEntry *e);

/* Reads all entries of a pagemap of a folder. Returns IMG_ABSENT when there is none. */
int pagemap_read(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct snap_pagemap *ret);

/*
 * Resolves @pm, which came from image @kind, number @id. Checked: entries ascend, are whole pages and end at @limit or
 * before; page images are there and long enough; the parents have what is said to be with them.
 */
int pieces_resolve(struct op *op, struct snapshot *s, const struct snap_pagemap *pm, enum img_kind kind, uint64_t id,
		   uint64_t limit, struct pieces *ret);
/* The same for what level @level of the chain (s->chain) has under that name. Returns IMG_ABSENT when it has nothing. */
int pieces_of_parent(struct op *op, struct snapshot *s, size_t level, enum img_kind kind, uint64_t id, uint64_t limit,
		     struct pieces *ret);
/* Number of the first piece that ends after @start. */
size_t pieces_find(const struct pieces *p, uint64_t start);
/* Reads what there is of [@start, @end) to @buf; what is in no piece stays as it is. */
int pieces_read(struct op *op, struct snapshot *s, const struct pieces *p, uint64_t start, uint64_t end, void *buf);
/* Closes all sources. */
void pieces_done(struct snapshot *s);

#endif
