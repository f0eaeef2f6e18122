// SPDX-License-Identifier: MIT
/*
 * Reading page images. Where ckpt-blocks knows of the image, what is read is compared with the sums of its blocks, so that
 * blocks are read whole; compressed ones and pages that are stored once for several places are put together here. Images of
 * which nothing is known are plain.
 */
#include "lib/image/pagein.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include "lib/image/codec.h"
#include "lib/image/pages_reader.h"

#define SLOTS 16  /* decoded blocks that are kept: pages are often asked for one by one */
#define OTHERS 16 /* descriptors of images that pages refer to */

struct slot {
	uint32_t pages_id;
	uint64_t block;
	uint64_t used; /* when; 0: empty */
	bool own;      /* only the pages that are not elsewhere */
	char *data;
};

struct other {
	uint32_t pages_id;
	int fd;
};

struct pages_reader {
	struct blocks *blocks; /* NULL: there is no ckpt-blocks */
	bool verify;
	int dirfd;
	pthread_mutex_t lock; /* of what follows */
	uint64_t clock;
	struct slot slots[SLOTS];
	struct other others[OTHERS];
	unsigned n_others, next_other;
};

struct pagein {
	char name[IMG_NAME_MAX];
	uint32_t pages_id;
	int fd;
	uint64_t n_pages;
	struct pages_reader *reader;
	const struct block_file *blocks; /* NULL: nothing is known */
};

/* ---- the folder's reader */

/* Is ckpt-blocks there, and of the same dump, if there was one? */
static int check_dump(struct op *op, const struct img_dir *dir, const struct blocks *b)
{
	if (!b && dir->packed)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image ckpt-blocks is missing: without it the pages cannot be read");
	if (!dir->sums || !dir->sums->blocks)
		return 0;
	if (!b)
		return op_fail(op, CKPT_E_IMAGE, AT(.hint = "the folder is not a whole checkpoint"), "image ckpt-blocks is missing");
	if (b->dump != dir->sums->dump)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image ckpt-blocks does not belong to this checkpoint: it is of another dump");
	return 0;
}

static int load(struct op *op, struct img_dir *dir, struct pages_reader *rd)
{
	int r;

	if (rd->verify)
		r = img_dir_sums(op, dir);
	else
		r = 0;
	if (r < 0)
		return r;
	r = blocks_read(op, dir->fd, &rd->blocks);
	if (r == IMG_ABSENT)
		log_debug(op, "there is no ckpt-blocks: pages are read without verification");
	if (r < 0 && !rd->verify && !dir->packed && op->err && ckpt_err_code(op->err) == CKPT_E_IMAGE) {
		log_warn(op, "%s", ckpt_err_message(op->err)); /* whatever was plain can still be read */
		op_forget(op);
		r = 0;
	}
	return r < 0 ? r : check_dump(op, dir, rd->blocks);
}

int pages_reader_get(struct op *op, struct img_dir *dir, struct pages_reader **ret)
{
	struct pages_reader *rd = dir->reader;
	int r;

	*ret = rd;
	if (rd)
		return 0;
	rd = calloc(1, sizeof(*rd));
	if (!rd)
		return op_nomem(op);
	rd->verify = !op->opts->no_verify;
	rd->dirfd = dir->fd;
	pthread_mutex_init(&rd->lock, NULL);
	r = load(op, dir, rd);
	if (r < 0) {
		blocks_free(rd->blocks);
		free(rd);
		return r;
	}
	dir->reader = *ret = rd;
	return 0;
}

const struct blocks *pages_reader_blocks(const struct pages_reader *rd)
{
	return rd->blocks;
}

void pages_reader_free(struct img_dir *dir)
{
	struct pages_reader *rd = TAKE_PTR(dir->reader);

	if (!rd)
		return;
	for (unsigned i = 0; i < rd->n_others; i++)
		close(rd->others[i].fd);
	for (unsigned i = 0; i < SLOTS; i++)
		free(rd->slots[i].data);
	blocks_free(rd->blocks);
	pthread_mutex_destroy(&rd->lock);
	free(rd);
}

/* ---- bytes of a file */

static int read_bytes(struct op *op, int fd, const char *name, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t r = pread(fd, (char *)buf + done, len - done, (off_t)(off + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "pages"), "read image %s", name);
		if (r == 0)
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "image %s became shorter", name);
		done += (size_t)r;
	}
	return 0;
}

static int damaged(struct op *op, const struct block_record *r, const char *what)
{
	uint64_t first = r->block * BLOCK_PAGES;

	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "image pages-%u.img is damaged: pages %lu to %lu %s", r->pages_id,
		       first, first + r->n_pages - 1, what);
}

