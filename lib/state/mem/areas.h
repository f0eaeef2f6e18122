/* SPDX-License-Identifier: MIT */
/*
 * Properties of areas that vma_entry has no place for: protection keys, memory policies, locks on fault, seals. They are in
 * our own file as ranges. One file per kind; props.c calls them.
 */
#ifndef CKPT_STATE_MEM_AREAS_H
#define CKPT_STATE_MEM_AREAS_H

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

/* Which areas @want says yes to, neighbours as one. */
int areas_collect(struct op *op, const struct proc_maps *maps, bool (*want)(const struct proc_vma *), AreaRange ***ret, size_t *n);
/* Whether [start, end) lies in mapped areas of the image that follow each other; else a recorded failure. */
int areas_check(struct plan_build *b, uint64_t start, uint64_t end, const char *what);
/* The area of the plan that has @addr, or NULL. */
struct plan_vma *areas_planned(struct plan_build *b, uint64_t addr);
/* A planned call that gets (start, len, @c, @d, @e, @f). */
int areas_call(struct plan_build *b, enum plan_phase phase, uint32_t nr, uint32_t flags, uint64_t start, uint64_t end,
	       const uint64_t rest[4], const char *what);

int pkeys_dump(struct op *op, struct task_dump *d);
int pkeys_plan(struct plan_build *b);
int mbind_plan(struct plan_build *b);

#endif
