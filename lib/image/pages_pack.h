/* SPDX-License-Identifier: MIT */
/*
 * Page images that are compressed, or have equal pages only once: blocks are packed by a few threads, and written in the
 * order in which they are ready.
 */
#ifndef CKPT_IMAGE_PAGES_PACK_H
#define CKPT_IMAGE_PAGES_PACK_H

#include "lib/image/pages_sink.h"

/* "lz4", "zstd", "zstd:LEVEL", or "dups": equal pages once, and nothing else. */
bool pack_parse(const char *text, enum block_codec *codec, int *level);
/* The folder's page images are to be made so from now on. */
int pages_pack(struct op *op, struct img_dir *dir, const char *how);
/* Is the folder made so? */
bool pages_are_packed(const struct img_dir *dir);

#endif
