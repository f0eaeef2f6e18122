/* SPDX-License-Identifier: MIT */
/*
 * The cgroup freezer (--freeze-cgroup), v1 and v2: holds the tasks of a cgroup so that none forks away while the tree is
 * seized. A frozen task runs no code that is injected, and with v1 does not even report a stop: so it is frozen, all are
 * seized and interrupted, then it is thawed, and the stops are waited for. The guardian thaws it where we are killed.
 */
#ifndef CKPT_ENGINE_FREEZER_H
#define CKPT_ENGINE_FREEZER_H

#include "lib/inject/guardian.h"
#include "lib/state/snapshot.h"

struct freezer {
	int fd;		/* freezer.state or cgroup.freeze; -1: none is used */
	bool v2;
	bool was_frozen; /* by somebody else: so it is left */
	bool frozen;	/* by us, now, or by them */
	const struct guardian *guardian;
};
#define FREEZER_INIT { .fd = -1 }

/* Freezes the cgroup of the options; without one, process @pid must not be in a frozen one. */
int freezer_freeze(struct op *op, struct snapshot *s, const struct guardian *g, pid_t pid, struct freezer *f);
/* The tasks may run again. Never fails. */
void freezer_thaw(struct op *op, struct freezer *f);
/* Leaves the cgroup in the state it was found in. Never fails; NULL-safe on FREEZER_INIT. */
void freezer_done(struct op *op, struct freezer *f);

#endif
