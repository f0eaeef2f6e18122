/* SPDX-License-Identifier: MIT */
#include "lib/engine/tree.h"

#include <linux/sched.h>

#include "lib/state/mem/mem.h"

/* While it is worked out, nodes of the snapshot's tasks have the tasks' indices; helpers come after them. */
struct planner {
	struct op *op;
	struct snapshot *s;
	struct tree *t;
	struct pid_slot {
		pid_t pid;
		size_t node;
	} *by_pid;
	size_t n_pids;
};

static struct tree_node *node(struct planner *p, size_t i)
{
	return &p->t->nodes.v[i];
}

static int by_pid(const void *a, const void *b)
{
	pid_t x = ((const struct pid_slot *)a)->pid, y = ((const struct pid_slot *)b)->pid;

	return (x > y) - (x < y);
}

/* The node of a task of the tree, or of a leader that was made up. */
static size_t find(struct planner *p, pid_t pid)
{
	struct pid_slot key = { .pid = pid }, *hit = bsearch(&key, p->by_pid, p->n_pids, sizeof(key), by_pid);

	if (hit)
		return hit->node;
	for (size_t i = p->n_pids; i < p->t->nodes.n; i++)
		if (node(p, i)->pid == pid && pid)
			return i;
	return TREE_NONE;
}

static int bad_shape(struct planner *p, size_t i, const char *what)
{
	return op_fail(p->op, CKPT_E_UNSUPPORTED, AT(.pid = node(p, i)->pid, .kind = "process tree"), "task %d: %s",
		       node(p, i)->pid, what);
}

static bool leads(const struct tree_node *n)
{
	return n->sid == n->pid;
}

static size_t add_helper(struct planner *p, enum tree_kind kind, pid_t pid, size_t parent)
{
	struct tree_node *n = ARRAY_ADD(p->op->arena, &p->t->nodes);

	if (!n) {
		op_nomem(p->op);
		return TREE_NONE;
	}
	*n = (struct tree_node){ .kind = kind, .task = TREE_NONE, .pid = pid, .parent = parent, .creator = parent, .when = TREE_EARLY };
	p->t->helpers = true;
	return p->t->nodes.n - 1;
}

/* ------------------------------------------------------------------------------------------------- the tasks */

static int collect(struct planner *p)
{
	size_t n = p->s->tasks.n;

	p->by_pid = op_alloc(p->op, (n + 1) * sizeof(*p->by_pid));
	if (!p->by_pid)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct snap_task *t = &p->s->tasks.v[i];
		struct tree_node *node = ARRAY_ADD(p->op->arena, &p->t->nodes);

		if (!node)
			return op_nomem(p->op);
		*node = (struct tree_node){
			.kind = t->dead ? TREE_ZOMBIE : TREE_TASK, .task = i, .pid = t->pid, .parent = TREE_NONE, .creator = TREE_NONE,
			.when = TREE_EARLY, .sid = (pid_t)t->ps->sid, .pgid = (pid_t)t->ps->pgid,
		};
		p->by_pid[i] = (struct pid_slot){ t->pid, i };
	}
	p->n_pids = n;
	qsort(p->by_pid, n, sizeof(*p->by_pid), by_pid);
	for (size_t i = 1; i < n; i++)
		if (p->by_pid[i].pid == p->by_pid[i - 1].pid)
			return op_fail(p->op, CKPT_E_IMAGE, AT(.pid = p->by_pid[i].pid), "pstree.img: task %d appears twice",
				       p->by_pid[i].pid);
	return 0;
}

static int find_parents(struct planner *p)
{
	if (p->s->tasks.v[0].ps->ppid)
		return op_fail(p->op, CKPT_E_IMAGE, AT(.pid = node(p, 0)->pid), "pstree.img: there is no root task");
	for (size_t i = 1; i < p->s->tasks.n; i++) {
		size_t parent = find(p, (pid_t)p->s->tasks.v[i].ps->ppid);

		if (parent == TREE_NONE || parent >= i)
			return op_fail(p->op, CKPT_E_IMAGE, AT(.pid = node(p, i)->pid),
				       "pstree.img: the parent of task %d, %u, does not come before it", node(p, i)->pid,
				       p->s->tasks.v[i].ps->ppid);
		if (node(p, parent)->kind == TREE_ZOMBIE)
			return op_fail(p->op, CKPT_E_IMAGE, AT(.pid = node(p, i)->pid), "pstree.img: the parent of task %d is a zombie",
				       node(p, i)->pid);
		node(p, i)->parent = node(p, i)->creator = parent;
	}
	return 0;
}

