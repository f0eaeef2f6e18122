// SPDX-License-Identifier: MIT
/* ckpt dump */
#include "cli.h"

int cmd_dump(struct cli *cli)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;
	int r, status;

	if (cli->n_args) {
		fail(cli, NULL, "dump: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (!cli->tree) {
		fail(cli, "add -t PID", "dump: the process to dump is missing");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	cli->opts.track_apart = true; /* the next call is another program */
	r = ckpt_dump(cli->ctx, cli->tree, &cli->opts, &stats, &err);
	status = ckpt_err_status(err);
	r = outcome(cli, cli->tree, &stats, err, r != 0);
	if (r)
		return status ? status : r;
	if (cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "Dumping finished successfully");
	return 0;
}
