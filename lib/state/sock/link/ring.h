/* SPDX-License-Identifier: MIT */
/* Mapped rings of packet sockets, for lib/state/mem: packet_ring.c. */
#ifndef CKPT_STATE_SOCK_RING_H
#define CKPT_STATE_SOCK_RING_H

#include "lib/kernel/proc/read.h"
#include "lib/state/snapshot.h"

/* The mapping of a socket. */
bool packet_ring_is(const struct proc_vma *v);
/* Why it cannot be saved, or NULL. */
const char *packet_ring_obstacle(const struct proc_vma *v);
/* Dump: @e is completed when all descriptors of the tree were looked at. */
int packet_ring_area(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *v, VmaEntry *e);

#endif
