/* SPDX-License-Identifier: MIT */
/* Interval timers and POSIX timers. Remaining times are relative, as the format wants them. */
#include "lib/state/msg.h"
#include "lib/state/pids.h"
#include "lib/state/task/task.h"

int itimers_dump(struct op *op, const struct parasite_args *a, TaskTimersEntry **ret)
{
	TaskTimersEntry *t = msg_new(op, TaskTimersEntry, task_timers_entry);
	ItimerEntry *entry[3];

	if (!t)
		return CKPT_E_NOMEM;
	for (int i = 0; i < 3; i++) {
		entry[i] = msg_new(op, ItimerEntry, itimer_entry);
		if (!entry[i])
			return CKPT_E_NOMEM;
		entry[i]->isec = a->itimers[i].interval_sec;
		entry[i]->iusec = a->itimers[i].interval_usec;
		entry[i]->vsec = a->itimers[i].value_sec;
		entry[i]->vusec = a->itimers[i].value_usec;
	}
	t->real = entry[0];
	t->virt = entry[1];
	t->prof = entry[2];
	*ret = t;
	return 0;
}

/* Asks for up to PARASITE_TIMERS timers in one run of the parasite. */
static int dump_batch(struct op *op, const struct task_dump *d, const struct proc_timer *v, size_t n, TaskTimersEntry *out)
{
	struct parasite_args *a = op_new(op, struct parasite_args);
	int r;

	if (!a)
		return CKPT_E_NOMEM;
	a->what = PARASITE_TIMER;
	a->n_timers = (int32_t)n;
	for (size_t i = 0; i < n; i++)
		a->timers[i].id = (int32_t)v[i].id;
	r = parasite_run(op, d->target, &d->target->threads.v[0], d->parasite, a);
	for (size_t i = 0; i < n && !r; i++) {
		PosixTimerEntry *e = msg_new(op, PosixTimerEntry, posix_timer_entry);
		const struct parasite_timer *t = &a->timers[i];

		if (!e)
			return CKPT_E_NOMEM;
		if (t->overrun < 0)
			return op_errno(op, -t->overrun, AT(.pid = d->task->host, .kind = "timer"), "read POSIX timer %u",
					v[i].id);
		e->it_id = v[i].id;
		e->clock_id = v[i].clock_id;
		e->si_signo = v[i].signo;
		e->sival_ptr = v[i].sigval;
		e->it_sigev_notify = (uint32_t)v[i].notify | (v[i].notify_tid ? 4u : 0u);
		e->overrun = (uint32_t)t->overrun;
		e->isec = t->interval_sec;
		e->insec = t->interval_nsec;
		e->vsec = t->value_sec;
		e->vnsec = t->value_nsec;
		if (v[i].notify_tid)
			msg_set(e, notify_thread_id, pids_inside(d->s->pids, v[i].notify_pid));
		out->posix[out->n_posix++] = e;
	}
	return r;
}

int posix_timers_dump(struct op *op, const struct task_dump *d, TaskTimersEntry *out)
{
	struct proc_timers timers = { 0 };
	int r = proc_read_timers(op, d->task->host, &timers);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->task->host), "task %d ended", d->task->host);
	out->posix = op_alloc(op, (timers.v.n + 1) * sizeof(*out->posix));
	if (!out->posix)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < timers.v.n && !r; i += PARASITE_TIMERS)
		r = dump_batch(op, d, timers.v.v + i, MIN(timers.v.n - i, (size_t)PARASITE_TIMERS), out);
	return r;
}
