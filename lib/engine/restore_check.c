/* SPDX-License-Identifier: MIT */
/* What can be known to be in the way of a restore is found here, before anything is created. */
#include <sched.h>
#include <signal.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/arch/x86_64/tiles.h"
#include "lib/kernel/sys.h"
#include "lib/state/ns/ns.h"

#define XSTATE_CAP 16384
#define ENDING_PATIENCE_MS 1000 /* for processes that have ended and whose parent is about to wait for them; in all */

static int check_root(struct op *op, const struct snapshot *s)
{
	const struct snap_task *t = &s->tasks.v[0];

	if (t->dead)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "task"), "task %d is a zombie", t->pid);
	return 0;
}

static int check_cores(struct op *op, const struct snap_task *t)
{
	for (size_t i = 0; i < t->threads.n; i++) {
		const struct snap_thread *th = &t->threads.v[i];

		if (th->core->mtype != CORE_ENTRY__MARCH__X86_64)
			return op_fail(op, CKPT_E_KERNEL, AT(.pid = th->tid, .kind = "core"),
				       "core-%d.img is of another processor architecture", th->tid);
		if (t->dead && !th->core->tc)
			return op_fail(op, CKPT_E_IMAGE, AT(.pid = th->tid, .kind = "core"), "core-%d.img is incomplete", th->tid);
		if (t->dead)
			return 0;
		if (!th->core->thread_info || !th->core->thread_core || (i == 0) != !!th->core->tc)
			return op_fail(op, CKPT_E_IMAGE, AT(.pid = th->tid, .kind = "core"), "core-%d.img is incomplete", th->tid);
		if (th->core->thread_info->gpregs->has_mode && th->core->thread_info->gpregs->mode != USER_X86_REGS_MODE__NATIVE)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = th->tid, .kind = "core"),
				       "thread %d is a 32-bit one, which is not supported yet", th->tid);
	}
	return 0;
}

/* No number can be had twice, be it a process's or a thread's. */
static int by_number(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

static int check_numbers(struct op *op, const struct snapshot *s)
{
	size_t n = 0, all = 0;
	pid_t *v;

	for (size_t i = 0; i < s->tasks.n; i++)
		all += s->tasks.v[i].threads.n;
	v = op_alloc(op, (all + 1) * sizeof(*v));
	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t k = 0; k < s->tasks.v[i].threads.n; k++)
			v[n++] = s->tasks.v[i].threads.v[k].tid;
	qsort(v, n, sizeof(*v), by_number);
	for (size_t i = 1; i < n; i++)
		if (v[i] == v[i - 1])
			return op_fail(op, CKPT_E_IMAGE, AT(.pid = v[i]), "pstree.img names thread %d twice", v[i]);
	return 0;
}

static int check_ids(struct op *op, const struct snapshot *s, const struct snap_task *t)
{
	const TaskKobjIdsEntry *a = t->ids, *root = s->inventory->root_ids;

	for (unsigned k = 0; k < NS_N; k++)
		if (!ns_may_be_below(k) && ns_of(s, t, k) != ns_of(s, &s->tasks.v[0], k))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "namespace"),
				       "task %d has another %s namespace than the root of the tree, which is not supported yet", t->pid,
				       ns_info[k].word);
	if (a->files_id == root->files_id)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "ids-%d.img: the descriptor table is that of the dumper", t->pid);
	return 0;
}

static int check_session(struct op *op, const struct snap_task *t)
{
	const PstreeEntry *ps = t->ps;

	if (ps->sid != ps->pid && !op->opts->shell_job)
		return op_fail(op, CKPT_E_INVAL, AT(.pid = t->pid, .kind = "session", .hint = "add -j (--shell-job)"),
			       "task %d is not the leader of its session: it can only join ours, if that is wanted", t->pid);
	if (ps->sid == ps->pid && ps->pgid != ps->pid)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "pstree.img: session and group of task %d contradict each other",
			       t->pid);
	return 0;
}

int restore_pid_taken(struct op *op, pid_t pid)
{
	struct proc_stat st, parent;
	struct proc_status status;

	if (proc_read_status(op, pid, &status) == 0 && status.tgid != pid && proc_read_stat(op, status.tgid, &st) == 0)
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "end it, or restore with --new-pidns"),
			       "PID %d is in use by a thread of %s (process %d)", pid, st.comm, status.tgid);
	op_forget(op);
	if (proc_read_stat(op, pid, &st) != 0) {
		op_forget(op);
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "restore with --new-pidns"),
			       "PID %d is in use: there is a process group or session of that number", pid);
	}
	if (st.state != 'Z')
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "end it, or restore with --new-pidns"),
			       "PID %d is in use by %s", pid, st.comm);
	if (proc_read_stat(op, st.ppid, &parent) != 0) {
		op_forget(op);
		snprintf(parent.comm, sizeof(parent.comm), "its parent");
	}
	return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "the parent has to wait for it, or end"),
		       "PID %d is in use: %s ended, but its parent, %s (process %d), has not waited for it", pid, st.comm,
		       parent.comm, st.ppid);
}

/* Has ended, and only waits to be waited for: an init or a subreaper does that sooner or later. */
static bool is_ending(struct op *op, pid_t pid)
{
	struct proc_stat st;
	int r = proc_read_stat(op, pid, &st);

	if (r < 0)
		op_forget(op);
	return r > 0 || (r == 0 && (st.state == 'Z' || st.state == 'X'));
}

