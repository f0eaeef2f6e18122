/* SPDX-License-Identifier: MIT */
/*
 * Reading the pages of one page image, by their number in it, in whatever form they are stored. Offsets and counts come from
 * images and are checked here. Several threads may read from one at the same time, each with an operation of its own.
 */
#ifndef CKPT_IMAGE_PAGEIN_H
#define CKPT_IMAGE_PAGEIN_H

#include "lib/image/blocks.h"

struct pagein;

/* Opens pages-@pages_id.img of @dir. Returns 0, IMG_ABSENT, or a recorded failure. */
int pagein_open(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pagein **ret);
struct pagein *pagein_close(struct pagein *in); /* NULL allowed; returns NULL */
/* How many pages it has. */
uint64_t pagein_pages(const struct pagein *in);
/* Pages [@first, @first + @n) to @buf. What is not what was written is CKPT_E_IMAGE, and what is in @buf then is of no use. */
int pagein_read(struct op *op, struct pagein *in, uint64_t first, size_t n, void *buf);
/* A descriptor in which page k lies at k * PAGE_SIZE, open for reading, @in's to close; -1: they are in another form. */
int pagein_plain(const struct pagein *in);
/* Records of the blocks, for who reads pages by pagein_plain(): NULL, not to be verified (opts->no_verify, or none there). */
const struct block_file *pagein_blocks(const struct pagein *in);
/* Reads whole blocks that are known, only to see whether they are what was written. @buf has room for them. */
int pagein_check(struct op *op, struct pagein *in, uint64_t block, size_t n_blocks, void *buf);
/* Its name in the folder, for messages. */
const char *pagein_name(const struct pagein *in);

#endif
