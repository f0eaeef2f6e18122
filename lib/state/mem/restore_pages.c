// SPDX-License-Identifier: MIT
#include "lib/state/mem/restore_pages.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "lib/image/page_sums.h"
#include "lib/kernel/features.h"
#include "lib/kernel/uapi.h"
#include "lib/state/mem/aio.h"

/* So many pages a task reads by itself: beside other tasks, and without stopping for us. */
#define OWN_PAGES (4u << 20 >> PAGE_SHIFT)
/* An area with fewer is not worth a registration with userfaultfd. */
#define FEW_PAGES 16
#define HUGE (2ull << 20)
#define HUGE_PAGES (HUGE >> PAGE_SHIFT)

static int bad_page(struct plan_build *b, uint64_t addr, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = addr, .kind = "pagemap"),
		       "pages at %#lx of task %d: %s", addr, b->task->pid, what);
}

/* ----------------------------------------------------------------------------------------------- huge pages */

/* The choice of a file of the kind "always [madvise] never": its first letter; 0: there is no such file. */
static char choice(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[128] = "";
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	const char *at = n > 0 ? memchr(text, '[', (size_t)n) : NULL;

	return at ? at[1] : 0;
}

/* Where the kernel gives huge pages to anonymous memory. */
enum thp {
	THP_NEVER,
	THP_ADVISED,
	THP_ALWAYS,
};

static enum thp thp_look(void)
{
	char c = choice("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/enabled");

	if (!c || c == 'i') /* inherit; or a kernel that has one size */
		c = choice("/sys/kernel/mm/transparent_hugepage/enabled");
	/* What it inherits from us through exec. */
	if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 0)
		return THP_NEVER;
	return c == 'a' ? THP_ALWAYS : c == 'm' ? THP_ADVISED : THP_NEVER;
}

/* Plain anonymous memory, that of most programs. A stack is small, and grows when it is touched. */
static bool is_simple(const struct plan_vma *v)
{
	return !v->inherited && (v->flags & (MAP_PRIVATE | MAP_ANONYMOUS)) == (MAP_PRIVATE | MAP_ANONYMOUS) &&
	       !(v->flags & (MAP_HUGETLB | MAP_DROPPABLE | MAP_GROWSDOWN));
}

/* Only where the kernel itself would give them: whoever wants no huge pages has reasons. */
static bool wants_huge(const struct plan_build *b, enum thp thp, const struct plan_vma *v)
{
	const TaskExtra *x = b->task->extra;

	if (!is_simple(v) || (v->madv >> MADV_NOHUGEPAGE & 1) || (b->task->mm->has_thp_disabled && b->task->mm->thp_disabled) ||
	    (x && x->has_thp_disable && x->thp_disable))
		return false;
	return thp == THP_ALWAYS || (thp == THP_ADVISED && v->madv >> MADV_HUGEPAGE & 1);
}

/* --------------------------------------------------------------------------------- pieces, area by area */

/* What is not simply loaded: the vDSO's pages are compared (plan_vdso()), AIO rings are made. How many pages; 0: none. */
static uint64_t taken_elsewhere(const struct plan_build *b, uint64_t start, uint64_t end)
{
	if (start >= b->vdso_start && start < b->vdso_end)
		return (MIN(end, b->vdso_end) - start) / PAGE_SIZE;
	return aio_has_page(b, start);
}

/* Pieces of one area that follow each other in memory and in the source are one. */
static int add_piece(struct plan_build *b, const struct plan_vma *v, const struct fill_piece *new)
{
	struct fill_piece *last = b->fills.n ? &b->fills.v[b->fills.n - 1] : NULL;

	if (last && last->source == new->source && last->addr + last->n_pages * PAGE_SIZE == new->addr &&
	    last->first + last->n_pages == new->first && last->how == new->how && new->addr != v->start) {
		last->n_pages += new->n_pages;
		return 0;
	}
	last = ARRAY_ADD(b->op->arena, &b->fills);
	if (!last)
		return op_nomem(b->op);
	*last = *new;
	return 0;
}

static bool has_lazy(const struct plan_build *b, const struct plan_vma *v)
{
	return b->lazy.n && b->lazy.v[b->lazy.n - 1].start == v->start;
}

/*
 * How many of @n pages in area @v come only when the program runs. Of an area that may not be written to one comes now:
 * protecting it takes it out of the account of memory where it has none.
 */
static int leave_for_later(struct plan_build *b, const struct plan_vma *v, const struct page_piece *piece, uint64_t n, uint64_t *left)
{
	struct plan_range *last;

	*left = n - (!(v->final_prot & PROT_WRITE) && !has_lazy(b, v) && piece->source != PIECE_REMOTE);
	b->n_lazy_pages += *left;
	if (has_lazy(b, v))
		return 0;
	last = ARRAY_ADD(b->op->arena, &b->lazy);
	if (!last)
		return op_nomem(b->op);
	*last = (struct plan_range){ v->start, v->len };
	return 0;
}

