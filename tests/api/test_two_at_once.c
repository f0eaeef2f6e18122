/* SPDX-License-Identifier: MIT */
/*
 * Two threads of one program checkpoint two processes at the same time, kill them, and restore them at the same time,
 * several times over. Each process counts in a pipe-free way that survives only if its memory does.
 */
#include "api.h"

#include <pthread.h>

#define ROUNDS 5

struct worker {
	pthread_t thread;
	char dir[64], counter[96];
	pid_t pid;
	int failed;
};

static int complain(const struct worker *w, const char *what, struct ckpt_err *err)
{
	fprintf(stderr, "%s: %s: %s\n", w->dir, what, ckpt_err_message(err));
	ckpt_err_free(err);
	return 1;
}

static int one_round(struct worker *w, struct ckpt_ctx *ctx, int round)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	unsigned long before, after;
	char dir[128];

	snprintf(dir, sizeof(dir), "%s/%d", w->dir, round);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	if (ckpt_dump(ctx, w->pid, &opts, NULL, &err) != 0)
		return complain(w, "dump", err);
	waitpid(w->pid, NULL, 0);
	before = counted(w->counter);
	if (ckpt_restore(ctx, &opts, &w->pid, NULL, &err) != 0)
		return complain(w, "restore", err);
	usleep(50000);
	after = counted(w->counter);
	if (after <= before || after > before + 1000) {
		fprintf(stderr, "%s: counted %lu before and %lu after\n", w->dir, before, after);
		return 1;
	}
	return 0;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct ckpt_ctx *ctx;

	if (ckpt_ctx_new(&ctx) != 0)
		w->failed = 1;
	for (int round = 0; round < ROUNDS && !w->failed; round++)
		w->failed = one_round(w, ctx, round);
	ckpt_ctx_free(ctx);
	return NULL;
}

int main(void)
{
	struct worker w[2] = { 0 };
	char base[] = "/tmp/ckpt-two-XXXXXX";
	int failed;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return SKIPPED;
	}
	if (!mkdtemp(base))
		return 1;
	for (int i = 0; i < 2; i++) {
		snprintf(w[i].dir, sizeof(w[i].dir), "%s/%d", base, i);
		snprintf(w[i].counter, sizeof(w[i].counter), "%s/count%d", base, i);
		mkdir(w[i].dir, 0700);
		w[i].pid = start_counter(w[i].counter, 1000);
	}
	usleep(100000);
	for (int i = 0; i < 2; i++)
		pthread_create(&w[i].thread, NULL, work, &w[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(w[i].thread, NULL);
	failed = w[0].failed | w[1].failed;
	for (int i = 0; i < 2; i++)
		end_child(w[i].pid);
	failed |= remove_folder(base);
	puts(failed ? "FAIL" : "PASS");
	return failed;
}