/* ---- one block */

/* @seal: see block_seal(). */
static int check_block(struct op *op, const struct pages_reader *rd, const struct block_record *r, const void *pages,
		       uint64_t seal)
{
	if (!rd->verify || (block_sum_of(r, pages) ^ seal) == r->sum)
		return 0;
	return damaged(op, r, "are not what was written");
}

static bool is_simple(const struct block_record *r)
{
	return r->codec == BLOCK_PLAIN && !r->dups;
}

static unsigned n_refs(const struct block_record *r)
{
	return (unsigned)__builtin_popcount(r->dups);
}

/*
 * The pages of a block that are not elsewhere, one after the other: all, unless it has references, which come to @refs
 * (NULL: skipped). @tmp has room for a block.
 */
static int unpack(struct op *op, int fd, const char *name, const struct block_record *r, char *tmp, char *to,
		  struct block_ref *refs, uint64_t *seal)
{
	size_t n = n_refs(r) * sizeof(*refs), left = (r->n_pages - n_refs(r)) * (size_t)PAGE_SIZE;
	int e;

	*seal = 0;
	if (is_simple(r) && r->stored == left)
		return read_bytes(op, fd, name, to, left, r->offset);
	if (r->stored < n)
		return damaged(op, r, "have no room for their references");
	e = read_bytes(op, fd, name, tmp, r->stored, r->offset);
	if (e)
		return e;
	*seal = block_seal(r, tmp);
	if (refs)
		memcpy(refs, tmp, n);
	if (left ? !codec_unpack(r->codec, tmp + n, r->stored - n, to, left) : r->stored != n)
		return damaged(op, r, "cannot be decompressed");
	return 0;
}

/* Descriptor of the image that pages of another one refer to. With the lock. */
static int other_fd(struct op *op, struct pages_reader *rd, uint32_t pages_id, const char *name)
{
	struct other *o;
	int fd;

	for (unsigned i = 0; i < rd->n_others; i++)
		if (rd->others[i].pages_id == pages_id)
			return rd->others[i].fd;
	fd = openat(rd->dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0)
		return op_errno(op, errno, AT(.kind = "pages"), "open image %s", name);
	if (rd->n_others < OTHERS) {
		o = &rd->others[rd->n_others++];
	} else {
		o = &rd->others[rd->next_other++ % OTHERS];
		close(o->fd);
	}
	*o = (struct other){ pages_id, fd };
	return fd;
}

/* @own: without the pages that are elsewhere. */
static struct slot *slot_find(struct pages_reader *rd, const struct block_record *r, bool own)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		struct slot *s = &rd->slots[i];

		if (s->used && s->pages_id == r->pages_id && s->block == r->block && s->own == own) {
			s->used = ++rd->clock;
			return s;
		}
	}
	return NULL;
}

/* The one that was not used for longest, emptied. NULL when out of memory. */
static struct slot *slot_take(struct pages_reader *rd)
{
	struct slot *s = &rd->slots[0];

	for (unsigned i = 1; i < SLOTS; i++)
		if (rd->slots[i].used < s->used)
			s = &rd->slots[i];
	if (!s->data)
		s->data = malloc(BLOCK_BYTES);
	s->used = 0;
	return s->data ? s : NULL;
}

static void slot_set(struct pages_reader *rd, struct slot *s, const struct block_record *r, bool own)
{
	s->own = own;
	s->pages_id = r->pages_id;
	s->block = r->block;
	s->used = ++rd->clock;
}

/* A block that others refer to, as far as it is itself stored. With the lock. */
static int referred_block(struct op *op, struct pages_reader *rd, const struct block_record *r, char *tmp, struct slot **ret)
{
	bool own = r->dups;
	char name[IMG_NAME_MAX];
	uint64_t seal;
	int fd, e;

	*ret = slot_find(rd, r, own);
	if (*ret)
		return 0;
	*ret = slot_take(rd);
	if (!*ret)
		return op_nomem(op);
	img_name(IMG_PAGES, r->pages_id, name, sizeof(name));
	fd = other_fd(op, rd, r->pages_id, name);
	if (fd < 0)
		return fd;
	e = unpack(op, fd, name, r, tmp, (*ret)->data, NULL, &seal);
	if (!e && !own) /* else the sum of who refers to it tells */
		e = check_block(op, rd, r, (*ret)->data, seal);
	if (!e)
		slot_set(rd, *ret, r, own);
	return e;
}

