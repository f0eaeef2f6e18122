// SPDX-License-Identifier: MIT
/*
 * Starts a child that counts, checkpoints it (which ends it), brings it back, and shows that it went on counting.
 *
 *     cc checkpoint_child.c $(pkg-config --cflags --libs libckpt) && sudo ./a.out
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ckpt/ckpt.h>

enum { END = 20, SKIPPED = 77 };

/* What the child says of itself goes through a file, which it keeps open over its death. */
static void count(FILE *out)
{
	for (int i = 1; i <= END; i++) {
		fprintf(out, "%d\n", i);
		fflush(out);
		usleep(50 * 1000);
	}
	_exit(0);
}

static int last_number(const char *path)
{
	FILE *f = fopen(path, "r");
	int n = 0;

	while (f && fscanf(f, "%d", &n) == 1)
		;
	if (f)
		fclose(f);
	return n;
}

static int failed(struct ckpt_err *err)
{
	fprintf(stderr, "error: %s\n", ckpt_err_message(err));
	if (ckpt_err_hint(err))
		fprintf(stderr, "  hint: %s\n", ckpt_err_hint(err));
	ckpt_err_free(err);
	return 1;
}

static int run(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, const char *path)
{
	struct ckpt_err *err = NULL;
	int status, before;
	pid_t pid;
	FILE *out;

	out = fopen(path, "w");
	if (!out)
		return 1;
	pid = fork();
	if (pid == 0) {
		/* A session of its own: it would otherwise belong to our terminal (that is what shell_job is for). */
		setsid();
		freopen("/dev/null", "r", stdin);
		freopen("/dev/null", "w", stdout);
		freopen("/dev/null", "w", stderr);
		count(out);
	}
	fclose(out);
	usleep(300 * 1000);

	if (ckpt_dump(ctx, pid, opts, NULL, &err) != 0) {
		kill(pid, SIGKILL);
		return failed(err);
	}
	waitpid(pid, &status, 0);
	before = last_number(path);
	printf("process %d is in %s; it had counted to %d\n", (int)pid, opts->images_dir, before);

	if (ckpt_restore(ctx, opts, &pid, NULL, &err) != 0)
		return failed(err);
	waitpid(pid, &status, 0);
	printf("process %d went on to %d and ended with status %d\n", (int)pid, last_number(path), WEXITSTATUS(status));
	return before < END && last_number(path) == END && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

int main(void)
{
	char dir[] = "/var/tmp/ckpt-example.XXXXXX", path[64], command[64];
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_ctx *ctx = NULL;
	int r;

	if (geteuid() != 0) {
		printf("skipped: needs root\n");
		return SKIPPED;
	}
	if (!mkdtemp(dir) || ckpt_ctx_new(&ctx) != 0)
		return 1;
	opts.images_dir = dir;
	snprintf(path, sizeof(path), "%s/count", dir);
	r = run(ctx, &opts, path);
	ckpt_ctx_free(ctx);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) == 0 ? r : 1;
}
