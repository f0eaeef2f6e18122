/* SPDX-License-Identifier: MIT */
/*
 * What the engine and the mover say to each other. The mover is a freestanding program that runs in a twin of a stopped target
 * (lib/inject/twin.h): it shares the target's memory, and writes pages from where they are into a page image, by an io_uring
 * of its own. On the way it sums them. It reads the target's memory and changes nothing of it but its own area.
 *
 * They talk by a SEQPACKET pair: orders to the mover, the first of them with the descriptor of the page image; what was
 * written to the engine. The area: MOVER_CODE_MAX bytes of code, then one struct mover_area.
 */
#ifndef CKPT_MOVER_H
#define CKPT_MOVER_H

#include <stdint.h>

#define MOVER_CODE_MAX (32u << 10)
#define MOVER_BLOCK (64u << 10)	 /* BLOCK_PAGES pages; everything is in whole blocks of the page image */
#define MOVER_CHUNK (1u << 20)	 /* of one write. Measured: 512 KiB are a tenth slower, 2 MiB not quicker */
#define MOVER_DEPTH 16
#define MOVER_RUNS 32

/* Pages to be written. */
struct mover_run {
	uint64_t addr;
	uint64_t off; /* in the page image */
	uint64_t len;
};

struct mover_order {
	uint32_t n_runs;
	uint32_t last; /* no more orders will come */
	struct mover_run run[MOVER_RUNS];
};

/*
 * A write that came back, or (len 0) the end: result 0 when all orders are carried out, else why it cannot go on; off is then
 * how many writes were begun and not heard of again, nearly always 0.
 */
struct mover_done {
	uint64_t off;
	uint32_t len;
	int32_t result; /* bytes that were written, or -errno */
	uint64_t sum[MOVER_CHUNK / MOVER_BLOCK];
};

struct mover_chunk {
	uint64_t sum[MOVER_CHUNK / MOVER_BLOCK];
	uint64_t off;
	uint32_t len; /* 0: free */
	uint32_t pad;
};

struct mover_area {
	uint8_t stack[16u << 10];
	/* in */
	int32_t pair[2]; /* [0] is the engine's end */
	uint64_t area;	 /* address of this struct */
	/* its own */
	uint64_t control[8];
	struct mover_order order;
	struct mover_done done;
	struct mover_chunk chunk[MOVER_DEPTH];
	/* of the ring: a page each is more than MOVER_DEPTH takes */
	_Alignas(4096) uint8_t rings[4096];
	uint8_t sqes[4096];
};

#endif
