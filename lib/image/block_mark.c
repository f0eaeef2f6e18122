// SPDX-License-Identifier: MIT
/*
 * Pages that deduplication frees: first ckpt-blocks says so. It is written anew beside the old one, synced, and put in its
 * place, so that there is a whole one at any time. What a block has as sum is then that of the pages that stay.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/blocks.h"
#include "lib/image/dir.h"

#define TMP ".ckpt-blocks.tmp"

struct marking {
	struct op *op;
	int dirfd;
	struct blocks *b;
	int fd; /* of the page image last looked at */
	uint32_t pages_id;
	bool changed;
	char *buf; /* a block */
};

static int open_image(struct marking *m, uint32_t pages_id, char *name)
{
	img_name(IMG_PAGES, pages_id, name, IMG_NAME_MAX);
	if (m->fd >= 0 && m->pages_id == pages_id)
		return 0;
	close_fd_p(&m->fd);
	m->fd = openat(m->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	m->pages_id = pages_id;
	return m->fd < 0 ? op_errno(m->op, errno, NULL, "open image %s", name) : 0;
}

static int read_block(struct marking *m, const struct block_record *r, const char *name)
{
	size_t done = 0;

	while (done < r->stored) {
		ssize_t n = pread(m->fd, m->buf + done, r->stored - done, (off_t)(r->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return op_errno(m->op, n ? errno : EIO, NULL, "read image %s", name);
		done += (size_t)n;
	}
	if (block_sum_of(r, m->buf) == r->sum)
		return 0;
	return op_fail(m->op, CKPT_E_IMAGE, AT(.kind = "pages"),
		       "image %s is damaged: pages %lu to %lu are not what was written", name, (unsigned long)r->block * BLOCK_PAGES,
		       (unsigned long)r->block * BLOCK_PAGES + r->n_pages - 1);
}

/* Marks pages [@from, @to) of a block. */
static int mark_block(struct marking *m, struct block_record *r, unsigned from, unsigned to)
{
	uint16_t all = (uint16_t)((1u << r->n_pages) - 1), add = (uint16_t)((1u << to) - (1u << from));
	char name[IMG_NAME_MAX];
	int e;

	add = (uint16_t)(add & ~r->punched);
	if (!add)
		return 0;
	m->changed = true;
	if ((r->punched | add) == all) {
		r->punched = all;
		r->sum = 0;
		return 0;
	}
	e = open_image(m, r->pages_id, name);
	e = e ?: read_block(m, r, name);
	for (unsigned k = from; k < to && !e; k++)
		if (add >> k & 1)
			r->sum ^= page_sum(m->buf + k * PAGE_SIZE, k);
	r->punched |= add;
	return e;
}

static int mark_range(struct marking *m, const struct block_range *v)
{
	const struct block_file *f = blocks_file(m->b, v->pages_id);
	uint64_t at = v->first, end;
	int r = 0;

	if (!f || !f->plain || at >= f->n_pages)
		return 0;
	end = at + MIN(v->n, f->n_pages - at);
	while (at < end && !r) {
		uint64_t block = at / BLOCK_PAGES, stop = MIN(end, (block + 1) * BLOCK_PAGES);

		r = mark_block(m, &m->b->v[f->v - m->b->v + block], at % BLOCK_PAGES, (unsigned)(stop - block * BLOCK_PAGES));
		r = r ?: op_check_cancel(m->op);
		at = stop;
	}
	return r;
}

static int put(struct op *op, int fd, const void *p, size_t n, XXH3_state_t *sum)
{
	XXH3_64bits_update(sum, p, n);
	return img_write_all(op, fd, TMP, p, n);
}

static int write_new(struct op *op, int fd, const struct blocks *b)
{
	struct block_head head = { .magic = BLOCK_MAGIC, .version = 1, .page_size = PAGE_SIZE, .pages = BLOCK_PAGES,
				   .record = sizeof(struct block_record), .dump = b->dump };
	struct block_tail tail = { .n = b->n };
	XXH3_state_t *sum = XXH3_createState();
	int r;

	if (!sum)
		return op_nomem(op);
	XXH3_64bits_reset(sum);
	r = put(op, fd, &head, sizeof(head), sum);
	r = r ?: put(op, fd, b->v, b->n * sizeof(*b->v), sum);
	r = r ?: put(op, fd, &tail.n, sizeof(tail.n), sum);
	tail.sum = XXH3_64bits_digest(sum);
	XXH3_freeState(sum);
	r = r ?: img_write_all(op, fd, TMP, &tail.sum, sizeof(tail.sum));
	if (r == 0 && fsync(fd) < 0)
		r = op_errno(op, errno, NULL, "sync ckpt-blocks");
	return r;
}

static int replace(struct marking *m)
{
	_cleanup_close_ int fd = -1;
	int r;

	if (unlinkat(m->dirfd, TMP, 0) < 0 && errno != ENOENT) /* of an earlier attempt */
		return op_errno(m->op, errno, NULL, "remove " TMP);
	fd = openat(m->dirfd, TMP, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return op_errno(m->op, errno, NULL, "create " TMP);
	r = write_new(m->op, fd, m->b);
	if (r == 0 && renameat(m->dirfd, TMP, m->dirfd, "ckpt-blocks") < 0)
		r = op_errno(m->op, errno, NULL, "replace ckpt-blocks");
	if (r < 0)
		unlinkat(m->dirfd, TMP, 0);
	else if (fsync(m->dirfd) < 0 && errno != EINVAL)
		r = op_errno(m->op, errno, NULL, "sync the images folder");
	return r;
}

int blocks_mark(struct op *op, int dirfd, const struct block_range *v, size_t n)
{
	struct marking m = { .op = op, .dirfd = dirfd, .fd = -1 };
	int r = blocks_read(op, dirfd, &m.b);

	if (r)
		return r == IMG_ABSENT ? 0 : r;
	m.buf = malloc(BLOCK_BYTES);
	if (!m.buf)
		r = op_nomem(op);
	for (size_t i = 0; i < n && !r; i++)
		r = mark_range(&m, &v[i]);
	if (!r && m.changed)
		r = replace(&m);
	close_fd_p(&m.fd);
	free(m.buf);
	blocks_free(m.b);
	return r;
}
