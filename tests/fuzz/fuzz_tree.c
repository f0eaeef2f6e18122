/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a tree of processes: eight a process (number, parent, session, group, flags, shared objects). Whatever can be
 * planned must be a tree in which everybody is forked once, by somebody who exists by then, and ends up with his parent.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/engine/tree.h"
#include "lib/state/msg.h"
#include "tests/fuzz/fuzz.h"

#define TASKS_MAX 24

static void task_from(struct op *op, struct snap_task *t, const uint8_t *d, size_t i)
{
	struct snap_thread *th = ARRAY_ADD(op->arena, &t->threads);

	t->ps = msg_new(op, PstreeEntry, pstree_entry);
	th->core = msg_new(op, CoreEntry, core_entry);
	th->core->tc = msg_new(op, TaskCoreEntry, task_core_entry);
	t->pid = th->tid = 1 + d[0] % 32;
	t->ps->pid = (uint32_t)t->pid;
	t->ps->ppid = i ? d[1] % 34 : d[1] % 16 == 15;
	t->ps->sid = d[2] % 34;
	t->ps->pgid = d[3] % 34;
	t->dead = d[4] & 1 && i;
	msg_set(th->core->tc, child_subreaper, d[4] >> 1 & 1);
	if (t->dead)
		return;
	t->ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);
	t->ids->vm_id = d[5] & 0x80 ? d[5] & 7 : 100 + (uint32_t)i;
	t->ids->files_id = d[6] & 0x80 ? d[6] & 7 : 100 + (uint32_t)i;
	t->ids->fs_id = d[7] & 0x80 ? d[7] & 7 : 100 + (uint32_t)i;
	t->ids->sighand_id = d[6] & 0x40 ? d[6] & 7 : 100 + (uint32_t)i;
	t->mm = msg_new(op, MmEntry, mm_entry);
}

#define MUST(cond) ((cond) ? (void)0 : broken(#cond))

static void broken(const char *what)
{
	fprintf(stderr, "not true: %s\n", what);
	abort();
}

static size_t parent_in_the_end(const struct tree *t, size_t i)
{
	const struct tree_node *n = &t->nodes.v[i];

	if (n->creator == TREE_NONE)
		return TREE_NONE;
	if (n->as_sibling)
		return t->nodes.v[n->creator].parent;
	if (t->nodes.v[n->creator].kind == TREE_STEP)
		return n->parent; /* adopted */
	return n->creator;
}

static void check(const struct snapshot *s, const struct tree *t)
{
	bool seen[TASKS_MAX] = { false };

	MUST(t->nodes.n >= s->tasks.n && t->nodes.v[0].task == 0);
	for (size_t i = 0; i < t->nodes.n; i++) {
		const struct tree_node *n = &t->nodes.v[i];

		MUST((i == 0) == (n->creator == TREE_NONE));
		MUST(i == 0 || n->creator < i);
		/* One that ends may fork before that, but has no children then; helpers are waited for by those that live. */
		MUST(n->kind == TREE_STEP || n->parent == TREE_NONE || t->nodes.v[n->parent].kind != TREE_ZOMBIE);
		if (n->task == TREE_NONE)
			continue;
		MUST(!seen[n->task]);
		MUST(parent_in_the_end(t, i) == n->parent);
		seen[n->task] = true;
		MUST(n->setsid == (s->tasks.v[n->task].ps->sid == s->tasks.v[n->task].ps->pid));
	}
	for (size_t i = 0; i < s->tasks.n; i++)
		MUST(seen[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts };
	struct snapshot s = { 0 };
	struct tree t;
	size_t n = size / 8 < TASKS_MAX ? size / 8 : TASKS_MAX;

	if (!op.arena)
		abort();
	for (size_t i = 0; i < n; i++) {
		struct snap_task *task = ARRAY_ADD(op.arena, &s.tasks);

		if (!task)
			abort();
		task_from(&op, task, data + 8 * i, i);
	}
	if (n && !s.tasks.v[0].dead && tree_plan(&op, &s, &t) == 0)
		check(&s, &t);
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return 0;
}

/* Trees that can be made: plain ones, orphans, sessions and groups without a leader, shared objects. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const uint8_t seeds[][40] = {
		{ 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 2, 1, 3, 3, 0, 0, 0, 0, 3, 3, 3, 3, 1, 0, 0, 0 },
		{ 0, 0, 1, 1, 2, 0, 0, 0, 1, 1, 9, 9, 0, 0, 0, 0, 2, 1, 9, 9, 0, 0, 0, 0, 3, 1, 1, 8, 0, 0, 0, 0 },
		{ 0, 0, 1, 1, 2, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 3, 3, 0, 0, 0, 0, 3, 1, 3, 3, 0, 0, 0, 0 },
		{ 0, 0, 1, 1, 0, 0x81, 0x81, 0x81, 1, 1, 1, 1, 0, 0x81, 0xc1, 0x81, 2, 1, 2, 2, 0, 0, 0, 0, 3, 3, 1, 1, 0, 0, 0, 0 },
		{ 0, 0, 7, 7, 0, 0, 0, 0, 1, 1, 7, 7, 0, 0, 0, 0, 2, 2, 3, 3, 0, 0, 0, 0, 3, 3, 7, 7, 0, 0, 0, 0 },
	};

	if (i >= sizeof(seeds) / sizeof(*seeds) || cap < sizeof(*seeds))
		return 0;
	memcpy(buf, seeds[i], sizeof(*seeds));
	return 32;
}
