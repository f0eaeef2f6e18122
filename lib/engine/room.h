/* SPDX-License-Identifier: MIT */
/* Is there memory for what a program may come to use? */
#ifndef CKPT_ENGINE_ROOM_H
#define CKPT_ENGINE_ROOM_H

#include "lib/kernel/proc/read.h"

/* What is the same for many processes; starts zeroed. */
struct room {
	struct proc_mounts mounts;
	const char *groups; /* the cgroups that were looked at last */
	bool machine;
};

/*
 * Whether @bytes more fit into the memory cgroups of @pid (all levels, v1 or v2), and into the machine. *@why: where they do
 * not, in words (of the arena), else NULL. What cannot be found out does not stand in the way. 0 or out of memory.
 */
int room_check(struct op *op, struct room *room, pid_t pid, uint64_t bytes, const char **why);

#endif
