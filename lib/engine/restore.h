/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_RESTORE_H
#define CKPT_ENGINE_RESTORE_H

#include "lib/base/op.h"

/* The engine of ckpt_restore(). */
int restore_run(struct op *op, pid_t *pid);

#endif
