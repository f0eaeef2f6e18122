/* SPDX-License-Identifier: MIT */
/*
 * Who holds the userfaultfds through which the kernel notes what a tree writes to its memory (lib/inject/uffd.h). Closed,
 * they know nothing any more, so somebody has to keep them from one dump to the next: the context of the library, or, where
 * the calls come from different programs, the tracker: a small process of its own, one for each tree.
 *
 * There is one owner at any time. An operation takes the descriptors over, and hands them on when its images are complete.
 * If it ends in any other way after the kernel's notes were changed, they are closed with it: nothing that was written can be
 * forgotten, since the next dump finds no notes and is a full one.
 */
#ifndef CKPT_INJECT_TRACKER_H
#define CKPT_INJECT_TRACKER_H

#include "lib/base/op.h"

#define TRACKING_ID 40 /* bytes of the name of a set of images, with its NUL */

/* One address space. */
struct tracked {
	pid_t pid;
	int32_t uffd;
	uint64_t starttime; /* of the process, clock ticks since boot: guards against a recycled pid */
};

struct tracking {
	pid_t root;
	uint64_t starttime;	/* of the root */
	char since[TRACKING_ID]; /* run id of the images that hold what was written before */
	struct tracked *v;	/* malloc */
	size_t n;
	struct tracking *next;
};

struct tracking *tracking_new(pid_t root, uint64_t starttime);
int tracking_add(struct tracking *t, pid_t pid, uint64_t starttime, int uffd); /* 0, or -1: out of memory */
/* Closes the descriptors: from then on nothing is noted. NULL allowed; returns NULL. */
struct tracking *tracking_free(struct tracking *t);
/* The descriptor for a process, taken out of @t, or -1. */
int tracking_pick(struct tracking *t, pid_t pid, uint64_t starttime);

/* What a context keeps, one for each tree. */
struct tracking_list {
	struct tracking *first;
};
void tracking_list_add(struct tracking_list *l, struct tracking *t);
struct tracking *tracking_list_take(struct tracking_list *l, pid_t root, uint64_t starttime);
bool tracking_list_has(const struct tracking_list *l, pid_t root, uint64_t starttime);
void tracking_list_free(struct tracking_list *l);

/*
 * Starts a tracker for @t and gives it the descriptors; @t is freed in any case. It is nobody's child that anybody would
 * wait for, holds nothing else open, and ends with the last of the processes.
 */
int tracker_start(struct op *op, struct tracking *t);
/*
 * Takes everything from the tracker of the tree, which ends. Returns 0, or TRACKER_NONE when there is none, or it does not
 * answer, or is somebody else's process under its name.
 */
#define TRACKER_NONE 1
int tracker_take(struct op *op, pid_t root, uint64_t starttime, struct tracking **ret);
/* Is there one? Asks nothing of it. */
bool tracker_exists(pid_t root, uint64_t starttime);

#endif
