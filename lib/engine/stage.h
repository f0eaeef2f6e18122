/* SPDX-License-Identifier: MIT */
/*
 * A pipeline is a table of named stages. From the table come the order, rollback (the undo of every stage that was begun,
 * in reverse), progress, the time of each stage, and fault points for tests.
 */
#ifndef CKPT_ENGINE_STAGE_H
#define CKPT_ENGINE_STAGE_H

#include "lib/base/op.h"

struct stage {
	const char *name;			   /* static; in progress, statistics and messages */
	int (*run)(struct op *op, void *arg);	   /* 0 or a recorded failure */
	void (*undo)(struct op *op, void *arg);	   /* of a stage that ran or failed half way; must cope with both; or NULL */
	unsigned weight;			   /* share of the progress */
};

/*
 * Runs the stages in order; ends with an entry without a name. When one fails, or the operation is cancelled between
 * two, everything begun is undone in reverse order and the failure is returned.
 */
int stages_run(struct op *op, const struct stage *table, void *arg);

#endif
