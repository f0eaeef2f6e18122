/* SPDX-License-Identifier: MIT */
/* How trees of processes are planned: who forks whom, when, and what cannot be made. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <linux/sched.h>

#include "lib/engine/tree.h"
#include "lib/state/msg.h"

struct env {
	struct ckpt_opts opts;
	struct op op;
	struct snapshot s;
	struct tree t;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op.arena = arena_new();
	e->op.opts = &e->opts;
	*state = e;
	return e->op.arena ? 0 : -1;
}

static int teardown(void **state)
{
	struct env *e = *state;

	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static struct snap_task *add(struct env *e, pid_t pid, pid_t ppid, pid_t sid, pid_t pgid)
{
	struct snap_task *t = ARRAY_ADD(e->op.arena, &e->s.tasks);
	struct snap_thread *th = ARRAY_ADD(e->op.arena, &t->threads);
	uint32_t id = 10 + (uint32_t)e->s.tasks.n;

	t->pid = th->tid = pid;
	t->ps = msg_new(&e->op, PstreeEntry, pstree_entry);
	t->ps->pid = (uint32_t)pid, t->ps->ppid = (uint32_t)ppid, t->ps->sid = (uint32_t)sid, t->ps->pgid = (uint32_t)pgid;
	t->mm = msg_new(&e->op, MmEntry, mm_entry);
	t->ids = msg_new(&e->op, TaskKobjIdsEntry, task_kobj_ids_entry);
	t->ids->vm_id = t->ids->files_id = t->ids->fs_id = t->ids->sighand_id = id;
	th->core = msg_new(&e->op, CoreEntry, core_entry);
	th->core->tc = msg_new(&e->op, TaskCoreEntry, task_core_entry);
	return t;
}

static void reaper(struct snap_task *t)
{
	msg_set(t->threads.v[0].core->tc, child_subreaper, true);
}

static const struct tree_node *node(const struct env *e, pid_t pid)
{
	for (size_t i = 0; i < e->t.nodes.n; i++)
		if (e->t.nodes.v[i].pid == pid)
			return &e->t.nodes.v[i];
	fail_msg("there is no process %d", pid);
	return NULL;
}

static const struct tree_node *creator(const struct env *e, pid_t pid)
{
	return &e->t.nodes.v[node(e, pid)->creator];
}

static void planned(struct env *e)
{
	if (tree_plan(&e->op, &e->s, &e->t) != 0)
		fail_msg("%s", ckpt_err_message(e->op.err));
}

static void refused(struct env *e, int code, const char *word)
{
	assert_int_equal(tree_plan(&e->op, &e->s, &e->t), code);
	assert_non_null(strstr(ckpt_err_message(e->op.err), word));
}

static void test_plain(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 10, 10, 10);
	add(e, 12, 10, 12, 12);
	add(e, 13, 12, 12, 13);
	planned(e);
	assert_int_equal(e->t.nodes.n, 4);
	assert_false(e->t.helpers);
	assert_int_equal(creator(e, 13)->pid, 12);
	assert_true(node(e, 12)->setsid);
	assert_true(node(e, 13)->leads_group);
	assert_int_equal(node(e, 11)->join, 10);
}

static void test_dead_leaders(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 10, 20, 20); /* session 20 has no leader */
	add(e, 12, 10, 20, 20);
	add(e, 13, 10, 10, 30); /* nor has group 30 */
	add(e, 14, 10, 10, 30);
	planned(e);
	assert_true(e->t.helpers);
	assert_int_equal(e->t.nodes.n, 7);
	assert_int_equal(node(e, 20)->kind, TREE_LEADER);
	assert_true(node(e, 20)->setsid);
	assert_int_equal(creator(e, 20)->pid, 10);
	assert_int_equal(creator(e, 11)->pid, 20);
	assert_true(node(e, 11)->as_sibling && node(e, 12)->as_sibling);
	assert_int_equal(creator(e, 30)->pid, 13);
	assert_int_equal(node(e, 14)->join, 30);
}

