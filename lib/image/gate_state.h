/* SPDX-License-Identifier: MIT */
/*
 * What the dumps of a machine know of each other: one small mapped file with a slot for each. A slot belongs to whoever
 * holds the lock on its byte of the file; a lock of an open file description goes with the process, however it ends. What
 * is written there is believed only as far as it can do no harm.
 */
#ifndef CKPT_IMAGE_GATE_STATE_H
#define CKPT_IMAGE_GATE_STATE_H

#include "lib/base/op.h"

#define GATE_SLOTS 64
#define GATE_MAGIC "CKPT-IO" /* and the zero at its end */
#define GATE_VERSION 1
#define GATE_FILE "io-1" /* of version 1: other versions have other files, and do without each other */

enum gate_phase {
	GATE_FREE = 0,
	GATE_QUEUED,  /* waits to be let in: nothing is stopped yet */
	GATE_COLLECT, /* let in, nothing to write yet */
	GATE_WRITE,
	GATE_COMMIT,  /* everything was written and is being synced */
};

#define GATE_FROZEN 1u	/* its tree stands still */
#define GATE_PACED 2u	/* it has a limit of its own, and leaves the disk to others most of the time */
#define GATE_WAITING 4u /* for another one */

struct gate_slot {
	_Atomic uint32_t phase;
	_Atomic uint32_t flags;
	_Atomic uint64_t dev;
	_Atomic uint64_t left;	 /* bytes that are still to be written */
	_Atomic uint64_t served; /* fair: bytes that were, on the scale of all that take part */
	_Atomic uint64_t beat;	 /* changes with each sign of life */
	uint64_t reserved[3];
};

struct gate_head {
	char magic[8];
	uint32_t version, n_slots, slot_size;
	_Atomic uint32_t seq; /* futex: changes when somebody who waits should look again */
	uint64_t reserved[5];
};

struct gate_shared {
	struct gate_head head;
	struct gate_slot slot[GATE_SLOTS];
};

struct gate_state {
	int fd;
	struct gate_shared *mem; /* NULL: without */
};
#define GATE_STATE_INIT { .fd = -1 }

/* Opens the state in the usual place. False where it cannot be used: why is logged for debugging. */
bool gate_state_open(struct op *op, struct gate_state *st);
/* The same in the folder @dirfd, which is checked. */
bool gate_state_open_at(struct op *op, int dirfd, struct gate_state *st);
void gate_state_close(struct gate_state *st);

/* A slot of our own, cleared; -1 where all are taken. */
int gate_slot_claim(struct gate_state *st);
void gate_slot_release(struct gate_state *st, int i);
/* Frees slot @i if its owner is gone. Returns whether it did. */
bool gate_slot_reap(struct gate_state *st, int i);

/* Those who wait look again; wait for that, at most @ns, unless somebody called since seq was read as @seq. */
void gate_call(struct gate_state *st);
void gate_listen(struct gate_state *st, uint32_t seq, uint64_t ns);

#endif
