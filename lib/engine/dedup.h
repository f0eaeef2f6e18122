/* SPDX-License-Identifier: MIT */
/* Freeing what later sets of images supersede: ckpt dedup, and --auto-dedup of dumps and restores. */
#ifndef CKPT_ENGINE_DEDUP_H
#define CKPT_ENGINE_DEDUP_H

#include "lib/state/snapshot.h"

/* The engine of ckpt_dedup(). */
int dedup_run(struct op *op, uint64_t *freed);
/* What the complete set of images in @dir supersedes of its parents. Only warns: the images are what they should be. */
void dedup_after_dump(struct op *op, struct img_dir *dir);
/* The @n maps that a restore has read. Only warns. */
void dedup_after_restore(struct op *op, const struct snapshot *s, const struct pieces *const *p, size_t n);

#endif
