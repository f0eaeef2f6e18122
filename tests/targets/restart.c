// SPDX-License-Identifier: MIT
/*
 * System calls that were going on when the program was stopped: one thread blocked in each. None of them may return
 * EINTR, and those with a timeout must end when they should: not early, and not much later than the time the program
 * did not exist. Variants: all; or the name of one call; epoll, which has a descriptor of a kind that is refused, for
 * dumps that fail: being stopped for a while must not show either.
 */
#include "target.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/wait.h>

#define MS 1000000ul
#define SLEEP_NS (2500 * MS)
#define LATE_NS (400 * MS)

struct call;
typedef int (*call_fn)(struct call *c);

enum timing {
	WOKEN,	  /* waits until it is woken after SIGUSR1 */
	RELATIVE, /* ends SLEEP_NS after it began, and the time the program did not exist is added */
	ABSOLUTE, /* ends SLEEP_NS after it began, or at once */
	AGAIN,	  /* the kernel itself would fail it with EINTR: made again from the start, so up to twice as long */
};

struct call {
	const char *name;
	enum timing timing;
	call_fn fn;
	int res, err, word, fds[2], sem;
	pid_t tid;
	uint64_t began, ended;
	volatile int started;
	pthread_t thread;
};

static struct timespec span(uint64_t ns)
{
	return (struct timespec){ ns / 1000000000, ns % 1000000000 };
}

static int c_nanosleep(struct call *c)
{
	struct timespec ts = span(SLEEP_NS);

	(void)c;
	return syscall(SYS_nanosleep, &ts, &ts);
}

static int c_clock_rel(struct call *c)
{
	struct timespec ts = span(SLEEP_NS);

	(void)c;
	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ts, &ts);
}

static int c_clock_abs(struct call *c)
{
	struct timespec ts = span(c->began + SLEEP_NS);

	return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

static int c_futex(struct call *c)
{
	return syscall(SYS_futex, &c->word, FUTEX_WAIT, 0, NULL, NULL, 0);
}

static int c_futex_timeout(struct call *c)
{
	struct timespec ts = span(SLEEP_NS);
	int r = syscall(SYS_futex, &c->word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &ts, NULL, 0);

	return r < 0 && errno == ETIMEDOUT ? 0 : r ? r : 1;
}

static int c_futex_abs(struct call *c)
{
	struct timespec ts = span(c->began + SLEEP_NS);
	int r = syscall(SYS_futex, &c->word, FUTEX_WAIT_BITSET, 0, &ts, NULL, ~0);

	return r < 0 && errno == ETIMEDOUT ? 0 : r ? r : 1;
}

static int c_poll(struct call *c)
{
	struct pollfd p = { c->fds[0], POLLIN, 0 };

	return poll(&p, 1, -1) - 1;
}

static int c_poll_timeout(struct call *c)
{
	struct pollfd p = { c->fds[0], POLLOUT & 0, 0 };

	p.events = POLLPRI;
	return syscall(SYS_poll, &p, 1, (int)(SLEEP_NS / MS));
}

static int c_ppoll_timeout(struct call *c)
{
	struct timespec ts = span(SLEEP_NS);
	struct pollfd p = { c->fds[0], POLLPRI, 0 };

	return syscall(SYS_ppoll, &p, 1, &ts, NULL, 8);
}

static int c_read(struct call *c)
{
	char b;

	return read(c->fds[0], &b, 1) - 1;
}

static int c_select(struct call *c)
{
	fd_set s;

	FD_ZERO(&s);
	FD_SET(c->fds[0], &s);
	return select(c->fds[0] + 1, &s, NULL, NULL, NULL) - 1;
}

static int c_select_timeout(struct call *c)
{
	struct timeval tv = { SLEEP_NS / 1000000000, SLEEP_NS % 1000000000 / 1000 };

	(void)c;
	return syscall(SYS_select, 0, NULL, NULL, NULL, &tv);
}

static int c_semop(struct call *c)
{
	struct sembuf op = { 0, -1, 0 };

	return syscall(SYS_semtimedop, c->sem, &op, 1, NULL);
}

static int c_semtimedop(struct call *c)
{
	struct sembuf op = { 1, -1, 0 };
	struct timespec ts = span(SLEEP_NS);
	int r = syscall(SYS_semtimedop, c->sem, &op, 1, &ts);

	return r < 0 && errno == EAGAIN ? 0 : r ? r : 1;
}

static int c_sigwait(struct call *c)
{
	sigset_t s;
	siginfo_t si;

	(void)c;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 9);
	return sigwaitinfo(&s, &si) == SIGRTMIN + 9 ? 0 : -1;
}

static int c_sigtimedwait(struct call *c)
{
	struct timespec ts = span(SLEEP_NS);
	sigset_t s;
	siginfo_t si;
	int r;

	(void)c;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 10);
	r = sigtimedwait(&s, &si, &ts);
	return r < 0 && errno == EAGAIN ? 0 : r < 0 ? r : 1;
}

static int c_wait4(struct call *c)
{
	int st;

	return wait4(c->fds[0], &st, 0, NULL) == c->fds[0] && WIFEXITED(st) && WEXITSTATUS(st) == 5 ? 0 : -1;
}

static int c_epoll(struct call *c)
{
	struct epoll_event ev;

	return epoll_wait(c->fds[0], &ev, 1, -1) - 1;
}

static int c_epoll_timeout(struct call *c)
{
	struct epoll_event ev;

	return epoll_wait(c->fds[1], &ev, 1, SLEEP_NS / MS);
}

