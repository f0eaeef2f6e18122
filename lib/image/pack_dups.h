/* SPDX-License-Identifier: MIT */
/*
 * Which pages were stored already. A table of bounded size, by a hash of 128 bits whose secret is new for every dump: no program
 * can make two pages that it takes for equal. Older entries give way, so that not every equal page is found in a very large
 * checkpoint; what is found is near, as pages are that relatives share by fork.
 */
#ifndef CKPT_IMAGE_PACK_DUPS_H
#define CKPT_IMAGE_PACK_DUPS_H

#include "lib/image/blocks.h"

struct dups;

struct dups *dups_new(void); /* NULL: out of memory */
struct dups *dups_free(struct dups *d);
/*
 * Looks the pages of a block up. Sets bit k of the result and @refs (one after the other) for those that were stored before;
 * the others are remembered. By several threads.
 */
uint16_t dups_find(struct dups *d, uint32_t pages_id, uint64_t first, const void *pages, unsigned n, struct block_ref *refs);

#endif