static int must_be_here(struct plan_build *b, const struct page_piece *piece)
{
	if (piece->source != PIECE_REMOTE)
		return 0;
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "pagemap", .hint = "restore with --lazy-pages"),
		       "some pages of task %d are left with a page server, and are needed at once", b->task->pid);
}

/* Gives the pages of a piece to the areas it covers. @at: the first to look at. */
static int split_piece(struct plan_build *b, struct vmas *m, size_t *at, const struct page_piece *piece)
{
	uint64_t start = piece->start, end = start + piece->n_pages * PAGE_SIZE;
	int r = 0;

	while (start < end && !r) {
		struct plan_vma *v;
		struct fill_piece f;
		uint64_t left = 0, n = taken_elsewhere(b, start, end);

		if (n) {
			start += n * PAGE_SIZE;
			continue;
		}
		while (*at < m->n && m->v[*at].start + m->v[*at].len <= start)
			(*at)++;
		v = &m->v[*at];
		if (*at == m->n || v->start > start || !vma_is_private(m->e[*at]))
			return bad_page(b, start, "they belong to no private area");
		if (!(v->prot & PROT_WRITE) || !(v->prot & PROT_READ))
			v->prot = PROT_READ | PROT_WRITE;
		n = (MIN(end, v->start + v->len) - start) / PAGE_SIZE;
		if (piece->lazy && m->lazy[*at])
			r = leave_for_later(b, v, piece, n, &left);
		n -= left;
		if (r || !n) {
			start += left * PAGE_SIZE;
			continue;
		}
		r = must_be_here(b, piece);
		if (r)
			return r;
		f = (struct fill_piece){
			.addr = start, .first = piece->first + (start - piece->start) / PAGE_SIZE, .n_pages = n,
			.source = piece->source, .how = v->inherited ? FILL_COMPARE : is_simple(v) ? FILL_NEW : FILL_WRITE,
		};
		r = add_piece(b, v, &f);
		start += (n + left) * PAGE_SIZE;
	}
	return r;
}

/* -------------------------------------------------------------------------------------- read by the task itself */

/* *@index in b->sources. */
static int file_of_source(struct plan_build *b, uint32_t source, size_t *index)
{
	struct plan_source *known;
	int32_t file;
	int r;

	for (*index = 0; *index < b->sources.n; ++*index)
		if (b->sources.v[*index].source == source)
			return 0;
	r = plan_fetch(b, pagein_plain(b->s->sources.v[source]), false, &file);
	if (r)
		return r;
	known = ARRAY_ADD(b->op->arena, &b->sources);
	if (!known)
		return op_nomem(b->op);
	*known = (struct plan_source){ source, file };
	return 0;
}

/* Blocks of one source from which the task reads. */
struct used {
	uint64_t first, n;
	uint16_t *pages; /* of each block */
	uint64_t *sums;
};

static bool in_source(const struct plan_build *b, const struct fill_piece *f, size_t i)
{
	return f->source == b->sources.v[i].source;
}

/* Which pages of which blocks. One that is read twice leaves no trace in the sum, nor here. */
static int mark_used(struct plan_build *b, size_t source, struct used *u)
{
	uint64_t end = 0;

	u->first = UINT64_MAX;
	for (size_t i = 0; i < b->fills.n; i++) {
		const struct fill_piece *f = &b->fills.v[i];

		if (!in_source(b, f, source))
			continue;
		u->first = MIN(u->first, f->first / BLOCK_PAGES);
		end = MAX(end, (f->first + f->n_pages + BLOCK_PAGES - 1) / BLOCK_PAGES);
	}
	u->n = end - u->first;
	u->pages = op_alloc(b->op, (u->n + 1) * sizeof(*u->pages));
	u->sums = op_alloc(b->op, (u->n + 1) * sizeof(*u->sums));
	if (!u->pages || !u->sums)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < b->fills.n; i++) {
		const struct fill_piece *f = &b->fills.v[i];

		for (uint64_t k = f->first; in_source(b, f, source) && k < f->first + f->n_pages; k++)
			u->pages[k / BLOCK_PAGES - u->first] ^= (uint16_t)(1u << k % BLOCK_PAGES);
	}
	return 0;
}

/*
 * A block of which the task reads a part is checked here, when those pages are read: pagein_read() looks at the whole block,
 * and refuses pages that were freed since.
 */
