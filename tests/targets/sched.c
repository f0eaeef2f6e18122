// SPDX-License-Identifier: MIT
/* Scheduling, for each thread on its own: policy, priority, nice, affinity, I/O priority, timer slack. */
#include "target.h"

#include <sys/resource.h>

#define IOPRIO_WHO_PROCESS 1
#define IOPRIO(class, data) ((class) << 13 | (data))

static pthread_barrier_t bar;

static void set(int policy, int prio, int nice, int cpu, int io, unsigned long slack)
{
	struct sched_param p = { prio };
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	CHECK(!setpriority(PRIO_PROCESS, 0, nice));
	CHECK(!sched_setscheduler(0, policy, &p));
	CHECK(!sched_setaffinity(0, sizeof(cpus), &cpus));
	CHECK(!syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, io));
	CHECK(!prctl(PR_SET_TIMERSLACK, slack));
}

static void check(int policy, int prio, int nice, int cpu, int io, unsigned long slack)
{
	struct sched_param p;
	cpu_set_t cpus;

	CHECK(sched_getscheduler(0) == policy && !sched_getparam(0, &p) && p.sched_priority == prio);
	CHECK(getpriority(PRIO_PROCESS, 0) == nice);
	CHECK(!sched_getaffinity(0, sizeof(cpus), &cpus) && CPU_COUNT(&cpus) == 1 && CPU_ISSET(cpu, &cpus));
	CHECK(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) == io);
	/* 0 on a real-time thread: the kernel has no slack for those */
	CHECK((unsigned long)syscall(SYS_prctl, PR_GET_TIMERSLACK) == slack || policy == SCHED_FIFO || policy == SCHED_RR);
}

static int cpu_a, cpu_b;

static void *other(void *arg)
{
	(void)arg;
	set(SCHED_BATCH, 0, 7, cpu_b, IOPRIO(3, 0), 777000);
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	check(SCHED_BATCH, 0, 7, cpu_b, IOPRIO(3, 0), 777000);
	return NULL;
}

static void run(int policy, int prio, int nice, int io)
{
	pthread_t t;
	cpu_set_t cpus;

	CHECK(!sched_getaffinity(0, sizeof(cpus), &cpus));
	for (int i = CPU_SETSIZE - 1; i >= 0; i--)
		if (CPU_ISSET(i, &cpus))
			cpu_b = cpu_a, cpu_a = i;
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, other, NULL));
	pthread_barrier_wait(&bar);
	set(policy, prio, nice, cpu_a, io, 123456);
	t_wait();
	check(policy, prio, nice, cpu_a, io, 123456);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
}

static void nice_(void)
{
	run(SCHED_OTHER, 0, -5, IOPRIO(2, 3));
}

static void idle(void)
{
	run(SCHED_IDLE, 0, 3, IOPRIO(2, 7));
}

static void fifo(void)
{
	run(SCHED_FIFO, 3, 0, IOPRIO(1, 4));
}

static void rr(void)
{
	run(SCHED_RR, 5, 0, IOPRIO(2, 0));
}

static void reset(void)
{
	run(SCHED_OTHER | SCHED_RESET_ON_FORK, 0, -2, IOPRIO(2, 1));
}

struct attr { /* struct sched_attr, which collides with some libc's own */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t prio;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

static void *resting(void *arg)
{
	pthread_barrier_wait(&bar);
	return arg;
}

/* Only one thread: what it shares with the other must not change. */
static void attrs(struct attr want, const char *what)
{
	struct attr now = { 0 };
	pthread_t t;

	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, resting, NULL));
	want.size = sizeof(want);
	if (syscall(SYS_sched_setattr, 0, &want, 0))
		SKIP("%s is not possible here: %s", what, strerror(errno));
	CHECK(!syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0));
	if (now.runtime != want.runtime)
		SKIP("no %s on this kernel", what);
	t_wait();
	CHECK(!syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0));
	CHECK(now.policy == want.policy && now.flags == want.flags && now.runtime == want.runtime);
	CHECK(now.deadline == want.deadline && now.period == want.period && now.nice == want.nice);
	CHECK(sched_getscheduler(0) == (int)want.policy);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
}

static void deadline(void)
{
	attrs((struct attr){ .policy = 6, .flags = 2 | 4, .runtime = 10000000, .deadline = 90000000, .period = 100000000 },
	      "SCHED_DEADLINE");
}

static void slice(void)
{
	attrs((struct attr){ .policy = SCHED_OTHER, .nice = 4, .runtime = 7300000 }, "time slice of one's own");
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "nice", nice_ }, { "idle", idle }, { "fifo", fifo }, { "rr", rr }, { "reset", reset },
		{ "deadline", deadline }, { "slice", slice },
	};

	T_RUN(variants, t_init(argc, argv));
}
