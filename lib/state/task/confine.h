/* SPDX-License-Identifier: MIT */
/* What confines a thread and can neither be read nor put back: Landlock domains, keyrings of its own. */
#ifndef CKPT_STATE_TASK_CONFINE_H
#define CKPT_STATE_TASK_CONFINE_H

#include "lib/state/task/task.h"

/* A process with the credentials of a thread and no rights: whoever may not look at it is held back by a security module. */
struct peer {
	pid_t pid;   /* as we see it; 0: there is none */
	pid_t number; /* as the thread sees it */
	int fd;	     /* it ends when this is closed */
	uint32_t uid, gid;
	bool useless; /* there is no Landlock here */
};
#define PEER_INIT { .fd = -1 }

/* The peer for @tr: *@number, 0 where there is nothing to ask. A new one replaces one with other credentials. */
int peer_for(struct op *op, const struct task_dump *d, const struct tracee *tr, struct peer *p, pid_t *number);
void peer_end(struct peer *p);

/* Refuses a thread in a Landlock domain that we are not in, or with keyrings that nobody else has. */
int confine_check(struct op *op, const struct tracee *tr, const struct parasite_args *a);

/* Warns of a security label that is not ours. */
void label_check(struct op *op, pid_t pid);

#endif
