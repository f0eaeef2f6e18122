/* SPDX-License-Identifier: MIT */
/*
 * Mappings of io_uring instances. The kernel maps a ring where it likes and nowhere else: mmap with an address is refused,
 * and so is moving it. So all free addresses are taken by areas without access, but those where the ring is to be.
 *
 * The kernel looks for a place from the top downwards, so that nothing has to be done below the lowest ring: the restorer
 * is started without randomization and with a small stack limit (restore_spawn.c), which makes it look from the very top.
 */
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/state/file/uring_map.h"
#include "lib/state/mem/uring_area.h"

#define LOWEST 0x200000000ull /* the restorer is below; the kernel itself maps nothing there */
#define TASK_SIZE 0x7ffffffff000ull
#define OFF_PBUF_RING 0x80000000ull
#define TAKEN (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE)

bool uring_is_ring(const struct proc_vma *v)
{
	return !strcmp(v->name, "anon_inode:[io_uring]");
}

const char *uring_area_obstacle(const struct proc_vma *v)
{
	if (v->pgoff != IORING_OFF_SQ_RING && v->pgoff != IORING_OFF_CQ_RING && v->pgoff != IORING_OFF_SQES)
		return v->pgoff >= OFF_PBUF_RING ? "it is a ring of provided buffers, which is not supported"
						 : "only part of a ring is mapped, which is not supported";
	return v->perms[3] == 's' ? NULL : "a ring is mapped privately, which is not supported";
}

int uring_area(struct plan_build *b, const VmaEntry *e)
{
	const VmaEntry **slot = ARRAY_ADD(b->op->arena, &b->ring_areas);
	bool known = e->pgoff == IORING_OFF_SQ_RING || e->pgoff == IORING_OFF_CQ_RING || e->pgoff == IORING_OFF_SQES;

	if (!(e->flags & MAP_SHARED) || !known || e->shmid > UINT32_MAX || e->start < LOWEST)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = e->start, .kind = "vma"),
			       "the area at %#lx of task %d: a ring cannot be mapped there", e->start, b->task->pid);
	if (!slot)
		return op_nomem(b->op);
	*slot = e;
	return 0;
}

/* ------------------------------------------------------------------------------------------------ free addresses */

struct ranges {
	struct plan_range *v;
	size_t n;
};

static int by_start(const void *a, const void *b)
{
	const struct plan_range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* Everything of the program's, rings included, and the vDSO, which may have found another place. */
static int occupied(struct plan_build *b, struct ranges *used)
{
	const MmEntry *mm = b->task->mm;
	const struct plan_vdso_area *a = PLAN_AT(PLAN(b), struct plan_vdso_area, PLAN(b)->vdso);
	uint64_t n_vdso = PLAN(b)->vdso.n, dst = PLAN(b)->vdso_dst;

	used->v = op_alloc(b->op, (mm->n_vmas + 1) * sizeof(*used->v));
	if (!used->v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < mm->n_vmas; i++)
		if (mm->vmas[i]->status & (VMA_REGULAR | VMA_AIORING))
			used->v[used->n++] = (struct plan_range){ mm->vmas[i]->start, mm->vmas[i]->end - mm->vmas[i]->start };
	if (dst && n_vdso)
		used->v[used->n++] = (struct plan_range){ dst + (uint64_t)a[0].off,
							  (uint64_t)(a[n_vdso - 1].off - a[0].off) + a[n_vdso - 1].len };
	qsort(used->v, used->n, sizeof(*used->v), by_start);
	return 0;
}

static int find_gaps(struct plan_build *b, struct ranges *gaps)
{
	struct ranges used = { 0 };
	uint64_t at = TASK_SIZE;
	int r = occupied(b, &used);

	gaps->v = r ? NULL : op_alloc(b->op, (used.n + 1) * sizeof(*gaps->v));
	if (!gaps->v)
		return r ?: CKPT_E_NOMEM;
	for (size_t i = 0; i < b->ring_areas.n; i++)
		at = MIN(at, b->ring_areas.v[i]->start);
	for (size_t i = 0; i < used.n; i++) {
		if (used.v[i].start > at)
			gaps->v[gaps->n++] = (struct plan_range){ at, used.v[i].start - at };
		at = MAX(at, used.v[i].start + used.v[i].len);
	}
	if (at < TASK_SIZE)
		gaps->v[gaps->n++] = (struct plan_range){ at, TASK_SIZE - at };
	return 0;
}

/* --------------------------------------------------------------------------------------------------- the calls */

static int call(struct plan_build *b, const struct plan_call *c, const char *what)
{
	return plan_call(b, PLAN_OPEN, c, what);
}

/* Of the kind 0 or a failure, where the number of the call is of no interest. */
static int plain(struct plan_build *b, const struct plan_call *c, const char *what)
{
	int r = call(b, c, what);

	return r < 0 ? r : 0;
}

static int take(struct plan_build *b, uint64_t start, uint64_t len)
{
	return plain(b, &(struct plan_call){
		.nr = __NR_mmap, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)start, .fd = -1,
		.args = { start, len, PROT_NONE, TAKEN, (uint64_t)-1, 0 },
	}, "take free addresses, for a mapping of an io_uring");
}

