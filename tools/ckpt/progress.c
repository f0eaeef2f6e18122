// SPDX-License-Identifier: MIT
/*
 * Progress: one line on a terminal that is overwritten. Nothing where the output goes elsewhere, on terminals that cannot
 * overwrite, and of operations that end within a blink.
 */
#include "cli.h"

#define SHOW_FROM 0.3 /* seconds since the start */
#define SHOW_EVERY 0.1
#define OF_THE_LAST 1.5 /* seconds whose average the rate is, roughly */
#define ROOM 24

static const char *bytes_text(double n, char text[ROOM])
{
	static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
	size_t i = 0;

	n /= 1024;
	while (n >= 1000 && i + 1 < ARRAY_SIZE(units)) {
		n /= 1024;
		i++;
	}
	snprintf(text, ROOM, n < 9.95 && i ? "%.1f %s" : "%.0f %s", n, units[i]);
	return text;
}

static const char *time_text(double s, char text[ROOM])
{
	if (s < 99.5)
		snprintf(text, ROOM, "%.0f s", s);
	else if (s < 5970)
		snprintf(text, ROOM, "%.0f min", s / 60);
	else
		snprintf(text, ROOM, "%.1f h", s / 3600);
	return text;
}

static void note_rate(struct out *out, uint64_t bytes, double seconds)
{
	double now, weight;

	if (!out->last_bytes || bytes < out->last_bytes) {
		out->last_bytes = bytes; /* when it began is not known, so neither is how fast it was */
		return;
	}
	now = (double)(bytes - out->last_bytes) / seconds;
	weight = seconds / (seconds + OF_THE_LAST);
	out->rate = out->rate > 0 ? out->rate + weight * (now - out->rate) : now;
	out->last_bytes = bytes;
}

static void show_bytes(const struct out *out, const struct ckpt_progress *p)
{
	char done[ROOM], total[ROOM], rate[ROOM], left[ROOM];

	fprintf(stderr, "  %s of %s", bytes_text((double)p->bytes_done, done), bytes_text((double)p->bytes_total, total));
	if (out->rate >= 1 && p->bytes_done < p->bytes_total)
		fprintf(stderr, ", %s/s, %s left", bytes_text(out->rate, rate),
			time_text((double)(p->bytes_total - p->bytes_done) / out->rate, left));
}

void out_progress(void *arg, const struct ckpt_progress *p)
{
	struct cli *cli = arg;
	struct out *out = &cli->out;
	double since = seconds_since(out->last_progress.tv_sec ? &out->last_progress : &out->log.begin);

	if (!out->terminal || since < SHOW_EVERY)
		return;
	if (p->bytes_done)
		note_rate(out, p->bytes_done, since);
	clock_gettime(CLOCK_MONOTONIC, &out->last_progress);
	if (seconds_since(&out->log.begin) < SHOW_FROM)
		return;
	fprintf(stderr, "\r\033[K%s: %s", cli->command->name, p->stage);
	if (p->total)
		fprintf(stderr, " %3.0f %%", 100.0 * (double)p->done / (double)p->total);
	if (p->bytes_total)
		show_bytes(out, p);
	/* A restore and a check stop nothing that runs. */
	if (cli->command->for_flag & (CKPT_FOR_DUMP | CKPT_FOR_PRE_DUMP))
		fprintf(stderr, ", %s", p->frozen ? "frozen" : "running");
	if (p->waiting)
		fprintf(stderr, ", others first");
	fflush(stderr);
	out->line_shown = true;
}
