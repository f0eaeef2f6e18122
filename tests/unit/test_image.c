// SPDX-License-Identifier: MIT
/*
 * The image folder: what is written comes back, what is damaged is refused with file and offset, a folder becomes a
 * checkpoint at the commit and nothing remains of an aborted one. Reference sets of another engine, where they are at
 * hand (CKPT_SHARED, or ../shared beside the sources), are read and packed again byte for byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <libgen.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/image/image.h"
#include "lib/image/pages_sink.h"

/* ---- a folder and an operation on it */

struct env {
	char path[64];
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	struct op op;
};

static void op_start(struct env *e)
{
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	assert_non_null(e->op.arena);
}

static void op_end(struct env *e)
{
	arena_free(e->op.arena);
	ckpt_err_free(e->op.err);
	e->op.err = NULL;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));

	if (!e)
		return -1;
	strcpy(e->path, "test-image-XXXXXX");
	if (!mkdtemp(e->path))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->path;
	op_start(e);
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

	op_end(e);
	nftw(e->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(e);
	return 0;
}

static void assert_code(struct env *e, int r, int code, const char *part)
{
	if (r != code || !e->op.err || !strstr(ckpt_err_message(e->op.err), part))
		fail_msg("code %d (want %d), message \"%s\" (want \"%s\" in it)", r, code,
			 ckpt_err_message(e->op.err) ? ckpt_err_message(e->op.err) : "", part);
	op_forget(&e->op);
}

static char *in_folder(struct env *e, const char *name)
{
	return arena_printf(e->op.arena, "%s/%s", e->path, name);
}

static size_t count_files(struct env *e)
{
	DIR *d = opendir(e->path);
	size_t n = 0;

	while (d && readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static void put_file(struct env *e, const char *name, const void *p, size_t n)
{
	FILE *f = fopen(in_folder(e, name), "w");

	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	fclose(f);
}

static uint8_t *get_file(struct env *e, const char *path, size_t *n)
{
	_cleanup_close_ int fd = open(path, O_RDONLY);
	struct stat st;
	uint8_t *p;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	p = arena_alloc(e->op.arena, st.st_size);
	assert_int_equal(read(fd, p, st.st_size), st.st_size);
	*n = st.st_size;
	return p;
}

static TaskKobjIdsEntry some_ids = TASK_KOBJ_IDS_ENTRY__INIT;

static InventoryEntry inventory(void)
{
	InventoryEntry inv = INVENTORY_ENTRY__INIT;

	inv.img_version = 2;
	inv.has_fdinfo_per_id = inv.fdinfo_per_id = true;
	inv.root_ids = &some_ids;
	return inv;
}

static struct img_dir *create(struct env *e)
{
	struct img_dir *dir = NULL;
	int r = img_dir_create(&e->op, &dir);

	if (r < 0)
		fail_msg("%s", ckpt_err_message(e->op.err));
	return dir;
}

static void commit(struct env *e, struct img_dir *dir)
{
	InventoryEntry inv = inventory();

	if (img_dir_commit(&e->op, dir, &inv) < 0)
		fail_msg("%s", ckpt_err_message(e->op.err));
}

/* ---- a message of any type with every field set */

static void *fill_message(struct arena *a, const ProtobufCMessageDescriptor *type, int depth);

static void fill_value(struct arena *a, const ProtobufCFieldDescriptor *f, void *at, int depth)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_STRING:
		*(char **)at = arena_strdup(a, f->name);
		break;
	case PROTOBUF_C_TYPE_BYTES:
		*(ProtobufCBinaryData *)at = (ProtobufCBinaryData){ strlen(f->name), (uint8_t *)arena_strdup(a, f->name) };
		break;
	case PROTOBUF_C_TYPE_MESSAGE:
		*(void **)at = fill_message(a, f->descriptor, depth + 1);
		break;
	case PROTOBUF_C_TYPE_BOOL:
		*(protobuf_c_boolean *)at = 1;
		break;
	case PROTOBUF_C_TYPE_ENUM:
		*(int *)at = ((const ProtobufCEnumDescriptor *)f->descriptor)->values[0].value;
		break;
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		*(uint64_t *)at = 0xfedcba9876543210ull + f->id;
		break;
	default:
		*(uint32_t *)at = 0x80000000u + f->id;
	}
}

