/* SPDX-License-Identifier: MIT */
/* What all page images of a folder share when they are read: ckpt-blocks, and blocks that were read lately. */
#ifndef CKPT_IMAGE_PAGES_READER_H
#define CKPT_IMAGE_PAGES_READER_H

#include "lib/image/blocks.h"
#include "lib/image/sums.h"

struct pages_reader;

/* That of the folder, made with the first call. */
int pages_reader_get(struct op *op, struct img_dir *dir, struct pages_reader **ret);
const struct blocks *pages_reader_blocks(const struct pages_reader *rd); /* NULL if there are none */

#endif
