/* SPDX-License-Identifier: MIT */
/*
 * The program that writes a target's pages from within: see mover.h. Freestanding, position independent, no data but its area.
 * Whatever goes wrong is told to the engine, which copies what is left.
 */
#include "lib/inject/mover/mover.h"

#include <linux/io_uring.h>

#include "lib/inject/blob/blob.h"
#include "lib/inject/blob/sum.h"

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1u << 14)
#endif
#define MSG_DONTWAIT 0x40
#define MSG_NOSIGNAL 0x4000
#define EINTR 4
#define EAGAIN 11
#define EBUSY 16
#define EPROTO 71

struct iovec {
	void *base;
	uint64_t len;
};

struct msghdr {
	void *name;
	uint64_t namelen; /* 32 bits and padding */
	struct iovec *iov;
	uint64_t iovlen;
	void *control;
	uint64_t controllen;
	uint64_t flags;
};

struct control {
	uint64_t len;
	int32_t level, type;
	int32_t fd, pad;
};

struct mover {
	struct mover_area *a;
	int sock, file, ring;
	uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t sq_mask, cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
	uint32_t in_flight;
	/* the rest of what was ordered */
	uint32_t run; /* index of the run in the order */
	uint64_t at;  /* bytes of it that are done */
	bool last;
};

static long say(struct mover *m)
{
	long r;

	do
		r = sys(__NR_sendto, m->sock, &m->a->done, sizeof(m->a->done), MSG_NOSIGNAL);
	while (r == -EINTR);
	return r;
}

/* ---- the ring */

/*
 * In the area's own pages: the kernel chooses where a ring is mapped, and the guardian would not know. Kernels before 6.5 cannot
 * do that; there everything is copied.
 */
static int ring_start(struct mover *m)
{
	struct io_uring_params p = { .flags = IORING_SETUP_NO_MMAP };
	uint8_t *rings = m->a->rings;
	long r;

	/* The last word of both, which older headers do not name. */
	((uint64_t *)(&p.sq_off + 1))[-1] = (uint64_t)m->a->sqes;
	((uint64_t *)(&p.cq_off + 1))[-1] = (uint64_t)rings;
	r = sys(__NR_io_uring_setup, MOVER_DEPTH, &p);
	if (r < 0)
		return (int)r;
	m->ring = (int)r;
	m->sq_tail = (uint32_t *)(rings + p.sq_off.tail);
	m->sq_mask = *(uint32_t *)(rings + p.sq_off.ring_mask);
	m->cq_head = (uint32_t *)(rings + p.cq_off.head);
	m->cq_tail = (uint32_t *)(rings + p.cq_off.tail);
	m->cq_mask = *(uint32_t *)(rings + p.cq_off.ring_mask);
	m->cqes = (struct io_uring_cqe *)(rings + p.cq_off.cqes);
	m->sqes = (struct io_uring_sqe *)m->a->sqes;
	for (uint32_t i = 0; i < p.sq_entries; i++)
		((uint32_t *)(rings + p.sq_off.array))[i] = i;
	return (int)sys(__NR_io_uring_register, m->ring, IORING_REGISTER_FILES, &m->file, 1);
}

/* What came back is told; returns a negative errno when nobody hears us. */
static long reap(struct mover *m)
{
	uint32_t head = *m->cq_head;

	while (head != __atomic_load_n(m->cq_tail, __ATOMIC_ACQUIRE)) {
		struct io_uring_cqe *cqe = &m->cqes[head & m->cq_mask];
		struct mover_chunk *c = &m->a->chunk[cqe->user_data % MOVER_DEPTH];
		struct mover_done *d = &m->a->done;
		long r;

		d->off = c->off;
		d->len = c->len;
		d->result = cqe->res;
		for (uint32_t i = 0; i < MOVER_CHUNK / MOVER_BLOCK; i++)
			d->sum[i] = c->sum[i];
		c->len = 0;
		m->in_flight--;
		__atomic_store_n(m->cq_head, ++head, __ATOMIC_RELEASE);
		r = say(m);
		if (r < 0)
			return r;
	}
	return 0;
}

static long enter(struct mover *m, uint32_t submit, uint32_t wait)
{
	long r;

	do
		r = sys(__NR_io_uring_enter, m->ring, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0);
	while (r == -EINTR);
	return r;
}

