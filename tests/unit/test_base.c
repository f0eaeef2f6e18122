// SPDX-License-Identifier: MIT
/* lib/base: the arena, error values, operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>

#include "lib/base/op.h"

static void arena_is_zeroed_aligned_and_stays(void **state)
{
	struct arena *a = arena_new();
	unsigned char *p[300];

	(void)state;
	assert_non_null(a);
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		/* Small ones, with one now and then that is larger than a chunk. */
		size_t n = i % 50 == 49 ? 200000 : i * 13;

		p[i] = arena_alloc(a, n);
		assert_non_null(p[i]);
		assert_int_equal((uintptr_t)p[i] % 16, 0);
		for (size_t k = 0; k < n; k++)
			assert_int_equal(p[i][k], 0);
		memset(p[i], (int)(i & 0xff), n);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
		size_t n = i % 50 == 49 ? 200000 : i * 13;

		for (size_t k = 0; k < n; k++)
			assert_int_equal(p[i][k], i & 0xff);
	}
	assert_null(arena_alloc(a, SIZE_MAX));
	assert_null(arena_alloc(a, SIZE_MAX - 8));
	assert_null(arena_free(a));
	assert_null(arena_free(NULL));
}

static void arena_copies(void **state)
{
	struct arena *a = arena_new();
	char bytes[] = { 1, 0, 2 };

	(void)state;
	assert_string_equal(arena_strdup(a, "abc"), "abc");
	assert_string_equal(arena_strndup(a, "abc", 2), "ab");
	assert_string_equal(arena_strndup(a, "", 0), "");
	assert_memory_equal(arena_memdup(a, bytes, 3), bytes, 3);
	assert_string_equal(arena_printf(a, "%d-%s", 7, "x"), "7-x");
	arena_free(a);
}

static void array_grows(void **state)
{
	struct arena *a = arena_new();
	ARRAY(uint64_t) v = { 0 };

	(void)state;
	for (uint64_t i = 0; i < 10000; i++) {
		uint64_t *slot = ARRAY_ADD(a, &v);

		assert_non_null(slot);
		assert_int_equal(*slot, 0);
		*slot = i;
	}
	assert_int_equal(v.n, 10000);
	for (uint64_t i = 0; i < v.n; i++)
		assert_int_equal(v.v[i], i);
	arena_free(a);
}

struct env {
	struct op op;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	char log[256];
	unsigned n_logs, n_progress;
	struct ckpt_progress progress;
};

static void on_log(void *arg, enum ckpt_log_level level, const char *text)
{
	struct env *e = arg;

	(void)level;
	snprintf(e->log, sizeof(e->log), "%s", text);
	e->n_logs++;
}

static void on_progress(void *arg, const struct ckpt_progress *p)
{
	struct env *e = arg;

	assert_int_equal(p->sz, sizeof(*p));
	e->progress = *p;
	e->n_progress++;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats,
			     .log = { on_log, e, CKPT_LOG_DEBUG } };
	*state = e;
	return e->op.arena ? 0 : -1;
}

static int teardown(void **state)
{
	struct env *e = *state;

	op_forget(&e->op);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static void failure_has_context(void **state)
{
	struct env *e = *state;
	int r = op_fail(&e->op, CKPT_E_UNSUPPORTED, AT(.pid = 42, AT_FD(0), .addr = 0x1000, .kind = "socket", .hint = "close it"),
			"a %s", "socket");

	assert_int_equal(r, CKPT_E_UNSUPPORTED);
	assert_int_equal(op_wrap(&e->op, r, "fd %d", 0), r);
	assert_int_equal(op_wrap(&e->op, r, "dump task %d", 42), r);
	assert_int_equal(ckpt_err_code(e->op.err), CKPT_E_UNSUPPORTED);
	assert_string_equal(ckpt_err_message(e->op.err), "dump task 42: fd 0: a socket");
	assert_string_equal(ckpt_err_hint(e->op.err), "close it");
	assert_string_equal(ckpt_err_kind(e->op.err), "socket");
	assert_int_equal(ckpt_err_pid(e->op.err), 42);
	assert_int_equal(ckpt_err_fd(e->op.err), 0);
	assert_int_equal(ckpt_err_addr(e->op.err), 0x1000);
	assert_int_equal(ckpt_err_errno(e->op.err), 0);
}

static void first_failure_is_kept(void **state)
{
	struct env *e = *state;

	op_fail(&e->op, CKPT_E_IMAGE, NULL, "first");
	op_fail(&e->op, CKPT_E_SYS, NULL, "second");
	assert_string_equal(ckpt_err_message(e->op.err), "first");
	assert_int_equal(ckpt_err_fd(e->op.err), -1);
	assert_non_null(strstr(e->log, "second"));
	op_forget(&e->op);
	assert_null(e->op.err);
	op_fail(&e->op, CKPT_E_SYS, NULL, "third");
	assert_string_equal(ckpt_err_message(e->op.err), "third");
}

static void errno_becomes_a_code(void **state)
{
	static const int pairs[][2] = {
		{ ENOMEM, CKPT_E_NOMEM }, { EPERM, CKPT_E_PERM },  { EACCES, CKPT_E_PERM },	 { ENOSPC, CKPT_E_NOSPACE },
		{ EDQUOT, CKPT_E_NOSPACE }, { ESRCH, CKPT_E_NO_PROCESS }, { EIO, CKPT_E_SYS },
	};
	struct env *e = *state;

	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		assert_int_equal(op_errno(&e->op, pairs[i][0], AT(.pid = 1), "open %s", "x"), pairs[i][1]);
		assert_int_equal(ckpt_err_errno(e->op.err), pairs[i][0]);
		assert_non_null(strstr(ckpt_err_message(e->op.err), strerror(pairs[i][0])));
		op_forget(&e->op);
	}
}

