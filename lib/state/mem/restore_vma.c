/* SPDX-License-Identifier: MIT */
/*
 * Memory of a task: from the image's areas and pages to the plan. What the image says is checked here in full: areas
 * ascending and apart, every page inside an area that may have pages, the pages file as long as it has to be.
 */
#include <fcntl.h>
#include <sys/mman.h>

#include "lib/kernel/uapi.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mem/aio.h"
#include "lib/state/mem/mem.h"
#include "lib/state/mem/restore_inherit.h"
#include "lib/state/mem/restore_pages.h"
#include "lib/state/mem/uring_area.h"
#include "lib/state/task/plan_build.h"

#define FLAGS_KEPT (MAP_SHARED | MAP_PRIVATE | MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE)
#define FLAG_LOCKED 0x2000u
#define HUGE_SHIFT 26
#define HUGE_FLAGS (MAP_HUGETLB | 0x3fu << HUGE_SHIFT)
/* Advice that an area of an image can have: random, sequential, dontfork, mergeable, hugepage, nohugepage, dontdump, wipeonfork. */
#define MADV_KNOWN (1ull << 1 | 1ull << 2 | 1ull << 10 | 1ull << 12 | 1ull << 14 | 1ull << 15 | 1ull << 16 | 1ull << 18)
/* Where the restorer's own area is looked for: away from where exec puts programs, stacks and mappings. */
#define AREA_MIN 0x100000000ull
#define AREA_MAX 0x2a0000000000ull
#define AREA_MARGIN (1ull << 20)

static int bad_area(struct plan_build *b, uint64_t addr, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = addr, .kind = "vma"),
		       "the area at %#lx of task %d: %s", addr, b->task->pid, what);
}

static int refuse_area(struct plan_build *b, uint64_t addr, const char *what)
{
	return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .addr = addr, .kind = "vma"),
		       "the area at %#lx of task %d is %s, which is not supported yet", addr, b->task->pid, what);
}

static int check_kind(struct plan_build *b, const VmaEntry *e)
{
	static const struct {
		uint32_t bit;
		const char *what;
	} refused[] = {
		{ VMA_AIORING, "the ring of an AIO context" }, { VMA_SHSTK, "a shadow stack" }, { 1u << 17, "made by uprobes" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		if (e->status & refused[i].bit)
			return refuse_area(b, e->start, refused[i].what);
	if ((e->status & (VMA_ANON_SHARED | VMA_SYSVIPC)) == VMA_ANON_SHARED)
		return refuse_area(b, e->start, "shared memory in an old form");
	return 0;
}

/* Of an area with HUGE_FLAGS. Without a size it is the default one, nearly everywhere 2 MiB. */
static uint64_t huge_page(const VmaEntry *e)
{
	return e->flags & MAP_HUGETLB ? 1ull << ((e->flags >> HUGE_SHIFT & 0x3f) ?: 21) : 0;
}

static int check_area(struct plan_build *b, const VmaEntry *e, uint64_t after)
{
	uint32_t type = e->flags & (MAP_SHARED | MAP_PRIVATE | MAP_DROPPABLE);
	int r;

	if (e->start % PAGE_SIZE || e->end % PAGE_SIZE || e->start >= e->end || e->end > TASK_SIZE || e->pgoff % PAGE_SIZE)
		return bad_area(b, e->start, "its bounds make no sense");
	if (e->start < after)
		return bad_area(b, e->start, "it is out of order, or overlaps another");
	r = check_kind(b, e);
	if (r)
		return r;
	if (type & MAP_DROPPABLE)
		type = MAP_DROPPABLE;
	if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_DROPPABLE)
		return bad_area(b, e->start, "it is neither private nor shared");
	if ((e->flags & ~(uint32_t)(FLAGS_KEPT | FLAG_LOCKED | HUGE_FLAGS)) || (e->prot & ~7u))
		return bad_area(b, e->start, "it has unknown flags or protection");
	if (e->flags & HUGE_FLAGS && (e->start | e->end) & (huge_page(e) - 1))
		return bad_area(b, e->start, "its bounds are not those of huge pages");
	if (e->has_madv && (e->madv & ~MADV_KNOWN))
		return refuse_area(b, e->start, "under an advice that we do not know");
	return 0;
}

/* ------------------------------------------------------------------------------------------- mapped files */

static int grow_files(struct plan_build *b, struct vmas *m)
{
	size_t cap = m->cap_files ? m->cap_files * 2 : 64;
	struct mapped_file *t = op_alloc(b->op, cap * sizeof(*t));

	if (!t)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < cap; i++)
		t[i].file = -1;
	for (size_t i = 0; i < m->cap_files; i++) {
		size_t at = (size_t)(m->files[i].id * 4 + m->files[i].fdflags) & (cap - 1);

		if (m->files[i].file < 0)
			continue;
		while (t[at].file >= 0)
			at = (at + 1) & (cap - 1);
		t[at] = m->files[i];
	}
	m->files = t;
	m->cap_files = cap;
	return 0;
}

