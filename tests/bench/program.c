// SPDX-License-Identifier: MIT
/*
 * The program that the benchmark checkpoints: program CONTROL SIZE[K|M|G] plain|4k|huge TASKS THREADS.
 *
 * It has SIZE of incompressible memory in all, in TASKS processes, and THREADS further threads that sleep. The first process
 * looks at the clock all the time and notes the longest time in which it could not: that is how long it was frozen. It talks
 * with the benchmark through the file CONTROL, which both have mapped.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul

enum command { NOTHING, DIRTY, CHECK, END };

struct control { /* tests/bench/program.py knows it, too */
	uint64_t ready;	   /* processes that are */
	uint64_t gap;	   /* ns; the longest time without a look at the clock. The benchmark sets it to 0 */
	uint64_t first;	   /* CLOCK_MONOTONIC ns of the first look after the benchmark set it to 0 */
	uint64_t command;  /* enum command */
	uint64_t argument; /* DIRTY: pages of a thousand */
	uint64_t answers;  /* commands done; CHECK adds wrong pages to @wrong */
	uint64_t wrong;
};

static struct control *control;
static char *memory;
static size_t n_pages;
static uint32_t *generation; /* of each page */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static void fill_page(size_t i)
{
	uint64_t x = i * 0x9e3779b97f4a7c15ull + (uint64_t)getpid() + 1, *p = (uint64_t *)(memory + i * PAGE);

	for (size_t k = 1; k < PAGE / sizeof(*p); k++)
		p[k] = next(&x);
	p[0] = (uint64_t)i << 32 | generation[i];
}

static void fill(size_t bytes, const char *pages)
{
	size_t align = !strcmp(pages, "huge") ? 2ul << 20 : PAGE;
	char *map = mmap(NULL, bytes + align, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	n_pages = bytes / PAGE;
	generation = calloc(n_pages + 1, sizeof(*generation));
	if (map == MAP_FAILED || !generation)
		exit(1);
	memory = (char *)(((uintptr_t)map + align - 1) & ~(align - 1));
	if (strcmp(pages, "plain"))
		madvise(memory, bytes, !strcmp(pages, "huge") ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t i = 0; i < n_pages; i++)
		fill_page(i);
}

/* Pages all over the memory, each another one. */
static void dirty(uint64_t permille)
{
	size_t n = n_pages * permille / 1000;

	for (size_t i = 0; i < n; i++) {
		size_t page = i * (n_pages / n) + (i * 7919) % (n_pages / n);

		generation[page]++;
		*(uint64_t *)(memory + page * PAGE) = (uint64_t)page << 32 | generation[page];
	}
}

static uint64_t check(void)
{
	uint64_t wrong = 0;

	for (size_t i = 0; i < n_pages; i++) {
		uint64_t x = i * 0x9e3779b97f4a7c15ull + (uint64_t)getpid() + 1, *p = (uint64_t *)(memory + i * PAGE);
		int bad = p[0] != ((uint64_t)i << 32 | generation[i]);

		for (size_t k = 1; k < PAGE / sizeof(*p); k++)
			bad |= p[k] != next(&x);
		wrong += (uint64_t)bad;
	}
	return wrong;
}

static void obey(void)
{
	uint64_t command = __atomic_load_n(&control->command, __ATOMIC_ACQUIRE);

	if (command == NOTHING)
		return;
	if (command == END)
		exit(0);
	if (command == DIRTY)
		dirty(control->argument);
	if (command == CHECK)
		control->wrong += check();
	control->command = NOTHING;
	__atomic_add_fetch(&control->answers, 1, __ATOMIC_RELEASE);
}

static void watch_clock(void)
{
	const struct timespec a_moment = { 0, 100000 };
	uint64_t last = now_ns();

	for (;;) {
		uint64_t now = now_ns();

		if (now - last > control->gap)
			control->gap = now - last;
		if (!control->first)
			control->first = now;
		last = now;
		if (control->command != NOTHING) {
			obey();
			last = now_ns();
		}
		nanosleep(&a_moment, NULL);
	}
}

static void *sleeper(void *arg)
{
	for (;;)
		pause();
	return arg;
}

int main(int argc, char **argv)
{
	int fd = argc == 6 ? open(argv[1], O_RDWR) : -1;
	char *unit;
	size_t bytes = fd < 0 ? 0 : strtoul(argv[2], &unit, 0), tasks, threads;
	pthread_attr_t small;
	pthread_t t;

	if (!bytes) {
		fprintf(stderr, "usage: program CONTROL SIZE[K|M|G] plain|4k|huge TASKS THREADS\n");
		return 1;
	}
	bytes <<= *unit == 'K' ? 10 : *unit == 'M' ? 20 : *unit == 'G' ? 30 : 0;
	tasks = strtoul(argv[4], NULL, 0);
	threads = strtoul(argv[5], NULL, 0);
	control = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		return 1;
	close(fd);
	for (size_t i = 1; i < tasks; i++)
		if (fork() == 0) {
			fill(bytes / tasks, argv[3]);
			__atomic_add_fetch(&control->ready, 1, __ATOMIC_RELEASE);
			sleeper(NULL);
		}
	fill(bytes / (tasks ? tasks : 1), argv[3]);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	for (size_t i = 0; i < threads; i++)
		if (pthread_create(&t, &small, sleeper, NULL) != 0)
			return 1;
	__atomic_add_fetch(&control->ready, 1, __ATOMIC_RELEASE);
	watch_clock();
}
