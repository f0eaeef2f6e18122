/* SPDX-License-Identifier: MIT */
/*
 * The page server's protocol: commands of 32 bytes, some followed by page data, some answered. Both ends have the same byte
 * order, page size and structure; nothing is negotiated. Pure functions: bytes in, a struct out. docs/format says where the
 * description comes from.
 */
#ifndef CKPT_IMAGE_PS_PROTO_H
#define CKPT_IMAGE_PS_PROTO_H

#include "lib/base/base.h"

/* Commands, in the lower half of the first word. */
enum ps_command {
	PS_ADD = 1,    /* from old releases: ADD_F with PRESENT */
	PS_HOLE = 2,   /* ADD_F with PARENT */
	PS_OPEN = 3,   /* OPEN2 without an answer */
	PS_OPEN2 = 4,  /* answer: one byte, whether there is a parent image */
	PS_PARENT = 5, /* answer: 32 bits, the same */
	PS_ADD_F = 6,  /* flags in the upper half; page data follows where they say so */
	PS_GET = 7,
	PS_CLOSE = 0x1023,	 /* answer: 32 bits, 0 when everything is safe */
	PS_FORCE_CLOSE = 0x1024, /* the same, of a connection that is not closed afterwards */
};

/* pagemap flags */
enum { PS_F_PARENT = 1, PS_F_LAZY = 2, PS_F_PRESENT = 4, PS_F_ALL = 7 };

/* Types in the lowest byte of dst_id. */
enum { PS_TASK = 1, PS_SHMEM = 2 };

/* On the wire. */
struct ps_wire {
	uint32_t cmd;
	uint32_t padding;
	uint64_t nr_pages;
	uint64_t vaddr;
	uint64_t dst_id;
};
_Static_assert(sizeof(struct ps_wire) == 32, "the protocol's structure");

#define PS_OLD_SIZE 24 /* of the structure up to release 4.1 */
#define PS_MAX_GET (16u << 10) /* pages one request of ours asks for at most */

/* A request that was checked. Old commands have become those that stand for them. */
struct ps_request {
	enum ps_command cmd; /* OPEN, OPEN2, PARENT, ADD_F, GET, CLOSE or FORCE_CLOSE */
	uint32_t flags;	     /* of ADD_F */
	uint32_t type;	     /* PS_TASK or PS_SHMEM; of GET: PS_TASK */
	uint32_t id;	     /* pid or shmid */
	uint64_t start, n_pages;
};

/*
 * Checks @w and takes it apart. NULL when all is well, else what is wrong with it: one of static texts. Nothing is believed:
 * numbers, alignment, types, ids, ranges.
 */
const char *ps_parse(const struct ps_wire *w, struct ps_request *ret);
/*
 * What the first bytes of a connection say of a peer that speaks something else, or NULL when nothing is wrong so far.
 * From @n = 4 bytes on, and again when there are PS_OLD_SIZE: a peer that has that structure would send no more.
 */
const char *ps_foreign(const struct ps_wire *w, size_t n);
/* Name of a command, for messages. */
const char *ps_name(enum ps_command cmd);

struct ps_wire ps_make(enum ps_command cmd, uint32_t flags, uint64_t dst_id, uint64_t start, uint64_t n_pages);
static inline uint64_t ps_dst(uint32_t type, uint32_t id)
{
	return (uint64_t)id << 8 | type;
}

#endif