/* One descriptor for all areas of one file: a task can have 60,000 areas, but not as many descriptors. */
static int file_of(struct plan_build *b, struct vmas *m, const VmaEntry *e, int32_t *file)
{
	bool rw = (e->flags & MAP_SHARED) && (e->prot & PROT_WRITE);
	uint32_t fdflags = e->has_fdflags ? e->fdflags & O_ACCMODE : rw ? O_RDWR : O_RDONLY;
	size_t at;
	int fd, r = 0;

	if (m->n_files * 2 >= m->cap_files)
		r = grow_files(b, m);
	if (r)
		return r;
	for (at = (size_t)(e->shmid * 4 + fdflags) & (m->cap_files - 1); m->files[at].file >= 0; at = (at + 1) & (m->cap_files - 1))
		if (m->files[at].id == e->shmid && m->files[at].fdflags == fdflags) {
			*file = m->files[at].file;
			return 0;
		}
	if (e->shmid > UINT32_MAX)
		return bad_area(b, e->start, "its file id is out of range");
	r = files_open_mapping(b->op, b->s, (uint32_t)e->shmid, fdflags, &fd);
	if (r)
		return op_wrap(b->op, r, "the area at %#lx of task %d", e->start, b->task->pid);
	r = plan_fetch(b, fd, false, file);
	if (r)
		return r;
	m->files[at] = (struct mapped_file){ e->shmid, fdflags, *file };
	m->n_files++;
	return 0;
}

/* ---------------------------------------------------------------------------------------------- areas */

static int add_area(struct plan_build *b, struct vmas *m, const VmaEntry *e)
{
	struct plan_vma *v = &m->v[m->n];
	int r = 0;

	*v = (struct plan_vma){
		.start = e->start, .len = e->end - e->start, .prot = e->prot, .final_prot = e->prot,
		.flags = e->flags & FLAGS_KEPT, .file = -1, .madv = e->has_madv ? e->madv : 0, .lock = !!(e->flags & FLAG_LOCKED),
	};
	if (v->flags & MAP_DROPPABLE)
		v->flags &= ~(uint32_t)MAP_PRIVATE;
	if (e->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED | VMA_SOCKET)) {
		v->pgoff = e->pgoff;
		v->flags &= ~(uint32_t)MAP_ANONYMOUS;
		r = file_of(b, m, e, &v->file);
	} else {
		v->flags |= MAP_ANONYMOUS | (e->flags & HUGE_FLAGS);
	}
	m->lazy[m->n] = b->task->lazy_areas && b->task->lazy_areas[m->image_index];
	m->e[m->n++] = e;
	return r;
}

static int add_guard(struct plan_build *b, struct vmas *m, const VmaEntry *e)
{
	if (e->start % PAGE_SIZE || e->end % PAGE_SIZE || e->start >= e->end || e->end > TASK_SIZE)
		return bad_area(b, e->start, "the guard range makes no sense");
	m->guards[m->n_guards++] = (struct plan_range){ e->start, e->end - e->start };
	return 0;
}

