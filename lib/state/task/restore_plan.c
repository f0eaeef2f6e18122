/* SPDX-License-Identifier: MIT */
/* The plan's container, and what belongs to the task as a whole. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "lib/kernel/sys.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/nested.h"

#define N_SIGACTIONS 62
#define TASK_SIZE 0x7ffffffff000ull
#define TASK_ALIVE 1
#define TASK_STOPPED 3

int plan_host_look(struct op *op, struct plan_host *h)
{
	int bits = prctl(PR_GET_SECUREBITS), r;

	if (bits < 0)
		return op_errno(op, errno, NULL, "read our own securebits");
	h->securebits = (uint32_t)bits;
	r = proc_read_task_status(op, getpid(), sys_gettid(), &h->self);
	r = r ?: proc_read_limits(op, getpid(), h->limits);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_SYS, AT(.hint = "mount /proc for this pid namespace"),
					   "/proc does not show this process: it belongs to another pid namespace");
	return vdso_host_look(op, &h->vdso);
}

int plan_begin(struct plan_build *b, struct op *op, struct snapshot *s, struct snap_task *task, const struct plan_host *h)
{
	*b = (struct plan_build){ .op = op, .s = s, .task = task, .host = h };
	b->cap = task ? 64 << 10 : 4096;
	b->buf = calloc(1, b->cap);
	if (!b->buf)
		return op_nomem(op);
	b->len = ALIGN_UP(sizeof(struct plan), 8ul);
	PLAN(b)->task_size = TASK_SIZE;
	PLAN(b)->root_file = PLAN(b)->uffd_device = PLAN(b)->time_ns = PLAN(b)->last_pid_file = PLAN(b)->highest = -1;
	return 0;
}

void plan_free(struct plan_build *b)
{
	for (size_t i = 0; i < b->own.n; i++)
		close(b->own.v[i]);
	b->own.n = 0;
	free(b->buf);
	b->buf = NULL;
}

int plan_put(struct plan_build *b, const void *p, size_t n, uint64_t *off)
{
	size_t need = b->len + ALIGN_UP(n, 8ul);

	if (need > b->cap) {
		size_t cap = MAX(b->cap * 2, need);
		char *buf = realloc(b->buf, cap);

		if (!buf)
			return op_nomem(b->op);
		memset(buf + b->cap, 0, cap - b->cap);
		b->buf = buf;
		b->cap = cap;
	}
	*off = b->len;
	if (n)
		memcpy(b->buf + b->len, p, n);
	b->len = need;
	return 0;
}

int plan_put_array(struct plan_build *b, const void *p, size_t n, size_t size, struct plan_array *arr)
{
	arr->n = n;
	return plan_put(b, p, n * size, &arr->off);
}

int plan_fetch(struct plan_build *b, int fd, bool own, int32_t *file)
{
	int *q = own ? ARRAY_ADD(b->op->arena, &b->own) : NULL;
	struct plan_fetch *f = ARRAY_ADD(b->op->arena, &b->fetches);

	if (q)
		*q = fd;
	else if (own)
		close(fd);
	if (!f || (own && !q))
		return op_nomem(b->op);
	*f = (struct plan_fetch){ .engine = fd };
	if (file)
		*file = (int32_t)b->fetches.n - 1;
	return 0;
}

int plan_sigactions(struct plan_build *b)
{
	const TaskCoreEntry *tc = b->task->threads.v[0].core->tc;
	struct plan_sigaction acts[N_SIGACTIONS];
	struct plan_array arr;
	uint32_t signo = 0;
	size_t n = 0;
	int r;

	if (tc->n_sigactions != N_SIGACTIONS)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "signals"),
			       "the image of task %d has %zu signal actions, there must be %d", b->task->pid,
			       tc->n_sigactions, N_SIGACTIONS);
	for (size_t i = 0; i < N_SIGACTIONS; i++) {
		const SaEntry *sa = tc->sigactions[i];

		signo++;
		while (signo == SIGKILL || signo == SIGSTOP)
			signo++;
		if (sa->compat_sigaction)
			return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .kind = "signals"),
				       "task %d has a 32-bit handler for signal %u, which is not supported yet",
				       b->task->pid, signo);
		/* An ignored SIGTRAP would be forced to its default by the restorer's int3; the engine sets it at the end. */
		if (signo == SIGTRAP && sa->sigaction == (uint64_t)(uintptr_t)SIG_IGN)
			continue;
		acts[n++] = (struct plan_sigaction){ signo, 0, sa->sigaction, sa->flags, sa->restorer, sa->mask };
	}
	r = plan_put_array(b, acts, n, sizeof(*acts), &arr);
	PLAN(b)->sigactions = arr;
	return r;
}

