// SPDX-License-Identifier: MIT
/* Lazy pages: what is missing where, the words of the restore, and the list of first touches; no system calls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/engine/lazy.h"

#define K PAGE_SIZE
#define BASE 0x7f0000000000ull

static struct op op;

static int setup(void **state)
{
	(void)state;
	op = (struct op){ .arena = arena_new() };
	return op.arena ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	op_forget(&op);
	arena_free(op.arena);
	return 0;
}

/* Pages 0-99 at BASE, 100-149 at BASE + 200 pages: two pieces of one source, the second at page 1000 of it. */
static struct lazy_space *two_pieces(void)
{
	struct pieces p = { 0 };
	struct page_piece *a = ARRAY_ADD(op.arena, &p.v), *b;

	*a = (struct page_piece){ .start = BASE, .n_pages = 100, .first = 5, .lazy = true };
	b = ARRAY_ADD(op.arena, &p.v);
	*b = (struct page_piece){ .start = BASE + 200 * K, .n_pages = 50, .first = 1000, .lazy = true };
	return lazy_space_new(lazy_map_new(&op, 7, &p, NULL, NULL), -1);
}

static void free_space(struct lazy_space *sp)
{
	lazy_space_clear(sp);
	free(sp);
}

static enum lazy_where where(const struct lazy_space *sp, uint64_t addr)
{
	uint64_t page;

	return lazy_find(sp, addr, &page);
}

static void finish(struct lazy_space *sp, struct lazy_slot *slot)
{
	slot->done = slot->n;
	lazy_release(sp, slot);
}

