/* SPDX-License-Identifier: MIT */
/* The table of namespaces, as a restore reads it from images that may lie. Nothing is made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <sys/stat.h>

#include "lib/state/ns/ns.h"

#define N_TASKS 3

struct env {
	char images[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
	struct snapshot s;
	InventoryEntry inventory;
	TaskKobjIdsEntry root, ids[N_TASKS];
	struct snap_task tasks[N_TASKS];
};

static void fill(TaskKobjIdsEntry *ids, uint32_t first)
{
	task_kobj_ids_entry__init(ids);
	for (unsigned k = 0; k < NS_N; k++) {
		*(protobuf_c_boolean *)((char *)ids + ns_info[k].has_id) = 1;
		*(uint32_t *)((char *)ids + ns_info[k].id) = first + k;
	}
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	strcpy(e->images, "/tmp/test-ns-XXXXXX");
	if (!mkdtemp(e->images))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->images;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	inventory_entry__init(&e->inventory);
	fill(&e->root, 1);
	e->inventory.root_ids = &e->root;
	e->s.inventory = &e->inventory;
	e->s.tasks.v = e->tasks;
	e->s.tasks.n = N_TASKS;
	for (int i = 0; i < N_TASKS; i++) {
		fill(&e->ids[i], 1);
		e->tasks[i].pid = 100 + i;
		e->tasks[i].ids = &e->ids[i];
	}
	*state = e;
	return img_dir_create(&e->op, &e->s.dir);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct env *e = *state;

	ns_done(&e->s);
	img_dir_close(e->s.dir);
	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	nftw(e->images, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

static void all_ours(void **state)
{
	struct env *e = *state;

	assert_int_equal(ns_read(&e->op, &e->s), 0);
	for (unsigned k = 0; k < NS_N; k++) {
		assert_true(ns_of(&e->s, &e->tasks[2], k)->ours);
		assert_null(ns_own(&e->s, k));
	}
	assert_int_equal(ns_clone_flags(&e->s), 0);
	assert_int_equal(ns_visit(&e->op, &e->s, true), 0); /* nowhere */
}

/* An image without the ids of newer kinds. */
static void ids_that_are_not_there(void **state)
{
	struct env *e = *state;

	e->ids[0].has_time_ns_id = e->ids[0].has_cgroup_ns_id = 0;
	e->tasks[1].ids = NULL; /* a zombie */
	assert_int_equal(ns_read(&e->op, &e->s), 0);
	assert_true(ns_of(&e->s, &e->tasks[0], NS_TIME)->ours);
	assert_true(ns_of(&e->s, &e->tasks[1], NS_PID)->ours);
}

static void own_ones(void **state)
{
	struct env *e = *state;

	for (int i = 0; i < N_TASKS; i++) {
		e->ids[i].pid_ns_id = 20;
		e->ids[i].ipc_ns_id = 21;
		e->ids[i].cgroup_ns_id = 22;
	}
	assert_int_equal(ns_read(&e->op, &e->s), 0);
	assert_int_equal(ns_own(&e->s, NS_PID)->id, 20);
	assert_ptr_equal(ns_of(&e->s, &e->tasks[1], NS_PID), ns_own(&e->s, NS_PID));
	assert_int_equal(ns_clone_flags(&e->s), CLONE_NEWPID | CLONE_NEWIPC); /* that of cgroups is made later */
	assert_int_equal(ns_where(&e->s).pid, -1);
	assert_null(ns_find(&e->s, NS_NET, 20));
}

static void external_network(void **state)
{
	NetnsEntry m = NETNS_ENTRY__INIT;
	static const char *const fds[] = { "fd[2]:theKey" };
	struct env *e = *state;

	m.ext_key = (char *)"theKey";
	for (int i = 0; i < N_TASKS; i++)
		e->ids[i].net_ns_id = 30;
	assert_int_equal(img_write_one(&e->op, e->s.dir, IMG_NETNS, 30, &m.base), 0);
	assert_int_equal(ns_read(&e->op, &e->s), CKPT_E_INVAL);
	assert_non_null(strstr(ckpt_err_message(e->op.err), "theKey"));
	op_forget(&e->op);
	e->opts.inherit_fd = (struct ckpt_strv){ fds, 1 };
	assert_int_equal(ns_read(&e->op, &e->s), 0);
	assert_true(ns_own(&e->s, NS_NET)->joined);
	assert_int_equal(ns_clone_flags(&e->s), 0);
}

static void too_many(void **state)
{
	struct env *e = *state;
	struct snap_task *tasks = calloc(6000, sizeof(*tasks));
	TaskKobjIdsEntry *ids = calloc(6000, sizeof(*ids));

	for (int i = 0; i < 6000; i++) {
		fill(&ids[i], 1);
		ids[i].uts_ns_id = 100 + (uint32_t)i;
		tasks[i].pid = i + 1;
		tasks[i].ids = &ids[i];
	}
	e->s.tasks.v = tasks;
	e->s.tasks.n = 6000;
	assert_int_equal(ns_read(&e->op, &e->s), CKPT_E_IMAGE);
	free(tasks);
	free(ids);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_ours, setup, teardown),
		cmocka_unit_test_setup_teardown(ids_that_are_not_there, setup, teardown),
		cmocka_unit_test_setup_teardown(own_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(external_network, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
