/* SPDX-License-Identifier: MIT */
/*
 * Lazy restore: the program runs, and its memory comes after. The daemon's parts (docs/design/lazy.md):
 *
 *   lazy_serve.c   begins and ends it, and listens to the restore
 *   lazy_proto.c   what the restore sends
 *   lazy_fault.c   threads that take faults and events from userfaultfds
 *   lazy_fill.c    bringing pages; threads that do so in the background
 *   lazy_remote.c  pages that a page server has
 *   lazy_space.c   what is still missing where
 *   lazy_order.c   the order in which an earlier start touched pages
 *   lazy_keeper.c  a process that sees to it that no page reads as zeroes when the daemon is killed
 */
#ifndef CKPT_ENGINE_LAZY_H
#define CKPT_ENGINE_LAZY_H

#include <stdatomic.h>

#include "lib/engine/lazy_space.h"

#define LAZY_SOCKET "lazy-pages.socket"
#define LAZY_ORDER_FILE "ckpt-faults"
#define LAZY_FEATURES (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)
#define LAZY_BLOCK 16u	/* pages that a fault brings: what one checksum is of */
#define LAZY_CHUNK 256u /* pages that the background brings at once */
#define LAZY_FAULT_THREADS 2
#define LAZY_FILL_THREADS 3

struct lazy_keeper;
struct lazy_remote;

struct lazy_touch {
	pid_t pid;
	uint64_t addr; /* at the dump */
};
struct lazy_order {
	ARRAY(struct lazy_touch) v;
};

struct lazy_thread {
	struct lazy *lz;
	pthread_t id;
	bool started;
	struct op op;	/* its own: nothing of it is shared, and it logs nothing by itself */
	int epoll;	/* of threads that take faults */
	uint8_t *buf;	/* LAZY_CHUNK pages */
	uint64_t *faults; /* addresses that are to be looked at, of one space */
	size_t n_faults, cap_faults;
};

struct lazy_said {
	enum ckpt_log_level level;
	char text[240];
	struct lazy_said *next;
};

struct lazy {
	struct op *op;
	struct snapshot *s;
	const struct lazy_map **maps; /* of the tasks in s->tasks; NULL: has nothing */
	int conn, listener, wake; /* wake: an eventfd, something changed */
	struct lazy_thread threads[LAZY_FAULT_THREADS + LAZY_FILL_THREADS];
	struct lazy_keeper *keeper;
	struct lazy_remote *remote; /* NULL: all pages are in the checkpoint */
	int work_dir;		    /* where the listener is */
	struct lazy_order *order; /* of an earlier start, NULL: none is known */
	size_t order_at;	  /* next of it to be brought */
	uint64_t n_pages;	  /* of all maps */
	bool any_remote;

	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t work;  /* there may be something for the background */
	struct lazy_space **spaces;
	size_t n_spaces, cap_spaces, n_open;
	bool all_named; /* every task of the checkpoint is there, or has no memory */
	bool ended;	/* the restore is done: programs run */
	bool stop;
	bool recording; /* nothing comes in the background, and one page a fault */
	struct lazy_order touched; /* while recording */
	struct lazy_said *said;

	atomic_uint busy_faults;
	atomic_ulong last_fault_ns;
	atomic_ulong n_faults, n_fault_pages, n_background_pages, n_zero, n_lost;
};

