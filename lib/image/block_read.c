// SPDX-License-Identifier: MIT
/*
 * Reading ckpt-blocks. Not a record is believed before the sum at the end was found right, and each is checked even then:
 * sums are no proof against malice. Afterwards block i of an image is at index i.
 */
#include "lib/image/blocks.h"

#include "lib/image/dir.h"

#define BLOCKS_MAX (4ull << 30) /* bytes of the file: those of 6 TiB of pages */

static int bad(struct op *op, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, NULL, "image ckpt-blocks is damaged: %s", what);
}

static int bad_record(struct op *op, const struct block_record *r, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, NULL, "image ckpt-blocks is damaged: block %llu of pages-%u.img: %s",
		       (unsigned long long)r->block, r->pages_id, what);
}

static int order(const void *a, const void *b)
{
	const struct block_record *x = a, *y = b;

	if (x->pages_id != y->pages_id)
		return x->pages_id < y->pages_id ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

static void sort(struct blocks *b)
{
	for (size_t i = 1; i < b->n; i++)
		if (order(&b->v[i - 1], &b->v[i]) > 0) {
			qsort(b->v, b->n, sizeof(b->v[0]), order);
			return;
		}
}

static bool is_natural(const struct block_record *r)
{
	return r->codec == BLOCK_PLAIN && !r->dups && r->offset == r->block * BLOCK_BYTES &&
	       r->stored == r->n_pages * PAGE_SIZE;
}

static int check_record(struct op *op, const struct block_record *r)
{
	unsigned pages = r->n_pages;

	if (!pages || pages > BLOCK_PAGES)
		return bad_record(op, r, "the number of its pages is wrong");
	if (r->punched >> pages || r->dups >> pages || (r->punched & r->dups))
		return bad_record(op, r, "it tells of pages that it does not have");
	if (r->codec > BLOCK_ZSTD)
		return op_fail(op, CKPT_E_UNSUPPORTED, NULL, "ckpt-blocks: pages are stored in a way (%u) that is not known",
			       r->codec);
	if (r->stored > BLOCK_BYTES || r->offset > INT64_MAX - BLOCK_BYTES)
		return bad_record(op, r, "its place is impossible");
	return 0;
}

/* One image: blocks from 0 on without a gap, all full but the last. */
static int check_file(struct op *op, struct block_file *f)
{
	f->plain = true;
	for (size_t i = 0; i < f->n; i++) {
		const struct block_record *r = &f->v[i];
		int e = check_record(op, r);

		if (e)
			return e;
		if (r->block != i)
			return bad_record(op, r, r->block < i ? "it is there twice" : "those before it are missing");
		if (r->n_pages < BLOCK_PAGES && i + 1 < f->n)
			return bad_record(op, r, "it is not full, and not the last");
		f->plain = f->plain && is_natural(r);
		f->n_pages += r->n_pages;
	}
	return 0;
}

static int split(struct op *op, struct blocks *b)
{
	size_t n = 0;

	for (size_t i = 0; i < b->n; i++)
		n += i == 0 || b->v[i].pages_id != b->v[i - 1].pages_id;
	b->files = calloc(n + 1, sizeof(*b->files));
	if (!b->files)
		return op_nomem(op);
	for (size_t i = 0; i < b->n; i++) {
		if (i == 0 || b->v[i].pages_id != b->v[i - 1].pages_id)
			b->files[b->n_files++] = (struct block_file){ .pages_id = b->v[i].pages_id, .v = &b->v[i] };
		b->files[b->n_files - 1].n++;
	}
	for (size_t i = 0; i < b->n_files; i++) {
		int r = check_file(op, &b->files[i]);

		if (r)
			return r;
	}
	return 0;
}

static int check_frame(struct op *op, const char *bytes, size_t n, size_t *records)
{
	struct block_head head;
	struct block_tail tail;

	if (n < sizeof(head) + sizeof(tail))
		return bad(op, "it is too short");
	memcpy(&head, bytes, sizeof(head));
	memcpy(&tail, bytes + n - sizeof(tail), sizeof(tail));
	if (memcmp(head.magic, BLOCK_MAGIC, sizeof(head.magic)))
		return bad(op, "it does not start as such a file does");
	if (XXH3_64bits(bytes, n - sizeof(tail.sum)) != tail.sum)
		return bad(op, "its sum is not right");
	if (head.version != 1 || head.page_size != PAGE_SIZE || head.pages != BLOCK_PAGES ||
	    head.record != sizeof(struct block_record))
		return op_fail(op, CKPT_E_UNSUPPORTED, NULL, "image ckpt-blocks is of another version (%u)", head.version);
	n -= sizeof(head) + sizeof(tail);
	if (n % sizeof(struct block_record) || tail.n != n / sizeof(struct block_record))
		return bad(op, "the number of its records is not right");
	*records = tail.n;
	return 0;
}

int blocks_parse(struct op *op, const void *bytes, size_t n, struct blocks **ret)
{
	struct blocks *b;
	size_t records = 0;
	int r = check_frame(op, bytes, n, &records);

	if (r)
		return r;
	b = calloc(1, sizeof(*b));
	if (b)
		b->v = malloc((records + 1) * sizeof(*b->v));
	if (!b || !b->v) {
		blocks_free(b);
		return op_nomem(op);
	}
	memcpy(&b->dump, (const char *)bytes + offsetof(struct block_head, dump), sizeof(b->dump));
	memcpy(b->v, (const char *)bytes + sizeof(struct block_head), records * sizeof(*b->v));
	b->n = records;
	sort(b);
	r = split(op, b);
	if (r) {
		blocks_free(b);
		return r;
	}
	*ret = b;
	return 0;
}

int blocks_read(struct op *op, int dirfd, struct blocks **ret)
{
	_cleanup_free_ char *bytes = NULL;
	size_t n;
	int r = img_read_own(op, dirfd, "ckpt-blocks", BLOCKS_MAX, &bytes, &n);

	return r ?: blocks_parse(op, bytes, n, ret);
}

struct blocks *blocks_free(struct blocks *b)
{
	if (b) {
		free(b->v);
		free(b->files);
	}
	free(b);
	return NULL;
}

const struct block_file *blocks_file(const struct blocks *b, uint32_t pages_id)
{
	size_t lo = 0, hi = b->n_files;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (b->files[mid].pages_id == pages_id)
			return &b->files[mid];
		if (b->files[mid].pages_id < pages_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

uint64_t block_sum_of(const struct block_record *r, const void *pages)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < r->n_pages; k++)
		if (!(r->punched >> k & 1))
			sum ^= page_sum((const char *)pages + k * PAGE_SIZE, k);
	return sum;
}