static void test_adopted(void **state)
{
	struct env *e = *state;

	reaper(add(e, 10, 0, 10, 10));
	add(e, 11, 10, 10, 10);
	add(e, 12, 11, 12, 12);
	add(e, 13, 10, 12, 12); /* an orphan of that session */
	planned(e);
	assert_int_equal(creator(e, 13)->kind, TREE_STEP);
	assert_int_equal(e->t.nodes.v[creator(e, 13)->creator].pid, 12);
	assert_int_equal(e->t.nodes.v[node(e, 13)->parent].pid, 10);
}

static void test_nobody_adopts(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 10, 10, 10);
	add(e, 12, 11, 12, 12);
	add(e, 13, 10, 12, 12);
	refused(e, CKPT_E_UNSUPPORTED, "13");
}

static void test_child_of_the_old_session(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 10, 11, 11);
	add(e, 12, 11, 10, 10); /* forked before its parent began a session */
	add(e, 13, 11, 11, 11);
	planned(e);
	assert_int_equal(node(e, 12)->when, TREE_EARLY_OUTSIDE);
	assert_int_equal(node(e, 13)->when, TREE_EARLY);
	assert_false(e->t.helpers);
}

static void test_outside(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 5, 6); /* in the session and group of a shell */
	add(e, 11, 10, 5, 6);
	add(e, 12, 10, 5, 12);
	planned(e);
	assert_true(e->t.outside);
	assert_int_equal(e->t.outside_sid, 5);
	assert_int_equal(e->t.outside_pgid, 6);
	assert_int_equal(node(e, 11)->join, 0);
	assert_false(e->t.helpers);
}

static void test_zombies(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 10, 10, 40)->dead = true; /* in a group without a leader */
	planned(e);
	assert_int_equal(node(e, 11)->kind, TREE_ZOMBIE);
	assert_int_equal(creator(e, 40)->pid, 10);
}

static void test_sharing(void **state)
{
	struct env *e = *state;
	struct snap_task *a, *b;

	a = add(e, 10, 0, 10, 10);
	b = add(e, 11, 10, 10, 10);
	b->mm = NULL;
	b->ids->vm_id = a->ids->vm_id;
	b->ids->files_id = a->ids->files_id;
	planned(e);
	assert_int_equal(node(e, 11)->shares, CLONE_VM | CLONE_FILES);
	assert_int_equal(node(e, 11)->when, TREE_LATE);
	b->ids->sighand_id = a->ids->sighand_id;
	b->ids->vm_id = 99;
	refused(e, CKPT_E_IMAGE, "signal actions");
}

static void test_sharing_with_a_sibling(void **state)
{
	struct env *e = *state;
	struct snap_task *a;

	add(e, 10, 0, 10, 10);
	a = add(e, 11, 10, 10, 10);
	add(e, 12, 10, 10, 10)->ids->vm_id = a->ids->vm_id;
	e->s.tasks.v[2].mm = NULL;
	refused(e, CKPT_E_UNSUPPORTED, "did not fork it");
}

static void test_lies(void **state)
{
	struct env *e = *state;

	add(e, 10, 0, 10, 10);
	add(e, 11, 12, 10, 10); /* its parent comes later */
	add(e, 12, 10, 10, 10);
	refused(e, CKPT_E_IMAGE, "does not come before");
	e->s.tasks.v[1].ps->ppid = 10;
	e->s.tasks.v[2].pid = 11;
	ckpt_err_free(e->op.err);
	e->op.err = NULL;
	refused(e, CKPT_E_IMAGE, "twice");
	e->s.tasks.v[2].pid = 12;
	e->s.tasks.v[1].dead = true;
	e->s.tasks.v[2].ps->ppid = 11;
	ckpt_err_free(e->op.err);
	e->op.err = NULL;
	refused(e, CKPT_E_IMAGE, "zombie");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_plain),   TEST(test_dead_leaders), TEST(test_adopted), TEST(test_nobody_adopts),
		TEST(test_child_of_the_old_session), TEST(test_outside), TEST(test_zombies), TEST(test_sharing),
		TEST(test_sharing_with_a_sibling), TEST(test_lies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
