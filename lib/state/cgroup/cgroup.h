/* SPDX-License-Identifier: MIT */
/* Control groups, v1 and v2: which there are, with their properties, and which thread is in which. */
#ifndef CKPT_STATE_CGROUP_H
#define CKPT_STATE_CGROUP_H

#include "lib/state/ns/ns.h"

/* ---- dump; host */
/* Are the options about cgroups understood? Before anything is stopped. */
int cgroups_check_options(struct op *op, struct snapshot *s);
/*
 * Whether @dir, a folder of a cgroup file system, or one of those below, is a cgroup of our own: then it must not be frozen.
 */
int cgroups_contain_us(struct op *op, struct snapshot *s, int dir, bool *yes);
/* Refuses a process that stands still in a frozen cgroup. */
int cgroups_check_running(struct op *op, struct snapshot *s, pid_t pid);
/* The cgroup of --freeze-cgroup was frozen by others, or not: it is not what its files say meanwhile. */
int cgroups_note_freezer(struct op *op, struct snapshot *s, bool was_frozen);
/*
 * Sets of all threads (thread_core.cg_set, which exist; inventory.root_cg_set is 1), folders and properties. All tasks stopped.
 * The descriptors of their cgroup namespaces are open.
 */
int cgroups_dump(struct op *op, struct snapshot *s);
int cgroups_write(struct op *op, struct snapshot *s);

/* ---- restore, in this order; with --manage-cgroups=ignore none of them does anything. After ns_read() */
int cgroups_read(struct op *op, struct snapshot *s); /* and checks: a set that is not there, a hierarchy we do not have */
/* Folders, as opts->manage_cgroups says, and cgroup namespaces other than the root task's. Before any task exists. */
int cgroups_make(struct op *op, struct snapshot *s);
/*
 * The process that is to become the root task (@host: as we see it) goes into its cgroups; its children are born there. If it has
 * a cgroup namespace of its own it goes into what is to be the root of that, and unshares it next.
 */
int cgroups_enter(struct op *op, struct snapshot *s, pid_t host);
/*
 * All processes exist, and nothing of their memory yet, which counts where they are: those that are to be in others than the root
 * task. @host_of tells how we see the thread @tid of the image.
 */
int cgroups_move(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg);
/* All threads exist: those that are to be in others than their leaders. */
int cgroups_move_threads(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg);
/* With more than one cgroup namespace in the tree: each task enters its own. */
struct plan_build;
int cgroups_plan(struct plan_build *b);
/* Nobody moves any more, nobody runs: the properties that wait for the tasks. */
int cgroups_settle(struct op *op, struct snapshot *s);
/* Freezes what was frozen. Nothing is to be asked of the tasks after this but to go on. */
int cgroups_freeze(struct op *op, struct snapshot *s);

/*
 * Dump and restore; after a failed restore, changes back what was changed, and removes the folders that were made: no process is
 * in them any more. Never fails, any number of times.
 */
void cgroups_done(struct op *op, struct snapshot *s, bool success);

#endif
