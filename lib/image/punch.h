/* SPDX-License-Identifier: MIT */
/* Freeing pages of page images that nobody needs any more: the file keeps its size, and reads as zeroes there. */
#ifndef CKPT_IMAGE_PUNCH_H
#define CKPT_IMAGE_PUNCH_H

#include "lib/image/blocks.h"

/*
 * Frees the ranges of page images in @dir, which must be in plain form. ckpt-blocks, where there is one, says so before
 * (blocks_mark()). *@freed grows by the bytes that the files take less.
 */
int pages_punch(struct op *op, struct img_dir *dir, const struct block_range *v, size_t n, uint64_t *freed);

#endif