/* A page that others refer to: it is itself stored, or the reference is a lie. With the lock. */
static int referred_page(struct op *op, struct pages_reader *rd, const struct block_record *from, const struct block_ref *ref,
			 char *tmp, char *to)
{
	const struct block_file *f = blocks_file(rd->blocks, ref->pages_id);
	unsigned k = ref->page % BLOCK_PAGES, at;
	const struct block_record *r;
	struct slot *s;
	int e;

	if (!f || ref->page >= f->n_pages)
		return damaged(op, from, "refer to pages that there are not");
	r = &f->v[ref->page / BLOCK_PAGES];
	if (r->dups >> k & 1 || r->punched >> k & 1)
		return damaged(op, from, "refer to pages that are not stored");
	at = k - (unsigned)__builtin_popcount(r->dups & ((1u << k) - 1));
	e = referred_block(op, rd, r, tmp, &s);
	if (!e)
		memcpy(to, s->data + at * PAGE_SIZE, PAGE_SIZE);
	return e;
}

/* A block some pages of which are elsewhere. */
static int gather(struct op *op, struct pagein *in, const struct block_record *r, char *tmp, char *to, uint64_t *seal)
{
	_cleanup_free_ char *own = malloc(BLOCK_BYTES);
	struct block_ref refs[BLOCK_PAGES];
	unsigned ref = 0, at = 0;
	int e = own ? unpack(op, in->fd, in->name, r, tmp, own, refs, seal) : op_nomem(op);

	pthread_mutex_lock(&in->reader->lock);
	for (unsigned k = 0; k < r->n_pages && !e; k++) {
		if (r->dups >> k & 1)
			e = referred_page(op, in->reader, r, &refs[ref++], tmp, to + k * PAGE_SIZE);
		else
			memcpy(to + k * PAGE_SIZE, own + at++ * PAGE_SIZE, PAGE_SIZE);
	}
	pthread_mutex_unlock(&in->reader->lock);
	return e;
}

static int read_block(struct op *op, struct pagein *in, const struct block_record *r, char *tmp, char *to)
{
	uint64_t seal = 0;
	int e = r->dups ? gather(op, in, r, tmp, to, &seal) : unpack(op, in->fd, in->name, r, tmp, to, NULL, &seal);

	return e ?: check_block(op, in->reader, r, to, seal);
}

/* ---- pages */

static bool from_cache(struct pagein *in, const struct block_record *r, unsigned k, size_t n, char *to)
{
	struct slot *s;

	pthread_mutex_lock(&in->reader->lock);
	s = slot_find(in->reader, r, false);
	if (s)
		memcpy(to, s->data + k * PAGE_SIZE, n * PAGE_SIZE);
	pthread_mutex_unlock(&in->reader->lock);
	return s;
}

static void to_cache(struct pagein *in, const struct block_record *r, const char *data)
{
	struct slot *s;

	pthread_mutex_lock(&in->reader->lock);
	s = slot_take(in->reader);
	if (s) {
		memcpy(s->data, data, r->n_pages * PAGE_SIZE);
		slot_set(in->reader, s, r, false);
	}
	pthread_mutex_unlock(&in->reader->lock);
}

/* Pages [@k, @k + @n) of a block. @tmp has room for two. */
static int read_part(struct op *op, struct pagein *in, const struct block_record *r, unsigned k, size_t n, char *tmp, char *to)
{
	int e;

	if (r->punched >> k & ((1u << n) - 1))
		return damaged(op, r, "were freed by deduplication, at least some of those that are needed");
	if (n == r->n_pages)
		return read_block(op, in, r, tmp, to);
	if (from_cache(in, r, k, n, to))
		return 0;
	e = read_block(op, in, r, tmp, tmp + BLOCK_BYTES);
	if (e)
		return e;
	memcpy(to, tmp + BLOCK_BYTES + k * PAGE_SIZE, n * PAGE_SIZE);
	to_cache(in, r, tmp + BLOCK_BYTES);
	return 0;
}

/* As many whole plain blocks from @r on as there are within @n pages: read at once. Returns how many, in *@done pages. */
static int read_run(struct op *op, struct pagein *in, const struct block_record *r, size_t n, char *to, size_t *done)
{
	const struct block_record *end = in->blocks->v + in->blocks->n, *at = r;
	size_t pages = 0;
	int e;

	while (at < end && at->n_pages <= n - pages && is_simple(at) && !at->punched &&
	       at->offset == r->offset + pages * PAGE_SIZE && at->stored == at->n_pages * PAGE_SIZE)
		pages += at++->n_pages;
	*done = pages;
	e = pages ? read_bytes(op, in->fd, in->name, to, pages * PAGE_SIZE, r->offset) : 0;
	for (; r < at && !e; r++, to += BLOCK_BYTES)
		e = check_block(op, in->reader, r, to, 0);
	return e;
}

