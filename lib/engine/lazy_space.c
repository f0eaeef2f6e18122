/* SPDX-License-Identifier: MIT */
#include "lib/engine/lazy_space.h"

#define BITS 64

static bool bit_is(const uint64_t *map, uint64_t i)
{
	return map[i / BITS] >> i % BITS & 1;
}

static size_t words(uint64_t n)
{
	return (size_t)((n + BITS - 1) / BITS) + 1;
}

static uint64_t unwanted(const struct lazy_space *sp, uint64_t word)
{
	return sp->have[word] | sp->gone[word];
}

/* The first page in [from, to) that is wanted (@wanted) or is not; @to if there is none. */
static uint64_t scan(const struct lazy_space *sp, uint64_t from, uint64_t to, bool wanted)
{
	while (from < to) {
		uint64_t w = unwanted(sp, from / BITS);

		w = (wanted ? ~w : w) >> from % BITS;
		if (w)
			return MIN(from + (uint64_t)__builtin_ctzll(w), to);
		from = (from / BITS + 1) * BITS;
	}
	return to;
}

/* How many bits are set in @bits of [from, to), and sets them all. */
static uint64_t set_all(uint64_t *bits, uint64_t from, uint64_t to)
{
	uint64_t was = 0;

	while (from < to) {
		uint64_t n = MIN(to - from, BITS - from % BITS);
		uint64_t mask = (n == BITS ? ~0ull : (1ull << n) - 1) << from % BITS;

		was += (uint64_t)__builtin_popcountll(bits[from / BITS] & mask);
		bits[from / BITS] |= mask;
		from += n;
	}
	return was;
}

static void clear_all(uint64_t *bits, uint64_t from, uint64_t to)
{
	for (; from < to; from++)
		bits[from / BITS] &= ~(1ull << from % BITS);
}

static uint64_t count_wanted(const struct lazy_space *sp, uint64_t from, uint64_t to)
{
	uint64_t n = 0;

	while (from < to) {
		uint64_t end = scan(sp, from, to, false);

		n += end - from;
		from = scan(sp, end, to, true);
	}
	return n;
}

/* ------------------------------------------------------------------------------------------ making and ending */

struct lazy_map *lazy_map_new(struct op *op, pid_t pid, const struct pieces *p, bool (*want)(void *arg, const struct page_piece *piece),
			      void *arg)
{
	struct lazy_map *m = op_new(op, struct lazy_map);

	if (!m)
		return NULL;
	m->pid = pid;
	m->v = op_alloc(op, (p->v.n + 1) * sizeof(*m->v));
	if (!m->v)
		return NULL;
	for (size_t i = 0; i < p->v.n; i++) {
		const struct page_piece *x = &p->v.v[i];

		if (want && !want(arg, x))
			continue;
		m->v[m->n++] = (struct lazy_piece){ .first = m->n_pages, .n = x->n_pages, .addr = x->start, .page = x->first,
						    .source = x->source };
		m->n_pages += x->n_pages;
	}
	return m;
}

