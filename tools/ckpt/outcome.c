// SPDX-License-Identifier: MIT
/* How a dump or restore ended, for programs (--json): one object on stdout, whatever happened. */
#include <json-c/json.h>
#include <string.h>

#include "cli.h"

#define FIELD(f) { #f, offsetof(struct ckpt_stats, f) }

/* The names are those of the library's struct, and documented with it. */
static const struct {
	const char *name;
	size_t offset;
} fields[] = {
	FIELD(total_us),      FIELD(freezing_us),   FIELD(frozen_us),	    FIELD(memwrite_us), FIELD(waited_us),
	FIELD(pages_scanned), FIELD(pages_written), FIELD(shpages_written), FIELD(image_bytes),
};

static void add_number(struct json_object *o, const char *key, uint64_t n)
{
	json_object_object_add(o, key, json_object_new_uint64(n));
}

static struct json_object *stages(const struct ckpt_stats *stats)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < stats->n_stages && i < ARRAY_SIZE(stats->stages); i++) {
		const struct ckpt_stage_time *s = &stats->stages[i];
		struct json_object *o = json_object_new_object();

		json_add_string(o, "name", s->name);
		add_number(o, "us", s->us);
		add_number(o, "bytes", s->bytes);
		json_object_object_add(o, "frozen", json_object_new_boolean(s->frozen));
		json_object_array_add(list, o);
	}
	return list;
}

/* Of the library, or of the command line itself, which has no code for it. */
static struct json_object *error(const struct cli *cli, const struct ckpt_err *err)
{
	struct json_object *o;

	if (err)
		return json_err(err);
	o = json_object_new_object();
	json_add_string(o, "code", NULL);
	json_add_string(o, "message", cli->out.failed ? cli->out.failed : "out of memory");
	json_add_string(o, "hint", NULL);
	return o;
}

static void print(struct cli *cli, pid_t pid, const struct ckpt_stats *stats, const struct ckpt_err *err, bool ok)
{
	struct json_object *o = json_object_new_object();
	uint64_t bytes = 0;

	for (size_t i = 0; i < stats->n_stages && i < ARRAY_SIZE(stats->stages); i++)
		bytes += stats->stages[i].bytes;
	json_object_object_add(o, "ok", json_object_new_boolean(ok));
	json_add_string(o, "command", cli->command->name);
	json_object_object_add(o, "pid", pid > 0 ? json_object_new_int(pid) : NULL);
	json_object_object_add(o, "error", ok ? NULL : error(cli, err));
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		add_number(o, fields[i].name, *(const uint64_t *)((const char *)stats + fields[i].offset));
	add_number(o, "bytes", bytes);
	json_object_object_add(o, "snapshot", json_object_new_boolean(stats->snapshot));
	json_object_object_add(o, "stages", stages(stats));
	json_print(o);
	fflush(stdout); /* who waits for a restored program waits long */
}

int outcome(struct cli *cli, pid_t pid, const struct ckpt_stats *stats, struct ckpt_err *err, bool failed)
{
	failed = failed || err;
	if (cli->json)
		print(cli, pid, stats, err, !failed);
	if (err)
		return fail_err(cli, err);
	return failed ? 1 : 0;
}
