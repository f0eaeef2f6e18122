// SPDX-License-Identifier: MIT
/*
 * A context keeps what writes are noted by, from one dump to the next: a chain with one context, what another context knows,
 * and what is left when it is freed.
 */
#include <string.h>

#include "api.h"

static int failures;
static bool full; /* a dump said that it was one */
static char base[] = "/tmp/ckpt-incremental-XXXXXX";

#define EXPECT(cond, ...)                             \
	do {                                          \
		if (!(cond)) {                        \
			fprintf(stderr, "not ok: ");  \
			fprintf(stderr, __VA_ARGS__); \
			fputc('\n', stderr);          \
			failures++;                   \
		}                                     \
	} while (0)

static void on_log(void *arg, enum ckpt_log_level level, const char *text)
{
	(void)arg;
	(void)level;
	full = full || strstr(text, "a full one");
}

static const char *folder(int n)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%d", base, n);
	mkdir(path, 0700);
	return path;
}

/* Into folder @n, upon @prev (0: none). Returns the pages that were left to it. */
static unsigned long step(struct ckpt_ctx *ctx, pid_t pid, int n, int prev, bool last)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;
	char up[16];
	int r;

	full = false;
	snprintf(up, sizeof(up), "../%d", prev);
	opts.images_dir = folder(n);
	opts.prev_images_dir = prev ? up : NULL;
	r = last ? ckpt_dump(ctx, pid, &opts, &stats, &err) : ckpt_pre_dump(ctx, pid, &opts, &stats, &err);
	EXPECT(!r, "step %d: %s", n, ckpt_err_message(err));
	ckpt_err_free(err);
	return stats.pages_skipped_parent;
}

/* There is one owner at a time. */
static void busy(struct ckpt_ctx *ctx, pid_t pid)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;

	opts.images_dir = folder(9);
	EXPECT(ckpt_pre_dump(ctx, pid, &opts, NULL, &err) == CKPT_E_BUSY, "two contexts track one process: %s", ckpt_err_message(err));
	ckpt_err_free(err);
}

static void restore(struct ckpt_ctx *ctx, int n, pid_t pid, const char *path)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	unsigned long before = counted(path);
	pid_t got = 0;

	opts.images_dir = folder(n);
	EXPECT(!ckpt_restore(ctx, &opts, &got, NULL, &err), "restore: %s", ckpt_err_message(err));
	EXPECT(got == pid, "another process");
	ckpt_err_free(err);
	for (int i = 0; i < 2000 && counted(path) < before + 10; i++)
		usleep(1000);
	EXPECT(counted(path) >= before + 10, "it does not count on: %lu, %lu", before, counted(path));
}

int main(void)
{
	struct ckpt_ctx *one = NULL, *two = NULL;
	char path[64];
	pid_t pid;

	if (geteuid() != 0)
		return SKIPPED;
	if (!mkdtemp(base) || ckpt_ctx_new(&one) || ckpt_ctx_new(&two))
		return 1;
	snprintf(path, sizeof(path), "%s/count", base);
	pid = start_counter(path, 500);
	for (int i = 0; i < 2000 && counted(path) < 10; i++)
		usleep(1000);
	ckpt_ctx_set_log(one, CKPT_LOG_WARN, on_log, NULL);
	ckpt_ctx_set_log(two, CKPT_LOG_WARN, on_log, NULL);

	EXPECT(!step(one, pid, 1, 0, false) && !full, "the first is upon nothing");
	EXPECT(step(one, pid, 2, 1, false) && !full, "the context did not keep it");
	busy(two, pid);
	/* Another context, when the first has let it go: nothing is known. */
	one = ckpt_ctx_free(one);
	EXPECT(!step(two, pid, 3, 2, false) && full, "who told the other context?");
	EXPECT(step(two, pid, 4, 3, false) && !full, "the other context did not keep it");
	EXPECT(step(two, pid, 5, 4, true) && !full, "the last dump is a full one");
	waitpid(pid, NULL, 0);
	restore(two, 5, pid, path);
	end_child(pid);
	ckpt_ctx_free(two);
	failures += remove_folder(base);
	return failures ? 1 : 0;
}
