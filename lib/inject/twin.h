/* SPDX-License-Identifier: MIT */
/*
 * A twin: a process that a stopped target is made to clone, and that never runs the target's program. Either it shares the
 * target's address space, or it has a copy of it (copy-on-write): a snapshot that can be read while the target runs on.
 *
 * From its first instruction on it is our tracee, stopped, and ends with us (EXITKILL). Nobody but the target could notice
 * it, and the target does not: no signal when it ends, no copy of a descriptor, a session of its own, every signal blocked.
 * Only a wait for __WALL or __WCLONE children would find it; so the target is made to wait for it in the end, stopped once
 * more if it runs. Should we be killed the guardian does that, from the journal.
 */
#ifndef CKPT_INJECT_TWIN_H
#define CKPT_INJECT_TWIN_H

#include "lib/inject/remote.h"

struct twin {
	struct target target;	/* the twin itself; threads.v[0] is its only thread. pid 0: there is none */
	struct gadgets g;	/* for calls in it: they need no protection */
	struct gadgets owner_g;	/* for calls in the owner while it has not run again */
	pid_t owner;		/* the process it was made from */
	uint64_t owner_start;
	pid_t number;		/* of the twin, in the owner's PID namespace */
	bool shares;		/* the owner's address space */
	const char *why;	/* after TWIN_REFUSED: the reason, of the arena or static */
	struct journal *all;
	struct journal_twin *journal;
};

/* Not a failure: this target cannot have a twin, or not now (w->why). It is as before. */
#define TWIN_REFUSED 1

/*
 * Makes @t, all threads of which are stopped, clone a twin; its leader does. @g as gadgets_find() filled it for @t as it is
 * now (or that of the parasite, struct parasite.g). @journal may be NULL.
 * Returns 0, TWIN_REFUSED, or a recorded failure. After either of the latter there is no twin.
 */
int twin_make(struct op *op, struct target *t, const struct gadgets *g, struct journal *journal, bool shares, struct twin *w);
/* One system call in the twin, which must be stopped. *@ret as in remote_syscall(). */
int twin_syscall(struct op *op, struct twin *w, long nr, const uint64_t args[6], int64_t *ret);
/*
 * Ends it, and has the owner wait for it. @t: the owner where it is stopped by us, else NULL: then one of its threads is
 * stopped for the moment, if it still lives. Never fails; says so where a zombie had to be left. Safe on a zeroed twin.
 */
void twin_end(struct op *op, struct target *t, struct twin *w);

#endif