static struct call calls[] = {
	{ "nanosleep", RELATIVE, c_nanosleep },
	{ "clock_rel", RELATIVE, c_clock_rel },
	{ "clock_abs", ABSOLUTE, c_clock_abs },
	{ "futex", WOKEN, c_futex },
	{ "futex_timeout", RELATIVE, c_futex_timeout },
	{ "futex_abs", ABSOLUTE, c_futex_abs },
	{ "poll", WOKEN, c_poll },
	{ "poll_timeout", RELATIVE, c_poll_timeout },
	{ "ppoll_timeout", RELATIVE, c_ppoll_timeout },
	{ "read", WOKEN, c_read },
	{ "select", WOKEN, c_select },
	{ "select_timeout", RELATIVE, c_select_timeout },
	{ "semop", WOKEN, c_semop },
	{ "semtimedop", AGAIN, c_semtimedop },
	{ "sigwait", WOKEN, c_sigwait },
	{ "sigtimedwait", AGAIN, c_sigtimedwait },
	/* not among "all" */
	{ "wait4", WOKEN, c_wait4 },
	{ "epoll", WOKEN, c_epoll },
	{ "epoll_timeout", AGAIN, c_epoll_timeout },
};

static void *run(void *arg)
{
	struct call *c = arg;

	c->tid = syscall(SYS_gettid);
	c->began = t_now_ns(CLOCK_MONOTONIC);
	__atomic_store_n(&c->started, 1, __ATOMIC_RELEASE);
	errno = 0;
	c->res = c->fn(c);
	c->err = errno;
	c->ended = t_now_ns(CLOCK_MONOTONIC);
	return NULL;
}

static int epoll_with(int fd)
{
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = epoll_create1(0);

	CHECK(ep >= 0 && !epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	return ep;
}

static int ep_pipe[2];

static void prepare(struct call *c, int sem)
{
	int p[2];

	c->sem = sem;
	if (c->fn == c_wait4) {
		CHECK(!pipe(p));
		c->fds[0] = fork();
		if (!c->fds[0]) {
			char b;

			close(p[1]);
			_exit(read(p[0], &b, 1) == 1 ? 5 : 6);
		}
		close(p[0]);
		c->fds[1] = p[1];
	} else if (c->fn == c_epoll || c->fn == c_epoll_timeout) {
		CHECK(ep_pipe[0] || !pipe(ep_pipe));
		c->fds[0] = epoll_with(ep_pipe[0]);
		c->fds[1] = c->fn == c_epoll ? 0 : epoll_create1(0);
	} else if (c->timing == WOKEN || strstr(c->name, "poll")) {
		CHECK(!pipe(c->fds));
	}
}

static void wake(struct call *c)
{
	if (c->fn == c_futex) {
		c->word = 1;
		CHECK(syscall(SYS_futex, &c->word, FUTEX_WAKE, 1) == 1);
	} else if (c->fn == c_semop) {
		CHECK(!semop(c->sem, &(struct sembuf){ 0, 1, 0 }, 1));
	} else if (c->fn == c_sigwait) {
		CHECK(!syscall(SYS_tgkill, getpid(), c->tid, SIGRTMIN + 9));
	} else if (c->fn == c_epoll) {
		CHECK(write(ep_pipe[1], "x", 1) == 1);
	} else {
		CHECK(write(c->fds[1], "x", 1) == 1);
	}
}

static void judge(const struct call *c, uint64_t gone)
{
	uint64_t took = c->ended - c->began, most = SLEEP_NS + LATE_NS + gone;

	if (c->res)
		FAIL("%s returned %d (errno %d: %s) after %lu ms", c->name, c->res, c->err, strerror(c->err), took / 1000000);
	if (c->timing == WOKEN)
		return;
	if (took + 10 * MS < SLEEP_NS)
		FAIL("%s ended after %lu ms, %lu ms early", c->name, took / 1000000, (SLEEP_NS - took) / 1000000);
	if (c->timing == AGAIN)
		most += SLEEP_NS;
	if (took > most)
		FAIL("%s ended after %lu ms, %lu ms late", c->name, took / 1000000, (took - most) / 1000000);
}

int main(int argc, char **argv)
{
	const char *variant = t_init(argc, argv);
	bool all = !*variant || !strcmp(variant, "all"), in[ARRAY_SIZE(calls)] = { 0 };
	bool epoll = !strcmp(variant, "epoll");
	uint64_t ready, gone;
	sigset_t s;
	int sem = -1, n = 0;

	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN + 9);
	sigaddset(&s, SIGRTMIN + 10);
	sigprocmask(SIG_BLOCK, &s, NULL);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		struct call *c = &calls[i];
		bool special = c->fn == c_wait4 || c->fn == c_epoll || c->fn == c_epoll_timeout;

		in[i] = all ? !special : epoll ? !strncmp(c->name, "epoll", 5) || c->timing == AGAIN : !strcmp(c->name, variant);
		if (!in[i])
			continue;
		if (strstr(c->name, "sem") && sem < 0)
			CHECK((sem = semget(IPC_PRIVATE, 2, IPC_CREAT | 0600)) >= 0);
		prepare(c, sem);
		n++;
	}
	if (!n)
		FAIL("no variant %s", variant);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (in[i]) {
			CHECK(!pthread_create(&calls[i].thread, NULL, run, &calls[i]));
			t_await(&calls[i].started);
		}
	t_sleep_ms(30); /* until all are inside */
	ready = t_now_ns(CLOCK_MONOTONIC);
	t_wait();
	gone = t_now_ns(CLOCK_MONOTONIC) - ready;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (in[i] && calls[i].timing == WOKEN)
			wake(&calls[i]);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (in[i])
			pthread_join(calls[i].thread, NULL);
	if (sem >= 0)
		semctl(sem, 0, IPC_RMID);
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (in[i])
			judge(&calls[i], gone);
	t_pass();
}
