/* SPDX-License-Identifier: MIT */
#ifndef CKPT_ENGINE_INSPECT_H
#define CKPT_ENGINE_INSPECT_H

#include "lib/base/op.h"

/* The engine of ckpt_inspect(). *@json is malloc()ed. */
int inspect_run(struct op *op, char **json);

#endif
