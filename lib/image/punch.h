/* SPDX-License-Identifier: MIT */
/* Freeing pages of page images that nobody needs any more: the file keeps its size, and reads as zeroes there. */
#ifndef CKPT_IMAGE_PUNCH_H
#define CKPT_IMAGE_PUNCH_H

#include "lib/image/image.h"

struct punch_range {
	uint32_t pages_id;
	uint64_t first, n; /* pages of the image */
};

/*
 * Frees the ranges of page images in @dir, which must be in plain form. *@freed grows by the bytes that the files take less.
 */
int pages_punch(struct op *op, struct img_dir *dir, const struct punch_range *v, size_t n, uint64_t *freed);

#endif
