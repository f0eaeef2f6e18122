/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as numbers in nested PID namespaces: four a task (number, parent, namespace, dead), then six an entry. What is taken
 * must answer every question, and nobody sees a process under a number that is none.
 */
#include <stdlib.h>
#include <string.h>

#include "lib/state/msg.h"
#include "lib/state/ns/nested.h"
#include "lib/state/ns/ns.h"
#include "tests/fuzz/fuzz.h"

#define TASKS 6
#define FIRST_NS 9
#define N_NS 4

static void add_ns(struct op *op, struct snapshot *s, enum ns_kind kind, uint32_t id, bool ours)
{
	struct snap_ns *ns = op_new(op, struct snap_ns), **slot = ARRAY_ADD(op->arena, &s->ns->v);

	*ns = (struct snap_ns){ .kind = kind, .id = id, .fd = -1, .ours = ours };
	*slot = ns;
}

static void add_task(struct op *op, struct snapshot *s, const uint8_t *d)
{
	struct snap_task *t = ARRAY_ADD(op->arena, &s->tasks);
	struct snap_thread *th = ARRAY_ADD(op->arena, &t->threads);

	t->pid = th->tid = 1 + d[0] % 16;
	t->ps = msg_new(op, PstreeEntry, pstree_entry);
	t->ps->pid = (uint32_t)t->pid;
	t->ps->ppid = d[1] % 18;
	t->dead = d[3] & 1;
	if (t->dead)
		return;
	t->ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);
	msg_set(t->ids, pid_ns_id, d[2] & 0x80 ? NS_PID + 1 : FIRST_NS + d[2] % N_NS);
}

static void add_entry(struct op *op, CkptExtraEntry *x, const uint8_t *d)
{
	PidLevelsEntry *m = msg_new(op, PidLevelsEntry, pid_levels_entry);

	m->pid = d[0] % 18;
	m->ns_id = FIRST_NS + d[1] % (N_NS + 1);
	m->n_inner = d[2] & 0x80 ? d[2] & 0x3f : d[2] % 4;
	m->inner = op_alloc(op, (m->n_inner + 1) * sizeof(*m->inner));
	for (size_t i = 0; i < m->n_inner; i++)
		m->inner[i] = d[3 + i % 3];
	x->nested_pids[x->n_nested_pids++] = m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts };
	struct snapshot s = { 0 };
	int32_t v[NESTED_MAX + 1];

	if (size < 4 * TASKS) {
		arena_free(op.arena);
		return 0;
	}
	s.ns = op_new(&op, struct ns_state);
	s.extra = msg_new(&op, CkptExtraEntry, ckpt_extra_entry);
	s.extra->nested_pids = op_alloc(&op, (size / 6 + 1) * sizeof(*s.extra->nested_pids));
	for (unsigned k = 0; k < NS_N; k++)
		add_ns(&op, &s, k, k + 1, true);
	for (uint32_t i = 0; i < N_NS; i++)
		add_ns(&op, &s, NS_PID, FIRST_NS + i, false);
	for (size_t i = 0; i < TASKS; i++)
		add_task(&op, &s, data + 4 * i);
	for (size_t at = 4 * TASKS; at + 6 <= size; at += 6)
		add_entry(&op, s.extra, data + at);
	for (size_t i = 0; nested_read(&op, &s) == 0 && i < s.tasks.n; i++)
		for (pid_t n = 0; n < 18; n++) {
			if (nested_seen(&s, &s.tasks.v[i], n) < 0 || nested_numbers(&s, n, v) > NESTED_MAX + 1)
				abort();
			nested_is_init(&s, n);
		}
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return 0;
}

/* The root, two of its children, and a namespace with two processes and a zombie. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const uint8_t seed[] = {
		0, 0, 0, 0, 1, 1, 1, 0, 2, 1, 0, 0, 3, 2, 1, 0, 4, 2, 0, 1, 5, 1, 0, 0, /* tasks */
		2, 1, 1, 1, 0, 0, 4, 1, 1, 2, 0, 0, 5, 1, 1, 3, 0, 0,
	};

	if (i || cap < sizeof(seed))
		return 0;
	memcpy(buf, seed, sizeof(seed));
	return sizeof(seed);
}
