/* SPDX-License-Identifier: MIT */
/* The address space: out with what exec put there, in with the image's areas and their pages. */
#include <linux/ioctl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/userfaultfd.h>

#include "lib/inject/restorer/restorer.h"

#define MADV_GUARD 102
#define HUGE (2ull << 20)
#define SCRATCH (16 * HUGE)
#define BATCH 64

struct iov {
	uint64_t addr, len;
};

static void move(struct plan *p, enum plan_step step, uint64_t from, uint64_t to, uint64_t len)
{
	must(p, step, to, sys(__NR_mremap, from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to));
}

/*
 * The vDSO block keeps its order and gaps: the code in it finds the data by distance. It waits in the plan's area while
 * everything else goes, since its place may be taken by what exec mapped.
 */
static void vdso_move(struct plan *p, enum plan_step step, uint64_t from, uint64_t to)
{
	const struct plan_vdso_area *a = PLAN_AT(p, struct plan_vdso_area, p->vdso);

	for (uint64_t i = 0; i < p->vdso.n; i++)
		move(p, step, from + (uint64_t)a[i].off, to + (uint64_t)a[i].off, a[i].len);
}

static uint64_t vdso_parking(const struct plan *p)
{
	const struct plan_vdso_area *a = PLAN_AT(p, struct plan_vdso_area, p->vdso);

	/* Room for what lies below the vDSO's own first byte. */
	return p->base + p->map_len - (uint64_t)a[0].off;
}

static void unmap_rest(struct plan *p)
{
	uint64_t end = p->base + p->area_len;

	must(p, PLAN_STEP_UNMAP, 0, sys(__NR_munmap, 0, p->base));
	must(p, PLAN_STEP_UNMAP, 1, sys(__NR_munmap, end, p->task_size - end));
}

static void map_all(struct plan *p)
{
	const struct plan_vma *v = PLAN_AT(p, struct plan_vma, p->vmas);

	for (uint64_t i = 0; i < p->vmas.n; i++) {
		long ret = sys(__NR_mmap, v[i].start, v[i].len, v[i].prot, v[i].flags | MAP_FIXED_NOREPLACE, v[i].fd,
			       v[i].pgoff);

		must(p, PLAN_STEP_MAP, i, ret);
		if ((uint64_t)ret != v[i].start)
			fail(p, PLAN_STEP_MAP, i, -17);
	}
}

/* Reads one batch of extents that follow each other in the file. */
static void read_batch(struct plan *p, struct iov *iov, int n, uint64_t offset, uint64_t index)
{
	int first = 0;

	while (first < n) {
		long got = sys(__NR_preadv, p->pages_fd, iov + first, n - first, offset, 0);

		if (got == 0)
			got = -61; /* ENODATA: the file ends early */
		if (got == -4)
			continue;
		must(p, PLAN_STEP_READ, index, got);
		offset += (uint64_t)got;
		p->pages_done += (uint64_t)got >> 12;
		for (; first < n && (uint64_t)got >= iov[first].len; first++)
			got -= (long)iov[first].len;
		if (first < n) {
			iov[first].addr += (uint64_t)got;
			iov[first].len -= (uint64_t)got;
		}
	}
}

/* ------------------------------------------------------------------------------------------- huge pages */

#define UFFD_MOVE_FEATURE (1ull << 16) /* UFFD_FEATURE_MOVE, since Linux 6.8 */

struct move_args { /* struct uffdio_move */
	uint64_t dst, src, len, mode, moved;
};
#define MOVE_PAGES _IOWR(UFFDIO, 0x05, struct move_args)

/*
 * Most of the time would go into faults of single pages. Where pages of the image fill huge ones, they are read into a
 * scratch area that is advised so, and moved from there: the area itself keeps the advice it has. Where the kernel does
 * not do that, everything is read in place.
 */
struct mover {
	int uffd; /* -1: not possible */
	uint64_t area, scratch;
};

static void mover_open(struct mover *m)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_MOVE_FEATURE };
	long area;

	m->uffd = (int)sys(__NR_userfaultfd, UFFD_USER_MODE_ONLY);
	if (m->uffd < 0)
		return;
	/* Nothing is mapped later by its address before this is gone again. */
	area = sys(__NR_mmap, 0, SCRATCH + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	m->area = area > 0 ? (uint64_t)area : 0;
	m->scratch = (m->area + HUGE - 1) & ~(HUGE - 1);
	if (m->area && sys(__NR_madvise, m->scratch, SCRATCH, MADV_HUGEPAGE) == 0 && sys(__NR_ioctl, m->uffd, UFFDIO_API, &api) == 0)
		return;
	sys(__NR_close, m->uffd);
	m->uffd = -1;
}

static void mover_close(struct mover *m)
{
	if (m->area)
		sys(__NR_munmap, m->area, SCRATCH + HUGE);
	if (m->uffd >= 0)
		sys(__NR_close, m->uffd);
}

static void read_one(struct plan *p, uint64_t addr, uint64_t len, uint64_t offset, uint64_t index)
{
	struct iov iov = { addr, len };

	if (len)
		read_batch(p, &iov, 1, offset, index);
}