/* After a failure: what is in flight comes to its end before we do, but is not told; the engine writes it once more. */
static void drain(struct mover *m)
{
	while (m->in_flight && enter(m, 0, 1) >= 0)
		for (uint32_t head = *m->cq_head; head != __atomic_load_n(m->cq_tail, __ATOMIC_ACQUIRE); m->in_flight--)
			__atomic_store_n(m->cq_head, ++head, __ATOMIC_RELEASE);
}

static struct mover_chunk *free_chunk(struct mover *m)
{
	for (int i = 0; i < MOVER_DEPTH; i++)
		if (!m->a->chunk[i].len)
			return &m->a->chunk[i];
	return 0;
}

/* The write first: the disk has something to do while the sums are made. */
static long submit(struct mover *m, struct mover_chunk *c, const struct mover_run *run)
{
	uint32_t tail = *m->sq_tail;
	struct io_uring_sqe *sqe = &m->sqes[tail & m->sq_mask];
	const char *from = (const char *)run->addr + m->at;
	uint64_t left = run->len - m->at;
	long r;

	c->off = run->off + m->at;
	c->len = left < MOVER_CHUNK ? (uint32_t)left : MOVER_CHUNK;
	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_WRITE, .flags = IOSQE_FIXED_FILE, .addr = (uint64_t)from,
				      .len = c->len, .off = c->off, .user_data = (uint64_t)(c - m->a->chunk) };
	__atomic_store_n(m->sq_tail, tail + 1, __ATOMIC_RELEASE);
	do
		r = enter(m, 1, 0);
	while (r == -EAGAIN || r == -EBUSY);
	if (r != 1)
		return r < 0 ? r : -EPROTO;
	m->in_flight++;
	for (uint32_t i = 0; i * MOVER_BLOCK < c->len; i++)
		c->sum[i] = blob_sum(from + (uint64_t)i * MOVER_BLOCK, MOVER_BLOCK / 4096, 0);
	m->at += c->len;
	if (m->at == run->len) {
		m->run++;
		m->at = 0;
	}
	return 0;
}

/* ---- orders */

/* 0 also when there is none and @wait is false. */
static long receive(struct mover *m, bool wait)
{
	struct mover_order *o = &m->a->order;
	struct control *c = (struct control *)m->a->control;
	struct iovec iov = { o, sizeof(*o) };
	struct msghdr h = { .iov = &iov, .iovlen = 1, .control = c, .controllen = sizeof(m->a->control) };
	long r;

	o->n_runs = 0;
	do
		r = sys(__NR_recvmsg, m->sock, &h, wait ? 0 : MSG_DONTWAIT);
	while (r == -EINTR);
	if (r == -EAGAIN && !wait)
		return 0;
	if (r != (long)sizeof(*o) || o->n_runs > MOVER_RUNS)
		return r < 0 ? r : -EPROTO;
	if (h.controllen >= sizeof(*c) - sizeof(c->pad))
		m->file = c->fd;
	m->run = 0;
	m->at = 0;
	m->last = o->last;
	return 0;
}

static long work(struct mover *m)
{
	long r = receive(m, true);

	if (r < 0)
		return r;
	if (m->file < 0)
		return -EPROTO;
	r = ring_start(m);
	while (r >= 0) {
		struct mover_chunk *c = free_chunk(m);
		bool more = m->run < m->a->order.n_runs;

		if (!more && !m->last)
			r = receive(m, !m->in_flight);
		else if (!more && !m->in_flight)
			return 0;
		else if (more && c)
			r = submit(m, c, &m->a->order.run[m->run]);
		if (r >= 0 && m->in_flight && (!c || m->run >= m->a->order.n_runs))
			r = enter(m, 0, 1);
		if (r >= 0)
			r = reap(m);
	}
	return r;
}

__attribute__((noreturn, used, section(".text.entry"))) void mover_main(struct mover_area *a);
void mover_main(struct mover_area *a)
{
	struct mover m = { .a = a, .sock = a->pair[1], .file = -1 };

	sys(__NR_close, a->pair[0]);
	a->done.result = (int32_t)work(&m);
	drain(&m);
	a->done.off = m.in_flight;
	a->done.len = 0;
	say(&m);
	for (;;)
		sys(__NR_exit_group, 0);
}
