// SPDX-License-Identifier: MIT
/* ckpt inspect: what ckpt_inspect() says, laid out for people. */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli.h"

static struct json_object *get(struct json_object *o, const char *key)
{
	struct json_object *value = NULL;

	return o && json_object_object_get_ex(o, key, &value) ? value : NULL;
}

static uint64_t number(struct json_object *o, const char *key)
{
	return json_object_get_uint64(get(o, key));
}

static const char *text(struct json_object *o, const char *key)
{
	const char *s = json_object_get_string(get(o, key));

	return s ? s : "";
}

/* Names come from images, and those from anywhere: nothing in them may steer the terminal. */
static void print_safe(const char *s, size_t max)
{
	for (size_t i = 0; s[i]; i++) {
		unsigned char c = (unsigned char)s[i];

		if (max && i == max) {
			printf("...");
			return;
		}
		if (c < 0x20 || c == 0x7f || (c == 0xc2 && (unsigned char)s[i + 1] < 0xa0))
			printf("\\x%02x", c);
		else
			putchar(c);
	}
}

static void print_size(uint64_t n)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)n;
	size_t u = 0;

	while (v >= 1024 && u + 1 < ARRAY_SIZE(units)) {
		v /= 1024;
		u++;
	}
	printf(u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static void print_line(const char *label, const char *value)
{
	if (!*value)
		return;
	printf("%-12s", label);
	print_safe(value, 0);
	printf("\n");
}

/* How page data is stored, where that is known. */
static void print_storage(struct json_object *top)
{
	struct json_object *o = get(top, "storage");
	uint64_t pages = number(o, "pages"), equal = number(o, "equal_pages"), freed = number(o, "freed_pages");

	if (pages) {
		printf("%-12s", "Pages");
		print_size(pages * 4096);
		printf(" in ");
		print_size(number(o, "stored_bytes"));
		printf(" (%.0f %%), %s", 100.0 * (double)number(o, "stored_bytes") / (double)(pages * 4096), text(o, "compression"));
		if (equal)
			printf(", %" PRIu64 " equal ones once", equal);
		if (freed)
			printf(", %" PRIu64 " freed", freed);
		printf("\n");
	}
	print_line("Sums", json_object_get_boolean(get(get(top, "integrity"), "sums")) ? "of all images" : "none");
}

static void print_head(struct json_object *top, const char *dir)
{
	struct json_object *o = get(top, "checkpoint");
	time_t created = (time_t)json_object_get_int64(get(o, "created"));
	char when[64] = "";
	struct tm tm;

	if (created && localtime_r(&created, &tm))
		strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S %z", &tm);
	print_line("Checkpoint", dir);
	print_line("Made", when);
	print_line("On", text(o, "hostname"));
	print_line("Kernel", text(o, "kernel"));
	print_line("Processor", text(o, "arch"));
	if (*text(o, "version"))
		printf("%-12slibckpt ", "By"), print_safe(text(o, "version"), 0), printf("\n");
	printf("%-12s", "Size");
	print_size(number(top, "total_bytes"));
	printf(" in %zu images\n", get(top, "images") ? json_object_array_length(get(top, "images")) : (size_t)0);
	print_storage(top);
}

static void print_memory(struct json_object *memory, int indent)
{
	struct json_object *pages = get(memory, "pages");

	if (!memory)
		return;
	printf("%*sMemory: ", indent, "");
	print_size(number(memory, "bytes"));
	printf(" in %" PRIu64 " areas, ", number(memory, "vmas"));
	print_size(number(pages, "stored_bytes"));
	printf(" stored\n");
	json_object_object_foreach(get(memory, "kinds"), kind, value)
	{
		uint64_t n = json_object_get_uint64(value);

		if (!n)
			continue;
		printf("%*s", indent + 2, "");
		printf("%-13s ", kind);
		print_size(n);
		printf("\n");
	}
}

static void print_threads(struct json_object *threads, int indent)
{
	size_t n = threads ? json_object_array_length(threads) : 0;

	if (n < 2)
		return;
	printf("%*sThreads: %zu", indent, "", n);
	for (size_t i = 0; i < n && i < 8; i++) {
		struct json_object *o = json_object_array_get_idx(threads, i);

		printf("%s%" PRIu64 " ", i ? ", " : ": ", number(o, "tid"));
		print_safe(text(o, "comm"), 16);
	}
	printf(n > 8 ? ", ...\n" : "\n");
}

static void print_descriptors(struct json_object *list, int indent)
{
	size_t n = list ? json_object_array_length(list) : 0;

	if (!n)
		return;
	printf("%*sDescriptors: %zu\n", indent, "", n);
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = json_object_array_get_idx(list, i);

		printf("%*s%4" PRIu64 "  %-12s ", indent + 2, "", number(o, "fd"), text(o, "type"));
		print_safe(text(o, "what"), 0);
		printf("\n");
	}
}

