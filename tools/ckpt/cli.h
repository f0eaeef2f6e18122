/* SPDX-License-Identifier: MIT */
/* What the sub-commands of ckpt share. */
#ifndef CKPT_TOOLS_CLI_H
#define CKPT_TOOLS_CLI_H

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <ckpt/ckpt.h>

#include "lib/front/config.h"
#include "lib/front/logfile.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

/* Exit statuses of the command line are part of its interface. */
enum {
	EXIT_USAGE = 1,
	EXIT_REMOVED = 255,
};

struct cli;

struct command {
	const char *name;
	unsigned for_flag;		/* CKPT_FOR_*: the options that mean something to it */
	int (*run)(struct cli *cli);	/* NULL: not implemented yet */
	const char *args;		/* for the usage line */
	const char *help;
	const char *examples;		/* lines for --help */
	bool own_log;			/* it opens its log itself */
};

/* Messages of the library and our own, see log.c. */
struct out {
	struct logfile log;
	bool terminal;		/* a line of progress may be shown on stderr */
	bool line_shown;
	struct timespec last_progress;
	uint64_t last_bytes;	/* moved until last_progress */
	double rate;		/* bytes a second, of the last seconds; 0: not known */
	char *failed;		/* what was said last, of a failure */
};

struct cli {
	const char *prog;
	bool as_criu;		/* started under the field's name */
	const struct command *command;
	struct ckpt_ctx *ctx;
	struct ckpt_opts opts;
	struct out out;

	/* options that only the command line has */
	pid_t tree;
	bool json, extra, experimental, all, list, no_default_config, help, version, man_options, list_options, list_values;
	const char *feature, *config;
	int ready_fd;		/* of a process in the background: tells the one that started it */

	char **sorted;		/* argv, options first; owned */
	struct config config_words; /* of configuration files: options are kept by pointer */
	char **args;		/* what is not an option, after the command */
	int n_args;
	char **warnings;	/* found before the log was open */
	size_t n_warnings;
};

/* main.c */
const struct command *command_table(size_t *n);

/* options.c */
const struct ckpt_option *own_option_table(size_t *n);
/* The row and value of the next option: calls @fn until it fails. Returns 0 or an exit status. */
typedef int (*option_fn)(struct cli *cli, const struct ckpt_option *opt, bool own, const char *value, bool from_file);
int options_each(struct cli *cli, int argc, char **argv, bool from_file, bool quiet, option_fn fn);
/* Command line and configuration files into @cli. Returns 0 or an exit status. */
int options_parse(struct cli *cli, int argc, char **argv);

/* help.c */
void usage(const struct cli *cli, FILE *f);
void print_help(const struct cli *cli);
void print_man_options(unsigned for_flag);
void print_option_names(unsigned for_flag);
void print_option_values(unsigned for_flag);

/* log.c */
int out_open(struct cli *cli);
void out_close(struct cli *cli);
void out_log(void *arg, enum ckpt_log_level level, const char *text);
void out_clear_line(struct out *out);
void warn_later(struct cli *cli, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Both say what failed, to people on stderr and in the log, and return exit status 1. */
int fail(struct cli *cli, const char *hint, const char *fmt, ...) PRINTF_LIKE(3, 4);
int fail_err(struct cli *cli, struct ckpt_err *err);

/*
 * outcome.c: how an operation on the tree @pid (0: unknown) ended, with --json as an object on stdout, and a failure (@err,
 * which is freed, or what fail() said) as usual. Returns the exit status.
 */
int outcome(struct cli *cli, pid_t pid, const struct ckpt_stats *stats, struct ckpt_err *err, bool failed);

/* progress.c: one line, overwritten, on a terminal */
void out_progress(void *arg, const struct ckpt_progress *progress);

/* signals.c: signals that ask us to end cancel the operation that runs on @ctx. */
void cancel_on_signals(struct ckpt_ctx *ctx);
/* The one that came, or 0. */
int cancel_signal(void);

/* wait.c: be the parent of @root as a shell expects it, until it ends. Returns the exit status to end with. */
int wait_for_root(struct cli *cli, pid_t root);

/* pidfile.c */
struct pidfile {
	int dir, fd;
	const char *name;
	char temp[NAME_MAX + 32];
};
#define PIDFILE_INIT { .dir = -1, .fd = -1 }
int pidfile_prepare(struct cli *cli, struct pidfile *p);
int pidfile_commit(struct cli *cli, struct pidfile *p, pid_t pid);
void pidfile_close(struct pidfile *p);

/*
 * daemon.c: the work of a server, here or (--daemon) in a process of its own that goes on when we return. @fn is to call
 * daemon_ready() when others can connect.
 */
typedef int (*daemon_fn)(struct cli *cli);
int run_server(struct cli *cli, daemon_fn fn);
void daemon_ready(struct cli *cli);

/* json.c */
struct json_object;
void json_add_string(struct json_object *o, const char *key, const char *value);
/* An error value, as an object, and in a list. */
struct json_object *json_err(const struct ckpt_err *err);
void json_add_err(struct json_object *list, const struct ckpt_err *err);
/* Prints and frees. */
void json_print(struct json_object *o);

int cmd_dump(struct cli *cli);
int cmd_pre_dump(struct cli *cli);
int cmd_dedup(struct cli *cli);
int cmd_restore(struct cli *cli);
int cmd_check(struct cli *cli);
int cmd_inspect(struct cli *cli);
int cmd_page_server(struct cli *cli);
int cmd_lazy_pages(struct cli *cli);
int cmd_verify(struct cli *cli);
int cmd_lock(struct cli *cli);
int cmd_unlock(struct cli *cli);
int cmd_cpuinfo(struct cli *cli);
int cmd_swrk(struct cli *cli);
int cmd_service(struct cli *cli);

#endif
