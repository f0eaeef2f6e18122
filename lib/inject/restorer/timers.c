/* SPDX-License-Identifier: MIT */
/* Timers and pending signals. All signals are blocked, so whatever expires from now on waits. */
#include <linux/prctl.h>

#include "lib/inject/restorer/restorer.h"

#define RESTORE_IDS 77 /* PR_TIMER_CREATE_RESTORE_IDS */

struct event { /* the kernel's struct sigevent */
	uint64_t value;
	int32_t signo, notify, tid, pad[11];
};

/* Ids are handed out in order: make and delete timers until it is this one's turn. */
static void create_in_turn(struct plan *p, const struct plan_timer *t, struct event *ev)
{
	for (;;) {
		int32_t id = 0;

		must(p, PLAN_STEP_TIMER, t->id, sys(__NR_timer_create, t->clock, ev, &id));
		if ((uint32_t)id == t->id)
			return;
		sys(__NR_timer_delete, id);
		if ((uint32_t)id > t->id)
			fail(p, PLAN_STEP_TIMER, t->id, -17);
	}
}

#define NSEC 1000000000ull
#define TIMER_ABSTIME 1

/*
 * Only the kernel counts overruns: the timer is armed for a time that has passed, so that it expires now, has been due
 * that often, and goes on in the phase it had. False: the clock is too young for that.
 */
static bool arm_in_the_past(struct plan *p, const struct plan_timer *t)
{
	uint64_t now[2], spec[4] = { t->interval_s, t->interval_ns }, ns, back;

	if (sys(__NR_clock_gettime, t->clock, now) < 0 ||
	    __builtin_mul_overflow(t->interval_s * NSEC + t->interval_ns, t->expired, &back))
		return false;
	ns = now[0] * NSEC + now[1] + t->value_s * NSEC + t->value_ns;
	if (ns <= back)
		return false;
	ns -= back;
	spec[2] = ns / NSEC;
	spec[3] = ns % NSEC;
	must(p, PLAN_STEP_TIMER, t->id, sys(__NR_timer_settime, t->id, TIMER_ABSTIME, spec, 0));
	return true;
}

/* Takes the signal of the timer, which counts the overruns in doing so. */
static bool take_signal(const struct plan_timer *t)
{
	uint64_t set = 1ull << (t->signo - 1), wait[2] = { 0, NSEC / 10 };

	return sys(__NR_rt_sigtimedwait, &set, 0, wait, 8) == (long)t->signo &&
	       sys(__NR_timer_getoverrun, t->id) == (long)t->expired - 1;
}

static void create(struct plan *p, const struct plan_timer *t)
{
	struct event ev = { .value = t->value, .signo = (int32_t)t->signo, .notify = (int32_t)t->notify, .tid = t->tid };
	int32_t id = (int32_t)t->id;

	if (p->restore_ids)
		must(p, PLAN_STEP_TIMER, t->id, sys(__NR_timer_create, t->clock, &ev, &id));
	else
		create_in_turn(p, t, &ev);
}

static void arm(struct plan *p, struct plan_timer *t)
{
	uint64_t spec[4] = { t->interval_s, t->interval_ns, t->value_s, t->value_ns };

	if (t->expired && arm_in_the_past(p, t)) {
		if (t->take)
			t->lost = !take_signal(t);
		return;
	}
	t->lost = t->take;
	if (t->arm)
		must(p, PLAN_STEP_TIMER, t->id, sys(__NR_timer_settime, t->id, 0, spec, 0));
}

static void create_all(struct plan *p, const struct plan_timer *t)
{
	if (p->restore_ids)
		must(p, PLAN_STEP_PRCTL, RESTORE_IDS, sys(__NR_prctl, RESTORE_IDS, 1, 0, 0, 0));
	for (uint64_t i = 0; i < p->timers.n; i++)
		create(p, &t[i]);
	if (p->restore_ids)
		sys(__NR_prctl, RESTORE_IDS, 0, 0, 0, 0);
}

/* Those whose signal is taken come first: with nothing else armed, what is taken is theirs. */
void timers_restore(struct plan *p)
{
	struct plan_timer *t = PLAN_AT(p, struct plan_timer, p->timers);

	if (p->timers.n)
		create_all(p, t);
	for (int take = 1; take >= 0; take--)
		for (uint64_t i = 0; i < p->timers.n; i++)
			if ((int)t[i].take == take)
				arm(p, &t[i]);
	for (int i = 0; i < 3; i++) {
		const struct plan_itimer *it = &p->itimers[i];

		if (it->value_s || it->value_us)
			must(p, PLAN_STEP_ITIMER, i, sys(__NR_setitimer, i, it, 0));
	}
}

void signals_queue(struct plan *p, struct plan_array signals, int tid)
{
	struct plan_siginfo *s = PLAN_AT(p, struct plan_siginfo, signals);

	for (uint64_t i = 0; i < signals.n; i++) {
		int32_t signo;

		memcpy(&signo, s[i].bytes, sizeof(signo));
		if (tid)
			must(p, PLAN_STEP_SIGNAL, signo, sys(__NR_rt_tgsigqueueinfo, p->pid, tid, signo, &s[i]));
		else
			must(p, PLAN_STEP_SIGNAL, signo, sys(__NR_rt_sigqueueinfo, p->pid, signo, &s[i]));
	}
}