/* Says something from a thread; it reaches the log when the first thread comes round. */
void lazy_say(struct lazy *lz, enum ckpt_log_level level, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* A new space, which threads then look after. Takes @fd. Returns 0 or a negative code. */
int lazy_add_space(struct lazy *lz, struct lazy_space *sp);
/* If nothing is left to be done for it, ends it. */
void lazy_finish_space(struct lazy *lz, struct lazy_space *sp);
/* Its process is gone. */
void lazy_end_space(struct lazy *lz, struct lazy_space *sp);

/* lazy_fault.c */
void *lazy_fault_main(void *arg);
/* Takes the events that are there; faults go to t->faults. True: something was there. */
bool lazy_pump(struct lazy_thread *t, struct lazy_space *sp);

/* lazy_fill.c */
void *lazy_fill_main(void *arg);
enum lazy_result { LAZY_DONE, LAZY_AGAIN };
/* Brings the pages that were claimed, or sees to it that their use is an error. */
void lazy_bring(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot);
/* The page at @addr is wanted and claimed in @slot: it first, then its neighbours. */
void lazy_bring_fault(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot, uint64_t page);
/* Nothing of what is missing comes any more: its use is an error from now on. After the threads have ended. */
void lazy_lose(struct lazy *lz, struct lazy_space *sp);
/* No page of the checkpoint: zeroes. Of one that was brought nothing can be missing: it is woken, or poisoned. */
enum lazy_result lazy_bring_hole(struct lazy_thread *t, struct lazy_space *sp, uint64_t addr);

/* lazy_order.c */
/* Parses the text of such a file. 0, or CKPT_E_IMAGE with what is wrong in *@why. */
int lazy_order_parse(struct arena *a, const char *text, size_t n, struct lazy_order *ret, const char **why);
int lazy_order_read(struct op *op, int dir, struct lazy_order **ret); /* NULL where there is none */
int lazy_order_write(struct op *op, int dir, const char *path, const struct lazy_order *o);

/* lazy_remote.c */
int lazy_remote_open(struct op *op, uint64_t n_pages, struct lazy_remote **ret);
/* Pages [@first, @first + @n) of a task, which were at @addr. */
int lazy_remote_read(struct lazy_thread *t, const struct lazy_map *map, uint64_t first, uint64_t n, uint64_t addr, uint8_t *buf);
int lazy_remote_close(struct op *op, struct lazy_remote *r, bool all); /* @all: nothing is needed any more. NULL allowed */

/* lazy_keeper.c */
int lazy_keeper_start(struct op *op, struct lazy_keeper **ret);
/* Pages at [start, end) in some space may be missing from now on. For lazy_event_move() and at the beginning. */
int lazy_keeper_range(struct lazy_keeper *k, uint64_t start, uint64_t end);
int lazy_keeper_pidfd(const struct lazy_keeper *k);
/* It was ended by somebody: another takes its place. */
int lazy_keeper_again(struct op *op, struct lazy_keeper *k);
struct lazy_keeper *lazy_keeper_stop(struct lazy_keeper *k); /* NULL allowed; returns NULL */

/* lazy_proto.c: the words that the restore sends */
#define LAZY_WORD_END 0x52535446u
enum lazy_word {
	LAZY_WORD_TASK,	  /* its userfaultfd follows */
	LAZY_WORD_ZOMBIE, /* has no memory */
	LAZY_WORD_FINISHED,
	LAZY_WORD_BAD,
};
struct lazy_proto {
	const pid_t *pids; /* of the checkpoint, ascending */
	bool *seen;
	size_t n, n_seen;
	const char *why; /* of LAZY_WORD_BAD */
};
enum lazy_word lazy_proto_word(struct lazy_proto *p, uint32_t word, size_t *task);
/* 0, 1 (nothing there yet), or a negative code. A hang-up is one. */
int lazy_proto_recv_word(struct op *op, int sock, uint8_t *buf, size_t *have, uint32_t *word);
int lazy_proto_recv_fd(struct op *op, int sock, int *fd);
int lazy_proto_send(struct op *op, int sock, uint32_t word, int fd); /* @fd -1: none */

/*
 * lazy_serve.c: serves the tasks of @s until all pages are in. @conn: a connection to the restore; -1: one is accepted in the
 * work folder, and @ready is told when it can be made. Takes @conn.
 */
struct lazy_ready {
	ckpt_ready_fn fn; /* may be NULL */
	void *arg;
};
int lazy_serve(struct op *op, struct snapshot *s, int conn, const struct lazy_ready *ready);
/* The other side of that. 1: nobody listens. */
int lazy_connect(struct op *op, int *fd);

#endif
