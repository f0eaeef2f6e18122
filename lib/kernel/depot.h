/* SPDX-License-Identifier: MIT */
/*
 * A depot: a process in a user namespace that shares our table of descriptors, and does nothing. Processes of that namespace,
 * which may not take descriptors from us (pidfd_getfd), have the rights to take them from it, by the same numbers. It has our
 * user, not one of the namespace's: other processes than those with all rights in there have nothing to do with it. It ends
 * with the thread that made it.
 */
#ifndef CKPT_KERNEL_DEPOT_H
#define CKPT_KERNEL_DEPOT_H

#include "lib/base/op.h"

struct depot;

/* @pidfd: of it, the caller's to close. */
int depot_open(struct op *op, int user_ns, struct depot **ret, int *pidfd);
void depot_close(struct depot *d); /* NULL allowed */

#endif
