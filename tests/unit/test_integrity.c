// SPDX-License-Identifier: MIT
/*
 * ckpt-sums and ckpt-blocks: every bit of every image is covered by them, theirs too, and what does not fit is refused by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "lib/image/blocks.h"
#include "lib/image/pagein.h"
#include "lib/image/sums.h"

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
	strcpy(e->path, "test-integrity-XXXXXX");
	if (!mkdtemp(e->path))
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->opts.images_dir = e->path;
	e->opts.no_sync = true;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	*state = e;
	return e->op.arena ? 0 : -1;
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

static void assert_refused(struct env *e, int r, const char *part)
{
	if (r != CKPT_E_IMAGE || !e->op.err || !strstr(ckpt_err_message(e->op.err), part))
		fail_msg("%d, \"%s\" (want \"%s\" in it)", r, e->op.err ? ckpt_err_message(e->op.err) : "", part);
	op_forget(&e->op);
}

static char *in_folder(struct env *e, const char *name)
{
	return arena_printf(e->op.arena, "%s/%s", e->path, name);
}

/* ---- a checkpoint of some images and pages */

#define PAGES 100 /* of the first page image; the second has half */

static void fill_pages(char *p, size_t n, unsigned seed)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (char)((i * 2654435761u + seed) >> 13);
}

static void write_pages(struct env *e, struct img_dir *dir, uint32_t id, size_t pages)
{
	struct pages_out *out;
	size_t cap, left = pages * PAGE_SIZE, n;
	void *buf;

	ok(e, pages_create(&e->op, dir, id, left, &out));
	for (; left; left -= n) {
		ok(e, pages_buffer(&e->op, out, &buf, &cap));
		n = MIN(MIN(left, cap), 7 * (size_t)PAGE_SIZE); /* in pieces that are no blocks */
		fill_pages(buf, n, id * 1000 + left);
		ok(e, pages_submit(&e->op, out, n));
	}
	ok(e, pages_close(&e->op, out));
}

static void make_checkpoint(struct env *e)
{
	static TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	InventoryEntry inv = INVENTORY_ENTRY__INIT;
	PstreeEntry ps = PSTREE_ENTRY__INIT;
	PipeDataEntry pd = PIPE_DATA_ENTRY__INIT;
	struct img_dir *dir;
	struct img_out *out;

	ok(e, img_dir_create(&e->op, &dir));
	ok(e, img_write_one(&e->op, dir, IMG_PSTREE, 0, &ps.base));
	ok(e, img_create(&e->op, dir, IMG_PIPES_DATA, 0, &out)); /* more than a buffer of the writer, and of the reader */
	for (int i = 0; i < 3; i++) {
		pd.bytes = i * 70000;
		ok(e, img_write(&e->op, out, &pd.base));
		ok(e, img_write_payload(&e->op, out, op_alloc(&e->op, pd.bytes + 1), pd.bytes));
	}
	ok(e, img_close(&e->op, out));
	write_pages(e, dir, 1, PAGES);
	write_pages(e, dir, 2, PAGES / 2);
	inv.img_version = 2;
	inv.has_fdinfo_per_id = inv.fdinfo_per_id = true;
	inv.root_ids = &ids;
	ok(e, img_dir_commit(&e->op, dir, &inv));
	img_dir_close(dir);
}

static int read_checkpoint(struct env *e)
{
	static const enum img_kind kinds[] = { IMG_PSTREE, IMG_PIPES_DATA };
	struct img_dir *dir;
	InventoryEntry *inv;
	int r = img_dir_open_verified(&e->op, &dir, &inv);

	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && r == 0; i++) {
		struct img_in *in;

		r = img_open(&e->op, dir, kinds[i], 0, &in);
		if (r == 0)
			img_in_close(in);
	}
	img_dir_close(dir);
	return r;
}