static int check_free(struct op *op, pid_t pid, unsigned *patience_ms)
{
	/* Signal 0 by tgkill would ask for a pair; kill(2) finds thread numbers, too. */
	while (pid && (kill(pid, 0) == 0 || errno == EPERM)) {
		if (!*patience_ms || !is_ending(op, pid))
			return restore_pid_taken(op, pid);
		usleep(1000);
		(*patience_ms)--;
	}
	return 0;
}

static int check_pids(struct op *op, struct restore *r)
{
	unsigned patience_ms = ENDING_PATIENCE_MS;
	int ret = 0;

	if (op->opts->new_pidns || ns_own(&r->s, NS_PID))
		return 0;
	for (size_t i = 0; i < r->s.tasks.n && !ret; i++)
		for (size_t k = 0; k < r->s.tasks.v[i].threads.n && !ret; k++)
			ret = check_free(op, r->s.tasks.v[i].threads.v[k].tid, &patience_ms);
	/* Numbers of leaders that ended long ago are needed for a moment. */
	for (size_t i = 0; i < r->n_tasks && !ret; i++)
		if (!r->tasks[i].task)
			ret = check_free(op, r->tasks[i].node->pid, &patience_ms);
	return ret;
}

/* Loads every thread's registers as this processor takes them: what it lacks is found out now. */
int restore_load_registers(struct op *op, struct new_task *nt)
{
	const struct snap_task *t = nt->task;

	for (size_t i = 0; i < t->threads.n; i++) {
		const CoreEntry *core = t->threads.v[i].core;
		struct new_thread *n = &nt->threads[i];
		char xstate[XSTATE_CAP] __attribute__((aligned(64)));
		int ret = x86_regs_from_image(op, core->thread_info, &n->regs, xstate, sizeof(xstate), &n->xstate_len);

		ret = ret ?: x86_tiles_from_image(op, t->threads.v[i].extra, xstate, n->xstate_len);
		if (ret)
			return op_wrap(op, ret, "thread %d", t->threads.v[i].tid);
		n->xstate = arena_memdup(op->arena, xstate, n->xstate_len);
		if (!n->xstate)
			return op_nomem(op);
		n->sigmask = core->tc ? core->tc->blk_sigset : core->thread_core->blk_sigset;
	}
	return 0;
}

static int check_inventory(struct op *op, const struct snapshot *s)
{
	if (s->inventory->has_tcp_close && s->inventory->tcp_close && !op->opts->tcp_close)
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "add --tcp-close"), "the checkpoint was made with --tcp-close");
	if (s->inventory->has_allow_uprobes && s->inventory->allow_uprobes)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "uprobes"), "the program was traced by uprobes, which is not supported");
	return 0;
}

/* A process to be made for each node of the tree. */
static int make_tasks(struct op *op, struct restore *r)
{
	size_t n = r->tree.nodes.n;

	r->tasks = op_alloc(op, n * sizeof(*r->tasks));
	if (!r->tasks)
		return CKPT_E_NOMEM;
	r->n_tasks = n;
	for (size_t i = 0; i < n; i++) {
		struct new_task *t = &r->tasks[i];

		t->r = r;
		t->node = &r->tree.nodes.v[i];
		t->task = t->node->task == TREE_NONE ? NULL : &r->s.tasks.v[t->node->task];
		t->plan_fd = t->uffd = -1;
		t->n_threads = t->task && !t->task->dead ? t->task->threads.n : 1;
		t->threads = op_alloc(op, t->n_threads * sizeof(*t->threads));
		if (!t->threads)
			return CKPT_E_NOMEM;
		if (i)
			r->tasks[t->node->creator].n_kids++;
	}
	for (size_t i = 0; i < n; i++) {
		r->tasks[i].kids = op_alloc(op, (r->tasks[i].n_kids + 1) * sizeof(*r->tasks[i].kids));
		if (!r->tasks[i].kids)
			return CKPT_E_NOMEM;
		r->tasks[i].n_kids = 0;
	}
	/* In the order in which they are forked: by the moment, then as they come. */
	for (uint32_t when = 0; when <= TREE_LATE; when++)
		for (size_t i = 1; i < n; i++)
			if (r->tasks[i].node->when == when) {
				struct new_task *c = &r->tasks[r->tasks[i].node->creator];

				c->kids[c->n_kids++] = &r->tasks[i];
			}
	return 0;
}

int restore_check(struct op *op, struct restore *r)
{
	struct snapshot *s = &r->s;
	int ret = check_inventory(op, s);

	ret = ret ?: check_root(op, s);
	for (size_t i = 0; i < s->tasks.n && !ret; i++) {
		ret = check_cores(op, &s->tasks.v[i]);
		if (!ret && !s->tasks.v[i].dead)
			ret = check_ids(op, s, &s->tasks.v[i]);
	}
	ret = ret ?: check_numbers(op, s);
	ret = ret ?: check_session(op, &s->tasks.v[0]);
	ret = ret ?: tree_plan(op, s, &r->tree);
	ret = ret ?: make_tasks(op, r);
	for (size_t i = 0; i < r->n_tasks && !ret; i++)
		if (r->tasks[i].node->kind == TREE_TASK)
			ret = restore_load_registers(op, &r->tasks[i]);
	return ret ?: check_pids(op, r);
}