static size_t value_size(const ProtobufCFieldDescriptor *f)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_BYTES:
		return sizeof(ProtobufCBinaryData);
	case PROTOBUF_C_TYPE_BOOL:
		return sizeof(protobuf_c_boolean);
	case PROTOBUF_C_TYPE_STRING:
	case PROTOBUF_C_TYPE_MESSAGE:
	case PROTOBUF_C_TYPE_UINT64:
	case PROTOBUF_C_TYPE_INT64:
	case PROTOBUF_C_TYPE_SINT64:
	case PROTOBUF_C_TYPE_FIXED64:
		return 8;
	default:
		return 4;
	}
}

static void *fill_message(struct arena *a, const ProtobufCMessageDescriptor *type, int depth)
{
	char *m = arena_alloc(a, type->sizeof_message);

	protobuf_c_message_init(type, m);
	for (unsigned i = 0; i < type->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &type->fields[i];
		size_t n = value_size(f);

		if (f->type == PROTOBUF_C_TYPE_MESSAGE && depth > 6 && f->label != PROTOBUF_C_LABEL_REQUIRED)
			continue;
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			char *v = arena_alloc(a, 2 * n);

			fill_value(a, f, v, depth);
			fill_value(a, f, v + n, depth);
			*(char **)(m + f->offset) = v;
			*(size_t *)(m + f->quantifier_offset) = 2;
			continue;
		}
		fill_value(a, f, m + f->offset, depth);
		if (f->label == PROTOBUF_C_LABEL_OPTIONAL && f->type != PROTOBUF_C_TYPE_STRING &&
		    f->type != PROTOBUF_C_TYPE_MESSAGE)
			*(protobuf_c_boolean *)(m + f->quantifier_offset) = 1;
	}
	return m;
}

static void assert_same(struct env *e, const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t n = protobuf_c_message_get_packed_size(a);
	uint8_t *pa = arena_alloc(e->op.arena, n), *pb = arena_alloc(e->op.arena, n);

	assert_int_equal(n, protobuf_c_message_get_packed_size(b));
	protobuf_c_message_pack(a, pa);
	protobuf_c_message_pack(b, pb);
	assert_memory_equal(pa, pb, n);
}

/* ---- tests */

static void round_trip_of_every_kind(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	ProtobufCMessage *want[IMG_N_KINDS][2] = { 0 }, *got;

	for (int k = 0; k < IMG_N_KINDS; k++) {
		const struct img_kind_info *info = img_kind_info(k);
		struct img_out *out;

		if (!info->first || k == IMG_INVENTORY || k == IMG_SUMS) /* the last two are the commit's */
			continue;
		want[k][0] = fill_message(e->op.arena, info->first, 0);
		want[k][1] = info->rest ? fill_message(e->op.arena, info->rest, 0) : NULL;
		assert_int_equal(img_create(&e->op, dir, k, 26, &out), 0);
		assert_int_equal(img_write(&e->op, out, want[k][0]), 0);
		for (int i = 0; want[k][1] && i < 3; i++)
			assert_int_equal(img_write(&e->op, out, want[k][1]), 0);
		assert_int_equal(img_close(&e->op, out), 0);
	}
	commit(e, dir);
	for (int k = 0; k < IMG_N_KINDS; k++) {
		struct img_in *in;

		if (!want[k][0])
			continue;
		assert_int_equal(img_open(&e->op, dir, k, 26, &in), 0);
		assert_int_equal(img_read(&e->op, in, &got), 0);
		assert_same(e, want[k][0], got);
		for (int i = 0; want[k][1] && i < 3; i++) {
			assert_int_equal(img_read(&e->op, in, &got), 0);
			assert_same(e, want[k][1], got);
		}
		assert_int_equal(img_read(&e->op, in, &got), IMG_END);
		img_in_close(in);
	}
	assert_int_equal(access(in_folder(e, "ghost-file-1a.img"), F_OK), 0);
	assert_int_equal(access(in_folder(e, "core-26.img"), F_OK), 0);
	img_dir_close(dir);
}