/* The root may be in a session and group of whoever started it: the restore puts it into its caller's. */
static void look_outside(struct planner *p)
{
	const struct tree_node *root = node(p, 0);

	p->t->outside = !leads(root);
	p->t->outside_sid = leads(root) ? 0 : root->sid;
	p->t->outside_pgid = root->pgid == root->pid || find(p, root->pgid) != TREE_NONE ? 0 : root->pgid;
}

static bool above(struct planner *p, size_t upper, size_t lower)
{
	while (lower != TREE_NONE && lower != upper)
		lower = node(p, lower)->parent;
	return lower == upper;
}

/* ------------------------------------------------------------------------------------------------- sessions */

static bool reaps(struct planner *p, size_t i)
{
	const struct snap_task *t = node(p, i)->task == TREE_NONE ? NULL : &p->s->tasks.v[node(p, i)->task];

	return t && (t->pid == 1 || (t->threads.n && t->threads.v[0].core->tc && t->threads.v[0].core->tc->child_subreaper));
}

/* Who adopts the orphans of @i: the nearest ancestor that asked for it. */
static size_t reaper_of(struct planner *p, size_t i)
{
	for (size_t up = node(p, i)->parent; up != TREE_NONE; up = node(p, up)->parent)
		if (reaps(p, up))
			return up;
	return TREE_NONE;
}

/*
 * The session in which a leader has to be before it begins its own: that of a child which is no leader and in neither. 0: it
 * does not matter. The tasks come parents first, so that this is asked from the last one upwards.
 */
static void needed_sessions(struct planner *p, pid_t *need)
{
	for (size_t i = p->s->tasks.n; i-- > 0;) {
		struct tree_node *n = node(p, i);
		size_t parent = n->parent;
		pid_t want = leads(n) ? need[i] : n->sid;
		bool alive;

		need[i] = want;
		if (parent == TREE_NONE || !want || want == node(p, parent)->sid || need[parent])
			continue;
		/* A leader below, or a dead one, is another way in. */
		alive = find(p, want) != TREE_NONE;
		if (leads(node(p, parent)) && alive && !above(p, parent, find(p, want)))
			need[parent] = want;
		else if (leads(node(p, parent)) && want == p->t->outside_sid)
			need[parent] = want;
		else if (leads(node(p, parent)) && !alive && parent && want == node(p, node(p, parent)->parent)->sid)
			need[parent] = want;
	}
}

/* Forked by @by, adopted by @i's parent: a step in between that ends at once. */
static int orphan(struct planner *p, size_t i, size_t by)
{
	size_t step;

	if (reaper_of(p, by) != node(p, i)->parent)
		return bad_shape(p, i, "its parent adopted it, and is not one that adopts any more: its session cannot be entered again");
	step = add_helper(p, TREE_STEP, 0, by);
	if (step == TREE_NONE)
		return CKPT_E_NOMEM;
	node(p, i)->creator = step;
	node(p, i)->when = TREE_EARLY;
	return 0;
}

/* A helper that plays the dead leader of session @sid, as a child of @parent. */
static size_t dead_leader(struct planner *p, pid_t sid, size_t parent)
{
	size_t h = add_helper(p, TREE_LEADER, sid, parent);

	if (h == TREE_NONE)
		return h;
	node(p, h)->setsid = true;
	node(p, h)->sid = node(p, h)->pgid = sid;
	return h;
}

static int enter_session(struct planner *p, size_t i, pid_t want, const pid_t *need)
{
	struct tree_node *n = node(p, i), *parent = node(p, n->parent);
	size_t leader;

	if (!want || want == parent->sid)
		return 0;
	if (leads(parent) && need[n->parent] == want) {
		n->when = TREE_EARLY_OUTSIDE;
		return 0;
	}
	leader = find(p, want);
	if (leader == TREE_NONE && want == p->t->outside_sid)
		return bad_shape(p, i, "it is in the session of whoever started the tree, and its parent is not");
	if (leader == TREE_NONE) {
		leader = dead_leader(p, want, n->parent);
		if (leader == TREE_NONE)
			return CKPT_E_NOMEM;
	}
	n = node(p, i);
	if (node(p, leader)->parent == n->parent) {
		n->creator = leader;
		n->as_sibling = true;
		n->when = TREE_EARLY;
		return 0;
	}
	return above(p, n->parent, leader) ? orphan(p, i, leader) : bad_shape(p, i, "its session cannot be entered again");
}

static int sessions(struct planner *p)
{
	pid_t *need = op_alloc(p->op, (p->s->tasks.n + 1) * sizeof(*need));
	int r = 0;

	if (!need)
		return CKPT_E_NOMEM;
	needed_sessions(p, need);
	for (size_t i = 0; i < p->s->tasks.n; i++)
		node(p, i)->setsid = leads(node(p, i));
	for (size_t i = 1; i < p->s->tasks.n && !r; i++)
		r = enter_session(p, i, leads(node(p, i)) ? need[i] : node(p, i)->sid, need);
	return r;
}

