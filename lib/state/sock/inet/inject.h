/* SPDX-License-Identifier: MIT */
/*
 * Datagrams of our own making, with the addresses that they should have: how what was queued in a socket gets into a new
 * one. They carry the mark that the network lock lets through.
 */
#ifndef CKPT_STATE_SOCK_INJECT_H
#define CKPT_STATE_SOCK_INJECT_H

#include "lib/state/sock/inet/inet.h"

struct inject {
	union inet_addr from, to; /* as on the wire; of one family */
	uint8_t proto;		  /* IPPROTO_UDP, IPPROTO_UDPLITE */
	uint8_t tos, ttl;
	const void *data;
	size_t n;
};

/* Bytes, with the headers, of the largest one. */
#define INJECT_MAX 65536

/* With all checksums. Returns how many bytes of @buf it takes, 0: it is too long, or its addresses are of different families. */
size_t inject_build(const struct inject *d, uint8_t buf[INJECT_MAX]);

/* Sockets that they leave by, made when they are first needed. */
struct inject_out {
	int v4, v6;
	uint8_t *buf; /* INJECT_MAX, of the caller's */
};

int inject_send(struct inject_out *out, const struct inject *d); /* -1 (errno) */
void inject_close(struct inject_out *out);

#endif
