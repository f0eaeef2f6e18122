/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_DUMP_H
#define CKPT_ENGINE_DUMP_H

#include "lib/base/op.h"

/* The engine of ckpt_dump(). */
int dump_run(struct op *op, pid_t pid);
/* The engine of ckpt_pre_dump(). */
int predump_run(struct op *op, pid_t pid);
/* The engine of ckpt_dump_self(). */
int dump_self_run(struct op *op);

#endif
