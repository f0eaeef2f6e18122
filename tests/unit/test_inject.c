/* SPDX-License-Identifier: MIT */
/* Stopping a process, running the parasite in it, and leaving it as it was. Needs root (skipped otherwise). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/base/op.h"
#include "lib/inject/guardian.h"
#include "lib/inject/remote.h"

struct shared {
	volatile unsigned long spins;	/* grows while the spinning thread runs */
	volatile long sleep_result;	/* of a nanosleep that we interrupt */
	volatile long poll_result;
	volatile int handler_calls;
	volatile int ready;
};

static struct shared *sh;
static const uint64_t mask_bits = 1ull << (SIGUSR2 - 1);

static void on_usr1(int sig)
{
	(void)sig;
	sh->handler_calls++;
}

static void *spin(void *arg)
{
	double x = 1.0;

	(void)arg;
	for (;;) {
		x = x * 1.0000001; /* keeps the FPU in use */
		if (x > 2.0)
			x = 1.0;
		sh->spins++;
	}
	return NULL;
}

static void *sleeper(void *arg)
{
	struct timespec ts = { 1, 0 };

	(void)arg;
	sh->sleep_result = nanosleep(&ts, NULL) == 0 ? 1 : -errno;
	return NULL;
}

static void child_main(void)
{
	struct sigaction sa = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	pthread_t t;
	sigset_t set;

	sigaction(SIGUSR1, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	pthread_create(&t, NULL, spin, NULL);
	pthread_create(&t, NULL, sleeper, NULL);
	sh->ready = 1;
	sh->poll_result = poll(NULL, 0, 1500) == 0 ? 1 : -errno;
	for (;;)
		pause();
}

static pid_t start_child(void)
{
	pid_t pid;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(sh, MAP_FAILED);
	pid = fork();
	if (pid == 0) {
		/* When an assertion fails, nobody ends it but the kernel. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		child_main();
	}
	while (!sh->ready)
		usleep(1000);
	usleep(50000);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(sh, sizeof(*sh));
}

static void op_init(struct op *op)
{
	static const struct ckpt_opts opts = CKPT_OPTS_INIT;
	static struct ckpt_stats stats;

	*op = (struct op){ .arena = arena_new(), .opts = &opts, .stats = &stats };
}

static void op_fini(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
}

/* A recorded failure shown as the test's message. */
static void ok(struct op *op, int r)
{
	if (r)
		fail_msg("%s", ckpt_err_message(op->err));
}

static char *maps_text(struct op *op, pid_t pid)
{
	char *text;
	size_t len;

	assert_int_equal(proc_read_file(op, pid, "maps", &text, &len), 0);
	return text;
}

/* Lines that only one of two texts has: what differs, where assert_string_equal() would print both whole. */
static void same_maps(const char *before, const char *now)
{
	const char *texts[2] = { before, now };

	if (!strcmp(before, now))
		return;
	for (int i = 0; i < 2; i++) {
		for (const char *line = texts[i], *end; *line; line = end + 1) {
			char one[256];

			end = strchrnul(line, '\n');
			snprintf(one, sizeof(one), "%.*s", (int)(end - line), line);
			if (!strstr(texts[!i], one))
				printf("only %s: %s\n", i ? "now" : "before", one);
			if (!*end)
				break;
		}
	}
	fail_msg("the mappings are not what they were");
}

static void test_leaves_no_trace(void **state)
{
	pid_t pid = start_child();
	struct guardian g = GUARDIAN_INIT;
	struct parasite_args args = { .what = PARASITE_THREAD | PARASITE_PROCESS };
	struct proc_maps maps = { 0 };
	struct parasite p;
	struct target t;
	unsigned long spins;
	char *before;
	struct op op;

	(void)state;
	op_init(&op);
	before = maps_text(&op, pid);
	for (int round = 0; round < 20; round++) {
		maps = (struct proc_maps){ 0 };
		ok(&op, guardian_start(&op, &g, -1));
		ok(&op, target_freeze(&op, pid, &t));
		assert_int_equal(t.threads.n, round < 5 ? 3 : t.threads.n);
		ok(&op, proc_read_maps(&op, pid, &maps));
		ok(&op, parasite_inject(&op, &t, &maps, &p, g.journal));
		for (size_t i = 0; i < t.threads.n; i++) {
			ok(&op, parasite_run(&op, &t, &t.threads.v[i], &p, &args));
			assert_int_equal(args.done, 1);
		}
		assert_true(args.sigactions[SIGUSR1 - 1].handler == (uint64_t)(uintptr_t)on_usr1);
		assert_true(t.threads.v[0].sigmask & mask_bits);
		ok(&op, parasite_cure(&op, &t, &p));
		target_release(&op, &t);
		guardian_stop(&g);
		same_maps(before, maps_text(&op, pid));
	}
	spins = sh->spins;
	usleep(1700 * 1000);
	assert_true(sh->spins > spins);
	assert_int_equal(sh->sleep_result, 1); /* no EINTR by us */
	assert_int_equal(sh->poll_result, 1);
	kill(pid, SIGUSR1);
	usleep(50000);
	assert_int_equal(sh->handler_calls, 1);
	end_child(pid);
	op_fini(&op);
}

/* An engine that dies anywhere between the seize and the cure. */
static void test_killed_engine(void **state)
{
	pid_t pid = start_child();
	char *before;
	struct op op;

	(void)state;
	op_init(&op);
	usleep(1200 * 1000); /* the sleeper has ended: two threads, and the maps no longer change */
	before = maps_text(&op, pid);
	for (int round = 0; round < 60; round++) {
		unsigned long spins;
		int after;
		pid_t engine = fork();

		if (engine == 0) {
			struct guardian g = GUARDIAN_INIT;
			struct parasite_args args;
			struct proc_maps maps;
			struct parasite p;
			struct target t;
			int claim;

			for (;;) {
				maps = (struct proc_maps){ 0 };
				args = (struct parasite_args){ .what = PARASITE_THREAD | PARASITE_PROCESS };
				if (guardian_claim(&op, pid, &claim) || guardian_start(&op, &g, claim) || target_freeze(&op, pid, &t) || proc_read_maps(&op, pid, &maps) ||
				    parasite_inject(&op, &t, &maps, &p, g.journal))
					_exit(1);
				for (size_t i = 0; i < t.threads.n; i++)
					if (parasite_run(&op, &t, &t.threads.v[i], &p, &args))
						_exit(1);
				if (parasite_cure(&op, &t, &p))
					_exit(1);
				target_release(&op, &t);
				guardian_stop(&g);
				close(claim);
			}
		}
		usleep(1000 + (useconds_t)(rand() % 4000));
		kill(engine, SIGKILL);
		waitpid(engine, NULL, 0);
		/*
		 * Until the guardian ends, which has the claim: the mappings alone say too little, since a call that the
		 * engine began in the target, mmap of the area, may come to its end only after the engine did.
		 */
		ok(&op, guardian_claim(&op, pid, &after));
		close(after);
		same_maps(before, maps_text(&op, pid));
		assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
		spins = sh->spins;
		usleep(3000);
		for (int i = 0; i < 100 && sh->spins == spins; i++)
			usleep(10000);
		assert_true(sh->spins > spins);
	}
	kill(pid, SIGUSR1);
	usleep(50000);
	assert_int_equal(sh->handler_calls, 1);
	end_child(pid);
	op_fini(&op);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_leaves_no_trace),
		cmocka_unit_test(test_killed_engine),
	};

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
