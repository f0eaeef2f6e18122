// SPDX-License-Identifier: MIT
/*
 * Memory that may still be missing when the program runs: every page has content of its own, and is looked at, moved, thrown
 * away, copied by a fork or left behind. lazy OUTFILE VARIANT
 */
#include "target.h"

#include <setjmp.h>
#include <sys/wait.h>

#define N 16384ul /* pages: 64 MiB */
#define THREADS 4

static char *memory;

static char *map(size_t n)
{
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static void fill(void)
{
	memory = map(N * PAGE);
	for (size_t i = 0; i < N; i++)
		t_fill(memory + i * PAGE, PAGE, i + 1);
}

static bool is_page(const char *at, size_t i)
{
	return t_same(at, PAGE, i + 1);
}

static bool is_zero(const char *p)
{
	for (size_t i = 0; i < PAGE; i++)
		if (p[i])
			return false;
	return true;
}

/* Pages [from, to), in an order that looks random. */
static void check_all(size_t from, size_t to)
{
	size_t n = to - from, step = n > 7919 ? 7919 : 1;

	for (size_t k = 0, i = 0; k < n; k++, i = (i + step) % n)
		if (!is_page(memory + (from + i) * PAGE, from + i))
			FAIL("page %zu is not what it was", from + i);
}

static void *toucher(void *arg)
{
	uint64_t seed = (uintptr_t)arg;

	for (int k = 0; k < 8000; k++) {
		size_t i = t_rand(&seed) % N;

		if (!is_page(memory + i * PAGE, i))
			FAIL("page %zu is not what it was", i);
	}
	return NULL;
}

static void touch(void)
{
	pthread_t t[THREADS];

	fill();
	t_wait();
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&t[i], NULL, toucher, (void *)(i + 1)));
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_join(t[i], NULL));
	check_all(0, N);
}

/* What was written stays, whatever comes meanwhile. */
static void *writer(void *arg)
{
	size_t from = (size_t)arg * (N / THREADS);

	for (size_t i = from; i < from + N / THREADS; i += 2)
		t_fill(memory + i * PAGE, PAGE, i + 1000001);
	return NULL;
}

static void writes(void)
{
	pthread_t t[THREADS];

	fill();
	t_wait();
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&t[i], NULL, writer, (void *)i));
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_join(t[i], NULL));
	for (size_t i = 0; i < N; i++)
		if (!t_same(memory + i * PAGE, PAGE, i % 2 ? i + 1 : i + 1000001))
			FAIL("page %zu is not what it should be", i);
}

static void wait_child(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static pid_t child_of(void (*fn)(size_t), size_t arg)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (!pid) {
		fn(arg);
		_exit(0);
	}
	return pid;
}

/* Copies have what was there when they were made, whatever the others do to theirs. */
static void child(size_t depth)
{
	pid_t grandchild = 0;

	check_all(N / 4, N / 3);
	if (depth)
		grandchild = child_of(child, depth - 1);
	for (size_t i = 0; i < N; i += 3)
		memory[i * PAGE] ^= 1;
	if (depth)
		wait_child(grandchild);
	for (size_t i = 0; i < N; i += 3)
		memory[i * PAGE] ^= 1;
	check_all(0, N);
}

static void forks(void)
{
	pid_t pids[6];
	pthread_t t;

	fill();
	t_wait();
	CHECK(!pthread_create(&t, NULL, toucher, (void *)7));
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++) {
		pids[i] = child_of(child, i % 3);
		check_all(i * 100, i * 100 + 300);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pids); i++)
		wait_child(pids[i]);
	CHECK(!pthread_join(t, NULL));
	check_all(0, N);
}

