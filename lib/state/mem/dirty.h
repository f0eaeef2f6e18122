/* SPDX-License-Identifier: MIT */
/*
 * Which pages of a task were written since its last dump. The kernel notes that by a userfaultfd (lib/inject/uffd.h);
 * everything that is not provably clean counts as written.
 */
#ifndef CKPT_STATE_MEM_DIRTY_H
#define CKPT_STATE_MEM_DIRTY_H

#include "lib/state/mem/mem.h"

struct dirty_range {
	uint64_t start, end;
};

/* Of one address space; struct task_dump has one, or none. */
struct page_tracking {
	int uffd;	       /* -1: nothing is noted */
	bool arm;	       /* from now on what is written is noted anew */
	bool only_tracked;     /* a pre-dump: what is not tracked is left to the dump */
	struct pieces parent;  /* what the parent has; clean pages in it are not stored again */
	/* What dirty_scan() found: */
	bool armed;	       /* the kernel's notes were changed; they are relative to this dump now */
	bool *tracked;	       /* by number of the area: pages of it that are not dirty are clean. NULL: of none */
	ARRAY(struct dirty_range) dirty; /* ascending */
	uint64_t n_parent;     /* pages_collect(): those that were left to the parent */
};

/*
 * Finds what was written, in all areas of task->mm that can be tracked, and has the kernel note it anew: one call for both, so
 * that nothing falls in between. Host, task frozen.
 */
int dirty_scan(struct op *op, struct task_dump *d);

/* The areas of a pre-dump: fills task->mm->vmas with what can be tracked, from /proc/PID/maps alone. Host, task frozen. */
int dirty_areas(struct op *op, struct task_dump *d);

#endif
