/* SPDX-License-Identifier: MIT */
/* Dump: which thread is in which cgroups, and where cgroup namespaces have their roots. */
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include "lib/state/cgroup/core.h"
#include "lib/state/msg.h"

/* The number of the dumper's own set; the others follow. */
#define OWN_SET 1

/* NULL: it lives in ours. */
static const struct snap_ns *ns_of_task(const struct snapshot *s, const struct snap_task *t)
{
	for (size_t i = 0; s->ns && t->ids->has_cgroup_ns_id && i < s->ns->v.n; i++) {
		const struct snap_ns *ns = s->ns->v.v[i];

		if (ns->kind == NS_CGROUP && ns->id == t->ids->cgroup_ns_id)
			return ns->ours ? NULL : ns;
	}
	return NULL;
}

static int read_places(struct op *op, pid_t pid, pid_t tid, char **text, size_t *len)
{
	char file[32];
	int r;

	snprintf(file, sizeof(file), "task/%d/cgroup", tid);
	r = proc_read_file(op, pid, file, text, len);
	return r == PROC_GONE ? op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = tid), "thread %d ended meanwhile", tid) : r;
}

/* The same text as a process of the namespace @ns reads it. */
static int read_inside(struct op *op, const struct snap_ns *ns, pid_t pid, pid_t tid, char **text, size_t *len)
{
	_cleanup_close_ int home = open("/proc/thread-self/ns/cgroup", O_RDONLY | O_CLOEXEC);
	int r;

	if (home < 0 || setns(ns->fd, CLONE_NEWCGROUP) < 0)
		return op_errno(op, errno, AT(.pid = tid, .kind = "cgroup"), "enter the cgroup namespace of process %d", pid);
	r = read_places(op, pid, tid, text, len);
	if (setns(home, CLONE_NEWCGROUP) < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "come back from the cgroup namespace of process %d", pid);
	return r;
}

/* "/../x": above the root of the namespace of whoever reads it. */
static bool is_outside(const char *path)
{
	return !strncmp(path, "/..", 3) && (!path[3] || path[3] == '/');
}

static const char *find_path(const struct proc_cgroups *groups, const char *name)
{
	for (size_t i = 0; i < groups->v.n; i++)
		if (!strcmp(groups->v.v[i].controllers, name))
			return groups->v.v[i].path;
	return NULL;
}

/* How much of @path, as we see it, is the root of the namespace that calls it @inside. False: it is not in there. */
static bool split(const char *path, const char *inside, size_t *ns)
{
	size_t n = strlen(path), m = strlen(inside);

	if (!strcmp(inside, "/")) {
		*ns = n == 1 ? 0 : n;
		return true;
	}
	if (is_outside(inside) || m > n || strcmp(path + n - m, inside))
		return false;
	*ns = n - m;
	return true;
}

static int bad_form(struct op *op, pid_t tid)
{
	return op_fail(op, CKPT_E_KERNEL, AT(.pid = tid, .kind = "cgroup"), "/proc/%d/cgroup is not of the form that is known", tid);
}

static int add_places(struct op *op, const struct cgroup_state *st, struct cg_set *set, pid_t tid, const char *text, size_t len)
{
	struct proc_cgroups groups;

	if (proc_parse_cgroup(op->arena, text, len, &groups))
		return bad_form(op, tid);
	for (size_t i = 0; i < st->hiers.n; i++) {
		const char *path = find_path(&groups, st->hiers.v[i]->name);
		struct cg_place *p;

		if (!path)
			return op_fail(op, CKPT_E_SYS, AT(.pid = tid, .kind = "cgroup"), "the cgroup hierarchy %s vanished meanwhile",
				       cg_word(st->hiers.v[i]));
		if (is_outside(path))
			return op_fail(op, CKPT_E_UNSUPPORTED,
				       AT(.pid = tid, .kind = "cgroup",
					  .hint = "checkpoint from the host's cgroup namespace, or with --manage-cgroups=ignore"),
				       "thread %d is in the cgroup %s of %s, outside of our own cgroup namespace", tid, path,
				       cg_word(st->hiers.v[i]));
		p = ARRAY_ADD(op->arena, &set->places);
		if (!p)
			return op_nomem(op);
		*p = (struct cg_place){ .hier = st->hiers.v[i], .path = path };
	}
	return 0;
}