static void payloads(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	PipeDataEntry pd = PIPE_DATA_ENTRY__INIT;
	const size_t sizes[] = { 0, 1, 4096, 70000, 300000 };
	char *bytes = arena_alloc(e->op.arena, 300000);
	ProtobufCMessage *msg;
	struct img_out *out;
	struct img_in *in;
	uint64_t off, len;
	void *p;
	int fd;

	for (int i = 0; i < 300000; i++)
		bytes[i] = i * 7;
	assert_int_equal(img_create(&e->op, dir, IMG_PIPES_DATA, 0, &out), 0);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		pd.bytes = sizes[i];
		assert_int_equal(img_write(&e->op, out, &pd.base), 0);
		assert_int_equal(img_write_payload(&e->op, out, bytes, sizes[i]), 0);
	}
	assert_int_equal(img_close(&e->op, out), 0);
	assert_int_equal(img_open(&e->op, dir, IMG_PIPES_DATA, 0, &in), 0);
	for (size_t i = 0; i + 1 < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(img_read(&e->op, in, &msg), 0);
		assert_int_equal(((PipeDataEntry *)msg)->bytes, sizes[i]);
		assert_int_equal(img_read_payload(&e->op, in, sizes[i], &p), 0);
		assert_memory_equal(p, bytes, sizes[i]);
	}
	assert_int_equal(img_read(&e->op, in, &msg), 0);
	assert_int_equal(img_rest(&e->op, in, &fd, &off, &len), 0);
	assert_int_equal(len, 300000);
	assert_int_equal(pread(fd, arena_alloc(e->op.arena, len), len, off), len);
	close(fd);
	assert_code(e, img_read_payload(&e->op, in, 300001, &p), CKPT_E_IMAGE, "pipes-data.img");
	assert_code(e, img_read_payload(&e->op, in, SIZE_MAX, &p), CKPT_E_IMAGE, "pipes-data.img");
	img_in_close(in);
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
}

static int read_all(struct env *e, struct img_dir *dir, enum img_kind kind)
{
	ProtobufCMessage *msg;
	struct img_in *in;
	int r = img_open(&e->op, dir, kind, 0, &in);

	if (r != 0)
		return r;
	do
		r = img_read(&e->op, in, &msg);
	while (r == 0);
	img_in_close(in);
	return r;
}

static void truncation_at_every_byte(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	size_t n, ends[4], n_ends = 0, at = 8;
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	struct img_out *out;
	uint8_t *bytes;
	uint32_t threads[2] = { 700, 70000 };

	ps.threads = threads;
	ps.n_threads = 2;
	assert_int_equal(img_create(&e->op, dir, IMG_PSTREE, 0, &out), 0);
	for (int i = 0; i < 3; i++) {
		ends[n_ends++] = at;
		assert_int_equal(img_write(&e->op, out, &ps.base), 0);
		at += 4 + protobuf_c_message_get_packed_size(&ps.base);
	}
	assert_int_equal(img_close(&e->op, out), 0);
	bytes = get_file(e, in_folder(e, "pstree.img"), &n);
	assert_int_equal(n, at);
	for (size_t cut = 0; cut < n; cut++) {
		bool boundary = false;

		for (size_t i = 0; i < n_ends; i++)
			boundary |= cut == ends[i];
		put_file(e, "pstree.img", bytes, cut);
		if (boundary)
			assert_int_equal(read_all(e, dir, IMG_PSTREE), IMG_END);
		else
			assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "pstree.img");
	}
	for (size_t i = 0; i < n; i++) { /* any other damage: an error or not, but never a crash */
		for (int v = 0; v < 256; v += 5) {
			uint8_t keep = bytes[i];

			bytes[i] = v;
			put_file(e, "pstree.img", bytes, n);
			read_all(e, dir, IMG_PSTREE);
			op_forget(&e->op);
			bytes[i] = keep;
		}
	}
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
}

