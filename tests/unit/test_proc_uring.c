// SPDX-License-Identifier: MIT
/* The parser of what an io_uring adds to fdinfo. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>

#include "lib/kernel/proc/proc.h"
#include "tests/unit/proc_text.h"

static int parse(void *arena, const char *str, struct proc_uring *out)
{
	CLEAN struct text t = text_of(str, strlen(str));

	return proc_parse_uring(arena, t.p, t.n, out);
}

static void recorded(void **state)
{
	CLEAN struct text t = load("fdinfo-uring");
	struct proc_uring u;

	assert_int_equal(proc_parse_uring(*state, t.p, t.n, &u), 0);
	assert_int_equal(u.sq_mask, 7);
	assert_int_equal(u.cq_mask, 15);
	assert_int_equal(u.sq_head, 22);
	assert_int_equal(u.sq_tail, 23);
	assert_int_equal(u.cached_sq_head, 22);
	assert_int_equal(u.cached_cq_tail, 2);
	assert_int_equal(u.sq_thread, -1);
	assert_int_equal(u.n_files, 5);
	assert_int_equal(u.files.n, 3);
	assert_int_equal(u.files.v[1].slot, 3);
	assert_string_equal(u.files.v[1].path, "/tmp/a b\\c");
	assert_int_equal(u.n_bufs, 3);
	assert_int_equal(u.bufs.n, 2);
	assert_int_equal(u.bufs.v[1].slot, 2);
	assert_int_equal(u.bufs.v[1].addr, 0x557d9f2fc2c0);
	assert_int_equal(u.bufs.v[1].len, 100);
	assert_int_equal(u.polls, 1);
	assert_int_equal(u.overflows, 2);
	assert_int_equal(u.sqe_lines, 1);
	assert_true(u.big_sqes && !u.big_cqes && !u.napi && !u.personalities);
}

#define COUNTERS "SqMask:\t0x0\nSqHead:\t0\nSqTail:\t0\nCachedSqHead:\t0\nCqMask:\t0x1\nCqHead:\t0\nCqTail:\t0\nCachedCqTail:\t0\n"

static void made_up(void **state)
{
	struct proc_uring u;

	assert_int_equal(parse(*state, COUNTERS, &u), 0);
	assert_int_equal(parse(*state, COUNTERS "SqThread:\t77\nNAPI:\tenabled\nPersonalities:\n    1\n", &u), 0);
	assert_true(u.sq_thread == 77 && u.napi && u.personalities);
	assert_int_equal(parse(*state, COUNTERS "CQEs:\t1\n    0: user_data:1, res:0, flag:0, extra1:0, extra2:0\n", &u), 0);
	assert_true(u.big_cqes);
	/* An older kernel lacks some of it. */
	assert_int_equal(parse(*state, "SqMask:\t0x7\nSqHead:\t22\n", &u), -1);
	assert_int_equal(parse(*state, "", &u), -1);
	assert_int_equal(parse(*state, COUNTERS "UserFiles:\tx\n", &u), -1);
	assert_int_equal(parse(*state, COUNTERS "UserFiles:\t1\n    x: /a\n", &u), -1);
	assert_int_equal(parse(*state, COUNTERS "UserBufs:\t1\n    0: 0x10\n", &u), -1);
	assert_int_equal(parse(*state, COUNTERS "UserBufs:\t1\n    0: 0xfffffffffffffffff/1\n", &u), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(recorded), cmocka_unit_test(made_up) };

	return cmocka_run_group_tests(tests, setup, teardown);
}
