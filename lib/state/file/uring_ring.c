/* SPDX-License-Identifier: MIT */
/*
 * Rings from the inside. The kernel's own counters can only be moved by work: empty requests, which move both, or, where
 * they are to say nothing, only that of the submission queue; messages from another ring move only that of the completion
 * queue.
 */
#include "lib/state/file/uring.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#define HELPER_ENTRIES 4096u
#define CHECK_EVERY 1024u

int uring_register(int fd, unsigned op, const void *arg, unsigned n)
{
	return (int)syscall(__NR_io_uring_register, fd, op, arg, n);
}

int uring_enter(int fd, unsigned submit, unsigned complete, unsigned flags)
{
	return (int)syscall(__NR_io_uring_enter, fd, submit, complete, flags, NULL, 0);
}

int uring_make(struct uring *u, uint32_t flags, uint32_t sq_entries, uint32_t cq_entries)
{
	u->p = (struct io_uring_params){ .flags = flags | IORING_SETUP_CQSIZE, .cq_entries = cq_entries };
	u->fd = (int)syscall(__NR_io_uring_setup, sq_entries, &u->p);
	if (u->fd >= 0 && (u->p.sq_entries != sq_entries || u->p.cq_entries != cq_entries)) {
		uring_close(u);
		errno = EINVAL;
	}
	return u->fd < 0 ? -1 : 0;
}

static size_t pages(size_t n)
{
	return ALIGN_UP(n, (size_t)PAGE_SIZE);
}

size_t uring_rings_len(const struct io_uring_params *p)
{
	size_t cqes = p->cq_off.cqes + ((size_t)p->cq_entries * sizeof(struct io_uring_cqe) << !!(p->flags & IORING_SETUP_CQE32));

	if (p->flags & IORING_SETUP_NO_SQARRAY)
		return pages(cqes);
	return pages(MAX(cqes, p->sq_off.array + p->sq_entries * sizeof(uint32_t)));
}

size_t uring_sqes_len(const struct io_uring_params *p)
{
	return pages((size_t)p->sq_entries * 64 << !!(p->flags & IORING_SETUP_SQE128));
}

void uring_offsets(const struct io_uring_params *p, uint32_t off[URING_OFFSETS])
{
	const uint32_t all[URING_OFFSETS] = {
		p->sq_off.head, p->sq_off.tail, p->sq_off.ring_mask, p->sq_off.ring_entries, p->sq_off.flags,
		p->sq_off.dropped, p->sq_off.array, p->cq_off.head, p->cq_off.tail, p->cq_off.ring_mask,
		p->cq_off.ring_entries, p->cq_off.overflow, p->cq_off.cqes, p->cq_off.flags,
	};

	memcpy(off, all, sizeof(all));
}

static char *map(int fd, size_t len, uint64_t off)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)off);

	return p == MAP_FAILED ? NULL : p;
}

int uring_map(struct uring *u)
{
	u->rings_len = uring_rings_len(&u->p);
	u->sqes_len = uring_sqes_len(&u->p);
	u->rings = map(u->fd, u->rings_len, IORING_OFF_SQ_RING);
	u->sqes = map(u->fd, u->sqes_len, IORING_OFF_SQES);
	return u->rings && u->sqes ? 0 : -1;
}

void uring_unmap(struct uring *u)
{
	if (u->rings)
		munmap(u->rings, u->rings_len);
	if (u->sqes)
		munmap(u->sqes, u->sqes_len);
	u->rings = u->sqes = NULL;
}

void uring_close(struct uring *u)
{
	int saved = errno;

	uring_unmap(u);
	close_fd_p(&u->fd);
	u->fd = -1;
	errno = saved;
}

uint32_t *uring_word(const struct uring *u, uint32_t offset)
{
	return (uint32_t *)(u->rings + offset);
}

/* ------------------------------------------------------------------------------------------- moving counters */

static uint32_t load(const struct uring *u, uint32_t offset)
{
	return __atomic_load_n(uring_word(u, offset), __ATOMIC_ACQUIRE);
}

