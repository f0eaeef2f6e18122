/* SPDX-License-Identifier: MIT */
/* The inside of the image folder, shared by the files of lib/image and nobody else. */
#ifndef CKPT_IMAGE_DIR_H
#define CKPT_IMAGE_DIR_H

#include "lib/image/image.h"

#define IMG_COMMON_HEAD 0x54564319u
#define IMG_SERVICE_HEAD 0x55105940u
#define IMG_MAX_ENTRY (64u << 20) /* no entry of a sane image comes near; what is longer is damage or malice */
#define IMG_NAME_MAX 64		  /* longest pattern and 20 digits fit */

/* A file that this dump made. Few are kept open until the commit: reopening one is cheap, running out is not. */
struct img_made {
	char *name;
	int fd; /* -1: reopen by name */
};
#define IMG_KEEP_OPEN 128

struct pages_ring;
struct pages_sink;
struct pack_pool;
struct blocks_out;
struct sums;
struct pages_reader;

/* What an image is known by in ckpt-sums. */
struct img_sum {
	const char *name;
	uint64_t size, sum;
};

struct img_dir {
	int fd;
	bool writing;
	int lock; /* of img_dir_receive(): keeps others out */
	bool link_made; /* to the parent: parent.c */
	ARRAY(struct img_made) made;
	size_t n_kept;
	uint64_t bytes;
	struct img_out *outs; /* those not closed yet */
	void *spare;	      /* an output buffer to be used again */
	struct pages_ring *ring;
	struct gate *gate;    /* our place among the dumps of this machine */
	const struct pages_sink *sink; /* where page data goes; NULL: into the folder, as it is */
	struct pack_pool *pack;	       /* writing: where page images are packed (pages_pack.h) */
	uint64_t id;		       /* writing: the random number that ckpt-blocks and ckpt-sums share */
	struct blocks_out *blocks;     /* writing: ckpt-blocks; NULL before the first page image */
	ARRAY(struct img_sum) summed;  /* writing: images that are complete, for ckpt-sums */
	struct sums *sums;	       /* reading: ckpt-sums, NULL if there is none, or if it is not asked for */
	bool packed;		       /* reading: the inventory says that page images are not plain */
	struct pages_reader *reader;   /* reading: what page images share; NULL before the first */
	void *sink_data;	       /* what that needs to know */
};

/* What a folder that was opened by itself holds: its inventory, whichever kind of set it is of. Returns IMG_ABSENT. */
int img_dir_identify(struct op *op, struct img_dir *dir, InventoryEntry **inventory);

/* Header of an image into @head; returns its length in bytes. */
size_t img_put_head(enum img_kind kind, uint32_t head[2]);
/* Does an image of a checkpoint bear this name? Statistics do not count: they may lie in any folder. */
bool img_name_known(const char *name);

/* Makes @name in the folder, in place of what may be left there of an earlier attempt; it is removed at abort. */
int img_make(struct op *op, struct img_dir *dir, const char *name, int *fd);
/* Hands the descriptor of a finished file over to the commit. */
void img_made_done(struct img_dir *dir, const char *name, int fd);
int img_write_all(struct op *op, int fd, const char *name, const void *p, size_t n);
/* Packs a whole image with one entry; *@buf is the caller's to free. */
int img_pack(struct op *op, const char *name, enum img_kind kind, const ProtobufCMessage *msg, uint8_t **buf, size_t *n);
/*
 * As img_create(), made at once under a name that no reader looks for: img_dir_publish() gives it its own. Returns 0, IMG_EXISTS:
 * the folder is getting this image already.
 */
#define IMG_EXISTS 3
int img_create_hidden(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_out **ret);
#define IMG_HIDDEN_SUFFIX ".tmp"
/* A whole image with one entry, under a name of the caller's. */
int img_write_named(struct op *op, struct img_dir *dir, const char *name, enum img_kind kind,
		    const ProtobufCMessage *msg);
/* Frees outputs that were never closed. */
void img_outs_free(struct img_dir *dir);

/* Reads ckpt-sums into @dir->sums, if that was not done, and there is one. */
int img_dir_sums(struct op *op, struct img_dir *dir);
void pages_reader_free(struct img_dir *dir);
void pack_pool_free(struct img_dir *dir);
/* Closes a ckpt-blocks that was not finished. */
void blocks_out_free(struct img_dir *dir);
/* Waits for what is in flight and frees the ring. NULL allowed; returns NULL. */
struct pages_ring *pages_ring_free(struct pages_ring *ring);

/* own.c: all of a small file of ours, *@bytes (malloc) is the caller's. Returns 0, IMG_ABSENT, or a recorded failure. */
int img_read_own(struct op *op, int dirfd, const char *name, uint64_t max, char **bytes, size_t *n);
/* @n bytes at @off of a file that has them. */
int img_pread(struct op *op, int fd, const char *name, void *p, size_t n, uint64_t off);

#endif
