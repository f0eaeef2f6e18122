/* SPDX-License-Identifier: MIT */
#include "lib/engine/stage.h"

static void note_time(struct op *op, const char *name, uint64_t us)
{
	struct ckpt_stats *s = op->stats;

	if (s->n_stages < ARRAY_SIZE(s->stages))
		s->stages[s->n_stages++] = (struct ckpt_stage_time){
			.name = name, .us = us, .bytes = op->moved.bytes_done - op->moved.stage_from, .frozen = op->moved.frozen,
		};
}

static int run_one(struct op *op, const struct stage *stage, void *arg)
{
	uint64_t begin = now_ns();
	int r;

	op_stage(op, stage->name, stage->weight);
	log_debug(op, "stage %s", stage->name);
	r = op_check_cancel(op);
	if (!r && op->fault_stage && !strcmp(op->fault_stage, stage->name))
		r = op_fail(op, CKPT_E_INTERNAL, NULL, "fault point at stage %s", stage->name);
	r = r ?: stage->run(op, arg);
	note_time(op, stage->name, (now_ns() - begin) / 1000);
	return r;
}

int stages_run(struct op *op, const struct stage *table, void *arg)
{
	unsigned total = 0, done = 0;
	size_t i;
	int r = 0;

	for (i = 0; table[i].name; i++)
		total += table[i].weight;
	op->moved.total = total;
	for (i = 0; table[i].name && !r; i++) {
		r = run_one(op, &table[i], arg);
		done += table[i].weight;
		op_progress(op, done, total);
	}
	while (r && i-- > 0)
		if (table[i].undo)
			table[i].undo(op, arg);
	return r;
}
