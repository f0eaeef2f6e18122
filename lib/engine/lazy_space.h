/* SPDX-License-Identifier: MIT */
/*
 * What an address space still lacks while it is restored lazily: plain computation, no system calls.
 *
 * All pages that a task has in the checkpoint are numbered, in the order of their first addresses; a number says where the
 * content is (struct lazy_map), and never changes. Where a page is in the address space now (struct lazy_part) changes as the
 * program moves memory. Two bits a page: *have*, it was brought, or somebody is about to; *gone*, the program threw it away,
 * and what is there now reads as zeroes. A fork copies parts and bits, and shares the map.
 */
#ifndef CKPT_ENGINE_LAZY_SPACE_H
#define CKPT_ENGINE_LAZY_SPACE_H

#include <pthread.h>

#include "lib/state/snapshot.h"

/* Content: pages [first, first + n) by their number are pages [page, page + n) of the source. */
struct lazy_piece {
	uint64_t first, n;
	uint64_t addr; /* of the first one, at the dump */
	uint64_t page;
	uint32_t source; /* as in struct page_piece */
	uint32_t pad;
};

struct lazy_map {
	pid_t pid; /* in the image */
	struct lazy_piece *v;
	size_t n;
	uint64_t n_pages;
	uint64_t base; /* how many pages the maps before this one have */
};

/* Pages [first, first + n) by their number lie at @addr and behind. */
struct lazy_part {
	uint64_t first, n, addr;
};

/* A transfer under way: its pages are claimed, and only those before @done are in place. */
struct lazy_slot {
	uint64_t first, n, done;
	struct lazy_slot *next;
};

struct lazy_space {
	int fd;	   /* userfaultfd; -1: closed */
	int index; /* in the order of their beginning */
	const struct lazy_map *map;
	struct lazy_part *parts; /* by number of page, covering all of them */
	size_t n_parts, cap_parts;
	uint32_t *by_addr; /* the parts in the order of their addresses */
	uint64_t *have, *gone;
	uint64_t left;	 /* pages that are neither */
	uint64_t cursor; /* where the background goes on */
	struct lazy_slot *slots;
	bool over;
	/*
	 * Whoever copies pages in holds @gate for reading, whoever takes events for writing: an event releases the program,
	 * which then goes on with what it had begun, so that nothing that was decided before may be done after.
	 */
	pthread_rwlock_t gate;
	pthread_mutex_t lock; /* of all the rest; inside of @gate */
};

enum lazy_where {
	LAZY_HOLE,   /* in no part, or thrown away: zeroes */
	LAZY_WANTED, /* to be brought */
	LAZY_COMING, /* somebody is about to */
	LAZY_HERE,   /* was brought */
};

/* Of the pieces of a task; @want (NULL: all) picks. */
struct lazy_map *lazy_map_new(struct op *op, pid_t pid, const struct pieces *p, bool (*want)(void *arg, const struct page_piece *piece),
			      void *arg);
struct lazy_space *lazy_space_new(const struct lazy_map *map, int fd);		  /* NULL when out of memory */
struct lazy_space *lazy_space_fork(const struct lazy_space *from, int fd);	  /* the same */
/* Frees what it knows of pages; the struct itself stays, for others may be about to look at it. */
void lazy_space_clear(struct lazy_space *sp);

/* Below, the caller has the lock. */
enum lazy_where lazy_find(const struct lazy_space *sp, uint64_t addr, uint64_t *page);
/*
 * Claims what is wanted around page @at, of one piece and at addresses that follow each other: at most @max pages, of which
 * the first has a number divisible by @max in its source (so that blocks are read whole). False: @at is not wanted.
 */
bool lazy_claim_around(struct lazy_space *sp, uint64_t at, uint64_t max, struct lazy_slot *slot);
/* Claims the next ones in order, at most @max. False: nothing is left. */
bool lazy_claim_next(struct lazy_space *sp, uint64_t max, struct lazy_slot *slot);
/* The transfer is over; what of it is not done is wanted again. */
void lazy_release(struct lazy_space *sp, struct lazy_slot *slot);
/* The next pages of the transfer that go to one place: skips (as done) what the program threw away. 0: it is done. */
uint64_t lazy_next_run(struct lazy_space *sp, struct lazy_slot *slot, uint64_t max, uint64_t *addr);
/* Where the content of page @page is, and how many pages follow it there. */
const struct lazy_piece *lazy_piece_of(const struct lazy_map *map, uint64_t page);
/* How far nothing is to be brought around the page at @addr, within [@lo, @hi). */
void lazy_hole(const struct lazy_space *sp, uint64_t addr, uint64_t lo, uint64_t hi, uint64_t *start, uint64_t *end);

/* Events. 0, or CKPT_E_NOMEM: then nothing was changed. */
void lazy_event_remove(struct lazy_space *sp, uint64_t start, uint64_t end);
int lazy_event_move(struct lazy_space *sp, uint64_t from, uint64_t to, uint64_t len);

#endif
