// SPDX-License-Identifier: MIT
/*
 * Interval timers and POSIX timers: what is left, intervals, ids after gaps, overruns, timers for one thread, timers on
 * CPU clocks, absolute timers, and that periodic ones go on.
 */
#include "target.h"

#include <sys/time.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

static volatile int ticks;

static void tick(int sig)
{
	(void)sig;
	ticks++;
}

static void itimers(void)
{
	struct itimerval real = { { 3, 5000 }, { 3600, 0 } }, virt = { { 0, 0 }, { 1000, 0 } }, prof = { { 7, 0 }, { 2000, 0 } };
	struct itimerval now;

	CHECK(!setitimer(ITIMER_REAL, &real, NULL) && !setitimer(ITIMER_VIRTUAL, &virt, NULL) &&
	      !setitimer(ITIMER_PROF, &prof, NULL));
	t_wait();
	CHECK(!getitimer(ITIMER_REAL, &now) && now.it_interval.tv_sec == 3 && now.it_interval.tv_usec == 5000);
	CHECK(now.it_value.tv_sec > 3500 && now.it_value.tv_sec <= 3600);
	CHECK(!getitimer(ITIMER_VIRTUAL, &now) && now.it_interval.tv_sec == 0 && now.it_value.tv_sec >= 990);
	CHECK(!getitimer(ITIMER_PROF, &now) && now.it_interval.tv_sec == 7 && now.it_value.tv_sec >= 1990);
}

static void periodic(void)
{
	struct sigaction sa = { .sa_handler = tick, .sa_flags = SA_RESTART };
	struct itimerval it = { { 0, 20000 }, { 0, 20000 } };
	int before;

	sigaction(SIGALRM, &sa, NULL);
	CHECK(!setitimer(ITIMER_REAL, &it, NULL));
	while (ticks < 2)
		t_sleep_ms(5);
	t_wait();
	before = ticks;
	for (int i = 0; i < 100 && ticks < before + 3; i++)
		t_sleep_ms(20);
	CHECK(ticks >= before + 3);
}

static timer_t make(clockid_t clock, int sig, void *value)
{
	struct sigevent ev = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = sig, .sigev_value.sival_ptr = value };
	timer_t t;

	if (!sig)
		ev.sigev_notify = SIGEV_NONE;
	CHECK(!timer_create(clock, &ev, &t));
	return t;
}

static void posix(void)
{
	struct itimerspec its = { { 9, 11 }, { 7200, 0 } }, once = { { 0, 0 }, { 5000, 0 } }, now;
	struct timespec zero = { 0, 0 };
	timer_t t[8];
	sigset_t s;
	siginfo_t si;

	sigemptyset(&s);
	for (int i = 0; i < 8; i++)
		sigaddset(&s, SIGRTMIN + i);
	sigprocmask(SIG_BLOCK, &s, NULL);
	for (int i = 0; i < 8; i++)
		t[i] = make(i % 2 ? CLOCK_MONOTONIC : CLOCK_REALTIME, SIGRTMIN + i, (void *)(0x1000l + i));
	timer_delete(t[1]), timer_delete(t[2]), timer_delete(t[5]); /* ids with gaps */
	CHECK(!timer_settime(t[0], 0, &its, NULL) && !timer_settime(t[3], 0, &once, NULL));
	timer_t none = make(CLOCK_BOOTTIME, 0, NULL), cpu = make(CLOCK_PROCESS_CPUTIME_ID, SIGRTMIN, NULL);
	CHECK(!timer_settime(none, 0, &once, NULL) && !timer_settime(cpu, 0, &once, NULL));
	t_wait();
	CHECK(!timer_gettime(t[0], &now) && now.it_interval.tv_sec == 9 && now.it_interval.tv_nsec == 11);
	CHECK(now.it_value.tv_sec > 7100 && now.it_value.tv_sec <= 7200);
	CHECK(!timer_gettime(t[3], &now) && now.it_interval.tv_sec == 0 && now.it_value.tv_sec > 4900);
	CHECK(!timer_gettime(t[4], &now) && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
	CHECK(!timer_gettime(none, &now) && now.it_value.tv_sec > 4900);
	CHECK(!timer_gettime(cpu, &now) && now.it_value.tv_sec > 4900);
	CHECK(timer_gettime(t[1], &now) < 0 && timer_gettime(t[5], &now) < 0);
	/* it still fires, with its own value */
	once.it_value = (struct timespec){ 0, 1000000 };
	CHECK(!timer_settime(t[6], 0, &once, NULL));
	t_sleep_ms(20);
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 6);
	CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 6 && si.si_code == SI_TIMER);
	CHECK(si.si_value.sival_ptr == (void *)0x1006);
	CHECK(!timer_delete(t[0]));
	(void)make(CLOCK_MONOTONIC, SIGRTMIN, NULL); /* new ones can be made */
}

