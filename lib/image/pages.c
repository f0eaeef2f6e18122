// SPDX-License-Identifier: MIT
/*
 * Page images, seen from those who have the pages: buffers are given out, filled and submitted; pages_close() knows that it was
 * as much as was said in the beginning, pages_settle() that all of it arrived. Where it goes is a sink's business.
 */
#include "lib/image/gate.h"
#include "lib/image/pages_sink.h"

bool pages_elsewhere(const struct img_dir *dir)
{
	return dir->sink && !dir->sink->in_folder;
}

int pages_announce(struct op *op, struct img_dir *dir, enum img_kind kind, uint32_t id, PagemapEntry *const *entries, size_t n)
{
	return dir->sink && dir->sink->announce ? dir->sink->announce(op, dir, kind, id, entries, n) : 0;
}

int pages_announce_more(struct op *op, struct img_dir *dir, PagemapEntry *const *entries, size_t n)
{
	return dir->sink && dir->sink->announce_more ? dir->sink->announce_more(op, dir, entries, n) : 0;
}

static int create(struct op *op, struct img_dir *dir, uint32_t pages_id, uint64_t bytes, bool open_end,
		  struct pages_out **ret)
{
	const struct pages_sink *sink = dir->sink ?: &pages_sink_ring;
	struct pages_out *out;
	int r = sink->create(op, dir, &out);

	if (r < 0)
		return r;
	out->sink = sink;
	out->dir = dir;
	out->pages_id = pages_id;
	out->bytes = bytes;
	out->open_end = open_end;
	out->sum = (struct block_sum){ .r = { .pages_id = pages_id } };
	img_name(IMG_PAGES, pages_id, out->name, sizeof(out->name));
	r = sink->begin(op, out);
	if (r < 0)
		return r;
	*ret = out;
	return 0;
}

int pages_create(struct op *op, struct img_dir *dir, uint32_t pages_id, uint64_t bytes, struct pages_out **ret)
{
	if (bytes % PAGE_SIZE || bytes > INT64_MAX)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "page image of %llu bytes", (unsigned long long)bytes);
	gate_at_least(dir->gate, bytes);
	return create(op, dir, pages_id, bytes, false, ret);
}

int pages_create_open_end(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pages_out **ret)
{
	return create(op, dir, pages_id, 0, true, ret);
}

/* Whoever goes before us on this disk also wants our queue to be short. */
static int wait_turn(struct op *op, struct pages_out *out, size_t len)
{
	struct gate *gate = out->dir->gate;
	int r = 0;

	if (!out->sink->in_folder)
		r = gate_pace(op, gate, len);
	else if (!out->sink->adds_blocks) /* which knows how little it will write */
		r = gate_pass(op, gate, len);

	if (!r && out->sink->drain && gate_crowded(gate))
		r = out->sink->drain(op, out->dir, GATE_CROWDED_BYTES - MIN(len, GATE_CROWDED_BYTES));
	return r;
}

int pages_buffer(struct op *op, struct pages_out *out, void **buf, size_t *cap)
{
	int r = out->sink->buffer(op, out, buf, cap);

	out->given = r == 0 ? *buf : NULL;
	return r;
}

int pages_submit(struct op *op, struct pages_out *out, size_t len)
{
	uint64_t room = (out->open_end ? INT64_MAX : out->bytes) - out->off;
	int r = 0;

	if (!out->given || len == 0 || len % PAGE_SIZE || len > room)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "%zu bytes given to image %s, which may have %llu more", len,
			       out->name, (unsigned long long)room);
	if (out->sink->in_folder && !out->sink->adds_blocks)
		r = block_sum_pages(op, out->dir, &out->sum, out->pages_id, out->given, len / PAGE_SIZE);
	out->given = NULL;
	r = r ?: wait_turn(op, out, len);
	r = r ?: out->sink->submit(op, out, len);
	out->off += len;
	op_bytes_done(op, len);
	return r;
}

int pages_direct(const struct pages_out *out)
{
	return out->sink->direct && !out->sink->adds_blocks ? out->sink->direct(out) : -1;
}

int pages_skip(struct op *op, struct pages_out *out, uint64_t len)
{
	if (out->given || out->open_end || len % BLOCK_BYTES || out->off % BLOCK_BYTES || len > out->bytes - out->off)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "%llu bytes of image %s are left out at %llu", (unsigned long long)len,
			       out->name, (unsigned long long)out->off);
	out->off += len;
	out->sum.r.block += len / BLOCK_BYTES;
	return 0;
}

int pages_moved(struct op *op, struct pages_out *out, uint64_t block, uint64_t sum)
{
	struct block_record rec = { .pages_id = out->pages_id, .block = block, .sum = sum, .offset = block * BLOCK_BYTES,
				    .stored = BLOCK_BYTES, .n_pages = BLOCK_PAGES };

	op_bytes_done(op, BLOCK_BYTES);
	return block_add(op, out->dir, &rec);
}

int pages_submit_block(struct op *op, struct pages_out *out, uint64_t block)
{
	struct block_sum sum = { .r = { .pages_id = out->pages_id, .block = block } };
	uint64_t off = out->off;
	int r;

	if (!out->given)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "no buffer was given for image %s", out->name);
	r = block_sum_pages(op, out->dir, &sum, out->pages_id, out->given, BLOCK_PAGES);
	out->given = NULL;
	out->off = block * BLOCK_BYTES;
	r = r ?: out->sink->submit(op, out, BLOCK_BYTES);
	out->off = off;
	op_bytes_done(op, BLOCK_BYTES);
	return r;
}

int pages_close(struct op *op, struct pages_out *out)
{
	int r;

	if (out->open_end)
		out->bytes = out->off;
	/* First the sink: the error of the disk is the better one. */
	r = out->sink->finish(op, out);
	if (r < 0)
		return r;
	if (out->off != out->bytes)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "image %s got %llu of %llu bytes", out->name,
			       (unsigned long long)out->off, (unsigned long long)out->bytes);
	return block_sum_end(op, out->dir, &out->sum);
}

int pages_settle(struct op *op, struct img_dir *dir)
{
	const struct pages_sink *sink = dir->sink ?: &pages_sink_ring;

	return sink->settle ? sink->settle(op, dir) : 0;
}
