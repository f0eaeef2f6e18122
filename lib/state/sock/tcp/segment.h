/* SPDX-License-Identifier: MIT */
/*
 * TCP segments of our own making, for what no system call does to a connection that is being restored: that its peer ended it,
 * or acknowledged. They carry the mark that the network lock lets through.
 */
#ifndef CKPT_STATE_SOCK_SEGMENT_H
#define CKPT_STATE_SOCK_SEGMENT_H

#include "lib/state/sock/inet/inet.h"

struct segment {
	union inet_addr from, to; /* as on the wire; of one family */
	uint32_t seq, ack;
	uint16_t window; /* as in the header: scaled already */
	bool fin;
	bool stamped; /* has the option timestamps */
	uint32_t tsval;
};

#define SEGMENT_MAX 80 /* bytes, with the headers */

/* With all checksums. Returns how many bytes of @buf it takes, 0: the addresses are of different families. */
size_t segment_build(const struct segment *g, uint8_t buf[SEGMENT_MAX]);

/* Sockets that segments leave by, made when they are first needed. */
struct segment_out {
	int v4, v6;
};
#define SEGMENT_OUT_INIT { -1, -1 }

int segment_send(struct segment_out *out, const struct segment *g); /* -1 (errno) */
void segment_close(struct segment_out *out);

#endif