/* A timer whose signal was taken late, so that it has an overrun count; not pending again for a while. */
static void taken(void)
{
	struct itimerspec its = { { 0, 700000000 }, { 0, 700000000 } };
	struct timespec zero = { 0, 0 };
	sigset_t s;
	siginfo_t si;
	timer_t t;

	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	t = make(CLOCK_MONOTONIC, SIGRTMIN + 1, (void *)5);
	CHECK(!timer_settime(t, 0, &its, NULL));
	t_sleep_ms(2200);
	CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 1 && timer_getoverrun(t) == 2);
	t_wait();
	if (timer_getoverrun(t) != 2)
		FAIL("overrun was 2 and is %d", timer_getoverrun(t));
}

/*
 * A timer that expired several times while its signal was pending. For how many expirations the pending signal stands
 * nobody can ask the kernel; the signal must be there, and the timer ticks on.
 */
static void overrun(void)
{
	struct itimerspec its = { { 0, 10000000 }, { 0, 10000000 } };
	struct timespec zero = { 0, 0 };
	int seen = 0, counted = 0;
	sigset_t s;
	siginfo_t si;
	timer_t t;

	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	t = make(CLOCK_MONOTONIC, SIGRTMIN + 1, (void *)5);
	CHECK(!timer_settime(t, 0, &its, NULL));
	t_sleep_ms(55);
	t_wait();
	CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 1 && si.si_code == SI_TIMER);
	CHECK(si.si_value.sival_ptr == (void *)5);
	for (int i = 0; i < 5; i++) {
		t_sleep_ms(45);
		while (sigtimedwait(&s, &si, &zero) == SIGRTMIN + 1) {
			CHECK(si.si_code == SI_TIMER && si.si_value.sival_ptr == (void *)5);
			seen++;
			counted += 1 + timer_getoverrun(t);
		}
	}
	CHECK(seen >= 5);
	if (counted < 15 || counted > 60)
		FAIL("%d expirations in 225 ms of a timer of 10 ms", counted);
}

static pthread_barrier_t bar;
static volatile pid_t tid;
static volatile int hit_tid;

static void who(int sig)
{
	(void)sig;
	hit_tid = syscall(SYS_gettid);
}

static void *other(void *arg)
{
	(void)arg;
	tid = syscall(SYS_gettid);
	pthread_barrier_wait(&bar);
	for (int i = 0; i < 6000 && !hit_tid; i++)
		t_sleep_ms(5);
	return NULL;
}

static void threadid(void)
{
	struct sigaction sa = { .sa_handler = who, .sa_flags = SA_RESTART };
	struct sigevent ev = { .sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 2 };
	struct itimerspec far = { { 0, 0 }, { 5000, 0 } }, near = { { 0, 0 }, { 0, 1000000 } }, now;
	pthread_t t;
	timer_t tm;

	sigaction(SIGRTMIN + 2, &sa, NULL);
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, other, NULL));
	pthread_barrier_wait(&bar);
	ev.sigev_notify_thread_id = tid;
	CHECK(!timer_create(CLOCK_MONOTONIC, &ev, &tm) && !timer_settime(tm, 0, &far, NULL));
	t_wait();
	CHECK(!timer_gettime(tm, &now) && now.it_value.tv_sec > 4900);
	CHECK(!timer_settime(tm, 0, &near, NULL));
	pthread_join(t, NULL);
	CHECK(hit_tid == tid);
}

/* An absolute timer fires at its time: not before it, and where it lies in the past of the restored program, at once. */
static void absolute(void)
{
	struct itimerspec its = { { 0, 0 }, { 0, 0 } };
	struct timespec wait = { 10, 0 };
	uint64_t due = t_now_ns(CLOCK_MONOTONIC) + 2500000000ull, now;
	sigset_t s;
	siginfo_t si;
	timer_t t;

	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	t = make(CLOCK_MONOTONIC, SIGRTMIN + 1, NULL);
	its.it_value = (struct timespec){ due / 1000000000, due % 1000000000 };
	CHECK(!timer_settime(t, TIMER_ABSTIME, &its, NULL));
	t_wait();
	CHECK(sigtimedwait(&s, &si, &wait) == SIGRTMIN + 1);
	now = t_now_ns(CLOCK_MONOTONIC);
	/* the format stores what was left: the time the program did not exist is added */
	if (now + 5000000 < due)
		FAIL("fired %lu us early", (due - now) / 1000);
	CHECK(now < due + 10000000000ull);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "itimers", itimers }, { "periodic", periodic }, { "posix", posix },
		{ "overrun", overrun }, { "taken", taken }, { "threadid", threadid }, { "absolute", absolute },
	};

	T_RUN(variants, t_init(argc, argv));
}