static void no_error_is_harmless(void **state)
{
	(void)state;
	assert_null(ckpt_err_free(NULL));
	assert_int_equal(ckpt_err_code(NULL), CKPT_OK);
	assert_int_equal(ckpt_err_fd(NULL), -1);
	assert_null(ckpt_err_hint(NULL));
	assert_non_null(ckpt_err_message(NULL));
}

static void codes_have_names(void **state)
{
	(void)state;
	assert_string_equal(ckpt_code_name(CKPT_OK), "ok");
	assert_string_equal(ckpt_code_name(CKPT_E_NO_PROCESS), "no-process");
	assert_string_equal(ckpt_code_name(CKPT_E_NOT_YET), "not-implemented");
	assert_string_equal(ckpt_code_name(CKPT_E_REFUSED - 1), "unknown");
	assert_string_equal(ckpt_code_name(1), "unknown");
	for (int i = 0; i >= CKPT_E_REFUSED; i--)
		for (int k = i - 1; k >= CKPT_E_REFUSED; k--)
			assert_string_not_equal(ckpt_code_name(i), ckpt_code_name(k));
}

static void cancel_and_deadline(void **state)
{
	struct env *e = *state;
	atomic_bool cancel = false;

	assert_int_equal(op_check_cancel(&e->op), 0);
	e->op.cancel = &cancel;
	e->op.deadline_ns = now_ns() + 1000000000000ull;
	e->op.stage = "write memory";
	assert_int_equal(op_check_cancel(&e->op), 0);
	atomic_store(&cancel, true);
	assert_int_equal(op_check_cancel(&e->op), CKPT_E_CANCELED);
	assert_non_null(strstr(ckpt_err_message(e->op.err), "write memory"));
	op_forget(&e->op);
	atomic_store(&cancel, false);
	e->op.deadline_ns = now_ns() - 1;
	e->op.timeout_s = 3;
	assert_int_equal(op_check_cancel(&e->op), CKPT_E_TIMEOUT);
	assert_non_null(strstr(ckpt_err_message(e->op.err), "3 s"));
	assert_non_null(ckpt_err_hint(e->op.err));
}

static void messages_by_level(void **state)
{
	struct env *e = *state;

	e->op.log.level = CKPT_LOG_WARN;
	log_info(&e->op, "not this");
	log_debug(&e->op, "nor this");
	assert_int_equal(e->n_logs, 0);
	log_warn(&e->op, "but %d", 5);
	assert_string_equal(e->log, "but 5");
	e->op.log.fn = NULL;
	log_msg(&e->op, "nobody listens");
	op_progress(&e->op, 1, 2);
	e->op.stage = "a stage";
	e->op.progress = (struct progress_sink){ on_progress, e };
	op_progress(&e->op, 1, 2);
	assert_int_equal(e->n_progress, 1);
	assert_string_equal(e->progress.stage, "a stage");
	assert_int_equal(e->progress.done, 1);
	assert_int_equal(e->progress.total, 2);
}

static void progress_of_stages_and_bytes(void **state)
{
	struct env *e = *state;

	op_bytes_done(&e->op, 5); /* nobody listens, it is counted all the same */
	e->op.progress = (struct progress_sink){ on_progress, e };
	op_progress(&e->op, 10, 100);
	assert_int_equal(e->progress.bytes_done, 5);
	assert_int_equal(e->progress.bytes_total, 5); /* never less than what is done */
	op_stage(&e->op, "move", 60);
	op_bytes_total(&e->op, 1000); /* besides those 5 */
	op_frozen(&e->op, true);
	for (int i = 0; i < 500; i++)
		op_bytes_done(&e->op, 1);
	assert_in_range(e->n_progress, 1, 100); /* not each of them */
	e->op.moved.reported_ns = 0;
	op_bytes_done(&e->op, 0);
	assert_string_equal(e->progress.stage, "move");
	assert_int_equal(e->progress.done, 10 + 30); /* half of the bytes of a stage are half of its weight */
	assert_true(e->progress.frozen);
	op_frozen(&e->op, false);
	op_bytes_done(&e->op, 500); /* the last ones are always told */
	assert_int_equal(e->progress.bytes_done, 1005);
	assert_int_equal(e->progress.bytes_total, 1005);
	assert_int_equal(e->progress.done, 70);
	assert_false(e->progress.frozen);
	op_progress(&e->op, 70, 100);
	assert_int_equal(e->progress.done, 70);
	e->op.moved.reported_ns = 0;
	op_waiting(&e->op, true);
	assert_true(e->progress.waiting);
	op_stage(&e->op, "next", 10);
	e->op.moved.reported_ns = 0;
	op_bytes_done(&e->op, 0);
	assert_int_equal(e->progress.done, 70);
}

static void scope_closes_but_not_what_was_taken(void **state)
{
	int kept, lost;

	(void)state;
	{
		_cleanup_close_ int a = dup(0), b = dup(0);

		assert_true(a >= 0 && b >= 0);
		lost = a;
		kept = TAKE_FD(b);
		assert_int_equal(b, -1);
		errno = 1234;
	}
	assert_int_equal(errno, 1234); /* a clean-up does not disturb the error being reported */
	assert_int_equal(close(kept), 0);
	assert_int_equal(close(lost), -1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arena_is_zeroed_aligned_and_stays), cmocka_unit_test(arena_copies),
		cmocka_unit_test(array_grows), T(failure_has_context), T(first_failure_is_kept), T(errno_becomes_a_code),
		cmocka_unit_test(no_error_is_harmless), cmocka_unit_test(codes_have_names), T(cancel_and_deadline),
		T(messages_by_level), T(progress_of_stages_and_bytes), cmocka_unit_test(scope_closes_but_not_what_was_taken),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