static int give_back(struct plan_build *b, uint64_t start, uint64_t len)
{
	return plain(b, &(struct plan_call){ .nr = __NR_munmap, .fd = -1, .args = { start, len } }, "give addresses back");
}

static int advise(struct plan_build *b, const VmaEntry *e)
{
	int r = 0;

	for (uint64_t advice = 0; e->has_madv && advice < 64 && r >= 0; advice++)
		if (e->madv >> advice & 1)
			r = call(b, &(struct plan_call){ .nr = __NR_madvise, .fd = -1, .args = { e->start, e->end - e->start, advice } },
				 "give advice on a mapping of an io_uring");
	return MIN(r, 0);
}

static int map_one(struct plan_build *b, const VmaEntry *e)
{
	char *what = arena_printf(b->op->arena, "map an io_uring at %#lx", e->start);
	struct plan_call map = {
		.nr = __NR_mmap, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)e->start, .fd = -1, .result_args = 1 << 4,
		.args = { 0, e->end - e->start, e->prot, MAP_SHARED | MAP_POPULATE, 0, e->pgoff },
	};
	int ring, fd, r;

	if (!what)
		return op_nomem(b->op);
	r = uring_find_mapped(b->op, b->s, (uint32_t)e->shmid, &ring);
	if (r)
		return r;
	fd = call(b, &(struct plan_call){ .nr = __NR_pidfd_getfd, .fd = -1, .engine_args = 1, .args = { 0, (uint64_t)ring, 0 } }, what);
	r = fd < 0 ? fd : give_back(b, e->start, e->end - e->start);
	map.args[4] = (uint64_t)fd;
	r = r ?: plain(b, &map, what);
	r = r ?: plain(b, &(struct plan_call){ .nr = __NR_close, .fd = -1, .result_args = 1, .args = { (uint64_t)fd } }, what);
	return r ?: advise(b, e);
}

int uring_areas_plan(struct plan_build *b)
{
	struct ranges gaps = { 0 };
	int r = b->ring_areas.n ? find_gaps(b, &gaps) : 0;

	for (size_t i = 0; i < gaps.n && !r; i++)
		r = take(b, gaps.v[i].start, gaps.v[i].len);
	for (size_t i = 0; i < b->ring_areas.n && !r; i++)
		r = take(b, b->ring_areas.v[i]->start, b->ring_areas.v[i]->end - b->ring_areas.v[i]->start);
	for (size_t i = 0; i < b->ring_areas.n && !r; i++)
		r = map_one(b, b->ring_areas.v[i]);
	for (size_t i = 0; i < gaps.n && !r; i++)
		r = give_back(b, gaps.v[i].start, gaps.v[i].len);
	return r;
}