static int add_roots(struct op *op, struct cg_set *set, pid_t pid, pid_t tid)
{
	struct proc_cgroups groups;
	size_t len;
	char *text;
	int r = read_inside(op, set->ns, pid, tid, &text, &len);

	if (r)
		return r;
	if (proc_parse_cgroup(op->arena, text, len, &groups))
		return bad_form(op, tid);
	for (size_t i = 0; i < set->places.n; i++) {
		struct cg_place *p = &set->places.v[i];
		const char *inside = find_path(&groups, p->hier->name);

		if (!inside || !split(p->path, inside, &p->ns))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = tid, .kind = "cgroup"),
				       "thread %d is in the cgroup %s of %s, outside of its own cgroup namespace", tid, p->path,
				       cg_word(p->hier));
	}
	return 0;
}

static bool same_places(const struct cg_set *a, const struct cg_set *b)
{
	if (a->ns != b->ns || a->places.n != b->places.n)
		return false;
	for (size_t i = 0; i < a->places.n; i++)
		if (strcmp(a->places.v[i].path, b->places.v[i].path))
			return false;
	return true;
}

/* The set of ours, first of all. */
static int add_ours(struct op *op, struct cgroup_state *st)
{
	struct cg_set *ours = op_new(op, struct cg_set), **slot = ours ? ARRAY_ADD(op->arena, &st->sets) : NULL;

	if (!slot)
		return op_nomem(op);
	*slot = ours;
	ours->id = OWN_SET;
	for (size_t i = 0; i < st->hiers.n; i++) {
		struct cg_place *p = ARRAY_ADD(op->arena, &ours->places);

		if (!p)
			return op_nomem(op);
		*p = (struct cg_place){ .hier = st->hiers.v[i], .path = st->hiers.v[i]->ours };
	}
	return 0;
}

static int new_text(struct op *op, struct cgroup_state *st, const struct snap_ns *ns, pid_t pid, pid_t tid, const char *text,
		    size_t len, uint32_t *id)
{
	struct cg_set *set = op_new(op, struct cg_set), **slot;
	struct cg_seen *seen = ARRAY_ADD(op->arena, &st->seen);
	int r;

	if (!set || !seen)
		return op_nomem(op);
	set->ns = ns;
	r = add_places(op, st, set, tid, text, len);
	if (r)
		return r;
	for (size_t i = 0; i < st->sets.n && !set->id; i++)
		if (same_places(st->sets.v[i], set))
			set->id = st->sets.v[i]->id;
	if (!set->id) {
		set->id = OWN_SET + (uint32_t)st->sets.n;
		slot = ARRAY_ADD(op->arena, &st->sets);
		if (!slot)
			return op_nomem(op);
		*slot = set;
		r = ns ? add_roots(op, set, pid, tid) : 0;
	}
	*seen = (struct cg_seen){ .text = text, .ns = ns, .id = set->id };
	*id = set->id;
	return r;
}

static int thread_set(struct op *op, struct cgroup_state *st, const struct snap_ns *ns, pid_t pid, pid_t tid, uint32_t *id)
{
	size_t len;
	char *text;
	int r = read_places(op, pid, tid, &text, &len);

	if (r)
		return r;
	/* Mostly the one before. */
	for (size_t i = st->seen.n; i-- > 0;)
		if (st->seen.v[i].ns == ns && !strcmp(st->seen.v[i].text, text)) {
			*id = st->seen.v[i].id;
			return 0;
		}
	return new_text(op, st, ns, pid, tid, text, len, id);
}

int cg_sets_dump(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = add_ours(op, st);

	for (size_t i = 0; i < s->tasks.n && !r; i++) {
		struct snap_task *t = &s->tasks.v[i];

		for (size_t k = 0; k < t->threads.n && !r && !t->dead; k++) {
			ThreadCoreEntry *tc = t->threads.v[k].core->thread_core;
			uint32_t id = 0;

			r = thread_set(op, st, ns_of_task(s, t), t->host, t->threads.v[k].host, &id);
			if (!r)
				msg_set(tc, cg_set, id);
		}
	}
	return r;
}

int cg_sets_forget(struct snapshot *s)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t k = 0; k < s->tasks.v[i].threads.n && !s->tasks.v[i].dead; k++)
			msg_set(s->tasks.v[i].threads.v[k].core->thread_core, cg_set, OWN_SET);
	return 0;
}
