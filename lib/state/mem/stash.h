/* SPDX-License-Identifier: MIT */
/*
 * Memory that is copied to a place of ours while the tree stands still, because it is little, or because a copied address
 * space does not have it (MADV_DONTFORK, MADV_WIPEONFORK). What is there of an area, and the bytes of it.
 */
#ifndef CKPT_STATE_MEM_STASH_H
#define CKPT_STATE_MEM_STASH_H

#include "lib/inject/tracee.h"
#include "lib/kernel/uapi.h"

/* Where the bytes go; one for the whole tree. */
struct stash_room {
	char *mem;
	size_t cap, used;
};

struct stash_region {
	struct page_region pages;
	char *bytes; /* NULL: nothing that would be saved is there */
};

struct stash_area {
	uint64_t start, end;
	size_t first, n; /* of the stash's regions */
};

/* Of one address space; areas ascend. */
struct stash {
	ARRAY(struct stash_area) areas;
	ARRAY(struct stash_region) regions;
};

/* Not a failure: there is no room left. */
#define STASH_FULL 1

/* Room for @cap bytes, taken from the system only as far as it is used. */
int stash_room_make(struct op *op, struct stash_room *room, size_t cap);
void stash_room_free(struct stash_room *room);

/*
 * Adds [@start, @end) of the stopped @t, whose pagemap file @pagemap is; -1: all pages, whatever the page tables say. After
 * STASH_FULL the area is not in.
 */
int stash_add(struct op *op, struct stash *st, struct stash_room *room, const struct target *t, int pagemap, uint64_t start,
	      uint64_t end);
/* NULL: it is not in. */
const struct stash_area *stash_find(const struct stash *st, uint64_t start);
/* The start of the first area behind @at; UINT64_MAX: there is none. */
uint64_t stash_next(const struct stash *st, uint64_t at);
/* Bytes at @at, which begin in @area; at most @n. Returns how many. */
size_t stash_read(const struct stash *st, const struct stash_area *area, uint64_t at, void *buf, size_t n);

#endif
