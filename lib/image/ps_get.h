/* SPDX-License-Identifier: MIT */
/*
 * Getting pages on demand from a page server: requests may be sent ahead, replies come in their order. One thread at a time.
 *
 *	ps_get_open() ps_get_request()... { ps_get_reply() ps_get_data()... }... ps_get_close()
 */
#ifndef CKPT_IMAGE_PS_GET_H
#define CKPT_IMAGE_PS_GET_H

#include "lib/base/op.h"

struct ps_get;

struct ps_get_reply {
	uint32_t pid;
	uint64_t start, n_pages; /* that were asked for */
	uint64_t n_got;		 /* that follow: the first ones, at least one */
};

/* Connects as the options of @op say: --address and --port, or --ps-socket; --tls; --ps-timeout. */
int ps_get_open(struct op *op, struct ps_get **ret);
struct ps_get *ps_get_free(struct ps_get *g); /* NULL allowed; returns NULL; the server sees a lost connection */
/* Asks for @n_pages pages from @start on of the task with (virtual) number @pid. */
int ps_get_request(struct op *op, struct ps_get *g, uint32_t pid, uint64_t start, uint64_t n_pages);
/* How many requests have no reply yet. At most PS_GET_AHEAD: the next ps_get_request() is refused. */
size_t ps_get_pending(const struct ps_get *g);
#define PS_GET_AHEAD 256
/* To poll(2) for replies; with TLS, something may be there that it does not show: ps_get_ready(). */
int ps_get_fd(const struct ps_get *g);
bool ps_get_ready(const struct ps_get *g);
/* The reply to the oldest request; waits for it. It is what was asked for, or a failure. */
int ps_get_reply(struct op *op, struct ps_get *g, struct ps_get_reply *reply);
/* The pages of that reply, in as many pieces as is convenient; all of them before the next reply. */
int ps_get_data(struct op *op, struct ps_get *g, void *buf, size_t n_pages);
/* All pages were got: the server may end. */
int ps_get_close(struct op *op, struct ps_get *g);

#endif
