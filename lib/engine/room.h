/* SPDX-License-Identifier: MIT */
/* Is there memory for what a program may come to use? */
#ifndef CKPT_ENGINE_ROOM_H
#define CKPT_ENGINE_ROOM_H

#include "lib/base/op.h"

/*
 * Whether @bytes more fit into the memory cgroups of @pid (all levels, v1 or v2), and into the machine. *@why: where they do
 * not, in words (of the arena), else NULL. What cannot be found out does not stand in the way. 0 or out of memory.
 */
int room_check(struct op *op, pid_t pid, uint64_t bytes, const char **why);

#endif
