/* SPDX-License-Identifier: MIT */
/* AIO contexts: both halves are in aio.c, called by those that go through the areas. */
#ifndef CKPT_STATE_MEM_AIO_H
#define CKPT_STATE_MEM_AIO_H

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

#define PLAN_TASK_SIZE 0x7ffffffff000ull

bool aio_is_ring(const struct proc_vma *v);
/* Makes @e the entry of a ring, and adds its context to task->mm. Waits for requests that end by themselves. */
int aio_dump(struct op *op, struct task_dump *d, const struct proc_vma *v, VmaEntry *e);

/* The area of a ring: checks it. */
int aio_area(struct plan_build *b, const VmaEntry *e, uint64_t *after);
/* Whether the page at @addr is one of a ring, which is not loaded. */
bool aio_has_page(const struct plan_build *b, uint64_t addr);
/* After all areas and pages were seen, and the page data was opened. */
int aio_plan(struct plan_build *b);

#endif
