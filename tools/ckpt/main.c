// SPDX-License-Identifier: MIT
/*
 * ckpt: the command line of libckpt. It parses, calls the library, prints, and waits; the rest is in the library.
 * Started as `criu` (by a symbolic link) it keeps the few habits that callers of that name rely on.
 */
#include <string.h>

#include "cli.h"

static const struct command commands[] = {
	{ "dump", CKPT_FOR_DUMP, cmd_dump, "-t PID -D DIR", "save a process tree to a folder, and end it",
	  "  ckpt dump -t 1234 -D /var/tmp/ck         save process 1234, then end it\n"
	  "  ckpt dump -t 1234 -D /var/tmp/ck -R      save it and let it run on\n"
	  "  ckpt dump -t $! -D ck -j                 a job of this shell\n"
	  "  ckpt dump -t 1234 -D ck -v4 -o dump.log  with a log, ck/dump.log\n" },
	{ "pre-dump", CKPT_FOR_PRE_DUMP, cmd_pre_dump, "-t PID -D DIR", "save memory alone, while the tree runs on",
	  "  ckpt pre-dump -t 1234 -D ck/1            all of its memory\n"
	  "  ckpt pre-dump -t 1234 -D ck/2 --prev-images-dir ../1\n"
	  "                                           what was written since\n"
	  "  ckpt dump -t 1234 -D ck/3 --prev-images-dir ../2\n"
	  "                                           the rest: only now it is stopped for longer\n" },
	{ "dedup", CKPT_FOR_DEDUP, cmd_dedup, "-D DIR", "free what later images supersede",
	  "  ckpt dedup -D ck/3                       free what ck/3 has of ck/2 and ck/1\n" },
	{ "restore", CKPT_FOR_RESTORE, cmd_restore, "-D DIR", "bring a saved process tree back",
	  "  ckpt restore -D /var/tmp/ck              bring it back, wait for its end\n"
	  "  ckpt restore -D /var/tmp/ck -d           bring it back and return\n"
	  "  ckpt restore -D ck -j                    with this terminal\n"
	  "  ckpt restore -D ck --new-pidns           where its PIDs are taken\n"
	  "  ckpt restore -D ck --inherit-fd 'fd[5]:pipe:[4711]' 5>&1\n" },
	{ "check", CKPT_FOR_CHECK, cmd_check, "[-t PID]", "what the kernel allows, or what is in the way",
	  "  ckpt check                               a line for each kernel feature\n"
	  "  ckpt check -t 1234                       could process 1234 be saved now?\n"
	  "  ckpt check --feature pagemap_scan        one feature, for scripts\n" },
	{ "inspect", CKPT_FOR_INSPECT, cmd_inspect, "[DIR]", "what is in a folder of images",
	  "  ckpt inspect /var/tmp/ck                 for people\n"
	  "  ckpt inspect /var/tmp/ck --json          for programs\n" },
	{ "page-server", CKPT_FOR_PAGE_SERVER, cmd_page_server, "-D DIR --port PORT", "receive the memory of a dump made elsewhere",
	  "  ckpt page-server -D ck --port 9876       for one dump with --page-server\n"
	  "                                           --address THISHOST --port 9876\n"
	  "  ckpt page-server -D ck --port 0 -d --pidfile ps.pid -o ps.log\n"
	  "                                           in the background, at a port that is free\n"
	  "  ckpt page-server -D ck --lazy-pages --port 9876\n"
	  "                                           serve the pages of a checkpoint on demand\n" },
	{ "verify", CKPT_FOR_INSPECT, cmd_verify, "[DIR]", "are images still what was written?",
	  "  ckpt verify /var/tmp/ck                  reads all of it, and its parents\n"
	  "  ckpt verify /var/tmp/ck --json           for programs\n" },
	{ "unlock", CKPT_FOR_LOCK, cmd_unlock, "-D DIR", "let packets of a checkpoint's connections through",
	  "  ckpt unlock -D /var/tmp/ck               if it will not be restored\n"
	  "  ckpt unlock --list                       which locks there are\n"
	  "  ckpt unlock --all                        all that no dump or restore is using\n" },
	{ "lock", CKPT_FOR_LOCK, cmd_lock, "-D DIR", "hold packets of a checkpoint's connections",
	  "  ckpt lock -D /var/tmp/ck                 where its address is to go,\n"
	  "  ip addr add 192.0.2.7/24 dev eth0        before it is there\n"
	  "  ckpt restore -D /var/tmp/ck -d\n" },
	{ "lazy-pages", CKPT_FOR_LAZY_PAGES, cmd_lazy_pages, "-D DIR", "bring pages to programs that run already",
	  "  ckpt lazy-pages -D ck -d && ckpt restore -D ck -d --lazy-pages\n"
	  "                                           the restore alone would do as well\n"
	  "  ckpt lazy-pages -D ck --page-server --address HOST --port 9876\n"
	  "                                           of a program whose memory is on another host\n" },
	{ "service", CKPT_FOR_DUMP | CKPT_FOR_RESTORE | CKPT_FOR_PRE_DUMP | CKPT_FOR_PAGE_SERVER | CKPT_FOR_CHECK, cmd_service,
	  "--address PATH", "serve programs that use libcriu, at a socket",
	  "  ckpt service --address /run/ckpt.socket\n"
	  "  ckpt service -W /run -d --pidfile ckpt.pid -o ckpt.log\n"
	  "                                           in the background\n" },
	{ "swrk", CKPT_FOR_DUMP | CKPT_FOR_RESTORE | CKPT_FOR_PRE_DUMP | CKPT_FOR_PAGE_SERVER | CKPT_FOR_CHECK, cmd_swrk, "FD",
	  "serve a container runtime at a socket it hands on",
	  "  ckpt swrk 3                              runtimes start this, people do not\n", .own_log = true },
	{ "cpuinfo", CKPT_FOR_CPUINFO, cmd_cpuinfo, "dump|check", "does a processor do for a program of another?",
	  "  ckpt cpuinfo dump -D ck                  what this one can do\n"
	  "  ckpt cpuinfo check -D ck --cpu-cap=ins   is any instruction missing here?\n" },
};