static void bad_heads(void **state)
{
	static const uint32_t wrong_head[] = { 0x55105940, 0x50273030 }, wrong_magic[] = { 0x54564319, 0x55053847 };
	static const uint32_t lack[] = { 0x54564319, 0x50273030, 2, 0x08 };
	static const uint32_t huge[] = { 0x54564319, 0x50273030, 0xffffffff };
	struct env *e = *state;
	struct img_dir *dir = create(e);

	assert_int_equal(read_all(e, dir, IMG_PSTREE), IMG_ABSENT);
	put_file(e, "pstree.img", "", 0);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "empty");
	put_file(e, "pstree.img", wrong_head, 8);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "offset 0");
	put_file(e, "pstree.img", wrong_magic, 8);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "another kind");
	put_file(e, "pstree.img", lack, 14);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "offset 12");
	put_file(e, "pstree.img", huge, 12);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "offset 8");
	unlink(in_folder(e, "pstree.img"));
	assert_int_equal(mkfifo(in_folder(e, "pstree.img"), 0600), 0);
	assert_code(e, read_all(e, dir, IMG_PSTREE), CKPT_E_IMAGE, "regular file");
	img_dir_close(dir);
}

/* A cgroup directory in a directory in a directory ...: the unpacker must not be sent down there. */
static void deep_nesting(void **state)
{
	enum { DEPTH = 100000, ROOM = DEPTH * 6 };
	struct env *e = *state;
	struct img_dir *dir = create(e);
	uint8_t *buf = arena_alloc(e->op.arena, ROOM), *p = buf + ROOM;
	const uint32_t head[] = { 0x54564319, 0x59383330 };
	uint32_t len;

	for (int i = 0; i < DEPTH; i++) {
		size_t n = buf + ROOM - p;
		uint8_t varint[5];
		int k = 0;

		do
			varint[k++] = (n & 0x7f) | (n > 0x7f ? 0x80 : 0);
		while (n >>= 7);
		p -= k;
		memcpy(p, varint, k);
		*--p = 2 << 3 | 2; /* children, dirs and controllers all have number 2 */
	}
	len = buf + ROOM - p;
	p -= 4;
	memcpy(p, &len, 4);
	p -= 8;
	memcpy(p, head, 8);
	put_file(e, "cgroup.img", p, buf + ROOM - p);
	assert_code(e, read_all(e, dir, IMG_CGROUP), CKPT_E_IMAGE, "nested");
	img_dir_close(dir);
}