/* --------------------------------------------------------------------------------------------------- groups */

static int join_group(struct planner *p, size_t i)
{
	struct tree_node *n = node(p, i);
	size_t leader;

	if (!n->pgid || n->setsid || n->pgid == p->t->outside_pgid)
		return 0;
	if (n->pgid == n->pid) {
		n->leads_group = true;
		return 0;
	}
	leader = find(p, n->pgid);
	if (leader == TREE_NONE && n->kind == TREE_ZOMBIE && n->parent == TREE_NONE)
		return bad_shape(p, i, "its process group cannot be made again");
	if (leader == TREE_NONE) {
		pid_t pgid = n->pgid, sid = n->sid;

		/* A zombie forks nothing: its parent does, which is in the same session or could not have put it there. */
		leader = add_helper(p, TREE_LEADER, pgid, n->kind == TREE_ZOMBIE ? n->parent : i);
		if (leader == TREE_NONE)
			return CKPT_E_NOMEM;
		node(p, leader)->sid = sid;
		node(p, leader)->pgid = pgid;
		n = node(p, i);
	}
	if (node(p, leader)->sid != n->sid)
		return bad_shape(p, i, "its process group belongs to another session");
	node(p, leader)->leads_group = !node(p, leader)->setsid;
	n->join = n->pgid;
	return 0;
}

static int groups(struct planner *p)
{
	int r = 0;

	for (size_t i = 0; i < p->s->tasks.n && !r; i++)
		r = join_group(p, i);
	return r;
}

/* --------------------------------------------------------------------------------------------------- sharing */

static const struct snap_task *task_of(struct planner *p, size_t i)
{
	size_t task = node(p, i)->task;

	return task == TREE_NONE || p->s->tasks.v[task].dead ? NULL : &p->s->tasks.v[task];
}

/* What an earlier task has, too, and the creator has not: it could not be shared by a fork. */
static int check_shared(struct planner *p, size_t i, const struct snap_task *t)
{
	const TaskKobjIdsEntry *a = t->ids;

	for (size_t k = 0; k < i; k++) {
		const struct snap_task *o = task_of(p, k);
		const struct tree_node *n = node(p, i);

		if (!o || !o->ids)
			continue;
		if ((o->ids->vm_id == a->vm_id && !(n->shares & CLONE_VM)) || (o->ids->fs_id == a->fs_id && !(n->shares & CLONE_FS)) ||
		    (o->ids->sighand_id == a->sighand_id && !(n->shares & CLONE_SIGHAND)))
			return op_fail(p->op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "process tree"),
				       "task %d shares its memory, directories or signal actions with task %d, which did not fork it",
				       t->pid, o->pid);
	}
	return 0;
}

static int sharing(struct planner *p)
{
	bool any = false;

	for (size_t i = 1; i < p->s->tasks.n; i++) {
		const struct snap_task *t = task_of(p, i), *c = task_of(p, node(p, i)->creator);
		struct tree_node *n = node(p, i);

		if (!t || !c || !t->ids || !c->ids)
			continue;
		n->shares = (t->ids->vm_id == c->ids->vm_id ? CLONE_VM : 0) | (t->ids->files_id == c->ids->files_id ? CLONE_FILES : 0) |
			    (t->ids->fs_id == c->ids->fs_id ? CLONE_FS : 0) |
			    (t->ids->sighand_id == c->ids->sighand_id ? CLONE_SIGHAND : 0);
		if ((n->shares & CLONE_SIGHAND) && !(n->shares & CLONE_VM))
			return op_fail(p->op, CKPT_E_IMAGE, AT(.pid = t->pid), "ids-%d.img: signal actions are shared, and the memory is not",
				       t->pid);
		any = any || !t->mm;
	}
	for (size_t i = 1; any && i < p->s->tasks.n; i++) {
		const struct snap_task *t = task_of(p, i);
		int r = t && t->ids ? check_shared(p, i, t) : 0;

		if (r)
			return r;
	}
	return 0;
}

/* ---------------------------------------------------------------------------------------------- the moment */

/* Whether @child has an area that may be a copy of one of @parent's. Areas of both are in order. */
static bool memory_in_common(const struct snap_task *child, const struct snap_task *parent)
{
	const MmEntry *a = child->mm, *b = parent->mm;

	/* The program of a copy cannot be exchanged while areas of it are kept. */
	if (!a || !b || a->exe_file_id != b->exe_file_id)
		return false;
	for (size_t i = 0, k = 0; i < a->n_vmas && k < b->n_vmas;) {
		const VmaEntry *x = a->vmas[i], *y = b->vmas[k];

		if (x->start < y->end && y->start < x->end && vma_inherits(x, y))
			return true;
		if (x->end < y->end)
			i++;
		else
			k++;
	}
	return false;
}

