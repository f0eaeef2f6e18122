/* SPDX-License-Identifier: MIT */
/* Control groups: lists of properties, values, --cgroup-root, and what an image may say. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "lib/state/cgroup/core.h"
#include "lib/state/msg.h"

struct env {
	struct ckpt_opts opts;
	struct op op;
	struct snapshot s;
	struct cgroup_state *st;
};

static void add_hier(struct env *e, const char *name, const char *ours)
{
	struct cg_hier *h = op_new(&e->op, struct cg_hier);

	*h = (struct cg_hier){ .name = name, .ours = ours, .fd = -1 };
	*ARRAY_ADD(e->op.arena, &e->st->hiers) = h;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op.arena = arena_new();
	e->op.opts = &e->opts;
	e->st = cg_state(&e->op, &e->s);
	e->s.inventory = msg_new(&e->op, InventoryEntry, inventory_entry);
	msg_set(e->s.inventory, root_cg_set, 1);
	add_hier(e, "", "/");
	add_hier(e, "cpu,cpuacct", "/us");
	add_hier(e, "name=systemd", "/us");
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	ckpt_err_free(e->op.err);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

/* ------------------------------------------------------------------------------------------------- properties */

static bool has(const cg_names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (!strcmp(names->v[i], name))
			return true;
	return false;
}

static int parse(struct env *e, const char *text, struct cg_prop_lists *lists, unsigned *line)
{
	*lists = (struct cg_prop_lists){ 0 };
	return cg_props_parse(e->op.arena, text, strlen(text), lists, line);
}

static void prop_lists(void **state)
{
	static const char text[] = "\"cpu\":\n - \"strategy\": \"replace\"\n - \"properties\": [\"cpu.a\", \"cpu.b\"]\n"
				   "\"memory\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"memory.x\"]";
	struct env *e = *state;
	struct cg_prop_lists own;
	cg_names cpu = { 0 }, memory = { 0 }, v2 = { 0 };
	unsigned line;

	assert_int_equal(parse(e, text, &own, &line), 0);
	assert_int_equal(own.v.n, 2);
	assert_int_equal(cg_props_of(e->op.arena, "cpu,cpuacct", &own, &cpu), 0);
	assert_true(has(&cpu, "cpu.a") && has(&cpu, "cpu.b") && has(&cpu, "tasks") && !has(&cpu, "cpu.shares"));
	assert_int_equal(cg_props_of(e->op.arena, "memory", &own, &memory), 0);
	assert_true(has(&memory, "memory.x") && has(&memory, "memory.limit_in_bytes"));
	assert_int_equal(cg_props_of(e->op.arena, "", &own, &v2), 0);
	assert_true(has(&v2, "cgroup.type") && has(&v2, "memory.x") && has(&v2, "memory.max") && !has(&v2, "tasks"));
	assert_string_equal(v2.v[0], "cgroup.subtree_control");
	assert_int_equal(parse(e, "", &own, &line), 0);
}

static void bad_prop_lists(void **state)
{
	static const struct {
		const char *text;
		unsigned line;
	} bad[] = {
		{ "cpu:\n", 1 },
		{ "\"cpu\"\n", 1 },
		{ "\"cpu\":\n", 2 },
		{ "\"cpu\":\n- \"strategy\": \"merge\"\n", 2 },
		{ "\"cpu\":\n - \"strategy\": \"other\"\n", 2 },
		{ "\"cpu\":\n - \"strategy\":\"merge\"\n", 2 },
		{ "\"cpu\":\n - \"strategy\": \"merge\" \n", 2 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\",\"b\"]\n", 3 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\", ]\n", 3 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\"\n", 3 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"\"]\n", 3 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"../a\"]\n", 3 },
		{ "\"cpu\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"a\"]\n\n", 4 },
	};
	struct env *e = *state;
	struct cg_prop_lists own;
	unsigned line;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse(e, bad[i].text, &own, &line), -1);
		assert_int_equal(line, bad[i].line);
	}
}

static void normal(const char *name, const char *value, const char *want)
{
	char text[64];

	snprintf(text, sizeof(text), "%s", value);
	cg_prop_normalize(name, text);
	assert_string_equal(text, want);
}

static void values(void **state)
{
	const struct cg_prop_lists none = { 0 };

	(void)state;
	normal("pids.max", "max\n", "max");
	normal("x", " \t5 6 \n\n", "5 6");
	normal("x", "\n", "");
	normal("memory.limit_in_bytes", "9223372036854771712\n", "9223372036854771712");
	normal("memory.limit_in_bytes", "9223372036854775807", "-1");
	normal("memory.limit_in_bytes", "18446744073709551615\n", "-1");
	normal("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", "1");
	assert_true(cg_prop_is_default(&none, "memory.max", "max"));
	assert_true(cg_prop_is_default(&none, "hugetlb.2MB.max", "9223372036854771712"));
	assert_false(cg_prop_is_default(&none, "memory.max", "4096"));
	assert_false(cg_prop_is_default(&none, "cgroup.type", "max"));
}

