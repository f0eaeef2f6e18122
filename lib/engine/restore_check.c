/* SPDX-License-Identifier: MIT */
/* What can be known to be in the way of a restore is found here, before anything is created. */
#include <signal.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/sys.h"

#define XSTATE_CAP 16384
#define ZOMBIE 2

static int check_shape(struct op *op, const struct snapshot *s)
{
	const struct snap_task *t = &s->tasks.v[0];

	if (s->tasks.n > 1)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "tree"),
			       "the checkpoint holds %zu processes; restoring trees of several is not supported yet", s->tasks.n);
	if (t->ps->ppid)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "pstree.img: there is no root task");
	if (t->threads.v[0].core->tc && t->threads.v[0].core->tc->task_state == ZOMBIE)
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
		if (!th->core->thread_info || !th->core->thread_core || (i == 0) != !!th->core->tc)
			return op_fail(op, CKPT_E_IMAGE, AT(.pid = th->tid, .kind = "core"), "core-%d.img is incomplete", th->tid);
		if (th->core->thread_info->gpregs->has_mode && th->core->thread_info->gpregs->mode != USER_X86_REGS_MODE__NATIVE)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = th->tid, .kind = "core"),
				       "thread %d is a 32-bit one, which is not supported yet", th->tid);
	}
	for (size_t i = 0; i < t->threads.n; i++)
		for (size_t j = i + 1; t->threads.n < 4096 && j < t->threads.n; j++)
			if (t->threads.v[i].tid == t->threads.v[j].tid)
				return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "pstree.img names thread %d twice",
					       t->threads.v[i].tid);
	return 0;
}

static int check_ids(struct op *op, const struct snapshot *s, const struct snap_task *t)
{
	const TaskKobjIdsEntry *a = t->ids, *root = s->inventory->root_ids;
	const struct {
		uint32_t ours, roots;
		const char *what;
	} ns[] = {
		{ a->pid_ns_id, root->pid_ns_id, "PID" },	    { a->net_ns_id, root->net_ns_id, "network" },
		{ a->uts_ns_id, root->uts_ns_id, "UTS" },
		{ a->mnt_ns_id, root->mnt_ns_id, "mount" },	    { a->user_ns_id, root->user_ns_id, "user" },
		{ a->cgroup_ns_id, root->cgroup_ns_id, "cgroup" }, { a->time_ns_id, root->time_ns_id, "time" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(ns); i++)
		if (ns[i].ours != ns[i].roots)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "namespace"),
				       "task %d has a %s namespace of its own, which is not supported yet", t->pid, ns[i].what);
	if (a->files_id == root->files_id)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid), "ids-%d.img: the descriptor table is that of the dumper", t->pid);
	return 0;
}

static int check_cgroups(struct op *op, const struct snapshot *s, const struct snap_task *t)
{
	for (size_t i = 0; i < t->threads.n; i++) {
		const ThreadCoreEntry *tc = t->threads.v[i].core->thread_core;

		if (tc->has_cg_set && tc->cg_set && s->inventory->has_root_cg_set && tc->cg_set != s->inventory->root_cg_set)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->threads.v[i].tid, .kind = "cgroup"),
				       "thread %d was in other control groups than the dumper; restoring them is not supported yet",
				       t->threads.v[i].tid);
	}
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

int restore_check_pids(struct op *op, const struct snap_task *t)
{
	if (op->opts->new_pidns)
		return 0;
	for (size_t i = 0; i < t->threads.n; i++) {
		pid_t tid = t->threads.v[i].tid;

		/* Signal 0 by tgkill would ask for a pair; kill(2) finds thread numbers, too. */
		if (kill(tid, 0) == 0 || errno == EPERM)
			return restore_pid_taken(op, tid);
	}
	return 0;
}

/* Loads every thread's registers as this processor takes them: what it lacks is found out now. */
static int check_registers(struct op *op, struct restore *r)
{
	const struct snap_task *t = r->task;

	r->threads = op_alloc(op, t->threads.n * sizeof(*r->threads));
	if (!r->threads)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->threads.n; i++) {
		const CoreEntry *core = t->threads.v[i].core;
		struct new_thread *n = &r->threads[i];
		char xstate[XSTATE_CAP] __attribute__((aligned(64)));
		int ret = x86_regs_from_image(op, core->thread_info, &n->regs, xstate, sizeof(xstate), &n->xstate_len);

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

int restore_check(struct op *op, struct restore *r)
{
	struct snapshot *s = &r->s;
	struct snap_task *t = &s->tasks.v[0];
	int ret = check_inventory(op, s);

	ret = ret ?: check_shape(op, s);
	r->task = t;
	ret = ret ?: check_cores(op, t);
	ret = ret ?: check_ids(op, s, t);
	ret = ret ?: check_cgroups(op, s, t);
	ret = ret ?: check_session(op, t);
	ret = ret ?: check_registers(op, r);
	return ret ?: restore_check_pids(op, t);
}
