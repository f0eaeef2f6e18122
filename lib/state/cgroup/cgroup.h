/* SPDX-License-Identifier: MIT */
/* Control groups, v1 and v2: which there are, with their properties, and which thread is in which. */
#ifndef CKPT_STATE_CGROUP_H
#define CKPT_STATE_CGROUP_H

#include "lib/state/ns/ns.h"

/* ---- dump; host, all tasks frozen */
/* Sets of all threads (thread_core.cg_set, inventory.root_cg_set), folders and properties. */
int cgroups_dump(struct op *op, struct snapshot *s);
int cgroups_write(struct op *op, struct snapshot *s);

/* ---- restore */
int cgroups_read(struct op *op, struct snapshot *s); /* and checks: a set that is not there, a hierarchy we do not have */
/* Folders, as opts->manage_cgroups says. Before any task exists. */
int cgroups_make(struct op *op, struct snapshot *s);
/* The process that is to become the root task (@host: as we see it) goes into its cgroups; its children are born there. */
int cgroups_enter(struct op *op, struct snapshot *s, pid_t host);
/*
 * Threads that are in other ones than the root: all of them exist, none runs. @host_of tells how we see the thread @tid of the
 * image. Then the properties that wait for the tasks.
 */
int cgroups_move(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg);

/* Dump and restore; after a failed restore, removes the folders that were made. Never fails. */
void cgroups_done(struct op *op, struct snapshot *s, bool success);

#endif