static int sum_part(struct plan_build *b, struct pagein *in, const struct block_record *rec, uint16_t pages, char **buf, uint64_t *sum)
{
	int r = 0;

	*buf = *buf ?: malloc(BLOCK_BYTES);
	if (!*buf)
		return op_nomem(b->op);
	for (unsigned k = 0, n; k < rec->n_pages && !r; k += n) {
		for (n = 0; pages >> (k + n) & 1; n++)
			;
		if (n)
			r = pagein_read(b->op, in, rec->block * BLOCK_PAGES + k, n, *buf + k * PAGE_SIZE);
		else
			n = 1;
	}
	*sum = r ? 0 : page_sums(*buf, rec->n_pages, (uint32_t)~pages);
	return r;
}

/* What the sums of the pages that are read from this source come to. */
static int put_check(struct plan_build *b, size_t source, struct plan_check *c)
{
	struct pagein *in = b->s->sources.v[b->sources.v[source].source];
	const struct block_file *blocks = pagein_blocks(in);
	_cleanup_free_ char *buf = NULL;
	struct used u = { 0 };
	int r = mark_used(b, source, &u);

	for (uint64_t i = 0; i < u.n && !r; i++) {
		const struct block_record *rec;

		if (u.first + i >= blocks->n)
			return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "pages"),
				       "image %s has more pages than when the checkpoint was made", pagein_name(in));
		rec = &blocks->v[u.first + i];
		if ((u.pages[i] | rec->punched) == (1u << rec->n_pages) - 1 && !(u.pages[i] & rec->punched))
			u.sums[i] = rec->sum;
		else
			r = sum_part(b, in, rec, u.pages[i], &buf, &u.sums[i]);
	}
	c->first = u.first;
	return r ?: plan_put_array(b, u.sums, u.n, sizeof(*u.sums), &c->sums);
}

static int put_checks(struct plan_build *b)
{
	struct plan_check *c = op_alloc(b->op, (b->sources.n + 1) * sizeof(*c));
	struct plan_array checks;
	int r = c ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; i < b->sources.n && !r; i++)
		if (pagein_blocks(b->s->sources.v[b->sources.v[i].source]))
			r = put_check(b, i, &c[i]);
	r = r ?: plan_put_array(b, c, b->sources.n, sizeof(*c), &checks);
	if (!r)
		PLAN(b)->checks = checks;
	return r;
}

static int put_extents(struct plan_build *b)
{
	struct plan_extent *x = op_alloc(b->op, (b->fills.n + 1) * sizeof(*x));
	struct plan_extent *c = op_alloc(b->op, (b->fills.n + 1) * sizeof(*c));
	struct plan_array extents, compares;
	size_t n = 0, n_compares = 0;
	int r = x && c ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; i < b->fills.n && !r; i++) {
		const struct fill_piece *f = &b->fills.v[i];
		struct plan_extent *to = f->how == FILL_COMPARE ? &c[n_compares++] : &x[n++];
		size_t source = 0;

		*to = (struct plan_extent){ .addr = f->addr, .len = f->n_pages * PAGE_SIZE, .offset = f->first * PAGE_SIZE };
		r = file_of_source(b, f->source, &source);
		to->file = r ? -1 : b->sources.v[source].file;
		to->check = !r && pagein_blocks(b->s->sources.v[f->source]) ? (uint32_t)source + 1 : 0;
	}
	r = r ?: put_checks(b);
	r = r ?: plan_put_array(b, x, n, sizeof(*x), &extents);
	r = r ?: plan_put_array(b, c, n_compares, sizeof(*c), &compares);
	if (r)
		return r;
	PLAN(b)->extents = extents;
	PLAN(b)->compares = compares;
	b->fills.n = 0;
	return 0;
}

/* ------------------------------------------------------------------------------------ put there by the engine */

struct filling {
	ARRAY(struct fill_piece) v;
	ARRAY(struct plan_range) places;
	ARRAY(struct plan_move) moves;
	uint64_t scratch;
	enum thp thp;
};

static int add_part(struct plan_build *b, struct filling *w, const struct fill_piece *f, uint64_t from, uint64_t n, enum fill_how how)
{
	struct fill_piece *p = n ? ARRAY_ADD(b->op->arena, &w->v) : NULL;

	if (!n)
		return 0;
	if (!p)
		return op_nomem(b->op);
	*p = (struct fill_piece){ f->addr + from * PAGE_SIZE, w->scratch, f->first + from, n, f->source, how };
	return 0;
}

