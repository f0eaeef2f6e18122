/* SPDX-License-Identifier: MIT */
/* System calls of the plan: what only the task itself can do, and what no other file here knows by name. */
#include <linux/fcntl.h>

#include "lib/inject/restorer/restorer.h"

#define EINTR 4
#define EAGAIN 11

static long make_once(struct plan *p, struct plan_call *all, const struct plan_call *c)
{
	long a[6];

	for (int i = 0; i < 6; i++) {
		a[i] = (long)c->args[i];
		if (c->data_args >> i & 1)
			a[i] = (long)((char *)p + c->args[i]);
		if (c->load_args >> i & 1)
			a[i] = *(long *)((char *)p + c->args[i]);
		if (c->result_args >> i & 1)
			a[i] = (long)all[c->args[i]].result;
		if (c->engine_args >> i & 1)
			a[i] = p->engine_fd;
	}
	return blob_syscall(c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The descriptor goes to its number, which the kernel may have picked by itself. */
static long place(const struct plan_call *c, long got)
{
	bool cloexec = c->flags & PLAN_CALL_CLOEXEC;
	long ret;

	if (c->fd < 0 || got < 0)
		return got;
	if (got == c->fd)
		ret = sys(__NR_fcntl, got, F_SETFD, cloexec);
	else
		ret = sys(__NR_dup3, got, c->fd, cloexec ? O_CLOEXEC : 0);
	if (got != c->fd)
		sys(__NR_close, got);
	return ret < 0 ? ret : c->fd;
}

static void make(struct plan *p, struct plan_call *all, uint32_t number)
{
	struct plan_call *c = &all[number];
	long ret;

	if (c->flags & PLAN_CALL_UNLESS && all[c->expect].result)
		return;
	do
		ret = make_once(p, all, c);
	while (c->flags & PLAN_CALL_RETRY && (ret == -EINTR || ret == -EAGAIN));
	if (c->flags & PLAN_CALL_FD)
		ret = place(c, ret);
	c->result = ret;
	if (c->flags & PLAN_CALL_EXPECT && ret == c->expect)
		return; /* which may be a failure */
	if (ret >= 0 && c->flags & PLAN_CALL_EXPECT)
		ret = -PLAN_UNEXPECTED;
	if (ret < 0 && !(c->flags & PLAN_CALL_MAY_FAIL))
		fail(p, PLAN_STEP_CALL, number, ret);
}

void calls_make(struct plan *p, struct plan_array numbers)
{
	const uint32_t *n = PLAN_AT(p, uint32_t, numbers);
	struct plan_call *all = PLAN_AT(p, struct plan_call, p->calls);

	for (uint64_t i = 0; i < numbers.n; i++)
		make(p, all, n[i]);
}
