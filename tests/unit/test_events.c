// SPDX-License-Identifier: MIT
/* Who is told of events, and what comes of what they say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "lib/api/ctx.h"

struct told {
	int result, calls;
	enum ckpt_event event;
	pid_t pid;
	int fd;
	bool asked;
	struct ckpt_strv answer;
	const char *log;	/* of the scripts, at the last call; its length is kept */
	off_t log_size;
};

static int on_event(void *arg, const struct ckpt_event_info *info)
{
	struct told *t = arg;
	struct stat st;

	t->calls++;
	t->event = info->event;
	t->pid = info->pid;
	t->fd = info->fd;
	t->asked = info->external != NULL;
	if (info->external && t->answer.n)
		*info->external = t->answer;
	t->log_size = t->log && stat(t->log, &st) == 0 ? st.st_size : 0;
	return t->result;
}

struct fixture {
	char dir[32];
	struct ckpt_ctx *ctx;
	struct told told;
	struct ckpt_opts opts;
	struct op op;
	char *scripts[4], log[64];
};

static void begin(struct fixture *f, bool caller)
{
	if (caller)
		ckpt_ctx_set_events(f->ctx, on_event, &f->told);
	assert_int_equal(op_begin(&f->op, f->ctx, &f->opts, NULL), 0);
}

static int end(struct fixture *f, int r)
{
	struct ckpt_err *err = NULL;

	r = op_end(&f->op, r, &err);
	assert_int_equal(ckpt_err_code(err), r);
	ckpt_err_free(err);
	return r;
}

/* Writes what it gets to the log, and ends with @status. */
static void script(struct fixture *f, const char *name, const char *body)
{
	size_t i = f->opts.action_script.n++;
	FILE *file;

	assert_true(asprintf(&f->scripts[i], "%s/%s", f->dir, name) > 0);
	file = fopen(f->scripts[i], "w");
	assert_non_null(file);
	fprintf(file, "#!/bin/sh\necho %s $CRTOOLS_SCRIPT_ACTION ${CRTOOLS_INIT_PID-none} >>%s\n%s\n", name, f->log, body);
	fclose(file);
	assert_int_equal(chmod(f->scripts[i], 0700), 0);
	f->opts.action_script.v = (const char *const *)f->scripts;
}

static void assert_log(struct fixture *f, const char *want)
{
	char text[512] = "";
	FILE *file = fopen(f->log, "r");

	assert_non_null(file);
	text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
	fclose(file);
	assert_string_equal(text, want);
	unlink(f->log);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/ckpt-events-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->log, sizeof(f->log), "%s/log", f->dir);
	assert_int_equal(ckpt_ctx_new(&f->ctx), 0);
	f->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	f->opts.images_dir = f->dir;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	char command[64];

	ckpt_ctx_free(f->ctx);
	for (size_t i = 0; i < ARRAY_SIZE(f->scripts); i++)
		free(f->scripts[i]);
	snprintf(command, sizeof(command), "rm -r %s", f->dir);
	assert_int_equal(system(command), 0);
	free(f);
	return 0;
}

static void nobody(void **state)
{
	struct fixture *f = *state;

	begin(f, false);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_DUMP, 5, -1), 0);
	assert_int_equal(end(f, 0), 0);
}

static void caller(void **state)
{
	struct fixture *f = *state;

	begin(f, true);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_ORPHAN_PTS_MASTER, 5, 7), 0);
	assert_int_equal(f->told.calls, 1);
	assert_int_equal(f->told.event, CKPT_EVENT_ORPHAN_PTS_MASTER);
	assert_int_equal(f->told.pid, 5);
	assert_int_equal(f->told.fd, 7);
	assert_false(f->told.asked);
	f->told.result = -1;
	assert_int_equal(op_event(&f->op, CKPT_EVENT_NETWORK_UNLOCK, 5, -1), 0);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_RESUME, 5, -1), 0);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_POST_RESUME, 5, -1), 0);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_POST_DUMP, 5, -1), CKPT_E_REFUSED);
	assert_int_equal(end(f, CKPT_E_REFUSED), CKPT_E_REFUSED);
}

