/* SPDX-License-Identifier: MIT */
/*
 * Memory that a fork left shared: a process is forked from its parent when the parent's memory is filled, keeps the areas
 * that both have, and writes only the pages that differ. So what was shared stays shared, page by page.
 */
#ifndef CKPT_STATE_MEM_RESTORE_INHERIT_H
#define CKPT_STATE_MEM_RESTORE_INHERIT_H

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

/* Marks those of the @n areas that are kept; @e are their entries, in order. Before pages are planned. */
int inherit_mark(struct plan_build *b, struct plan_vma *v, const VmaEntry *const *e, size_t n);
/* What pages the copy has too many; and room for what is not unmapped. After the pages. */
int inherit_put(struct plan_build *b);
/* Fills that room, when it is known where the restorer's own area is. */
void inherit_keep_area(struct plan_build *b);

#endif
