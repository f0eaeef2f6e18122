/* SPDX-License-Identifier: MIT */
/*
 * Stopping a tree of processes. From the root downwards: a process that stands still forks no more, so its list of
 * children can only grow by orphans that are reparented to it. The lists are read until a pass over all of them finds
 * nobody new.
 */
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "lib/engine/dump_parts.h"
#include "lib/engine/preflight.h"
#include "lib/inject/sleepers.h"
#include "lib/kernel/sys.h"

/* What the walk over the tree needs. */
struct walk {
	struct dump *d;
	struct sleepers sleepers;
	bool hold; /* the freezer holds them: seize and interrupt, the stops come when they are thawed */
	size_t held; /* so many tasks, the first ones, were seized in that way */
};

static bool known(const struct dump *d, pid_t pid)
{
	for (size_t i = d->tasks.n; i-- > 0;)
		if (d->tasks.v[i]->pid == pid)
			return true;
	return false;
}

static struct dump_task *add(struct op *op, struct dump *d, pid_t pid, size_t parent)
{
	struct dump_task *t = op_new(op, struct dump_task), **slot = t ? ARRAY_ADD(op->arena, &d->tasks) : NULL;

	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	t->pid = pid;
	t->parent = parent;
	t->target = (struct target){ .pid = pid, .pidfd = -1, .mem = -1 };
	*slot = t;
	return t;
}

/*
 * Ended, but still somebody's child? Its parent stands still, so it stays what it is. One that is about to end cannot be
 * seized any more and is no zombie yet: that is a matter of moments, and it must not be missed.
 */
static int add_ended(struct op *op, struct dump *d, pid_t pid, size_t parent)
{
	struct proc_stat st;
	struct dump_task *t;
	int r;

	for (;;) {
		r = proc_read_stat(op, pid, &st);
		if (r || st.state == 'X')
			return r < 0 ? r : 0;
		if (st.state == 'Z' && st.num_threads <= 1)
			break;
		r = op_check_cancel(op);
		if (r)
			return r;
		sched_yield();
	}
	t = add(op, d, pid, parent);
	if (!t)
		return CKPT_E_NOMEM;
	t->zombie = true;
	t->stat = st;
	return 0;
}

static void end_hold(struct op *op, struct walk *w)
{
	w->hold = false;
	freezer_thaw(op, &w->d->freezer);
}

/*
 * A task in vfork has to be stopped before its child is: that one would stand still without having executed its program, and
 * the parent wait for it for ever. So the freezer lets go of all of them then.
 */
static int freeze_task(struct op *op, struct walk *w, struct dump_task *t)
{
	int r = target_seize(op, t->pid, &t->target, &w->sleepers);

	if (!r && w->hold && target_in_vfork(op, &t->target))
		end_hold(op, w);
	if (!r && w->hold)
		w->held = w->d->tasks.n;
	if (r || w->hold)
		return r;
	r = target_stop(op, &t->target, &w->sleepers);
	t->stat = t->target.stat;
	return r;
}

static int freeze_child(struct op *op, struct walk *w, pid_t pid, size_t parent)
{
	struct dump *d = w->d;
	struct dump_task *t;
	struct proc_stat st;
	int r = proc_read_stat(op, pid, &st);

	if (r)
		return r < 0 ? r : 0;
	if (st.state == 'Z' && st.num_threads <= 1)
		return add_ended(op, d, pid, parent);
	if (pid == getpid())
		return op_fail(op, CKPT_E_INVAL,
			       AT(.pid = pid, .hint = "start the checkpoint from outside that tree, e.g. with setsid -f"),
			       "the process that checkpoints is a part of the tree");
	t = add(op, d, pid, parent);
	if (!t)
		return CKPT_E_NOMEM;
	r = freeze_task(op, w, t);
	if (r != CKPT_E_NO_PROCESS)
		return r;
	/* It ended before it was stopped. */
	op_forget(op);
	d->tasks.n--;
	return add_ended(op, d, pid, parent);
}

