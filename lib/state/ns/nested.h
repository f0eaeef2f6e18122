/* SPDX-License-Identifier: MIT */
/*
 * PID namespaces below that of the root task: `unshare --pid` in a container. The numbers of the images are those of the root
 * task's; what processes further down are called there is in our own file (ckpt-extra), for everybody who has such numbers:
 * tasks, threads, and leaders of groups and sessions. Restored, a process gets all of its numbers at once, and whatever names
 * another process does so by the number that it sees.
 */
#ifndef CKPT_STATE_NS_NESTED_H
#define CKPT_STATE_NS_NESTED_H

#include "lib/state/snapshot.h"

#define NESTED_MAX 32

struct plan_build;

/* Dump: after it is known who lives where; host, all tasks frozen. Fills s->extra. */
int nested_dump(struct op *op, struct snapshot *s);
/* Restore: checks them against the tree; after ns_read(). */
int nested_read(struct op *op, struct snapshot *s);

/* Restore: what @t, NULL: the root task, calls process or thread @number; 0: it does not see it. */
pid_t nested_seen(const struct snapshot *s, const struct snap_task *t, pid_t number);
/* All numbers of a process or thread, as clone3 takes them: the innermost first. Returns how many (at most NESTED_MAX + 1). */
size_t nested_numbers(const struct snapshot *s, pid_t number, int32_t *v);
/* Is it the first process of a namespace below that of whoever makes it? */
bool nested_is_init(const struct snapshot *s, pid_t number);
/* What children to come are to live in, if that is not the task's own namespace. */
int nested_plan(struct plan_build *b);

#endif
