// SPDX-License-Identifier: MIT
/* ckpt cpuinfo dump, ckpt cpuinfo check */
#include <string.h>

#include "cli.h"

enum { EXIT_CPUINFO = 255 };

int cmd_cpuinfo(struct cli *cli)
{
	struct ckpt_err *err = NULL;
	bool dump;
	int r;

	if (cli->n_args != 1 || (strcmp(cli->args[0], "dump") != 0 && strcmp(cli->args[0], "check") != 0)) {
		fail(cli, NULL, "cpuinfo: dump or check?");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	dump = strcmp(cli->args[0], "dump") == 0;
	r = (dump ? ckpt_cpuinfo_dump : ckpt_cpuinfo_check)(cli->ctx, &cli->opts, &err);
	if (!r)
		return 0;
	fail_err(cli, err);
	return dump ? EXIT_CPUINFO : 1;
}
