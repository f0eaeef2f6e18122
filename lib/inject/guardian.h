/* SPDX-License-Identifier: MIT */
/*
 * The guardian: a small process that outlives an engine which is killed, and undoes what the engine left in its targets.
 * It shares a journal with the engine, waits on the engine's pidfd, and is ended by the engine when all is well.
 */
#ifndef CKPT_INJECT_GUARDIAN_H
#define CKPT_INJECT_GUARDIAN_H

#include "lib/base/op.h"
#include "lib/inject/journal.h"

struct guardian {
	pid_t pid;
	int pidfd;
	struct journal *journal; /* shared; NULL: no guardian */
	int will[2]; /* socket pair; what is queued from [0] to [1] is carried out when the engine dies */
};
#define GUARDIAN_INIT { .pidfd = -1, .will = { -1, -1 } }

/* An option of a socket and its value, for setsockopt(). */
struct guardian_option {
	int32_t level, name, value;
};
#define GUARDIAN_OPTIONS 8

/* Starts the guardian. It is no child that anybody else's wait or SIGCHLD handler would see. @claim: kept open by it; -1: none. */
int guardian_start(struct op *op, struct guardian *g, int claim);
/*
 * A claim on process @pid: held by the engine, and by whoever cleans up after it if it is killed, until the last of them has
 * ended. So the next engine does not take what has not been put back yet for the program's own. Waits for a moment; where
 * somebody holds the claim for longer it goes on without, and the freeze will tell why. *@fd is the caller's to close; -1: none.
 */
int guardian_claim(struct op *op, pid_t pid, int *fd);
/* Ends it and frees the journal. NULL-safe on GUARDIAN_INIT. Never fails. */
void guardian_stop(struct guardian *g);
/*
 * Should the engine die before guardian_retract(), the guardian sets these options on the socket @fd, which need not be in
 * anybody else's table. One promise at a time. -1 (errno) on failure.
 */
int guardian_promise(const struct guardian *g, int fd, const struct guardian_option *options, size_t n);
void guardian_retract(const struct guardian *g);

/*
 * Connections of the tree. Should the engine die, and the tree be alive, the guardian takes away what holds their packets, and
 * takes the sockets out of repair mode, without a word to their peers. NULL for @g: there is no guardian. -1 (errno) on failure.
 */
/* In whose network namespace what holds them is: process @pid; 0: in ours. Before the two that follow. */
void guardian_note_netns(const struct guardian *g, pid_t pid);
/* Sends @batch to NETLINK_NETFILTER. */
int guardian_note_lock(const struct guardian *g, const void *batch, size_t n);
/* Runs @program --noflush with @text as its input; up to two programs. */
int guardian_note_rules(const struct guardian *g, const char *program, const char *text, size_t n);
/* Both of them: what held the packets is gone. */
void guardian_drop_lock(const struct guardian *g);
/* Descriptor @fd of process @pid (which is there, frozen) goes into repair mode; @reuse: its SO_REUSEADDR before that. */
int guardian_note_repair(const struct guardian *g, pid_t pid, int fd, bool reuse);
/* None is in repair mode any more. An entry whose socket is not is harmless: they can be dropped all at once, in the end. */
void guardian_drop_repair(const struct guardian *g);
/*
 * A cgroup freezer, whose state is in the file @path. Should the engine die, @first is written to it before anything else is done,
 * and @last in the end ("": nothing). An empty @path: it is as it was. -1 (errno).
 */
int guardian_note_freezer(const struct guardian *g, const char *path, const char *first, const char *last);
/* The checkpoint is complete, and the tree is killed next, @root first: once that is dead, nothing of the above is undone. */
void guardian_note_end(const struct guardian *g, pid_t root);

#endif
