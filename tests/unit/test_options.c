// SPDX-License-Identifier: MIT
/* The option table and what is made of it; and the promises about sized structs, which every public call makes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/api/ctx.h"

static const struct ckpt_option *find(const char *name)
{
	size_t n;
	const struct ckpt_option *table = ckpt_option_table(&n);

	for (size_t i = 0; i < n; i++)
		if (strcmp(table[i].name, name) == 0)
			return &table[i];
	fail_msg("no option %s", name);
	return NULL;
}

static int set(struct ckpt_opts *o, const char *name, const char *value)
{
	struct ckpt_err *err = NULL;
	int r = ckpt_opts_set(o, find(name), value, &err);

	assert_int_equal(ckpt_err_code(err), r);
	if (r)
		assert_non_null(strstr(ckpt_err_message(err), name));
	ckpt_err_free(err);
	assert_int_equal(ckpt_opts_set(&(struct ckpt_opts)CKPT_OPTS_INIT, find("log-file"), "x", NULL), 0);
	return r;
}

static void table_is_consistent(void **state)
{
	size_t n;
	const struct ckpt_option *t = ckpt_option_table(&n);

	(void)state;
	for (size_t i = 0; i < n; i++) {
		bool later = t[i].flags & CKPT_OPTF_NOT_YET;
		size_t len = strlen(t[i].help);

		assert_true(len > 0 && t[i].help[len - 1] != '.');
		assert_int_equal(later, t[i].offset == (size_t)-1);
		assert_true(later || t[i].offset < sizeof(struct ckpt_opts));
		/* of a string: what it stands for where it is given without a value */
		assert_int_equal(t[i].type == CKPT_OPT_ENUM || (t[i].type == CKPT_OPT_STRING && t[i].flags & CKPT_OPTF_OPTIONAL_ARG && t[i].offset != (size_t)-1),
				 t[i].values != NULL);
		assert_true(t[i].type == CKPT_OPT_BOOL || t[i].arg);
		assert_true(!(t[i].flags & CKPT_OPTF_NEGATABLE) || t[i].type == CKPT_OPT_BOOL);
		assert_true(t[i].flags & 0xff);
		for (size_t j = 0; j < i; j++) {
			assert_string_not_equal(t[i].name, t[j].name);
			assert_true(!t[i].short_name || t[i].short_name != t[j].short_name);
			/* --daemon is what --restore-detached means to a server */
			assert_true(later || t[i].offset != t[j].offset || strcmp(t[i].name, "daemon") == 0);
		}
	}
}

