/* SPDX-License-Identifier: MIT */
/* What the files of this folder share. */
#ifndef CKPT_STATE_IPC_CORE_H
#define CKPT_STATE_IPC_CORE_H

#include <sys/ipc.h>

#include "lib/state/file/shmem.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/ns/ns.h"

struct ipc_shm {
	IpcShmEntry *msg;
	IpcShmExtra *extra; /* never NULL */
	struct snap_shmem mem; /* its content */
	unsigned attached;  /* in how many areas of the tree */
	void *at;	    /* restore: where we have it attached; NULL: nowhere */
	bool made;	    /* restore: by us */
};

struct ipc_sem {
	IpcSemEntry *msg;
	uint16_t *values;
	bool made;
};

struct ipc_queue {
	IpcMsgEntry *msg;
	ARRAY(IpcMsg *) heads;
	ARRAY(void *) texts; /* of the same index */
	bool made;
};

struct ipc_attachments { /* dump: of one segment */
	uint32_t id;
	unsigned n;
};

struct ipc_state {
	bool own;	/* the tree has a namespace of its own */
	bool sets;	/* dump: there are semaphore sets in it at all */
	uint32_t ns_id; /* in the images */
	int ns_fd;	/* own: that of the tree; -1 none */
	IpcVarEntry *var; /* own */
	ARRAY(struct ipc_attachments) attachments;
	ARRAY(struct ipc_shm *) shms;
	ARRAY(struct ipc_sem *) sems;
	ARRAY(struct ipc_queue *) queues;
	ARRAY(struct ipc_mqueue *) mqueues; /* mqueue.c */
};

/* One kind of object. All functions run on the host; tasks are frozen, or do not exist yet. */
struct ipc_kind {
	const char *name;
	/* In the tree's namespace, maybe in a thread of its own: no logging, no ptrace. */
	int (*collect)(struct op *op, struct snapshot *s);
	int (*write)(struct op *op, struct snapshot *s);
	int (*read)(struct op *op, struct snapshot *s);
	/* As collect. Makes the objects, or finds that they are there. */
	int (*make)(struct op *op, struct snapshot *s);
	/* As collect. Takes away those that were made. Never fails. */
	void (*unmake)(struct op *op, struct snapshot *s);
};
extern const struct ipc_kind ipc_kind_shm, ipc_kind_sem, ipc_kind_msg, ipc_kind_mqueue;

struct ipc_state *ipc_state(struct op *op, struct snapshot *s); /* NULL: out of memory (recorded) */

/* ---- ns.c */
typedef int (*ipc_errand)(struct op *op, struct snapshot *s);
/*
 * Has a thread of its own, which ends with it, do something in the namespace of the tree: the namespace (and with it
 * what the kernel undoes for semaphores) and credentials are a thread's own, and the caller's stay as they are.
 */
int ipc_run(struct op *op, struct snapshot *s, ipc_errand fn);
/* In an errand. */
int ipc_var_read(struct op *op, struct snapshot *s);
int ipc_var_prepare(struct op *op, struct snapshot *s); /* no limit is below what the objects may need */
int ipc_var_apply(struct op *op, struct snapshot *s);
/* The value of /proc/sys/kernel/shm_rmid_forced. */
bool ipc_rmid_forced(void);

/* undo.c: refuses, or warns of, values of SEM_UNDO. After all sets were looked at. */
int ipc_undo_check(struct op *op, struct snapshot *s);

/* attach.c: what restore could not attach again is refused. Dump, after all segments were looked at. */
int ipc_check_attachments(struct op *op, const struct snapshot *s);

/* ---- mqueue.c */
void ipc_mqueues_close(struct ipc_state *st);
bool ipc_mqueues_made(const struct ipc_state *st);

/* ---- object.c: what all kinds have in common */
IpcDescEntry *ipc_desc(struct op *op, const struct ipc_perm *p, int id);
/* Key and modes of an image are possible. @what: "segment 5" */
int ipc_check_desc(struct op *op, const IpcDescEntry *d, const char *image);
/* A task of the tree has this number. */
bool ipc_of_tree(const struct snapshot *s, pid_t pid);
/*
 * Makes an object with the id of @d, by calling @get (shmget and the like, with IPC_CREAT | IPC_EXCL | mode) as its creator;
 * @remove takes one away that got another id. @kind: "shm", "sem", "msg".
 */
int ipc_create(struct op *op, const IpcDescEntry *d, const char *kind, int (*get)(const void *arg, int key, int flags),
	       void (*remove)(int id), const void *arg);
/* "segment 5 ... : why", with the remedy. */
int ipc_in_the_way(struct op *op, const IpcDescEntry *d, const char *kind, const char *why);
int ipc_errno(struct op *op, const IpcDescEntry *d, const char *kind, const char *what);
/* The object that is there is the one of the image. */
bool ipc_same(const IpcDescEntry *d, const struct ipc_perm *p);

#endif
