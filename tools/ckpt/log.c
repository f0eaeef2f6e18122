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

double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

/* The folder of the log: as in the library, but here it has to be known before an operation begins. */
static int open_work_dir(const struct cli *cli, const char **path)
{
	*path = cli->opts.work_dir ? cli->opts.work_dir : cli->opts.images_dir ? cli->opts.images_dir : ".";
	return open(*path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int open_log(struct cli *cli)
{
	const char *path;
	int dir = open_work_dir(cli, &path), fd;

	if (dir < 0)
		return fail(cli, errno == ENOENT ? "create it first" : NULL, "cannot open the folder %s: %s", path,
			    strerror(errno));
	fd = openat(dir, cli->opts.log_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	close(dir);
	if (fd < 0)
		return fail(cli, NULL, "cannot create the log file %s: %s", cli->opts.log_file, strerror(errno));
	/* The log tells about the memory of others; a file that was there may have been open to all. */
	fchmod(fd, 0600);
	cli->out.log = fdopen(fd, "w");
	if (!cli->out.log)
		return fail(cli, NULL, "out of memory");
	setlinebuf(cli->out.log);
	return 0;
}

int out_open(struct cli *cli)
{
	struct out *out = &cli->out;
	const char *term = getenv("TERM");
	int r;

	clock_gettime(CLOCK_MONOTONIC, &out->begin);
	out->level = cli->opts.log_level;
	if (cli->opts.log_file) {
		r = open_log(cli);
		if (r)
			return r;
	}
	out->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0) &&
			(out->log || out->level < CKPT_LOG_INFO);
	for (size_t i = 0; i < cli->n_warnings; i++) {
		if (out->level >= CKPT_LOG_WARN)
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
	if (cli->out.log)
		fclose(cli->out.log);
	cli->out.log = NULL;
	free(cli->out.failed);
	cli->out.failed = NULL;
}

void out_clear_line(struct out *out)
{
	if (out->line_shown)
		fputs("\r\033[K", stderr);
	out->line_shown = false;
}

static void log_line(struct out *out, FILE *f, const char *prefix, const char *text)
{
	if (out->level >= CKPT_LOG_INFO)
		fprintf(f, "(%09.6f) ", seconds_since(&out->begin));
	fprintf(f, "%s%s\n", prefix, text);
}

void out_log(void *arg, enum ckpt_log_level level, const char *text)
{
	static const char *const prefixes[] = { "", "Error: ", "Warn: ", "", "" };
	struct cli *cli = arg;
	struct out *out = &cli->out;
	const char *prefix = level < ARRAY_SIZE(prefixes) ? prefixes[level] : "";

	if (out->log)
		log_line(out, out->log, prefix, text);
	/* What was asked for (a table of stages) is shown even when there is a log. */
	if (out->log && level != CKPT_LOG_MSG)
		return;
	out_clear_line(out);
	if (level == CKPT_LOG_MSG)
		fprintf(stderr, "%s\n", text);
	else if (level <= CKPT_LOG_WARN && out->level < CKPT_LOG_INFO && !cli->as_criu)
		fprintf(stderr, "%s: %s: %s\n", cli->prog, level == CKPT_LOG_WARN ? "warning" : "error", text);
	else
		log_line(out, stderr, prefix, text);
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
	if (out->log) {
		log_line(out, out->log, "Error: ", message);
		if (hint)
			log_line(out, out->log, "  hint: ", hint);
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
