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

/* A command that is not there is better known before there is a tree. */
static bool can_run(const char *name)
{
	const char *path = getenv("PATH"), *end;
	char full[PATH_MAX];

	if (strchr(name, '/'))
		return access(name, X_OK) == 0;
	for (; path && *path; path = *end ? end + 1 : end) {
		end = path + strcspn(path, ":");
		if (snprintf(full, sizeof(full), "%.*s/%s", (int)(end - path), path, name) < (int)sizeof(full) && access(full, X_OK) == 0)
			return true;
	}
	return false;
}

static int check_exec_cmd(struct cli *cli)
{
	if (!cli->n_args)
		return fail(cli, "restore --exec-cmd ... -- COMMAND ARGUMENTS", "--exec-cmd needs a command");
	if (cli->opts.restore_detached)
		return fail(cli, NULL, "--exec-cmd and --restore-detached (-d) exclude each other");
	if (!can_run(cli->args[0]))
		return fail(cli, NULL, "cannot run %s: %s", cli->args[0], strerror(errno));
	return 0;
}

static int check_usage(struct cli *cli)
{
	if (cli->opts.exec_cmd)
		return check_exec_cmd(cli);
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

static int restore(struct cli *cli, struct pidfile *pidfile, pid_t *root, struct ckpt_stats *stats, struct ckpt_err **err)
{
	int r = cli->opts.pidfile ? pidfile_prepare(cli, pidfile) : 0;

	if (r)
		return r;
	/* A caller that ignores SIGCHLD would have the kernel reap our child, and its status be lost. */
	signal(SIGCHLD, SIG_DFL);
	r = ckpt_restore(cli->ctx, &cli->opts, root, stats, err);
	if (!r && cli->opts.pidfile && pidfile_commit(cli, pidfile, *root) != 0) {
		undo(*root);
		r = 1;
	}
	if (!r && cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "Restore finished successfully. Tasks resumed.");
	return r;
}

/* We become the command, which is the parent of the root task then. */
static int exec_cmd(struct cli *cli, pid_t root)
{
	int error;

	fflush(stdout);
	out_clear_line(&cli->out);
	execvp(cli->args[0], cli->args);
	error = errno;
	undo(root);
	return fail(cli, NULL, "cannot run %s: %s", cli->args[0], strerror(error));
}

int cmd_restore(struct cli *cli)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct pidfile pidfile = PIDFILE_INIT;
	struct ckpt_err *err = NULL;
	pid_t root = 0;
	int r = check_usage(cli);

	if (r)
		return r;
	r = restore(cli, &pidfile, &root, &stats, &err);
	pidfile_close(&pidfile);
	r = outcome(cli, r ? 0 : root, &stats, err, r != 0);
	if (r || cli->opts.restore_detached)
		return r;
	if (cli->opts.exec_cmd)
		return exec_cmd(cli, root);
	return wait_for_root(cli, root);
}