static void print_task(struct json_object *task, int depth)
{
	int indent = 2 * depth + 2;
	const char *cmdline = text(task, "cmdline"), *state = text(task, "state");

	printf("%*s%" PRIu64 " ", 2 * depth, "", number(task, "pid"));
	print_safe(text(task, "comm"), 16);
	if (*state && strcmp(state, "running") != 0)
		printf(" (%s)", state);
	if (*cmdline) {
		printf(": ");
		print_safe(cmdline, 200);
	}
	printf("\n");
	if (strcmp(state, "zombie") == 0)
		return;
	printf("%*sIn ", indent, "");
	print_safe(text(task, "cwd"), 0);
	if (*text(task, "exe")) {
		printf(", runs ");
		print_safe(text(task, "exe"), 0);
	}
	printf(", user %" PRIu64 ", group %" PRIu64 "\n", number(task, "uid"), number(task, "gid"));
	print_threads(get(task, "threads"), indent);
	if (get(task, "shares_memory_of"))
		printf("%*sMemory: that of %" PRIu64 "\n", indent, "", number(task, "shares_memory_of"));
	print_memory(get(task, "memory"), indent);
	print_descriptors(get(task, "descriptors"), indent);
}

static struct json_object *find_task(struct json_object *tasks, uint64_t pid)
{
	for (size_t i = 0; i < json_object_array_length(tasks); i++)
		if (number(json_object_array_get_idx(tasks, i), "pid") == pid)
			return json_object_array_get_idx(tasks, i);
	return NULL;
}

/* An image may claim that a task is its own ancestor: the way up is no longer than there are tasks. */
static int depth_of(struct json_object *tasks, struct json_object *task)
{
	size_t n = json_object_array_length(tasks), depth = 0;

	while (depth < n && (task = find_task(tasks, number(task, "ppid"))))
		depth++;
	return depth < 32 ? (int)depth : 32;
}

static void print_all(struct json_object *top, const char *dir)
{
	struct json_object *tasks = get(top, "tasks"), *shared = get(top, "shared_memory");

	print_head(top, dir);
	for (size_t i = 0; tasks && i < json_object_array_length(tasks); i++) {
		struct json_object *task = json_object_array_get_idx(tasks, i);

		printf("\n");
		print_task(task, depth_of(tasks, task));
	}
	if (!shared || !json_object_array_length(shared))
		return;
	printf("\nShared memory\n");
	for (size_t i = 0; i < json_object_array_length(shared); i++) {
		struct json_object *o = json_object_array_get_idx(shared, i);

		printf("  %-8" PRIu64 " ", number(o, "shmid"));
		print_size(number(o, "bytes"));
		printf(", ");
		print_size(number(o, "stored_bytes"));
		printf(" stored  ");
		print_safe(text(o, "name"), 0);
		printf("\n");
	}
}

int cmd_inspect(struct cli *cli)
{
	struct ckpt_err *err = NULL;
	struct json_object *top;
	char *json = NULL;

	if (cli->n_args > 1 || (cli->n_args && cli->opts.images_dir)) {
		fail(cli, NULL, "inspect: one folder at a time");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (cli->n_args)
		cli->opts.images_dir = cli->args[0];
	if (ckpt_inspect(cli->ctx, &cli->opts, &json, &err) != 0)
		return fail_err(cli, err);
	if (cli->json) {
		printf("%s\n", json);
	} else {
		top = json_tokener_parse(json);
		print_all(top, cli->opts.images_dir ? cli->opts.images_dir : ".");
		json_object_put(top);
	}
	free(json);
	return 0;
}
