// SPDX-License-Identifier: MIT
/* What several commands print with --json. */
#include <json-c/json.h>

#include "cli.h"

void json_add_string(struct json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

struct json_object *json_err(const struct ckpt_err *err)
{
	struct json_object *o = json_object_new_object();

	json_add_string(o, "code", ckpt_code_name(ckpt_err_code(err)));
	json_add_string(o, "message", ckpt_err_message(err));
	json_add_string(o, "hint", ckpt_err_hint(err));
	json_add_string(o, "kind", ckpt_err_kind(err));
	if (ckpt_err_pid(err))
		json_object_object_add(o, "pid", json_object_new_int(ckpt_err_pid(err)));
	if (ckpt_err_fd(err) >= 0)
		json_object_object_add(o, "fd", json_object_new_int(ckpt_err_fd(err)));
	if (ckpt_err_addr(err))
		json_object_object_add(o, "addr", json_object_new_uint64(ckpt_err_addr(err)));
	return o;
}

void json_add_err(struct json_object *list, const struct ckpt_err *err)
{
	json_object_array_add(list, json_err(err));
}

void json_print(struct json_object *o)
{
	printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(o);
}
