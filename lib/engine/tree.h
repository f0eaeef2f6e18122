/* SPDX-License-Identifier: MIT */
/*
 * How a tree of processes can be made again: who forks whom, and when. Used by the restore, and by the dump, which
 * refuses a tree that could not.
 *
 * The kernel knows three ways into a session: to be its leader, to be forked by a member, and, for a process whose parent
 * is to be another than the one that forks it, CLONE_PARENT or to be orphaned and adopted. Leaders of sessions and groups
 * that ended long ago are played by helpers, processes that exist only while the tree is made.
 */
#ifndef CKPT_ENGINE_TREE_H
#define CKPT_ENGINE_TREE_H

#include "lib/state/snapshot.h"

#define TREE_NONE SIZE_MAX

enum tree_kind {
	TREE_TASK,
	TREE_ZOMBIE,
	TREE_LEADER, /* helper: a dead leader of a session, a group, or both */
	TREE_STEP,   /* helper: forks a process and ends at once, so that it is adopted by an ancestor; any number */
};

enum tree_when {
	TREE_EARLY_OUTSIDE, /* before its creator begins its own session */
	TREE_EARLY,	    /* before its creator's memory is filled: it shares none of it */
	TREE_LATE_OUTSIDE,
	TREE_LATE,
};

struct tree_node {
	enum tree_kind kind;
	size_t task;	/* index in the snapshot, TREE_NONE for helpers */
	pid_t pid;	/* 0: any */
	size_t parent;	/* node that is its parent in the end; TREE_NONE for the root */
	size_t creator; /* node that forks it; TREE_NONE for the root */
	bool as_sibling; /* forked with CLONE_PARENT: its parent is its creator's */
	bool inherits;	/* copies its creator's memory: pages that are the same stay shared */
	enum tree_when when;
	bool setsid;
	bool leads_group; /* setpgid(0, 0) at first, because somebody joins a group of its number */
	pid_t join;	/* the group it then joins; 0: it is where it belongs */
	unsigned depth;	/* forks between the root and it */
	uint64_t shares; /* CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND: with its creator */
	pid_t sid, pgid;
};

struct tree {
	ARRAY(struct tree_node) nodes; /* creators first; [0] is the root */
	bool helpers;		       /* there are some */
	bool outside;		       /* the root is in a session of the caller's (--shell-job) */
	pid_t outside_sid, outside_pgid; /* what these were called in the image; 0: it leads its own */
};

/* Fails where a process could not be made with the session, group or objects that it has. */
int tree_plan(struct op *op, struct snapshot *s, struct tree *ret);
/* Dump: whether processes of PID namespaces below the root task's can have their numbers; when those are in s->extra. */
int tree_check_nested(struct op *op, struct snapshot *s);

#endif
