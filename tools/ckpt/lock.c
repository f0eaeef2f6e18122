// SPDX-License-Identifier: MIT
/* ckpt lock, ckpt unlock: packets of a checkpoint's connections, held or let through. */
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum {
	EXIT_NOTHING = 2, /* to unlock */
};

struct ids {
	char **v;
	bool *in_use;
	size_t n;
	bool failed;
};

/* Ids of locks, kept: what is listed is removed while no listing goes on. */
static void on_lock(void *arg, const struct ckpt_lock_info *lock)
{
	struct ids *ids = arg;
	char **v = realloc(ids->v, (ids->n + 1) * sizeof(*v));
	bool *in_use;

	if (v)
		ids->v = v;
	in_use = realloc(ids->in_use, (ids->n + 1) * sizeof(*in_use));
	if (in_use)
		ids->in_use = in_use;
	if (!v || !in_use || !(v[ids->n] = strdup(lock->id))) {
		ids->failed = true;
		return;
	}
	in_use[ids->n++] = lock->in_use;
}

static void ids_free(struct ids *ids)
{
	for (size_t i = 0; i < ids->n; i++)
		free(ids->v[i]);
	free(ids->v);
	free(ids->in_use);
}

static int ids_read(struct cli *cli, struct ids *ids)
{
	struct ckpt_err *err = NULL;

	if (ckpt_locks(cli->ctx, on_lock, ids, &err) < 0)
		return fail_err(cli, err);
	return ids->failed ? fail(cli, NULL, "out of memory") : 0;
}

static struct json_object *new_object(struct cli *cli, bool ok)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "ok", json_object_new_boolean(ok));
	json_add_string(o, "command", cli->command->name);
	return o;
}

static int print_list(struct cli *cli, const struct ids *ids)
{
	struct json_object *o, *list;

	if (!cli->json) {
		for (size_t i = 0; i < ids->n; i++)
			printf("%s%s\n", ids->v[i], ids->in_use[i] ? "  in use" : "");
		return 0;
	}
	o = new_object(cli, true);
	list = json_object_new_array();
	for (size_t i = 0; i < ids->n; i++) {
		struct json_object *lock = json_object_new_object();

		json_add_string(lock, "id", ids->v[i]);
		json_object_object_add(lock, "in_use", json_object_new_boolean(ids->in_use[i]));
		json_object_array_add(list, lock);
	}
	json_object_object_add(o, "locks", list);
	json_print(o);
	return 0;
}

/* A failure goes into the object, too. */
static int print_removed(struct cli *cli, struct json_object *removed, struct ckpt_err *err)
{
	size_t n = json_object_array_length(removed);
	struct json_object *o = new_object(cli, !err);

	json_object_object_add(o, "error", err ? json_err(err) : NULL);
	json_object_object_add(o, "removed", removed);
	if (cli->json)
		json_print(o);
	else
		json_object_put(o);
	if (err)
		return fail_err(cli, err);
	if (!n && !cli->json)
		printf("There is nothing to unlock.\n");
	return n ? 0 : EXIT_NOTHING;
}

/* @id NULL: the one of the folder. */
static struct ckpt_err *unlock(struct cli *cli, const char *id, struct json_object *removed)
{
	struct ckpt_err *err = NULL;

	if (ckpt_unlock(cli->ctx, &cli->opts, id, &err) == 0) {
		json_object_array_add(removed, id ? json_object_new_string(id) : NULL);
		if (!cli->json)
			printf("unlocked%s%s\n", id ? " " : "", id ? id : "");
	}
	return err;
}

static int unlock_all(struct cli *cli, const struct ids *ids)
{
	struct json_object *removed = json_object_new_array();
	struct ckpt_err *err = NULL;

	for (size_t i = 0; i < ids->n && !err; i++)
		if (!ids->in_use[i])
			err = unlock(cli, ids->v[i], removed);
	return print_removed(cli, removed, err);
}

static int unlock_each(struct cli *cli)
{
	struct json_object *removed = json_object_new_array();
	struct ckpt_err *err = NULL;

	if (!cli->n_args)
		err = unlock(cli, NULL, removed);
	for (int i = 0; i < cli->n_args && !err; i++)
		err = unlock(cli, cli->args[i], removed);
	return print_removed(cli, removed, err);
}

int cmd_unlock(struct cli *cli)
{
	struct ids ids = { 0 };
	int r;

	if (cli->all + cli->list + (cli->n_args || cli->opts.images_dir) > 1 || (cli->n_args && cli->opts.images_dir)) {
		fail(cli, NULL, "unlock: one of -D DIR, ID..., --all and --list");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	if (!cli->all && !cli->list)
		return unlock_each(cli);
	r = ids_read(cli, &ids);
	if (!r)
		r = cli->all ? unlock_all(cli, &ids) : print_list(cli, &ids);
	ids_free(&ids);
	return r;
}

int cmd_lock(struct cli *cli)
{
	struct ckpt_err *err = NULL;
	struct json_object *o;
	uint64_t n = 0;
	int r;

	if (cli->n_args || cli->all || cli->list) {
		fail(cli, NULL, cli->n_args ? "lock: unexpected argument '%s'" : "lock: --all and --list are for unlock",
		     cli->n_args ? cli->args[0] : "");
		usage(cli, stderr);
		return EXIT_USAGE;
	}
	r = ckpt_lock(cli->ctx, &cli->opts, &n, &err);
	if (cli->json) {
		o = new_object(cli, !err);
		json_object_object_add(o, "error", err ? json_err(err) : NULL);
		json_object_object_add(o, "connections", json_object_new_uint64(n));
		json_object_object_add(o, "was_locked", json_object_new_boolean(r == 1));
		json_print(o);
	}
	if (err)
		return fail_err(cli, err);
	if (!cli->json)
		printf("%s: %" PRIu64 " connection%s\n", r == 1 ? "locked already" : "locked", n, n == 1 ? "" : "s");
	return 0;
}
