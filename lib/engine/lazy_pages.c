// SPDX-License-Identifier: MIT
/* The daemon of lazy pages as an operation of its own: for a restore that is told to find it. */
#include "lib/engine/lazy_pages.h"

#include "lib/engine/lazy.h"
#include "lib/engine/restore_parts.h"

int lazy_pages_run(struct op *op, ckpt_ready_fn ready, void *arg)
{
	struct snapshot *s = op_new(op, struct snapshot);
	struct lazy_ready tell = { ready, arg };
	int r;

	if (!s)
		return CKPT_E_NOMEM;
	op->stage = "lazy pages";
	r = img_dir_open(op, &s->dir, &s->inventory);
	if (r)
		return op_wrap(op, r, "lazy pages");
	r = restore_read(op, s);
	r = r ?: lazy_serve(op, s, -1, &tell);
	pieces_done(s);
	s->dir = img_dir_close(s->dir);
	return r ? op_wrap(op, r, "lazy pages") : 0;
}
