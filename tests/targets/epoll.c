// SPDX-License-Identifier: MIT
/* epoll instances: what they watch, under which numbers, and what they have told already. */
#include "target.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

static int make(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	CHECK(ep >= 0);
	return ep;
}

static int ctl(int ep, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = { events, { .u64 = data } };

	return epoll_ctl(ep, op, fd, &ev);
}

static void add(int ep, int fd, uint32_t events, uint64_t data)
{
	CHECK(!ctl(ep, EPOLL_CTL_ADD, fd, events, data));
}

static int take(int ep, struct epoll_event *ev, int n)
{
	int got = epoll_wait(ep, ev, n, 0);

	CHECK(got >= 0);
	return got;
}

/* The one event there is: its data; 0 if there is none. */
static uint64_t one(int ep)
{
	struct epoll_event ev[4];
	int n = take(ep, ev, 4);

	if (n > 1)
		FAIL("%d events: %lx %lx", n, (long)ev[0].data.u64, (long)ev[1].data.u64);
	return n ? ev[0].data.u64 : 0;
}

static void bump(int fd)
{
	uint64_t v = 1;

	CHECK(write(fd, &v, 8) == 8);
}

static void drain(int fd)
{
	uint64_t v;

	CHECK(read(fd, &v, 8) == 8);
}

static int event(unsigned n)
{
	int fd = eventfd(n, EFD_NONBLOCK);

	CHECK(fd >= 0);
	return fd;
}

static int at(int fd, int number)
{
	CHECK(dup2(fd, number) == number);
	close(fd);
	return number;
}

static void basic(void)
{
	int ep = make(), a = event(1), b = event(0), p[2], copy;
	struct epoll_event ev[8];

	CHECK(!pipe(p));
	add(ep, a, EPOLLIN, 0x1122334455667788);
	add(ep, b, EPOLLIN, UINT64_MAX);
	add(ep, p[0], EPOLLIN | EPOLLRDHUP | EPOLLPRI, 3);
	add(ep, p[1], EPOLLOUT | EPOLLEXCLUSIVE, 4);
	copy = dup(ep);
	CHECK(!fcntl(copy, F_SETFL, O_NONBLOCK));
	t_wait();
	CHECK(take(ep, ev, 8) == 2 && ev[0].data.u64 + ev[1].data.u64 == 0x1122334455667788 + 4);
	drain(a);
	CHECK(!ctl(copy, EPOLL_CTL_DEL, p[1], 0, 0) && one(ep) == 0);
	bump(b);
	CHECK(one(copy) == UINT64_MAX);
	drain(b);
	CHECK(write(p[1], "x", 1) == 1 && one(ep) == 3);
	CHECK(ctl(ep, EPOLL_CTL_ADD, a, EPOLLIN, 1) < 0 && errno == EEXIST);
	CHECK(!ctl(ep, EPOLL_CTL_MOD, p[0], 0, 9) && one(ep) == 0);
	close(p[1]);
	CHECK(one(ep) == 9);
	CHECK(fcntl(ep, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFL) & O_NONBLOCK);
}

