/* SPDX-License-Identifier: MIT */
#include "lib/state/ns/nested.h"

#include <asm/unistd.h>
#include <sched.h>
#include <sys/stat.h>

#include "lib/image/image.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/msg.h"
#include "lib/state/ns/ns.h"
#include "lib/state/task/plan_build.h"

struct nested {
	const struct snap_ns *root;
	ARRAY(const PidLevelsEntry *) v; /* ascending */
};

/* ------------------------------------------------------------------------------------------------------- dump */

struct notes {
	struct op *op;
	struct snapshot *s;
	size_t level; /* of the root task's namespace, in the lists of /proc */
	ARRAY(PidLevelsEntry *) v;
};

static int note(struct notes *n, const struct proc_levels *l, const struct snap_ns *ns)
{
	size_t depth = l->n;
	PidLevelsEntry *m, **slot;

	/* A group or session that began further up has no numbers below. */
	for (; depth > n->level + 1 && !l->v[depth - 1]; depth--)
		ns = ns && ns->parent ? ns->parent : NULL;
	if (depth <= n->level + 1 || !l->v[n->level] || !ns)
		return 0;
	for (size_t i = 0; i < n->v.n; i++)
		if (n->v.v[i]->pid == (uint32_t)l->v[n->level])
			return 0;
	m = msg_new(n->op, PidLevelsEntry, pid_levels_entry);
	slot = m ? ARRAY_ADD(n->op->arena, &n->v) : NULL;
	if (slot)
		m->inner = op_alloc(n->op, depth * sizeof(*m->inner));
	if (!slot || !m->inner)
		return op_nomem(n->op);
	*slot = m;
	m->pid = (uint32_t)l->v[n->level];
	m->ns_id = ns->id;
	for (size_t i = n->level + 1; i < depth; i++)
		m->inner[m->n_inner++] = (uint32_t)l->v[i];
	return 0;
}

static int note_task(struct notes *n, const struct snap_task *t, const struct snap_ns *ns)
{
	struct proc_status st;
	int r = proc_read_status(n->op, t->host, &st);

	if (r)
		return r < 0 ? r : op_fail(n->op, CKPT_E_NO_PROCESS, AT(.pid = t->host), "task %d ended meanwhile", t->host);
	/* A zombie that was an init has taken its namespace along. */
	if (t->dead && proc_own_number(&st.nspid) == 1)
		st.nspid.n--;
	r = note(n, &st.nspid, ns);
	r = r ?: note(n, &st.nspgid, ns);
	r = r ?: note(n, &st.nssid, ns);
	for (size_t i = 1; i < t->threads.n && !r; i++)
		if (proc_read_task_status(n->op, t->host, t->threads.v[i].host, &st) == 0)
			r = note(n, &st.nspid, ns);
	return r;
}

static const struct snap_task *parent_of(const struct snapshot *s, const struct snap_task *t)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].ps->pid == t->ps->ppid)
			return &s->tasks.v[i];
	return NULL;
}

/* Where a task lives; a zombie has no say: where its parent does. */
static const struct snap_ns *home_of(const struct snapshot *s, const struct snap_task *t)
{
	const struct snap_task *p = t->dead ? parent_of(s, t) : t;

	return p ? ns_of(s, p, NS_PID) : NULL;
}

/* The namespace that children to come would be in, where it is another one than their parent's. */
static int note_children(struct op *op, struct snapshot *s, struct snap_task *t)
{
	struct stat own, st;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", t->host);
	if (!t->extra || stat(path, &own) < 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/ns/pid_for_children", t->host);
	if (stat(path, &st) < 0) { /* nobody has ever been in it */
		if (errno != ENOENT)
			return 0;
		msg_set(t->extra, children_pid_ns, 0);
		return snapshot_mark(op, s, IMG_OWN_NESTED_PIDNS);
	}
	if (st.st_ino == own.st_ino)
		return 0;
	for (size_t i = 0; i < s->ns->v.n; i++)
		if (s->ns->v.v[i]->kind == NS_PID && s->ns->v.v[i]->ino == st.st_ino && !s->ns->v.v[i]->ours)
			msg_set(t->extra, children_pid_ns, s->ns->v.v[i]->id);
	if (t->extra->has_children_pid_ns)
		return snapshot_mark(op, s, IMG_OWN_NESTED_PIDNS);
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->host, .kind = "namespace"),
		       "children of process %d would be in a PID namespace in which no process of the tree lives", t->host);
}

