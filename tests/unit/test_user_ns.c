/* SPDX-License-Identifier: MIT */
/* User namespaces: numbers inside and outside, maps of /proc and of images, and the depot. The last needs root. */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "lib/image/image.h"
#include "lib/kernel/depot.h"
#include "lib/kernel/proc/proc.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/ns/core.h"
#include "tests/unit/proc_text.h"

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

static void maps(void **state)
{
	CLEAN struct text t = load("uid-map"), full = load("uid-map-full");
	static const char *const bad[] = { "0 0", "0 0 0", "0 0 1 1", "4294967295 0 2", "0 4294967295 2", "-1 0 1", "a", "0 0 4294967296" };
	struct arena *a = *state;
	struct proc_id_map m;

	assert_int_equal(proc_parse_id_map(a, t.p, t.n, &m), 0);
	assert_int_equal(m.v.n, 3);
	assert_int_equal(m.v.v[1].inside, 70000);
	assert_int_equal(m.v.v[1].outside, 1000);
	assert_int_equal(m.v.v[0].count, 65536);
	assert_int_equal(proc_parse_id_map(a, full.p, full.n, &m), 0);
	assert_int_equal(m.v.v[0].count, 4294967295u);
	assert_int_equal(proc_parse_id_map(a, "", 0, &m), 0);
	assert_int_equal(m.v.n, 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(proc_parse_id_map(a, bad[i], strlen(bad[i]), &m), -1);
}

/* ------------------------------------------------------------------------------------------------ numbers */

static void numbers(void **state)
{
	struct snapshot s = { 0 };
	struct snap_ns ours[NS_N] = { { 0 } }, own = { .kind = NS_USER, .id = 9, .fd = -1 };
	struct snap_task task = { 0 };
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	struct ns_state ns = { 0 };
	struct snap_ns *v[NS_N + 1];
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	UidGidExtent a = UID_GID_EXTENT__INIT, b = UID_GID_EXTENT__INIT, *extents[] = { &a, &b };
	UsernsEntry e = USERNS_ENTRY__INIT;
	struct {
		UsernsEntry *e;
		UserNsExtra *extra;
	} priv = { &e, NULL };
	uint32_t uid, gid;

	(void)state;
	s.inventory = &inventory;
	assert_int_equal(ns_uid_inside(&s, 1000), 1000);
	for (unsigned k = 0; k < NS_N; k++) {
		ours[k] = (struct snap_ns){ .kind = k, .id = k + 1, .ours = true, .fd = -1 };
		v[k] = &ours[k];
	}
	v[NS_N] = &own;
	ns.v.v = v;
	ns.v.n = NS_N + 1;
	ids.has_user_ns_id = 1;
	ids.user_ns_id = 9;
	task.ids = &ids;
	s.ns = &ns;
	s.tasks.v = &task;
	s.tasks.n = 1;
	assert_int_equal(ns_uid_inside(&s, 1000), (uint32_t)-1); /* no map */
	a.first = 0, a.lower_first = 100000, a.count = 65536;
	b.first = 70000, b.lower_first = 1000, b.count = 1;
	e.uid_map = extents;
	e.n_uid_map = 2;
	own.priv = &priv;
	assert_int_equal(ns_uid_inside(&s, 100000), 0);
	assert_int_equal(ns_uid_inside(&s, 165535), 65535);
	assert_int_equal(ns_uid_inside(&s, 165536), (uint32_t)-1);
	assert_int_equal(ns_uid_inside(&s, 1000), 70000);
	assert_int_equal(ns_uid_inside(&s, 0), (uint32_t)-1);
	assert_int_equal(ns_uid_outside(&s, 70000), 1000);
	assert_int_equal(ns_uid_outside(&s, 70001), (uint32_t)-1);
	assert_int_equal(ns_gid_inside(&s, 1000), (uint32_t)-1);
	assert_int_equal(ns_uid_inside(&s, (uint32_t)-1), (uint32_t)-1);
	ns_user_first(&s, &uid, &gid);
	assert_int_equal(uid, 0);
	a.first = 5;
	ns_user_first(&s, &uid, &gid);
	assert_int_equal(uid, 5);
	assert_int_equal(gid, 0);
}

/* ------------------------------------------------------------------------------------------------- a depot */

struct other {
	pid_t pid;
	int user_ns, ask[2], answer[2];
};

/* A process that has our descriptors, and all rights in a user namespace of its own: tries to take from pidfds. */
static int take(struct other *o)
{
	int v[2];

	if (unshare(CLONE_NEWUSER) < 0 || write(o->answer[1], v, sizeof(int)) != sizeof(int))
		return 1;
	while (read(o->ask[0], v, sizeof(v)) == sizeof(v)) {
		int fd = sys_pidfd_getfd(v[0], v[1]), eno = fd < 0 ? errno : 0;

		close_fd_p(&fd);
		if (write(o->answer[1], &eno, sizeof(eno)) != sizeof(eno))
			return 1;
	}
	return 0;
}

static bool start_other(struct other *o)
{
	struct clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	char path[64];
	int byte;

	assert_int_equal(pipe2(o->ask, O_CLOEXEC) | pipe2(o->answer, O_CLOEXEC), 0);
	o->pid = (pid_t)syscall(__NR_clone3, &args, sizeof(args));
	if (!o->pid)
		_exit(take(o));
	if (read(o->answer[0], &byte, sizeof(byte)) != sizeof(byte))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", o->pid);
	o->user_ns = open(path, O_RDONLY | O_CLOEXEC);
	return o->user_ns >= 0;
}

static int ask(struct other *o, int pidfd, int fd)
{
	int v[2] = { pidfd, fd }, eno;

	assert_int_equal(write(o->ask[1], v, sizeof(v)), sizeof(v));
	assert_int_equal(read(o->answer[0], &eno, sizeof(eno)), sizeof(eno));
	return eno;
}

static void end_other(struct other *o)
{
	kill(o->pid, SIGKILL);
	waitpid(o->pid, NULL, 0);
	close(o->user_ns);
	for (int i = 0; i < 2; i++) {
		close(o->ask[i]);
		close(o->answer[i]);
	}
}

static void depot(void **state)
{
	int pidfd = -1, late, self = sys_pidfd_open(getpid(), 0), dumpable = prctl(PR_GET_DUMPABLE);
	struct op *op = new_op();
	struct depot *d = NULL;
	struct other o, stranger;

	(void)state;
	if (geteuid()) {
		free_op(op);
		skip();
	}
	assert_true(start_other(&o) && start_other(&stranger));
	assert_int_equal(depot_open(op, o.user_ns, &d, &pidfd), 0);
	late = open("/dev/null", O_RDONLY | O_CLOEXEC); /* opened later, it is there as well */
	assert_int_equal(ask(&o, pidfd, late), 0);
	assert_int_equal(ask(&o, self, late), EPERM); /* what it is good for */
	assert_int_equal(ask(&stranger, pidfd, late), EPERM);
	close(late);
	assert_int_equal(ask(&o, pidfd, late), EBADF);
	assert_int_equal(prctl(PR_GET_DUMPABLE), dumpable);
	depot_close(d);
	assert_int_equal(ask(&o, pidfd, self), ESRCH);
	close(pidfd);
	close(self);
	end_other(&o);
	end_other(&stranger);
	free_op(op);
}

static void no_namespace(void **state)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), pidfd = -1;
	struct op *op = new_op();
	struct depot *d = NULL;

	(void)state;
	assert_true(depot_open(op, null, &d, &pidfd) < 0);
	assert_null(d);
	assert_int_equal(pidfd, -1);
	assert_non_null(strstr(ckpt_err_message(op->err), "enter the user namespace"));
	close(null);
	free_op(op);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(maps, setup, teardown),
		cmocka_unit_test(numbers),
		cmocka_unit_test(depot),
		cmocka_unit_test(no_namespace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