/* Entries whose number is meanwhile nobody's, or another file's; several with one number. */
static void moved(void)
{
	int ep = make(), a = at(event(0), 30), b = at(event(0), 40), c = at(event(0), 41), d, kept_a, kept_b, kept_c;

	add(ep, a, EPOLLIN, 0xa);
	kept_a = fcntl(a, F_DUPFD, 50);
	close(30); /* nobody's */
	add(ep, b, EPOLLIN, 0xb);
	kept_b = fcntl(b, F_DUPFD, 50);
	d = at(event(0), 40); /* another's */
	add(ep, d, EPOLLIN, 0xd);
	CHECK(!fcntl(d, F_SETFD, FD_CLOEXEC));
	add(ep, c, EPOLLIN, 0xc);
	kept_c = fcntl(c, F_DUPFD, 200); /* the highest of all moves away, too */
	CHECK(kept_c == 200);
	CHECK(fcntl(kept_c, F_DUPFD, 300) == 300);
	add(ep, 300, EPOLLIN, 0xe);
	close(300);
	close(41);
	t_wait();
	CHECK(one(ep) == 0 && fcntl(30, F_GETFD) < 0 && fcntl(41, F_GETFD) < 0 && fcntl(300, F_GETFD) < 0);
	CHECK(fcntl(40, F_GETFD) == FD_CLOEXEC);
	bump(kept_a);
	CHECK(one(ep) == 0xa);
	drain(kept_a);
	bump(kept_b);
	CHECK(one(ep) == 0xb);
	drain(kept_b);
	bump(40);
	CHECK(one(ep) == 0xd);
	CHECK(!ctl(ep, EPOLL_CTL_DEL, 40, 0, 0) && one(ep) == 0);
	/* The entry of b is still there: under the old number it can be had again. */
	CHECK(dup2(kept_b, 40) == 40 && !ctl(ep, EPOLL_CTL_DEL, 40, 0, 0));
	bump(kept_b);
	CHECK(one(ep) == 0);
	CHECK(ctl(ep, EPOLL_CTL_DEL, kept_a, 0, 0) < 0 && errno == ENOENT);
	CHECK(dup2(kept_a, 30) == 30 && ctl(ep, EPOLL_CTL_ADD, 30, EPOLLIN, 1) < 0 && errno == EEXIST);
	CHECK(dup2(200, 300) == 300 && !ctl(ep, EPOLL_CTL_MOD, 300, 0, 0));
	bump(200);
	CHECK(one(ep) == 0xc);
}

static void nested(void)
{
	int inner = make(), middle = make(), outer = make(), a = event(0);

	add(inner, a, EPOLLIN, 1);
	add(middle, inner, EPOLLIN | EPOLLET, 2);
	add(outer, middle, EPOLLIN, 3);
	add(outer, inner, EPOLLIN | EPOLLONESHOT, 4);
	t_wait();
	CHECK(one(outer) == 0);
	bump(a);
	struct epoll_event ev[4];

	CHECK(take(outer, ev, 4) == 2 && one(outer) == 3 && one(middle) == 2 && one(middle) == 0 && one(inner) == 1);
	CHECK(ctl(inner, EPOLL_CTL_ADD, outer, EPOLLIN, 5) < 0 && errno == ELOOP);
}

/* Edges that were told before are not told again; those that were not, are. */
static void edges(void)
{
	int told = make(), untold = make(), a = event(0), b = event(0), c = event(0), p[2];
	struct epoll_event ev[4];

	CHECK(!pipe(p));
	bump(a);
	add(told, a, EPOLLIN | EPOLLET, 1);
	add(told, b, EPOLLIN | EPOLLET, 2);
	add(told, p[1], EPOLLOUT | EPOLLET, 3);
	CHECK(take(told, ev, 4) == 2 && one(told) == 0);
	add(untold, c, EPOLLIN | EPOLLET, 4);
	CHECK(one(untold) == 0);
	bump(c);
	t_wait();
	CHECK(one(told) == 0);
	bump(a);
	CHECK(one(told) == 1 && one(told) == 0);
	bump(b);
	CHECK(one(told) == 2 && one(told) == 0);
	CHECK(one(untold) == 4 && one(untold) == 0);
}

