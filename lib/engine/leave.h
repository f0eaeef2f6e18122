/* SPDX-License-Identifier: MIT */
/* The end of what a dump and a restore have to do with namespaces of the tree. */
#ifndef CKPT_ENGINE_LEAVE_H
#define CKPT_ENGINE_LEAVE_H

#include "lib/state/snapshot.h"

/* The calling thread comes back to its own network, and what was opened or made on the way is closed, or taken back. Never fails. */
void namespaces_leave(struct op *op, struct snapshot *s, bool success);

#endif
