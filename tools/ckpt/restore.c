// SPDX-License-Identifier: MIT
/* ckpt restore */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"

/* A caller that cannot be told the PID must not be left with a tree it knows nothing of. */
static void undo(pid_t root)
{
	kill(root, SIGKILL);
	waitpid(root, NULL, 0);
}

static int check_usage(struct cli *cli)
{
	if (cli->n_args) {
		fail(cli, NULL, "restore: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (cli->opts.restore_sibling && !cli->opts.restore_detached)
		return fail(cli, "add --restore-detached (-d)",
			    "--restore-sibling makes no sense without --restore-detached");
	return 0;
}

static int restore(struct cli *cli, struct pidfile *pidfile, pid_t *root)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;
	int r;

	if (cli->opts.pidfile) {
		r = pidfile_prepare(cli, pidfile);
		if (r)
			return r;
	}
	/* A caller that ignores SIGCHLD would have the kernel reap our child, and its status be lost. */
	signal(SIGCHLD, SIG_DFL);
	if (ckpt_restore(cli->ctx, &cli->opts, root, &stats, &err) != 0)
		return fail_err(cli, err);
	if (cli->opts.pidfile && pidfile_commit(cli, pidfile, *root) != 0) {
		undo(*root);
		return 1;
	}
	if (cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "Restore finished successfully. Tasks resumed.");
	return 0;
}

int cmd_restore(struct cli *cli)
{
	struct pidfile pidfile = PIDFILE_INIT;
	pid_t root = 0;
	int r = check_usage(cli);

	r = r ? r : restore(cli, &pidfile, &root);
	pidfile_close(&pidfile);
	if (r || cli->opts.restore_detached)
		return r;
	return wait_for_root(cli, root);
}
