/* SPDX-License-Identifier: MIT */
/*
 * Serving pages on demand: GET after GET, each answered in turn from whatever has the pages (images, or tasks that stand
 * still), until the peer says CLOSE.
 */
#ifndef CKPT_IMAGE_PS_SERVE_H
#define CKPT_IMAGE_PS_SERVE_H

#include "lib/image/ps_stream.h"

struct ps_source {
	/* How many pages there are from @start of process @id on, without a gap: *@n, at most @max; 0: not this one. */
	int (*have)(struct op *op, void *arg, uint32_t id, uint64_t start, uint64_t max, uint64_t *n);
	/* Reads @n of those to @buf. */
	int (*read)(struct op *op, void *arg, uint32_t id, uint64_t start, size_t n, void *buf);
	void *arg;
};

/* Returns 0 after a CLOSE, which was answered. @keep: the connection goes on afterwards. */
int ps_serve(struct op *op, struct ps_stream *s, const struct ps_source *source, bool keep);

#endif
