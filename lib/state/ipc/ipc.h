/* SPDX-License-Identifier: MIT */
/*
 * System V IPC: shared memory, semaphores, message queues, and the namespace they live in.
 *
 * Where the tree has an IPC namespace of its own, all of it belongs to the tree: it is dumped whole, and restore makes a new
 * one. Where it lives in the dumper's, objects belong to nobody and outlive their users, as files do. Saved are then the
 * segments that a task has attached or has made, the semaphore sets and queues that a task was the last to use; restore
 * uses an object that is still there, if it is still the same, and makes it where it is gone.
 */
#ifndef CKPT_STATE_IPC_H
#define CKPT_STATE_IPC_H

#include "lib/kernel/proc/proc.h"
#include "lib/state/snapshot.h"

struct plan_build; /* lib/state/task/plan_build.h */

/* ---- dump */
/* Before any object or descriptor is looked at. */
int ipc_dump_begin(struct op *op, struct snapshot *s);
/* Whether an area is an attachment of a System V segment. */
bool ipc_is_attachment(const struct proc_vma *v);
/* Fills what is special about its entry, and counts it. Host, task frozen. */
int ipc_dump_attachment(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *v, VmaEntry *e);
/* All objects, into the snapshot. Host; tasks frozen; after all areas and descriptors were looked at. */
int ipc_dump(struct op *op, struct snapshot *s);
/* Contents of segments, to their pages-N. */
int ipc_dump_contents(struct op *op, struct snapshot *s);
/* ipcns-*, pagemap-shmem-* of segments, and what goes into s->extra. */
int ipc_write(struct op *op, struct snapshot *s);

/* ---- restore */
int ipc_read(struct op *op, struct snapshot *s);
/* The objects, in the namespace, which is there. Host, before anything is opened. */
int ipc_make(struct op *op, struct snapshot *s);
/* Attachments of the task: calls of PLAN_MEMORY. */
int ipc_plan(struct plan_build *b);

/* All tasks have theirs: ours go, before a task could count them. Never fails. */
void ipc_detach(struct snapshot *s);

/* Closes what is open; after a failed restore, takes away what was made. Dump and restore, never fails. */
void ipc_done(struct op *op, struct snapshot *s, bool success);

#endif
