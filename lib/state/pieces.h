/* SPDX-License-Identifier: MIT */
/*
 * Where the pages of a pagemap are: its entries resolved to pieces of page images. Whoever needs memory out of a checkpoint
 * goes by pieces, not by entries.
 */
#ifndef CKPT_STATE_PIECES_H
#define CKPT_STATE_PIECES_H

#include "lib/image/pagein.h"
#include "lib/state/snapshot.h"

#define PIECE_REMOTE UINT32_MAX /* a source: not in the checkpoint, but with a page server */

/* flags of pagemap_entry */
enum { PE_PARENT = 1, PE_LAZY = 2, PE_PRESENT = 4 };
uint32_t pagemap_flags(const PagemapEntry *e); /* also of the older forms */
uint64_t pagemap_pages(const PagemapEntry *e);

/*
 * Resolves @pm, which came from image @kind, number @id. Checked: entries ascend, are whole pages and end at @limit or
 * before; page images are there and long enough.
 */
int pieces_resolve(struct op *op, struct snapshot *s, const struct snap_pagemap *pm, enum img_kind kind, uint64_t id,
		   uint64_t limit, struct pieces *ret);
/* Number of the first piece that ends after @start. */
size_t pieces_find(const struct pieces *p, uint64_t start);
/* Reads what there is of [@start, @end) to @buf; what is in no piece stays as it is. */
int pieces_read(struct op *op, struct snapshot *s, const struct pieces *p, uint64_t start, uint64_t end, void *buf);
/* Closes all sources. */
void pieces_done(struct snapshot *s);

#endif
