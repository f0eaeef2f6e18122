/* SPDX-License-Identifier: MIT */
/*
 * Where page data goes. What is common to all ways is in pages.c: who may write how much, the sums, the count of bytes.
 * A sink brings the bytes away: into a file of the folder (pages_ring.c), or elsewhere.
 */
#ifndef CKPT_IMAGE_PAGES_SINK_H
#define CKPT_IMAGE_PAGES_SINK_H

#include "lib/image/blocks.h"
#include "lib/image/dir.h"

/* One page image that is being written. A sink's own struct begins with it. */
struct pages_out {
	const struct pages_sink *sink;
	struct img_dir *dir;
	char name[IMG_NAME_MAX];
	uint32_t pages_id;
	uint64_t bytes; /* that it will have; of one with an open end: known when it is closed */
	uint64_t off;	/* that were submitted */
	void *given;	/* the buffer that the caller has, NULL if none */
	bool open_end;
	struct block_sum sum;
};

struct pages_sink {
	bool in_folder;	  /* pages land in this folder: their sums belong into its ckpt-blocks, their pagemaps beside them */
	bool adds_blocks; /* by the sink itself, which knows more of them */
	/* See pages_announce(); NULL: nobody needs to know. */
	int (*announce)(struct op *op, struct img_dir *dir, enum img_kind kind, uint32_t id, PagemapEntry *const *entries,
			size_t n);
	int (*announce_more)(struct op *op, struct img_dir *dir, PagemapEntry *const *entries, size_t n);
	/* Allocates its struct (in the arena), and what all of the folder share. */
	int (*create)(struct op *op, struct img_dir *dir, struct pages_out **ret);
	/* The fields of struct pages_out are filled in. */
	int (*begin)(struct op *op, struct pages_out *out);
	/* The same buffer again until it is submitted. */
	int (*buffer)(struct op *op, struct pages_out *out, void **buf, size_t *cap);
	/* Takes the first @len bytes of the buffer, which belong at out->off; that moves on afterwards. */
	int (*submit)(struct op *op, struct pages_out *out, size_t len);
	/* Waits until no more than @bytes of all images of the folder are in flight. NULL: there is never much. */
	int (*drain)(struct op *op, struct img_dir *dir, size_t bytes);
	/* Everything was submitted. It need not have arrived yet, where there is a settle(). */
	int (*finish)(struct op *op, struct pages_out *out);
	/* A descriptor by which somebody else may write directly to the image, -1: not to this one. May be NULL: to none. */
	int (*direct)(const struct pages_out *out);
	/* Waits for all images of the folder that were finished, and checks that they arrived. May be NULL. */
	int (*settle)(struct op *op, struct img_dir *dir);
};

extern const struct pages_sink pages_sink_ring;
extern const struct pages_sink pages_sink_pack; /* pages_pack.h */

/*
 * Parts of an image that somebody else writes, in whole blocks: to the descriptor that pages_direct() gave. pages_skip() leaves
 * them out; each block is told by pages_moved(), or written later by pages_submit_block(), from the first bytes of the buffer.
 */
int pages_direct(const struct pages_out *out); /* -1: every part must be submitted */
int pages_skip(struct op *op, struct pages_out *out, uint64_t len);
int pages_moved(struct op *op, struct pages_out *out, uint64_t block, uint64_t sum);
int pages_submit_block(struct op *op, struct pages_out *out, uint64_t block);

/* As pages_create(), for those who do not know yet how much it will be: it ends where pages_close() is called. */
int pages_create_open_end(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pages_out **ret);

#endif