/* The whole huge pages in the middle of a piece are made as such. */
static int add_huge(struct plan_build *b, struct filling *w, const struct fill_piece *f)
{
	uint64_t start = ALIGN_UP(f->addr, HUGE), end = ALIGN_DOWN(f->addr + f->n_pages * PAGE_SIZE, HUGE);
	uint64_t head = (start - f->addr) / PAGE_SIZE, n = (end - start) / PAGE_SIZE;
	struct plan_move *m = ARRAY_ADD(b->op->arena, &w->moves);
	int r = m ? 0 : op_nomem(b->op);

	r = r ?: add_part(b, w, f, 0, head, FILL_NEW);
	r = r ?: add_part(b, w, f, head, n, FILL_HUGE);
	if (r)
		return r;
	*m = (struct plan_move){ w->scratch, start, n * PAGE_SIZE };
	w->scratch += n * PAGE_SIZE;
	return add_part(b, w, f, head + n, f->n_pages - head - n, FILL_NEW);
}

static bool has_huge(const struct fill_piece *f)
{
	return f->addr + f->n_pages * PAGE_SIZE >= ALIGN_UP(f->addr, HUGE) + HUGE;
}

/* The pieces of one area, [@from, @to). */
static int fill_area(struct plan_build *b, struct filling *w, const struct plan_vma *v, size_t from, size_t to)
{
	bool huge = wants_huge(b, w->thp, v) && feature_has(b->op->features, FEATURE_UFFD_MOVE), place = false;
	uint64_t n = 0;
	int r = 0;

	for (size_t i = from; i < to; i++)
		n += b->fills.v[i].n_pages;
	place = is_simple(v) && n >= FEW_PAGES;
	if (place) {
		struct plan_range *range = ARRAY_ADD(b->op->arena, &w->places);

		if (!range)
			return op_nomem(b->op);
		*range = (struct plan_range){ v->start, v->len };
	}
	for (size_t i = from; i < to && !r; i++) {
		const struct fill_piece *f = &b->fills.v[i];

		if (place && huge && has_huge(f))
			r = add_huge(b, w, f);
		else
			r = add_part(b, w, f, 0, f->n_pages, f->how == FILL_NEW && !place ? FILL_WRITE : f->how);
	}
	return r;
}

static int put_filling(struct plan_build *b, struct filling *w)
{
	struct plan_array places, moves;
	int r = plan_put_array(b, w->places.v, w->places.n, sizeof(*w->places.v), &places);

	r = r ?: plan_put_array(b, w->moves.v, w->moves.n, sizeof(*w->moves.v), &moves);
	if (r)
		return r;
	PLAN(b)->fill.places = places;
	PLAN(b)->fill.moves = moves;
	PLAN(b)->fill.scratch_len = w->scratch;
	PLAN(b)->fill.wanted = 1;
	b->fills.v = w->v.v;
	b->fills.n = w->v.n;
	b->fills.cap = w->v.cap;
	return 0;
}

static int fill_areas(struct plan_build *b, const struct vmas *m)
{
	struct filling w = { .thp = thp_look() };
	size_t i = 0;
	int r = 0;

	for (size_t at = 0; i < b->fills.n && !r;) {
		const struct plan_vma *v = &m->v[at];
		size_t to = i;

		while (to < b->fills.n && b->fills.v[to].addr < v->start + v->len)
			to++;
		if (to > i)
			r = fill_area(b, &w, v, i, to);
		i = to;
		at++;
	}
	return r ?: put_filling(b, &w);
}

void pages_place(struct plan_build *b, uint64_t scratch)
{
	struct plan_move *m = PLAN_AT(PLAN(b), struct plan_move, PLAN(b)->fill.moves);

	PLAN(b)->fill.scratch = scratch;
	for (uint64_t i = 0; i < PLAN(b)->fill.moves.n; i++)
		m[i].from += scratch;
}

/* Few enough to be read by the task, and in not too large a part of their images. */
static bool is_little(const struct plan_build *b)
{
	uint64_t first = UINT64_MAX, end = 0;

	for (size_t i = 0; i < b->fills.n; i++) {
		first = MIN(first, b->fills.v[i].first);
		end = MAX(end, b->fills.v[i].first + b->fills.v[i].n_pages);
	}
	return b->pieces.n_pages - b->n_lazy_pages <= OWN_PAGES && (!b->fills.n || end - first <= OWN_PAGES * 4);
}

int pages_plan(struct plan_build *b, struct vmas *m)
{
	bool plain = true;
	size_t at = 0;
	int r = pieces_resolve(b->op, b->s, &b->task->pagemap, IMG_PAGEMAP, (uint64_t)b->task->pid, TASK_SIZE, &b->pieces);

	for (size_t i = 0; i < b->pieces.v.n && !r; i++) {
		const struct page_piece *p = &b->pieces.v.v[i];

		plain = plain && (p->source == PIECE_REMOTE || pagein_plain(b->s->sources.v[p->source]) >= 0);
		r = split_piece(b, m, &at, p);
	}
	if (r)
		return r;
	return plain && is_little(b) ? put_extents(b) : fill_areas(b, m);
}