const struct command *command_table(size_t *n)
{
	*n = ARRAY_SIZE(commands);
	return commands;
}

static void print_version(const struct cli *cli)
{
	if (cli->as_criu)
		printf("Version: 4.2\n");
	else
		printf("ckpt %s (image format of CRIU 4.2)\n", ckpt_version());
}

static int run(struct cli *cli)
{
	int r;

	if (ckpt_ctx_new(&cli->ctx) != 0)
		return fail(cli, NULL, "out of memory");
	r = out_open(cli);
	if (!r) {
		cancel_on_signals(cli->ctx);
		ckpt_ctx_set_log(cli->ctx, (enum ckpt_log_level)cli->opts.log_level, out_log, cli);
		ckpt_ctx_set_progress(cli->ctx, out_progress, cli);
		r = cli->command->run(cli);
	}
	return r;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

int main(int argc, char **argv)
{
	struct cli cli = { .prog = argc ? base_name(argv[0]) : "ckpt", .opts = CKPT_OPTS_INIT };
	int r;

	cli.as_criu = strcmp(cli.prog, "criu") == 0;
	r = options_parse(&cli, argc, argv);
	if (r)
		return r;
	if (cli.man_options || cli.list_options || cli.list_values) {
		unsigned for_flag = cli.command ? cli.command->for_flag : ~0u;

		(cli.man_options ? print_man_options : cli.list_values ? print_option_values : print_option_names)(for_flag);
	} else if (cli.version) {
		print_version(&cli);
	} else if (cli.help) {
		print_help(&cli);
	} else {
		r = run(&cli);
		out_close(&cli);
		ckpt_ctx_free(cli.ctx);
	}
	ckpt_opts_clear(&cli.opts);
	config_clear(&cli.config_words);
	free(cli.sorted);
	/* Output that never arrived (a full disk, a closed pipe) must not look like success. */
	if (fflush(stdout) != 0 || ferror(stdout))
		return r ? r : 1;
	return r;
}