int plan_signals(struct plan_build *b, SignalQueueEntry *q, pid_t tid, struct plan_array *arr)
{
	struct plan_siginfo *v;
	size_t n = 0;

	*arr = (struct plan_array){ 0 };
	if (!q || !q->n_signals)
		return 0;
	v = op_alloc(b->op, q->n_signals * sizeof(*v));
	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < q->n_signals; i++) {
		const ProtobufCBinaryData *d = &q->signals[i]->siginfo;
		int32_t signo = 0;

		if (d->len == sizeof(*v))
			memcpy(&signo, d->data, sizeof(signo));
		if (signo < 1 || signo > 64 || signo == SIGKILL)
			return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = tid, .kind = "signals"),
				       "a pending signal of thread %d is damaged", tid);
		if (signo == SIGTRAP || signo == SIGSTOP)
			return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = tid, .kind = "signals"),
				       "thread %d has a pending %s, which is not supported yet", tid,
				       signo == SIGTRAP ? "SIGTRAP" : "SIGSTOP");
		if (!plan_timer_makes(b, d))
			memcpy(v[n++].bytes, d->data, sizeof(*v));
	}
	return plan_put_array(b, v, n, sizeof(*v), arr);
}

int plan_rlimits(struct plan_build *b)
{
	const TaskRlimitsEntry *e = b->task->threads.v[0].core->tc->rlimits;
	struct plan_rlimit v[16];
	struct plan_array arr;
	const struct proc_limit *ours = b->host->limits;
	size_t n = 0;
	int r;

	if (!e || e->n_rlimits > ARRAY_SIZE(v))
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "rlimits"),
			       "the resource limits of task %d are missing from the image", b->task->pid);
	for (uint32_t i = 0; i < e->n_rlimits; i++) {
		uint64_t max = e->rlimits[i]->max, cur = MIN(e->rlimits[i]->cur, max);

		bool lowered = i == RLIMIT_STACK && b->s->has_rings; /* restore_spawn.c */

		if (cur != ours[i].cur || max != ours[i].max || lowered)
			v[n++] = (struct plan_rlimit){ i, 0, cur, max };
	}
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->rlimits = arr;
	return r;
}

static int plan_state(struct plan_build *b)
{
	const TaskCoreEntry *tc = b->task->threads.v[0].core->tc;

	if (tc->task_state != TASK_ALIVE && tc->task_state != TASK_STOPPED)
		return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .kind = "task"),
			       "task %d is in state %u, which cannot be restored", b->task->pid, tc->task_state);
	return 0;
}

int plan_task(struct plan_build *b)
{
	const struct snap_task *t = b->task;
	const TaskCoreEntry *tc = t->threads.v[0].core->tc;
	struct plan_array arr = { 0 };
	int r = plan_state(b);

	r = r ?: plan_sigactions(b);
	r = r ?: plan_timers(b);
	r = r ?: plan_rlimits(b);
	r = r ?: plan_threads(b);
	r = r ?: plan_signals(b, tc->signals_s, t->pid, &arr);
	if (r)
		return r;
	PLAN(b)->signals = arr;
	PLAN(b)->pid = nested_seen(b->s, t, t->pid);
	PLAN(b)->personality = tc->personality;
	PLAN(b)->set_personality = tc->personality != 0 || b->s->has_rings; /* restore_spawn.c */
	PLAN(b)->subreaper = tc->has_child_subreaper && tc->child_subreaper;
	PLAN(b)->thp_disable = t->mm && t->mm->has_thp_disabled && t->mm->thp_disabled &&
			       !(t->extra && t->extra->has_thp_disable);
	PLAN(b)->io_flusher = t->extra && t->extra->has_io_flusher && t->extra->io_flusher;
	PLAN(b)->membarrier = tc->has_membarrier_registration_mask ? tc->membarrier_registration_mask : 0;
	return 0;
}
