/* SPDX-License-Identifier: MIT */
/* Images of the process tree into the snapshot. What must be there is there afterwards; what it says is checked later. */
#include "lib/engine/restore_parts.h"
#include "lib/state/pieces.h"

#define MAX_THREADS 262144
#define TASK_DEAD 2

static int missing(struct op *op, enum img_kind kind, uint64_t id)
{
	char name[64];

	return op_fail(op, CKPT_E_IMAGE, AT(.hint = "the folder is not a whole checkpoint"), "%s is missing",
		       img_name(kind, id, name, sizeof(name)));
}

static int read_needed(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, void *msg)
{
	ProtobufCMessage *m = NULL;
	int r = img_read_one(op, s->dir, kind, id, &m);

	if (r == IMG_ABSENT)
		return missing(op, kind, id);
	*(ProtobufCMessage **)msg = m;
	return r;
}

static int read_optional(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, void *msg)
{
	ProtobufCMessage *m = NULL;
	int r = img_read_one(op, s->dir, kind, id, &m);

	if (r == IMG_ABSENT)
		return 0;
	*(ProtobufCMessage **)msg = m;
	return r;
}

static int add_thread(struct op *op, struct snapshot *s, struct snap_task *t, pid_t tid)
{
	struct snap_thread *th = ARRAY_ADD(op->arena, &t->threads);

	if (!th)
		return op_nomem(op);
	th->tid = tid;
	return read_needed(op, s, IMG_CORE, (uint64_t)tid, &th->core);
}

static int read_threads(struct op *op, struct snapshot *s, struct snap_task *t)
{
	const PstreeEntry *ps = t->ps;
	int r = 0;

	/* Of a zombie nothing is said about threads that could be relied on. */
	r = add_thread(op, s, t, t->pid);
	if (r)
		return r;
	t->dead = t->threads.v[0].core->tc && t->threads.v[0].core->tc->task_state == TASK_DEAD;
	if (t->dead)
		return 0;
	if (!ps->n_threads || ps->threads[0] != ps->pid || ps->n_threads > MAX_THREADS)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "pstree.img: the threads of task %d make no sense", t->pid);
	for (size_t i = 1; i < ps->n_threads && !r; i++) {
		if (!ps->threads[i] || ps->threads[i] > INT32_MAX)
			return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "pstree.img: thread %u of task %d makes no sense",
				       ps->threads[i], t->pid);
		r = add_thread(op, s, t, (pid_t)ps->threads[i]);
		if (!r && i % 256 == 0)
			r = op_check_cancel(op);
	}
	return r;
}

static int read_pagemap(struct op *op, struct snapshot *s, struct snap_task *t)
{
	int r = pagemap_read(op, s->dir, IMG_PAGEMAP, (uint64_t)t->pid, &t->pagemap);

	return r == IMG_ABSENT ? missing(op, IMG_PAGEMAP, (uint64_t)t->pid) : r;
}

/* With a task that came before it, whose images have the memory. */
static bool shares_memory(const struct snapshot *s, const struct snap_task *t)
{
	for (size_t i = 0; s->inventory->root_ids && i + 1 < s->tasks.n; i++)
		if (s->tasks.v[i].mm && s->tasks.v[i].ids->vm_id == t->ids->vm_id)
			return true;
	return false;
}

static int read_task(struct op *op, struct snapshot *s, PstreeEntry *ps)
{
	struct snap_task *t = ARRAY_ADD(op->arena, &s->tasks);
	uint64_t id = ps->pid;
	int r;

	if (!t)
		return op_nomem(op);
	if (!ps->pid || ps->pid > INT32_MAX)
		return op_fail(op, CKPT_E_IMAGE, NULL, "pstree.img: %u is no process number", ps->pid);
	t->pid = (pid_t)ps->pid;
	t->ps = ps;
	r = read_threads(op, s, t);
	if (r)
		return r;
	if (t->dead)
		return 0;
	r = read_optional(op, s, IMG_IDS, id, &t->ids);
	if (!r && !t->ids)
		t->ids = t->threads.v[0].core->ids;
	if (!r && !t->ids)
		return missing(op, IMG_IDS, id);
	r = r ?: read_needed(op, s, IMG_FS, id, &t->fs);
	if (r || shares_memory(s, t))
		return r;
	r = read_needed(op, s, IMG_MM, id, &t->mm);
	return r ?: read_pagemap(op, s, t);
}

static int read_pstree(struct op *op, struct snapshot *s)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, s->dir, IMG_PSTREE, 0, &in);

	if (r == IMG_ABSENT)
		return missing(op, IMG_PSTREE, 0);
	while (!r) {
		r = img_read(op, in, &m);
		if (!r)
			r = read_task(op, s, (PstreeEntry *)m);
	}
	img_in_close(in);
	if (r != IMG_END)
		return r;
	return s->tasks.n ? 0 : op_fail(op, CKPT_E_IMAGE, NULL, "pstree.img is empty");
}

/* Our own file belongs to the dump that wrote it: one of another time, left in the folder, says nothing about these tasks. */
static void attach_extra(struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_tasks; i++) {
		TaskExtra *x = s->extra->tasks[i];

		for (size_t j = 0; j < s->tasks.n; j++) {
			struct snap_task *t = &s->tasks.v[j];

			if ((uint32_t)t->pid != x->pid)
				continue;
			t->extra = x;
			for (size_t k = 0, n = 0; k < x->n_threads && n < t->threads.n; k++) {
				/* Usually in the same order. */
				while (n < t->threads.n && (uint32_t)t->threads.v[n].tid != x->threads[k]->tid)
					n++;
				if (n < t->threads.n)
					t->threads.v[n].extra = x->threads[k];
				else
					n = 0;
			}
		}
	}
}

int restore_read(struct op *op, struct snapshot *s)
{
	int r = read_pstree(op, s);

	r = r ?: read_optional(op, s, IMG_TIMENS, 0, &s->timens);
	r = r ?: read_optional(op, s, IMG_SECCOMP, 0, &s->seccomp);
	r = r ?: read_optional(op, s, IMG_EXTRA, 0, &s->extra);
	if (!r)
		attach_extra(s);
	return r;
}
