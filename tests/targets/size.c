// SPDX-License-Identifier: MIT
/*
 * A program of a given size, for benchmarks and tests of long dumps: size OUTFILE N[K|M|G][,THREADS[,w]]. The memory is
 * incompressible; its sum is checked at the end. With w every thread keeps writing to its part meanwhile.
 */
#include "target.h"

static uint64_t *memory;
static size_t words, per_thread;
static bool writing;
static volatile int stop, started;

static void *worker(void *arg)
{
	uint64_t *mine = memory + (size_t)arg * per_thread, n = 0;

	__atomic_fetch_add(&started, 1, __ATOMIC_RELEASE);
	while (!stop) {
		if (writing)
			mine[n++ * 8 % per_thread]++, mine[(n - 1) * 8 % per_thread]--;
		else
			t_sleep_ms(1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	char *end;
	size_t n = strtoul(t_init(argc, argv), &end, 0), threads = 0;
	pthread_t t[64];

	n <<= *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	if (!n)
		n = 1 << 20;
	if (*end && *end != ',')
		end++;
	if (*end == ',') {
		threads = strtoul(end + 1, &end, 10);
		writing = !strcmp(end, ",w");
	}
	if (threads > ARRAY_SIZE(t))
		FAIL("at most %zu threads", ARRAY_SIZE(t));
	words = n / 8;
	per_thread = threads ? words / threads : words;
	memory = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	t_fill(memory, n, 42);
	for (size_t i = 0; i < threads; i++)
		CHECK(!pthread_create(&t[i], NULL, worker, (void *)i));
	while (__atomic_load_n(&started, __ATOMIC_ACQUIRE) < (int)threads)
		t_sleep_ms(1);
	t_wait();
	stop = 1;
	for (size_t i = 0; i < threads; i++)
		pthread_join(t[i], NULL);
	CHECK(t_same(memory, n, 42));
	t_pass();
}
