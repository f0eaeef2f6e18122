/* SPDX-License-Identifier: MIT */
/* A ring as whoever has a descriptor of it sees it: what it is, its memory, its counters. uring_ring.c. */
#ifndef CKPT_STATE_FILE_URING_H
#define CKPT_STATE_FILE_URING_H

#include <linux/io_uring.h>

#include "lib/base/op.h"
#include "lib/kernel/uapi.h"

/* What decides how its memory is laid out. */
#define URING_LAYOUT (IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | IORING_SETUP_NO_SQARRAY)
#define URING_OFFSETS 14 /* numbers of sq_off and cq_off that are kept */
#define URING_MAX_ENTRIES 32768u

struct uring {
	int fd;
	struct io_uring_params p; /* setup flags, entries, offsets */
	char *rings, *sqes;	  /* mapped */
	size_t rings_len, sqes_len;
};
#define URING_INIT { .fd = -1, .rings = NULL, .sqes = NULL }

/* Makes a ring; 0 or -1 and errno. */
int uring_make(struct uring *u, uint32_t flags, uint32_t sq_entries, uint32_t cq_entries);
/* Maps the memory of the ring behind u->fd, which is laid out as u->p says. */
int uring_map(struct uring *u);
void uring_unmap(struct uring *u);
void uring_close(struct uring *u); /* unmaps, too; any state */
#define _cleanup_uring_ _cleanup_(uring_close)

/* Lengths of the memory that such a ring has. */
size_t uring_rings_len(const struct io_uring_params *p);
size_t uring_sqes_len(const struct io_uring_params *p);
void uring_offsets(const struct io_uring_params *p, uint32_t off[URING_OFFSETS]);

uint32_t *uring_word(const struct uring *u, uint32_t offset);
int uring_register(int fd, unsigned op, const void *arg, unsigned n);
int uring_enter(int fd, unsigned submit, unsigned complete, unsigned flags);

/*
 * Brings a new ring to where the kernel's counters are @sq_head and @cq_tail, with the head of the completion queue at
 * @cq_head. Leaves rubbish in its memory.
 */
int uring_advance(struct op *op, struct uring *u, uint32_t sq_head, uint32_t cq_tail, uint32_t cq_head);

#endif
