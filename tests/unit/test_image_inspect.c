// SPDX-License-Identifier: MIT
/* Inspection: a small checkpoint made here, the reference sets where they are at hand, and damaged folders. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <json-c/json.h>
#include <libgen.h>

#include "lib/engine/inspect.h"
#include "lib/image/image.h"

struct env {
	char path[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
};

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	strcpy(e->path, "test-inspect-XXXXXX");
	if (!mkdtemp(e->path))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->path;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	*state = e;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct env *e = *state;

	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	nftw(e->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

static void ok(struct env *e, int r)
{
	if (r < 0)
		fail_msg("%s", ckpt_err_message(e->op.err));
}

/* A task with one area of two pages, a zombie child, a file with a name that is not UTF-8. */
static void make_checkpoint(struct env *e)
{
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	InventoryEntry inv = INVENTORY_ENTRY__INIT;
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	MmEntry mm = MM_ENTRY__INIT;
	FsEntry fs = FS_ENTRY__INIT;
	VmaEntry vma = VMA_ENTRY__INIT, *vmas = &vma;
	PagemapHead head = PAGEMAP_HEAD__INIT;
	PagemapEntry pages = PAGEMAP_ENTRY__INIT;
	FileEntry file = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;
	FdinfoEntry fd = FDINFO_ENTRY__INIT;
	struct op *op = &e->op;
	struct pages_out *po;
	struct img_out *out;
	struct img_dir *dir;
	uint32_t tid = 10;
	size_t cap;
	void *buf;

	ok(e, img_dir_create(op, &dir));
	inv.img_version = 2;
	inv.has_fdinfo_per_id = inv.fdinfo_per_id = true;
	inv.root_ids = &ids;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	tc.comm = "sleeper";
	tc.task_state = 1;
	ok(e, img_write_one(op, dir, IMG_CORE, 10, &core.base));
	tc.task_state = 2;
	ok(e, img_write_one(op, dir, IMG_CORE, 11, &core.base));

	ok(e, img_create(op, dir, IMG_PSTREE, 0, &out));
	ps.pid = 10;
	ps.threads = &tid;
	ps.n_threads = 1;
	ok(e, img_write(op, out, &ps.base));
	ps.pid = 11;
	ps.ppid = 10;
	ok(e, img_write(op, out, &ps.base));
	ok(e, img_close(op, out));

	vma.start = 0x10000;
	vma.end = 0x12000;
	vma.status = 0x221;
	mm.vmas = &vmas;
	mm.n_vmas = 1;
	mm.mm_arg_start = 0x10000;
	mm.mm_arg_end = 0x1000a;
	mm.exe_file_id = fs.cwd_id = fs.root_id = 1;
	ids.files_id = 2;
	ok(e, img_write_one(op, dir, IMG_MM, 10, &mm.base));
	ok(e, img_write_one(op, dir, IMG_FS, 10, &fs.base));
	ok(e, img_write_one(op, dir, IMG_IDS, 10, &ids.base));

	ok(e, img_create(op, dir, IMG_PAGEMAP, 10, &out));
	head.pages_id = 1;
	ok(e, img_write(op, out, &head.base));
	pages.vaddr = 0x10000;
	pages.has_nr_pages = pages.has_flags = true;
	pages.nr_pages = 2;
	pages.flags = 4;
	ok(e, img_write(op, out, &pages.base));
	ok(e, img_close(op, out));
	ok(e, pages_create(op, dir, 1, 8192, &po));
	ok(e, pages_buffer(op, po, &buf, &cap));
	memset(buf, 0, 8192);
	memcpy(buf, "sleep\0one", 10);
	ok(e, pages_submit(op, po, 8192));
	ok(e, pages_close(op, po));

	file.type = fd.type = FD_TYPES__REG;
	file.id = reg.id = fd.id = 1;
	file.reg = &reg;
	reg.fown = &fown;
	reg.name = "/caf\xe9";
	ok(e, img_write_one(op, dir, IMG_FILES, 0, &file.base));
	ok(e, img_write_one(op, dir, IMG_FDINFO, 2, &fd.base));
	ok(e, img_dir_commit(op, dir, &inv));
	img_dir_close(dir);
}

