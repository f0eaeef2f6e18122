/* SPDX-License-Identifier: MIT */
/* The areas of a task as restore_vma.c collects them, and what puts pages into them. */
#ifndef CKPT_STATE_MEM_RESTORE_PAGES_H
#define CKPT_STATE_MEM_RESTORE_PAGES_H

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

#define TASK_SIZE 0x7ffffffff000ull

struct mapped_file {
	uint64_t id;
	uint32_t fdflags;
	int32_t file; /* index of the fetch; -1: a free slot */
};

struct vmas {
	struct plan_vma *v;
	const VmaEntry **e; /* of the same index */
	bool *lazy;	    /* the same: pages that may come later are left out */
	size_t image_index; /* of the entry that is looked at, in the image */
	size_t n;
	struct mapped_file *files; /* hash table of a power of two */
	size_t n_files, cap_files;
	struct plan_range *guards;
	size_t n_guards;
};

/*
 * Resolves the task's pagemap to b->pieces, and plans how pages come to the areas of @m, whose protection may change for
 * that time. Few pages are read by the task itself; many, and those that are not stored as they are, are put there by the
 * engine (b->fills).
 */
int pages_plan(struct plan_build *b, struct vmas *m);

#endif
