/* SPDX-License-Identifier: MIT */
/* Planned system calls: collected while the plan is made, put into it at the end. */
#include "lib/state/task/plan_build.h"

static int add(struct plan_build *b, enum plan_phase phase, int32_t thread, const struct plan_call *c, const char *what)
{
	struct build_call *slot = ARRAY_ADD(b->op->arena, &b->calls);

	if (!slot || !what)
		return op_nomem(b->op);
	*slot = (struct build_call){ .c = *c, .phase = phase, .thread = thread, .what = what };
	if (!(c->flags & PLAN_CALL_FD))
		slot->c.fd = -1;
	return (int)b->calls.n - 1;
}

int plan_call(struct plan_build *b, enum plan_phase phase, const struct plan_call *c, const char *what)
{
	return add(b, phase, -1, c, what);
}

int plan_thread_call(struct plan_build *b, size_t thread, const struct plan_call *c, const char *what)
{
	return add(b, PLAN_LAST, (int32_t)thread, c, what);
}

/* The numbers of the calls that @phase, or thread @thread, makes. */
static int put_numbers(struct plan_build *b, enum plan_phase phase, int32_t thread, uint32_t *buf, struct plan_array *arr)
{
	size_t n = 0;

	for (size_t i = 0; i < b->calls.n; i++)
		if (b->calls.v[i].thread == thread && (thread >= 0 || b->calls.v[i].phase == phase))
			buf[n++] = (uint32_t)i;
	return plan_put_array(b, buf, n, sizeof(*buf), arr);
}

static int put_threads(struct plan_build *b, uint32_t *buf)
{
	int r = 0;

	for (size_t i = 0; i < b->calls.n && !r; i++) {
		int32_t thread = b->calls.v[i].thread;
		struct plan_array arr;

		if (thread < 0 || PLAN_AT(PLAN(b), struct plan_thread, PLAN(b)->threads)[thread].calls.n)
			continue;
		r = put_numbers(b, PLAN_LAST, thread, buf, &arr);
		if (!r)
			PLAN_AT(PLAN(b), struct plan_thread, PLAN(b)->threads)[thread].calls = arr;
	}
	return r;
}

int plan_finish(struct plan_build *b)
{
	struct plan_call *v = op_alloc(b->op, (b->calls.n + 1) * sizeof(*v));
	uint32_t *buf = op_alloc(b->op, (b->calls.n + 1) * sizeof(*buf));
	struct plan_array arr;
	int r;

	if (!v || !buf)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < b->calls.n; i++)
		v[i] = b->calls.v[i].c;
	r = plan_put_array(b, v, b->calls.n, sizeof(*v), &arr);
	if (r)
		return r;
	PLAN(b)->calls = arr;
	r = plan_put_array(b, b->fetches.v, b->fetches.n, sizeof(*b->fetches.v), &arr);
	PLAN(b)->fetches = arr;
	for (int phase = 0; phase < PLAN_N_PHASES && !r; phase++) {
		r = put_numbers(b, (enum plan_phase)phase, -1, buf, &arr);
		if (!r)
			PLAN(b)->phases[phase] = arr;
	}
	return r ?: put_threads(b, buf);
}