static int freeze_children(struct op *op, struct walk *w, size_t parent, bool *found)
{
	struct dump *d = w->d;
	struct proc_numbers children = { 0 };
	int r;

	if (d->tasks.v[parent]->zombie)
		return 0;
	r = proc_list_children(op, d->tasks.v[parent]->pid, &children);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->tasks.v[parent]->pid), "it ended meanwhile");
	for (size_t i = 0; i < children.v.n && !r; i++) {
		size_t before = d->tasks.n;

		if (known(d, children.v.v[i]))
			continue;
		r = freeze_child(op, w, children.v.v[i], parent);
		*found = *found || d->tasks.n != before;
		r = r ?: op_check_cancel(op);
	}
	return r;
}

static int walk(struct op *op, struct walk *w)
{
	bool found = true;
	int r = 0;

	while (!r && found) {
		found = false;
		for (size_t i = 0; i < w->d->tasks.n && !r; i++)
			r = freeze_children(op, w, i, &found);
	}
	return r;
}

/* Takes out a task that is gone. Whom its children have for a parent now has to be one of the tree, too. */
static int drop(struct op *op, struct dump *d, size_t i)
{
	pid_t pid = d->tasks.v[i]->pid;

	for (size_t k = i + 1; k < d->tasks.n; k++) {
		struct dump_task *t = d->tasks.v[k];
		struct proc_stat st;
		size_t p = 0;

		if (t->parent != i)
			continue;
		if (proc_read_stat(op, t->pid, &st) != 0)
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "task %d ended meanwhile", t->pid);
		while (p < d->tasks.n && d->tasks.v[p]->pid != st.ppid)
			p++;
		if (p == d->tasks.n)
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d ended meanwhile, and left task %d behind", pid, t->pid);
		t->parent = p;
	}
	memmove(&d->tasks.v[i], &d->tasks.v[i + 1], (d->tasks.n - i - 1) * sizeof(*d->tasks.v));
	d->tasks.n--;
	for (size_t k = 0; k < d->tasks.n; k++)
		d->tasks.v[k]->parent -= d->tasks.v[k]->parent > i;
	return 0;
}

/* One that was about to end when the freezer caught it. Its parent stands still by now, but may have waited for it before. */
static int ended_when_thawed(struct op *op, struct walk *w, size_t i)
{
	struct dump_task *t = w->d->tasks.v[i];
	struct proc_stat st;
	int r;

	do {
		r = proc_read_stat(op, t->pid, &st);
		if (r < 0)
			return r;
		if (r || st.state == 'X') {
			w->held--;
			return drop(op, w->d, i);
		}
		r = op_check_cancel(op);
		sched_yield();
	} while (!r && (st.state != 'Z' || st.num_threads > 1));
	t->zombie = true;
	t->stat = st;
	return r;
}

/* The stops of those that were seized while the freezer held them. */
static int await_stops(struct op *op, struct walk *w)
{
	int r = 0;

	for (size_t i = 0; i < w->held && !r; i++) {
		struct dump_task *t = w->d->tasks.v[i];
		size_t held = w->held;

		if (t->zombie)
			continue;
		r = target_stop(op, &t->target, &w->sleepers);
		t->stat = t->target.stat;
		if (r != CKPT_E_NO_PROCESS || i == 0)
			continue;
		op_forget(op);
		r = ended_when_thawed(op, w, i);
		i -= w->held < held; /* the next one is in its place */
	}
	/* The same of zombies that were found while their parents did not stand still yet. */
	for (size_t i = w->d->tasks.n; i-- > 1 && !r;)
		if (w->d->tasks.v[i]->zombie)
			r = ended_when_thawed(op, w, i);
	return r;
}

static int freeze_all(struct op *op, struct walk *w)
{
	struct dump_task *root = add(op, w->d, w->d->pid, 0);
	int r;

	if (!root)
		return CKPT_E_NOMEM;
	r = freezer_freeze(op, &w->d->s, &w->d->guardian, w->d->pid, &w->d->freezer);
	w->hold = w->d->freezer.frozen;
	r = r ?: freeze_task(op, w, root);
	r = r ?: walk(op, w);
	end_hold(op, w);
	if (r || !w->held)
		return r;
	/* With the freezer once more, for what was not in its cgroup. */
	return await_stops(op, w) ?: walk(op, w);
}

