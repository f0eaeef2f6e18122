/* SPDX-License-Identifier: MIT */
/* The address space: out with what exec put there, in with the image's areas and their pages. */
#include <linux/mman.h>
#include <linux/prctl.h>

#include "lib/inject/blob/sum.h"
#include "lib/inject/restorer/restorer.h"

#define MADV_GUARD 102
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

/* Everything but what is kept: our own area, and areas that are copies of the creator's. */
static void unmap_rest(struct plan *p)
{
	const struct plan_range *k = PLAN_AT(p, struct plan_range, p->keeps);
	uint64_t from = 0;

	for (uint64_t i = 0; i < p->keeps.n; i++) {
		if (k[i].start > from)
			must(p, PLAN_STEP_UNMAP, i, sys(__NR_munmap, from, k[i].start - from));
		from = k[i].start + k[i].len;
	}
	must(p, PLAN_STEP_UNMAP, p->keeps.n, sys(__NR_munmap, from, p->task_size - from));
}

/* A copy of the creator's area gets the size that it has here, and may be written to. */
static void take_over(struct plan *p, const struct plan_vma *v, uint64_t i)
{
	const struct plan_inherited *in = PLAN_AT(p, struct plan_inherited, p->inherited) + v->inherited - 1;

	if (in->have_end)
		must(p, PLAN_STEP_GROW, i, sys(__NR_mremap, v->start, in->have_end - v->start, v->len, 0));
	if (in->have_start) /* a stack grows when it is touched */
		*(volatile char *)v->start;
	if (in->have_prot != v->prot)
		must(p, PLAN_STEP_PROTECT, i, sys(__NR_mprotect, v->start, v->len, v->prot));
}

static void map_all(struct plan *p)
{
	const struct plan_vma *v = PLAN_AT(p, struct plan_vma, p->vmas);

	for (uint64_t i = 0; i < p->vmas.n; i++) {
		long ret;

		if (v[i].inherited) {
			take_over(p, &v[i], i);
			continue;
		}
		ret = sys(__NR_mmap, v[i].start, v[i].len, v[i].prot, v[i].flags | MAP_FIXED_NOREPLACE,
			       fetched(p, v[i].file), v[i].pgoff);

		must(p, PLAN_STEP_MAP, i, ret);
		if ((uint64_t)ret != v[i].start)
			fail(p, PLAN_STEP_MAP, i, -17);
	}
}

/* [@addr, + @len) was read from @offset of the extent's file. */
static void sum(struct plan *p, const struct plan_extent *e, uint64_t addr, uint64_t len, uint64_t offset)
{
	const struct plan_check *c = PLAN_AT(p, struct plan_check, p->checks) + e->check - 1;
	uint64_t *sums;

	if (!e->check)
		return;
	sums = PLAN_AT(p, uint64_t, c->sums) - c->first;
	while (len) {
		uint64_t rest = PLAN_BLOCK - offset % PLAN_BLOCK, n = len < rest ? len : rest;

		sums[offset / PLAN_BLOCK] ^= blob_sum((const void *)addr, n / 4096, offset / 4096);
		addr += n;
		offset += n;
		len -= n;
	}
}

static void check_all(struct plan *p)
{
	const struct plan_check *c = PLAN_AT(p, struct plan_check, p->checks);

	for (uint64_t i = 0; i < p->checks.n; i++)
		for (uint64_t k = 0; k < c[i].sums.n; k++)
			if (PLAN_AT(p, uint64_t, c[i].sums)[k])
				fail(p, PLAN_STEP_CHECK, i << 32 | k, -74 /* EBADMSG */);
}

/* Reads one batch of extents that follow each other in file @file. */
static void read_batch(struct plan *p, int32_t file, struct iov *iov, int n, uint64_t offset, uint64_t index)
{
	int first = 0;

	while (first < n) {
		long got = sys(__NR_preadv, fetched(p, file), iov + first, n - first, offset, 0);

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

static void fill_all(struct plan *p)
{
	const struct plan_extent *e = PLAN_AT(p, struct plan_extent, p->extents);
	struct iov iov[BATCH];

	for (uint64_t i = 0; i < p->extents.n;) {
		uint64_t first = i, next = e[i].offset;
		int n = 0;

		for (; i < p->extents.n && n < BATCH && e[i].offset == next && e[i].file == e[first].file; i++, n++) {
			iov[n].addr = e[i].addr;
			iov[n].len = e[i].len;
			next += e[i].len;
		}
		read_batch(p, e[first].file, iov, n, e[first].offset, first);
		for (; first < i; first++)
			sum(p, &e[first], e[first].addr, e[first].len, e[first].offset);
	}
}

static void drop_all(struct plan *p)
{
	const struct plan_range *d = PLAN_AT(p, struct plan_range, p->drops);

	for (uint64_t i = 0; i < p->drops.n; i++)
		must(p, PLAN_STEP_DROP, i, sys(__NR_madvise, d[i].start, d[i].len, MADV_DONTNEED));
}

static bool same_page(const uint64_t *a, const uint64_t *b)
{
	for (int i = 0; i < 512; i++)
		if (a[i] != b[i])
			return false;
	return true;
}

/* Only what differs is written: the rest stays shared with the creator. */
static void compare(char *have, const char *want, uint64_t len)
{
	for (uint64_t i = 0; i < len; i += 4096)
		if (!same_page((const uint64_t *)(have + i), (const uint64_t *)(want + i)))
			memcpy(have + i, want + i, 4096);
}

static void compare_all(struct plan *p)
{
	const struct plan_extent *e = PLAN_AT(p, struct plan_extent, p->compares);
	char *bounce = (char *)p->base + p->bounce;

	for (uint64_t i = 0; i < p->compares.n; i++)
		for (uint64_t done = 0; done < e[i].len;) {
			uint64_t n = e[i].len - done < PLAN_BOUNCE ? e[i].len - done : PLAN_BOUNCE;
			struct iov iov = { (uint64_t)bounce, n };

			read_batch(p, e[i].file, &iov, 1, e[i].offset + done, i);
			sum(p, &e[i], (uint64_t)bounce, n, e[i].offset + done);
			compare((char *)e[i].addr + done, bounce, n);
			done += n;
		}
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

	mm.exe_fd = (uint32_t)fetched(p, p->exe_file);
	mm.auxv = (uint64_t)PLAN_AT(p, uint64_t, p->auxv);
	must(p, PLAN_STEP_MM, 0, sys(__NR_prctl, PR_SET_MM, PR_SET_MM_MAP, &mm, sizeof(mm), 0));
}

void memory_restore(struct plan *p)
{
	/* Kept while everything else goes, since its place may be taken. */
	if (p->vdso.n) {
		vdso_move(p, PLAN_STEP_VDSO_PARK, p->vdso_now, vdso_parking(p));
		p->vdso_now = vdso_parking(p);
	}
	unmap_rest(p);
	map_all(p);
	drop_all(p);
	memory_fill(p);
	fill_all(p);
	compare_all(p);
	check_all(p);
	finish_all(p);
	guards_and_names(p);
	copies(p);
	if (p->vdso_dst) {
		vdso_move(p, PLAN_STEP_VDSO_MOVE, p->vdso_now, p->vdso_dst);
		p->vdso_now = p->vdso_dst;
	}
	mm_fields(p);
}
