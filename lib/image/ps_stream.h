/* SPDX-License-Identifier: MIT */
/*
 * A connection to a page server or from one, as a stream of bytes that either moves or fails: every wait ends when the
 * operation is cancelled, and when nothing moved for too long. Plain, or inside of TLS.
 *
 * The descriptor stays as it is (blocking or not): it may be shared with whoever gave it to us.
 */
#ifndef CKPT_IMAGE_PS_STREAM_H
#define CKPT_IMAGE_PS_STREAM_H

#include <sys/uio.h>

#include "lib/base/op.h"
#include "lib/base/tls.h"

#define PS_AHEAD (64u << 10)

struct ps_stream {
	int fd;
	struct tls *tls;   /* NULL: plain */
	uint32_t stall_s;  /* seconds without a byte after which we give up; 0: never */
	const char *peer;  /* "page server at HOST port N", for messages */
	const char *hint;  /* where the connection was lost: what may be the reason */
	uint64_t received, sent;
	/* What was received beyond what was asked for. */
	uint8_t *ahead;
	size_t ahead_from, ahead_to;
};

/* @fd stays the caller's. @peer is kept by pointer. */
void ps_stream_init(struct ps_stream *s, int fd, const char *peer, uint32_t stall_s);
void ps_stream_done(struct ps_stream *s); /* frees; says nothing to the peer */
/* TLS by the options of @op, from the first byte on. @host: what the peer's certificate must be for, NULL for a server. */
int ps_stream_tls(struct op *op, struct ps_stream *s, const char *host);
/* Says good-bye inside of TLS, and waits for the peer's. Nothing without TLS. */
int ps_stream_bye(struct op *op, struct ps_stream *s);

/* Sends all of it. @iov is used up. */
int ps_sendv(struct op *op, struct ps_stream *s, struct iovec *iov, int n);
int ps_send(struct op *op, struct ps_stream *s, const void *p, size_t n);
/* Receives @n bytes, fewer only where the peer ends the stream: *@got tells. */
int ps_recv(struct op *op, struct ps_stream *s, void *p, size_t n, size_t *got);
/* The same, where an end is an error: @what names what it was to be. */
int ps_recv_all(struct op *op, struct ps_stream *s, void *p, size_t n, const char *what);
/* As ps_recv(), and allowed to read beyond: the next calls get that first. For streams of many small pieces. */
int ps_recv_ahead(struct op *op, struct ps_stream *s, void *p, size_t n, size_t *got);
/* Something was received already that no poll(2) of the descriptor shows. */
bool ps_stream_pending(const struct ps_stream *s);
/* Waits for the first byte of what comes, however long that takes. */
int ps_wait(struct op *op, struct ps_stream *s);

#endif