static void commit_makes_a_checkpoint(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e), *other;
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	InventoryEntry *inv;
	struct stat st;

	put_file(e, "core-1.img", "left over", 9);
	put_file(e, "tty-info.img", "left over", 9);
	put_file(e, "notes.txt", "mine", 4);
	put_file(e, "disk.img", "mine too", 8);
	assert_int_equal(img_write_one(&e->op, dir, IMG_PSTREE, 0, &ps.base), 0);
	assert_int_equal(img_write_one(&e->op, dir, IMG_CORE, 1, fill_message(e->op.arena, &core_entry__descriptor, 0)), 0);
	assert_code(e, img_dir_open(&e->op, &other, &inv), CKPT_E_IMAGE, "not a checkpoint");
	assert_code(e, img_dir_create(&e->op, &other), CKPT_E_BUSY, "another dump");
	commit(e, dir);
	assert_int_equal(count_files(e), 6); /* with ckpt-sums */
	assert_int_equal(stat(in_folder(e, "core-1.img"), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_true(st.st_size > 9);
	img_dir_close(dir);

	assert_int_equal(img_dir_open(&e->op, &dir, &inv), 0);
	assert_int_equal(inv->img_version, 2);
	img_dir_close(dir);
	assert_code(e, img_dir_create(&e->op, &dir), CKPT_E_EXISTS, "already holds a checkpoint");
}

static void abort_leaves_nothing(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	struct pages_out *pages;
	struct img_out *out;
	size_t cap;
	void *buf;

	for (int i = 1; i < 400; i++) /* more than are kept open */
		assert_int_equal(img_write_one(&e->op, dir, IMG_FS, i, fill_message(e->op.arena, &fs_entry__descriptor, 0)), 0);
	assert_int_equal(img_create(&e->op, dir, IMG_PSTREE, 0, &out), 0);
	assert_int_equal(img_write(&e->op, out, &ps.base), 0);
	assert_int_equal(pages_create(&e->op, dir, 1, 4 << 20, &pages), 0);
	assert_int_equal(pages_buffer(&e->op, pages, &buf, &cap), 0);
	assert_int_equal(pages_submit(&e->op, pages, cap), 0);
	assert_int_equal(pages_buffer(&e->op, pages, &buf, &cap), 0);
	img_dir_abort(&e->op, dir);
	assert_int_equal(count_files(e), 0);
	img_dir_close(dir);

	dir = create(e); /* the same after a commit */
	for (int i = 1; i < 400; i++)
		assert_int_equal(img_write_one(&e->op, dir, IMG_FS, i, fill_message(e->op.arena, &fs_entry__descriptor, 0)), 0);
	commit(e, dir);
	assert_int_equal(count_files(e), 401);
	img_dir_abort(&e->op, dir);
	assert_int_equal(count_files(e), 0);
	img_dir_close(dir);
}

static void no_images_without_content(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	struct img_out *out;

	assert_int_equal(img_create(&e->op, dir, IMG_FILE_LOCKS, 0, &out), 0);
	assert_int_equal(img_close(&e->op, out), 0);
	assert_int_equal(count_files(e), 0);
	assert_int_equal(img_create(&e->op, dir, IMG_FILE_LOCKS, 0, &out), 0);
	assert_int_equal(img_touch(&e->op, out), 0);
	assert_int_equal(img_close(&e->op, out), 0);
	assert_int_equal(count_files(e), 1);
	assert_int_equal(img_close(&e->op, NULL), 0);
	assert_code(e, img_write_one(&e->op, dir, IMG_FILE_LOCKS, 0, fill_message(e->op.arena, &file_lock_entry__descriptor, 0)),
		    CKPT_E_INTERNAL, "twice");
	img_dir_close(dir);
}

static void bad_inventories(void **state)
{
	struct env *e = *state;
	InventoryEntry inv = inventory(), *got;
	PluginsEntry plugins = PLUGINS_ENTRY__INIT;
	char *names[] = { "gpu" };
	struct img_dir *dir;
	_cleanup_close_ int fd = open(e->path, O_RDONLY | O_DIRECTORY);

	inv.img_version = 1;
	assert_int_equal(img_write_at(&e->op, fd, IMG_INVENTORY, 0, &inv.base), 0);
	assert_code(e, img_dir_open(&e->op, &dir, &got), CKPT_E_IMAGE, "version 1");
	inv.img_version = 2;
	inv.fdinfo_per_id = false;
	assert_int_equal(img_write_at(&e->op, fd, IMG_INVENTORY, 0, &inv.base), 0);
	assert_code(e, img_dir_open(&e->op, &dir, &got), CKPT_E_IMAGE, "fdinfo_per_id");
	inv = inventory();
	inv.root_ids = NULL;
	assert_int_equal(img_write_at(&e->op, fd, IMG_INVENTORY, 0, &inv.base), 0);
	assert_code(e, img_dir_open(&e->op, &dir, &got), CKPT_E_IMAGE, "root_ids");
	inv = inventory();
	inv.plugins_entry = &plugins;
	assert_int_equal(img_write_at(&e->op, fd, IMG_INVENTORY, 0, &inv.base), 0);
	assert_int_equal(img_dir_open(&e->op, &dir, &got), 0);
	img_dir_close(dir);
	plugins.plugins = names;
	plugins.n_plugins = 1;
	assert_int_equal(img_write_at(&e->op, fd, IMG_INVENTORY, 0, &inv.base), 0);
	assert_code(e, img_dir_open(&e->op, &dir, &got), CKPT_E_UNSUPPORTED, "gpu");
	e->opts.images_dir = "no-such-folder";
	assert_code(e, img_dir_open(&e->op, &dir, &got), CKPT_E_SYS, "no-such-folder");
	assert_code(e, img_dir_create(&e->op, &dir), CKPT_E_SYS, "no-such-folder");
}

/* ---- pages */

static int try_pages(struct env *e, struct img_dir *dir, uint32_t id, size_t bytes, size_t chunk,
		     bool open_end)
{
	struct pages_out *out;
	size_t cap, n;
	void *buf;
	int r = open_end ? pages_create_open_end(&e->op, dir, id, &out) : pages_create(&e->op, dir, id, bytes, &out);

	for (size_t done = 0; r == 0 && done < bytes; done += n) {
		r = pages_buffer(&e->op, out, &buf, &cap);
		if (r < 0)
			return r;
		n = MIN(MIN(cap, chunk), bytes - done);
		for (size_t i = 0; i < n; i += 8)
			*(uint64_t *)((char *)buf + i) = (done + i) * 0x9e3779b97f4a7c15ull + id;
		r = pages_submit(&e->op, out, n);
	}
	return r < 0 ? r : pages_close(&e->op, out);
}

static void check_pages(struct env *e, struct img_dir *dir, uint32_t id, size_t bytes)
{
	_cleanup_free_ uint64_t *p = malloc(bytes + 1);
	uint64_t size;
	int fd;

	assert_int_equal(img_open_pages(&e->op, dir, id, &fd, &size), 0);
	assert_int_equal(size, bytes);
	assert_int_equal(pread(fd, p, bytes, 0), bytes);
	for (size_t i = 0; i < bytes / 8; i++)
		if (p[i] != i * 8 * 0x9e3779b97f4a7c15ull + id)
			fail_msg("pages-%u differ at %zu", id, i * 8);
	close(fd);
}

static void pages_of_many_sizes(struct env *e, bool open_end)
{
	static const size_t sizes[] = { 0, 4096, 252 << 10, 256 << 10, 1 << 20, (9 << 20) + 4096, 40 << 20 };
	struct img_dir *dir = create(e);
	uint64_t size;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		if (try_pages(e, dir, i + 1, sizes[i], i == 4 ? 4096 : SIZE_MAX, open_end) < 0)
			fail_msg("%s", ckpt_err_message(e->op.err));
	commit(e, dir);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
		check_pages(e, dir, i + 1, sizes[i]);
	assert_int_equal(img_open_pages(&e->op, dir, 99, &fd, &size), IMG_ABSENT);
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
}

static void pages_round_trip(void **state)
{
	pages_of_many_sizes(*state, false);
}

/* Somebody else decides how much it will be. */
static void pages_with_an_open_end(void **state)
{
	pages_of_many_sizes(*state, true);
}

static void pages_wrong_amount(void **state)
{
	struct env *e = *state;
	struct img_dir *dir = create(e);
	struct pages_out *out;
	size_t cap;
	void *buf;

	assert_int_equal(pages_create(&e->op, dir, 1, 8192, &out), 0);
	assert_int_equal(pages_buffer(&e->op, out, &buf, &cap), 0);
	assert_true(cap >= 256 << 10 && (uintptr_t)buf % 4096 == 0);
	assert_code(e, pages_submit(&e->op, out, 12288), CKPT_E_INTERNAL, "pages-1.img");
	assert_int_equal(pages_submit(&e->op, out, 4096), 0);
	assert_code(e, pages_close(&e->op, out), CKPT_E_INTERNAL, "4096 of 8192");
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
	assert_int_equal(count_files(e), 0);
}

/* Many images one after the other: none waits for the one before, and all are there in the end. */
static void pages_in_turns(void **state)
{
	static const size_t sizes[] = { 4096, 1 << 20, 248 << 10, (3 << 20) + 4096 };
	struct env *e = *state;
	struct img_dir *dir = create(e);
	const uint32_t n = 200; /* more than stay open */

	for (uint32_t i = 1; i <= n; i++)
		assert_int_equal(try_pages(e, dir, i, sizes[i % ARRAY_SIZE(sizes)], SIZE_MAX, false), 0);
	assert_int_equal(pages_settle(&e->op, dir), 0);
	for (uint32_t i = 1; i <= n; i++)
		check_pages(e, dir, i, sizes[i % ARRAY_SIZE(sizes)]);
	commit(e, dir);
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
	assert_int_equal(count_files(e), 0);
}

/*
 * An image that cannot be written to its end (here: a limit on the size of files) is named, whoever asks: the next image, the
 * wait for all, or the commit; and nothing stays in the folder.
 */
static void late_failure(void **state)
{
	struct env *e = *state;
	const struct rlimit small = { 8 << 20, RLIM_INFINITY }, all = { RLIM_INFINITY, RLIM_INFINITY };
	InventoryEntry inv = inventory();
	struct img_dir *dir = create(e);
	struct pages_out *out;
	size_t cap;
	void *buf;
	int r = 0;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(pages_create(&e->op, dir, 7, 9 << 20, &out), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	for (size_t done = 0; r == 0 && done < 9 << 20; done += cap) {
		r = pages_buffer(&e->op, out, &buf, &cap);
		r = r ?: pages_submit(&e->op, out, cap);
	}
	r = r ?: pages_close(&e->op, out);
	r = r ?: try_pages(e, dir, 8, 1 << 20, SIZE_MAX, false);
	assert_code(e, r ?: img_dir_commit(&e->op, dir, &inv), CKPT_E_SYS, "pages-7.img");
	assert_code(e, img_dir_commit(&e->op, dir, &inv), CKPT_E_SYS, "pages-7.img"); /* and stays so */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &all), 0);
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
	assert_int_equal(count_files(e), 0);
}

