/* SPDX-License-Identifier: MIT */
/* Numbers of processes in two PID namespaces. Needs root. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/pids.h"

static struct op *new_op(void)
{
	static struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op *op = calloc(1, sizeof(*op));

	op->arena = arena_new();
	op->opts = &opts;
	return op;
}

static void free_op(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
	free(op);
}

/* A process that exists, in a PID namespace of its own. */
static pid_t start_init(void)
{
	struct clone_args args = { .flags = CLONE_NEWPID };
	pid_t pid = sys_clone3(&args, sizeof(args));

	if (pid == 0)
		stay_while(0);
	if (pid < 0)
		skip();
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, __WALL) < 0)
		;
}

static struct proc_status two_levels(pid_t host, pid_t inside, pid_t group, pid_t session)
{
	return (struct proc_status){
		.nspid = { { host, inside }, 2 }, .nspgid = { { group, group ? group - 1000 : 0 }, 2 }, .nssid = { { session, 0 }, 2 },
	};
}

static void table_of_two_levels(void **state)
{
	struct op *op = new_op();
	pid_t init = start_init();
	struct proc_status st;
	struct pids *p;

	(void)state;
	assert_int_equal(pids_begin(op, init, &p), 0);
	assert_non_null(p);
	assert_int_equal(pids_add_task(op, p, init), 0);
	assert_int_equal(pids_inside(p, init), 1);
	assert_int_equal(pids_host(p, 1), init);
	/* Of others and of ourselves it knows nothing. */
	assert_int_equal(pids_inside(p, getpid()), 0);
	st = two_levels(100020, 20, 100019, 99);
	assert_int_equal(pids_add(op, p, &st), 0);
	assert_int_equal(pids_add(op, p, &st), 0);
	assert_int_equal(pids_inside(p, 100020), 20);
	assert_int_equal(pids_inside(p, 100019), 99019);
	assert_int_equal(pids_inside(p, 99), 0); /* a session that began outside */
	assert_int_equal(pids_host(p, 99019), 100019);
	assert_int_equal(pids_host(p, 3), 0);
	assert_int_equal(pids_of_status(p, &st), 20);
	end(init);
	free_op(op);
}

static void our_own_namespace(void **state)
{
	struct op *op = new_op();
	struct proc_status st = { .nspid = { { 7 }, 1 } };
	struct pids *p;

	(void)state;
	assert_int_equal(pids_begin(op, getpid(), &p), 0);
	assert_null(p);
	assert_int_equal(pids_inside(p, 12345), 12345);
	assert_int_equal(pids_host(p, 12345), 12345);
	assert_int_equal(pids_of_status(p, &st), 7);
	assert_int_equal(pids_add_task(op, p, 12345), 0);
	assert_int_equal(pids_begin(op, 0x3fffffff, &p), CKPT_E_NO_PROCESS);
	free_op(op);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table_of_two_levels),
		cmocka_unit_test(our_own_namespace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