static int one_area(struct plan_build *b, struct vmas *m, const VmaEntry *e, uint64_t *after)
{
	int r;

	if (e->status & VMA_GUARD)
		return add_guard(b, m, e);
	if (!(e->status & VMA_REGULAR))
		return e->status & VMA_AIORING ? aio_area(b, e, after) : 0;
	r = check_area(b, e, *after);
	if (r)
		return r;
	*after = e->end;
	if (e->status & VMA_VDSO) {
		b->vdso_start = e->start;
		b->vdso_end = e->end;
		return 0;
	}
	if (e->status & VMA_VVAR) {
		b->vvar_start = b->vvar_start ?: e->start;
		b->vvar_end = e->end;
		return 0;
	}
	if (e->status & VMA_EXT_PLUGIN)
		return uring_area(b, e);
	/* Made by calls of its own: ipc_plan(). */
	return e->status & VMA_SYSVIPC ? 0 : add_area(b, m, e);
}

/* ---------------------------------------------------------------------------------------- names and fields */

static int plan_names(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	struct plan_name *v;
	struct plan_array arr;
	size_t n = x ? x->n_vma_names : 0;
	int r = 0;

	v = op_alloc(b->op, (n + 1) * sizeof(*v));
	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n && !r; i++) {
		const VmaName *e = x->vma_names[i];

		if (e->start % PAGE_SIZE || e->end % PAGE_SIZE || e->start >= e->end || e->end > TASK_SIZE)
			return bad_area(b, e->start, "its name has no place");
		v[i] = (struct plan_name){ .start = e->start, .len = e->end - e->start };
		r = plan_put(b, e->name, strlen(e->name) + 1, &v[i].name);
	}
	r = r ?: plan_put_array(b, v, n, sizeof(*v), &arr);
	if (!r)
		PLAN(b)->names = arr;
	return r;
}

/* The kernel's saved vector has 2 * (arch + base + 1) words; a longer one would be refused. */
#define AUXV_MAX_WORDS 52

static int plan_mm(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	const TaskExtra *x = b->task->extra;
	bool whole = x && x->n_auxv;
	size_t n = whole ? x->n_auxv : mm->n_mm_saved_auxv;
	const uint64_t *words = whole ? x->auxv : mm->mm_saved_auxv;
	uint64_t v[AUXV_MAX_WORDS] = { 0 };
	struct plan_array arr;
	int fd, r;

	if (n > AUXV_MAX_WORDS - 2)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "mm"),
			       "the auxiliary vector of task %d has %zu words", b->task->pid, n);
	memcpy(v, words, n * sizeof(*v));
	n &= ~1ul;
	if (n < 2 || v[n - 2])
		n += 2; /* ends in AT_NULL */
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->exe_file = -1;
	/* A copy has its program already. */
	if (!r && !b->memory_from)
		r = files_open_special(b->op, b->s, mm->exe_file_id, "exe", &fd) ?: plan_fetch(b, fd, false, &PLAN(b)->exe_file);
	if (r)
		return r;
	PLAN(b)->auxv = arr;
	PLAN(b)->mm = (struct plan_mm){
		.start_code = mm->mm_start_code, .end_code = mm->mm_end_code, .start_data = mm->mm_start_data,
		.end_data = mm->mm_end_data, .start_brk = mm->mm_start_brk, .brk = mm->mm_brk, .start_stack = mm->mm_start_stack,
		.arg_start = mm->mm_arg_start, .arg_end = mm->mm_arg_end, .env_start = mm->mm_env_start,
		.env_end = mm->mm_env_end, .auxv_size = (uint32_t)(n * sizeof(*v)),
	};
	return 0;
}

static int put_areas(struct plan_build *b, struct vmas *m)
{
	struct plan_array vmas, guards;
	int r = plan_put_array(b, m->v, m->n, sizeof(*m->v), &vmas);

	r = r ?: plan_put_array(b, m->guards, m->n_guards, sizeof(*m->guards), &guards);
	if (r)
		return r;
	PLAN(b)->vmas = vmas;
	PLAN(b)->guards = guards;
	return 0;
}

