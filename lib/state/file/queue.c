/* SPDX-License-Identifier: MIT */
/*
 * The bytes queued in a pipe or FIFO. tee(2) copies them into a pipe of our own, so that nothing is taken away. That copy
 * is read in pieces as a reader of the pipe would see them: a pipe in packet mode (O_DIRECT) gives one packet a read,
 * whatever the flags of its present ends say, and the lengths go to our own file beside the images.
 */
#include "lib/state/file/core.h"

#define QUEUE_MAX (1u << 30)

struct payload {
	char *bytes;
	size_t n;
	ARRAY(uint32_t) lengths;
};

/* Dump: a pipe or FIFO that was seen. */
struct queue {
	uint32_t id;
	bool saved;
	bool packets; /* an end is in packet mode */
	struct payload pieces;
};

static int queue_new(struct op *op, struct snapshot *s, const struct fd_view *v, bool fifo, struct queue **ret)
{
	struct queue *q = op_new(op, struct queue), **slot;
	int r;

	slot = q ? ARRAY_ADD(op->arena, &s->file_state->all_queues) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = q;
	/* The number is a key only. FIFOs of two file systems may have the same inode number, so it is made unique. */
	for (q->id = (uint32_t)v->st.st_ino; index_find(&s->file_state->queue_ids, KEY(q->id, fifo)); q->id++)
		;
	r = index_add(op, &s->file_state->queue_ids, KEY(q->id, fifo), q);
	*ret = q;
	return r ? r : index_add(op, &s->file_state->queues, KEY(v->st.st_dev, v->st.st_ino), q);
}

static int read_pieces(struct op *op, const struct fd_view *v, int fd, size_t n, struct payload *out)
{
	out->bytes = op_alloc(op, n);
	if (!out->bytes)
		return CKPT_E_NOMEM;
	while (out->n < n) {
		ssize_t r = read(fd, out->bytes + out->n, n - out->n);
		uint32_t *slot;

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return file_errno(op, v, "read the copy of what is queued in the pipe");
		slot = ARRAY_ADD(op->arena, &out->lengths);
		if (!slot)
			return op_nomem(op);
		*slot = (uint32_t)r;
		out->n += (size_t)r;
	}
	return 0;
}

static int copy_queue(struct op *op, const struct fd_view *v, int capacity, struct payload *out)
{
	_cleanup_close_ int r_end = -1, w_end = -1, from = -1;
	ssize_t n;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return file_errno(op, v, "make a pipe for a copy of what is queued");
	r_end = ends[0];
	w_end = ends[1];
	if (fcntl(w_end, F_SETPIPE_SZ, capacity) < 0)
		return file_errno(op, v, "make room for a copy of what is queued in the pipe");
	/* Through an end of our own, which never blocks and whose flags are nobody else's. */
	from = file_reopen(v->copy, O_RDONLY | O_NONBLOCK);
	if (from < 0)
		return file_errno(op, v, "open the pipe for reading");
	n = tee(from, w_end, (size_t)capacity, SPLICE_F_NONBLOCK);
	if (n < 0 && errno != EAGAIN)
		return file_errno(op, v, "copy what is queued in the pipe");
	return n > 0 ? read_pieces(op, v, r_end, (size_t)n, out) : 0;
}

/* One piece of an ordinary pipe needs no note; one of a pipe in packet mode does. */
static int note_packets(struct op *op, struct snapshot *s, const struct queue *q)
{
	PacketPipeEntry *m = op_new(op, PacketPipeEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &s->file_state->packet_pipes) : NULL;
	if (!slot)
		return op_nomem(op);
	packet_pipe_entry__init(m);
	m->pipe_id = q->id;
	m->n_lengths = q->pieces.lengths.n;
	m->lengths = q->pieces.lengths.v;
	*slot = m;
	return 0;
}

int queues_note_packets(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	int r = 0;

	for (size_t i = 0; !r && i < fs->all_queues.n; i++) {
		const struct queue *q = fs->all_queues.v[i];

		if (q->pieces.lengths.n > 1 || (q->pieces.lengths.n && q->packets))
			r = note_packets(op, s, q);
	}
	return r;
}

static int save(struct op *op, struct snapshot *s, const struct fd_view *v, struct queue *q, bool fifo)
{
	PipeDataEntry *m = op_new(op, PipeDataEntry);
	struct snap_pipe_data *slot = m ? ARRAY_ADD(op->arena, &s->pipes) : NULL;
	struct payload *p = &q->pieces;
	int r, capacity;

	if (!slot)
		return op_nomem(op);
	capacity = fcntl(v->copy, F_GETPIPE_SZ);
	if (capacity <= 0)
		return file_errno(op, v, "ask for the capacity of the pipe");
	r = copy_queue(op, v, capacity, p);
	if (r)
		return r;
	pipe_data_entry__init(m);
	m->pipe_id = q->id;
	m->bytes = (uint32_t)p->n;
	m->has_size = true;
	m->size = (uint32_t)capacity;
	*slot = (struct snap_pipe_data){ .msg = m, .bytes = p->bytes, .fifo = fifo };
	return 0;
}

