/* SPDX-License-Identifier: MIT */
/* Restore: processes and threads go into their cgroups. */
#include <fcntl.h>

#include "lib/state/cgroup/core.h"

/* The root task is in the root of its cgroup namespace, where it has one, until that exists. */
static const char *first_path(const struct cg_place *p, char *buf, size_t n)
{
	if (!p->ns)
		return p->path;
	snprintf(buf, n, "%.*s", (int)p->ns, p->path);
	return buf;
}

static bool has_own_ns(const struct snapshot *s)
{
	return s->tasks.v[0].ids && s->inventory->root_ids && s->tasks.v[0].ids->cgroup_ns_id != s->inventory->root_ids->cgroup_ns_id;
}

static const char *hint_for(int eno)
{
	switch (eno) {
	case EBUSY:
		return "a cgroup of version 2 that hands controllers on to others below it has no processes of its own";
	case ENOSPC:
		return "its cpuset.cpus or cpuset.mems is empty";
	case EOPNOTSUPP:
		return "its cgroup.type does not allow it";
	default:
		return NULL;
	}
}

static int put(struct op *op, const struct cg_hier *h, const char *path, const char *file, pid_t host, pid_t tid)
{
	_cleanup_close_ int dir = cg_open_dir(h, path, O_PATH), fd = dir < 0 ? -1 : openat(dir, file, O_WRONLY | O_CLOEXEC);
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", host);

	if (fd >= 0 && write(fd, text, (size_t)n) == n)
		return 0;
	return op_errno(op, errno, AT(.pid = tid, .kind = "cgroup", .hint = hint_for(errno)), "put task %d into the cgroup %s of %s", tid,
			path, cg_word(h));
}

int cgroups_enter(struct op *op, struct snapshot *s, pid_t host)
{
	struct cgroup_state *st = s->cgroups;
	struct cg_set *set = st && st->of_task ? st->of_task[0] : NULL;
	char buf[4096];
	int r = 0;

	for (size_t i = 0; set && i < set->places.n && !r; i++) {
		const struct cg_place *p = &set->places.v[i];
		const char *path = has_own_ns(s) && !p->ns ? "/" : first_path(p, buf, sizeof(buf));

		if (strcmp(path, p->hier->ours))
			r = put(op, p->hier, path, "cgroup.procs", host, s->tasks.v[0].pid);
		p->hier->entered = arena_strdup(op->arena, path);
		r = r ?: p->hier->entered ? r : op_nomem(op);
	}
	return r;
}

/* Where a set is, or whoever restores, of whom we all were born. */
static const char *path_in(const struct cg_set *set, const struct cg_hier *h)
{
	const struct cg_place *p = cg_place_in(set, h);

	return p ? p->path : h->ours;
}

static int move_thread(struct op *op, const struct snapshot *s, const struct cg_hier *h, size_t task, size_t thread, pid_t host)
{
	const char *leader = path_in(s->cgroups->of_task[task], h), *path = path_in(cg_set_of(s, task, thread), h);

	if (!strcmp(path, leader))
		return 0;
	return put(op, h, path, cg_is_v2(h) ? "cgroup.threads" : "tasks", host, s->tasks.v[task].threads.v[thread].tid);
}

/* Needed at all: mostly everybody is where the root task went. */
static bool is_used(const struct cgroup_state *st, const struct cg_hier *h)
{
	for (size_t i = 0; i < st->sets.n; i++)
		if (cg_place_in(st->sets.v[i], h))
			return true;
	return false;
}

static int move_in(struct op *op, const struct snapshot *s, const struct cg_hier *h, pid_t (*host_of)(void *arg, pid_t tid), void *arg,
		   bool threads)
{
	const char *entered = h->entered ?: h->ours;
	int r = 0;

	for (size_t i = 0; i < s->tasks.n && !r; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		if (t->dead)
			continue;
		if (!threads && strcmp(path_in(s->cgroups->of_task[i], h), entered))
			r = put(op, h, path_in(s->cgroups->of_task[i], h), "cgroup.procs", host_of(arg, t->pid), t->pid);
		for (size_t k = 1; k < t->threads.n && !r && threads; k++)
			r = move_thread(op, s, h, i, k, host_of(arg, t->threads.v[k].tid));
	}
	return r;
}

static int move_all(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg, bool threads)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	for (size_t i = 0; st && st->of_task && i < st->hiers.n && !r; i++)
		if (is_used(st, st->hiers.v[i]))
			r = move_in(op, s, st->hiers.v[i], host_of, arg, threads);
	return r;
}

int cgroups_move(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg)
{
	return move_all(op, s, host_of, arg, false);
}

int cgroups_move_threads(struct op *op, struct snapshot *s, pid_t (*host_of)(void *arg, pid_t tid), void *arg)
{
	return move_all(op, s, host_of, arg, true);
}
