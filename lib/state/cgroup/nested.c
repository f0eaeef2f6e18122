/* SPDX-License-Identifier: MIT */
/*
 * Cgroup namespaces that are not the root task's: made before any task exists, by a process that goes into what is to be the root of
 * one; tasks enter them before they have children.
 */
#include <fcntl.h>
#include <sched.h>

#include "lib/state/cgroup/core.h"
#include "lib/state/task/plan_build.h"

static bool is_nested(const struct snapshot *s, const struct snap_task *t)
{
	return !t->dead && t->ids && ns_of(s, t, NS_CGROUP) != ns_of(s, &s->tasks.v[0], NS_CGROUP);
}

static const struct snap_task *first_nested(const struct snapshot *s)
{
	for (size_t i = 1; i < s->tasks.n; i++)
		if (is_nested(s, &s->tasks.v[i]))
			return &s->tasks.v[i];
	return NULL;
}

int cg_nested_check(struct op *op, const struct snapshot *s)
{
	const struct snap_task *t = first_nested(s);
	const char *why = NULL;

	if (t && ns_own(s, NS_USER))
		why = "which is not supported in a user namespace of its own";
	else if (t && op->opts->manage_cgroups == CKPT_CGROUP_IGNORE)
		why = "and --manage-cgroups=ignore leaves out what its root is";
	else if (t && op->opts->unprivileged)
		why = "which is not supported with --unprivileged";
	if (!why)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->host ?: t->pid, .kind = "namespace"),
		       "task %d is in another cgroup namespace than the root of the tree, %s", t->host ?: t->pid, why);
}

int cg_nested_dump(struct op *op, struct snapshot *s)
{
	return first_nested(s) ? snapshot_mark(op, s, IMG_OWN_BELOW) : 0;
}

/* ------------------------------------------------------------------------------------------------------ restore */

struct maker {
	const struct cg_set *set;
	int fd; /* of the namespace */
};

/* In a process of its own: "0" is whoever writes it. */
static int go_to(struct op *op, const struct cg_place *p)
{
	const char *path = p->ns ? arena_strndup(op->arena, p->path, p->ns) : "/";
	_cleanup_close_ int dir = path ? cg_open_dir(p->hier, path, O_PATH) : -1;
	_cleanup_close_ int fd = dir < 0 ? -1 : openat(dir, "cgroup.procs", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "0", 1) == 1)
		return 0;
	return op_errno(op, errno, AT(.kind = "cgroup"), "go into the cgroup %s of %s, the root of a cgroup namespace", path ?: p->path,
			cg_word(p->hier));
}

static int make_one(struct op *op, void *arg)
{
	struct maker *m = arg;
	int r = 0;

	for (size_t i = 0; i < m->set->places.n && !r; i++)
		r = go_to(op, &m->set->places.v[i]);
	if (r)
		return r;
	m->fd = unshare(CLONE_NEWCGROUP) < 0 ? -1 : open("/proc/thread-self/ns/cgroup", O_RDONLY | O_CLOEXEC);
	return m->fd >= 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "make a cgroup namespace");
}

static int make_for(struct op *op, const struct snapshot *s, size_t task)
{
	const struct errand_where here = ERRAND_HERE;
	struct snap_ns *ns = ns_of(s, &s->tasks.v[task], NS_CGROUP);
	struct maker m = { .set = cg_set_of(s, task, 0), .fd = -1 };
	int r;

	if (ns->fd >= 0)
		return 0;
	if (ns->ours) {
		ns->fd = open("/proc/thread-self/ns/cgroup", O_RDONLY | O_CLOEXEC);
		return ns->fd >= 0 ? 0 : op_errno(op, errno, AT(.kind = "namespace"), "open our own cgroup namespace");
	}
	if (!m.set)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = s->tasks.v[task].pid, .kind = "namespace"),
			       "cgroup.img does not say what is the root of the cgroup namespace of task %d", s->tasks.v[task].pid);
	r = errand_run(op, &here, make_one, &m);
	ns->fd = m.fd;
	return r;
}

int cg_nested_make(struct op *op, const struct snapshot *s)
{
	int r = 0;

	for (size_t i = 1; i < s->tasks.n && !r; i++)
		if (is_nested(s, &s->tasks.v[i]))
			r = make_for(op, s, i);
	return r;
}

int cgroups_plan(struct plan_build *b)
{
	const struct snap_ns *ns = ns_of(b->s, b->task, NS_CGROUP);

	return b->s->cgroups && ns->fd >= 0 && first_nested(b->s) ? ns_plan_enter(b, ns) : 0;
}
