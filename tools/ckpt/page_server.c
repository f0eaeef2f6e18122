// SPDX-License-Identifier: MIT
/* ckpt page-server */
#include "cli.h"

static void ready(void *arg, uint16_t port)
{
	(void)port; /* the library has said it */
	daemon_ready(arg);
}

static int serve(struct cli *cli)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;

	if (ckpt_page_server(cli->ctx, &cli->opts, ready, cli, &stats, &err) != 0)
		return fail_err(cli, err);
	if (cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "Page server finished successfully");
	return 0;
}

int cmd_page_server(struct cli *cli)
{
	if (cli->n_args) {
		fail(cli, NULL, "page-server: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	return run_server(cli, serve);
}
