/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_CHECK_H
#define CKPT_ENGINE_CHECK_H

#include "lib/base/op.h"

/* The engine of ckpt_check_task(). */
int check_task_run(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg);

#endif