/* In a child that may not use io_uring, as containers forbid it. */
static int warned;

static void count_warnings(void *arg, enum ckpt_log_level level, const char *text)
{
	(void)arg;
	warned += level == CKPT_LOG_WARN && strstr(text, "io_uring is not available") != NULL;
}

static void pages_without_io_uring(void **state)
{
	struct env *e = *state;
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
			_exit(1);
		e->op.log = (struct log_sink){ count_warnings, NULL, CKPT_LOG_WARN };
		pages_of_many_sizes(*state, false);
		pages_of_many_sizes(*state, true);
		if (warned != 2) /* once for each folder */
			_exit(2);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void full_disk(void **state)
{
	struct env *e = *state;
	struct img_dir *dir;
	uint64_t space = 0;
	struct img_out *out;
	char *bytes = arena_alloc(e->op.arena, 2 << 20);

	/* In a mount namespace of our own: nothing stays mounted, whatever happens. */
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("test-image", e->path, "tmpfs", 0, "size=1m") < 0) {
		print_message("skipped: cannot mount a tmpfs: %s\n", strerror(errno));
		skip();
	}
	dir = create(e);
	assert_int_equal(img_dir_space(&e->op, dir, &space), 0);
	assert_true(space > 0 && space <= 1 << 20);
	assert_code(e, try_pages(e, dir, 1, 2 << 20, SIZE_MAX, false), CKPT_E_NOSPACE, "pages-1.img");
	assert_code(e, try_pages(e, dir, 2, 2 << 20, SIZE_MAX, true), CKPT_E_NOSPACE, "pages-2.img");
	assert_int_equal(img_create(&e->op, dir, IMG_PIPES_DATA, 0, &out), 0);
	assert_code(e, img_write_payload(&e->op, out, bytes, 2 << 20), CKPT_E_NOSPACE, "pipes-data.img");
	assert_code(e, img_close(&e->op, out) < 0 ? CKPT_E_NOSPACE : op_fail(&e->op, CKPT_E_NOSPACE, NULL, "flushed"),
		    CKPT_E_NOSPACE, "");
	img_dir_abort(&e->op, dir);
	assert_int_equal(count_files(e), 0);
	img_dir_close(dir);
	umount2(e->path, MNT_DETACH);
}

