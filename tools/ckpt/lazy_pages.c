// SPDX-License-Identifier: MIT
/* ckpt lazy-pages */
#include "cli.h"

static void ready(void *arg, uint16_t port)
{
	(void)port;
	daemon_ready(arg);
}

static int serve(struct cli *cli)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;

	if (ckpt_lazy_pages(cli->ctx, &cli->opts, ready, cli, &stats, &err) != 0)
		return fail_err(cli, err);
	if (cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "All lazy pages are in");
	return 0;
}

int cmd_lazy_pages(struct cli *cli)
{
	if (cli->n_args) {
		fail(cli, NULL, "lazy-pages: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	return run_server(cli, serve);
}
