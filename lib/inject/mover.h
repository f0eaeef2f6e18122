/* SPDX-License-Identifier: MIT */
/*
 * The engine's side of the mover (mover/mover.h): a twin of a stopped target that writes the target's pages straight from its
 * memory. The target must stay stopped from mover_start() to mover_end(); then it is as before, but for a child that it was
 * made to wait for.
 */
#ifndef CKPT_INJECT_MOVER_H
#define CKPT_INJECT_MOVER_H

#include "lib/inject/mover/mover.h"
#include "lib/inject/twin.h"

struct mover {
	struct twin twin;
	struct target *target;
	struct parasite *parasite; /* of the target: gadgets, and the entry in the journal */
	uint64_t base, size;	   /* of the area, 0: none */
	int sock;
	bool last_ordered;
	/* once it has ended */
	bool ended;
	int result;	 /* 0, or why it did not finish: a negative errno */
};

#define MOVER_REFUSED 1 /* this target cannot have one; nothing was done, and it was logged why */
#define MOVER_FULL 2	/* no room for orders now: take what is done first */
#define MOVER_NONE 3	/* nothing has come */
#define MOVER_ENDED 4

/* @maps: of the target, as it is; @fd: the page image, which the mover gets a copy of. */
int mover_start(struct op *op, struct target *t, struct parasite *p, const struct proc_maps *maps, int fd, struct mover *m);
/* Hands over at most MOVER_RUNS runs, in whole blocks. Returns 0, MOVER_FULL, MOVER_ENDED or a failure. */
int mover_order(struct op *op, struct mover *m, const struct mover_run *runs, size_t n, bool last);
/* The next write that came back. Waits for a while with @wait. Returns 0, MOVER_NONE, MOVER_ENDED (see m->result) or a failure. */
int mover_take(struct op *op, struct mover *m, bool wait, struct mover_done *done);
/* Ends it and removes its area. A failure means that the area could not be removed. Safe on a zeroed mover. */
int mover_end(struct op *op, struct mover *m);

#endif
