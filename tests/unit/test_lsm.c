/* SPDX-License-Identifier: MIT */
/* Labels of security modules: their forms, and what --lsm-profile says of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/state/task/lsm.h"

static struct ckpt_opts opts = CKPT_OPTS_INIT;

static struct op *new_op(void)
{
	struct op *op = calloc(1, sizeof(*op));

	op->arena = arena_new();
	op->opts = &opts;
	return op;
}

static void free_op(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
	free(op);
}

static void labels(void **state)
{
	static const struct {
		Lsmtype type;
		const char *text, *label; /* NULL: none */
		int r;
	} cases[] = {
		{ LSMTYPE__APPARMOR, "unconfined\n", NULL, 0 },
		{ LSMTYPE__APPARMOR, "", NULL, 0 },
		{ LSMTYPE__APPARMOR, "docker-default (enforce)\n", "docker-default", 0 },
		{ LSMTYPE__APPARMOR, "unconfined-not (complain)\n", "unconfined-not", 0 },
		{ LSMTYPE__APPARMOR, ":root://lxc-1:/usr/bin/x (enforce)\n", ":root://lxc-1:/usr/bin/x", 0 },
		{ LSMTYPE__SELINUX, "system_u:system_r:container_t:s0:c1,c2", "system_u:system_r:container_t:s0:c1,c2", 0 },
		{ LSMTYPE__SELINUX, "a:b:c", NULL, -1 },
		{ LSMTYPE__SELINUX, "kernel", NULL, -1 },
		{ LSMTYPE__SELINUX, "", NULL, 0 },
	};
	struct op *op = new_op();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *label;

		assert_int_equal(lsm_parse(op, cases[i].type, cases[i].text, strlen(cases[i].text), &label), cases[i].r);
		if (cases[i].label)
			assert_string_equal(label, cases[i].label);
		else
			assert_null(label);
	}
	free_op(op);
}

static void options(void **state)
{
	static const char *const bad[] = { "", "apparmor", "apparmor:", "selinux:", "smack:x", "app:x", ":x" };
	struct op *op = new_op();
	struct lsm_choice c;

	(void)state;
	opts.lsm_profile = NULL;
	assert_int_equal(lsm_parse_option(op, &c), 0);
	assert_false(c.given);
	opts.lsm_profile = "none";
	assert_int_equal(lsm_parse_option(op, &c), 0);
	assert_true(c.given && c.type == LSMTYPE__NO_LSM && !c.label);
	opts.lsm_profile = "apparmor:docker-default";
	assert_int_equal(lsm_parse_option(op, &c), 0);
	assert_int_equal(c.type, LSMTYPE__APPARMOR);
	assert_string_equal(c.label, "docker-default");
	opts.lsm_profile = "selinux:a:b:c:d";
	assert_int_equal(lsm_parse_option(op, &c), 0);
	assert_int_equal(c.type, LSMTYPE__SELINUX);
	assert_string_equal(c.label, "a:b:c:d");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		opts.lsm_profile = bad[i];
		assert_int_equal(lsm_parse_option(op, &c), CKPT_E_INVAL);
		op_forget(op);
	}
	free_op(op);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(labels), cmocka_unit_test(options) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
