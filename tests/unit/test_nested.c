/* SPDX-License-Identifier: MIT */
/* Numbers in nested PID namespaces, as images say them, and as images that lie say them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/state/msg.h"
#include "lib/state/ns/nested.h"
#include "lib/state/ns/ns.h"

#define ROOT_NS 9
#define BELOW 10

struct env {
	struct ckpt_opts opts;
	struct op op;
	struct snapshot s;
};

static struct snap_ns *add_ns(struct env *e, enum ns_kind kind, uint32_t id)
{
	struct snap_ns *ns = op_new(&e->op, struct snap_ns), **slot = ARRAY_ADD(e->op.arena, &e->s.ns->v);

	*ns = (struct snap_ns){ .kind = kind, .id = id, .fd = -1 };
	*slot = ns;
	return ns;
}

static void add_task(struct env *e, pid_t pid, uint32_t parent, uint32_t ns)
{
	struct snap_task *t = ARRAY_ADD(e->op.arena, &e->s.tasks);
	struct snap_thread *th = ARRAY_ADD(e->op.arena, &t->threads);

	t->pid = th->tid = pid;
	t->ps = msg_new(&e->op, PstreeEntry, pstree_entry);
	t->ps->pid = (uint32_t)pid;
	t->ps->ppid = parent;
	t->dead = !ns;
	if (!ns)
		return;
	t->ids = msg_new(&e->op, TaskKobjIdsEntry, task_kobj_ids_entry);
	msg_set(t->ids, pid_ns_id, ns);
}

static PidLevelsEntry *add_numbers(struct env *e, uint32_t pid, uint32_t ns, uint32_t inner)
{
	PidLevelsEntry *m = msg_new(&e->op, PidLevelsEntry, pid_levels_entry);
	CkptExtraEntry *x = e->s.extra;

	m->pid = pid;
	m->ns_id = ns;
	m->inner = op_alloc(&e->op, 64 * sizeof(*m->inner));
	m->inner[m->n_inner++] = inner;
	x->nested_pids[x->n_nested_pids++] = m;
	return m;
}

/* 1 is the root, 20 its child and the init of a namespace in which 21 and the zombie 22 are; 30 is another child. */
static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts };
	e->s.ns = op_new(&e->op, struct ns_state);
	for (unsigned k = 0; k < NS_N; k++)
		add_ns(e, k, k + 1)->ours = true;
	add_ns(e, NS_PID, ROOT_NS);
	add_ns(e, NS_PID, BELOW);
	add_task(e, 1, 0, ROOT_NS);
	add_task(e, 20, 1, BELOW);
	add_task(e, 30, 1, ROOT_NS);
	add_task(e, 21, 20, BELOW);
	add_task(e, 22, 20, 0);
	e->s.extra = msg_new(&e->op, CkptExtraEntry, ckpt_extra_entry);
	e->s.extra->nested_pids = op_alloc(&e->op, 16 * sizeof(*e->s.extra->nested_pids));
	add_numbers(e, 22, BELOW, 3);
	add_numbers(e, 20, BELOW, 1);
	add_numbers(e, 21, BELOW, 2);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static void who_sees_whom(void **state)
{
	struct env *e = *state;
	const struct snap_task *t = e->s.tasks.v;
	int32_t v[NESTED_MAX + 1];

	assert_int_equal(nested_read(&e->op, &e->s), 0);
	assert_int_equal(nested_seen(&e->s, &t[0], 21), 21);
	assert_int_equal(nested_seen(&e->s, NULL, 21), 21);
	assert_int_equal(nested_seen(&e->s, &t[2], 20), 20);
	assert_int_equal(nested_seen(&e->s, &t[1], 20), 1);
	assert_int_equal(nested_seen(&e->s, &t[3], 22), 3);
	assert_int_equal(nested_seen(&e->s, &t[3], 30), 0);
	assert_int_equal(nested_seen(&e->s, &t[3], 0), 0);
	assert_int_equal(nested_numbers(&e->s, 21, v), 2);
	assert_true(v[0] == 2 && v[1] == 21);
	assert_int_equal(nested_numbers(&e->s, 30, v), 1);
	assert_int_equal(v[0], 30);
	assert_true(nested_is_init(&e->s, 20) && !nested_is_init(&e->s, 21) && !nested_is_init(&e->s, 1));
}

static void bad_numbers(void **state)
{
	struct env *e = *state;
	PidLevelsEntry *m = e->s.extra->nested_pids[2];
	const struct {
		uint32_t *field, value;
	} lies[] = {
		{ &m->pid, 0 }, { &m->pid, UINT32_MAX }, { &m->pid, 20 }, { &m->pid, 1 }, { &m->pid, 30 }, { &m->pid, 40 },
		{ &m->ns_id, 77 }, { &m->ns_id, ROOT_NS }, { &m->inner[0], 0 }, { &m->inner[0], UINT32_MAX },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		uint32_t was = *lies[i].field;

		*lies[i].field = lies[i].value;
		assert_int_equal(nested_read(&e->op, &e->s), CKPT_E_IMAGE);
		op_forget(&e->op);
		*lies[i].field = was;
	}
	m->n_inner = 2; /* more than its parent */
	m->inner[1] = 5;
	assert_int_equal(nested_read(&e->op, &e->s), CKPT_E_IMAGE);
	op_forget(&e->op);
	m->n_inner = 64;
	assert_int_equal(nested_read(&e->op, &e->s), CKPT_E_IMAGE);
	op_forget(&e->op);
	m->n_inner = 1;
	assert_int_equal(nested_read(&e->op, &e->s), 0);
	/* An init must be number 1; who is not has come from outside. */
	e->s.extra->nested_pids[1]->inner[0] = 7;
	assert_int_equal(nested_read(&e->op, &e->s), CKPT_E_UNSUPPORTED);
	op_forget(&e->op);
	e->s.extra->n_nested_pids = 0;
	assert_int_equal(nested_read(&e->op, &e->s), CKPT_E_IMAGE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(who_sees_whom, setup, teardown),
		cmocka_unit_test_setup_teardown(bad_numbers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