static void flip(struct env *e, const char *name, off_t at)
{
	_cleanup_close_ int fd = open(in_folder(e, name), O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 1u << (at % 8);
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
}

static off_t size_of(struct env *e, const char *name)
{
	struct stat st;

	assert_int_equal(stat(in_folder(e, name), &st), 0);
	return st.st_size;
}

/* ---- the images */

static void every_bit_is_covered(void **state)
{
	static const char *const names[] = { "inventory.img", "pstree.img", "pipes-data.img", "ckpt-sums" };
	struct env *e = *state;

	make_checkpoint(e);
	ok(e, read_checkpoint(e));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		off_t size = size_of(e, names[i]), step = size > 1000 ? 7919 : 1;

		for (off_t at = 0; at < size; at += step) {
			flip(e, names[i], at);
			assert_refused(e, read_checkpoint(e), names[i]);
			flip(e, names[i], at);
		}
	}
	ok(e, read_checkpoint(e));
}

static void what_is_missing_or_foreign(void **state)
{
	struct env *e = *state;

	make_checkpoint(e);
	ok(e, rename(in_folder(e, "pstree.img"), in_folder(e, "away")));
	assert_refused(e, read_checkpoint(e), "pstree.img is missing");
	ok(e, rename(in_folder(e, "away"), in_folder(e, "pstree.img")));
	ok(e, truncate(in_folder(e, "pipes-data.img"), size_of(e, "pipes-data.img") - 1));
	assert_refused(e, read_checkpoint(e), "pipes-data.img is damaged");
	e->opts.no_verify = true;
	ok(e, read_checkpoint(e));
	e->opts.no_verify = false;
	ok(e, unlink(in_folder(e, "ckpt-sums"))); /* as in a checkpoint of another engine */
	ok(e, read_checkpoint(e));
}

static void foreign_image(void **state)
{
	struct env *e = *state;
	struct img_dir *dir;
	InventoryEntry *inv;
	struct img_in *in;

	make_checkpoint(e);
	ok(e, link(in_folder(e, "pstree.img"), in_folder(e, "tty-info.img")));
	ok(e, img_dir_open_verified(&e->op, &dir, &inv));
	assert_refused(e, img_open(&e->op, dir, IMG_TTY_INFO, 0, &in), "tty-info.img does not belong");
	img_dir_close(dir);
}

/* ---- the blocks */

static int folder_fd(struct env *e)
{
	int fd = open(e->path, O_RDONLY | O_DIRECTORY);

	assert_true(fd >= 0);
	return fd;
}

/* Compares all pages of an image with the records. Returns the first block that does not match, -1: none. */
static long bad_block(struct env *e, const struct blocks *b, uint32_t id)
{
	const struct block_file *f = blocks_file(b, id);
	_cleanup_close_ int fd = open(in_folder(e, arena_printf(e->op.arena, "pages-%u.img", id)), O_RDONLY);
	char buf[BLOCK_BYTES];

	assert_non_null(f);
	for (size_t i = 0; i < f->n; i++) {
		assert_int_equal(pread(fd, buf, f->v[i].stored, f->v[i].offset), f->v[i].stored);
		if (block_sum_of(&f->v[i], buf) != f->v[i].sum)
			return i;
	}
	return -1;
}

static void blocks_cover_pages(void **state)
{
	struct env *e = *state;
	_cleanup_close_ int dir = -1;
	struct blocks *b;

	make_checkpoint(e);
	dir = folder_fd(e);
	assert_int_equal(blocks_read(&e->op, dir, &b), 0);
	assert_int_equal(b->n_files, 2);
	assert_int_equal(blocks_file(b, 1)->n_pages, PAGES);
	assert_true(blocks_file(b, 1)->plain);
	assert_int_equal(blocks_file(b, 2)->n, (PAGES / 2 + BLOCK_PAGES - 1) / BLOCK_PAGES);
	assert_null(blocks_file(b, 3));
	assert_int_equal(bad_block(e, b, 1), -1);
	assert_int_equal(bad_block(e, b, 2), -1);
	for (off_t at = 0; at < PAGES * PAGE_SIZE; at += 39989) {
		flip(e, "pages-1.img", at);
		assert_int_equal(bad_block(e, b, 1), at / BLOCK_BYTES);
		flip(e, "pages-1.img", at);
	}
	blocks_free(b);
}