/* ------------------------------------------------------------------------------------------------- paths */

static void paths(void **state)
{
	(void)state;
	assert_true(cg_path_ok("/") && cg_path_ok("/a/b") && cg_path_ok("/a..b/..c/d..") && cg_path_ok("/..."));
	assert_false(cg_path_ok("") || cg_path_ok("a") || cg_path_ok("/..") || cg_path_ok("/../a") || cg_path_ok("/a/../b") ||
		     cg_path_ok("/a/.."));
	assert_true(cg_is_below("/a/b", "/a") && cg_is_below("/a", "/a") && cg_is_below("/a", "/"));
	assert_false(cg_is_below("/ab", "/a") || cg_is_below("/", "/a"));
	assert_true(cg_has_word("cpu,cpuacct", "cpu") && cg_has_word("cpu,cpuacct", "cpuacct"));
	assert_false(cg_has_word("cpuset", "cpu") || cg_has_word("cpu", "") || cg_has_word("", "cpu"));
}

static void root_options(void **state)
{
	struct env *e = *state;
	const char *v[] = { "/all", "cpuacct:/c", "systemd:/s", ":/v2" };
	const struct ckpt_strv options = { .v = v, .n = 4 }, only = { .v = v + 1, .n = 1 };

	assert_string_equal(cg_root_option(&options, "cpu,cpuacct"), "/c");
	assert_string_equal(cg_root_option(&options, "name=systemd"), "/s");
	assert_string_equal(cg_root_option(&options, ""), "/v2");
	assert_string_equal(cg_root_option(&options, "pids"), "/all");
	assert_null(cg_root_option(&only, "pids"));
	e->opts.cgroup_root = options;
	assert_int_equal(cg_check_root_options(&e->op), 0);
	v[2] = "cpu:relative";
	assert_int_equal(cg_check_root_options(&e->op), CKPT_E_INVAL);
}

/* ------------------------------------------------------------------------------------------------- images */

static CgroupDirEntry *dir(struct env *e, const char *name)
{
	CgroupDirEntry *d = msg_new(&e->op, CgroupDirEntry, cgroup_dir_entry);

	d->dir_name = (char *)(uintptr_t)name;
	d->children = op_alloc(&e->op, 4 * sizeof(*d->children));
	d->properties = op_alloc(&e->op, 4 * sizeof(*d->properties));
	return d;
}

static CgMemberEntry *member(struct env *e, const char *name, const char *path, uint32_t ns)
{
	CgMemberEntry *m = msg_new(&e->op, CgMemberEntry, cg_member_entry);

	m->name = (char *)(uintptr_t)name;
	m->path = (char *)(uintptr_t)path;
	if (ns)
		msg_set(m, cgns_prefix, ns);
	return m;
}

static void add_task(struct env *e, pid_t pid, pid_t ppid, uint32_t set)
{
	struct snap_task *t = ARRAY_ADD(e->op.arena, &e->s.tasks);
	struct snap_thread *th = ARRAY_ADD(e->op.arena, &t->threads);

	t->pid = th->tid = pid;
	t->ps = msg_new(&e->op, PstreeEntry, pstree_entry);
	t->ps->ppid = (uint32_t)ppid;
	th->core = msg_new(&e->op, CoreEntry, core_entry);
	th->core->thread_core = msg_new(&e->op, ThreadCoreEntry, thread_core_entry);
	if (set)
		msg_set(th->core->thread_core, cg_set, set);
}

/* cpu,cpuacct: /c/d/x and /c/d/y; v2: /v. */
static void make_image(struct env *e, uint32_t ns)
{
	CgroupEntry *img = e->st->img = msg_new(&e->op, CgroupEntry, cgroup_entry);
	static const char *const paths[] = { "/c/d/x", "/c/d/y" };

	img->sets = op_alloc(&e->op, 4 * sizeof(*img->sets));
	img->controllers = op_alloc(&e->op, 4 * sizeof(*img->controllers));
	for (uint32_t i = 0; i < 2; i++) {
		CgSetEntry *set = img->sets[img->n_sets++] = msg_new(&e->op, CgSetEntry, cg_set_entry);

		set->id = 2 + i;
		set->ctls = op_alloc(&e->op, 4 * sizeof(*set->ctls));
		set->ctls[set->n_ctls++] = member(e, "cpu,cpuacct", paths[i], ns);
		set->ctls[set->n_ctls++] = member(e, "", "/v", 0);
	}
	img->n_controllers = 1;
	img->controllers[0] = msg_new(&e->op, CgControllerEntry, cg_controller_entry);
	img->controllers[0]->cnames = op_alloc(&e->op, 4 * sizeof(char *));
	img->controllers[0]->cnames[0] = "cpu";
	img->controllers[0]->cnames[1] = "cpuacct";
	img->controllers[0]->n_cnames = 2;
	img->controllers[0]->dirs = op_alloc(&e->op, 4 * sizeof(CgroupDirEntry *));
	img->controllers[0]->dirs[0] = dir(e, "c/d/x");
	img->controllers[0]->dirs[0]->children[0] = dir(e, "below");
	img->controllers[0]->dirs[0]->n_children = 1;
	img->controllers[0]->dirs[1] = dir(e, "c/d/y");
	img->controllers[0]->n_dirs = 2;
	add_task(e, 10, 1, 2);
	add_task(e, 11, 10, 3);
	add_task(e, 12, 11, 0);
	add_task(e, 13, 10, 1);
}

