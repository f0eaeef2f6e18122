/* SPDX-License-Identifier: MIT */
/*
 * The chain of folders that an incremental set of images builds on, opened as far as it is asked for. A folder in it must be
 * the one that its child was made upon, as far as the child says which.
 */
#ifndef CKPT_STATE_CHAIN_H
#define CKPT_STATE_CHAIN_H

#include "lib/image/parent.h"

#define CHAIN_MAX 1000

struct chain {
	const struct img_dir *dir; /* the set of images that it begins at */
	const char *expected;	   /* run id of its parent, NULL: not known */
	ARRAY(struct img_parent) levels;
};

/* Level @i; 0 is the parent of the folder. Returns IMG_ABSENT where the chain ends before. */
int chain_level(struct op *op, struct chain *c, size_t i, struct img_parent **ret);
void chain_done(struct chain *c);

#endif
