/* SPDX-License-Identifier: MIT */
/*
 * Errands: a function is run by a process of its own, which lives in other namespaces than we do. It shares our memory and
 * our descriptors, and we stand still meanwhile; so it is as if we had gone there for a moment, and may be an ordinary
 * function: it allocates, fails with op_fail() and logs. What it opens is open here, too, afterwards.
 *
 * It must not start threads, trace, wait for processes that are not its own, or leave anything behind that is bound to a
 * process (the process ends with it). setns(2) and unshare(2) in it are its own business.
 */
#ifndef CKPT_KERNEL_ERRAND_H
#define CKPT_KERNEL_ERRAND_H

#include "lib/base/op.h"

/* What to enter: descriptors of namespaces (nsfs); -1: stays in ours. They are entered in this order. */
struct errand_where {
	int user; /* with it the process is root in there, and has all capabilities there, none here */
	int pid;  /* the process then is a member of it */
	int mnt;  /* root and working directory are then the root of that */
	int net, ipc, uts, cgroup, time;
};
#define ERRAND_HERE { -1, -1, -1, -1, -1, -1, -1, -1 }

/*
 * Calls @fn(@op, @arg) there; returns what it returns, or a recorded failure (a namespace that could not be entered, a process
 * that was killed: CKPT_E_SYS). Signals are blocked in it. From any thread.
 */
int errand_run(struct op *op, const struct errand_where *where, int (*fn)(struct op *op, void *arg), void *arg);

#endif
