// SPDX-License-Identifier: MIT
/* The table of features: complete, cached, quick, and leaving nothing behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/kernel/features.h"
#include "lib/kernel/proc/read.h"

struct seen {
	unsigned n, required_missing;
	bool all_named;
};

static void on_feature(void *arg, const struct ckpt_feature *f)
{
	struct seen *seen = arg;
	enum feature_id id;

	seen->n++;
	seen->required_missing += f->required && !f->available;
	seen->all_named = seen->all_named && f->name && f->sentence && f->cost && features_known(f->name, &id) &&
			  id == seen->n - 1;
}

static void table_is_complete(void **state)
{
	struct features *f = features_new();
	struct seen seen = { .all_named = true };
	int missing;

	(void)state;
	assert_non_null(f);
	missing = features_each(f, on_feature, &seen);
	assert_int_equal(seen.n, FEATURE_N);
	assert_true(seen.all_named);
	assert_int_equal(missing, seen.required_missing);
	assert_true(feature_has(f, FEATURE_EXTERNAL_NET_NS));
	assert_false(feature_has(f, FEATURE_COMPAT_CR));
	assert_false(feature_has(f, FEATURE_N));
	assert_null(features_free(f));
	assert_null(features_free(NULL));
}

static void names(void **state)
{
	enum feature_id id;

	(void)state;
	assert_true(features_known("mem_dirty_track", &id));
	assert_int_equal(id, FEATURE_MEM_DIRTY_TRACK);
	assert_true(features_known("uffd-noncoop", NULL));
	assert_false(features_known("no_such_feature", NULL));
	assert_false(features_known("", NULL));
}

static unsigned count(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static volatile int caught;

static void on_child(int sig)
{
	(void)sig;
	caught++;
}

static void nothing_is_left_behind(void **state)
{
	struct proc_maps before, after;
	struct ckpt_stats stats = { 0 };
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	sigset_t mask, mask_after;
	unsigned fds;

	(void)state;
	/* A tracer hears of the stops of a tracee, that is ptrace(2); of children that end, a program must not hear. */
	sigaction(SIGCHLD, &(struct sigaction){ .sa_handler = on_child, .sa_flags = SA_NOCLDSTOP }, NULL);
	feature_has(NULL, FEATURE_PTRACE_SEIZE); /* what libc makes once */
	fds = count("/proc/self/fd");
	sigprocmask(SIG_SETMASK, NULL, &mask);
	assert_int_equal(proc_read_maps(&op, getpid(), &before), 0);
	for (unsigned i = 0; i < FEATURE_N; i++)
		feature_has(NULL, i);
	assert_int_equal(proc_read_maps(&op, getpid(), &after), 0);
	sigprocmask(SIG_SETMASK, NULL, &mask_after);
	assert_int_equal(count("/proc/self/fd"), fds);
	assert_memory_equal(&mask, &mask_after, 8);
	assert_int_equal(waitpid(-1, NULL, __WALL | WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(caught, 0);
	/* The heap may have grown; no area of ours may be new. */
	assert_true(after.vmas.n <= before.vmas.n + 2);
	arena_free(op.arena);
}

static void answers_are_kept_and_cancelling_works(void **state)
{
	struct ckpt_stats stats = { 0 };
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	atomic_bool cancel = false;
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats, .features = features_new(), .cancel = &cancel };
	uint64_t start;

	(void)state;
	assert_true(features_run(&op, NULL, NULL) >= 0);
	start = now_ns();
	for (int i = 0; i < 1000; i++)
		features_run(&op, NULL, NULL);
	assert_true(now_ns() - start < 1000000000);
	assert_int_equal(feature_require(&op, FEATURE_COMPAT_CR), CKPT_E_KERNEL);
	assert_non_null(strstr(ckpt_err_message(op.err), "32-bit"));
	op_forget(&op);
	assert_int_equal(feature_require(&op, FEATURE_EXTERNAL_NET_NS), 0);
	atomic_store(&cancel, true);
	assert_int_equal(features_run(&op, NULL, NULL), CKPT_E_CANCELED);
	op_forget(&op);
	features_free(op.features);
	arena_free(op.arena);
}

/* In a child, without any privilege: what is missing is said by name. */
static void without_privileges(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0) {
		print_message("skipped: needs root, to give it up\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct ckpt_stats stats = { 0 };
		struct ckpt_opts opts = CKPT_OPTS_INIT;
		struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
		bool ok = setgid(65534) == 0 && setuid(65534) == 0;

		ok = ok && privileges_check(&op, 1) == CKPT_E_PERM && strstr(ckpt_err_message(op.err), "CAP_SYS_ADMIN") &&
		     ckpt_err_hint(op.err);
		op_forget(&op);
		ok = ok && privileges_check(&op, 0) == CKPT_E_PERM;
		op_forget(&op);
		ok = ok && !feature_has(NULL, FEATURE_CAP_SYS_ADMIN) && !feature_has(NULL, FEATURE_CLONE3_SET_TID) &&
		     !feature_has(NULL, FEATURE_MAP_FILES) && features_run(&op, NULL, NULL) > 0;
		arena_free(op.arena);
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_complete),
		cmocka_unit_test(names),
		cmocka_unit_test(nothing_is_left_behind),
		cmocka_unit_test(answers_are_kept_and_cancelling_works),
		cmocka_unit_test(without_privileges),
	};

	return cmocka_run_group_tests_name("features", tests, NULL, NULL);
}
