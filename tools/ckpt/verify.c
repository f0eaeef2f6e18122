// SPDX-License-Identifier: MIT
/* ckpt verify: what ckpt_verify() finds, and how long it took. */
#include <inttypes.h>
#include <json-c/json.h>

#include "cli.h"

enum {
	EXIT_DAMAGED = 1,
	EXIT_UNKNOWN = 2, /* nothing is wrong, but not everything could be looked at */
};

static void on_damage(void *arg, const struct ckpt_err *err)
{
	struct json_object *list = arg;

	if (list) {
		json_add_err(list, err);
		return;
	}
	printf("damaged: %s\n", ckpt_err_message(err));
	if (ckpt_err_hint(err))
		printf("   hint: %s\n", ckpt_err_hint(err));
}

static double mib(uint64_t bytes)
{
	return (double)bytes / (1 << 20);
}

static void print_summary(const struct ckpt_verify_stats *st, int damages)
{
	uint64_t bytes = st->image_bytes + st->page_bytes;
	double s = (double)(st->us ? st->us : 1) / 1e6;

	if (st->images + st->page_images)
		printf("%" PRIu64 " images and %" PRIu64 " page images in %" PRIu64 " folder%s: %.1f MiB in %.2f s, %.0f MiB/s\n",
		       st->images, st->page_images, st->folders, st->folders == 1 ? "" : "s", mib(bytes), s, mib(bytes) / s);
	if (st->unknown)
		printf("%" PRIu64 " file%s without a sum: another program made %s, nothing can be said of %s\n", st->unknown,
		       st->unknown == 1 ? "" : "s", st->unknown == 1 ? "it" : "them", st->unknown == 1 ? "it" : "them");
	if (damages)
		printf("%d damage%s found.\n", damages, damages == 1 ? "" : "s");
	else if (st->images + st->page_images)
		printf("All that has a sum is what was written.\n");
}

static void print_object(const struct ckpt_verify_stats *st, struct json_object *list, int damages)
{
	const struct {
		const char *key;
		uint64_t value;
	} numbers[] = {
		{ "folders", st->folders }, { "images", st->images }, { "image_bytes", st->image_bytes },
		{ "page_images", st->page_images }, { "pages", st->pages }, { "page_bytes", st->page_bytes },
		{ "unknown", st->unknown }, { "us", st->us },
	};
	struct json_object *top = json_object_new_object();

	json_object_object_add(top, "good", json_object_new_boolean(damages == 0));
	for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
		json_object_object_add(top, numbers[i].key, json_object_new_uint64(numbers[i].value));
	json_object_object_add(top, "damages", list);
	json_print(top);
}

int cmd_verify(struct cli *cli)
{
	struct ckpt_verify_stats st = { .sz = sizeof(st) };
	struct json_object *list = cli->json ? json_object_new_array() : NULL;
	struct ckpt_err *err = NULL;
	int r;

	if (cli->n_args > 1 || (cli->n_args && cli->opts.images_dir)) {
		json_object_put(list);
		fail(cli, NULL, "verify: one folder at a time");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (cli->n_args)
		cli->opts.images_dir = cli->args[0];
	r = ckpt_verify(cli->ctx, &cli->opts, &st, on_damage, list, &err);
	if (r < 0) {
		json_object_put(list);
		return fail_err(cli, err);
	}
	if (cli->json)
		print_object(&st, list, r);
	else
		print_summary(&st, r);
	if (r)
		return EXIT_DAMAGED;
	return st.unknown ? EXIT_UNKNOWN : 0;
}
