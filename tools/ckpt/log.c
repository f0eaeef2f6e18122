// SPDX-License-Identifier: MIT
/*
 * Where words go. Messages go to the log file, or to stderr where there is none; what failed is always said on stderr,
 * in a form for people, and in the log in the form that callers search for ("Error").
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

/* The folder of the log: as in the library, but here it has to be known before an operation begins. */
static int open_work_dir(const struct cli *cli, const char **path)
{
	*path = cli->opts.work_dir ? cli->opts.work_dir : cli->opts.images_dir ? cli->opts.images_dir : ".";
	return open(*path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int open_log(struct cli *cli)
{
	const char *path;
	int dir = open_work_dir(cli, &path), r;

	if (dir < 0)
		return fail(cli, errno == ENOENT ? "create it first" : NULL, "cannot open the folder %s: %s", path,
			    strerror(errno));
	r = logfile_open(&cli->out.log, dir, cli->opts.log_file);
	close(dir);
	return r ? fail(cli, NULL, "cannot create the log file %s: %s", cli->opts.log_file, strerror(r)) : 0;
}

int out_open(struct cli *cli)
{
	struct out *out = &cli->out;
	const char *term = getenv("TERM");
	int r;

	clock_gettime(CLOCK_MONOTONIC, &out->log.begin);
	out->log.level = cli->opts.log_level;
	if (cli->opts.log_file && !cli->command->own_log) {
		r = open_log(cli);
		if (r)
			return r;
	}
	out->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0) &&
			(out->log.f || out->log.level < CKPT_LOG_INFO);
	for (size_t i = 0; i < cli->n_warnings; i++) {
		if (out->log.level >= CKPT_LOG_WARN)
			out_log(cli, CKPT_LOG_WARN, cli->warnings[i]);
		free(cli->warnings[i]);
	}
	free(cli->warnings);
	cli->warnings = NULL;
	cli->n_warnings = 0;
	return 0;
}

void out_close(struct cli *cli)
{
	out_clear_line(&cli->out);
	logfile_close(&cli->out.log);
	free(cli->out.failed);
	cli->out.failed = NULL;
}

void out_clear_line(struct out *out)
{
	if (out->line_shown)
		fputs("\r\033[K", stderr);
	out->line_shown = false;
}

void out_log(void *arg, enum ckpt_log_level level, const char *text)
{
	struct cli *cli = arg;
	struct out *out = &cli->out;

	if (out->log.f)
		logfile_line(&out->log, out->log.f, level, text);
	/* What was asked for (a table of stages) is shown even when there is a log. */
	if (out->log.f && level != CKPT_LOG_MSG)
		return;
	out_clear_line(out);
	if (level == CKPT_LOG_MSG)
		fprintf(stderr, "%s\n", text);
	else if (level <= CKPT_LOG_WARN && out->log.level < CKPT_LOG_INFO && !cli->as_criu)
		fprintf(stderr, "%s: %s: %s\n", cli->prog, level == CKPT_LOG_WARN ? "warning" : "error", text);
	else
		logfile_line(&out->log, stderr, level, text);
}

void warn_later(struct cli *cli, const char *fmt, ...)
{
	char **grown = realloc(cli->warnings, (cli->n_warnings + 1) * sizeof(*grown)), *text;
	va_list ap;

	if (!grown)
		return;
	cli->warnings = grown;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) >= 0)
		grown[cli->n_warnings++] = text;
	va_end(ap);
}

static int report(struct cli *cli, const char *message, const char *hint)
{
	struct out *out = &cli->out;

	free(out->failed);
	out->failed = strdup(message);
	out_clear_line(out);
	if (out->log.f) {
		logfile_line(&out->log, out->log.f, CKPT_LOG_ERROR, message);
		if (hint)
			logfile_hint(&out->log, out->log.f, hint);
	}
	if (cli->as_criu)
		fprintf(stderr, "Error: %s\n", message);
	else
		fprintf(stderr, "%s: error: %s\n", cli->prog, message);
	if (hint)
		fprintf(stderr, "  hint: %s\n", hint);
	return 1;
}

int fail(struct cli *cli, const char *hint, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	report(cli, text ? text : "out of memory", hint);
	free(text);
	return 1;
}

int fail_err(struct cli *cli, struct ckpt_err *err)
{
	report(cli, ckpt_err_message(err), ckpt_err_hint(err));
	ckpt_err_free(err);
	return 1;
}
