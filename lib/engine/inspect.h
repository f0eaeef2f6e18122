/* SPDX-License-Identifier: MIT */
/* What is in a checkpoint, for people and programs. */
#ifndef CKPT_ENGINE_INSPECT_H
#define CKPT_ENGINE_INSPECT_H

#include "lib/base/op.h"

/* Reads the images folder of @op->opts and describes it as JSON text, which the caller frees with free(3). */
int inspect_run(struct op *op, char **json);

#endif
