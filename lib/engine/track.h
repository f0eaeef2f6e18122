/* SPDX-License-Identifier: MIT */
/*
 * Tracking of memory from one dump to the next, as far as a dump or pre-dump of a tree is concerned: what was tracked until
 * now, what is stored in the parent, and who keeps the tracking afterwards.
 */
#ifndef CKPT_ENGINE_TRACK_H
#define CKPT_ENGINE_TRACK_H

#include "lib/inject/tracker.h"
#include "lib/state/chain.h"
#include "lib/state/mem/dirty.h"

struct dump;

struct track {
	bool wanted;		/* what is written from now on is to be known to the next dump */
	bool pre_dump;
	struct img_parent *parent;
	struct tracking *before; /* taken over; descriptors that are in use were taken out */
	bool incremental;	 /* it is relative to the parent */
	struct page_tracking *tasks; /* of the same index as the tasks; NULL before track_begin() */
};

/* Opens --prev-images-dir and makes the link to it. The folder is open. */
int track_open_parent(struct op *op, struct dump *d);
/* Takes the tracking over, or begins it. Tree frozen, tasks have their messages. */
int track_begin(struct op *op, struct dump *d);
/* Finds what was written, and starts anew. All areas are known, tree frozen. */
int track_scan(struct op *op, struct dump *d);
/* After pages_collect(): for the statistics. */
void track_count(struct op *op, const struct dump *d);
/* A failure. Nothing is tracked any more, unless nothing was changed yet. */
void track_undo(struct op *op, struct dump *d);
/* The images are complete: what is tracked is relative to them. Who keeps it, the options say. */
void track_commit(struct op *op, struct dump *d);

#endif
