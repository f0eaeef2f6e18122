/* SPDX-License-Identifier: MIT */
/*
 * What every target has in common. A target is a small program that sets up one kind of state, says so, and after
 * SIGUSR1 checks that the state is still what it was:
 *
 *   TARGET OUTFILE [VARIANT]
 *
 * It appends "ready" to OUTFILE, and at the end PASS, "FAIL <why>" or "SKIP <why>"; it exits with 0, 1 or 77. Whatever
 * happened between "ready" and SIGUSR1 must not show. OUTFILE stays open on a high descriptor, so that targets which give
 * up their rights, their root or their system calls can still report.
 */
#ifndef CKPT_TARGET_H
#define CKPT_TARGET_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define T_OUT_FD 100
#define PAGE 4096ul
#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

__attribute__((format(printf, 1, 2), unused)) static void t_say(const char *fmt, ...)
{
	char b[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(b, sizeof(b), fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(b))
		n = sizeof(b) - 1;
	if (write(T_OUT_FD, b, n) != n)
		_exit(99);
}

#define FAIL(fmt, ...)                                                             \
	do {                                                                       \
		t_say("FAIL %s:%d: " fmt "\n", __FILE_NAME__, __LINE__, ##__VA_ARGS__); \
		_exit(1);                                                          \
	} while (0)

#define CHECK(cond)                                                                                          \
	do {                                                                                                 \
		errno = 0;                                                                                   \
		if (!(cond))                                                                                 \
			FAIL("%s (errno %d: %s)", #cond, errno, strerror(errno));                            \
	} while (0)

#define SKIP(fmt, ...)                                 \
	do {                                           \
		t_say("SKIP " fmt "\n", ##__VA_ARGS__); \
		_exit(77);                             \
	} while (0)

/* Opens OUTFILE, blocks SIGUSR1 (threads inherit that), returns the variant ("" without one). */
__attribute__((unused)) static const char *t_init(int argc, char **argv)
{
	sigset_t s;
	int fd;

	if (argc < 2) {
		fprintf(stderr, "usage: %s OUTFILE [VARIANT]\n", argv[0]);
		exit(2);
	}
	fd = open(argv[1], O_CREAT | O_WRONLY | O_APPEND, 0666);
	if (fd < 0 || dup3(fd, T_OUT_FD, O_CLOEXEC) < 0) {
		perror(argv[1]);
		exit(2);
	}
	close(fd);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigprocmask(SIG_BLOCK, &s, NULL);
	return argc > 2 ? argv[2] : "";
}

/* Says ready and waits for SIGUSR1 without running a handler. */
__attribute__((unused)) static void t_wait(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	t_say("ready\n");
	while (sigwaitinfo(&s, NULL) < 0)
		if (errno != EINTR)
			FAIL("sigwaitinfo: %s", strerror(errno));
}

__attribute__((unused, noreturn)) static void t_pass(void)
{
	t_say("PASS\n");
	_exit(0);
}

struct t_variant {
	const char *name;
	void (*run)(void);
};

/* Runs the variant of that name (the first one for ""), then passes. */
__attribute__((unused, noreturn)) static void t_run(const struct t_variant *v, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!*name || !strcmp(v[i].name, name)) {
			v[i].run();
			t_pass();
		}
	FAIL("no variant %s", name);
}
#define T_RUN(variants, name) t_run(variants, ARRAY_SIZE(variants), name)

__attribute__((unused)) static uint64_t t_now_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

__attribute__((unused)) static void t_sleep_ms(unsigned ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000l };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* Numbers that look random and can be made again. */
__attribute__((unused)) static uint64_t t_rand(uint64_t *state)
{
	uint64_t x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

__attribute__((unused)) static void t_fill(void *p, size_t n, uint64_t seed)
{
	uint64_t *w = p;

	for (size_t i = 0; i < n / 8; i++)
		w[i] = t_rand(&seed);
}

__attribute__((unused)) static bool t_same(const void *p, size_t n, uint64_t seed)
{
	const uint64_t *w = p;

	for (size_t i = 0; i < n / 8; i++)
		if (w[i] != t_rand(&seed))
			return false;
	return true;
}

/* First line of "KEY:\tvalue" in /proc/self/FILE, into @buf; false if there is none. */
__attribute__((unused)) static bool t_proc_field(const char *file, const char *key, char *buf, size_t n)
{
	char path[64], line[1024];
	FILE *f;
	bool found = false;

	snprintf(path, sizeof(path), "/proc/self/%s", file);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':') {
			snprintf(buf, n, "%s", line + strlen(key) + 1 + strspn(line + strlen(key) + 1, " \t"));
			buf[strcspn(buf, "\n")] = 0;
			found = true;
		}
	fclose(f);
	return found;
}

/* Whole of a small file as a string; "" when it cannot be read. */
__attribute__((unused)) static size_t t_slurp(const char *path, char *buf, size_t n)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got, have = 0;

	buf[0] = 0;
	if (fd < 0)
		return 0;
	while (have < (ssize_t)n - 1 && (got = read(fd, buf + have, n - 1 - have)) > 0)
		have += got;
	buf[have] = 0;
	close(fd);
	return have;
}

/* A pthread barrier-like meeting point for two sides: set by one, awaited by the other, without futexes that linger. */
__attribute__((unused)) static void t_await(volatile int *flag)
{
	while (!__atomic_load_n(flag, __ATOMIC_ACQUIRE))
		t_sleep_ms(1);
}

#endif
