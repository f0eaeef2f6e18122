/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_LAZY_PAGES_H
#define CKPT_ENGINE_LAZY_PAGES_H

#include "lib/base/op.h"

/* Behind ckpt_lazy_pages(). */
int lazy_pages_run(struct op *op, ckpt_ready_fn ready, void *arg);

#endif
