/* SPDX-License-Identifier: MIT */
#ifndef CKPT_STATE_FILE_URING_MAP_H
#define CKPT_STATE_FILE_URING_MAP_H

#include "lib/state/snapshot.h"

/* Restore: our descriptor of the ring that a mapping with file @id is of. It stays where it is. */
int uring_find_mapped(struct op *op, const struct snapshot *s, uint32_t id, int *fd);

#endif