int nested_dump(struct op *op, struct snapshot *s)
{
	const struct snap_ns *root = ns_of(s, &s->tasks.v[0], NS_PID);
	struct notes n = { .op = op, .s = s };
	struct proc_status st;
	int r = 0;

	for (size_t i = 0; i < s->tasks.n && !r; i++)
		r = s->tasks.v[i].dead ? 0 : note_children(op, s, &s->tasks.v[i]);
	if (!r && proc_read_status(op, s->tasks.v[0].host, &st) != 0)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = s->tasks.v[0].host), "it ended meanwhile");
	n.level = r ? 0 : st.nspid.n - 1;
	for (size_t i = 1; i < s->tasks.n && !r; i++) {
		const struct snap_ns *ns = home_of(s, &s->tasks.v[i]);

		r = ns && ns != root ? note_task(&n, &s->tasks.v[i], ns) : 0;
	}
	if (r || !n.v.n)
		return r;
	s->extra->n_nested_pids = n.v.n;
	s->extra->nested_pids = n.v.v;
	return snapshot_mark(op, s, IMG_OWN_NESTED_PIDNS);
}

/* ---------------------------------------------------------------------------------------------------- restore */

static int by_pid(const void *a, const void *b)
{
	const PidLevelsEntry *x = *(const PidLevelsEntry *const *)a, *y = *(const PidLevelsEntry *const *)b;

	return (x->pid > y->pid) - (x->pid < y->pid);
}

static const PidLevelsEntry *find(const struct snapshot *s, pid_t number)
{
	const PidLevelsEntry key = { .pid = (uint32_t)number }, *k = &key, *const *hit;

	if (!s->nested || !s->nested->v.n || number <= 0)
		return NULL;
	hit = bsearch(&k, s->nested->v.v, s->nested->v.n, sizeof(k), by_pid);
	return hit ? *hit : NULL;
}

static int bad(struct op *op, uint32_t pid, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.pid = (int32_t)pid, .kind = "namespace"), "ckpt-extra: the numbers of process %u %s", pid, what);
}

static int check_entry(struct op *op, const struct snapshot *s, const PidLevelsEntry *m)
{
	if (!m->pid || m->pid > INT32_MAX || !m->n_inner || m->n_inner >= NESTED_MAX || !ns_find(s, NS_PID, m->ns_id))
		return bad(op, m->pid, "in nested PID namespaces make no sense");
	for (size_t i = 0; i < m->n_inner; i++)
		if (!m->inner[i] || m->inner[i] > INT32_MAX)
			return bad(op, m->pid, "in nested PID namespaces make no sense");
	return 0;
}

/* A task further down comes from one in the same namespace, or is the init of one right below its parent's. */
static int check_task(struct op *op, struct snapshot *s, const struct snap_task *t)
{
	struct snap_ns *own = ns_of(s, t, NS_PID);
	const PidLevelsEntry *m = find(s, t->pid), *above;
	const struct snap_task *p;
	size_t depth;

	if (!s->nested->v.n && (t->dead || own == s->nested->root))
		return 0;
	p = parent_of(s, t);
	above = p ? find(s, p->pid) : NULL;
	depth = above ? above->n_inner : 0;
	if (t->dead && (m ? m->n_inner : 0) != depth)
		return bad(op, (uint32_t)t->pid, "are not as many as those of its parent");
	if (t->dead)
		return 0;
	for (size_t i = 0; own == s->nested->root && i < t->threads.n; i++)
		if (find(s, t->threads.v[i].tid))
			return bad(op, (uint32_t)t->threads.v[i].tid, "are of a namespace that it is not in");
	if (own == s->nested->root)
		return m ? bad(op, m->pid, "are of a namespace that it is not in") : 0;
	if (!m || m->ns_id != own->id || !p)
		return bad(op, (uint32_t)t->pid, "are missing");
	for (size_t i = 0; i < t->threads.n; i++) {
		const PidLevelsEntry *th = find(s, t->threads.v[i].tid);

		if (!th || th->ns_id != m->ns_id || th->n_inner != m->n_inner)
			return bad(op, (uint32_t)t->threads.v[i].tid, "are missing");
	}
	if (ns_of(s, p, NS_PID) == own)
		return m->n_inner == depth ? 0 : bad(op, m->pid, "are not as many as those of its parent");
	if (m->n_inner != depth + 1 || m->inner[depth] != 1)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "namespace"),
			       "task %d has entered its PID namespace from outside, which is not supported", t->pid);
	own->parent = ns_of(s, p, NS_PID);
	return 0;
}

