/* SPDX-License-Identifier: MIT */
/*
 * Namespaces of the tree: which there are, who lives in which, and what is in those that need no folder of their own (UTS,
 * user, time, pid). Mounts are lib/state/mount, networks lib/state/net, System V IPC lib/state/ipc, cgroups lib/state/cgroup.
 *
 * A namespace is either the tree's own: it is dumped, and made anew; or the dumper's (`ours`): nothing of it is dumped, and
 * tasks are restored into that of whoever restores; or external: it comes by descriptor, by the key in ext_key.
 */
#ifndef CKPT_STATE_NS_H
#define CKPT_STATE_NS_H

#include "lib/kernel/errand.h"
#include "lib/state/snapshot.h"

/* In the order in which they are made and entered. */
enum ns_kind { NS_USER, NS_PID, NS_MNT, NS_NET, NS_IPC, NS_UTS, NS_CGROUP, NS_TIME, NS_N };

struct snap_ns {
	enum ns_kind kind;
	uint32_t id;	  /* in the images */
	bool ours;
	const char *ext_key; /* external: what it is called there; else NULL */
	bool joined;	  /* restore: --join-ns, or external: it is there, fd is open, and nothing in it is ours to change */
	uint64_t ino;	  /* dump: of its file in nsfs */
	pid_t host;	  /* dump: a task that lives in it, as we see it */
	int fd;		  /* of it; restore: -1 until it exists. Closed by ns_done(). */
	struct snap_ns *parent; /* of nested PID and user namespaces; NULL: its parent is ours */
	struct snap_ns *instead; /* restore: tasks of ours live in this one (--join-ns); NULL: in ours */
	struct snap_ns *owner;	/* user namespace that owns it; NULL: ours */
	void *priv;	  /* of its kind, in the arena */
};

struct ns_state {
	ARRAY(struct snap_ns *) v; /* the first NS_N: ours */
	/* Restore: has the process that is to become the root task call @fn, in a thread of its own, and waits for that. */
	int (*in_root)(struct op *op, void *in_root_arg, void (*fn)(void *arg), void *arg);
	void *in_root_arg;
	int home; /* our own network namespace, while we are in the tree's (ns_visit()); else -1 */
};

struct plan_build; /* lib/state/task/plan_build.h */

struct ns_info {
	const char *name; /* as in /proc/PID/ns */
	const char *word; /* as people say: "network" */
	int flag;	  /* CLONE_NEW* */
	size_t id, has_id; /* offsets in TaskKobjIdsEntry */
};
extern const struct ns_info ns_info[NS_N];

/* The number of a task's namespace of @kind in the images; 0 where the image says none. */
uint32_t ns_id_of(const TaskKobjIdsEntry *ids, enum ns_kind kind);
/* That namespace; never NULL after ns_dump_begin() or ns_read(). */
struct snap_ns *ns_of(const struct snapshot *s, const struct snap_task *t, enum ns_kind kind);
struct snap_ns *ns_find(const struct snapshot *s, enum ns_kind kind, uint32_t id); /* NULL: there is none */
/* That of the root task, if it is not ours; NULL: it is ours. */
struct snap_ns *ns_own(const struct snapshot *s, enum ns_kind kind);
/* Where an errand on behalf of the tree goes: the namespaces of the root task that are not ours and have a descriptor. */
struct errand_where ns_where(const struct snapshot *s);

/* ---- dump; host, all tasks frozen (t->host and t->ids are there) */
/* Who lives where: fills the ids of all tasks, and s->ns. Refuses what could not be restored. Opens the descriptors. */
int ns_dump_begin(struct op *op, struct snapshot *s);
int ns_dump(struct op *op, struct snapshot *s);	 /* what is in them: UTS, user, time, pid */
int ns_write(struct op *op, struct snapshot *s); /* their images */

/* ---- restore */
/* From the ids of all tasks, and their images; checks that everything external is given. */
int ns_read(struct op *op, struct snapshot *s);
/*
 * After the process exists that is to become the root task, in new namespaces: opens their descriptors (@host: that process), but
 * for those of time and cgroups, which it enters later; and fills those without a folder of their own.
 */
int ns_make(struct op *op, struct snapshot *s, pid_t host);
/*
 * A process like fork(2), which is there with the number @pid (0: any) of the tree's PID namespace, shares our descriptors, and
 * sends no signal when it ends. Returns 0 in it, where only async-signal-safe functions work. In the parent its number as we
 * see it, -1 (errno) on failure: EEXIST if the number is taken. The caller waits for it, with __WALL.
 */
pid_t ns_fork_as(const struct snapshot *s, pid_t pid, uint64_t flags);
/* CLONE_NEW* of what is to be made anew for the root task (not CLONE_NEWTIME). */
uint64_t ns_clone_flags(const struct snapshot *s);
/* The calling thread goes into the tree's network namespace, or back; for everything that opens sockets. Any number of times. */
int ns_visit(struct op *op, struct snapshot *s, bool enter);

/* below.c: kinds of which tasks may have other ones than the root task. */
bool ns_may_be_below(enum ns_kind kind);
bool ns_is_below(const struct snapshot *s, const struct snap_ns *ns);
/* Makes those; after ns_make() has opened the root's. */
int ns_below_make(struct op *op, struct snapshot *s);
/* The task enters its own, where there are such. */
int ns_plan(struct plan_build *b);
int ns_plan_enter(struct plan_build *b, const struct snap_ns *ns); /* that one, which is open */

/* Dump and restore; never fails, any number of times. */
void ns_done(struct snapshot *s);

/* ---- users and groups; without a user namespace of its own they are what they are */
/* As the tree's user namespace calls the host's @id; (uint32_t)-1: not at all. */
uint32_t ns_uid_inside(const struct snapshot *s, uint32_t id);
uint32_t ns_gid_inside(const struct snapshot *s, uint32_t id);
uint32_t ns_uid_outside(const struct snapshot *s, uint32_t id);
uint32_t ns_gid_outside(const struct snapshot *s, uint32_t id);
/* Whom a process is to be, as the tree's user namespace calls him, to have all rights in there: root, or else the first one. */
void ns_user_first(const struct snapshot *s, uint32_t *uid, uint32_t *gid);
bool ns_groups_denied(const struct snapshot *s); /* setgroups(2) is */
/* Groups that all tasks are in, in that case, and were before the namespace was made. */
size_t ns_groups_before(const struct snapshot *s, const uint32_t **groups);

/* ---- clocks */
/* Dump: how far a clock of the tree is from ours, in nanoseconds. */
int64_t ns_clock_distance(const struct snapshot *s, clockid_t clock);
/* How far ours is from the machine's: what the kernel takes and tells are distances from that. */
int64_t ns_own_clock_offset(clockid_t clock);

#endif