static int read_blocks(struct op *op, struct pagein *in, uint64_t first, size_t n, char *to)
{
	_cleanup_free_ char *tmp = NULL;
	int e = 0;

	while (n && !e) {
		const struct block_record *r = &in->blocks->v[first / BLOCK_PAGES];
		unsigned k = first % BLOCK_PAGES;
		size_t done = 0;

		if (k == 0)
			e = read_run(op, in, r, n, to, &done);
		if (!e && !done) {
			if (!tmp && !(tmp = malloc(2 * BLOCK_BYTES)))
				return op_nomem(op);
			done = MIN(n, (size_t)r->n_pages - k);
			e = read_part(op, in, r, k, done, tmp, to);
		}
		first += done;
		to += done * PAGE_SIZE;
		n -= done;
	}
	return e;
}

int pagein_read(struct op *op, struct pagein *in, uint64_t first, size_t n, void *buf)
{
	if (first > in->n_pages || n > in->n_pages - first)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "image %s has %lu pages, and page %lu is asked for", in->name,
			       in->n_pages, first + n - 1);
	if (in->blocks && (in->reader->verify || !in->blocks->plain))
		return read_blocks(op, in, first, n, buf);
	return read_bytes(op, in->fd, in->name, buf, n * PAGE_SIZE, first * PAGE_SIZE);
}

int pagein_check(struct op *op, struct pagein *in, uint64_t block, size_t n_blocks, void *buf)
{
	const struct block_record *r = in->blocks->v + block, *end = r + n_blocks;
	_cleanup_free_ char *tmp = NULL;
	char *to = buf;
	int e = 0;

	while (r < end && !e) {
		size_t done = 0;

		e = read_run(op, in, r, (end - r) * BLOCK_PAGES, to, &done);
		if (!e && !done && !tmp && !(tmp = malloc(2 * BLOCK_BYTES)))
			return op_nomem(op);
		if (!e && !done) {
			e = read_block(op, in, r, tmp, to);
			done = r->n_pages;
		}
		r += (done + BLOCK_PAGES - 1) / BLOCK_PAGES;
		to += ALIGN_UP(done, (size_t)BLOCK_PAGES) * PAGE_SIZE;
	}
	return e;
}

/* ---- opening */

/* Does the file have what the records say? */
static int check_size(struct op *op, const struct pagein *in, uint64_t size)
{
	const struct block_file *f = in->blocks;

	if (f->plain && size != f->n_pages * PAGE_SIZE)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"),
			       "image %s is damaged: it has %lu bytes, and had %lu when it was written", in->name, size,
			       f->n_pages * PAGE_SIZE);
	for (size_t i = 0; !f->plain && i < f->n; i++)
		if (f->v[i].offset > size || f->v[i].stored > size - f->v[i].offset)
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"),
				       "image %s is damaged: it ends at %lu bytes, before page %lu", in->name, size,
				       f->v[i].block * BLOCK_PAGES);
	return 0;
}

int pagein_open(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pagein **ret)
{
	struct pagein *in = op_new(op, struct pagein);
	uint64_t size;
	int r;

	if (!in)
		return CKPT_E_NOMEM;
	in->pages_id = pages_id;
	img_name(IMG_PAGES, pages_id, in->name, sizeof(in->name));
	r = pages_reader_get(op, dir, &in->reader);
	r = r ?: img_open_pages(op, dir, pages_id, &in->fd, &size);
	if (r)
		return r;
	in->n_pages = size / PAGE_SIZE;
	in->blocks = in->reader->blocks ? blocks_file(in->reader->blocks, pages_id) : NULL;
	if (in->blocks) {
		if (in->reader->verify || !in->blocks->plain) {
			in->n_pages = in->blocks->n_pages;
			r = check_size(op, in, size);
		}
	} else if (size && in->reader->verify && dir->sums && dir->sums->blocks) {
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"),
			    "image %s does not belong to this checkpoint: its ckpt-blocks does not know it", in->name);
	}
	if (r) {
		pagein_close(in);
		return r;
	}
	*ret = in;
	return 0;
}

struct pagein *pagein_close(struct pagein *in)
{
	if (!in)
		return NULL;
	close_fd_p(&in->fd);
	in->fd = -1;
	return NULL;
}

uint64_t pagein_pages(const struct pagein *in)
{
	return in->n_pages;
}

int pagein_plain(const struct pagein *in)
{
	return in->blocks && !in->blocks->plain ? -1 : in->fd;
}

const struct block_file *pagein_blocks(const struct pagein *in)
{
	return in->reader->verify ? in->blocks : NULL;
}

const char *pagein_name(const struct pagein *in)
{
	return in->name;
}
