// SPDX-License-Identifier: MIT
/* ckpt pre-dump, ckpt dedup */
#include <inttypes.h>

#include "cli.h"

int cmd_pre_dump(struct cli *cli)
{
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct ckpt_err *err = NULL;
	int r;

	if (cli->n_args) {
		fail(cli, NULL, "pre-dump: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (!cli->tree) {
		fail(cli, "add -t PID", "pre-dump: the process to dump is missing");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	cli->opts.track_apart = true; /* the next call is another program */
	r = ckpt_pre_dump(cli->ctx, cli->tree, &cli->opts, &stats, &err);
	r = outcome(cli, cli->tree, &stats, err, r != 0);
	if (r)
		return r;
	if (cli->opts.log_level >= CKPT_LOG_INFO)
		out_log(cli, CKPT_LOG_INFO, "Pre-dumping finished successfully");
	return 0;
}

int cmd_dedup(struct cli *cli)
{
	struct ckpt_err *err = NULL;
	uint64_t freed = 0;
	char text[64];

	if (cli->n_args) {
		fail(cli, NULL, "dedup: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (ckpt_dedup(cli->ctx, &cli->opts, &freed, &err))
		return fail_err(cli, err);
	snprintf(text, sizeof(text), "%" PRIu64 " KiB freed", freed >> 10);
	out_log(cli, CKPT_LOG_INFO, text);
	return 0;
}
