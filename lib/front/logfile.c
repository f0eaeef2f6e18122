// SPDX-License-Identifier: MIT
#include "lib/front/logfile.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/base.h"

double seconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

int logfile_open(struct logfile *log, int dir, const char *name)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return errno;
	/* The log tells about the memory of others; a file that was there may have been open to all. */
	fchmod(fd, 0600);
	log->f = fdopen(fd, "w");
	if (!log->f) {
		close(fd);
		return ENOMEM;
	}
	setlinebuf(log->f);
	return 0;
}

void logfile_close(struct logfile *log)
{
	if (log->f)
		fclose(log->f);
	log->f = NULL;
}

static void put(const struct logfile *log, FILE *to, const char *prefix, const char *text)
{
	if (log->level >= CKPT_LOG_INFO)
		fprintf(to, "(%09.6f) ", seconds_since(&log->begin));
	fprintf(to, "%s%s\n", prefix, text);
}

void logfile_line(const struct logfile *log, FILE *to, enum ckpt_log_level level, const char *text)
{
	static const char *const prefixes[] = { "", "Error (ckpt): ", "Warn  (ckpt): ", "", "" };

	put(log, to, (size_t)level < ARRAY_SIZE(prefixes) ? prefixes[level] : "", text);
}

void logfile_hint(const struct logfile *log, FILE *to, const char *text)
{
	put(log, to, "  hint: ", text);
}
