/* SPDX-License-Identifier: MIT */
/*
 * FIFOs: pipes with a name. The image has a REG entry for the name and a FIFO entry for the queue. At restore an end of our
 * own, open for both, comes first: no open blocks then, and what is queued has a place to be. It is there already where
 * somebody outside kept the FIFO open.
 */
#include <sys/ioctl.h>

#include "lib/state/file/core.h"

static bool fifo_match(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && !(v->info.flags & O_PATH) && v->fd >= 0;
}

static int fifo_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	FifoEntry *m = op_new(op, FifoEntry);
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	fifo_entry__init(m);
	m->id = f->id;
	m->has_regf_id = true;
	f->msg->fifo = m;
	r = reg_dump_ref(op, s, v, &m->regf_id);
	return r ? r : queue_dump(op, s, v, true, &m->pipe_id);
}

static int open_helper(struct op *op, struct snapshot *s, const FifoEntry *m, struct snap_file *reg)
{
	const struct reg_how how = { .flags = O_RDWR | O_NONBLOCK, .special = S_IFIFO };
	struct queue_ends *e = op_new(op, struct queue_ends), **slot;
	int r, queued = 0;

	slot = e ? ARRAY_ADD(op->arena, &s->file_state->all_ends) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = e;
	e->r = e->w = -1;
	r = reg_open_as(op, s, reg, &how, &e->w);
	if (!r && ioctl(e->w, FIONREAD, &queued) == 0 && queued > 0)
		log_warn(op, "%s: somebody kept it open: it holds %d bytes, and gets no more", reg->msg->reg->name, queued);
	else if (!r)
		r = queue_fill(op, s, m->pipe_id, true, e->w);
	return r ? r : index_add(op, &s->file_state->ends, KEY(m->pipe_id, true), e);
}

static int fifo_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const FifoEntry *m = f->msg->fifo;
	struct snap_file *reg = snapshot_file(s, m->has_regf_id ? m->regf_id : m->id);
	int r = 0;

	if (!reg || !reg->msg->reg)
		return image_bad(op, "files.img: FIFO id %u has no entry for its name", f->id);
	if (!index_find(&s->file_state->ends, KEY(m->pipe_id, true)))
		r = open_helper(op, s, m, reg);
	if (r)
		return r;
	return reg_open_as(op, s, reg, &(const struct reg_how){ .flags = reg->msg->reg->flags, .special = S_IFIFO }, &f->fd);
}

const struct file_kind file_fifo = {
	.name = "fifo",
	.type = FD_TYPES__FIFO,
	.message = offsetof(FileEntry, fifo),
	.match = fifo_match,
	.check = reg_examine,
	.dump = fifo_dump,
	.open = fifo_open,
};
