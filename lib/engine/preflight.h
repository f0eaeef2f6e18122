/* SPDX-License-Identifier: MIT */
/* What can be said about a task without stopping it: used before a dump, and by ckpt_check_task(). */
#ifndef CKPT_ENGINE_PREFLIGHT_H
#define CKPT_ENGINE_PREFLIGHT_H

#include "lib/base/op.h"

/* Fails with the first thing that stands in the way of stopping @pid at all. Cheap. */
int preflight(struct op *op, pid_t pid);
/* What has to be asked again once the task is frozen: it may have forked, unshared or exited since. */
int preflight_frozen(struct op *op, pid_t pid, pid_t root);
/* Hands every such thing to @fn; returns how many there were, or a failure. @root: of the tree; else it is below it. */
int preflight_report(struct op *op, pid_t pid, bool root, ckpt_obstacle_fn fn, void *arg);

#endif
