/* SPDX-License-Identifier: MIT */
/* Filling the memory of a task: restore_fill.c puts pages in place that restore_fill_read.c has read and checked. */
#ifndef CKPT_ENGINE_RESTORE_FILL_H
#define CKPT_ENGINE_RESTORE_FILL_H

#include <pthread.h>

#include "lib/engine/restore_parts.h"

#define CHUNK_PARTS 128

/* A page image that pages come from. */
struct fill_source {
	struct pagein *in; /* NULL: not used */
	int fd;		   /* plain: page k lies at k * PAGE_SIZE; -1: it is read by pagein_read() */
	int direct;	   /* the same past the page cache; -1: not possible, or not wanted */
};

/* Pages that lie together in a page image, and which parts of pieces they are. */
struct chunk_part {
	const struct fill_piece *piece;
	uint64_t from, n; /* pages of it */
};

struct chunk {
	uint32_t source;
	uint64_t first, n;
	size_t n_parts;
	struct chunk_part parts[CHUNK_PARTS];
};

/* What all fillers share. */
struct fill {
	struct new_task *t;
	pid_t pid;
	const struct fill_piece *v;
	size_t n;
	struct fill_source *sources; /* of the same indices as snapshot.sources */
	size_t n_sources;
	int uffd, mem;	  /* of the task; uffd -1: it has none */
	uint64_t scratch; /* address in it; 0: none */
	unsigned max_pages; /* at once */
	bool cold, compares;
	atomic_bool stop; /* one of them failed */
	pthread_mutex_t lock;
	size_t at;     /* under the lock: the piece that comes next... */
	uint64_t done; /* ...and how many of its pages were taken */
};

struct filler {
	struct fill *f;
	struct op op;
	struct ckpt_stats stats;
	struct op *progress; /* the thread of the operation reports it */
	char *buf, *have;    /* pages from the image; pages that are there */
	size_t buf_len;
	pthread_t thread;
	bool started;
	int ret;
};

int fill_sources_open(struct op *op, struct fill *f);
void fill_sources_close(struct fill *f);
/* Reads a chunk and checks it; *@pages is its first page, valid until the next call. */
int fill_read(struct filler *w, const struct chunk *c, const char **pages);

#endif