/* Returns where it stopped: what lies from there on is to be read in place. */
static uint64_t move_in(struct plan *p, struct mover *m, uint64_t start, uint64_t end, uint64_t offset, uint64_t index)
{
	struct uffdio_register reg = { .range = { start, end - start }, .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_range range = reg.range;
	uint64_t at = start;

	if (sys(__NR_ioctl, m->uffd, UFFDIO_REGISTER, &reg) < 0)
		return start;
	while (at < end) {
		uint64_t len = end - at < SCRATCH ? end - at : SCRATCH;
		struct move_args move = { .dst = at, .src = m->scratch, .len = len };

		read_one(p, m->scratch, len, offset + (at - start), index);
		if (sys(__NR_ioctl, m->uffd, MOVE_PAGES, &move) < 0 || move.moved != len)
			break;
		at += len;
	}
	must(p, PLAN_STEP_READ, index, sys(__NR_ioctl, m->uffd, UFFDIO_UNREGISTER, &range));
	return at;
}

static bool fill_huge(struct plan *p, struct mover *m, const struct plan_extent *e, uint64_t index)
{
	uint64_t end = e->addr + e->len, first = (e->addr + HUGE - 1) & ~(HUGE - 1), last = end & ~(HUGE - 1), at;

	if (m->uffd < 0 || !e->huge || first >= last)
		return false;
	at = move_in(p, m, first, last, e->offset + (first - e->addr), index);
	read_one(p, e->addr, first - e->addr, e->offset, index);
	read_one(p, at, end - at, e->offset + (at - e->addr), index);
	return true;
}

static bool wants_huge(const struct plan *p)
{
	const struct plan_extent *e = PLAN_AT(p, struct plan_extent, p->extents);

	for (uint64_t i = 0; i < p->extents.n; i++)
		if (e[i].huge && e[i].len >= 2 * HUGE)
			return true;
	return false;
}

static void fill_all(struct plan *p)
{
	const struct plan_extent *e = PLAN_AT(p, struct plan_extent, p->extents);
	struct mover m = { .uffd = -1 };
	struct iov iov[BATCH];

	if (wants_huge(p))
		mover_open(&m);
	for (uint64_t i = 0; i < p->extents.n;) {
		uint64_t first = i, next = e[i].offset;
		int n = 0;

		if (fill_huge(p, &m, &e[i], i)) {
			i++;
			continue;
		}
		for (; i < p->extents.n && n < BATCH && e[i].offset == next; i++, n++) {
			if (n && m.uffd >= 0 && e[i].huge && e[i].len >= HUGE)
				break;
			iov[n].addr = e[i].addr;
			iov[n].len = e[i].len;
			next += e[i].len;
		}
		read_batch(p, iov, n, e[first].offset, first);
	}
	mover_close(&m);
}

static void advise(struct plan *p, const struct plan_vma *v, uint64_t index)
{
	for (int advice = 0; advice < 64 && v->madv >> advice; advice++)
		if (v->madv >> advice & 1)
			must(p, PLAN_STEP_ADVISE, index, sys(__NR_madvise, v->start, v->len, advice));
}

static void finish_all(struct plan *p)
{
	const struct plan_vma *v = PLAN_AT(p, struct plan_vma, p->vmas);

	for (uint64_t i = 0; i < p->vmas.n; i++) {
		if (v[i].final_prot != v[i].prot)
			must(p, PLAN_STEP_PROTECT, i, sys(__NR_mprotect, v[i].start, v[i].len, v[i].final_prot));
		if (v[i].madv)
			advise(p, &v[i], i);
		if (v[i].lock)
			must(p, PLAN_STEP_LOCK, i, sys(__NR_mlock2, v[i].start, v[i].len, 0));
	}
}

static void guards_and_names(struct plan *p)
{
	const struct plan_range *g = PLAN_AT(p, struct plan_range, p->guards);
	const struct plan_name *n = PLAN_AT(p, struct plan_name, p->names);

	for (uint64_t i = 0; i < p->guards.n; i++)
		must(p, PLAN_STEP_GUARD, i, sys(__NR_madvise, g[i].start, g[i].len, MADV_GUARD));
	for (uint64_t i = 0; i < p->names.n; i++)
		if (sys(__NR_prctl, 0x53564d41, 0, n[i].start, n[i].len, (char *)p + n[i].name) < 0)
			p->warnings |= PLAN_WARN_NAME;
}

static void copies(struct plan *p)
{
	const struct plan_copy *c = PLAN_AT(p, struct plan_copy, p->copies);

	for (uint64_t i = 0; i < p->copies.n; i++) {
		uint32_t prot = c[i].data ? PROT_READ | PROT_WRITE : c[i].prot;

		must(p, PLAN_STEP_VDSO_OLD, i, sys(__NR_mmap, c[i].start, c[i].len, prot,
						   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
		if (!c[i].data)
			continue;
		memcpy((void *)c[i].start, (char *)p + c[i].data, c[i].len);
		must(p, PLAN_STEP_VDSO_OLD, i, sys(__NR_mprotect, c[i].start, c[i].len, c[i].prot));
	}
}

static void mm_fields(struct plan *p)
{
	struct plan_mm mm = p->mm;

	mm.auxv = (uint64_t)PLAN_AT(p, uint64_t, p->auxv);
	must(p, PLAN_STEP_MM, 0, sys(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, &mm, sizeof(mm), 0));
}

void memory_restore(struct plan *p, uint64_t vdso)
{
	if (p->vdso_dst)
		vdso_move(p, PLAN_STEP_VDSO_PARK, vdso, vdso_parking(p));
	unmap_rest(p);
	map_all(p);
	if (p->pages_fd >= 0)
		fill_all(p);
	finish_all(p);
	guards_and_names(p);
	copies(p);
	if (p->vdso_dst)
		vdso_move(p, PLAN_STEP_VDSO_MOVE, vdso_parking(p), p->vdso_dst);
	mm_fields(p);
}