static void blocks_guard_themselves(void **state)
{
	struct env *e = *state;
	_cleanup_close_ int dir = -1;
	struct blocks *b;
	off_t size;

	make_checkpoint(e);
	dir = folder_fd(e);
	size = size_of(e, "ckpt-blocks");
	for (off_t at = 0; at < size; at++) {
		flip(e, "ckpt-blocks", at);
		assert_refused(e, blocks_read(&e->op, dir, &b), "ckpt-blocks");
		flip(e, "ckpt-blocks", at);
	}
	ok(e, truncate(in_folder(e, "ckpt-blocks"), size - sizeof(struct block_record)));
	assert_refused(e, blocks_read(&e->op, dir, &b), "ckpt-blocks");
	ok(e, truncate(in_folder(e, "ckpt-blocks"), 3));
	assert_refused(e, blocks_read(&e->op, dir, &b), "ckpt-blocks");
	ok(e, unlink(in_folder(e, "ckpt-blocks")));
	assert_int_equal(blocks_read(&e->op, dir, &b), IMG_ABSENT);
}

/* A file with a right sum around whatever records there are. */
static int parse_records(struct env *e, const struct block_record *v, size_t n, struct blocks **ret)
{
	struct block_head head = { BLOCK_MAGIC, 1, PAGE_SIZE, BLOCK_PAGES, sizeof(struct block_record), 42 };
	struct block_tail tail = { .n = n };
	size_t size = sizeof(head) + n * sizeof(*v) + sizeof(tail);
	char *p = op_alloc(&e->op, size);

	memcpy(p, &head, sizeof(head));
	memcpy(p + sizeof(head), v, n * sizeof(*v));
	memcpy(p + size - sizeof(tail), &tail.n, sizeof(tail.n));
	tail.sum = XXH3_64bits(p, size - sizeof(tail.sum));
	memcpy(p + size - sizeof(tail.sum), &tail.sum, sizeof(tail.sum));
	return blocks_parse(&e->op, p, size, ret);
}

#define FULL(id, i) { .pages_id = id, .block = i, .offset = (i) * BLOCK_BYTES, .stored = BLOCK_BYTES, .n_pages = BLOCK_PAGES }

static void records_that_lie(void **state)
{
	struct env *e = *state;
	struct blocks *b;
	const struct block_record good[] = { FULL(7, 1), FULL(3, 0), FULL(7, 0) }; /* in any order */
	struct block_record v[3];

	assert_int_equal(parse_records(e, good, 3, &b), 0);
	assert_int_equal(b->dump, 42);
	assert_int_equal(blocks_file(b, 7)->n, 2);
	assert_int_equal(blocks_file(b, 7)->v[1].block, 1);
	blocks_free(b);
	assert_int_equal(parse_records(e, good, 0, &b), 0);
	blocks_free(b);
#define LIE(change, part)                                        \
	do {                                                     \
		memcpy(v, good, sizeof(v));                      \
		change;                                          \
		assert_refused(e, parse_records(e, v, 3, &b), part); \
	} while (0)
	LIE(v[0].block = 2, "before it are missing");
	LIE(v[1].block = UINT64_MAX, "block 18446744073709551615");
	LIE(v[0].block = 0, "twice");
	LIE(v[1].n_pages = 0, "number of its pages");
	LIE(v[1].n_pages = 17, "number of its pages");
	LIE(v[2].n_pages = 3, "not full");
	LIE((v[1].n_pages = 3, v[1].punched = 8), "does not have");
	LIE(v[1].punched = v[1].dups = 1, "does not have");
	LIE(v[1].stored = BLOCK_BYTES + 1, "place");
	LIE(v[1].offset = UINT64_MAX - 10, "place");
	memcpy(v, good, sizeof(v));
	v[1].codec = 9;
	assert_int_equal(parse_records(e, v, 3, &b), CKPT_E_UNSUPPORTED);
	op_forget(&e->op);
}

