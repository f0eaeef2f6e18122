/* SPDX-License-Identifier: MIT */
/*
 * Two threads checkpoint the same process at the same moment: one wins or both do, one after the other; whoever loses gets
 * a clear error, and the process runs on unharmed. And an operation leaves the signals of its caller as they were.
 */
#include "api.h"

#include <pthread.h>
#include <string.h>

#define ROUNDS 20

struct worker {
	pthread_t thread;
	pthread_barrier_t *start;
	char dir[96];
	pid_t pid;
	int r, failed;
};

static int expected(const struct worker *w, const char *message)
{
	if (w->r == 0)
		return 1;
	return w->r == CKPT_E_BUSY && message && *message;
}

static void *work(void *arg)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct worker *w = arg;
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;

	if (ckpt_ctx_new(&ctx) != 0)
		exit(1);
	opts.images_dir = w->dir;
	opts.leave_running = true;
	pthread_barrier_wait(w->start);
	w->r = ckpt_dump(ctx, w->pid, &opts, NULL, &err);
	if (!expected(w, ckpt_err_message(err))) {
		fprintf(stderr, "not ok: %d (%s)\n", w->r, ckpt_err_message(err));
		w->failed = 1;
	}
	ckpt_err_free(err);
	ckpt_ctx_free(ctx);
	return NULL;
}

static int still_counts(const char *path)
{
	unsigned long before = counted(path);

	for (int i = 0; i < 200; i++) {
		usleep(1000);
		if (counted(path) > before)
			return 1;
	}
	fprintf(stderr, "not ok: the process does not go on\n");
	return 0;
}

static int one_round(const char *base, pid_t pid, int round, int *won)
{
	pthread_barrier_t start;
	struct worker w[2] = { 0 };
	int failed = 0;

	pthread_barrier_init(&start, NULL, 2);
	for (int i = 0; i < 2; i++) {
		snprintf(w[i].dir, sizeof(w[i].dir), "%s/%d-%d", base, round, i);
		mkdir(w[i].dir, 0700);
		w[i].pid = pid;
		w[i].start = &start;
		pthread_create(&w[i].thread, NULL, work, &w[i]);
	}
	for (int i = 0; i < 2; i++) {
		pthread_join(w[i].thread, NULL);
		failed |= w[i].failed;
		*won += w[i].r == 0;
	}
	pthread_barrier_destroy(&start);
	return failed;
}

/* A signal that the caller has blocked and pending stays pending; the mask stays as it was. */
static int signals_stay(const char *base, pid_t pid)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	sigset_t set, mask, pending;
	struct ckpt_ctx *ctx;
	char dir[96];
	int r;

	snprintf(dir, sizeof(dir), "%s/signals", base);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	opts.leave_running = true;
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	raise(SIGPIPE);
	if (ckpt_ctx_new(&ctx) != 0)
		return 1;
	r = ckpt_dump(ctx, pid, &opts, NULL, NULL);
	ckpt_ctx_free(ctx);
	sigpending(&pending);
	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (r == 0 && sigismember(&pending, SIGPIPE) && sigismember(&mask, SIGPIPE) && !sigismember(&mask, SIGXFSZ))
		return 0;
	fprintf(stderr, "not ok: %d, or the caller's signals are not as they were\n", r);
	return 1;
}

int main(void)
{
	char base[] = "/tmp/ckpt-one-XXXXXX", counter[64];
	int failed = 0, won = 0;
	pid_t pid;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return SKIPPED;
	}
	if (!mkdtemp(base))
		return 1;
	snprintf(counter, sizeof(counter), "%s/count", base);
	pid = start_counter(counter, 500);
	usleep(100000);
	for (int round = 0; round < ROUNDS && !failed; round++)
		failed = one_round(base, pid, round, &won) || !still_counts(counter);
	if (won < ROUNDS / 2) {
		fprintf(stderr, "not ok: only %d dumps of %d rounds worked\n", won, ROUNDS);
		failed = 1;
	}
	failed |= signals_stay(base, pid);
	end_child(pid);
	failed |= remove_folder(base);
	puts(failed ? "FAIL" : "PASS");
	return failed;
}
