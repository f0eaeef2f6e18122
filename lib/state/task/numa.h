/* SPDX-License-Identifier: MIT */
/* NUMA policies of threads and of areas, between the kernel's form and the image's. */
#ifndef CKPT_STATE_TASK_NUMA_H
#define CKPT_STATE_TASK_NUMA_H

#include "lib/base/op.h"
#include "lib/image/image.h"
#include "lib/inject/parasite/parasite.h"

/* As get_mempolicy(2) and set_mempolicy(2) count: one more than there are bits. */
#define NUMA_MAX_NODE (64 * PARASITE_NODE_WORDS + 1)

/* @nodes: PARASITE_NODE_WORDS of them. */
int numa_message(struct op *op, int32_t mode, const uint64_t *nodes, NumaPolicy **ret);
int numa_nodes(struct op *op, pid_t pid, const NumaPolicy *p, uint64_t *nodes);

#endif
