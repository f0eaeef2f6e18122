// SPDX-License-Identifier: MIT
/*
 * What the kernel keeps for a thread in user memory: robust futex lists, rseq areas, the address it clears when a thread
 * ends; and memory-barrier registrations.
 */
#include "target.h"

#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stddef.h>
#include <sys/rseq.h>

static pthread_barrier_t bar;
static pthread_mutex_t mutex;

static void *holder(void *arg)
{
	(void)arg;
	CHECK(!pthread_mutex_lock(&mutex));
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	return NULL; /* without unlocking: the kernel walks the robust list */
}

static void robust(void)
{
	pthread_mutexattr_t attr;
	pthread_t t;
	void *head, *now;
	size_t len;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&mutex, &attr);
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!syscall(SYS_get_robust_list, 0, &head, &len));
	CHECK(!pthread_create(&t, NULL, holder, NULL));
	pthread_barrier_wait(&bar);
	t_wait();
	CHECK(!syscall(SYS_get_robust_list, 0, &now, &len) && now == head && len == sizeof(struct robust_list_head));
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
	CHECK(pthread_mutex_lock(&mutex) == EOWNERDEAD);
}

static struct rseq *area(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

/* The kernel writes the processor into the area whenever it schedules the thread: move it and look. */
static void *rseq_check(void *arg)
{
	cpu_set_t all, one;

	if (arg) {
		pthread_barrier_wait(&bar);
		pthread_barrier_wait(&bar);
	} else {
		t_wait();
	}
	errno = 0;
	if (!syscall(SYS_rseq, area(), sizeof(struct rseq), 0, RSEQ_SIG))
		FAIL("rseq was not registered any more");
	CHECK(!sched_getaffinity(0, sizeof(all), &all));
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		CHECK(!sched_setaffinity(0, sizeof(one), &one));
		if (sched_getcpu() != i || (int)((volatile struct rseq *)area())->cpu_id != i)
			FAIL("on processor %d, but the rseq area says %d", i, (int)area()->cpu_id);
	}
	return NULL;
}

static void rseq(void)
{
	pthread_t t;

	if (!__rseq_size)
		SKIP("the C library did not register rseq");
	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, rseq_check, (void *)1));
	pthread_barrier_wait(&bar);
	rseq_check(NULL);
	pthread_barrier_wait(&bar);
	pthread_join(t, NULL);
}

/*
 * A thread that is always inside a critical section: the abort handler must be what runs after each interruption. The
 * section increments a counter twice; were it resumed in the middle after an interruption, nothing would be noticed
 * here, but a lost abort (jumping nowhere) kills the program.
 */
static volatile int stop_spin;
static volatile long commits, aborts;

#if defined(__x86_64__)
static void *in_section(void *arg)
{
	struct rseq *rs = area();

	(void)arg;
	while (!stop_spin) {
		long spins = 2000, aborted = 0;

		__asm__ volatile(
			".pushsection __rseq_cs, \"aw\"\n"
			".balign 32\n"
			"3:	.long 0, 0\n"
			"	.quad 1f, 2f - 1f, 4f\n"
			".popsection\n"
			"	leaq 3b(%%rip), %%rax\n"
			"	movq %%rax, %[cs]\n"
			"1:	decq %[spins]\n"
			"	jnz 1b\n"
			"2:	jmp 5f\n"
			"	.byte 0x0f, 0xb9, 0x3d\n" /* ud1 with the signature */
			"	.long 0x53053053\n"
			"4:	movq $1, %[aborted]\n"
			"5:\n"
			: [cs] "=m"(rs->rseq_cs), [spins] "+r"(spins), [aborted] "+r"(aborted)
			:
			: "rax", "memory", "cc");
		if (aborted)
			aborts++;
		else
			commits++;
	}
	return NULL;
}
#else
static void *in_section(void *arg)
{
	(void)arg;
	SKIP("no critical section for this architecture");
}
#endif

static void rseqcs(void)
{
	pthread_t t;
	long before;

	if (!__rseq_size)
		SKIP("the C library did not register rseq");
	CHECK(!pthread_create(&t, NULL, in_section, NULL));
	while (commits < 1000)
		t_sleep_ms(1);
	t_wait();
	before = commits;
	for (int i = 0; commits == before; i++) {
		CHECK(i < 5000);
		t_sleep_ms(1);
	}
	stop_spin = 1;
	pthread_join(t, NULL);
}

static int cleared;

static void *clearer(void *arg)
{
	(void)arg;
	cleared = syscall(SYS_gettid);
	syscall(SYS_set_tid_address, &cleared);
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	syscall(SYS_exit, 0); /* past the C library, which waits for another word */
	return NULL;
}

static void cleartid(void)
{
	pthread_t t;
	int tid;

	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, clearer, NULL));
	pthread_barrier_wait(&bar);
	tid = cleared;
	t_wait();
	CHECK(__atomic_load_n(&cleared, __ATOMIC_ACQUIRE) == tid);
	pthread_barrier_wait(&bar);
	for (int i = 0; __atomic_load_n(&cleared, __ATOMIC_ACQUIRE); i++) {
		CHECK(i < 2000);
		t_sleep_ms(1);
	}
}

static void membarrier(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		SKIP("no membarrier here");
	CHECK(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
	t_wait();
	CHECK(!syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "robust", robust }, { "rseq", rseq }, { "rseqcs", rseqcs }, { "cleartid", cleartid }, { "membarrier", membarrier },
	};

	T_RUN(variants, t_init(argc, argv));
}
