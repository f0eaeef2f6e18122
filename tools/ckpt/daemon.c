// SPDX-License-Identifier: MIT
/* Servers in the background: the command returns when its server can be connected to, or says why it cannot. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"

/* What is said from now on goes to the log file; nobody's pipe or terminal is held open. */
static void let_go(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2 && null >= 0; fd++)
		dup2(null, fd);
	if (null > 2)
		close(null);
	if (chdir("/") < 0)
		return; /* then the folder stays in use */
}

void daemon_ready(struct cli *cli)
{
	if (cli->ready_fd < 0)
		return;
	if (write(cli->ready_fd, "", 1) != 1)
		return;
	close(cli->ready_fd);
	cli->ready_fd = -1;
	let_go();
}

static int wait_for_ready(int fd)
{
	char byte;
	ssize_t n;

	do
		n = read(fd, &byte, 1);
	while (n < 0 && errno == EINTR);
	return n == 1;
}

static int in_background(struct cli *cli, daemon_fn fn, struct pidfile *pidfile)
{
	int pair[2], status, r = 0;
	pid_t pid;

	if (pipe2(pair, O_CLOEXEC) < 0)
		return fail(cli, NULL, "pipe: %s", strerror(errno));
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		close(pair[0]);
		setsid();
		cli->ready_fd = pair[1];
		return fn(cli);
	}
	close(pair[1]);
	if (pid < 0) {
		r = fail(cli, NULL, "fork: %s", strerror(errno));
	} else if (!wait_for_ready(pair[0])) { /* it has said why */
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		r = WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 1;
	} else if (cli->opts.pidfile && pidfile_commit(cli, pidfile, pid) != 0) {
		kill(pid, SIGTERM);
		r = 1;
	}
	close(pair[0]);
	return r;
}

int run_server(struct cli *cli, daemon_fn fn)
{
	struct pidfile pidfile = PIDFILE_INIT;
	pid_t self = getpid();
	int r = 0;

	cli->ready_fd = -1;
	if (!cli->opts.restore_detached)
		return fn(cli);
	if (cli->opts.pidfile)
		r = pidfile_prepare(cli, &pidfile);
	r = r ? r : in_background(cli, fn, &pidfile);
	if (getpid() == self)
		pidfile_close(&pidfile);
	return r;
}
