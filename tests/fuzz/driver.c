// SPDX-License-Identifier: MIT
/*
 * Runs a fuzz target without libFuzzer: over the files given as arguments and the seeds of the target, and over mutations
 * of each, always the same ones. FUZZ_MS bounds the time (default 1000 ms), FUZZ_RUNS the mutations (default 20000). With
 * FUZZ_SEEDS=FOLDER the seeds are written there instead, to start libFuzzer from.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/fuzz/fuzz.h"

#define CAP (64u << 10)
#define MAX_SEEDS 256

__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

__attribute__((weak)) size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	(void)i;
	(void)buf;
	(void)cap;
	return 0;
}

struct seed {
	uint8_t *p;
	size_t n;
};

static uint64_t next(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* One to eight changes: a byte, a bit, an extreme value, a cut, a run copied or removed. */
static size_t mutate(uint8_t *p, size_t n, uint64_t *x)
{
	static const uint8_t extremes[] = { 0, 1, 0x7f, 0x80, 0xff };

	for (unsigned k = next(x) % 8 + 1; k > 0 && n > 0; k--) {
		size_t at = next(x) % n, to = next(x) % n, len = next(x) % 16 + 1;

		switch (next(x) % 6) {
		case 0:
			p[at] = next(x);
			break;
		case 1:
			p[at] ^= 1u << next(x) % 8;
			break;
		case 2:
			p[at] = extremes[next(x) % sizeof(extremes)];
			break;
		case 3:
			n = at;
			break;
		case 4:
			len = len > n - at ? n - at : len;
			len = len > n - to ? n - to : len;
			memmove(p + to, p + at, len);
			break;
		case 5:
			len = len > n - at ? n - at : len;
			memmove(p + at, p + at + len, n - at - len);
			n -= len;
			break;
		}
	}
	return n;
}

/* An exact copy on the heap, so that a sanitizer sees reads beyond the end. */
static void run_one(const uint8_t *p, size_t n)
{
	uint8_t *copy = malloc(n ? n : 1);

	if (!copy)
		abort();
	memcpy(copy, p, n);
	LLVMFuzzerTestOneInput(copy, n);
	free(copy);
}

static int add(struct seed *seeds, int n_seeds, const uint8_t *p, size_t n)
{
	if (n_seeds == MAX_SEEDS)
		return n_seeds;
	seeds[n_seeds].p = malloc(n + 1);
	if (!seeds[n_seeds].p)
		abort();
	memcpy(seeds[n_seeds].p, p, n);
	seeds[n_seeds].n = n;
	return n_seeds + 1;
}

static unsigned long number(const char *name, unsigned long otherwise)
{
	const char *s = getenv(name);

	return s ? strtoul(s, NULL, 0) : otherwise;
}

static int write_seeds(const char *folder, const struct seed *seeds, int n)
{
	char path[4096];

	for (int i = 0; i < n; i++) {
		FILE *f;

		snprintf(path, sizeof(path), "%s/seed-%d", folder, i);
		f = fopen(path, "w");
		if (!f || fwrite(seeds[i].p, 1, seeds[i].n, f) != seeds[i].n || fclose(f) != 0) {
			perror(path);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct seed seeds[MAX_SEEDS];
	static uint8_t buf[CAP];
	unsigned long runs = number("FUZZ_RUNS", 20000), done = 0;
	double end = seconds() + number("FUZZ_MS", 1000) / 1000.0;
	uint64_t x = 88172645463325252ull;
	int n_seeds = add(seeds, 0, (const uint8_t *)"", 0);
	size_t n;

	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");

		if (!f) {
			perror(argv[i]);
			return 1;
		}
		n = fread(buf, 1, CAP, f);
		fclose(f);
		n_seeds = add(seeds, n_seeds, buf, n);
	}
	for (unsigned i = 0; (n = fuzz_seed(i, buf, CAP)) > 0; i++)
		n_seeds = add(seeds, n_seeds, buf, n);
	if (getenv("FUZZ_SEEDS"))
		return write_seeds(getenv("FUZZ_SEEDS"), seeds, n_seeds);
	for (int i = 0; i < n_seeds; i++)
		run_one(seeds[i].p, seeds[i].n);
	for (; done < runs && seconds() < end; done++) {
		const struct seed *s = &seeds[next(&x) % n_seeds];

		memcpy(buf, s->p, s->n);
		run_one(buf, mutate(buf, s->n, &x));
	}
	printf("%d seeds, %lu mutations\n", n_seeds, done);
	for (int i = 0; i < n_seeds; i++)
		free(seeds[i].p);
	return 0;
}
