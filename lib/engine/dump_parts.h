/* SPDX-License-Identifier: MIT */
/* What the parts of the dump pipeline (dump.c) share. */
#ifndef CKPT_ENGINE_DUMP_PARTS_H
#define CKPT_ENGINE_DUMP_PARTS_H

#include "lib/engine/freezer.h"
#include "lib/inject/guardian.h"
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
	struct snap_task *task;
	size_t owner[N_KOBJS]; /* index of the first task with the same object; its own where there is none before */
	/* Of the address space: those of the owner are used. */
	struct proc_maps maps;
	struct parasite parasite;
	struct task_dump td;
};

struct dump {
	pid_t pid;
	struct snapshot s;
	ARRAY(struct dump_task *) tasks; /* parents first; [0] is the root */
	struct guardian guardian;
	int claim; /* on the root */
	struct freezer freezer;
	bool files_begun;
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

/* dump_write.c */
int dump_write_images(struct op *op, struct dump *d);
void dump_write_stats(struct op *op, struct dump *d);

#endif