/* ---- packed page images */

/* Page @i of image @id: some compress, some do not, some are equal, some are zero. */
static void make_page(char *p, uint32_t id, uint64_t i)
{
	uint64_t x = i % 5 == 2 ? 7 : id * 100000 + i + 1;

	memset(p, 0, PAGE_SIZE);
	for (size_t k = 0; i % 5 && k < PAGE_SIZE / sizeof(x); k++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		if (i % 5 != 3 || k % 16 == 0)
			((uint64_t *)p)[k] = x ^ x >> 29;
	}
}

#define PACKED_PAGES 1000

static void write_packed(struct env *e, struct img_dir *dir, uint32_t id, size_t step)
{
	uint64_t at = 0;
	struct pages_out *out;

	ok(e, pages_create(&e->op, dir, id, PACKED_PAGES * PAGE_SIZE, &out));
	while (at < PACKED_PAGES) {
		size_t cap, n;
		void *buf;

		ok(e, pages_buffer(&e->op, out, &buf, &cap));
		assert_true(cap >= 256 << 10);
		n = MIN(MIN(cap / PAGE_SIZE, step), PACKED_PAGES - at);
		for (size_t i = 0; i < n; i++)
			make_page((char *)buf + i * PAGE_SIZE, id, at + i);
		ok(e, pages_submit(&e->op, out, n * PAGE_SIZE));
		at += n;
	}
	ok(e, pages_close(&e->op, out));
}

static void make_packed(struct env *e, const char *how)
{
	static TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	InventoryEntry inv = INVENTORY_ENTRY__INIT;
	struct img_dir *dir;

	e->opts.compress = how;
	ok(e, img_dir_create(&e->op, &dir));
	write_packed(e, dir, 1, 7);
	write_packed(e, dir, 2, 1000000);
	write_packed(e, dir, 3, 300);
	inv.img_version = 2;
	inv.has_fdinfo_per_id = inv.fdinfo_per_id = true;
	inv.root_ids = &ids;
	ok(e, img_dir_commit(&e->op, dir, &inv));
	img_dir_close(dir);
}

static struct img_dir *open_packed(struct env *e)
{
	struct img_dir *dir;
	InventoryEntry *inv;

	ok(e, img_dir_open_verified(&e->op, &dir, &inv));
	assert_int_equal(inv->plugins_entry->n_plugins, 1);
	assert_string_equal(inv->plugins_entry->plugins[0], IMG_OWN_PACKED);
	return dir;
}

static void compare_pages(struct env *e, struct pagein *in, uint32_t id, uint64_t first, size_t n)
{
	char *buf = malloc(n * PAGE_SIZE), want[PAGE_SIZE];

	ok(e, pagein_read(&e->op, in, first, n, buf));
	for (size_t i = 0; i < n; i++) {
		make_page(want, id, first + i);
		assert_memory_equal(buf + i * PAGE_SIZE, want, PAGE_SIZE);
	}
	free(buf);
}