static void init_locks(struct lazy_space *sp)
{
	pthread_rwlockattr_t attr;

	pthread_rwlockattr_init(&attr);
	/* Events go first: the program waits for them. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&sp->gate, &attr);
	pthread_rwlockattr_destroy(&attr);
	pthread_mutex_init(&sp->lock, NULL);
}

static struct lazy_space *space_alloc(const struct lazy_map *map, int fd, size_t parts)
{
	struct lazy_space *sp = calloc(1, sizeof(*sp));

	if (!sp)
		return NULL;
	sp->fd = fd;
	sp->map = map;
	sp->cap_parts = parts + 4;
	sp->parts = calloc(sp->cap_parts, sizeof(*sp->parts));
	sp->by_addr = calloc(sp->cap_parts, sizeof(*sp->by_addr));
	sp->have = calloc(words(map->n_pages), sizeof(*sp->have));
	sp->gone = calloc(words(map->n_pages), sizeof(*sp->gone));
	init_locks(sp);
	if (sp->parts && sp->by_addr && sp->have && sp->gone)
		return sp;
	lazy_space_clear(sp);
	free(sp);
	return NULL;
}

void lazy_space_clear(struct lazy_space *sp)
{
	free(sp->parts);
	free(sp->by_addr);
	free(sp->have);
	free(sp->gone);
	sp->parts = NULL;
	sp->by_addr = NULL;
	sp->have = sp->gone = NULL;
	sp->n_parts = sp->cap_parts = 0;
	sp->left = 0;
}

struct lazy_space *lazy_space_new(const struct lazy_map *map, int fd)
{
	struct lazy_space *sp = space_alloc(map, fd, map->n);

	if (!sp)
		return NULL;
	for (size_t i = 0; i < map->n; i++) {
		const struct lazy_piece *p = &map->v[i];
		struct lazy_part *last = sp->n_parts ? &sp->parts[sp->n_parts - 1] : NULL;

		if (last && last->addr + last->n * PAGE_SIZE == p->addr) {
			last->n += p->n;
			continue;
		}
		sp->by_addr[sp->n_parts] = (uint32_t)sp->n_parts;
		sp->parts[sp->n_parts++] = (struct lazy_part){ .first = p->first, .n = p->n, .addr = p->addr };
	}
	sp->left = map->n_pages;
	return sp;
}

struct lazy_space *lazy_space_fork(const struct lazy_space *from, int fd)
{
	struct lazy_space *sp = space_alloc(from->map, fd, from->n_parts);
	uint64_t n = from->map->n_pages;

	if (!sp)
		return NULL;
	memcpy(sp->parts, from->parts, from->n_parts * sizeof(*sp->parts));
	memcpy(sp->by_addr, from->by_addr, from->n_parts * sizeof(*sp->by_addr));
	memcpy(sp->have, from->have, words(n) * sizeof(*sp->have));
	memcpy(sp->gone, from->gone, words(n) * sizeof(*sp->gone));
	sp->n_parts = from->n_parts;
	/* What was on its way to the parent came too late for the copy. */
	for (const struct lazy_slot *s = from->slots; s; s = s->next)
		clear_all(sp->have, s->first + s->done, s->first + s->n);
	sp->left = count_wanted(sp, 0, n);
	return sp;
}

/* ---------------------------------------------------------------------------------------------------- looking */

