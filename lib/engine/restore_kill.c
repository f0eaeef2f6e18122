/* SPDX-License-Identifier: MIT */
/* The end of a restore that failed: every process that was made ends, and is waited for. */
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/ns/ns.h"

/* Children that were forked a moment ago, of which we did not hear yet. They are ours, too: they are traced. */
static void kill_unknown(struct op *op, const struct new_task *t)
{
	struct proc_numbers children = { 0 };

	if (proc_list_children(op, t->pid, &children) != 0)
		op_forget(op);
	for (size_t i = 0; i < children.v.n; i++) {
		bool known = false;

		for (size_t k = 0; k < t->r->n_tasks && !known; k++)
			known = t->r->tasks[k].pid == children.v.v[i];
		if (known)
			continue;
		kill(children.v.v[i], SIGKILL);
		waitpid(children.v.v[i], NULL, __WALL);
	}
}

/*
 * Threads that we trace are ours to reap; the leader's end comes after all of theirs. Those in any order: the last one of the
 * threads of a PID namespace's init ends when the others were waited for.
 */
static void reap(struct new_task *t)
{
	bool more = true;

	for (unsigned round = 0; more; round++) {
		more = false;
		for (size_t i = 1; i < t->n_threads; i++) {
			struct new_thread *th = &t->threads[i];
			int status = 0;
			pid_t got;

			if (!th->tid || th->gone)
				continue;
			got = waitpid(th->tid, &status, __WALL | WNOHANG);
			th->gone = got < 0 ? errno != EINTR : got > 0 && !WIFSTOPPED(status);
			more = more || !th->gone;
		}
		if (more)
			usleep(round < 20 ? 20 : 500);
	}
	while (waitpid(t->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	t->pid = 0;
}

void restore_kill(struct op *op, struct restore *r)
{
	bool init_last = ns_clone_flags(&r->s) & CLONE_NEWPID || (r->s.extra && r->s.extra->n_nested_pids);

	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].pid && r->tasks[i].n_kids_born < r->tasks[i].n_kids)
			kill_unknown(op, &r->tasks[i]);
	/* A process that we trace keeps its number until we have waited for it. */
	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].pid)
			kill(r->tasks[i].pid, SIGKILL);
	/*
	 * Parents first: what a dead parent leaves goes to the next subreaper. Where that is our own process, what was waited
	 * for before would become a zombie of ours, which nobody knows of; so do the zombies of the tree. The init of a PID
	 * namespace is the subreaper of all in there, and ends when all of them have: it comes last.
	 */
	for (size_t i = 0; i < r->n_tasks; i++) {
		struct new_task *t = &r->tasks[init_last ? r->n_tasks - 1 - i : i];

		if (t->pid)
			reap(t);
	}
	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].zombie)
			waitpid(r->tasks[i].zombie, NULL, __WALL | WNOHANG);
	r->pid = 0;
}
