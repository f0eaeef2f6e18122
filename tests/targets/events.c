// SPDX-License-Identifier: MIT
/* Descriptors that wait for something: timerfd, signalfd. */
#include "target.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#define MS 1000000ll

static long long ns(const struct timespec *t)
{
	return t->tv_sec * 1000000000ll + t->tv_nsec;
}

static struct timespec span(long long n)
{
	return (struct timespec){ n / 1000000000, n % 1000000000 };
}

static int timer(clockid_t clock, int flags, long long value, long long interval)
{
	struct itimerspec its = { span(interval), span(value) };
	int fd = timerfd_create(clock, TFD_NONBLOCK);

	if (fd < 0 && errno == EINVAL)
		SKIP("no clock %d here", clock);
	CHECK(fd >= 0 && !timerfd_settime(fd, flags, &its, NULL));
	return fd;
}

static long long left(int fd, long long *interval)
{
	struct itimerspec its;

	CHECK(!timerfd_gettime(fd, &its));
	if (interval)
		*interval = ns(&its.it_interval);
	return ns(&its.it_value);
}

static uint64_t ticks(int fd)
{
	uint64_t v = 0;

	if (read(fd, &v, sizeof(v)) < 0 && errno != EAGAIN)
		FAIL("read a timer: %s", strerror(errno));
	return v;
}

static bool readable(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

/* Spans: what was left is left. All clocks, disarmed ones, expirations that nobody read. */
static void timerfds(void)
{
	static const clockid_t clocks[] = { CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM };
	int armed[5], off = timer(CLOCK_MONOTONIC, 0, 0, 0), one = timer(CLOCK_MONOTONIC, 0, 1, 0);
	int many = timer(CLOCK_MONOTONIC, 0, 1, 100000000 * MS), block = timer(CLOCK_REALTIME, 0, 0, 7), copy;
	long long interval, was[5];
	uint64_t two = 2;

	for (int i = 0; i < 5; i++)
		armed[i] = timer(clocks[i], 0, (1000 + i) * 1000 * MS, i * MS);
	CHECK(!fcntl(block, F_SETFL, 0));
	CHECK(fcntl(many, F_DUPFD, 60) == 60);
	t_sleep_ms(5);
	CHECK(!ioctl(many, _IOW('T', 0, uint64_t), &two)); /* as if the second had come */
	for (int i = 0; i < 5; i++)
		was[i] = left(armed[i], NULL);
	t_wait();
	for (int i = 0; i < 5; i++) {
		long long now = left(armed[i], &interval);

		if (now > was[i] || now < was[i] - 60000 * MS || interval != i * MS)
			FAIL("clock %d: %lld left of %lld, interval %lld", clocks[i], now, was[i], interval);
		CHECK(!readable(armed[i]));
	}
	CHECK(left(off, &interval) == 0 && interval == 0 && ticks(off) == 0);
	CHECK(left(one, &interval) == 0 && interval == 0 && ticks(one) == 1 && ticks(one) == 0);
	copy = 60;
	CHECK(readable(copy) && ticks(many) == 2 && ticks(copy) == 0);
	CHECK(left(copy, &interval) > 100000 * MS && interval == 100000000 * MS);
	CHECK(left(block, &interval) == 0 && interval == 7 && !(fcntl(block, F_GETFL) & O_NONBLOCK));
}

/* A periodic timer that expired and that nobody asked: the phase stays, and the expirations while it was there count. */
static void timerphase(void)
{
	int fd = timer(CLOCK_MONOTONIC, 0, 1, 500 * MS);
	uint64_t begun = t_now_ns(CLOCK_MONOTONIC), gone, n;

	t_sleep_ms(1200);
	t_wait();
	gone = t_now_ns(CLOCK_MONOTONIC) - begun;
	n = ticks(fd);
	if (n < 3 || n > gone / (500 * MS) + 1)
		FAIL("%lu expirations after %lu ms", n, gone / 1000000);
}

/* Points: they do not move. */
static void timerabs(void)
{
	uint64_t mono = t_now_ns(CLOCK_MONOTONIC), real = t_now_ns(CLOCK_REALTIME), now;
	int soon = timer(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, (long long)mono + 300 * MS, 0);
	int late = timer(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, (long long)mono + 1000000 * MS, 5 * MS);
	int date = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, (long long)real + 2000000 * MS, 0);
	int over = timer(CLOCK_REALTIME, TFD_TIMER_ABSTIME, 1, 0);
	long long off, interval;
	char flags[32];

	CHECK(dup2(date, 70) == 70);
	t_wait();
	now = t_now_ns(CLOCK_MONOTONIC);
	off = left(late, &interval) - (long long)(mono + 1000000 * MS - now);
	if (off > 50 * MS || off < -50 * MS || interval != 5 * MS)
		FAIL("the point moved by %lld us", off / 1000);
	now = t_now_ns(CLOCK_REALTIME);
	off = left(date, NULL) - (long long)(real + 2000000 * MS - now);
	if (off > 50 * MS || off < -50 * MS)
		FAIL("the date moved by %lld us", off / 1000);
	CHECK(t_proc_field("fdinfo/70", "settime flags", flags, sizeof(flags)) && !strcmp(flags, "03"));
	now = t_now_ns(CLOCK_MONOTONIC);
	if (now < mono + 300 * MS)
		t_sleep_ms((unsigned)((mono + 320 * MS - now) / MS));
	CHECK(ticks(soon) == 1);
	CHECK(ticks(over) == 1 && ticks(over) == 0);
}

static void signalfds(void)
{
	struct signalfd_siginfo si;
	sigset_t s, other;
	int fd, two, pid, st;

	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	sigaddset(&s, SIGRTMIN + 3);
	sigaddset(&s, SIGRTMAX);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL));
	fd = signalfd(-1, &s, SFD_NONBLOCK);
	sigemptyset(&other);
	sigaddset(&other, SIGRTMIN + 3);
	two = signalfd(-1, &other, 0);
	CHECK(fd >= 0 && two >= 0 && dup2(fd, 50) == 50);
	CHECK(!sigqueue(getpid(), SIGRTMIN + 3, (union sigval){ .sival_int = 42 }) && !kill(getpid(), SIGHUP));
	t_wait();
	CHECK(read(50, &si, sizeof(si)) == sizeof(si) && si.ssi_signo == SIGHUP && (int)si.ssi_pid == getpid());
	CHECK(read(two, &si, sizeof(si)) == sizeof(si) && (int)si.ssi_signo == SIGRTMIN + 3 && si.ssi_int == 42);
	CHECK(read(fd, &si, sizeof(si)) < 0 && errno == EAGAIN);
	CHECK(!kill(getpid(), SIGRTMAX) && read(fd, &si, sizeof(si)) == sizeof(si) && (int)si.ssi_signo == SIGRTMAX);
	/* A child reads its own signals. */
	CHECK(!kill(getpid(), SIGHUP));
	pid = fork();
	if (!pid)
		_exit(read(fd, &si, sizeof(si)) < 0 && errno == EAGAIN ? 0 : 1);
	CHECK(waitpid(pid, &st, 0) == pid && st == 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "timerfds", timerfds }, { "timerphase", timerphase }, { "timerabs", timerabs }, { "signalfds", signalfds },
	};

	T_RUN(variants, t_init(argc, argv));
}
