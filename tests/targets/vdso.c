// SPDX-License-Identifier: MIT
/* The functions of the vDSO, as the C library calls them and by addresses that were looked up before the checkpoint. */
#include "target.h"

#include <dlfcn.h>
#include <sys/time.h>

#define SECOND 1000000000ull

static int (*v_clock_gettime)(clockid_t, struct timespec *);
static int (*v_clock_getres)(clockid_t, struct timespec *);
static int (*v_gettimeofday)(struct timeval *, void *);
static time_t (*v_time)(time_t *);
static int (*v_getcpu)(unsigned *, unsigned *, void *);

static void *find(void *so, const char *name)
{
	void *p = dlsym(so, name);

	if (!p)
		FAIL("no %s in the vDSO", name);
	return p;
}

static uint64_t ns(struct timespec ts)
{
	return ts.tv_sec * SECOND + ts.tv_nsec;
}

/* What the vDSO says lies between what the kernel says before and after. */
static void check_clock(clockid_t c)
{
	struct timespec a, b, d, e;

	CHECK(!syscall(SYS_clock_gettime, c, &a) && !v_clock_gettime(c, &b) && !clock_gettime(c, &d) &&
	      !syscall(SYS_clock_gettime, c, &e));
	CHECK(ns(a) <= ns(b) && ns(b) <= ns(d) && ns(d) <= ns(e));
	CHECK(!v_clock_getres(c, &a) && !syscall(SYS_clock_getres, c, &b) && ns(a) == ns(b));
}

static void check(void)
{
	struct timeval tv;
	unsigned cpu = 9999;
	time_t now;

	check_clock(CLOCK_REALTIME);
	check_clock(CLOCK_MONOTONIC);
	check_clock(CLOCK_MONOTONIC_COARSE);
	check_clock(CLOCK_BOOTTIME);
	now = t_now_ns(CLOCK_REALTIME) / SECOND;
	CHECK(!v_gettimeofday(&tv, NULL) && tv.tv_sec >= now && tv.tv_sec <= now + 5);
	CHECK(!gettimeofday(&tv, NULL) && tv.tv_sec >= now && tv.tv_sec <= now + 5);
	CHECK(v_time(NULL) >= now - 1 && v_time(NULL) <= now + 5 && time(NULL) >= now - 1);
	CHECK(!v_getcpu(&cpu, NULL, NULL) && cpu < CPU_SETSIZE);
	CHECK(sched_getcpu() >= 0);
}

static void look_up(void)
{
	void *so = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);

	if (!so)
		SKIP("no vDSO");
	v_clock_gettime = find(so, "__vdso_clock_gettime");
	v_clock_getres = find(so, "__vdso_clock_getres");
	v_gettimeofday = find(so, "__vdso_gettimeofday");
	v_time = find(so, "__vdso_time");
	v_getcpu = find(so, "__vdso_getcpu");
}

static void calls(void)
{
	look_up();
	check();
	t_wait();
	check();
}

static volatile int stop;

static void *ask(void *arg)
{
	uint64_t last = 0, now;

	(void)arg;
	while (!stop) {
		now = t_now_ns(CLOCK_MONOTONIC);
		if (now < last)
			FAIL("the clock went back by %lu ns", last - now);
		last = now;
	}
	return NULL;
}

/* A thread that is most of the time within the vDSO, wherever it is stopped. */
static void busy(void)
{
	pthread_t t;

	look_up();
	CHECK(!pthread_create(&t, NULL, ask, NULL));
	t_wait();
	check();
	t_sleep_ms(20);
	stop = 1;
	pthread_join(t, NULL);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "calls", calls }, { "busy", busy } };

	T_RUN(variants, t_init(argc, argv));
}
