/* SPDX-License-Identifier: MIT */
/* POSIX message queues: what mqueue.c and mqueue_take.c share. */
#ifndef CKPT_STATE_IPC_MQUEUE_H
#define CKPT_STATE_IPC_MQUEUE_H

#include <sys/stat.h>

#include "lib/state/ipc/core.h"

struct ipc_mqueue {
	MqueueEntry *msg;
	struct stat st;
	int fd;	     /* ours, O_RDWR | O_NONBLOCK; -1 */
	pid_t seen;  /* dump: a task that has it open; 0: none */
	pid_t outside; /* dump: a process outside that has it open; 0: none */
	int *files;  /* restore: a descriptor for each of msg->files; -1: none, or given away */
	bool made;
};

int mqueue_errno(struct op *op, const struct ipc_mqueue *q, const char *what);
const char *mqueue_base_name(const char *path);
/* Sets who outside the tree has each queue open. */
int mqueue_find_outside(struct op *op, const struct snapshot *s);
/* Its messages, which stay in it. */
int mqueue_take(struct op *op, struct ipc_mqueue *q);

#endif