/* ---- the reference sets */

static const char *shared_folder(void)
{
	const char *env = getenv("CKPT_SHARED");

	return env ? env : CKPT_SOURCE_DIR "/../shared";
}

static int kind_of(const char *name, uint64_t *id)
{
	char pattern[64], made[64];

	for (int k = 0; k < IMG_N_KINDS; k++) {
		const char *p = img_kind_info(k)->pattern, *num = strchr(p, '%');
		char *end = NULL;

		*id = 0;
		snprintf(pattern, sizeof(pattern), "%s", p);
		if (num && strncmp(name, p, num - p) == 0)
			*id = strtoull(name + (num - p), &end, num[1] == 'x' ? 16 : 10);
		if (strcmp(img_name(k, *id, made, sizeof(made)), name) == 0)
			return k;
	}
	return -1;
}

/* Payload behind an entry, as docs/format tells. */
static size_t payload_of(enum img_kind kind, const ProtobufCMessage *msg)
{
	switch (kind) {
	case IMG_PIPES_DATA:
	case IMG_FIFO_DATA:
		return ((const PipeDataEntry *)msg)->bytes;
	case IMG_SK_QUEUES:
		return ((const SkPacketEntry *)msg)->length;
	case IMG_TCP_STREAM:
		return ((const TcpStreamEntry *)msg)->inq_len + ((const TcpStreamEntry *)msg)->outq_len;
	default:
		return 0;
	}
}