static void finds_pages(void **state)
{
	struct lazy_space *sp = two_pieces();
	uint64_t page = 0;

	(void)state;
	assert_int_equal(lazy_find(sp, BASE + 99 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 99);
	assert_int_equal(lazy_find(sp, BASE + 200 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 100);
	assert_int_equal(where(sp, BASE - K), LAZY_HOLE);
	assert_int_equal(where(sp, BASE + 100 * K), LAZY_HOLE);
	assert_int_equal(where(sp, BASE + 250 * K), LAZY_HOLE);
	assert_int_equal(sp->left, 150);
	free_space(sp);
}

/* Blocks are those of the source: its page 5 is in the block that ends with page 15. */
static void claims_whole_blocks(void **state)
{
	struct lazy_space *sp = two_pieces();
	struct lazy_slot slot, other;

	(void)state;
	assert_true(lazy_claim_around(sp, 3, 16, &slot));
	assert_int_equal(slot.first, 0);
	assert_int_equal(slot.n, 11);
	assert_int_equal(where(sp, BASE + 3 * K), LAZY_COMING);
	assert_false(lazy_claim_around(sp, 4, 16, &other));
	assert_true(lazy_claim_around(sp, 11, 16, &other));
	assert_int_equal(other.first, 11);
	assert_int_equal(other.n, 16);
	finish(sp, &slot);
	assert_int_equal(where(sp, BASE + 3 * K), LAZY_HERE);
	assert_int_equal(sp->left, 150 - 27);
	lazy_release(sp, &other); /* nothing of it was done */
	assert_int_equal(sp->left, 150 - 11);
	assert_int_equal(where(sp, BASE + 11 * K), LAZY_WANTED);
	free_space(sp);
}

static void claims_everything_once(void **state)
{
	struct lazy_space *sp = two_pieces();
	struct lazy_slot slot;
	uint64_t n = 0;

	(void)state;
	assert_true(lazy_claim_around(sp, 120, 16, &slot));
	n += slot.n;
	finish(sp, &slot);
	while (lazy_claim_next(sp, 64, &slot)) {
		assert_true(slot.n && slot.n <= 64);
		n += slot.n;
		finish(sp, &slot);
	}
	assert_int_equal(n, 150);
	assert_int_equal(sp->left, 0);
	free_space(sp);
}

static void removed_pages_are_zeroes(void **state)
{
	struct lazy_space *sp = two_pieces();
	struct lazy_slot slot;
	uint64_t addr;

	(void)state;
	assert_true(lazy_claim_around(sp, 11, 16, &slot)); /* 11 to 26 */
	lazy_event_remove(sp, BASE + 20 * K, BASE + 30 * K);
	assert_int_equal(where(sp, BASE + 20 * K), LAZY_HOLE);
	assert_int_equal(where(sp, BASE + 29 * K), LAZY_HOLE);
	assert_int_equal(where(sp, BASE + 30 * K), LAZY_WANTED);
	assert_int_equal(sp->left, 150 - 16 - 3);
	/* What is under way stops before them. */
	assert_int_equal(lazy_next_run(sp, &slot, 64, &addr), 9);
	slot.done += 9;
	assert_int_equal(lazy_next_run(sp, &slot, 64, &addr), 0);
	assert_int_equal(slot.done, slot.n);
	lazy_release(sp, &slot);
	free_space(sp);
}

static void moved_pages_are_found(void **state)
{
	struct lazy_space *sp = two_pieces();
	struct lazy_slot slot;
	uint64_t addr, page = 0, to = BASE - 1000 * K;

	(void)state;
	assert_true(lazy_claim_around(sp, 11, 16, &slot));
	assert_int_equal(lazy_event_move(sp, BASE + 15 * K, to, 20 * K), 0);
	assert_int_equal(where(sp, BASE + 15 * K), LAZY_HOLE);
	assert_int_equal(where(sp, BASE + 35 * K), LAZY_WANTED);
	assert_int_equal(lazy_find(sp, to + 19 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 34);
	/* The transfer under way goes to two places. */
	assert_int_equal(lazy_next_run(sp, &slot, 64, &addr), 4);
	assert_int_equal(addr, BASE + 11 * K);
	slot.done += 4;
	assert_int_equal(lazy_next_run(sp, &slot, 64, &addr), 12);
	assert_int_equal(addr, to);
	slot.done += 12;
	lazy_release(sp, &slot);
	/* Something else to where they were, and back over what lies there. */
	assert_int_equal(lazy_event_move(sp, BASE + 200 * K, BASE + 10 * K, 50 * K), 0);
	assert_int_equal(lazy_find(sp, BASE + 10 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 100);
	assert_int_equal(lazy_find(sp, BASE + 59 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 149);
	assert_int_equal(lazy_find(sp, BASE + 60 * K, &page), LAZY_WANTED);
	assert_int_equal(page, 60);
	free_space(sp);
}

static void forks_have_what_was_there(void **state)
{
	struct lazy_space *sp = two_pieces(), *child;
	struct lazy_slot here, coming;

	(void)state;
	assert_true(lazy_claim_around(sp, 0, 16, &here));
	finish(sp, &here);
	assert_true(lazy_claim_around(sp, 11, 16, &coming));
	coming.done = 4;
	lazy_event_remove(sp, BASE + 50 * K, BASE + 51 * K);
	child = lazy_space_fork(sp, -1);
	assert_int_equal(where(child, BASE), LAZY_HERE);
	assert_int_equal(where(child, BASE + 14 * K), LAZY_HERE);
	assert_int_equal(where(child, BASE + 15 * K), LAZY_WANTED);
	assert_int_equal(where(child, BASE + 50 * K), LAZY_HOLE);
	assert_int_equal(child->left, 150 - 11 - 4 - 1);
	finish(sp, &coming);
	assert_int_equal(where(sp, BASE + 15 * K), LAZY_HERE);
	assert_int_equal(where(child, BASE + 15 * K), LAZY_WANTED);
	free_space(child);
	free_space(sp);
}

/* Events and claims at random, beside a model that has one word a page. */
static void like_a_model(void **state)
{
	enum { N = 150, PLACES = 400 };
	struct lazy_space *sp = two_pieces();
	int at[PLACES]; /* which page is there; -1: none */
	bool gone[N] = { false }, have[N] = { false };
	uint32_t seed = 1;

	(void)state;
	for (int i = 0; i < PLACES; i++)
		at[i] = i < 100 ? i : i >= 200 && i < 250 ? i - 100 : -1;
	for (int round = 0; round < 20000; round++) {
		uint64_t from, to, n, page;
		struct lazy_slot slot;

		seed = seed * 1103515245 + 12345;
		from = seed >> 8 & 255;
		n = 1 + (seed >> 16 & 15);
		seed = seed * 1103515245 + 12345;
		to = (seed >> 8) % (PLACES - 16);
		if (round % 7 == 0) {
			lazy_event_remove(sp, BASE + from * K, BASE + (from + n) * K);
			for (uint64_t i = from; i < from + n; i++)
				if (at[i] >= 0)
					gone[at[i]] = true;
		} else if (round % 3 == 0 && (to >= from + n || from >= to + n)) {
			assert_int_equal(lazy_event_move(sp, BASE + from * K, BASE + to * K, n * K), 0);
			for (uint64_t i = 0; i < n; i++) {
				if (at[to + i] >= 0)
					gone[at[to + i]] = true;
				at[to + i] = at[from + i];
				at[from + i] = -1;
			}
		} else if (round % 50 == 1 && lazy_claim_next(sp, 4, &slot)) {
			for (uint64_t i = slot.first; i < slot.first + slot.n; i++) {
				assert_false(gone[i] || have[i]);
				have[i] = true;
			}
			finish(sp, &slot);
		}
		for (int i = 0; i < PLACES && round % 20 == 0; i++) {
			enum lazy_where w = lazy_find(sp, BASE + (uint64_t)i * K, &page);

			if (at[i] < 0 || gone[at[i]])
				assert_int_equal(w, LAZY_HOLE);
			else
				assert_int_equal(w, have[at[i]] ? LAZY_HERE : LAZY_WANTED);
			if (w != LAZY_HOLE)
				assert_int_equal(page, at[i]);
		}
	}
	free_space(sp);
}

static void words_of_the_restore(void **state)
{
	static const pid_t pids[] = { 3, 10, 4000000 };
	bool seen[3] = { false };
	struct lazy_proto p = { .pids = pids, .seen = seen, .n = 3 };
	size_t i = 9;

	(void)state;
	assert_int_equal(lazy_proto_word(&p, LAZY_WORD_END, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, 10, &i), LAZY_WORD_TASK);
	assert_int_equal(i, 1);
	assert_int_equal(lazy_proto_word(&p, 10, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, (uint32_t)-10, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, 0, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, 11, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, 0x80000000u, &i), LAZY_WORD_BAD);
	assert_int_equal(lazy_proto_word(&p, (uint32_t)-3, &i), LAZY_WORD_ZOMBIE);
	assert_int_equal(lazy_proto_word(&p, 4000000, &i), LAZY_WORD_TASK);
	assert_int_equal(i, 2);
	assert_int_equal(lazy_proto_word(&p, LAZY_WORD_END, &i), LAZY_WORD_FINISHED);
}

static int parse(const char *text, struct lazy_order *o)
{
	const char *why = NULL;

	*o = (struct lazy_order){ 0 };
	return lazy_order_parse(op.arena, text, strlen(text), o, &why);
}

static void list_of_touches(void **state)
{
	static const char *const bad[] = {
		"", "ckpt-faults 2\n", "ckpt-faults 1\n1", "ckpt-faults 1\n1 ", "ckpt-faults 1\n1 a", "ckpt-faults 1\n-1 a\n",
		"ckpt-faults 1\n1  a\n", "ckpt-faults 1\n1 g\n", "ckpt-faults 1\n2147483648 a\n", "ckpt-faults 1\n1 ffffffffffff\n", "ckpt-faults 1\n\n",
	};
	struct lazy_order o;

	(void)state;
	assert_int_equal(parse("ckpt-faults 1\n", &o), 0);
	assert_int_equal(o.v.n, 0);
	assert_int_equal(parse("ckpt-faults 1\n12 7f0000001fff\n3 ABc0\n", &o), 0);
	assert_int_equal(o.v.n, 2);
	assert_int_equal(o.v.v[0].pid, 12);
	assert_int_equal(o.v.v[0].addr, 0x7f0000001000);
	assert_int_equal(o.v.v[1].addr, 0xa000);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(parse(bad[i], &o), CKPT_E_IMAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_pages),		    cmocka_unit_test(claims_whole_blocks),
		cmocka_unit_test(claims_everything_once),   cmocka_unit_test(removed_pages_are_zeroes),
		cmocka_unit_test(moved_pages_are_found),    cmocka_unit_test(forks_have_what_was_there),
		cmocka_unit_test(like_a_model),		    cmocka_unit_test(words_of_the_restore),
		cmocka_unit_test(list_of_touches),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
