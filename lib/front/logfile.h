/* SPDX-License-Identifier: MIT */
/* The file of messages, in the form that those who search it expect: what failed is found by "Error". */
#ifndef CKPT_FRONT_LOGFILE_H
#define CKPT_FRONT_LOGFILE_H

#include <stdio.h>
#include <time.h>

#include "ckpt/ckpt.h"

struct logfile {
	FILE *f;		/* NULL: there is none */
	unsigned level;		/* from CKPT_LOG_INFO on lines begin with the time */
	struct timespec begin;	/* what the time counts from */
};

/* Makes, or empties, the file @name in the folder @dir: for the owner alone. Returns 0, or an errno. */
int logfile_open(struct logfile *log, int dir, const char *name);
void logfile_close(struct logfile *log);
/* A line to the file, or to another place in the same form. */
void logfile_line(const struct logfile *log, FILE *to, enum ckpt_log_level level, const char *text);
void logfile_hint(const struct logfile *log, FILE *to, const char *text);
double seconds_since(const struct timespec *then);

#endif