/* Parts of the memory go, move and are thrown away while others are still to come. */
static void events(void)
{
	const size_t part = N / 8 * PAGE;
	char *moved, *grown, *kept, *place;

	fill();
	t_wait();
	/* 0: thrown away. A half of it was looked at before. */
	check_all(0, N / 16);
	CHECK(!madvise(memory, part, MADV_DONTNEED));
	/* 1: unmapped; new memory in its place */
	CHECK(!munmap(memory + part, part));
	CHECK(mmap(memory + part, part, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + part);
	/* 2: moved to where the kernel likes it, and made longer */
	grown = mremap(memory + 2 * part, part, 2 * part, MREMAP_MAYMOVE);
	CHECK(grown != MAP_FAILED);
	/* 3: moved over something else, in two steps */
	place = map(2 * part);
	memset(place, 1, part / 2);
	moved = mremap(memory + 3 * part, part / 2, part / 2, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	CHECK(moved == place);
	CHECK(mremap(memory + 3 * part + part / 2, part / 2, part / 2, MREMAP_MAYMOVE | MREMAP_FIXED, place + part + part / 2) ==
	      place + part + part / 2);
	/* 4: its pages move, and it stays, empty */
	kept = mremap(memory + 4 * part, part, part, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	CHECK(kept != MAP_FAILED);
	/* 5: a part with another protection, and one that is freed when the kernel likes */
	CHECK(!mprotect(memory + 5 * part + part / 2, PAGE * 3, PROT_READ));
	CHECK(!madvise(memory + 5 * part, PAGE * 32, MADV_FREE));
	/* 6: made shorter */
	CHECK(mremap(memory + 6 * part, part, part / 2, 0) == memory + 6 * part);

	for (size_t i = 0; i < N / 8; i++) {
		CHECK(is_zero(memory + i * PAGE));
		CHECK(is_zero(memory + part + i * PAGE));
		CHECK(is_page(grown + i * PAGE, 2 * (N / 8) + i) && is_zero(grown + part + i * PAGE));
		CHECK(is_page(kept + i * PAGE, 4 * (N / 8) + i) && is_zero(memory + 4 * part + i * PAGE));
	}
	for (size_t i = 0; i < N / 16; i++) {
		CHECK(is_page(moved + i * PAGE, 3 * (N / 8) + i));
		CHECK(is_page(place + part + part / 2 + i * PAGE, 3 * (N / 8) + N / 16 + i));
		CHECK(is_zero(place + part + i * PAGE));
	}
	for (size_t i = 0; i < 32; i++)
		CHECK(is_page(memory + 5 * part + i * PAGE, 5 * (N / 8) + i) || is_zero(memory + 5 * part + i * PAGE));
	check_all(5 * (N / 8) + 32, 6 * (N / 8) + N / 16);
	check_all(7 * (N / 8), N);
}

/* Threads throw away and move memory while others look at what is beside it. */
static void *thrower(void *arg)
{
	size_t base = N / 2 + (size_t)arg * (N / 8);
	uint64_t seed = base;

	for (int k = 0; k < 300; k++) {
		size_t i = base + t_rand(&seed) % (N / 8 - 16);

		CHECK(!madvise(memory + i * PAGE, 8 * PAGE, MADV_DONTNEED));
		for (size_t j = 0; j < 8; j++)
			CHECK(is_zero(memory + (i + j) * PAGE));
		memset(memory + i * PAGE, (int)k | 1, PAGE);
		t_sleep_ms(0);
		CHECK(memory[i * PAGE + 17] == (char)(k | 1));
	}
	return NULL;
}

static void *mover(void *arg)
{
	size_t at = N / 2 + (size_t)arg * (N / 8);
	/* Where nobody else is given memory: what it leaves for a while is not taken. */
	char *now = memory + at * PAGE, *two = (char *)0x200000000000 + ((size_t)arg << 32);

	for (int k = 0; k < 40; k++) {
		char *to = two + (k % 2 ? N / 8 * PAGE : 0);

		CHECK(mremap(now, N / 8 * PAGE, N / 8 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
		now = to;
		CHECK(is_page(now + k * 37 * PAGE, at + k * 37));
	}
	for (size_t i = 0; i < N / 8; i++)
		CHECK(is_page(now + i * PAGE, at + i));
	return NULL;
}

static void check_lower(size_t unused)
{
	(void)unused;
	check_all(0, N / 2);
}

static void storm(void)
{
	pthread_t t[4];

	fill();
	t_wait();
	CHECK(!pthread_create(&t[0], NULL, thrower, (void *)0));
	CHECK(!pthread_create(&t[1], NULL, thrower, (void *)1));
	CHECK(!pthread_create(&t[2], NULL, mover, (void *)2));
	CHECK(!pthread_create(&t[3], NULL, mover, (void *)3));
	for (int i = 0; i < 5; i++)
		wait_child(child_of(check_lower, 0));
	for (int i = 0; i < 4; i++)
		CHECK(!pthread_join(t[i], NULL));
	check_all(0, N / 2);
}

static char **args;

static void again(void)
{
	char *argv[] = { args[0], args[1], "passes", NULL };

	fill();
	t_wait();
	check_all(0, 100);
	execv("/proc/self/exe", argv);
	FAIL("exec: %s", strerror(errno));
}

static void passes(void)
{
}

static void leave(void)
{
	fill();
	t_wait();
	check_all(100, 200);
}

static sigjmp_buf back;

static void on_bus(int sig)
{
	siglongjmp(back, sig);
}

static void say_lost(size_t n)
{
	char text[32] = "lost ", digits[24];
	size_t k = 0, at = 5;

	do
		digits[k++] = (char)('0' + n % 10);
	while (n /= 10);
	while (k)
		text[at++] = digits[--k];
	text[at++] = '\n';
	if (write(T_OUT_FD, text, at) != (ssize_t)at)
		_exit(99);
}

/* Some pages are damaged: their use is an error, and no page is another than it was. */
static void damaged(void)
{
	volatile size_t lost = 0;

	fill();
	signal(SIGBUS, on_bus);
	t_wait();
	for (volatile size_t i = 0; i < N; i++)
		if (sigsetjmp(back, 1))
			lost++;
		else if (!is_page(memory + i * PAGE, i))
			FAIL("page %zu is not what it was", i);
	/* What the C library needs may be lost as well: this is said without it, and what follows ends us then. */
	signal(SIGBUS, SIG_DFL);
	say_lost(lost);
}

/* Touches what it says, in an order of its own, so that a record of it can be recognised. */
static void backwards(void)
{
	fill();
	t_wait();
	for (size_t i = N; i-- > N - 200;)
		if (!is_page(memory + i * PAGE, i))
			FAIL("page %zu is not what it was", i);
	t_wait();
	check_all(0, N);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "touch", touch },   { "writes", writes }, { "forks", forks }, { "events", events },	   { "storm", storm },
		{ "exec", again },    { "passes", passes }, { "leave", leave }, { "backwards", backwards },
		{ "damaged", damaged },
	};

	args = argv;
	T_RUN(variants, t_init(argc, argv));
}