static void moments(struct planner *p)
{
	for (size_t i = 1; i < p->s->tasks.n; i++) {
		struct tree_node *n = node(p, i);
		const struct snap_task *t = task_of(p, i), *c = task_of(p, n->creator);
		/* A step forks from the memory of whoever forked it. */
		size_t via = node(p, n->creator)->kind == TREE_STEP ? node(p, n->creator)->creator : n->creator;

		c = c ?: task_of(p, via);
		if (!t || !c || !c->mm)
			continue;
		n->inherits = !(n->shares & CLONE_VM) && memory_in_common(t, c);
		if (!n->inherits && !(n->shares & CLONE_VM))
			continue;
		n->when += TREE_LATE_OUTSIDE - TREE_EARLY_OUTSIDE;
		if (via != n->creator)
			node(p, n->creator)->when = n->when;
	}
	/* Who is forked outside the session that its creator begins is forked before all those inside. */
	for (size_t i = 1; i < p->t->nodes.n; i++)
		if (node(p, i)->when == TREE_LATE_OUTSIDE)
			for (size_t k = 1; k < p->t->nodes.n; k++)
				if (node(p, k)->creator == node(p, i)->creator && node(p, k)->when == TREE_EARLY)
					node(p, k)->when = TREE_LATE;
}

static int set_depth(struct planner *p, size_t i, unsigned guard)
{
	struct tree_node *n = node(p, i);
	int r = 0;

	if (n->depth || n->creator == TREE_NONE)
		return 0;
	if (guard > p->t->nodes.n)
		return bad_shape(p, i, "who is to fork it depends on it");
	r = set_depth(p, n->creator, guard + 1);
	node(p, i)->depth = node(p, node(p, i)->creator)->depth + 1;
	return r;
}

/* Creators first: by depth. */
static int order(struct planner *p)
{
	size_t n = p->t->nodes.n, *place = op_alloc(p->op, n * sizeof(*place)), at = 0;
	struct tree_node *sorted = op_alloc(p->op, n * sizeof(*sorted));
	unsigned deepest = 0;
	int r = 0;

	if (!place || !sorted)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n && !r; i++) {
		r = set_depth(p, i, 0);
		deepest = MAX(deepest, node(p, i)->depth);
	}
	for (unsigned depth = 0; depth <= deepest && !r; depth++)
		for (size_t i = 0; i < n; i++)
			if (node(p, i)->depth == depth) {
				place[i] = at;
				sorted[at++] = *node(p, i);
			}
	for (size_t i = 0; i < at && !r; i++) {
		if (sorted[i].creator != TREE_NONE)
			sorted[i].creator = place[sorted[i].creator];
		if (sorted[i].parent != TREE_NONE)
			sorted[i].parent = place[sorted[i].parent];
	}
	if (!r)
		memcpy(p->t->nodes.v, sorted, n * sizeof(*sorted));
	return r;
}

int tree_plan(struct op *op, struct snapshot *s, struct tree *ret)
{
	struct planner p = { .op = op, .s = s, .t = ret };
	int r;

	*ret = (struct tree){ 0 };
	r = collect(&p);
	r = r ?: find_parents(&p);
	if (r)
		return r;
	look_outside(&p);
	r = sessions(&p);
	r = r ?: groups(&p);
	r = r ?: sharing(&p);
	if (r)
		return r;
	moments(&p);
	return order(&p);
}

static bool is_nested(const struct snapshot *s, pid_t number)
{
	for (size_t i = 0; i < s->extra->n_nested_pids; i++)
		if (s->extra->nested_pids[i]->pid == (uint32_t)number)
			return true;
	return false;
}

int tree_check_nested(struct op *op, struct snapshot *s)
{
	struct tree tree;
	int r = s->extra->n_nested_pids ? tree_plan(op, s, &tree) : 1;

	for (size_t i = 1; !r && i < tree.nodes.n; i++) {
		const struct tree_node *n = &tree.nodes.v[i], *c = &tree.nodes.v[n->creator];

		if (!is_nested(s, n->pid) && !is_nested(s, c->pid))
			continue;
		/* Processes in between would have numbers of their own in each namespace. */
		if (c->kind != TREE_TASK || n->kind == TREE_STEP || n->as_sibling || !is_nested(s, n->pid))
			r = op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = n->pid, .kind = "namespace"),
				    "task %d is in a nested PID namespace and an orphan, or in a session whose leader has ended: not supported",
				    n->pid);
	}
	return MIN(r, 0);
}