static json_object *get(json_object *o, const char *key)
{
	json_object *v = NULL;

	if (!json_object_object_get_ex(o, key, &v))
		fail_msg("no \"%s\"", key);
	return v;
}

static void describes_a_checkpoint(void **state)
{
	struct env *e = *state;
	json_object *top, *task;
	char *json;

	make_checkpoint(e);
	ok(e, inspect_run(&e->op, &json));
	top = json_tokener_parse(json);
	assert_non_null(top);
	free(json);
	assert_int_equal(json_object_array_length(get(top, "tasks")), 2);
	task = json_object_array_get_idx(get(top, "tasks"), 0);
	assert_string_equal(json_object_get_string(get(task, "cmdline")), "sleep one");
	assert_string_equal(json_object_get_string(get(task, "exe")), "/caf\xef\xbf\xbd");
	assert_string_equal(json_object_get_string(get(task, "state")), "running");
	assert_int_equal(json_object_get_int(get(get(get(task, "memory"), "kinds"), "heap")), 8192);
	assert_int_equal(json_object_get_int(get(get(get(task, "memory"), "pages"), "stored")), 2);
	assert_int_equal(json_object_array_length(get(task, "descriptors")), 1);
	task = json_object_array_get_idx(get(top, "tasks"), 1);
	assert_string_equal(json_object_get_string(get(task, "state")), "zombie");
	json_object_put(top);
}

/* Without any one of its images, or with it cut short, a checkpoint is refused. */
static void refuses_damage(void **state)
{
	static const char *const names[] = { "inventory.img", "pstree.img", "core-10.img", "core-11.img", "mm-10.img",
					     "fs-10.img", "ids-10.img", "pages-1.img" };
	struct env *e = *state;
	char *json, *path, *aside = arena_printf(e->op.arena, "%s/aside", e->path);

	make_checkpoint(e);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		path = arena_printf(e->op.arena, "%s/%s", e->path, names[i]);
		assert_int_equal(rename(path, aside), 0);
		assert_int_equal(inspect_run(&e->op, &json), CKPT_E_IMAGE);
		op_forget(&e->op);
		close(open(path, O_CREAT | O_WRONLY, 0600));
		assert_int_equal(inspect_run(&e->op, &json), CKPT_E_IMAGE);
		if (!strstr(ckpt_err_message(e->op.err), names[i]))
			fail_msg("\"%s\" does not name %s", ckpt_err_message(e->op.err), names[i]);
		op_forget(&e->op);
		assert_int_equal(rename(aside, path), 0);
	}
	ok(e, inspect_run(&e->op, &json));
	free(json);
}

static void reference_sets(void **state)
{
	const char *shared = getenv("CKPT_SHARED") ? getenv("CKPT_SHARED") : CKPT_SOURCE_DIR "/../shared";
	struct env *e = *state;
	glob_t sets;

	if (glob(arena_printf(e->op.arena, "%s/golden/images/*/img/inventory.img", shared), 0, NULL, &sets) != 0) {
		print_message("skipped: no reference sets in %s (CKPT_SHARED names their folder)\n", shared);
		skip();
	}
	for (size_t i = 0; i < sets.gl_pathc; i++) {
		json_object *top;
		char *json;

		e->opts.images_dir = dirname(sets.gl_pathv[i]);
		ok(e, inspect_run(&e->op, &json));
		top = json_tokener_parse(json);
		assert_non_null(top);
		assert_true(json_object_array_length(get(top, "tasks")) > 0);
		json_object_put(top);
		free(json);
	}
	globfree(&sets);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { T(describes_a_checkpoint), T(refuses_damage), T(reference_sets) };

	return cmocka_run_group_tests_name("inspect", tests, NULL, NULL);
}