static void packed_round_trip(void **state)
{
	static const char *const how[] = { "lz4", "zstd", "zstd:1", "dups" };
	struct env *e = *state;

	for (size_t h = 0; h < ARRAY_SIZE(how); h++) {
		struct img_dir *dir;

		make_packed(e, how[h]);
		assert_true(size_of(e, "pages-1.img") < PACKED_PAGES * PAGE_SIZE * 8 / 10);
		dir = open_packed(e);
		for (uint32_t id = 1; id <= 3; id++) {
			struct pagein *in;

			ok(e, pagein_open(&e->op, dir, id, &in));
			assert_int_equal(pagein_plain(in), -1);
			assert_int_equal(pagein_pages(in), PACKED_PAGES);
			compare_pages(e, in, id, 0, PACKED_PAGES);
			for (unsigned i = 0; i < 60; i++)
				compare_pages(e, in, id, i * 16 % 977, 1 + i * 7 % 23);
			assert_refused(e, pagein_read(&e->op, in, PACKED_PAGES, 1, NULL), "has 1000 pages");
			pagein_close(in);
		}
		img_dir_close(dir);
		ok(e, unlink(in_folder(e, "inventory.img")));
	}
}

static void packed_damage(void **state)
{
	struct env *e = *state;
	struct img_dir *dir;
	struct pagein *in;
	off_t size;
	char *buf = malloc(PACKED_PAGES * PAGE_SIZE);

	make_packed(e, "lz4");
	size = size_of(e, "pages-2.img");
	for (off_t at = 0; at < size; at += size / 50 + 1) {
		flip(e, "pages-2.img", at);
		dir = open_packed(e);
		ok(e, pagein_open(&e->op, dir, 2, &in));
		assert_refused(e, pagein_read(&e->op, in, 0, PACKED_PAGES, buf), "is damaged: pages ");
		pagein_close(in);
		img_dir_close(dir);
		flip(e, "pages-2.img", at);
	}
	ok(e, truncate(in_folder(e, "pages-2.img"), size / 2));
	dir = open_packed(e);
	assert_refused(e, pagein_open(&e->op, dir, 2, &in), "pages-2.img is damaged: it ends");
	img_dir_close(dir);
	/* Without ckpt-blocks nobody knows what is where, wanted or not. */
	ok(e, unlink(in_folder(e, "ckpt-blocks")));
	dir = open_packed(e);
	assert_refused(e, pagein_open(&e->op, dir, 1, &in), "ckpt-blocks is missing");
	img_dir_close(dir);
	e->opts.no_verify = true;
	dir = open_packed(e);
	assert_refused(e, pagein_open(&e->op, dir, 1, &in), "ckpt-blocks is missing");
	img_dir_close(dir);
	free(buf);
}

static void packed_is_aborted(void **state)
{
	struct env *e = *state;
	struct pages_out *out;
	struct img_dir *dir;
	size_t cap;
	void *buf;

	e->opts.compress = "zstd";
	ok(e, img_dir_create(&e->op, &dir));
	write_packed(e, dir, 1, 50);
	ok(e, pages_create(&e->op, dir, 2, 8 << 20, &out));
	ok(e, pages_buffer(&e->op, out, &buf, &cap));
	ok(e, pages_submit(&e->op, out, cap));
	ok(e, pages_buffer(&e->op, out, &buf, &cap));
	img_dir_abort(&e->op, dir);
	img_dir_close(dir);
	assert_int_equal(rmdir(e->path), 0); /* nothing is left */
	ok(e, mkdir(e->path, 0700));
	e->opts.compress = "lzma";
	assert_int_equal(img_dir_create(&e->op, &dir), CKPT_E_INVAL);
	op_forget(&e->op);
}

