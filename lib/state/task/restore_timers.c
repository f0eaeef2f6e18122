/* SPDX-License-Identifier: MIT */
/* Interval timers and POSIX timers: from the image to the plan. */
#include <signal.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/nested.h"

#define NSEC 1000000000u
#define USEC 1000000u
/* Without PR_TIMER_CREATE_RESTORE_IDS a timer's id is reached by making and deleting timers. */
#define MAX_TIMER_ID 0x7fffffffu

static int bad(struct plan_build *b, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "timer"), "%s of task %d makes no sense in the image",
		       what, b->task->pid);
}

static int plan_itimer(struct plan_build *b, const ItimerEntry *e, int which)
{
	struct plan_itimer it = { e->isec, e->iusec, e->vsec, e->vusec };

	if (e->iusec >= USEC || e->vusec >= USEC || e->isec > INT64_MAX || e->vsec > INT64_MAX)
		return bad(b, "an interval timer");
	if (!it.value_s && !it.value_us) {
		it.value_s = it.interval_s;
		it.value_us = it.interval_us;
	}
	PLAN(b)->itimers[which] = it;
	return 0;
}

static bool has_thread(const struct plan_build *b, int32_t tid)
{
	for (size_t i = 0; i < b->task->threads.n; i++)
		if (b->task->threads.v[i].tid == tid)
			return true;
	return false;
}

/* Clocks whose timers can be armed in the past. */
static bool counts_overruns(const PosixTimerEntry *e)
{
	uint32_t c = e->clock_id;

	return (c == CLOCK_REALTIME || c == CLOCK_MONOTONIC || c == CLOCK_BOOTTIME || c == CLOCK_TAI) && (e->isec || e->insec) &&
	       e->isec < INT32_MAX && e->vsec < INT32_MAX && e->si_signo >= 1 && e->si_signo <= 64 && e->si_signo != SIGTRAP;
}

/* The kernel's siginfo of a timer: signo, errno, code, (pad), timer id, overrun, value. */
static bool is_signal_of(const PosixTimerEntry *e, const ProtobufCBinaryData *d)
{
	int32_t v[6];

	if (d->len < sizeof(v))
		return false;
	memcpy(v, d->data, sizeof(v));
	return (uint32_t)v[0] == e->si_signo && v[2] == SI_TIMER && (uint32_t)v[4] == e->it_id;
}

bool plan_timer_makes(const struct plan_build *b, const ProtobufCBinaryData *siginfo)
{
	const TaskTimersEntry *t = b->task->threads.v[0].core->tc->timers;

	for (size_t i = 0; t && i < t->n_posix; i++)
		if (is_signal_of(t->posix[i], siginfo))
			return counts_overruns(t->posix[i]);
	return false;
}

static bool is_pending_in(const PosixTimerEntry *e, const SignalQueueEntry *q)
{
	for (size_t i = 0; q && i < q->n_signals; i++)
		if (is_signal_of(e, &q->signals[i]->siginfo))
			return true;
	return false;
}

static bool is_pending(const struct plan_build *b, const PosixTimerEntry *e)
{
	bool found = is_pending_in(e, b->task->threads.v[0].core->tc->signals_s);

	for (size_t i = 0; i < b->task->threads.n && !found; i++)
		found = is_pending_in(e, b->task->threads.v[i].core->thread_core->signals_p);
	return found;
}

/* A signal that is pending has been due once at least; overruns of one that was taken are had by taking another. */
static void plan_overruns(const struct plan_build *b, const PosixTimerEntry *e, struct plan_timer *t)
{
	bool mine = !(e->it_sigev_notify & SIGEV_THREAD_ID) || t->tid == b->task->pid;

	if (counts_overruns(e) && is_pending(b, e)) {
		t->expired = 1;
	} else if (e->overrun && counts_overruns(e) && mine && (e->it_sigev_notify & ~SIGEV_THREAD_ID) == SIGEV_SIGNAL) {
		t->expired = (uint64_t)e->overrun + 1;
		t->take = 1;
	} else if (e->overrun && (e->it_sigev_notify & ~SIGEV_THREAD_ID) != SIGEV_NONE) {
		log_warn(b->op, "task %d: the overrun count of timer %u (%u) is lost: only the kernel counts them, and not for such a timer",
			 b->task->pid, e->it_id, e->overrun);
	}
}

static int one_timer(struct plan_build *b, const PosixTimerEntry *e, struct plan_timer *t)
{
	if (e->insec >= NSEC || e->vnsec >= NSEC || e->it_id > MAX_TIMER_ID || e->isec > INT64_MAX || e->vsec > INT64_MAX)
		return bad(b, "a POSIX timer");
	*t = (struct plan_timer){
		.id = e->it_id, .clock = (int32_t)e->clock_id, .signo = e->si_signo, .notify = e->it_sigev_notify,
		.value = e->sival_ptr, .interval_s = e->isec, .interval_ns = e->insec, .value_s = e->vsec, .value_ns = e->vnsec,
	};
	if (!t->value_s && !t->value_ns) {
		t->value_s = t->interval_s;
		t->value_ns = t->interval_ns;
	}
	t->arm = t->value_s || t->value_ns;
	if (e->it_sigev_notify & SIGEV_THREAD_ID) {
		t->tid = e->has_notify_thread_id ? e->notify_thread_id : b->task->pid;
		if (!has_thread(b, t->tid))
			return bad(b, "the thread that a POSIX timer notifies");
	}
	plan_overruns(b, e, t);
	t->tid = t->tid ? nested_seen(b->s, b->task, t->tid) : 0;
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct plan_timer *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

int plan_timers(struct plan_build *b)
{
	const TaskTimersEntry *e = b->task->threads.v[0].core->tc->timers;
	struct plan_timer *v;
	struct plan_array arr;
	int r;

	if (!e)
		return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .kind = "timer"),
			       "the timers of task %d are missing from the image", b->task->pid);
	r = plan_itimer(b, e->real, 0);
	r = r ?: plan_itimer(b, e->virt, 1);
	r = r ?: plan_itimer(b, e->prof, 2);
	v = op_alloc(b->op, (e->n_posix + 1) * sizeof(*v));
	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < e->n_posix && !r; i++)
		r = one_timer(b, e->posix[i], &v[i]);
	if (r)
		return r;
	qsort(v, e->n_posix, sizeof(*v), by_id);
	for (size_t i = 1; i < e->n_posix; i++)
		if (v[i].id == v[i - 1].id)
			return bad(b, "a POSIX timer");
	r = plan_put_array(b, v, e->n_posix, sizeof(*v), &arr);
	PLAN(b)->timers = arr;
	return r;
}
