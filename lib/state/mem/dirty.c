/* SPDX-License-Identifier: MIT */
#include "lib/state/mem/dirty.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/inject/uffd.h"
#include "lib/kernel/uapi.h"
#include "lib/state/mem/aio.h"
#include "lib/state/mem/uring_area.h"
#include "lib/state/msg.h"

#define REGIONS 512
#define LOST 1 /* the descriptor is of an address space that is gone */

/*
 * Not: what the format always stores whole (vDSO, AIO rings), huge pages of hugetlb, which it does not track either, and
 * what the kernel may drop.
 */
static bool is_trackable(const VmaEntry *v)
{
	return vma_is_private(v) && !(v->status & (VMA_VDSO | VMA_VVAR | VMA_AIORING | VMA_SHSTK)) &&
	       !(v->flags & (MAP_HUGETLB | MAP_DROPPABLE));
}

/*
 * A private page of a file that was dropped again leaves a mark behind which looks like a clean page in swap; its content is
 * that of the file. So only what is in memory is believed there.
 */
static bool is_clean(const VmaEntry *v, uint64_t categories)
{
	if ((categories & PAGE_IS_WRITTEN) || !(categories & PAGE_IS_WPALLOWED))
		return false;
	return (categories & PAGE_IS_PRESENT) || (v->status & VMA_ANON_PRIVATE);
}

/* Neighbours in one call, if the kernel takes them all; else one by one, and those it does not take are not tracked. */
static int register_run(struct op *op, struct task_dump *d, int uffd, size_t from, size_t to, bool *tracked)
{
	VmaEntry **v = d->task->mm->vmas;
	int eno = uffd_register(uffd, v[from]->start, v[to - 1]->end);

	if (eno == ESRCH || (eno == ENOMEM && !uffd_alive(uffd)))
		return LOST;
	if (eno == EBUSY && to - from == 1)
		return op_fail(op, CKPT_E_BUSY,
			       AT(.pid = d->task->host, .addr = v[from]->start, .kind = "userfaultfd",
				  .hint = "if another program tracks its memory with libckpt, use that, or end it first"),
			       "task %d: memory at %lx-%lx is registered with a userfaultfd that is not ours", d->task->host,
			       v[from]->start, v[from]->end);
	if (eno && to - from == 1) {
		log_debug(op, "task %d: %lx-%lx cannot be tracked: %s", d->task->host, v[from]->start, v[from]->end, strerror(eno));
		return 0;
	}
	for (size_t i = from; i < to; i++)
		tracked[i] = !eno;
	for (size_t i = from; eno && i < to; i++) {
		int r = register_run(op, d, uffd, i, i + 1, tracked);

		if (r)
			return r;
	}
	return 0;
}

static int register_areas(struct op *op, struct task_dump *d, bool *tracked)
{
	const MmEntry *mm = d->task->mm;
	int r = 0;

	for (size_t i = 0, end; i < mm->n_vmas && !r; i = end) {
		end = i + 1;
		if (!is_trackable(mm->vmas[i]))
			continue;
		/* Only what adjoins: between others there may be areas that are not ours to watch. */
		while (end < mm->n_vmas && is_trackable(mm->vmas[end]) && mm->vmas[end]->start == mm->vmas[end - 1]->end)
			end++;
		r = register_run(op, d, d->tracking->uffd, i, end, tracked);
	}
	return r;
}

struct scan {
	struct task_dump *d;
	int pagemap;
	struct page_region regions[REGIONS];
};

static int note(struct op *op, struct page_tracking *t, uint64_t start, uint64_t end)
{
	struct dirty_range *last = t->dirty.n ? &t->dirty.v[t->dirty.n - 1] : NULL;

	if (last && last->end == start) {
		last->end = end;
		return 0;
	}
	last = ARRAY_ADD(op->arena, &t->dirty);
	if (!last)
		return op_nomem(op);
	*last = (struct dirty_range){ start, end };
	return 0;
}

/*
 * Pages that are not there are not asked for: marking them would cost page tables. Where they appear they count as written.
 * Pages that are just the file's are not marked either, for the mark would stay when they are dropped; in such areas all
 * others are looked at, for the sake of is_clean().
 */
