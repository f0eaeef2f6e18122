/* SPDX-License-Identifier: MIT */
/*
 * Pages that are written from where they are, by the mover, and not copied: see docs/design/page-engine.md. To the rest of the
 * dump these are stretches of a page image that somebody else fills.
 */
#ifndef CKPT_STATE_MEM_MOVE_H
#define CKPT_STATE_MEM_MOVE_H

#include "lib/state/mem/mem.h"

struct moves;

/* move_limits.c: the task's cgroup has a limit on writing to disks. */
bool move_is_limited(struct op *op, pid_t pid);

/*
 * What of task @d can be moved into @out, and starts it. *@ret is NULL where that is nothing, or not worth it, or cannot be.
 * The task must be stopped until moves_finish() or moves_end().
 */
int moves_begin(struct op *op, struct task_dump *d, struct pages_out *out, struct moves **ret);
/* How many bytes from @off of the image on are moved; if none, *@until is where the next stretch begins. @off must grow. */
uint64_t moves_at(struct moves *m, uint64_t off, uint64_t *until);
/* Keeps it going; to be called now and then. NULL allowed, as for the others. */
int moves_poll(struct op *op, struct moves *m);
/* Waits for all of it; what could not be moved is copied now. */
int moves_finish(struct op *op, struct moves *m);
/* Takes the mover out of the task. After a failure, too; once more does nothing. */
int moves_end(struct op *op, struct moves *m);

#endif