const struct lazy_piece *lazy_piece_of(const struct lazy_map *map, uint64_t page)
{
	size_t lo = 0, hi = map->n;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (map->v[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return &map->v[lo];
}

static struct lazy_part *part_of(const struct lazy_space *sp, uint64_t page)
{
	size_t lo = 0, hi = sp->n_parts;

	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;

		if (sp->parts[mid].first <= page)
			lo = mid;
		else
			hi = mid;
	}
	return &sp->parts[lo];
}

static uint64_t part_end(const struct lazy_part *p)
{
	return p->addr + p->n * PAGE_SIZE;
}

/* Index into by_addr of the first part that ends after @addr. */
static size_t find_addr(const struct lazy_space *sp, uint64_t addr)
{
	size_t lo = 0, hi = sp->n_parts;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (part_end(&sp->parts[sp->by_addr[mid]]) <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool is_coming(const struct lazy_space *sp, uint64_t page)
{
	for (const struct lazy_slot *s = sp->slots; s; s = s->next)
		if (page >= s->first + s->done && page < s->first + s->n)
			return true;
	return false;
}

enum lazy_where lazy_find(const struct lazy_space *sp, uint64_t addr, uint64_t *page)
{
	size_t i = find_addr(sp, addr);
	const struct lazy_part *p;

	if (i == sp->n_parts || sp->parts[sp->by_addr[i]].addr > addr)
		return LAZY_HOLE;
	p = &sp->parts[sp->by_addr[i]];
	*page = p->first + (addr - p->addr) / PAGE_SIZE;
	if (bit_is(sp->gone, *page))
		return LAZY_HOLE;
	if (!bit_is(sp->have, *page))
		return LAZY_WANTED;
	return is_coming(sp, *page) ? LAZY_COMING : LAZY_HERE;
}

void lazy_hole(const struct lazy_space *sp, uint64_t addr, uint64_t lo, uint64_t hi, uint64_t *start, uint64_t *end)
{
	size_t i = find_addr(sp, addr);

	*start = addr;
	*end = addr + PAGE_SIZE;
	/* Inside of a part: this page was thrown away, and nothing is known of its neighbours. */
	if (i < sp->n_parts && sp->parts[sp->by_addr[i]].addr <= addr)
		return;
	*start = MAX(lo, i ? part_end(&sp->parts[sp->by_addr[i - 1]]) : 0);
	*end = MIN(hi, i < sp->n_parts ? sp->parts[sp->by_addr[i]].addr : hi);
}

/* --------------------------------------------------------------------------------------------------- claiming */

static void take(struct lazy_space *sp, uint64_t from, uint64_t to, struct lazy_slot *slot)
{
	set_all(sp->have, from, to);
	sp->left -= to - from;
	*slot = (struct lazy_slot){ .first = from, .n = to - from, .next = sp->slots };
	sp->slots = slot;
}

bool lazy_claim_around(struct lazy_space *sp, uint64_t at, uint64_t max, struct lazy_slot *slot)
{
	const struct lazy_piece *p = lazy_piece_of(sp->map, at);
	const struct lazy_part *part = part_of(sp, at);
	uint64_t block = (p->page + (at - p->first)) / max * max, lo, hi;

	if (bit_is(sp->have, at) || bit_is(sp->gone, at))
		return false;
	lo = MAX(p->first, part->first);
	if (block > p->page)
		lo = MAX(lo, p->first + (block - p->page));
	hi = MIN(MIN(p->first + p->n, part->first + part->n), p->first + (block + max - p->page));
	while (lo < at && scan(sp, lo, at, false) < at) {
		uint64_t taken = scan(sp, lo, at, false);

		lo = taken + 1;
	}
	take(sp, lo, scan(sp, at, hi, false), slot);
	return true;
}

bool lazy_claim_next(struct lazy_space *sp, uint64_t max, struct lazy_slot *slot)
{
	uint64_t from, hi;
	const struct lazy_piece *p;
	const struct lazy_part *part;

	if (!sp->left)
		return false;
	from = scan(sp, sp->cursor, sp->map->n_pages, true);
	if (from == sp->map->n_pages) /* what was given back lies behind */
		from = scan(sp, 0, sp->map->n_pages, true);
	p = lazy_piece_of(sp->map, from);
	part = part_of(sp, from);
	hi = MIN(MIN(p->first + p->n, part->first + part->n), from + max);
	/* Ends where a block of the source ends, so that the next one begins with a whole one. */
	if (hi < p->first + p->n && hi < part->first + part->n && (p->page + (hi - p->first)) % max < hi - from)
		hi -= (p->page + (hi - p->first)) % max;
	take(sp, from, scan(sp, from, hi, false), slot);
	sp->cursor = slot->first + slot->n;
	return true;
}

void lazy_release(struct lazy_space *sp, struct lazy_slot *slot)
{
	for (struct lazy_slot **p = &sp->slots; *p; p = &(*p)->next)
		if (*p == slot) {
			*p = slot->next;
			break;
		}
	if (slot->done == slot->n || !sp->have)
		return;
	for (uint64_t i = slot->first + slot->done; i < slot->first + slot->n; i++)
		if (!bit_is(sp->gone, i))
			sp->left++;
	clear_all(sp->have, slot->first + slot->done, slot->first + slot->n);
}

uint64_t lazy_next_run(struct lazy_space *sp, struct lazy_slot *slot, uint64_t max, uint64_t *addr)
{
	while (slot->done < slot->n && bit_is(sp->gone, slot->first + slot->done))
		slot->done++;
	if (slot->done < slot->n) {
		uint64_t page = slot->first + slot->done, n = 1;
		const struct lazy_part *part = part_of(sp, page);
		uint64_t end = MIN(slot->first + slot->n, part->first + part->n);

		while (n < max && page + n < end && !bit_is(sp->gone, page + n))
			n++;
		*addr = part->addr + (page - part->first) * PAGE_SIZE;
		return n;
	}
	return 0;
}

/* ----------------------------------------------------------------------------------------------------- events */

void lazy_event_remove(struct lazy_space *sp, uint64_t start, uint64_t end)
{
	start = ALIGN_DOWN(start, PAGE_SIZE);
	end = ALIGN_UP(end, PAGE_SIZE);
	for (size_t i = find_addr(sp, start); i < sp->n_parts; i++) {
		const struct lazy_part *p = &sp->parts[sp->by_addr[i]];
		uint64_t from, to;

		if (p->addr >= end)
			break;
		from = p->first + (MAX(start, p->addr) - p->addr) / PAGE_SIZE;
		to = p->first + (MIN(end, part_end(p)) - p->addr) / PAGE_SIZE;
		sp->left -= count_wanted(sp, from, to);
		set_all(sp->gone, from, to);
	}
}

static int grow(struct lazy_space *sp)
{
	size_t cap = sp->cap_parts * 2;
	struct lazy_part *parts = realloc(sp->parts, cap * sizeof(*parts));
	uint32_t *order;

	if (!parts)
		return CKPT_E_NOMEM;
	sp->parts = parts;
	order = realloc(sp->by_addr, cap * sizeof(*order));
	if (!order)
		return CKPT_E_NOMEM;
	sp->by_addr = order;
	sp->cap_parts = cap;
	return 0;
}

/* The part that has @addr inside becomes two. Fills by_addr only as far as the index stays right. */
static void split(struct lazy_space *sp, uint64_t addr)
{
	size_t at = find_addr(sp, addr), i;
	struct lazy_part *p;
	uint64_t n;

	if (at == sp->n_parts)
		return;
	i = sp->by_addr[at];
	p = &sp->parts[i];
	if (p->addr >= addr)
		return;
	n = (addr - p->addr) / PAGE_SIZE;
	memmove(p + 2, p + 1, (sp->n_parts - i - 1) * sizeof(*p));
	p[1] = (struct lazy_part){ .first = p->first + n, .n = p->n - n, .addr = addr };
	p->n = n;
	for (size_t k = 0; k < sp->n_parts; k++)
		sp->by_addr[k] += sp->by_addr[k] > i;
	memmove(&sp->by_addr[at + 2], &sp->by_addr[at + 1], (sp->n_parts - at - 1) * sizeof(*sp->by_addr));
	sp->by_addr[at + 1] = (uint32_t)i + 1;
	sp->n_parts++;
}

static int by_address(const void *a, const void *b, void *arg)
{
	const struct lazy_part *parts = arg, *x = &parts[*(const uint32_t *)a], *y = &parts[*(const uint32_t *)b];

	return (x->addr > y->addr) - (x->addr < y->addr);
}

/*
 * What was thrown away keeps no address: something else may be moved to where it was. It goes to the end of all addresses,
 * where nobody looks.
 */
#define NOWHERE (1ull << 62)

static void vacate(struct lazy_space *sp, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < sp->n_parts; i++) {
		struct lazy_part *p = &sp->parts[i];

		if (p->addr >= start && p->addr < end)
			p->addr = NOWHERE + p->first * PAGE_SIZE;
	}
}

int lazy_event_move(struct lazy_space *sp, uint64_t from, uint64_t to, uint64_t len)
{
	if (from == to || !len)
		return 0;
	while (sp->cap_parts - sp->n_parts < 4)
		if (grow(sp))
			return CKPT_E_NOMEM;
	split(sp, from);
	split(sp, from + len);
	split(sp, to);
	split(sp, to + len);
	lazy_event_remove(sp, to, to + len);
	vacate(sp, to, to + len);
	for (size_t i = 0; i < sp->n_parts; i++) {
		struct lazy_part *p = &sp->parts[i];

		if (p->addr >= from && p->addr < from + len)
			p->addr += to - from;
	}
	qsort_r(sp->by_addr, sp->n_parts, sizeof(*sp->by_addr), by_address, sp->parts);
	return 0;
}
