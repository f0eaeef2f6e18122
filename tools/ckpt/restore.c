// SPDX-License-Identifier: MIT
/* ckpt restore */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"

/*
 * The file is made before the restore, under another name and as long as it can get, and gets its name when the PID is in
 * it: whoever sees it, sees it complete, and what can go wrong goes wrong before there are processes.
 */
struct pidfile {
	int dir, fd;
	const char *name;
	char temp[NAME_MAX + 32];
};
#define PIDFILE_INIT { .dir = -1, .fd = -1 }

static int pidfile_fail(struct cli *cli, const char *name)
{
	return fail(cli, errno == EEXIST ? "remove it, or choose another name" : NULL, "cannot create the pidfile %s: %s", name,
		    strerror(errno));
}

static int pidfile_prepare(struct cli *cli, struct pidfile *p)
{
	const char *work = cli->opts.work_dir ? cli->opts.work_dir : cli->opts.images_dir ? cli->opts.images_dir : ".";
	const char *slash;
	struct stat st;

	p->name = cli->opts.pidfile;
	p->dir = open(work, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->dir < 0)
		return fail(cli, NULL, "cannot open the folder %s: %s", work, strerror(errno));
	if (fstatat(p->dir, p->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		errno = EEXIST;
		return pidfile_fail(cli, p->name);
	}
	slash = strrchr(p->name, '/');
	if (snprintf(p->temp, sizeof(p->temp), "%.*s.ckpt-pid.%d", slash ? (int)(slash + 1 - p->name) : 0, p->name,
		     (int)getpid()) >= (int)sizeof(p->temp)) {
		errno = ENAMETOOLONG;
		return pidfile_fail(cli, p->name);
	}
	p->fd = openat(p->dir, p->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (p->fd < 0 || pwrite(p->fd, "0000000000", 10, 0) != 10)
		return pidfile_fail(cli, p->name);
	return 0;
}

static int pidfile_commit(struct cli *cli, struct pidfile *p, pid_t pid)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", (int)pid);

	if (pwrite(p->fd, text, (size_t)n, 0) != n || ftruncate(p->fd, n) < 0)
		return pidfile_fail(cli, p->name);
	/* Where a file system cannot rename exclusively, it can link. */
	if (renameat2(p->dir, p->temp, p->dir, p->name, RENAME_NOREPLACE) == 0)
		p->temp[0] = '\0';
	else if (errno != EINVAL || linkat(p->dir, p->temp, p->dir, p->name, 0) < 0)
		return pidfile_fail(cli, p->name);
	return 0;
}

static void pidfile_close(struct pidfile *p)
{
	if (p->fd >= 0) {
		close(p->fd);
		if (p->temp[0])
			unlinkat(p->dir, p->temp, 0);
	}
	if (p->dir >= 0)
		close(p->dir);
}

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
		return fail(cli, "add --restore-detached (-d)", "--restore-sibling makes no sense without --restore-detached");
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
