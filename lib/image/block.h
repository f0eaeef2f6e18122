/* SPDX-License-Identifier: MIT */
/*
 * Blocks: what we know of the content of page images, beside them in our own file `ckpt-blocks`. A block is a run of
 * BLOCK_PAGES pages of one page image. Its sum is the exclusive or of the sums of its pages, so that pages can be summed
 * in any order, by several tasks, and one that was punched out of the image can be taken away from it.
 *
 * The head of the file and the records are little-endian and fixed in size; records come in any order, and a tail tells that
 * they are all there (docs/format/integrity.md). Also included by code that runs inside other processes.
 */
#ifndef CKPT_IMAGE_BLOCK_H
#define CKPT_IMAGE_BLOCK_H

#define XXH_INLINE_ALL
#include <stdint.h>
#include <xxhash.h>

#define BLOCK_PAGES 16
#define BLOCK_MAGIC "CKPTBLK"

struct block_head {
	char magic[8];	     /* BLOCK_MAGIC */
	uint32_t version;    /* 1 */
	uint32_t page_size;  /* 4096 */
	uint32_t pages;	     /* BLOCK_PAGES */
	uint32_t record;     /* sizeof(struct block_record) */
	uint64_t dump;	     /* a random number: that of the ckpt-sums beside it */
};

struct block_tail {
	uint64_t n;   /* records before it */
	uint64_t sum; /* XXH3_64 of everything before it */
};

enum block_codec {
	BLOCK_PLAIN = 0, /* page k of the image lies at k * page size */
	BLOCK_LZ4 = 1,
	BLOCK_ZSTD = 2,
};

struct block_record {
	uint32_t pages_id;
	uint16_t codec;	  /* enum block_codec */
	uint16_t punched; /* bit k: page k was freed by deduplication: it reads as zeroes, and is in no sum */
	uint64_t block;	  /* pages [block * BLOCK_PAGES, ...) of the image */
	uint64_t sum;
	uint64_t offset;  /* of the stored bytes in the image: block * BLOCK_PAGES * 4096 where all of it is plain */
	uint32_t stored;  /* how many */
	uint16_t n_pages; /* in the block: the last one of an image may be short */
	uint16_t dups;	  /* bit k: page k is stored elsewhere; the sum counts it */
};

/* The stored bytes of a block with dups begin with one of these for each, ascending; then come the other pages, packed. */
struct block_ref {
	uint32_t pages_id;
	uint32_t reserved; /* 0 */
	uint64_t page;	   /* in that image, stored there and not elsewhere */
};

/*
 * What the sum of a block that is not simply plain has in it besides its pages: its bytes as they are stored, for there are
 * bits in compressed data that make no difference.
 */
static inline uint64_t block_seal(const struct block_record *r, const void *stored)
{
	if (r->codec == BLOCK_PLAIN && !r->dups)
		return 0;
	return XXH3_64bits_withSeed(stored, r->stored, BLOCK_PAGES + 1);
}

/* Sum of a page of 4096 bytes that is number @k of its block. */
static inline uint64_t page_sum(const void *page, unsigned k)
{
	return XXH3_64bits_withSeed(page, 4096, k + 1);
}

#endif
