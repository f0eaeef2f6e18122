/* SPDX-License-Identifier: MIT */
/*
 * Every stage of a dump and of a restore fails once. A dump that failed leaves the program as it was and the folder empty;
 * a restore that failed leaves no process, and the next one works.
 */
#include "api.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

static char base[] = "/tmp/ckpt-fault-XXXXXX";
static char counter[64];
static int failures;

#define EXPECT(cond, ...)                                  \
	do {                                               \
		if (!(cond)) {                             \
			fprintf(stderr, "not ok: " __VA_ARGS__); \
			fputc('\n', stderr);               \
			failures++;                        \
		}                                          \
	} while (0)

static int still_counts(void)
{
	unsigned long before = counted(counter);

	for (int i = 0; i < 5000; i++) { /* at once, where nobody else wants the processors */
		usleep(1000);
		if (counted(counter) > before)
			return 1;
	}
	return 0;
}

static char *slurp(pid_t pid, const char *file)
{
	static char buf[2][65536];
	static int which;
	char path[64], *text = buf[which ^= 1];
	FILE *f;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	f = fopen(path, "r");
	n = f ? fread(text, 1, sizeof(buf[0]) - 1, f) : 0;
	text[n] = 0;
	if (f)
		fclose(f);
	return text;
}

static int entries(const char *dir)
{
	DIR *d = opendir(dir);
	int n = 0;

	while (d && readdir(d))
		n++;
	if (d)
		closedir(d);
	return n - 2;
}

static void fail_dump(struct ckpt_ctx *ctx, pid_t pid, const char *stage)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	char dir[96], maps[65536];
	int r;

	snprintf(dir, sizeof(dir), "%s/failed", base);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	opts.fault_stage = stage;
	snprintf(maps, sizeof(maps), "%s", slurp(pid, "maps"));
	r = ckpt_dump(ctx, pid, &opts, NULL, &err);
	EXPECT(r == CKPT_E_INTERNAL, "dump with a fault at %s: %d (%s)", stage, r, ckpt_err_message(err));
	EXPECT(strstr(ckpt_err_message(err), stage), "the error does not name stage %s: %s", stage, ckpt_err_message(err));
	ckpt_err_free(err);
	EXPECT(!strcmp(maps, slurp(pid, "maps")), "mappings differ after a fault at %s", stage);
	EXPECT(strstr(slurp(pid, "status"), "TracerPid:\t0\n"), "still traced after a fault at %s", stage);
	EXPECT(still_counts(), "the program does not go on after a fault at %s", stage);
	EXPECT(entries(dir) == 0, "%d files left after a fault at %s", entries(dir), stage);
}

static void fail_restore(struct ckpt_ctx *ctx, const char *dir, pid_t pid, const char *stage)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_err *err = NULL;
	int before = entries(dir), r;
	pid_t got = 0;

	opts.images_dir = dir;
	opts.fault_stage = stage;
	r = ckpt_restore(ctx, &opts, &got, NULL, &err);
	EXPECT(r == CKPT_E_INTERNAL, "restore with a fault at %s: %d (%s)", stage, r, ckpt_err_message(err));
	ckpt_err_free(err);
	EXPECT(kill(pid, 0) < 0 && errno == ESRCH, "process %d is there after a fault at %s", pid, stage);
	EXPECT(waitpid(-1, NULL, WNOHANG | __WALL) < 0 && errno == ECHILD, "a child is left after a fault at %s", stage);
	EXPECT(entries(dir) == before, "the folder changed by a fault at %s", stage);
}

int main(void)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { .sz = sizeof(stats) }, rstats = { .sz = sizeof(rstats) };
	struct ckpt_err *err = NULL;
	struct ckpt_ctx *ctx;
	char dir[96];
	pid_t pid, got = 0;

	if (geteuid() != 0) {
		puts("skipped: needs root");
		return SKIPPED;
	}
	if (!mkdtemp(base) || ckpt_ctx_new(&ctx) != 0)
		return 1;
	snprintf(counter, sizeof(counter), "%s/counter", base);
	pid = start_counter(counter, 500);
	usleep(100000);

	snprintf(dir, sizeof(dir), "%s/whole", base);
	mkdir(dir, 0700);
	opts.images_dir = dir;
	if (ckpt_dump(ctx, pid, &opts, &stats, &err) != 0) {
		fprintf(stderr, "not ok: dump: %s\n", ckpt_err_message(err));
		return 1;
	}
	waitpid(pid, NULL, 0);
	if (ckpt_restore(ctx, &opts, &got, &rstats, &err) != 0) {
		fprintf(stderr, "not ok: restore: %s\n", ckpt_err_message(err));
		return 1;
	}
	EXPECT(got == pid, "restored as %d, was %d", got, pid);
	EXPECT(stats.n_stages > 10 && rstats.n_stages > 3, "%zu and %zu stages", stats.n_stages, rstats.n_stages);
	for (size_t i = 0; i < stats.n_stages; i++)
		fail_dump(ctx, pid, stats.stages[i].name);
	end_child(pid);
	for (size_t i = 0; i < rstats.n_stages; i++)
		fail_restore(ctx, dir, pid, rstats.stages[i].name);
	err = NULL;
	EXPECT(ckpt_restore(ctx, &opts, &got, NULL, &err) == 0, "restore after all: %s", ckpt_err_message(err));
	EXPECT(still_counts(), "the restored program does not go on");
	end_child(got);
	ckpt_ctx_free(ctx);
	failures += remove_folder(base);
	puts(failures ? "FAIL" : "PASS");
	return failures != 0;
}