static void all_names_of_the_field_are_known(void **state)
{
	static const char *const names[] = {
		"images-dir", "work-dir", "log-file", "verbosity", "log-pid", "pidfile", "status-fd", "libdir", "close",
		"display-stats", "deprecated", "unprivileged", "stream", "allow-uprobes", "leave-stopped",
		"leave-running", "restore-detached", "restore-sibling", "exec-cmd", "root", "shell-job", "file-locks",
		"tcp-established", "tcp-close", "skip-in-flight", "ext-unix-sk", "evasive-devices", "link-remap",
		"ghost-limit", "ghost-fiemap", "force-irmap", "irmap-scan-path", "weak-sysctls", "timeout",
		"freeze-cgroup", "cpu-cap", "file-validation", "skip-file-rwx-check", "mntns-compat-mode",
		"network-lock", "lsm-profile", "lsm-mount-context", "track-mem", "prev-images-dir", "auto-dedup",
		"pre-dump-mode", "page-server", "lazy-pages", "address", "port", "ps-socket", "tls", "tls-cacert",
		"tls-cacrl", "tls-cert", "tls-key", "tls-no-cn-verify", "external", "ext-mount-map",
		"enable-external-sharing", "enable-external-masters", "skip-mnt", "enable-fs", "inherit-fd", "join-ns",
		"empty-ns", "veth-pair", "manage-cgroups", "cgroup-root", "cgroup-yard", "cgroup-dump-controller",
		"cgroup-props", "cgroup-props-file", "action-script", "daemon",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		find(names[i]);
}

static void flags(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT;

	(void)state;
	assert_int_equal(set(&o, "shell-job", NULL), 0);
	assert_true(o.shell_job);
	assert_int_equal(set(&o, "shell-job", "0"), 0);
	assert_false(o.shell_job);
	assert_int_equal(set(&o, "shell-job", "1"), 0);
	assert_true(o.shell_job);
	assert_int_equal(set(&o, "shell-job", "yes"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "ext-unix-sk", NULL), 0);
	assert_true(o.ext_unix_sk);
	o.ext_unix_sk = false;
	assert_int_equal(set(&o, "ext-unix-sk", "123,456"), 0);
	assert_string_equal(o.ext_unix_sk_inodes, "123,456");
	assert_false(o.ext_unix_sk);
	assert_int_equal(set(&o, "ext-unix-sk", "123,"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "ext-unix-sk", "x"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "ext-unix-sk", "99999999999"), CKPT_E_INVAL);
}

static void sizes_and_numbers(void **state)
{
	static const char *const bad[] = { "", "0", "K", "-1", " 1", "1k", "1KB", "1.5M", "99999999999G",
				    "18446744073709551616" };
	struct ckpt_opts o = CKPT_OPTS_INIT;

	(void)state;
	assert_int_equal(set(&o, "ghost-limit", "10"), 0);
	assert_int_equal(o.ghost_limit, 10);
	assert_int_equal(set(&o, "ghost-limit", "2K"), 0);
	assert_int_equal(o.ghost_limit, 2048);
	assert_int_equal(set(&o, "ghost-limit", "3M"), 0);
	assert_int_equal(o.ghost_limit, 3 << 20);
	assert_int_equal(set(&o, "ghost-limit", "4G"), 0);
	assert_int_equal(o.ghost_limit, 4ll << 30);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(set(&o, "ghost-limit", bad[i]), CKPT_E_INVAL);
	assert_int_equal(o.ghost_limit, 4ll << 30);
	assert_int_equal(set(&o, "ghost-limit", NULL), CKPT_E_INVAL);

	assert_int_equal(set(&o, "timeout", "4294967295"), 0);
	assert_int_equal(o.timeout, UINT32_MAX);
	assert_int_equal(set(&o, "timeout", "4294967296"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "timeout", "1s"), CKPT_E_INVAL);
}

static void verbosity(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT;

	(void)state;
	assert_int_equal(o.log_level, 2);
	assert_int_equal(set(&o, "verbosity", NULL), 0);
	assert_int_equal(o.log_level, 3);
	assert_int_equal(set(&o, "verbosity", "4"), 0);
	assert_int_equal(o.log_level, 4);
	assert_int_equal(set(&o, "verbosity", "0"), 0);
	assert_int_equal(set(&o, "verbosity", "vv"), 0); /* -vvv */
	assert_int_equal(o.log_level, 3);
	assert_int_equal(set(&o, "verbosity", "v4"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "verbosity", "loud"), CKPT_E_INVAL);
}

static void words_and_lists(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT;

	(void)state;
	assert_int_equal(set(&o, "pid-method", "ns-last-pid"), 0);
	assert_int_equal(o.pid_method, CKPT_PID_NS_LAST_PID);
	assert_int_equal(set(&o, "pid-method", "luck"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "file-validation", "filesize"), 0);
	assert_int_equal(o.file_validation, CKPT_VALIDATE_FILESIZE);
	assert_int_equal(set(&o, "external", "file[1:2]"), 0);
	assert_int_equal(set(&o, "external", "tty[3:4]"), 0);
	assert_int_equal(o.external.n, 2);
	assert_string_equal(o.external.v[1], "tty[3:4]");
	ckpt_opts_clear(&o);
	assert_int_equal(o.external.n, 0);
	assert_int_equal(o.images_dir_fd, -1);
	assert_int_equal(o.log_level, 2);
}

static void optional_words(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT;

	(void)state;
	assert_int_equal(set(&o, "manage-cgroups", "ignore"), 0);
	assert_int_equal(o.manage_cgroups, CKPT_CGROUP_IGNORE);
	assert_int_equal(set(&o, "manage-cgroups", NULL), 0);
	assert_int_equal(o.manage_cgroups, CKPT_CGROUP_SOFT);
	assert_int_equal(set(&o, "manage-cgroups", "maybe"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "empty-ns", "net"), 0);
	assert_int_equal(o.empty_ns, CKPT_EMPTY_NS_NET);
}

static void what_is_missing_is_refused_by_name(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT, before = o;
	struct ckpt_err *err = NULL;

	(void)state;
	assert_int_equal(ckpt_opts_set(&o, find("stream"), NULL, &err), CKPT_E_NOT_YET);
	assert_string_equal(ckpt_err_message(err), "option --stream is not implemented yet");
	ckpt_err_free(err);
	assert_int_equal(set(&o, "stream", "0"), 0);
	assert_int_equal(set(&o, "close", "80"), CKPT_E_NOT_YET);
	assert_int_equal(set(&o, "close", "http"), CKPT_E_INVAL);
	assert_int_equal(set(&o, "close", NULL), CKPT_E_INVAL);
	assert_int_equal(set(&o, "cpu-cap", "none"), 0);
	assert_int_equal(set(&o, "cpu-cap", NULL), 0);
	assert_string_equal(o.cpu_cap, "all");
	o.cpu_cap = NULL;
	assert_memory_equal(&o, &before, sizeof(o));
}

/* -------------------------------------------------------------------------------------- sized structs */

struct longer {
	struct ckpt_opts opts;
	uint64_t of_the_future;
};

static int begin(const struct ckpt_opts *opts, struct ckpt_stats *stats, struct ckpt_opts *seen, char *message)
{
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;
	struct op op;
	int r;

	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	r = op_begin(&op, ctx, opts, stats);
	if (r == 0) {
		*seen = *op.opts;
		op.stats->pages_written = 7;
		op.stats->n_stages = 24;
	}
	assert_int_equal(op_end(&op, r, &err), r);
	snprintf(message, 256, "%s", ckpt_err_message(err));
	ckpt_err_free(err);
	ckpt_ctx_free(ctx);
	return r;
}

static void options_of_other_sizes(void **state)
{
	struct longer longer = { .opts = CKPT_OPTS_INIT };
	struct ckpt_opts o = CKPT_OPTS_INIT, seen;
	char text[256];

	(void)state;
	assert_int_equal(begin(NULL, NULL, &seen, text), 0);
	assert_int_equal(seen.images_dir_fd, -1);

	o.leave_running = true;
	o.timeout = 9;
	o.sz = offsetof(struct ckpt_opts, timeout); /* an older caller: what is behind is not its */
	assert_int_equal(begin(&o, NULL, &seen, text), 0);
	assert_true(seen.leave_running);
	assert_int_equal(seen.timeout, 0);
	assert_int_equal(seen.log_level, 2);
	assert_int_equal(seen.sz, sizeof(seen));

	o.sz = 0;
	assert_int_equal(begin(&o, NULL, &seen, text), CKPT_E_INVAL);

	longer.opts.sz = sizeof(longer); /* a newer caller */
	assert_int_equal(begin(&longer.opts, NULL, &seen, text), 0);
	longer.of_the_future = 1;
	assert_int_equal(begin(&longer.opts, NULL, &seen, text), CKPT_E_INVAL);
	assert_non_null(strstr(text, "does not know"));
}

static void statistics_of_other_sizes(void **state)
{
	struct {
		struct ckpt_stats stats;
		uint64_t of_the_future;
	} s = { .stats.sz = sizeof(s), .of_the_future = 5 };
	struct ckpt_opts seen;
	char text[256];

	(void)state;
	assert_int_equal(begin(NULL, &s.stats, &seen, text), 0);
	assert_int_equal(s.stats.pages_written, 7);
	assert_int_equal(s.stats.n_stages, 24);
	assert_int_equal(s.of_the_future, 0);
	assert_int_equal(s.stats.sz, sizeof(s));

	s.stats = (struct ckpt_stats){ .sz = offsetof(struct ckpt_stats, stages[2]) };
	s.stats.stages[2].us = 99;
	assert_int_equal(begin(NULL, &s.stats, &seen, text), 0);
	assert_int_equal(s.stats.n_stages, 2);
	assert_int_equal(s.stats.stages[2].us, 99);

	s.stats = (struct ckpt_stats){ .sz = offsetof(struct ckpt_stats, pages_written), .pages_written = 3 };
	assert_int_equal(begin(NULL, &s.stats, &seen, text), 0);
	assert_int_equal(s.stats.pages_written, 3);
	s.stats.sz = 0;
	assert_int_equal(begin(NULL, &s.stats, &seen, text), CKPT_E_INVAL);
}

static void senseless_options(void **state)
{
	static const struct {
		const char *text;
		int code;
	} externals[] = {
		{ "file[1:2]", 0 },	   { "tty[1:2]", 0 },		     { "mnt[]", 0 },
		{ "net[5]:x", 0 }, { "file[1:2", CKPT_E_INVAL }, { "nonsense", CKPT_E_INVAL },
	};
	struct ckpt_opts o = CKPT_OPTS_INIT, seen;
	char text[256];

	(void)state;
	o.pid_method = (enum ckpt_pid_method)17;
	assert_int_equal(begin(&o, NULL, &seen, text), CKPT_E_INVAL);
	o = (struct ckpt_opts)CKPT_OPTS_INIT;
	o.external.n = 1;
	assert_int_equal(begin(&o, NULL, &seen, text), CKPT_E_INVAL);
	for (size_t i = 0; i < ARRAY_SIZE(externals); i++) {
		o.external.v = &externals[i].text;
		assert_int_equal(begin(&o, NULL, &seen, text), externals[i].code);
	}
}

static void cancelled_before_it_began(void **state)
{
	struct ckpt_opts nowhere = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;
	char *json;

	(void)state;
	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	ckpt_cancel(ctx);
	assert_int_equal(ckpt_inspect(ctx, NULL, &json, &err), CKPT_E_CANCELED);
	assert_string_equal(ckpt_code_name(ckpt_err_code(err)), "canceled");
	assert_null(json);
	err = ckpt_err_free(err);
	ckpt_ctx_reset(ctx);
	nowhere.images_dir = "/nonexistent";
	assert_true(ckpt_inspect(ctx, &nowhere, &json, &err) < 0);
	assert_int_not_equal(ckpt_err_code(err), CKPT_E_CANCELED);
	ckpt_err_free(err);
	ckpt_ctx_free(ctx);
}

static void dump_options_that_exclude_each_other(void **state)
{
	struct ckpt_opts o = CKPT_OPTS_INIT;
	struct ckpt_ctx *ctx;

	(void)state;
	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	assert_int_equal(ckpt_dump(ctx, 0, &o, NULL, NULL), CKPT_E_INVAL);
	assert_int_equal(ckpt_check_task(ctx, -5, &o, NULL, NULL, NULL), CKPT_E_INVAL);
	o.no_sync = true;
	assert_int_equal(ckpt_dump(ctx, 1, &o, NULL, NULL), CKPT_E_INVAL);
	o.leave_running = o.leave_stopped = true;
	assert_int_equal(ckpt_dump(ctx, 1, &o, NULL, NULL), CKPT_E_INVAL);
	ckpt_ctx_free(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_is_consistent),
		cmocka_unit_test(all_names_of_the_field_are_known),
		cmocka_unit_test(flags),
		cmocka_unit_test(sizes_and_numbers),
		cmocka_unit_test(verbosity),
		cmocka_unit_test(words_and_lists),
		cmocka_unit_test(optional_words),
		cmocka_unit_test(what_is_missing_is_refused_by_name),
		cmocka_unit_test(options_of_other_sizes),
		cmocka_unit_test(statistics_of_other_sizes),
		cmocka_unit_test(senseless_options),
		cmocka_unit_test(cancelled_before_it_began),
		cmocka_unit_test(dump_options_that_exclude_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