/* ------------------------------------------------------------------------------------------- shared objects */

struct seen {
	size_t *v; /* indices of tasks, in the order of kcmp */
	size_t n;
};

static int find_object(struct op *op, const struct dump *d, struct seen *seen, size_t task, int type, size_t *owner)
{
	size_t lo = 0, hi = seen->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = sys_kcmp(d->tasks.v[task]->pid, d->tasks.v[seen->v[mid]]->pid, type, 0, 0);

		if (c < 0 || c > 2)
			return op_errno(op, c < 0 ? errno : EINVAL, AT(.pid = d->tasks.v[task]->pid), "compare task %d with others",
					d->tasks.v[task]->pid);
		if (c == 0) {
			*owner = seen->v[mid];
			return 0;
		}
		if (c == 1)
			hi = mid;
		else
			lo = mid + 1;
	}
	memmove(&seen->v[lo + 1], &seen->v[lo], (seen->n - lo) * sizeof(*seen->v));
	seen->v[lo] = *owner = task;
	seen->n++;
	return 0;
}

static int find_shared(struct op *op, struct dump *d)
{
	static const int types[N_KOBJS] = { KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND };
	int r = 0;

	for (int k = 0; k < N_KOBJS; k++) {
		struct seen seen = { .v = op_alloc(op, (d->tasks.n + 1) * sizeof(size_t)) };

		if (!seen.v)
			return CKPT_E_NOMEM;
		for (size_t i = 0; i < d->tasks.n && !r; i++)
			if (!d->tasks.v[i]->zombie)
				r = find_object(op, d, &seen, i, types[k], &d->tasks.v[i]->owner[k]);
	}
	return r;
}

/* ----------------------------------------------------------------------------------------------- the whole */

int tree_freeze(struct op *op, struct dump *d)
{
	struct walk *w = op_new(op, struct walk);
	int r;

	if (!w)
		return CKPT_E_NOMEM;
	w->d = d;
	op_frozen(op, true);
	sleepers_begin(&w->sleepers);
	r = freeze_all(op, w);
	sleepers_end(&w->sleepers);
	/* Asked again, now that nothing can change. */
	for (size_t i = 0; i < d->tasks.n && !r; i++)
		if (!d->tasks.v[i]->zombie)
			r = preflight_frozen(op, d->tasks.v[i]->pid, d->pid);
	return r ?: find_shared(op, d);
}

void tree_release(struct op *op, struct dump *d)
{
	for (size_t i = 0; i < d->tasks.n; i++)
		if (!d->tasks.v[i]->zombie)
			target_release(op, &d->tasks.v[i]->target);
	freezer_done(op, &d->freezer);
	op_frozen(op, false);
}

int tree_kill(struct op *op, struct dump *d)
{
	int r = 0;

	/* All of them first: no parent is to see a child end and act on it. */
	for (size_t i = 0; i < d->tasks.n; i++)
		if (!d->tasks.v[i]->zombie)
			r = target_end(op, &d->tasks.v[i]->target) ?: r;
	/* Children first: the init of a PID namespace has not ended before all others in it were waited for. */
	for (size_t i = d->tasks.n; i-- > 0;)
		if (!d->tasks.v[i]->zombie)
			target_reap(&d->tasks.v[i]->target);
	op_frozen(op, false);
	return r;
}

int tree_explain(struct op *op, const struct dump *d, int r)
{
	if (r == CKPT_E_CANCELED || r == CKPT_E_NO_PROCESS || d->pid <= 0)
		return r;
	for (size_t i = 0; i < d->tasks.n || !i; i++) {
		const struct target t = { .pid = d->tasks.n ? d->tasks.v[i]->pid : d->pid };

		if ((d->tasks.n && d->tasks.v[i]->zombie) || !target_has_ended(&t))
			continue;
		op_forget(op);
		if (t.pid == d->pid)
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t.pid), "it ended meanwhile");
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t.pid), "task %d ended meanwhile", t.pid);
	}
	return r;
}
