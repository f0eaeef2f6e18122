/* SPDX-License-Identifier: MIT */
/*
 * Reading the memory of a task, wherever it is: in the task, which stands still; or in its twin, a copy-on-write snapshot of it,
 * with the areas that such a copy lacks in a stash, while the task runs on.
 */
#ifndef CKPT_STATE_MEM_COPY_H
#define CKPT_STATE_MEM_COPY_H

#include "lib/inject/twin.h"
#include "lib/state/mem/stash.h"
#include "lib/state/task/task.h"

struct mem_copy {
	struct twin twin;   /* none: everything is in the stash */
	struct stash stash;
	uint64_t dropped;   /* the twin has given back what is below, or passed it */
};

/* Whose page tables to look at. Of areas in the stash: ask stash_find(). */
const struct target *mem_target(const struct task_dump *d);
/* @n bytes from @at on, all of them in pages that pages_collect() found. */
int mem_read(struct op *op, struct task_dump *d, uint64_t at, void *buf, size_t n);
/* The last word on a failure @r: a snapshot that was ended explains all others. Returns @r. */
int mem_copy_explain(struct op *op, const struct task_dump *d, int r);

/*
 * Makes d->copy complete: of each area that the image takes pages of, either the twin has them, or the stash. @all: all go to the
 * stash. Task stopped, twin (if any) just made. Returns 0, STASH_FULL or a failure.
 */
int mem_copy_fill(struct op *op, struct task_dump *d, struct stash_room *room, bool all);

#endif
