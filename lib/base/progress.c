// SPDX-License-Identifier: MIT
/*
 * How far an operation is. Stages have weights, memory has bytes; both reach the caller in one struct. Bytes are counted
 * wherever pages pass, perhaps thousands of times a second, so they are handed on only now and then.
 */
#include "lib/base/op.h"

#define REPORT_EVERY_NS 20000000u

/* What the running stage has of its weight: its part of the bytes that are to be moved, if it moves any. */
static uint64_t stage_share(const struct op_moved *m)
{
	uint64_t done = m->bytes_done - m->stage_from, all = m->bytes_total - m->stage_from;

	if (!done || !all)
		return 0;
	return (uint64_t)((double)m->weight * (double)MIN(done, all) / (double)all);
}

static void report(struct op *op, uint64_t now)
{
	const struct op_moved *m = &op->moved;
	struct ckpt_progress p = {
		.sz = sizeof(p),
		.stage = op->stage ? op->stage : "",
		.done = m->done + stage_share(m),
		.total = m->total,
		.bytes_done = m->bytes_done,
		.bytes_total = MAX(m->bytes_done, m->bytes_total),
		.frozen = m->frozen,
		.waiting = m->waiting,
	};

	op->moved.reported_ns = now;
	op->progress.fn(op->progress.arg, &p);
}

void op_progress(struct op *op, uint64_t done, uint64_t total)
{
	op->moved.done = done;
	op->moved.total = total;
	op->moved.weight = 0;
	if (op->progress.fn)
		report(op, now_ns());
}

void op_stage(struct op *op, const char *name, uint64_t weight)
{
	op->stage = name;
	op->moved.weight = weight;
	op->moved.stage_from = op->moved.bytes_done;
}

void op_bytes_total(struct op *op, uint64_t n)
{
	/* What was moved before its amount was told is no part of it. */
	op->moved.bytes_total = MAX(op->moved.bytes_total, op->moved.bytes_done) + n;
}

void op_bytes_done(struct op *op, uint64_t n)
{
	uint64_t now;

	op->moved.bytes_done += n;
	if (!op->progress.fn)
		return;
	now = now_ns();
	if (now - op->moved.reported_ns >= REPORT_EVERY_NS || op->moved.bytes_done == op->moved.bytes_total)
		report(op, now);
}

void op_frozen(struct op *op, bool frozen)
{
	op->moved.frozen = frozen;
}

void op_waiting(struct op *op, bool waiting)
{
	uint64_t now;

	if (op->moved.waiting == waiting)
		return;
	op->moved.waiting = waiting;
	if (!op->progress.fn)
		return;
	now = now_ns();
	if (now - op->moved.reported_ns >= REPORT_EVERY_NS)
		report(op, now);
}