static void taken(struct env *e)
{
	if (cg_take_image(&e->op, &e->s) != 0)
		fail_msg("%s", ckpt_err_message(e->op.err));
}

static const char *place(struct env *e, size_t task, const char *hier)
{
	const struct cg_place *p = cg_place_in(cg_set_of(&e->s, task, 0), cg_hier(e->st, hier));

	return p ? p->path : NULL;
}

static void an_image(void **state)
{
	struct env *e = *state;

	make_image(e, 0);
	taken(e);
	assert_string_equal(place(e, 0, "cpu,cpuacct"), "/c/d/x");
	assert_string_equal(place(e, 1, "cpu,cpuacct"), "/c/d/y");
	assert_string_equal(place(e, 2, "cpu,cpuacct"), "/c/d/y"); /* as its parent */
	assert_null(place(e, 3, "cpu,cpuacct"));		     /* as the dumper: with the restorer */
	assert_null(place(e, 0, "name=systemd"));
	assert_int_equal(e->st->dirs.n, 3);
	assert_string_equal(e->st->dirs.v[1].path, "/c/d/x/below");
}

static void other_roots(void **state)
{
	struct env *e = *state;
	const char *v[] = { "cpu:/new/", ":/" };

	e->opts.cgroup_root = (struct ckpt_strv){ .v = v, .n = 2 };
	make_image(e, 0);
	taken(e);
	assert_string_equal(place(e, 0, "cpu,cpuacct"), "/new/x");
	assert_string_equal(place(e, 1, "cpu,cpuacct"), "/new/y");
	assert_string_equal(place(e, 0, ""), "/");
	assert_string_equal(e->st->dirs.v[1].path, "/new/x/below");
}

/* The root of the namespace is what is replaced. */
static void other_namespace_roots(void **state)
{
	struct env *e = *state;
	const struct cg_place *p;
	const char *v[] = { "/n" };

	e->opts.cgroup_root = (struct ckpt_strv){ .v = v, .n = 1 };
	make_image(e, 2);
	taken(e);
	p = cg_place_in(cg_set_of(&e->s, 0, 0), cg_hier(e->st, "cpu,cpuacct"));
	assert_string_equal(p->path, "/n/d/x");
	assert_int_equal(p->ns, 2);
}

static void refused(struct env *e, int code, const char *word)
{
	assert_int_equal(cg_take_image(&e->op, &e->s), code);
	assert_non_null(strstr(ckpt_err_message(e->op.err), word));
}

static void unknown_set(void **state)
{
	make_image(*state, 0);
	add_task(*state, 14, 10, 9);
	refused(*state, CKPT_E_IMAGE, "the set 9");
}

static void unknown_hierarchy(void **state)
{
	struct env *e = *state;

	make_image(e, 0);
	e->st->img->sets[1]->ctls[0]->name = "martian";
	refused(e, CKPT_E_UNSUPPORTED, "martian");
}

/* Its root is where everybody is who is not in it. */
static void unknown_hierarchy_unused(void **state)
{
	struct env *e = *state;

	make_image(e, 0);
	e->st->img->sets[0]->ctls[1] = member(e, "martian", "/", 0);
	e->st->img->sets[1]->ctls[1] = member(e, "martian", "/", 0);
	taken(e);
	assert_null(place(e, 0, ""));
}

static void bad_path(void **state)
{
	struct env *e = *state;

	make_image(e, 0);
	e->st->img->sets[1]->ctls[0]->path = "/c/../..";
	refused(e, CKPT_E_IMAGE, "/c/../..");
}

static void bad_prefix(void **state)
{
	make_image(*state, 3);
	refused(*state, CKPT_E_IMAGE, "cgroup namespace");
}

static void bad_folder(void **state)
{
	struct env *e = *state;

	make_image(e, 0);
	e->st->img->controllers[0]->dirs[0]->children[0]->dir_name = "a/b";
	refused(e, CKPT_E_IMAGE, "name of a folder");
}

static void no_image(void **state)
{
	struct env *e = *state;

	add_task(e, 10, 1, 1);
	taken(e);
	add_task(e, 11, 1, 2);
	refused(e, CKPT_E_IMAGE, "the set 2");
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(prop_lists), T(bad_prop_lists), T(values), T(paths), T(root_options), T(an_image), T(other_roots),
		T(other_namespace_roots), T(unknown_set), T(unknown_hierarchy), T(unknown_hierarchy_unused), T(bad_path),
		T(bad_prefix), T(bad_folder), T(no_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
