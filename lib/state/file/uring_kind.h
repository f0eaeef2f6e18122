/* SPDX-License-Identifier: MIT */
/* What the files of the kind io_uring share. */
#ifndef CKPT_STATE_FILE_URING_KIND_H
#define CKPT_STATE_FILE_URING_KIND_H

#include <sys/eventfd.h>

#include "lib/state/file/core.h"
#include "lib/state/file/uring.h"
#include "lib/state/file/uring_map.h"

/* fdinfo of a ring. 1: it does not have all of it. */
int uring_read_info(struct op *op, pid_t pid, int fd, struct proc_uring *info);
/*
 * Finds out how the ring behind v->copy was set up, and refuses what cannot be saved of it. On success @u has its memory
 * mapped (uring_unmap(); its descriptor is v->copy) and u->p.flags are its setup flags.
 */
int uring_look(struct op *op, const struct fd_view *v, const struct proc_uring *info, struct uring *u, bool *has_eventfd);

#endif