static void more_external(void **state)
{
	static const char *const first[] = { "file[1:2]" }, *const more[] = { "unix[3]", "tty[4:5]" }, *const wrong[] = { "nonsense" };
	struct fixture *f = *state;

	f->opts.external = (struct ckpt_strv){ .v = first, .n = 1 };
	f->told.answer = (struct ckpt_strv){ .v = more, .n = 2 };
	begin(f, true);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_QUERY_EXT_FILES, 5, -1), 0);
	assert_true(f->told.asked);
	assert_int_equal(f->op.opts->external.n, 3);
	assert_string_equal(f->op.opts->external.v[0], "file[1:2]");
	assert_string_equal(f->op.opts->external.v[2], "tty[4:5]");
	assert_int_equal(f->opts.external.n, 1); /* the caller's stays */
	f->told.answer = (struct ckpt_strv){ .v = wrong, .n = 1 };
	assert_int_equal(op_event(&f->op, CKPT_EVENT_QUERY_EXT_FILES, 5, -1), CKPT_E_INVAL);
	assert_int_equal(end(f, CKPT_E_INVAL), CKPT_E_INVAL);
}

static void scripts(void **state)
{
	struct fixture *f = *state;

	script(f, "one", "");
	script(f, "two", "test -e $CRTOOLS_IMAGE_DIR/one");
	f->told.log = f->log;
	begin(f, true);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_RESTORE, 0, -1), 0);
	assert_int_equal(f->told.calls, 1);
	assert_true(f->told.log_size > 0); /* they come first */
	assert_log(f, "two pre-restore none\none pre-restore none\n");
	assert_int_equal(op_event(&f->op, CKPT_EVENT_SETUP_NAMESPACES, 42, -1), 0);
	assert_log(f, "two setup-namespaces 42\none setup-namespaces 42\n");
	assert_int_equal(op_event(&f->op, CKPT_EVENT_POST_RESUME, 0, -1), 0);
	assert_log(f, "two post-resume 42\none post-resume 42\n");
	assert_int_equal(op_event(&f->op, CKPT_EVENT_QUERY_EXT_FILES, 0, -1), 0);
	assert_int_equal(access(f->log, F_OK), -1);
	assert_int_equal(f->told.calls, 4);
	assert_int_equal(end(f, 0), 0);
}

static void script_that_fails(void **state)
{
	struct fixture *f = *state;

	script(f, "one", "");
	script(f, "two", "exit 3");
	script(f, "three", "exit 4");
	begin(f, true);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_POST_RESUME, 1, -1), 0);
	assert_int_equal(f->told.calls, 1);
	unlink(f->log);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_DUMP, 1, -1), CKPT_E_REFUSED);
	assert_int_equal(f->told.calls, 1); /* it would not come to pass */
	assert_log(f, "three pre-dump 1\ntwo pre-dump 1\none pre-dump 1\n");
	assert_non_null(strstr(ckpt_err_message(f->op.err), "three failed at pre-dump: exit status 4"));
	assert_int_equal(end(f, CKPT_E_REFUSED), CKPT_E_REFUSED);
}

static void script_that_is_none(void **state)
{
	static const char *const missing[] = { "/nowhere/script" };
	struct fixture *f = *state;

	f->opts.action_script = (struct ckpt_strv){ .v = missing, .n = 1 };
	begin(f, false);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_DUMP, 1, -1), CKPT_E_REFUSED);
	assert_int_equal(end(f, CKPT_E_REFUSED), CKPT_E_REFUSED);
}

/* Its descriptors, signals and environment. */
static void script_surroundings(void **state)
{
	struct fixture *f = *state;
	sigset_t set, old;
	int fd = open("/dev/null", O_RDONLY);

	script(f, "one", "ls /proc/self/fd | wc -w >>${0%/*}/log; grep SigBlk /proc/$$/status | tr -d '\\t' >>${0%/*}/log\n"
			 "test \"$OF_THE_CALLER\" = yes");
	setenv("OF_THE_CALLER", "yes", 1);
	setenv("CRTOOLS_INIT_PID", "7", 1);
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, &old);
	begin(f, false);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_RESTORE, 0, -1), 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
	assert_log(f, "one pre-restore none\n4\nSigBlk:0000000000000000\n"); /* the folder that ls reads is one */
	unsetenv("CRTOOLS_INIT_PID");
	close(fd);
	assert_int_equal(end(f, 0), 0);
}

static void cancelled_script(void **state)
{
	struct fixture *f = *state;
	uint64_t from = now_ns();

	script(f, "one", "exec sleep 60");
	begin(f, false);
	ckpt_cancel(f->ctx);
	assert_int_equal(op_event(&f->op, CKPT_EVENT_PRE_DUMP, 1, -1), CKPT_E_REFUSED);
	assert_true(now_ns() - from < 10000000000ull);
	assert_int_equal(end(f, CKPT_E_REFUSED), CKPT_E_REFUSED);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(nobody), T(caller), T(more_external), T(scripts), T(script_that_fails), T(script_that_is_none), T(script_surroundings),
		T(cancelled_script),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
