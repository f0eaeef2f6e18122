/* SPDX-License-Identifier: MIT */
/*
 * The folder that an incremental set of images builds on: `parent`, a symbolic link in the folder, as the format has it. Which
 * set was meant is told by its run id, which our own file records; sets of others do without.
 */
#ifndef CKPT_IMAGE_PARENT_H
#define CKPT_IMAGE_PARENT_H

#include "lib/image/image.h"

/* A set of images to be read as somebody's parent: a checkpoint or a pre-dump. Freed by img_dir_close(@dir). */
struct img_parent {
	struct img_dir *dir;
	InventoryEntry *inventory;
	const char *run_id;	   /* NULL: it has none */
	const char *parent_run_id; /* of its own parent; NULL: not known, or it has none */
	uint64_t dev, ino;	   /* of the folder */
};

/* Opens the folder at @path, relative to the folder of @child. */
int img_parent_open(struct op *op, const struct img_dir *child, const char *path, struct img_parent *ret);
/* Opens the images folder of the operation to read it, whichever of both it is. */
int img_set_open(struct op *op, struct img_parent *ret);
/* The same for the link of @child. Returns IMG_ABSENT when it has none. */
int img_parent_follow(struct op *op, const struct img_dir *child, struct img_parent *ret);
/* Makes the link in a folder that is being written; it goes with an abort. One that leads there already is kept. */
int img_parent_link(struct op *op, struct img_dir *dir, const char *path, const struct img_parent *parent);

#endif
