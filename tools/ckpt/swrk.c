// SPDX-License-Identifier: MIT
/* ckpt swrk: the worker that container runtimes and libcriu.so start; they talk to it through a socket that it inherits. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "cli.h"

#include "lib/rpc/rpc.h"

int cmd_swrk(struct cli *cli)
{
	struct rpc_conf conf = { .ctx = cli->ctx, .defaults = &cli->opts };
	char *end;
	long fd;

	if (cli->n_args != 1) {
		fail(cli, NULL, "swrk: one argument is needed, the number of a socket");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	errno = 0;
	fd = strtol(cli->args[0], &end, 10);
	if (errno || *end || end == cli->args[0] || fd < 0 || fd > INT_MAX)
		return fail(cli, NULL, "swrk: '%s' is not the number of a socket", cli->args[0]);
	/* A client that ignores SIGCHLD would have the kernel reap our children, and their status be lost. */
	signal(SIGCHLD, SIG_DFL);
	return rpc_work((int)fd, &conf);
}