/* Blocks that tell wrong things about where their pages are. */
static void references_that_lie(void **state)
{
	struct env *e = *state;
	struct block_ref ref;
	struct blocks *b;
	_cleanup_close_ int dirfd = -1, fd = -1;
	uint64_t at = UINT64_MAX;
	char buf[BLOCK_BYTES];

	make_packed(e, "dups");
	dirfd = folder_fd(e);
	assert_int_equal(blocks_read(&e->op, dirfd, &b), 0);
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].pages_id == 3 && b->v[i].block == 1)
			at = b->v[i].dups ? b->v[i].offset : at;
	blocks_free(b);
	assert_true(at != UINT64_MAX);
	fd = open(in_folder(e, "pages-3.img"), O_RDWR);
	const struct block_ref lies[] = { { .pages_id = 9 }, { .pages_id = 1, .page = 1u << 30 }, { .pages_id = 3, .page = 5 },
					  { .pages_id = 1, .page = UINT64_MAX }, { .pages_id = 2, .page = 1 } };
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		struct img_dir *dir = open_packed(e);
		struct pagein *in;

		assert_int_equal(pread(fd, &ref, sizeof(ref), (off_t)at), sizeof(ref));
		assert_int_equal(pwrite(fd, &lies[i], sizeof(ref), (off_t)at), sizeof(ref));
		ok(e, pagein_open(&e->op, dir, 3, &in));
		assert_refused(e, pagein_read(&e->op, in, BLOCK_PAGES, BLOCK_PAGES, buf), "pages-3.img is damaged: pages 16 to 31");
		assert_int_equal(pwrite(fd, &ref, sizeof(ref), (off_t)at), sizeof(ref));
		pagein_close(in);
		img_dir_close(dir);
	}
}

/* ---- marks of deduplication */

static void marked_pages_do_not_count(void **state)
{
	static const struct block_range v[] = { { 1, 3, 30 }, { 1, 48, 16 }, { 2, 49, 1000 }, { 1, 90, 1 }, { 7, 0, 5 } };
	struct env *e = *state;
	_cleanup_close_ int dirfd = -1, fd = -1;
	struct img_dir *dir;
	struct pagein *in;
	InventoryEntry *inv;
	struct blocks *b;
	char buf[BLOCK_BYTES];

	make_checkpoint(e);
	dirfd = folder_fd(e);
	for (int twice = 0; twice < 2; twice++)
		ok(e, blocks_mark(&e->op, dirfd, v, ARRAY_SIZE(v)));
	assert_int_equal(blocks_read(&e->op, dirfd, &b), 0);
	assert_int_equal(blocks_file(b, 1)->v[0].punched, 0xfff8);
	assert_int_equal(blocks_file(b, 1)->v[3].punched, 0xffff);
	assert_int_equal(blocks_file(b, 1)->v[3].sum, 0);
	assert_int_equal(bad_block(e, b, 1), -1); /* marked, and not yet freed: as after a crash in between */
	fd = open(in_folder(e, "pages-1.img"), O_RDWR);
	assert_int_equal(pwrite(fd, op_alloc(&e->op, 30 * PAGE_SIZE), 30 * PAGE_SIZE, 3 * PAGE_SIZE), 30 * PAGE_SIZE);
	assert_int_equal(bad_block(e, b, 1), -1);
	blocks_free(b);
	ok(e, img_dir_open_verified(&e->op, &dir, &inv));
	ok(e, pagein_open(&e->op, dir, 1, &in));
	ok(e, pagein_read(&e->op, in, 0, 3, buf));
	ok(e, pagein_read(&e->op, in, 33, 15, buf));
	assert_refused(e, pagein_read(&e->op, in, 2, 2, buf), "freed by deduplication");
	pagein_close(in);
	img_dir_close(dir);
	flip(e, "pages-1.img", PAGE_SIZE); /* what is damaged is not made valid by a mark */
	assert_refused(e, blocks_mark(&e->op, dirfd, &(struct block_range){ 1, 2, 1 }, 1), "pages-1.img is damaged");
	ok(e, unlink(in_folder(e, "ckpt-blocks")));
	ok(e, blocks_mark(&e->op, dirfd, v, ARRAY_SIZE(v)));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_bit_is_covered), T(what_is_missing_or_foreign), T(foreign_image),	T(blocks_cover_pages),
		T(blocks_guard_themselves), T(records_that_lie),	T(packed_round_trip),	T(packed_damage),
		T(packed_is_aborted),	T(references_that_lie),	T(marked_pages_do_not_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