int plan_memory(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	struct vmas m = { 0 };
	uint64_t after = 0;
	int r = 0;

	m.v = op_alloc(b->op, (mm->n_vmas + 1) * sizeof(*m.v));
	m.e = op_alloc(b->op, (mm->n_vmas + 1) * sizeof(*m.e));
	m.guards = op_alloc(b->op, (mm->n_vmas + 1) * sizeof(*m.guards));
	m.lazy = op_alloc(b->op, (mm->n_vmas + 1) * sizeof(*m.lazy));
	if (!m.v || !m.e || !m.guards || !m.lazy)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < mm->n_vmas && !r; i++) {
		m.image_index = i;
		r = one_area(b, &m, mm->vmas[i], &after);
		r = r ?: i % 1024 ? r : op_check_cancel(b->op);
	}
	r = r ?: inherit_mark(b, m.v, m.e, m.n);
	r = r ?: pages_plan(b, &m);
	r = r ?: aio_plan(b);
	r = r ?: put_areas(b, &m);
	r = r ?: inherit_put(b);
	r = r ?: plan_names(b);
	r = r ?: plan_mm(b);
	r = r ?: huge_check(b);
	return r ?: ipc_plan(b);
}

static int no_area(struct plan_build *b, const char *what)
{
	return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .kind = "vma"),
		       "task %d leaves no free stretch of addresses for %s", b->task->pid, what);
}

#define HIGH_MARGIN (64u << 10)

int plan_find_high(struct plan_build *b, uint64_t len, uint64_t *start)
{
	const MmEntry *mm = b->task->mm;
	uint64_t end = TASK_SIZE - HIGH_MARGIN;
	bool grows = false;

	len += 2 * HIGH_MARGIN;
	for (size_t i = mm->n_vmas; i-- > 0;) {
		const VmaEntry *e = mm->vmas[i];

		if (!(e->status & (VMA_REGULAR | VMA_AIORING)))
			continue;
		if (!grows && e->end < end && end - e->end >= len)
			break;
		end = MIN(end, e->start);
		grows = e->flags & MAP_GROWSDOWN;
	}
	if (grows || end < AREA_MAX + len)
		return no_area(b, "the vDSO");
	*start = end - len + HIGH_MARGIN;
	return 0;
}

static int by_start(const void *a, const void *b)
{
	const struct plan_range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

static size_t all_areas(const struct snapshot *s, struct plan_range *v)
{
	size_t n = 0;

	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t k = 0; s->tasks.v[i].mm && k < s->tasks.v[i].mm->n_vmas; k++) {
			const VmaEntry *e = s->tasks.v[i].mm->vmas[k];

			if (!(e->status & (VMA_REGULAR | VMA_AIORING)) || e->end <= AREA_MIN)
				continue;
			if (v)
				v[n] = (struct plan_range){ e->start, e->end - e->start };
			n++;
		}
	return n;
}

int plan_find_area(struct op *op, const struct snapshot *s, uint64_t len, uint64_t *start)
{
	size_t n = all_areas(s, NULL);
	struct plan_range *v = op_alloc(op, (n + 1) * sizeof(*v));
	uint64_t at = AREA_MIN;

	if (!v)
		return CKPT_E_NOMEM;
	all_areas(s, v);
	if (s->tasks.n > 1)
		qsort(v, n, sizeof(*v), by_start);
	len += 2 * AREA_MARGIN;
	for (size_t i = 0; i < n; i++) {
		if (v[i].start >= at && v[i].start - at >= len)
			break;
		at = MAX(at, v[i].start + v[i].len);
	}
	if (at > AREA_MAX || AREA_MAX - at < len)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = s->tasks.v[0].pid, .kind = "vma"),
			       "the tasks leave no free stretch of %lu MiB of addresses for the restorer", len >> 20);
	*start = at + AREA_MARGIN;
	return 0;
}
