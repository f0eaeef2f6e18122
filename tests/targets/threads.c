// SPDX-License-Identifier: MIT
/*
 * Threads: thread-local storage, ids, names, the GS base, blocked in a futex (variants few, many) or busy (busy); each
 * holds values in locals, in TLS and on its stack.
 */
#include "target.h"

#include <asm/prctl.h>

#define MAX 1000
static __thread uint64_t tls_value;
static __thread char tls_block[300];
static int n_threads;
static bool busy;
static pthread_barrier_t bar;
static volatile int go;
static volatile uint64_t beats[MAX];

static void *thread(void *arg)
{
	long i = (long)arg;
	uint64_t on_stack[64], gs = 0;
	pid_t tid = syscall(SYS_gettid);
	char name[16], now[16];

	tls_value = 1000 + i;
	memset(tls_block, (int)i, sizeof(tls_block));
	t_fill(on_stack, sizeof(on_stack), i);
	snprintf(name, sizeof(name), "t%ld", i);
	prctl(PR_SET_NAME, name);
	syscall(SYS_arch_prctl, ARCH_SET_GS, 0x100000 + i * 4096);
	pthread_barrier_wait(&bar);
	if (busy)
		while (!go)
			beats[i]++;
	pthread_barrier_wait(&bar);
	CHECK(tls_value == 1000ull + i && tls_block[299] == (char)i);
	CHECK(t_same(on_stack, sizeof(on_stack), i));
	CHECK(tid == syscall(SYS_gettid));
	prctl(PR_GET_NAME, now);
	CHECK(!strcmp(name, now));
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
	CHECK(gs == 0x100000ull + i * 4096);
	return (void *)(i + 7);
}

static void run(void)
{
	static pthread_t t[MAX];
	pthread_attr_t attr;
	uint64_t before[MAX];
	void *ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 65536);
	pthread_barrier_init(&bar, NULL, n_threads + 1);
	for (long i = 0; i < n_threads; i++)
		CHECK(!pthread_create(&t[i], &attr, thread, (void *)i));
	pthread_barrier_wait(&bar);
	t_wait();
	if (busy) {
		for (int i = 0; i < n_threads; i++)
			before[i] = beats[i];
		for (int i = 0; i < n_threads; i++)
			for (int tries = 0; beats[i] == before[i]; tries++) {
				CHECK(tries < 5000);
				t_sleep_ms(1);
			}
	}
	go = 1;
	pthread_barrier_wait(&bar);
	for (long i = 0; i < n_threads; i++) {
		CHECK(!pthread_join(t[i], &ret));
		CHECK(ret == (void *)(i + 7));
	}
	/* new threads can be made */
	pthread_barrier_init(&bar, NULL, 2);
	busy = false;
	CHECK(!pthread_create(&t[0], &attr, thread, (void *)0));
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	CHECK(!pthread_join(t[0], &ret));
}

static void few(void)
{
	n_threads = 5;
	run();
}

static void hundred(void)
{
	n_threads = 100;
	run();
}

static void thousand(void)
{
	n_threads = 1000;
	run();
}

static void spinning(void)
{
	n_threads = 3;
	busy = true;
	run();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "few", few }, { "many", hundred }, { "thousand", thousand }, { "busy", spinning }
	};

	T_RUN(variants, t_init(argc, argv));
}