static void store(const struct uring *u, uint32_t offset, uint32_t value)
{
	__atomic_store_n(uring_word(u, offset), value, __ATOMIC_RELEASE);
}

static struct io_uring_sqe *sqe(const struct uring *u, uint32_t i)
{
	return (struct io_uring_sqe *)(u->sqes + ((size_t)i * 64 << !!(u->p.flags & IORING_SETUP_SQE128)));
}

/* All entries ask for @model. */
static void fill(const struct uring *u, const struct io_uring_sqe *model)
{
	uint32_t *array = uring_word(u, u->p.sq_off.array);

	for (uint32_t i = 0; i < u->p.sq_entries; i++) {
		*sqe(u, i) = *model;
		if (!(u->p.flags & IORING_SETUP_NO_SQARRAY))
			array[i] = i;
	}
}

/* Submits @n entries, at most a queue of them; the kernel is at none when this returns. */
static int submit(const struct uring *u, uint32_t n)
{
	bool poll = u->p.flags & IORING_SETUP_IOPOLL;
	int got;

	store(u, u->p.sq_off.tail, load(u, u->p.sq_off.head) + n);
	got = uring_enter(u->fd, n, poll ? n : 0, poll ? IORING_ENTER_GETEVENTS : 0);
	if (got >= 0 && (uint32_t)got != n)
		errno = EIO;
	return got < 0 || (uint32_t)got != n ? -1 : 0;
}

/* What moves counters: the ring itself, or one beside it. */
struct mover {
	const struct uring *target, *from;
	struct io_uring_sqe model;
	bool keep_head;
};

static int run(struct op *op, const struct mover *m, uint32_t n)
{
	const struct io_uring_params *p = &m->target->p;
	uint32_t most = MIN(m->from->p.sq_entries, p->cq_entries), left = n, k, rounds = 0;

	if (n)
		fill(m->from, &m->model);
	for (; left; left -= k) {
		int r = ++rounds % CHECK_EVERY ? 0 : op_check_cancel(op);

		if (r)
			return r;
		k = MIN(left, most);
		if (submit(m->from, k) < 0)
			return op_errno(op, errno, AT(.kind = "io_uring"), "cannot move the counters of a ring");
		if (!m->keep_head)
			store(m->target, p->cq_off.head, load(m->target, p->cq_off.tail));
		if (m->from != m->target)
			store(m->from, m->from->p.cq_off.head, load(m->from, m->from->p.cq_off.tail));
	}
	return 0;
}

int uring_advance(struct op *op, struct uring *u, uint32_t sq_head, uint32_t cq_tail, uint32_t cq_head)
{
	_cleanup_uring_ struct uring helper = URING_INIT;
	bool quiet = (int32_t)(sq_head - cq_tail) >= 0; /* more requests than completions, or the other way round */
	uint32_t both = quiet ? cq_tail : sq_head, messages = quiet ? 0 : cq_tail - sq_head, unread = cq_tail - cq_head, n;
	struct mover skip = { .target = u, .from = u, .model = { .flags = IOSQE_CQE_SKIP_SUCCESS } };
	struct mover nop = { .target = u, .from = u };
	struct mover msg = { .target = u, .from = &helper, .model = { .opcode = IORING_OP_MSG_RING, .fd = u->fd } };
	int r;

	if (cq_tail < unread)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "io_uring"), "the counters of a ring have just begun anew");
	r = run(op, &skip, quiet ? sq_head - cq_tail : 0);
	if (!r && messages && (uring_make(&helper, 0, HELPER_ENTRIES, 2 * HELPER_ENTRIES) < 0 || uring_map(&helper) < 0))
		r = op_errno(op, errno, AT(.kind = "io_uring"), "make a ring that moves the counters of another");
	/* The head must never go back: the kernel remembers what it has found free. */
	n = MIN(messages, cq_tail - unread);
	r = r ?: run(op, &msg, n);
	r = r ?: run(op, &nop, cq_tail - unread - n);
	both -= r ? 0 : cq_tail - unread - n;
	msg.keep_head = nop.keep_head = true;
	r = r ?: run(op, &msg, messages - n);
	return r ?: run(op, &nop, both);
}
