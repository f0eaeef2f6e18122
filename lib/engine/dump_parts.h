/* SPDX-License-Identifier: MIT */
/* What the parts of the dump pipeline (dump.c) share. */
#ifndef CKPT_ENGINE_DUMP_PARTS_H
#define CKPT_ENGINE_DUMP_PARTS_H

#include "lib/engine/dump_remote.h"
#include "lib/engine/freezer.h"
#include "lib/engine/track.h"
#include "lib/inject/guardian.h"
#include "lib/state/mem/stash.h"
#include "lib/state/task/task.h"

/* Kernel objects that processes can share (CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND). */
enum kobj { KOBJ_VM, KOBJ_FILES, KOBJ_FS, KOBJ_SIGHAND, N_KOBJS };

/* A process of the tree that is dumped. */
struct dump_task {
	pid_t pid;
	size_t parent; /* index of the parent; of the root: its own */
	bool zombie;   /* ended, not waited for: nothing but stat is there */
	struct proc_stat stat;
	struct target target;
	int mem; /* pre-dump: its memory, while it runs; 0: not open */
	struct snap_task *task;
	size_t owner[N_KOBJS]; /* index of the first task with the same object; its own where there is none before */
	/* Of the address space: those of the owner are used. */
	struct proc_maps maps;
	struct parasite parasite;
	struct task_dump td;
	uint64_t private_bytes; /* about; with --leave-running */
};

/* The areas of a large process, looked at before the tree is stopped. */
struct area_look {
	pid_t pid;
	uint64_t starttime;
	struct proc_maps maps;
};

struct dump {
	pid_t pid;
	struct snapshot s;
	ARRAY(struct dump_task *) tasks; /* parents first; [0] is the root */
	struct guardian guardian;
	int claim; /* on the root */
	struct freezer freezer;
	struct track track;
	bool files_begun;
	/* With --leave-running: dump_snapshot.c */
	ARRAY(struct area_look) looks;
	struct stash_room room;
	bool early;   /* nothing that is still to be saved can change: the tree may run before it is written */
	bool running; /* it was let go */
	bool told_of_lock; /* CKPT_EVENT_NETWORK_LOCK: there is an unlock to come */
	struct remote remote; /* --page-server */
};

static inline bool owns(const struct dump *d, size_t i, enum kobj which)
{
	return !d->tasks.v[i]->zombie && d->tasks.v[i]->owner[which] == i;
}

/* dump_tree.c: stops the whole tree; who is in it, and what its tasks share. */
int tree_freeze(struct op *op, struct dump *d);
void tree_release(struct op *op, struct dump *d);
int tree_kill(struct op *op, struct dump *d);
/* The last word on a failure: a task that ended meanwhile explains all others. */
int tree_explain(struct op *op, const struct dump *d, int r);

/* dump_frame.c: messages about the checkpoint as a whole, and the tasks' empty ones. */
int frame_begin(struct op *op, struct dump *d); /* before the freeze */
int frame_tasks(struct op *op, struct dump *d); /* after it */
int frame_clocks(struct op *op, struct dump *d);

/* dump_snapshot.c. Before the freeze: */
int snapshot_look(struct op *op, struct dump *d);
/* Fills t->maps, as exactly as it can be had quickly; t->td.flags_later says what is left to snapshot_complete(). */
int snapshot_areas(struct op *op, const struct dump *d, struct dump_task *t);
/* Puts the memory of all tasks out of their reach, and sets d->early; or says why it does not. */
int snapshot_take(struct op *op, struct dump *d);
/* Before pages_collect(): what is missing of the areas. Of tasks with a memory of their own. */
int snapshot_complete(struct op *op, struct dump *d, struct dump_task *t);
/* Never fails; any number of times. */
void snapshot_end(struct op *op, struct dump *d);

/* dump_stages.c: stages of the dump and of the pre-dump */
int stage_prepare(struct op *op, void *arg);
int stage_open_folder(struct op *op, void *arg);
void stage_close_folder(struct op *op, void *arg);
int stage_open_parent(struct op *op, void *arg);
int stage_connect_server(struct op *op, void *arg);
void stage_disconnect_server(struct op *op, void *arg);
int stage_start_guardian(struct op *op, void *arg);
void stage_stop_guardian(struct op *op, void *arg);
void stage_thaw(struct op *op, void *arg);
int stage_begin_tracking(struct op *op, void *arg);
void stage_tracking_undo(struct op *op, void *arg);

/* dump_write.c */
int dump_write_images(struct op *op, struct dump *d);
int dump_write_pagemap(struct op *op, struct dump *d, const struct snap_task *t);
void dump_write_stats(struct op *op, struct dump *d);

#endif
