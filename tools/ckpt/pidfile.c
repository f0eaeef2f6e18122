// SPDX-License-Identifier: MIT
/*
 * The file is made before there is a process, under another name and as long as it can get, and gets its name when the PID
 * is in it: whoever sees it, sees it complete, and what can go wrong goes wrong early.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

static int pidfile_fail(struct cli *cli, const char *name)
{
	return fail(cli, errno == EEXIST ? "remove it, or choose another name" : NULL,
		    "cannot create the pidfile %s: %s", name, strerror(errno));
}

int pidfile_prepare(struct cli *cli, struct pidfile *p)
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

int pidfile_commit(struct cli *cli, struct pidfile *p, pid_t pid)
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

void pidfile_close(struct pidfile *p)
{
	if (p->fd >= 0) {
		close(p->fd);
		if (p->temp[0])
			unlinkat(p->dir, p->temp, 0);
	}
	if (p->dir >= 0)
		close(p->dir);
}
