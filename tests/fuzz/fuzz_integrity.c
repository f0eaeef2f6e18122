// SPDX-License-Identifier: MIT
/*
 * Any bytes as ckpt-blocks or ckpt-sums: the first byte chooses, its top bit has the sum at the end put right first, which
 * mutations never find. What is accepted is looked things up in.
 */
#include <stdlib.h>

#include "lib/image/blocks.h"
#include "lib/image/sums.h"
#include "tests/fuzz/fuzz.h"

static void use_blocks(const struct blocks *b)
{
	for (size_t i = 0; i < b->n_files; i++) {
		const struct block_file *f = blocks_file(b, b->files[i].pages_id);

		for (size_t k = 0; k < f->n; k++)
			if (f->v[k].block != k || f->v[k].n_pages > BLOCK_PAGES || f->v[k].stored > BLOCK_BYTES)
				abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { 0 };
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	struct blocks *b;
	struct sums *s;
	uint8_t *p;
	uint64_t sum;

	if (size == 0 || !op.arena) {
		arena_free(op.arena);
		return 0;
	}
	p = malloc(size); /* to the byte */
	memcpy(p, data + 1, --size);
	if (data[0] & 0x80 && size >= sizeof(sum)) {
		sum = XXH3_64bits(p, size - sizeof(sum));
		memcpy(p + size - sizeof(sum), &sum, sizeof(sum));
	}
	if (data[0] & 1) {
		if (blocks_parse(&op, p, size, &b) == 0) {
			use_blocks(b);
			blocks_free(b);
		}
	} else if (sums_parse(&op, p, size, &s) == 0 && s->n && !sums_find(s, s->v[0].name)) {
		abort();
	}
	free(p);
	arena_free(op.arena);
	ckpt_err_free(op.err);
	return 0;
}

static size_t seed_blocks(uint8_t *buf)
{
	struct block_head head = { BLOCK_MAGIC, 1, PAGE_SIZE, BLOCK_PAGES, sizeof(struct block_record), 42 };
	struct block_record v[3] = { 0 };
	struct block_tail tail = { .n = 3 };

	for (unsigned i = 0; i < 3; i++)
		v[i] = (struct block_record){ .pages_id = 1 + i / 2, .block = i % 2, .offset = i % 2 * BLOCK_BYTES,
					      .stored = BLOCK_BYTES, .n_pages = BLOCK_PAGES, .sum = i };
	buf[0] = 0x81;
	memcpy(buf + 1, &head, sizeof(head));
	memcpy(buf + 1 + sizeof(head), v, sizeof(v));
	memcpy(buf + 1 + sizeof(head) + sizeof(v), &tail, sizeof(tail));
	return 1 + sizeof(head) + sizeof(v) + sizeof(tail);
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	ImageSumEntry images[2] = { IMAGE_SUM_ENTRY__INIT, IMAGE_SUM_ENTRY__INIT }, *v[2] = { &images[0], &images[1] };
	CkptSumsEntry e = CKPT_SUMS_ENTRY__INIT;
	uint32_t head[3];

	if (cap < 4096 || i > 1)
		return 0;
	if (i == 0)
		return seed_blocks(buf);
	images[0].name = "core-1.img";
	images[1].name = "fs-1.img";
	e.images = v;
	e.n_images = 2;
	buf[0] = 0x80;
	img_put_head(IMG_SUMS, head);
	head[2] = ckpt_sums_entry__get_packed_size(&e);
	memcpy(buf + 1, head, sizeof(head));
	ckpt_sums_entry__pack(&e, buf + 1 + sizeof(head));
	memset(buf + 1 + sizeof(head) + head[2], 0, sizeof(uint64_t));
	return 1 + sizeof(head) + head[2] + sizeof(uint64_t);
}
