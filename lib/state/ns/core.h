/* SPDX-License-Identifier: MIT */
/* What the files of this folder share. */
#ifndef CKPT_STATE_NS_CORE_H
#define CKPT_STATE_NS_CORE_H

#include "lib/state/ns/ns.h"

#define NS_CLONE_TIME 0x80 /* CLONE_NEWTIME */

/*
 * What is in a namespace of one kind. Called for each one of the tree's own, not for external and joined ones; NULL: nothing.
 * All run on the host; use errand_run() to go there.
 */
struct ns_content {
	int (*dump)(struct op *op, struct snapshot *s, struct snap_ns *ns);  /* tasks frozen */
	int (*write)(struct op *op, struct snapshot *s, struct snap_ns *ns);
	int (*read)(struct op *op, struct snapshot *s, struct snap_ns *ns);  /* and checks */
	/* Its descriptor is open (not of time and cgroup namespaces), ns->host lives in it; nothing else does. */
	int (*make)(struct op *op, struct snapshot *s, struct snap_ns *ns);
};

extern const struct ns_content ns_uts, ns_user, ns_pid, ns_time;

/* Dump: maps, and whose namespaces they are; after it is known who lives where. */
int ns_user_begin(struct op *op, struct snapshot *s);
/* Dump: how far its clocks are from ours. */
int ns_time_begin(struct op *op, struct snapshot *s);

/* Restore: an entry for one that all tasks of ours are to live in instead; NULL: out of memory (recorded). */
struct snap_ns *ns_stand_in(struct op *op, struct snapshot *s, enum ns_kind kind);

struct ns_join {
	enum ns_kind kind;
	const char *path;
};
/* join.c: what --join-ns says. */
int ns_join_parse(struct op *op, const char *spec, struct ns_join *j);
int ns_join(struct op *op, struct snapshot *s); /* after it is known who lives where, before anything is read */
/* pid.c: of PID namespaces that are external, their images say no more than how they are called. */
int pidns_write_keys(struct op *op, struct snapshot *s);

#endif
