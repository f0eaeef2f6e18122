// SPDX-License-Identifier: MIT
/*
 * How fast do page images get from memory to stable storage? bench_pages FOLDER [MIB [ROUNDS [IMAGES]]]: copies that much
 * incompressible memory through the page writer, in so many images, commits, and prints what each part took.
 */
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/image/image.h"

struct bench {
	const char *folder;
	char *memory;
	size_t bytes;
	size_t images;
};

static void to_stderr(void *arg, enum ckpt_log_level level, const char *text)
{
	(void)arg;
	(void)level;
	fprintf(stderr, "%s\n", text);
}

static void fill(char *p, size_t n)
{
	uint64_t x = 88172645463325252ull, *q = (uint64_t *)p;

	for (size_t i = 0; i < n / sizeof(*q); i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		q[i] = x;
	}
}

static int write_image(struct op *op, struct img_dir *dir, uint32_t id, const char *from, size_t bytes)
{
	struct pages_out *out;
	size_t cap;
	void *buf;
	int r = pages_create(op, dir, id, bytes, &out);

	for (size_t done = 0; r == 0 && done < bytes; done += cap) {
		r = pages_buffer(op, out, &buf, &cap);
		if (r < 0)
			break;
		cap = MIN(cap, bytes - done);
		memcpy(buf, from + done, cap);
		r = pages_submit(op, out, cap);
	}
	return r < 0 ? r : pages_close(op, out);
}

static int write_pages(struct op *op, struct img_dir *dir, const struct bench *b)
{
	size_t each = b->bytes / b->images / PAGE_SIZE * PAGE_SIZE;
	int r = 0;

	for (size_t i = 0; i < b->images && r == 0; i++)
		r = write_image(op, dir, (uint32_t)i + 1, b->memory + i * each, each);
	return r;
}

static int one_round(struct op *op, const struct bench *b)
{
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	InventoryEntry inv = INVENTORY_ENTRY__INIT;
	struct img_dir *dir;
	uint64_t t[4];
	int r;

	inv.img_version = 2;
	inv.has_fdinfo_per_id = inv.fdinfo_per_id = true;
	inv.root_ids = &ids;
	t[0] = now_ns();
	r = img_dir_create(op, &dir);
	if (r < 0)
		return r;
	r = write_pages(op, dir, b);
	t[1] = now_ns();
	if (r == 0)
		r = img_dir_commit(op, dir, &inv);
	t[2] = now_ns();
	img_dir_abort(op, dir);
	img_dir_close(dir);
	if (r < 0)
		return r;
	printf("%zu MiB: written %.1f ms, committed %.1f ms, %.2f GB/s in all\n", b->bytes >> 20, (t[1] - t[0]) / 1e6,
	       (t[2] - t[1]) / 1e6, (double)b->bytes / (t[2] - t[0]));
	return 0;
}

int main(int argc, char **argv)
{
	struct bench b = { .folder = argc > 1 ? argv[1] : ".", .bytes = (argc > 2 ? strtoul(argv[2], NULL, 0) : 1024) << 20 };
	int rounds = argc > 3 ? atoi(argv[3]) : 3;
	struct ckpt_opts opts = CKPT_OPTS_INIT;

	b.images = argc > 4 ? strtoul(argv[4], NULL, 0) : 1;
	b.memory = mmap(NULL, b.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b.memory == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	fill(b.memory, b.bytes);
	opts.images_dir = b.folder;
	while (rounds-- > 0) {
		struct op op = { .arena = arena_new(), .opts = &opts,
				 .log = { to_stderr, NULL, getenv("V") ? CKPT_LOG_DEBUG : CKPT_LOG_WARN } };

		if (one_round(&op, &b) < 0) {
			fprintf(stderr, "%s\n", ckpt_err_message(op.err));
			return 1;
		}
		arena_free(op.arena);
	}
	return 0;
}
