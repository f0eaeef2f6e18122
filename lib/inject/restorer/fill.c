/* SPDX-License-Identifier: MIT */
/*
 * Memory that the engine fills: here the task makes it possible and stands still meanwhile. A page that comes through
 * userfaultfd costs neither a fault nor the clearing of a page that is overwritten at once; and moved by it, a whole huge page
 * gets into an area without a change of the area's flags.
 */
#include "lib/kernel/uapi.h"

#include "lib/inject/restorer/restorer.h"

#define EAGAIN 11
#define EBUSY 16
#define MOVE_TRIES 100
#define HUGE (2ul << 20)

static int32_t uffd_open(struct plan *p)
{
	const struct plan_range *r = PLAN_AT(p, struct plan_range, p->fill.places);
	struct uffdio_api api = { .api = UFFD_API, .features = p->fill.scratch_len ? UFFD_FEATURE_MOVE : 0 };
	long fd = p->fill.places.n ? sys(__NR_userfaultfd, UFFD_USER_MODE_ONLY) : -1;

	if (fd < 0)
		return -1;
	if (sys(__NR_ioctl, fd, UFFDIO_API, &api) < 0)
		goto none;
	for (uint64_t i = 0; i < p->fill.places.n; i++) {
		struct uffdio_register reg = { .range = { r[i].start, r[i].len }, .mode = UFFDIO_REGISTER_MODE_MISSING };

		if (sys(__NR_ioctl, fd, UFFDIO_REGISTER, &reg) < 0)
			goto none;
	}
	return (int32_t)fd;
none:
	sys(__NR_close, fd);
	return -1;
}

static bool scratch_map(struct plan *p)
{
	struct plan_fill *f = &p->fill;

	if (!f->scratch_len || f->uffd < 0)
		return false;
	if (sys(__NR_mmap, f->scratch, f->scratch_len, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != (long)f->scratch)
		return false;
	sys(__NR_madvise, f->scratch, f->scratch_len, MADV_HUGEPAGE);
	return true;
}

/* Where the kernel does not move them (somebody outside has them pinned) they are copied. */
static void copy(struct plan *p, const struct plan_move *m, uint64_t index)
{
	uint64_t len = m->len < HUGE ? m->len : HUGE;
	struct uffdio_copy c = { .src = m->from, .dst = m->to, .len = len };

	while (c.len) {
		long ret = sys(__NR_ioctl, p->fill.uffd, UFFDIO_COPY, &c);

		if (ret < 0 && c.copy <= 0 && ret != -EAGAIN)
			fail(p, PLAN_STEP_MOVE, index, ret);
		if (c.copy > 0) {
			c.src += (uint64_t)c.copy;
			c.dst += (uint64_t)c.copy;
			c.len -= (uint64_t)c.copy;
		}
	}
	sys(__NR_madvise, m->from, len, MADV_DONTNEED);
}

static void move(struct plan *p, struct plan_move m, uint64_t index)
{
	int tries = 0;

	while (m.len) {
		struct uffdio_move u = { .dst = m.to, .src = m.from, .len = m.len };
		long ret = sys(__NR_ioctl, p->fill.uffd, UFFDIO_MOVE, &u);
		uint64_t done = ret == 0 ? m.len : u.move > 0 ? (uint64_t)u.move : 0;

		if (!done && (ret == -EAGAIN || ret == -EBUSY) && tries++ < MOVE_TRIES)
			continue;
		if (!done) {
			copy(p, &m, index);
			done = m.len < HUGE ? m.len : HUGE;
		}
		m.to += done;
		m.from += done;
		m.len -= done;
	}
}

void memory_fill(struct plan *p)
{
	struct plan_fill *f = &p->fill;
	const struct plan_move *m = PLAN_AT(p, struct plan_move, f->moves);

	if (!f->wanted)
		return;
	f->uffd = uffd_open(p);
	f->has_scratch = scratch_map(p);
	f->standing = 1;
	stop();
	f->standing = 0;
	for (uint64_t i = 0; f->has_scratch && i < f->moves.n; i++)
		move(p, m[i], i);
	if (f->has_scratch)
		must(p, PLAN_STEP_MOVE, f->moves.n, sys(__NR_munmap, f->scratch, f->scratch_len));
	if (f->uffd >= 0)
		sys(__NR_close, f->uffd);
}
