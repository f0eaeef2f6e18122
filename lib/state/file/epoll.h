/* SPDX-License-Identifier: MIT */
/* Between the two files of the kind epoll. */
#ifndef CKPT_STATE_FILE_EPOLL_H
#define CKPT_STATE_FILE_EPOLL_H

#include <sys/epoll.h>

#include "lib/state/file/core.h"

/* What of an entry's events is not an event. An entry with nothing else is a one-shot that has fired. */
#define EPOLL_NOT_EVENTS (EPOLLET | EPOLLONESHOT | EPOLLWAKEUP | EPOLLEXCLUSIVE)

/* The entry of the table of @t with number @fd, NULL if there is none. Tables are in the order of numbers. */
const FdinfoEntry *epoll_find_number(const struct snap_task *t, uint32_t fd);
/* The tasks that have @f. */
struct epoll_holders {
	ARRAY(const struct snap_task *) v;
};
int epoll_find_holders(struct op *op, const struct snapshot *s, const struct snap_file *f, struct epoll_holders *out);
/* The first number under which @t has file @id; -1: none. */
int64_t epoll_find_file(const struct snap_task *t, uint32_t id);

/* epoll_plan.c: the restore half of what only tasks can do */
int epoll_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first);

#endif
