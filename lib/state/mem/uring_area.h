/* SPDX-License-Identifier: MIT */
/* Mappings of io_uring instances: uring_area.c. */
#ifndef CKPT_STATE_MEM_URING_AREA_H
#define CKPT_STATE_MEM_URING_AREA_H

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

bool uring_is_ring(const struct proc_vma *v);
/* Why the mapping of a ring cannot be saved, or NULL. */
const char *uring_area_obstacle(const struct proc_vma *v);
/* Restore: the area of a ring is mapped by calls of the plan, not with the others. */
int uring_area(struct plan_build *b, const VmaEntry *e);
/* Plans them; when the areas and the place of the vDSO are known. */
int uring_areas_plan(struct plan_build *b);

#endif
