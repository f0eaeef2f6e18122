// SPDX-License-Identifier: MIT
/* Writing ckpt-blocks: head, records as they come, and a tail with their number and a sum of it all. */
#include "lib/image/blocks.h"

#include "lib/image/dir.h"

#define OUT_RECORDS 512

struct blocks_out {
	int fd;
	size_t used;
	uint64_t n;
	XXH3_state_t *sum;
	struct block_record v[OUT_RECORDS];
};

static int put(struct op *op, struct img_dir *dir, struct blocks_out *b, const void *p, size_t n)
{
	XXH3_64bits_update(b->sum, p, n);
	dir->bytes += n;
	return img_write_all(op, b->fd, "ckpt-blocks", p, n);
}

static int begin(struct op *op, struct img_dir *dir)
{
	struct block_head head = { .magic = BLOCK_MAGIC, .version = 1, .page_size = PAGE_SIZE, .pages = BLOCK_PAGES,
				   .record = sizeof(struct block_record), .dump = dir->id };
	struct blocks_out *b = op_new(op, struct blocks_out);
	int r;

	if (!b)
		return CKPT_E_NOMEM;
	b->fd = -1;
	b->sum = XXH3_createState();
	if (!b->sum)
		return op_nomem(op);
	XXH3_64bits_reset(b->sum);
	dir->blocks = b;
	r = img_make(op, dir, "ckpt-blocks", &b->fd);
	return r < 0 ? r : put(op, dir, b, &head, sizeof(head));
}

static int flush(struct op *op, struct img_dir *dir)
{
	struct blocks_out *b = dir->blocks;
	int r = put(op, dir, b, b->v, b->used * sizeof(b->v[0]));

	b->n += b->used;
	b->used = 0;
	return r;
}

int block_add(struct op *op, struct img_dir *dir, const struct block_record *rec)
{
	int r = 0;

	if (!dir->blocks)
		r = begin(op, dir);
	else if (dir->blocks->fd < 0)
		r = op_fail(op, CKPT_E_INTERNAL, NULL, "a page image is written after ckpt-blocks was finished");
	if (r == 0 && dir->blocks->used == OUT_RECORDS)
		r = flush(op, dir);
	if (r == 0)
		dir->blocks->v[dir->blocks->used++] = *rec;
	return r;
}

int blocks_finish(struct op *op, struct img_dir *dir)
{
	struct blocks_out *b = dir->blocks;
	struct block_tail tail;
	int r;

	if (!b || b->fd < 0)
		return 0;
	r = flush(op, dir);
	tail.n = b->n;
	XXH3_64bits_update(b->sum, &tail.n, sizeof(tail.n));
	tail.sum = XXH3_64bits_digest(b->sum);
	if (r == 0)
		r = img_write_all(op, b->fd, "ckpt-blocks", &tail, sizeof(tail));
	dir->bytes += sizeof(tail);
	img_made_done(dir, "ckpt-blocks", TAKE_FD(b->fd));
	return r;
}

void blocks_out_free(struct img_dir *dir)
{
	struct blocks_out *b = TAKE_PTR(dir->blocks);

	if (!b)
		return;
	if (b->fd >= 0)
		close(b->fd);
	XXH3_freeState(b->sum);
}

int block_sum_end(struct op *op, struct img_dir *dir, struct block_sum *s)
{
	int r;

	if (!s->r.n_pages)
		return 0;
	s->r.stored = s->r.n_pages * PAGE_SIZE;
	s->r.offset = s->r.block * BLOCK_BYTES;
	r = block_add(op, dir, &s->r);
	s->r.n_pages = 0;
	s->r.sum = 0;
	s->r.block++;
	return r;
}

int block_sum_pages(struct op *op, struct img_dir *dir, struct block_sum *s, uint32_t pages_id, const void *pages, size_t n)
{
	int r = 0;

	s->r.pages_id = pages_id;
	for (size_t i = 0; i < n && r == 0; i++) {
		s->r.sum ^= page_sum((const char *)pages + i * PAGE_SIZE, s->r.n_pages++);
		if (s->r.n_pages == BLOCK_PAGES)
			r = block_sum_end(op, dir, s);
	}
	return r;
}
