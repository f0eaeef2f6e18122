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

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(every_bit_is_covered), T(what_is_missing_or_foreign), T(foreign_image),	T(blocks_cover_pages),
		T(blocks_guard_themselves), T(records_that_lie),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