/* One-shots that have fired stay silent until they are armed again, whatever there is. */
static void oneshots(void)
{
	int ep = make(), ready = event(0), quiet = event(0), armed = event(0), gone[2], empty[2];

	CHECK(!pipe(gone) && !pipe(empty));
	add(ep, ready, EPOLLIN | EPOLLONESHOT, 1);
	bump(ready);
	CHECK(one(ep) == 1 && one(ep) == 0);
	add(ep, quiet, EPOLLIN | EPOLLONESHOT | EPOLLET, 2);
	bump(quiet);
	CHECK(one(ep) == 2);
	drain(quiet);
	add(ep, gone[0], EPOLLIN | EPOLLONESHOT, 3);
	CHECK(write(gone[1], "x", 1) == 1 && one(ep) == 3);
	close(gone[1]);
	add(ep, empty[1], EPOLLOUT | EPOLLONESHOT, 5);
	CHECK(one(ep) == 5);
	add(ep, armed, EPOLLIN | EPOLLONESHOT, 4);
	t_wait();
	CHECK(one(ep) == 0);
	bump(ready);
	bump(quiet);
	close(empty[0]); /* an error for the writer: not told either */
	CHECK(one(ep) == 0);
	bump(armed);
	CHECK(one(ep) == 4 && one(ep) == 0);
	CHECK(!ctl(ep, EPOLL_CTL_MOD, ready, EPOLLIN | EPOLLONESHOT, 6) && one(ep) == 6 && one(ep) == 0);
	CHECK(!ctl(ep, EPOLL_CTL_MOD, gone[0], EPOLLIN | EPOLLONESHOT, 7) && one(ep) == 7 && one(ep) == 0);
}

/* What is ready through other things than data: signals, time. */
static void others(void)
{
	int ep = make(), t = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), u = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), sfd;
	struct itimerspec soon = { .it_value = { 0, 1 } }, later = { .it_value = { 0, 400000000 } };
	struct epoll_event ev;
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	sigaddset(&s, SIGUSR2);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL));
	sfd = signalfd(-1, &s, SFD_NONBLOCK);
	add(ep, sfd, EPOLLIN | EPOLLET, 1);
	add(ep, t, EPOLLIN, 2);
	add(ep, u, EPOLLIN | EPOLLET, 3);
	CHECK(!timerfd_settime(t, 0, &soon, NULL) && !timerfd_settime(u, 0, &later, NULL));
	t_sleep_ms(2);
	t_wait();
	struct signalfd_siginfo si;
	uint64_t n;

	while (epoll_wait(ep, &ev, 1, 0) == 1 && ev.data.u64 == 3)
		;
	CHECK(one(ep) == 2 && read(t, &n, 8) == 8 && n == 1);
	CHECK(!kill(getpid(), SIGUSR2) && one(ep) == 1 && one(ep) == 0);
	CHECK(read(sfd, &si, sizeof(si)) == sizeof(si) && si.ssi_signo == SIGUSR2);
	for (int i = 0; read(u, &n, 8) != 8; i++) {
		CHECK(i < 1000);
		t_sleep_ms(1);
	}
	CHECK(n == 1);
}

static void many(void)
{
	static int fds[2000];
	int ep = make(), first;
	struct epoll_event ev[4];

	for (int i = 0; i < 2000; i++) {
		fds[i] = eventfd(0, EFD_NONBLOCK);
		if (fds[i] < 0)
			SKIP("no more descriptors");
		add(ep, fds[i], EPOLLIN, (uint64_t)i << 32 | 7);
	}
	first = fds[0];
	CHECK(dup2(first, 5000) == 5000);
	close(first);
	t_wait();
	bump(fds[1234]);
	CHECK(one(ep) == (1234ull << 32 | 7));
	bump(5000);
	CHECK(take(ep, ev, 4) == 2);
}

/* A target that only a mapping or a process outside holds any more. */
static void lost(void)
{
	int ep = make(), a = event(0), p[2];
	pid_t pid;
	char b;

	CHECK(!pipe(p));
	add(ep, a, EPOLLIN, 1);
	pid = fork(); /* keeps it, out of the way: a grandchild of somebody else */
	if (!pid) {
		if (fork())
			_exit(0);
		setsid();
		close(p[1]);
		close(T_OUT_FD);
		_exit(read(p[0], &b, 1) < 0);
	}
	CHECK(waitpid(pid, NULL, 0) == pid);
	close(p[0]);
	close(a);
	t_wait();
	CHECK(one(ep) == 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "basic", basic }, { "moved", moved }, { "nested", nested }, { "edges", edges }, { "oneshots", oneshots },
		{ "others", others }, { "many", many }, { "lost", lost },
	};

	T_RUN(variants, t_init(argc, argv));
}