int nested_read(struct op *op, struct snapshot *s)
{
	const CkptExtraEntry *x = s->extra;
	int r = 0;

	s->nested = op_new(op, struct nested);
	if (!s->nested)
		return CKPT_E_NOMEM;
	s->nested->root = ns_of(s, &s->tasks.v[0], NS_PID);
	for (size_t i = 0; x && i < x->n_nested_pids && !r; i++) {
		const PidLevelsEntry **slot = ARRAY_ADD(op->arena, &s->nested->v);

		if (!slot)
			return op_nomem(op);
		*slot = x->nested_pids[i];
		r = check_entry(op, s, *slot);
	}
	if (r)
		return r;
	if (s->nested->v.n)
		qsort(s->nested->v.v, s->nested->v.n, sizeof(*s->nested->v.v), by_pid);
	for (size_t i = 1; i < s->nested->v.n && !r; i++)
		if (s->nested->v.v[i]->pid == s->nested->v.v[i - 1]->pid)
			r = bad(op, s->nested->v.v[i]->pid, "are there twice");
	for (size_t i = 0; i < s->tasks.n && !r; i++)
		if (s->tasks.v[i].ids || s->tasks.v[i].dead)
			r = check_task(op, s, &s->tasks.v[i]);
	return r;
}

pid_t nested_seen(const struct snapshot *s, const struct snap_task *t, pid_t number)
{
	const PidLevelsEntry *own = t ? find(s, t->pid) : NULL, *m;
	const struct snap_ns *ns;

	if (!own)
		return number;
	m = find(s, number);
	if (!m || m->n_inner < own->n_inner)
		return 0;
	ns = ns_find(s, NS_PID, m->ns_id);
	for (size_t i = own->n_inner; i < m->n_inner && ns; i++)
		ns = ns->parent;
	return ns && ns->id == own->ns_id ? (pid_t)m->inner[own->n_inner - 1] : 0;
}

size_t nested_numbers(const struct snapshot *s, pid_t number, int32_t *v)
{
	const PidLevelsEntry *m = find(s, number);
	size_t n = 0;

	for (size_t i = m ? m->n_inner : 0; i-- > 0;)
		v[n++] = (int32_t)m->inner[i];
	v[n++] = number;
	return n;
}

bool nested_is_init(const struct snapshot *s, pid_t number)
{
	const PidLevelsEntry *m = find(s, number);

	return m && m->inner[m->n_inner - 1] == 1;
}

/* Its init, by which the namespace is entered. */
static pid_t init_of(const struct snapshot *s, uint32_t ns_id)
{
	for (size_t i = 0; i < s->nested->v.n; i++) {
		const PidLevelsEntry *m = s->nested->v.v[i];

		if (m->ns_id == ns_id && m->inner[m->n_inner - 1] == 1)
			return (pid_t)m->pid;
	}
	return 0;
}

int nested_plan(struct plan_build *b)
{
	const TaskExtra *x = b->task->extra;
	struct plan_call open = { .nr = __NR_pidfd_open }, enter = { .nr = __NR_setns, .result_args = 1 << 0 };
	struct plan_call close = { .nr = __NR_close, .result_args = 1 << 0 };
	int r;

	if (!x || !x->has_children_pid_ns)
		return 0;
	if (!x->children_pid_ns) {
		r = plan_call(b, PLAN_LAST, &(struct plan_call){ .nr = __NR_unshare, .args = { CLONE_NEWPID } },
			      "make a PID namespace for children to come");
		return MIN(r, 0);
	}
	open.args[0] = (uint64_t)nested_seen(b->s, b->task, init_of(b->s, x->children_pid_ns));
	if (!open.args[0])
		return bad(b->op, (uint32_t)b->task->pid, "do not say who is the init of its children's namespace");
	r = plan_call(b, PLAN_LAST, &open, "open the init of its children's PID namespace");
	if (r < 0)
		return r;
	enter.args[0] = close.args[0] = (uint64_t)r;
	enter.args[1] = CLONE_NEWPID;
	r = plan_call(b, PLAN_LAST, &enter, "enter the PID namespace of its children");
	r = r < 0 ? r : plan_call(b, PLAN_LAST, &close, "close the init of its children's PID namespace");
	return MIN(r, 0);
}
