// SPDX-License-Identifier: MIT
/* ckpt check: what the kernel and our privileges allow, or what is in the way of a dump. */
#include <json-c/json.h>
#include <string.h>

#include "cli.h"

/* Not needed by anything but rare programs, and younger than the rest. */
static const char *const experimental[] = { "autofs", "compat_cr" };

struct check {
	struct cli *cli;
	struct json_object *list;	/* with --json */
	int missing_extra, missing_experimental;
	bool found, available;		/* --feature */
};

static bool is_experimental(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(experimental); i++)
		if (strcmp(experimental[i], name) == 0)
			return true;
	return false;
}

/* ----------------------------------------------------------------------------------------------- features */

static void add_feature(struct json_object *list, const struct ckpt_feature *f)
{
	struct json_object *o = json_object_new_object();

	json_add_string(o, "name", f->name);
	json_object_object_add(o, "available", json_object_new_boolean(f->available));
	json_object_object_add(o, "required", json_object_new_boolean(f->required));
	json_add_string(o, "sentence", f->sentence);
	json_add_string(o, "cost", f->cost);
	json_object_array_add(list, o);
}

static void print_feature(struct cli *cli, const struct ckpt_feature *f)
{
	/* Callers of the field's program expect its verdict alone; what is missing goes beside it. */
	FILE *out = cli->as_criu ? stderr : stdout;

	if (f->available && cli->as_criu)
		return;
	fprintf(out, "%-8s %-24s %s\n", f->available ? "ok" : "missing", f->name, f->sentence);
	if (!f->available && f->cost)
		fprintf(out, "%-8s %-24s   %s%s\n", "", "", f->required ? "required: " : "without it: ", f->cost);
}

static void on_feature(void *arg, const struct ckpt_feature *f)
{
	struct check *check = arg;
	struct cli *cli = check->cli;

	if (cli->feature) {
		if (strcmp(f->name, cli->feature) == 0) {
			check->found = true;
			check->available = f->available;
		}
		return;
	}
	if (!f->available && !f->required)
		*(is_experimental(f->name) ? &check->missing_experimental : &check->missing_extra) += 1;
	if (check->list)
		add_feature(check->list, f);
	else
		print_feature(cli, f);
}

static int one_feature(struct check *check)
{
	struct cli *cli = check->cli;

	if (!check->found)
		return fail(cli, "ckpt check lists the names", "unknown feature '%s'", cli->feature);
	if (!check->available)
		return fail(cli, NULL, "%s is not supported", cli->feature);
	printf("%s is supported\n", cli->feature);
	return 0;
}

static int verdict(struct check *check, int missing)
{
	struct cli *cli = check->cli;
	bool wanted = (cli->extra && check->missing_extra) || (cli->experimental && check->missing_experimental);

	if (!check->list && missing)
		printf("Does not look good.\n");
	else if (!check->list && wanted)
		printf("Looks good but some kernel features are missing\n"
		       "which, depending on your process tree, may cause\n"
		       "dump or restore failure.\n");
	else if (!check->list)
		printf("Looks good.\n");
	return missing || wanted ? 1 : 0;
}

static int check_kernel(struct cli *cli)
{
	struct check check = { .cli = cli };
	struct ckpt_err *err = NULL;
	struct json_object *top;
	int r;

	if (cli->json)
		check.list = json_object_new_array();
	r = ckpt_check_kernel(cli->ctx, on_feature, &check, &err);
	if (r < 0) {
		json_object_put(check.list);
		return fail_err(cli, err);
	}
	if (cli->feature) {
		json_object_put(check.list);
		return one_feature(&check);
	}
	if (cli->json) {
		top = json_object_new_object();
		json_object_object_add(top, "good", json_object_new_boolean(r == 0));
		json_object_object_add(top, "features", check.list);
		json_print(top);
	}
	return verdict(&check, r);
}

/* ----------------------------------------------------------------------------------------------- a process */

static void on_obstacle(void *arg, const struct ckpt_err *err)
{
	struct check *check = arg;

	if (check->list) {
		json_add_err(check->list, err);
		return;
	}
	printf("in the way: %s\n", ckpt_err_message(err));
	if (ckpt_err_hint(err))
		printf("      hint: %s\n", ckpt_err_hint(err));
}

static int check_task(struct cli *cli)
{
	struct check check = { .cli = cli };
	struct ckpt_err *err = NULL;
	struct json_object *top;
	int r;

	if (cli->json)
		check.list = json_object_new_array();
	r = ckpt_check_task(cli->ctx, cli->tree, &cli->opts, on_obstacle, &check, &err);
	if (r < 0) {
		json_object_put(check.list);
		return fail_err(cli, err);
	}
	if (cli->json) {
		top = json_object_new_object();
		json_object_object_add(top, "pid", json_object_new_int(cli->tree));
		json_object_object_add(top, "good", json_object_new_boolean(r == 0));
		json_object_object_add(top, "obstacles", check.list);
		json_print(top);
	} else if (r == 0) {
		printf("Process %d can be checkpointed.\n", (int)cli->tree);
	} else {
		printf("Process %d cannot be checkpointed now: %d obstacle%s.\n", (int)cli->tree, r, r == 1 ? "" : "s");
	}
	return r ? 1 : 0;
}

int cmd_check(struct cli *cli)
{
	if (cli->n_args) {
		fail(cli, NULL, "check: unexpected argument '%s'", cli->args[0]);
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	return cli->tree ? check_task(cli) : check_kernel(cli);
}
