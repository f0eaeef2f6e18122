// SPDX-License-Identifier: MIT
/*
 * A program that does not keep still while its memory is saved (dump --leave-running). What is restored must be what was there
 * when it was stopped, and nobody may have noticed.
 *
 *   rewrite   goes over its memory again and again; each page is stamped with the number of the pass, and must have the one before
 *   remap     fills new memory, checks the old and unmaps it, again and again
 *   alone     watches what a process can see of itself: children, threads, descriptors, signals
 *   forker    has children all the time, and waits for each
 *   advised   areas that a fork does not copy, or copies as zeroes, beside much that it does
 *   locked    a part of the memory is locked
 *   apart     nearly all of it is not copied by a fork
 *   exit, exec, scramble, unmap, fork   does so at SIGUSR2, says "did it", and goes on
 */
#include "target.h"

#include <dirent.h>
#include <sys/wait.h>

#define BIG (48ul << 20)

static char *map(size_t n)
{
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static char *map_filled(size_t n, uint64_t seed)
{
	char *p = map(n);

	t_fill(p, n, seed);
	return p;
}

/* Whether @sig is there to be taken. */
static bool told(int sig)
{
	static const struct timespec now;
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, sig);
	return sigtimedwait(&s, NULL, &now) == sig;
}

static bool asked(void)
{
	return told(SIGUSR1);
}

static void rewrite(void)
{
	volatile uint64_t *mem = (volatile uint64_t *)map(BIG);
	size_t step = PAGE / sizeof(*mem), pages = BIG / PAGE;

	for (uint64_t pass = 1;; pass++) {
		for (size_t i = 0; i < pages; i++) {
			if (mem[i * step] != pass - 1)
				FAIL("page %zu is of pass %lu in pass %lu", i, mem[i * step], pass);
			mem[i * step] = pass;
		}
		if (pass == 1)
			t_say("ready\n");
		if (asked())
			return;
	}
}

static void remap(void)
{
	size_t n = BIG / 4;
	char *old = map_filled(n, 0);

	t_say("ready\n");
	for (uint64_t pass = 1; !asked(); pass++) {
		char *new = map_filled(n, pass);

		if (!t_same(old, n, pass - 1))
			FAIL("the memory of pass %lu is not what it was", pass - 1);
		CHECK(munmap(old, n) == 0);
		old = new;
	}
}

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	CHECK(d != NULL);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void alone(void)
{
	char *mem = map_filled(BIG, 5);
	int threads = entries("/proc/self/task"), fds = entries("/proc/self/fd");
	sigset_t pending;

	t_say("ready\n");
	for (bool last = false; !last;) {
		last = asked();
		CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
		CHECK(entries("/proc/self/task") == threads);
		CHECK(entries("/proc/self/fd") == fds);
		CHECK(sigpending(&pending) == 0 && !sigismember(&pending, SIGCHLD));
		t_sleep_ms(1);
	}
	CHECK(t_same(mem, BIG, 5));
}

static void forker(void)
{
	char *mem = map_filled(BIG, 6);

	t_say("ready\n");
	while (!asked()) {
		int status;
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid)
			_exit(memcmp(mem, mem + 1, 64) ? 7 : 8);
		CHECK(waitpid(-1, &status, 0) == pid);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
		t_sleep_ms(3);
	}
	CHECK(t_same(mem, BIG, 6));
}

static void advised(void)
{
	char *mem = map_filled(BIG, 1), *no = map_filled(1 << 20, 2), *wipe = map_filled(1 << 20, 3), *empty = map(1 << 20);
	char *dump = map_filled(1 << 20, 4), *tail = map_filled(1 << 20, 5);

	CHECK(madvise(no, 1 << 20, MADV_DONTFORK) == 0);
	CHECK(madvise(wipe, 1 << 20, MADV_WIPEONFORK) == 0);
	CHECK(madvise(empty, 1 << 20, MADV_WIPEONFORK) == 0);
	CHECK(madvise(dump, 1 << 20, MADV_DONTDUMP) == 0);
	t_wait();
	CHECK(t_same(mem, BIG, 1));
	CHECK(t_same(no, 1 << 20, 2));
	CHECK(t_same(wipe, 1 << 20, 3));
	CHECK(t_same(dump, 1 << 20, 4));
	CHECK(t_same(tail, 1 << 20, 5));
	for (size_t i = 0; i < 1 << 20; i++)
		CHECK(!empty[i]);
}

static void locked(void)
{
	char *mem = map_filled(BIG, 1);

	if (mlock(mem + PAGE, PAGE * 8))
		SKIP("mlock: %s", strerror(errno));
	t_wait();
	CHECK(t_same(mem, BIG, 1));
}

static void apart(void)
{
	char *mem = map_filled(BIG, 1);

	CHECK(madvise(mem, BIG, MADV_DONTFORK) == 0);
	t_wait();
	CHECK(t_same(mem, BIG, 1));
}

static size_t large = 256ul << 20;
static char **args;

static void act(const char *what, char *mem)
{
	if (!strcmp(what, "exit"))
		_exit(0);
	if (!strcmp(what, "exec")) {
		args[2] = (char *)"executed";
		fcntl(T_OUT_FD, F_SETFD, 0);
		execv("/proc/self/exe", args);
		FAIL("exec: %s", strerror(errno));
	}
	if (!strcmp(what, "scramble")) /* both ends: the dump is quick */
		for (size_t i = 0; i < large / 16; i += PAGE)
			mem[i]++, mem[large - 1 - i]++;
	if (!strcmp(what, "unmap"))
		CHECK(munmap(mem, large) == 0);
	if (!strcmp(what, "fork")) {
		pid_t pid = fork();

		CHECK(pid >= 0);
		if (!pid) {
			memset(mem, 1, large);
			_exit(0);
		}
		CHECK(waitpid(-1, NULL, 0) == pid);
		CHECK(waitpid(-1, NULL, 0) < 0 && errno == ECHILD);
	}
}

static void at_signal(const char *what)
{
	char *mem = map_filled(large, 3);
	sigset_t s;
	int sig;

	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGUSR2);
	sigprocmask(SIG_BLOCK, &s, NULL);
	t_say("ready\n");
	while ((sig = sigwaitinfo(&s, NULL)) != SIGUSR1)
		if (sig == SIGUSR2) {
			act(what, mem);
			t_say("did it\n");
		}
	CHECK(t_same(mem, large, 3));
}

/* What is there after the exec: another program, which was never saved. */
static void executed(void)
{
	sigset_t s;

	t_say("did it\n");
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	while (sigwaitinfo(&s, NULL) != SIGUSR1)
		;
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "rewrite", rewrite }, { "remap", remap }, { "alone", alone }, { "forker", forker },
		{ "advised", advised }, { "locked", locked }, { "apart", apart }, { "executed", executed },
	};
	static const char *const acts[] = { "exit", "exec", "scramble", "unmap", "fork" };
	const char *variant = t_init(argc, argv);

	args = argv;
	for (size_t i = 0; i < ARRAY_SIZE(acts); i++)
		if (!strcmp(variant, acts[i])) {
			at_signal(variant);
			t_pass();
		}
	T_RUN(variants, variant);
}