int queue_dump(struct op *op, struct snapshot *s, const struct fd_view *v, bool fifo, uint32_t *id)
{
	struct queue *q = index_find(&s->file_state->queues, KEY(v->st.st_dev, v->st.st_ino));
	int r = q ? 0 : queue_new(op, s, v, fifo, &q);

	if (r)
		return r;
	*id = q->id;
	q->packets = q->packets || (v->info.flags & O_DIRECT);
	/* What is queued belongs to whoever reads it: without a reader in the tree it is not ours. */
	if (q->saved || (v->info.flags & O_ACCMODE) == O_WRONLY)
		return 0;
	q->saved = true;
	return save(op, s, v, q, fifo);
}

/* ------------------------------------------------------------------------------------------- restore half */

int queue_make(struct op *op, struct snapshot *s, uint32_t id, struct queue_ends **ret)
{
	struct queue_ends *e = op_new(op, struct queue_ends), **slot;
	int ends[2], r;

	slot = e ? ARRAY_ADD(op->arena, &s->file_state->all_ends) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = e;
	e->r = e->w = -1;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return op_errno(op, errno, AT(.kind = "pipe"), "cannot create a pipe");
	e->r = file_high(ends[0]);
	e->w = file_high(ends[1]);
	if (e->r < 0 || e->w < 0)
		return op_errno(op, errno, AT(.kind = "pipe"), "cannot create a pipe");
	r = queue_fill(op, s, id, false, e->w);
	*ret = e;
	return r ? r : index_add(op, &s->file_state->ends, KEY(id, false), e);
}

static const struct snap_pipe_data *data_of(const struct snapshot *s, uint32_t id, bool fifo)
{
	for (size_t i = 0; i < s->pipes.n; i++)
		if (s->pipes.v[i].msg->pipe_id == id && s->pipes.v[i].fifo == fifo)
			return &s->pipes.v[i];
	return NULL;
}

static const PacketPipeEntry *packets_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_packet_pipes; i++)
		if (s->extra->packet_pipes[i]->pipe_id == id)
			return s->extra->packet_pipes[i];
	return NULL;
}

/* All of @n at once: it fits, or the image lies. */
static int write_bytes(struct op *op, uint32_t id, int w, const void *p, size_t n)
{
	ssize_t r;

	for (size_t done = 0; done < n; done += (size_t)r) {
		do
			r = write(w, (const char *)p + done, n - done);
		while (r < 0 && errno == EINTR);
		if (r < 0 && errno == EAGAIN)
			return image_bad(op, "pipe %u: more bytes are queued than it holds", id);
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "pipe"), "cannot fill pipe %u", id);
	}
	return 0;
}

static int write_packets(struct op *op, const PacketPipeEntry *m, const struct snap_pipe_data *d, int w)
{
	size_t done = 0;
	int r = 0;

	for (size_t i = 0; !r && i < m->n_lengths; i++) {
		if (!m->lengths[i] || m->lengths[i] > d->msg->bytes - done)
			return image_bad(op, "ckpt-extra: the packets of pipe %u do not add up", m->pipe_id);
		r = write_bytes(op, m->pipe_id, w, (const char *)d->bytes + done, m->lengths[i]);
		done += m->lengths[i];
	}
	if (!r && done != d->msg->bytes)
		return image_bad(op, "ckpt-extra: the packets of pipe %u do not add up", m->pipe_id);
	return r;
}

int queue_fill(struct op *op, struct snapshot *s, uint32_t id, bool fifo, int w)
{
	const struct snap_pipe_data *d = data_of(s, id, fifo);
	const PacketPipeEntry *packets = fifo ? NULL : packets_of(s, id);
	int r, flags;

	if (!d)
		return 0;
	if (d->msg->has_size && d->msg->size > QUEUE_MAX)
		return image_bad(op, "pipe %u: a capacity of %u bytes is absurd", id, d->msg->size);
	if (d->msg->has_size && d->msg->size && fcntl(w, F_SETPIPE_SZ, d->msg->size) < 0)
		return op_errno(op, errno, AT(.kind = "pipe", .hint = "/proc/sys/fs/pipe-max-size may be too small"),
				"pipe %u: cannot make it hold %u bytes", id, d->msg->size);
	if (!d->msg->bytes)
		return 0;
	flags = fcntl(w, F_GETFL);
	if (flags < 0 || fcntl(w, F_SETFL, flags | O_NONBLOCK | (packets ? O_DIRECT : 0)) < 0)
		return op_errno(op, errno, AT(.kind = "pipe"), "cannot prepare pipe %u", id);
	r = packets ? write_packets(op, packets, d, w) : write_bytes(op, id, w, d->bytes, d->msg->bytes);
	if (!r && fcntl(w, F_SETFL, flags) < 0)
		return op_errno(op, errno, AT(.kind = "pipe"), "cannot prepare pipe %u", id);
	return r;
}
