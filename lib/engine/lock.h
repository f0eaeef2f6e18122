/* SPDX-License-Identifier: MIT */
/* Network locks by themselves, between a dump and a restore: ckpt lock, ckpt unlock. */
#ifndef CKPT_ENGINE_LOCK_H
#define CKPT_ENGINE_LOCK_H

#include "lib/base/op.h"

/* The engine of ckpt_lock(), ckpt_unlock(), ckpt_locks(). */
int lock_run(struct op *op, uint64_t *n);
int unlock_run(struct op *op, const char *id);
int locks_run(struct op *op, ckpt_lock_fn fn, void *arg);

#endif
