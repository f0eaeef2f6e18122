/* SPDX-License-Identifier: MIT */
/* The inside of a context, and how an operation begins and ends on one. */
#ifndef CKPT_API_CTX_H
#define CKPT_API_CTX_H

#include <stdatomic.h>

#include "lib/inject/tracker.h"

struct features;

struct ckpt_ctx {
	struct log_sink log;
	struct progress_sink progress;
	struct event_sink events;
	atomic_bool cancel;
	struct tracking_list trackings;
	struct features *features; /* made by the first operation; what was probed once is known from then on */
};

/*
 * Sets @op up for one operation: sinks, deadline, arena, and complete copies of @opts and @stats (both may be NULL, and
 * may come from a caller that was compiled with another version of the header). Returns 0, or fails as every function
 * of the public header does, with *@err (may be NULL) set. op_end() has to follow in both cases.
 */
int op_begin(struct op *op, struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_stats *stats);
/* Hands statistics and error to the caller and frees what op_begin() made. Returns @r. */
int op_end(struct op *op, int r, struct ckpt_err **err);

/* What --external names is of a kind that somebody looks for. */
int op_check_external(struct op *op, const struct ckpt_strv *external);

/* events.c: from here on the action scripts, and then the caller, are told of events. events_end() in any case. */
int events_begin(struct op *op);
void events_end(struct op *op);

#endif