static struct pm_scan_arg scan_arg(struct scan *s, const VmaEntry *v)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_CHECK_WPASYNC | (s->d->tracking->arm ? PM_SCAN_WP_MATCHING : 0),
		.start = v->start,
		.end = v->end,
		.vec = (uint64_t)(uintptr_t)s->regions,
		.vec_len = REGIONS,
		.category_mask = PAGE_IS_WRITTEN,
		.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
		.return_mask = PAGE_IS_PRESENT | PAGE_IS_WRITTEN | PAGE_IS_WPALLOWED,
	};

	if (!(v->status & VMA_ANON_PRIVATE))
		arg.category_mask = arg.category_inverted = PAGE_IS_FILE;
	return arg;
}

static int scan_area(struct op *op, struct scan *s, const VmaEntry *v, bool *tracked)
{
	struct pm_scan_arg arg = scan_arg(s, v);
	int r = 0;

	while (arg.start < v->end && !r) {
		int n = ioctl(s->pagemap, PAGEMAP_SCAN, &arg);

		if (n < 0 && errno == EINTR)
			continue;
		/* Registered, but in another address space: that of a program that executed this one, and lives on. */
		if (n < 0 && errno == EPERM) {
			*tracked = false;
			return 0;
		}
		if (n < 0)
			return op_errno(op, errno, AT(.pid = s->d->task->host, .addr = v->start),
					"find what task %d has written to %lx-%lx", s->d->task->host, v->start, v->end);
		for (int i = 0; i < n && !r; i++)
			if (!is_clean(v, s->regions[i].categories))
				r = note(op, s->d->tracking, s->regions[i].start, s->regions[i].end);
		r = r ?: op_check_cancel(op);
		if (arg.walk_end <= arg.start)
			break;
		arg.start = arg.walk_end;
	}
	return r;
}

static int scan_areas(struct op *op, struct task_dump *d)
{
	struct page_tracking *t = d->tracking;
	struct scan *s = op_new(op, struct scan);
	_cleanup_close_ int fd = -1;
	char path[64];
	int r = 0;

	if (!s)
		return CKPT_E_NOMEM;
	snprintf(path, sizeof(path), "/proc/%d/pagemap", d->task->host);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return op_errno(op, errno, AT(.pid = d->task->host), "open %s", path);
	s->d = d;
	s->pagemap = fd;
	t->armed = t->arm;
	for (size_t i = 0; i < d->task->mm->n_vmas && !r; i++)
		if (t->tracked[i])
			r = scan_area(op, s, d->task->mm->vmas[i], &t->tracked[i]);
	return r;
}

int dirty_scan(struct op *op, struct task_dump *d)
{
	struct page_tracking *t = d->tracking;
	int r;

	if (!t || t->uffd < 0)
		return 0;
	t->tracked = op_alloc(op, (d->task->mm->n_vmas + 1) * sizeof(*t->tracked));
	if (!t->tracked)
		return CKPT_E_NOMEM;
	r = register_areas(op, d, t->tracked);
	if (r == LOST) {
		t->tracked = NULL;
		return 0;
	}
	return r ?: scan_areas(op, d);
}

static bool is_plain_private(const struct proc_vma *v)
{
	static const char *const special[] = { "[v", "[uprobes]", "/anon_hugepage", "/[aio]", "anon_inode:" };

	if (v->perms[3] != 'p')
		return false;
	for (size_t i = 0; i < ARRAY_SIZE(special); i++)
		if (!strncmp(v->name, special[i], strlen(special[i])))
			return false;
	return true;
}

int dirty_areas(struct op *op, struct task_dump *d)
{
	MmEntry *mm = d->task->mm;
	struct proc_maps maps = { 0 };
	VmaEntry *e;
	int r = proc_read_maps(op, d->task->host, &maps);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->host), "task %d ended meanwhile", d->task->host);
	mm->vmas = op_alloc(op, (maps.vmas.n + 1) * sizeof(*mm->vmas));
	e = op_alloc(op, (maps.vmas.n + 1) * sizeof(*e));
	if (!mm->vmas || !e)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < maps.vmas.n; i++) {
		const struct proc_vma *v = &maps.vmas.v[i];

		if (!is_plain_private(v))
			continue;
		vma_entry__init(&e[i]);
		e[i].start = v->start;
		e[i].end = v->end;
		e[i].status = VMA_REGULAR | (v->inode || (v->name[0] && v->name[0] != '[') ? VMA_FILE_PRIVATE : VMA_ANON_PRIVATE);
		e[i].flags = MAP_PRIVATE;
		mm->vmas[mm->n_vmas++] = &e[i];
	}
	return 0;
}
