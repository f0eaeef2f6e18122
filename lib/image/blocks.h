/* SPDX-License-Identifier: MIT */
/*
 * The file `ckpt-blocks` as a whole: made while page images are written, looked things up in when they are read. What is in
 * it is in block.h.
 */
#ifndef CKPT_IMAGE_BLOCKS_H
#define CKPT_IMAGE_BLOCKS_H

#include "lib/image/block.h"
#include "lib/image/image.h"

#define BLOCK_BYTES (BLOCK_PAGES * (size_t)PAGE_SIZE)

/* ---- writing */

/* Adds a record to the folder's ckpt-blocks, which is made with the first. Memory is bounded: records are written soon. */
int block_add(struct op *op, struct img_dir *dir, const struct block_record *r);
/* Ends the file. The commit of the folder does it, too; nothing is there to end where no record was added. */
int blocks_finish(struct op *op, struct img_dir *dir);

/* Sums pages of one page image that come in order, in pieces of any number of them. */
struct block_sum {
	struct block_record r;
};
int block_sum_pages(struct op *op, struct img_dir *dir, struct block_sum *s, uint32_t pages_id, const void *pages, size_t n);
int block_sum_end(struct op *op, struct img_dir *dir, struct block_sum *s);

/* ---- reading */

struct block_file {
	uint32_t pages_id;
	bool plain;		      /* page k of the image lies at k * PAGE_SIZE, all of them */
	const struct block_record *v; /* v[i] is that of block i */
	size_t n;
	uint64_t n_pages;
};

struct blocks {
	uint64_t dump;
	struct block_record *v; /* by image and block */
	size_t n;
	struct block_file *files; /* by pages_id */
	size_t n_files;
};

/* Reads and checks ckpt-blocks in @dirfd. Returns 0, IMG_ABSENT. Costs 40 bytes of memory for 64 KiB of pages. */
int blocks_read(struct op *op, int dirfd, struct blocks **ret);
/* The same from its bytes. */
int blocks_parse(struct op *op, const void *bytes, size_t n, struct blocks **ret);
struct blocks *blocks_free(struct blocks *b); /* NULL allowed; returns NULL */
/* NULL where nothing is known of the image. */
const struct block_file *blocks_file(const struct blocks *b, uint32_t pages_id);

/* What the pages of a plain block (@pages: its n_pages, as stored) have as sum: those that were punched do not count. */
uint64_t block_sum_of(const struct block_record *r, const void *pages);

/* ---- deduplication */

/* Pages of a page image that are not needed any more. */
struct block_range {
	uint32_t pages_id;
	uint64_t first, n;
};
/*
 * Says in the ckpt-blocks of the folder @dirfd, on stable storage, that these pages count no more: before their bytes are
 * freed. Cut off between the two, everything is valid, for they are not looked at, whether they are there or not. A block
 * that is damaged is refused. Images that are not plain, or of which nothing is known, are left out.
 */
int blocks_mark(struct op *op, int dirfd, const struct block_range *v, size_t n);

#endif
