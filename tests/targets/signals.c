// SPDX-License-Identifier: MIT
/*
 * Signals: handlers with their flags and masks, blocked sets, alternate stacks, and what is queued: for the process and
 * for one thread, with the values and senders in their siginfo, in order.
 */
#include "target.h"

static void handler(int sig, siginfo_t *si, void *uc)
{
	(void)sig, (void)si, (void)uc;
}

static void plain_handler(int sig)
{
	(void)sig;
}

static void handlers(void)
{
	struct sigaction sa[65], now;

	for (int s = 1; s <= 64; s++) {
		if (s == SIGKILL || s == SIGSTOP || s == SIGUSR1 || s == 32 || s == 33)
			continue;
		memset(&sa[s], 0, sizeof(sa[s]));
		sigemptyset(&sa[s].sa_mask);
		sigaddset(&sa[s].sa_mask, s % 7 + 1);
		sa[s].sa_flags = (s % 2 ? SA_RESTART : 0) | (s % 3 ? SA_ONSTACK : 0) | (s % 5 ? 0 : SA_NODEFER);
		if (s % 4 == 0)
			sa[s].sa_handler = SIG_IGN;
		else if (s % 4 == 1)
			sa[s].sa_handler = plain_handler;
		else
			sa[s].sa_sigaction = handler, sa[s].sa_flags |= SA_SIGINFO;
		CHECK(!sigaction(s, &sa[s], NULL));
	}
	t_wait();
	for (int s = 1; s <= 64; s++) {
		if (s == SIGKILL || s == SIGSTOP || s == SIGUSR1 || s == 32 || s == 33)
			continue;
		CHECK(!sigaction(s, NULL, &now));
		if (now.sa_handler != sa[s].sa_handler || (now.sa_flags & ~0x04000000 /* SA_RESTORER */) != sa[s].sa_flags ||
		    memcmp(&now.sa_mask, &sa[s].sa_mask, 8))
			FAIL("handler of signal %d changed", s);
	}
}

static pthread_barrier_t bar;
static pid_t worker_tid;

static void *masked(void *arg)
{
	stack_t ss = { .ss_sp = arg, .ss_size = 65536 }, now;
	sigset_t s, cur;

	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	sigaddset(&s, SIGRTMIN + 5);
	pthread_sigmask(SIG_SETMASK, &s, NULL);
	sigaddset(&s, SIGUSR1);
	pthread_sigmask(SIG_SETMASK, &s, NULL);
	CHECK(!sigaltstack(&ss, NULL));
	worker_tid = syscall(SYS_gettid);
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	pthread_sigmask(SIG_SETMASK, NULL, &cur);
	for (int i = 1; i < 65; i++)
		if (sigismember(&cur, i) != sigismember(&s, i))
			FAIL("mask of the thread changed for signal %d", i);
	CHECK(!sigaltstack(NULL, &now) && now.ss_sp == arg && now.ss_size == 65536 && now.ss_flags == 0);
	return NULL;
}

static volatile int on_alt;
static char alt[2][65536];

static void alt_handler(int sig)
{
	char here;

	(void)sig;
	on_alt = &here >= alt[0] && &here < alt[0] + sizeof(alt[0]) ? 1 : -1;
}

static void masks(void)
{
	stack_t ss = { .ss_sp = alt[0], .ss_size = sizeof(alt[0]) };
	struct sigaction sa = { .sa_handler = alt_handler, .sa_flags = SA_ONSTACK };
	sigset_t s, cur;
	pthread_t t;

	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, masked, alt[1]));
	pthread_barrier_wait(&bar);
	CHECK(!sigaltstack(&ss, NULL) && !sigaction(SIGUSR2, &sa, NULL));
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGTERM);
	sigaddset(&s, 64);
	sigprocmask(SIG_SETMASK, &s, NULL);
	t_wait();
	sigprocmask(SIG_SETMASK, NULL, &cur);
	for (int i = 1; i < 65; i++)
		if (sigismember(&cur, i) != sigismember(&s, i))
			FAIL("mask of the leader changed for signal %d", i);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
	raise(SIGUSR2);
	CHECK(on_alt == 1);
}

static volatile int taken = 0;

static void *idle(void *arg)
{
	sigset_t s;
	siginfo_t si;
	struct timespec zero = { 0, 0 };

	(void)arg;
	sigfillset(&s);
	pthread_sigmask(SIG_SETMASK, &s, NULL);
	worker_tid = syscall(SYS_gettid);
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 4);
	for (int i = 0; i < 3; i++) {
		CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 4);
		CHECK(si.si_code == SI_QUEUE && si.si_value.sival_int == 70 + i);
	}
	sigemptyset(&s);
	sigaddset(&s, SIGWINCH);
	/* raw: the C library shows SI_TKILL as SI_USER */
	CHECK(syscall(SYS_rt_sigtimedwait, &s, &si, &zero, 8) == SIGWINCH && si.si_code == SI_TKILL && si.si_pid == getpid());
	taken = 1;
	return NULL;
}

static void pending(void)
{
	struct timespec zero = { 0, 0 };
	sigset_t all, s;
	siginfo_t si;
	pthread_t t;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, idle, NULL));
	pthread_barrier_wait(&bar);
	for (int i = 0; i < 5; i++)
		CHECK(!sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_ptr = (void *)(0x1122334455667700ul + i) }));
	CHECK(!kill(getpid(), SIGHUP));
	memset(&si, 0, sizeof(si));
	si.si_code = -60; /* a code of our own, with fields the kernel knows nothing of */
	si.si_value.sival_int = 4711;
	CHECK(!syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMIN + 6, &si));
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_sigqueue(t, SIGRTMIN + 4, (union sigval){ .sival_int = 70 + i }));
	CHECK(!syscall(SYS_tgkill, getpid(), worker_tid, SIGWINCH));
	t_wait();
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 3);
	for (int i = 0; i < 5; i++) {
		CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 3);
		CHECK(si.si_code == SI_QUEUE && si.si_pid == getpid() && si.si_uid == getuid());
		CHECK(si.si_value.sival_ptr == (void *)(0x1122334455667700ul + i));
	}
	CHECK(sigtimedwait(&s, &si, &zero) < 0 && errno == EAGAIN);
	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	CHECK(sigtimedwait(&s, &si, &zero) == SIGHUP && si.si_code == SI_USER && si.si_pid == getpid());
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 6);
	CHECK(sigtimedwait(&s, &si, &zero) == SIGRTMIN + 6 && si.si_code == -60 && si.si_value.sival_int == 4711);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
	CHECK(taken == 1);
}

/* Dumped while a handler runs, on the alternate stack: returning from it must find the interrupted place. */
static volatile int in_handler, finished;

static void waiting_handler(int sig)
{
	(void)sig;
	in_handler = 1;
	t_wait();
	in_handler = 2;
}

static void inhandler(void)
{
	stack_t ss = { .ss_sp = alt[0], .ss_size = sizeof(alt[0]) };
	struct sigaction sa = { .sa_handler = waiting_handler, .sa_flags = SA_ONSTACK };
	volatile double x = 2.5;

	CHECK(!sigaltstack(&ss, NULL) && !sigaction(SIGUSR2, &sa, NULL));
	raise(SIGUSR2);
	CHECK(in_handler == 2 && x == 2.5);
	finished = 1;
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "handlers", handlers }, { "masks", masks }, { "pending", pending }, { "inhandler", inhandler }
	};

	T_RUN(variants, t_init(argc, argv));
}
