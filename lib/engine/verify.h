/* SPDX-License-Identifier: MIT */
/* Are the images still what was written? */
#ifndef CKPT_ENGINE_VERIFY_H
#define CKPT_ENGINE_VERIFY_H

#include "lib/base/op.h"
#include "lib/image/sums.h"

/* The engine of ckpt_verify(). Returns the number of damages, or a failure. */
int verify_run(struct op *op, struct ckpt_verify_stats *stats, ckpt_damage_fn fn, void *arg);

/* ---- between verify.c and verify_pages.c */

struct verify {
	struct op *op;
	struct ckpt_verify_stats *stats;
	ckpt_damage_fn fn;
	void *arg;
	int found;
	struct img_dir *dir; /* the folder that is looked at */
	char where[64];	     /* "" or "parent/parent/", for messages */
};

/* Counts a damage, and tells it. It is what @op has recorded; of the operation of another thread, too. */
void verify_tell(struct verify *v, struct op *op, pid_t pid, uint64_t addr, const char *more);
/* True, and the failure told, if @r is one of a kind that leaves other things to look at. */
bool verify_damage(struct verify *v, int r);

/* All page images of the folder. */
int verify_pages(struct verify *v);

#endif
