/* SPDX-License-Identifier: MIT */
/*
 * Namespaces below the root task's: some task of the tree has another one of a kind. They are made by an errand in those of the
 * root, and filled like these; every task then enters its own by itself, as soon as it has its place in the tree: where its
 * creator was at that moment does not matter.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>

#include "lib/state/file/core.h"
#include "lib/state/ns/core.h"
#include "lib/state/task/plan_build.h"

/* In this order: the network of a mount namespace's sysfs is the one that it was mounted in. */
static const enum ns_kind kinds[] = { NS_NET, NS_UTS };

static bool is_made_here(enum ns_kind kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i] == kind)
			return true;
	return false;
}

bool ns_may_be_below(enum ns_kind kind)
{
	return kind == NS_MNT /* lib/state/mount */ || kind == NS_PID /* nested.c */ || kind == NS_CGROUP /* lib/state/cgroup */ || is_made_here(kind);
}

bool ns_is_below(const struct snapshot *s, const struct snap_ns *ns)
{
	return !ns->ours && !ns->joined && is_made_here(ns->kind) && ns != ns_of(s, &s->tasks.v[0], ns->kind);
}

static int make_here(struct op *op, void *arg)
{
	struct snap_ns *ns = arg;
	char path[64];

	if (unshare(ns_info[ns->kind].flag) < 0)
		return op_errno(op, errno, AT(.kind = "namespace"), "make a %s namespace", ns_info[ns->kind].word);
	/* The host's /proc may be out of sight: ours is asked for, by the thread that stands still meanwhile. */
	snprintf(path, sizeof(path), "/proc/thread-self/ns/%s", ns_info[ns->kind].name);
	ns->fd = file_high(open(path, O_RDONLY | O_CLOEXEC));
	return ns->fd >= 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "open the new %s namespace", ns_info[ns->kind].word);
}

/* Tasks may have to come back to that. */
static int open_roots(struct op *op, struct snap_ns *ns)
{
	char path[64];

	if (ns->fd >= 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/thread-self/ns/%s", ns_info[ns->kind].name);
	ns->fd = file_high(open(path, O_RDONLY | O_CLOEXEC));
	return ns->fd >= 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "open our own %s namespace", ns_info[ns->kind].word);
}

int ns_below_make(struct op *op, struct snapshot *s)
{
	struct errand_where where = ns_where(s);
	int r = 0;

	/* Without these /proc is the host's, where the errand has a number, too. */
	where.pid = where.mnt = -1;
	for (size_t i = 0; i < s->ns->v.n && !r; i++) {
		struct snap_ns *ns = s->ns->v.v[i];

		if (!ns_is_below(s, ns) || ns->fd >= 0)
			continue;
		r = open_roots(op, ns_of(s, &s->tasks.v[0], ns->kind));
		r = r ?: errand_run(op, &where, make_here, ns);
	}
	return r;
}

int ns_plan_enter(struct plan_build *b, const struct snap_ns *ns)
{
	const char *what = arena_printf(b->op->arena, "enter a %s namespace", ns_info[ns->kind].word);
	struct plan_call get = { .nr = SYS_pidfd_getfd, .fd = -1, .engine_args = 1, .args = { 0, (uint64_t)ns->fd, 0 } };
	struct plan_call go = { .nr = SYS_setns, .fd = -1, .result_args = 1, .args = { 0, (uint64_t)ns_info[ns->kind].flag } };
	struct plan_call done = { .nr = SYS_close, .fd = -1, .result_args = 1 };
	int r;

	if (!what)
		return op_nomem(b->op);
	r = plan_call(b, PLAN_SESSION, &get, what);
	if (r < 0)
		return r;
	go.args[0] = done.args[0] = (uint64_t)r;
	r = plan_call(b, PLAN_SESSION, &go, what);
	r = r < 0 ? r : plan_call(b, PLAN_SESSION, &done, what);
	return r < 0 ? r : 0;
}

int ns_plan(struct plan_build *b)
{
	const struct snapshot *s = b->s;
	int r = 0;

	for (size_t k = 0; k < ARRAY_SIZE(kinds) && !r; k++) {
		const struct snap_ns *own = ns_of(s, b->task, kinds[k]);
		bool any = false;

		for (size_t i = 0; i < s->ns->v.n; i++)
			any |= s->ns->v.v[i]->kind == kinds[k] && ns_is_below(s, s->ns->v.v[i]);
		if (any && own->fd >= 0)
			r = ns_plan_enter(b, own);
	}
	return r;
}
