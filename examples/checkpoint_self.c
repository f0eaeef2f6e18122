// SPDX-License-Identifier: MIT
/*
 * A long computation that saves itself now and then, and can be brought back from the last saved point.
 *
 * ckpt_dump_self() returns as fork(2) does, twice: 0 in the original, which goes on, and 1 in each life that is restored
 * from the images. Without arguments this program plays both parts: it starts the computation as a child, which saves
 * itself half-way and then "crashes", and restores it.
 *
 *     cc checkpoint_self.c $(pkg-config --cflags --libs libckpt) && sudo ./a.out
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ckpt/ckpt.h>

enum { STEPS = 1000000, SKIPPED = 77 };
enum { EXIT_CRASHED = 3, EXIT_DONE = 42 };

static int failed(struct ckpt_err *err)
{
	fprintf(stderr, "error: %s\n", ckpt_err_message(err));
	if (ckpt_err_hint(err))
		fprintf(stderr, "  hint: %s\n", ckpt_err_hint(err));
	ckpt_err_free(err);
	return 1;
}

/* The computation. What it knows is in its memory, and that is all that is saved by hand: nothing. */
static int compute(struct ckpt_ctx *ctx, const struct ckpt_opts *opts)
{
	unsigned long sum = 0;

	for (unsigned long i = 1; i <= STEPS; i++) {
		sum += i;
		if (i == STEPS / 2) {
			struct ckpt_err *err = NULL;
			int life = ckpt_dump_self(ctx, opts, &err);

			if (life < 0)
				return failed(err);
			if (life == 0)
				return EXIT_CRASHED; /* the original is lost, with half of the sum in its memory */
		}
	}
	return sum == STEPS / 2 * (STEPS + 1ul) ? EXIT_DONE : 1;
}

static int run(struct ckpt_ctx *ctx, const struct ckpt_opts *opts)
{
	struct ckpt_err *err = NULL;
	int status;
	pid_t pid;

	pid = fork();
	if (pid == 0) {
		setsid();
		freopen("/dev/null", "r", stdin);
		freopen("/dev/null", "w", stdout);
		_exit(compute(ctx, opts));
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return 1;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_CRASHED) {
		printf("the first life ended with wait status 0x%x\n", status);
		return 1;
	}
	printf("process %d saved itself half-way and was lost\n", (int)pid);

	if (ckpt_restore(ctx, opts, &pid, NULL, &err) != 0)
		return failed(err);
	waitpid(pid, &status, 0);
	printf("its second life, process %d, ended with status %d: the sum is %s\n", (int)pid, WEXITSTATUS(status),
	       WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE ? "right" : "wrong");
	return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_DONE ? 0 : 1;
}

int main(void)
{
	char dir[] = "/var/tmp/ckpt-example.XXXXXX", command[64];
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
	opts.shell_job = true; /* stderr may be our terminal */
	r = run(ctx, &opts);
	ckpt_ctx_free(ctx);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command) == 0 ? r : 1;
}