static void append(struct env *e, uint8_t **buf, size_t *n, const void *p, size_t len)
{
	uint8_t *q = arena_alloc(e->op.arena, *n + len + 1);

	if (*n)
		memcpy(q, *buf, *n);
	if (len)
		memcpy(q + *n, p, len);
	*buf = q;
	*n += len;
}

static void repack(struct env *e, struct img_dir *dir, enum img_kind kind, uint64_t id, const char *path)
{
	size_t n_want, n = 0;
	uint8_t *want = get_file(e, path, &n_want), *buf = NULL;
	ProtobufCMessage *msg;
	struct img_in *in;
	uint64_t off, length;
	int r, fd;

	r = img_open(&e->op, dir, kind, id, &in);
	if (r != 0)
		fail_msg("%s: %d %s", path, r, ckpt_err_message(e->op.err));
	append(e, &buf, &n, want, kind == IMG_INVENTORY ? 4 : 8);
	while ((r = img_read(&e->op, in, &msg)) == 0) {
		uint32_t len = protobuf_c_message_get_packed_size(msg);
		uint8_t *packed = arena_alloc(e->op.arena, len + 1);
		void *p;

		assert_int_equal(msg->n_unknown_fields, 0);
		protobuf_c_message_pack(msg, packed);
		append(e, &buf, &n, &len, 4);
		append(e, &buf, &n, packed, len);
		assert_int_equal(img_read_payload(&e->op, in, payload_of(kind, msg), &p), 0);
		append(e, &buf, &n, p, payload_of(kind, msg));
	}
	if (r != IMG_END)
		fail_msg("%s: %s", path, ckpt_err_message(e->op.err));
	assert_int_equal(img_rest(&e->op, in, &fd, &off, &length), 0);
	close(fd);
	append(e, &buf, &n, want + off, length);
	if (n != n_want || memcmp(buf, want, n) != 0)
		fail_msg("%s is not the same after packing it again (%zu, %zu bytes)", path, n, n_want);
	img_in_close(in);
}

static void reference_sets(void **state)
{
	struct env *e = *state;
	char *pattern = arena_printf(e->op.arena, "%s/golden/images/*/img/inventory.img", shared_folder());
	glob_t sets, files;
	size_t n = 0;

	if (glob(pattern, 0, NULL, &sets) != 0) {
		print_message("skipped: no reference sets in %s (CKPT_SHARED names their folder)\n", shared_folder());
		skip();
	}
	for (size_t i = 0; i < sets.gl_pathc; i++) {
		char *folder = dirname(strdup(sets.gl_pathv[i]));
		struct env set = { .opts = CKPT_OPTS_INIT };
		InventoryEntry *inv;
		struct img_dir *dir;

		set.opts.images_dir = folder;
		op_start(&set);
		if (img_dir_open(&set.op, &dir, &inv) < 0)
			fail_msg("%s: %s", folder, ckpt_err_message(set.op.err));
		assert_int_equal(glob(arena_printf(set.op.arena, "%s/*", folder), 0, NULL, &files), 0);
		for (size_t j = 0; j < files.gl_pathc; j++) {
			uint64_t id;
			int kind = kind_of(strrchr(files.gl_pathv[j], '/') + 1, &id);

			if (kind < 0)
				fail_msg("%s: no such kind", files.gl_pathv[j]);
			if (!img_kind_info(kind)->magic)
				continue;
			repack(&set, dir, kind, id, files.gl_pathv[j]);
			n++;
		}
		globfree(&files);
		img_dir_close(dir);
		op_end(&set);
		free(folder);
	}
	print_message("%zu images of %zu sets\n", n, sets.gl_pathc);
	globfree(&sets);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(round_trip_of_every_kind), T(payloads), T(truncation_at_every_byte), T(bad_heads), T(deep_nesting),
		T(commit_makes_a_checkpoint), T(abort_leaves_nothing), T(no_images_without_content), T(bad_inventories),
		T(pages_round_trip), T(pages_with_an_open_end), T(pages_wrong_amount), T(pages_in_turns), T(late_failure), T(pages_without_io_uring), T(full_disk), T(reference_sets),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
