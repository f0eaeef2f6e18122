/* SPDX-License-Identifier: MIT */
/*
 * Dump: numbers of processes. A tree with a PID namespace of its own has two for each of its tasks: ours (`host`), for /proc
 * and system calls, and the one that the tree itself knows (`inside`: in the PID namespace of the root task), for images. What
 * a system call of ours tells of processes (owners, locks, credentials, sessions) is translated here.
 *
 * A tree in our own PID namespace has no table: both numbers are the same, also those of processes that have ended.
 */
#ifndef CKPT_STATE_PIDS_H
#define CKPT_STATE_PIDS_H

#include "lib/kernel/proc/proc.h"
#include "lib/state/snapshot.h"

struct pids;

/*
 * The table, from the levels that /proc shows of the root task; *@ret is NULL if it lives in our PID namespace. Host, the root
 * stands still.
 */
int pids_begin(struct op *op, pid_t root, struct pids **ret);
/* Everybody @st tells of: the task or thread, its process group and its session. Any number of times. */
int pids_add(struct op *op, struct pids *p, const struct proc_status *st);
/* Reads /proc/@host/status for that, if there is a table. */
int pids_add_task(struct op *op, struct pids *p, pid_t host);

/* What processes of the tree call @host; 0: they do not see it, or nobody knows any more what it was. */
pid_t pids_inside(const struct pids *p, pid_t host);
/* The other way round; 0: there is none. */
pid_t pids_host(const struct pids *p, pid_t inside);
/* The number of whom @st is of in the root task's namespace; 0: it is not visible there. */
pid_t pids_of_status(const struct pids *p, const struct proc_status *st);

/*
 * Runs @fn where the kernel tells the numbers inside, those of processes that have ended, too: in a process in the PID
 * namespace of the tree (lib/kernel/errand.h), or at once if that is ours.
 */
int pids_run_inside(struct op *op, const struct snapshot *s, int (*fn)(struct op *op, void *arg), void *arg);

/* The PID namespace of the tree, where processes have other numbers here than there; -1: it is ours, or does not exist yet. */
int pids_namespace(const struct snapshot *s);

#endif
