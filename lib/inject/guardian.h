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
};
#define GUARDIAN_INIT { .pidfd = -1 }

/* Starts the guardian. It is no child that anybody else's wait or SIGCHLD handler would see. */
int guardian_start(struct op *op, struct guardian *g);
/* Ends it and frees the journal. NULL-safe on GUARDIAN_INIT. Never fails. */
void guardian_stop(struct guardian *g);

#endif
