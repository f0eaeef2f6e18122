/* SPDX-License-Identifier: MIT */
#include "lib/state/mount/tar.h"

#include "lib/kernel/proc/scan.h"
#include "lib/state/mount/tar_head.h"

#define PAX_MAX (1u << 20)     /* an extended head: names and attributes of one file */
#define EXTENTS_MAX (1u << 20)
#define XATTRS_MAX 1024

struct tar_in {
	tar_read_fn *read;
	void *arg;
	uint64_t left; /* data of the entry that was not read yet */
	unsigned pad;  /* and what follows that, up to the next block */
	const char *why;
	char *pax; /* the extended head */
	size_t pax_size, pax_cap;
	bool has_path, has_link, has_size, has_uid, has_gid, has_mtime; /* what it said */
	bool sparse_file;
	uint64_t size, real_size;
	struct tar_entry e;
	size_t extents_cap;
	struct tar_xattr xattrs[XATTRS_MAX];
};

struct tar_in *tar_open(tar_read_fn *read, void *arg)
{
	struct tar_in *in = calloc(1, sizeof(*in));

	if (in) {
		in->read = read;
		in->arg = arg;
	}
	return in;
}

struct tar_in *tar_close(struct tar_in *in)
{
	if (in) {
		free(in->pax);
		free(in->e.extents);
	}
	free(in);
	return NULL;
}

const char *tar_why(const struct tar_in *in)
{
	return in->why ?: "";
}

static int bad(struct tar_in *in, const char *why)
{
	in->why = why;
	return -1;
}

/* All of it, or it is damaged. */
static int take(struct tar_in *in, void *buf, size_t n)
{
	return in->read(in->arg, buf, n) == (ssize_t)n ? 0 : bad(in, "it is cut off, or cannot be unpacked");
}

/* ------------------------------------------------------------------------------------------------- numbers */

/* Octal, or with the top bit set binary: GNU's way for what is too big. */
static int number(struct tar_in *in, const char *field, size_t n, uint64_t *out)
{
	struct scan s = SCAN(field, n);

	*out = 0;
	if ((uint8_t)*field == 0x80) {
		for (size_t i = 1; i < n; i++) {
			if (*out >> 56)
				return bad(in, "a number is too big");
			*out = *out << 8 | (uint8_t)field[i];
		}
		return 0;
	}
	scan_blanks(&s);
	if (scan_end(&s) || !*s.p)
		return 0;
	if (!scan_number(&s, 8, out) || (!scan_end(&s) && *s.p && *s.p != ' '))
		return bad(in, "a number makes no sense");
	return 0;
}

static int number32(struct tar_in *in, const char *field, size_t n, uint32_t *out)
{
	uint64_t v;

	if (number(in, field, n, &v))
		return -1;
	*out = (uint32_t)v;
	return v > UINT32_MAX ? bad(in, "a number is too big") : 0;
}

/* "-12.5": seconds and a fraction of them. */
static bool parse_time(struct scan s, struct timespec *t)
{
	bool minus = scan_char(&s, '-');
	uint64_t sec, unit = 100000000;

	if (!scan_u64(&s, &sec) || sec > INT64_MAX)
		return false;
	*t = (struct timespec){ .tv_sec = minus ? -(int64_t)sec : (int64_t)sec };
	if (scan_char(&s, '.'))
		for (; !scan_end(&s) && scan_digit(*s.p) < 10; s.p++, unit /= 10)
			t->tv_nsec += (long)((uint64_t)scan_digit(*s.p) * unit);
	if (minus && t->tv_nsec) {
		t->tv_sec--;
		t->tv_nsec = 1000000000 - t->tv_nsec;
	}
	return scan_end(&s);
}

/* --------------------------------------------------------------------------------------------------- names */

/* @p, of @n bytes, without what it does not need: "./a//b/" is "a/b". */
static int clean(struct tar_in *in, const char *p, size_t n, char out[TAR_NAME_MAX])
{
	struct scan s = SCAN(p, n);
	size_t len = 0;

	while (!scan_end(&s)) {
		struct scan part = scan_until(&s, '/');
		size_t size = SCAN_LEN(&part);

		if (!size || scan_is(&part, "."))
			continue;
		if (scan_is(&part, "..") || memchr(part.p, 0, size))
			return bad(in, "a name leads out of it");
		if (len + size + 2 > TAR_NAME_MAX)
			return bad(in, "a name is too long");
		if (len)
			out[len++] = '/';
		memcpy(out + len, part.p, size);
		len += size;
	}
	out[len] = 0;
	return 0;
}

static int copy(struct tar_in *in, const char *p, size_t n, char out[TAR_NAME_MAX])
{
	if (n >= TAR_NAME_MAX || memchr(p, 0, n))
		return bad(in, "the target of a link makes no sense");
	memcpy(out, p, n);
	out[n] = 0;
	return 0;
}

/* --------------------------------------------------------------------------------------------- extended heads */

static int read_long(struct tar_in *in, uint64_t size)
{
	if (size > PAX_MAX)
		return bad(in, "an extended head is too long");
	if (in->pax_cap < size + TAR_BLOCK_SIZE) {
		char *p = realloc(in->pax, size + TAR_BLOCK_SIZE);

		if (!p)
			return bad(in, "out of memory");
		in->pax = p;
		in->pax_cap = size + TAR_BLOCK_SIZE;
	}
	in->pax_size = size;
	return take(in, in->pax, ALIGN_UP(size, TAR_BLOCK_SIZE));
}

static int pax_sparse(struct tar_in *in, const struct scan *key, struct scan value)
{
	uint64_t n;

	if (scan_is(key, "GNU.sparse.name")) {
		in->has_path = true;
		return clean(in, value.p, SCAN_LEN(&value), in->e.path);
	}
	if (!scan_u64(&value, &n) || !scan_end(&value))
		return bad(in, "a sparse file is of an unknown form");
	if (scan_is(key, "GNU.sparse.realsize"))
		in->real_size = n;
	else if (scan_is(key, "GNU.sparse.major") ? n != 1 : !scan_is(key, "GNU.sparse.minor"))
		return bad(in, "a sparse file is of an unknown form");
	in->sparse_file = true;
	return 0;
}

static int pax_xattr(struct tar_in *in, const char *key, const struct scan *value)
{
	if (in->e.n_xattrs == XATTRS_MAX)
		return bad(in, "a file has too many attributes");
	in->xattrs[in->e.n_xattrs++] = (struct tar_xattr){ key, value->p, SCAN_LEN(value) };
	return 0;
}

static int pax_id(struct tar_in *in, struct scan value, uint32_t *id, bool *has)
{
	*has = true;
	return scan_u32(&value, 10, id) && scan_end(&value) ? 0 : bad(in, "a number makes no sense");
}

static int pax_record(struct tar_in *in, char *key_text, struct scan value)
{
	struct scan key = SCAN(key_text, strlen(key_text)), rest = key;

	if (scan_lit(&rest, "SCHILY.xattr."))
		return pax_xattr(in, rest.p, &value);
	if (scan_lit(&rest, "GNU.sparse."))
		return pax_sparse(in, &key, value);
	if (scan_is(&key, "path")) {
		if (in->sparse_file)
			return 0;
		in->has_path = true;
		return clean(in, value.p, SCAN_LEN(&value), in->e.path);
	}
	if (scan_is(&key, "linkpath")) {
		in->has_link = true;
		return copy(in, value.p, SCAN_LEN(&value), in->e.link);
	}
	if (scan_is(&key, "size")) {
		in->has_size = true;
		return scan_u64(&value, &in->size) && scan_end(&value) ? 0 : bad(in, "a size makes no sense");
	}
	if (scan_is(&key, "mtime")) {
		in->has_mtime = true;
		return parse_time(value, &in->e.mtime) ? 0 : bad(in, "a time makes no sense");
	}
	if (scan_is(&key, "uid"))
		return pax_id(in, value, &in->e.uid, &in->has_uid);
	if (scan_is(&key, "gid"))
		return pax_id(in, value, &in->e.gid, &in->has_gid);
	return 0; /* access times, comments, names of users */
}

/* "LENGTH KEY=VALUE\n", one after the other. Keys get an end where the '=' was. */
static int pax(struct tar_in *in)
{
	char *p = in->pax, *end = in->pax + in->pax_size;

	while (p < end) {
		struct scan s = SCAN(p, (size_t)(end - p));
		uint64_t n;
		char *key, *eq;

		if (!scan_u64(&s, &n) || !scan_char(&s, ' ') || n > (size_t)(end - p) || p + n <= s.p || p[n - 1] != '\n')
			return bad(in, "an extended head is damaged");
		key = (char *)s.p;
		eq = memchr(key, '=', (size_t)(p + n - 1 - key));
		if (!eq || eq == key || memchr(key, 0, (size_t)(eq - key)))
			return bad(in, "an extended head is damaged");
		*eq = 0;
		if (pax_record(in, key, SCAN(eq + 1, (size_t)(p + n - 1 - (eq + 1)))))
			return -1;
		p += n;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------ sparse files */

static int add_extent(struct tar_in *in, uint64_t offset, uint64_t size)
{
	struct tar_entry *e = &in->e;
	uint64_t from = e->n_extents ? e->extents[e->n_extents - 1].offset + e->extents[e->n_extents - 1].size : 0;

	if (offset < from || offset > e->size || size > e->size - offset || e->n_extents == EXTENTS_MAX)
		return bad(in, "a sparse file makes no sense");
	if (e->n_extents == in->extents_cap) {
		size_t cap = in->extents_cap ? 2 * in->extents_cap : 64;
		void *p = realloc(e->extents, cap * sizeof(*e->extents));

		if (!p)
			return bad(in, "out of memory");
		e->extents = p;
		in->extents_cap = cap;
	}
	e->extents[e->n_extents++] = (struct tar_extent){ offset, size };
	return 0;
}

/* A number and a newline, out of blocks that are read when they are needed. */
static int map_number(struct tar_in *in, struct scan *block, char buf[TAR_BLOCK_SIZE], uint64_t *out)
{
	unsigned digits = 0;

	for (*out = 0;;) {
		int d;

		if (scan_end(block)) {
			if (in->left < TAR_BLOCK_SIZE)
				return bad(in, "a sparse file is cut off");
			if (take(in, buf, TAR_BLOCK_SIZE))
				return -1;
			in->left -= TAR_BLOCK_SIZE;
			*block = SCAN(buf, TAR_BLOCK_SIZE);
		}
		if (scan_char(block, '\n'))
			return digits ? 0 : bad(in, "a sparse file makes no sense");
		d = scan_digit(*block->p++);
		if (d > 9 || ++digits > 18)
			return bad(in, "a sparse file makes no sense");
		*out = *out * 10 + (uint64_t)d;
	}
}

static int read_map(struct tar_in *in)
{
	char buf[TAR_BLOCK_SIZE];
	struct scan block = { buf, buf };
	uint64_t n, offset, size;

	if (map_number(in, &block, buf, &n))
		return -1;
	while (n--)
		if (map_number(in, &block, buf, &offset) || map_number(in, &block, buf, &size) || add_extent(in, offset, size))
			return -1;
	return 0;
}

static int gnu_extent(struct tar_in *in, const char offset[12], const char size[12])
{
	uint64_t o, n;

	if (!*offset)
		return 0;
	if (number(in, offset, 12, &o) || number(in, size, 12, &n))
		return -1;
	return add_extent(in, o, n);
}

static int read_gnu_map(struct tar_in *in, const struct tar_head *h)
{
	struct tar_sparse_block b = { .more = h->gnu.more };

	for (size_t i = 0; i < ARRAY_SIZE(h->gnu.sparse); i++)
		if (gnu_extent(in, h->gnu.sparse[i].offset, h->gnu.sparse[i].size))
			return -1;
	while (b.more) {
		if (take(in, &b, sizeof(b)))
			return -1;
		for (size_t i = 0; i < ARRAY_SIZE(b.sparse); i++)
			if (gnu_extent(in, b.sparse[i].offset, b.sparse[i].size))
				return -1;
	}
	return 0;
}

/* The data must be what the extents hold. */
static int check_extents(struct tar_in *in)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < in->e.n_extents; i++)
		sum += in->e.extents[i].size;
	return sum == in->left ? 0 : bad(in, "a sparse file makes no sense");
}

/* --------------------------------------------------------------------------------------------------- entries */

static bool all_zero(const struct tar_head *h)
{
	for (size_t i = 0; i < sizeof(*h); i++)
		if (((const char *)h)[i])
			return false;
	return true;
}

static int check_sum(struct tar_in *in, const struct tar_head *h)
{
	size_t from = offsetof(struct tar_head, sum), to = from + sizeof(h->sum);
	uint64_t want, sum = 0;

	for (size_t i = 0; i < sizeof(*h); i++)
		sum += i >= from && i < to ? ' ' : ((const uint8_t *)h)[i];
	if (number(in, h->sum, sizeof(h->sum), &want))
		return -1;
	return want == sum ? 0 : bad(in, "the head of a file is damaged");
}

/* Skips what is left of the last entry, and forgets it. */
static int leave(struct tar_in *in)
{
	char buf[4096];

	while (in->left) {
		size_t n = (size_t)MIN(in->left, sizeof(buf));

		if (take(in, buf, n))
			return -1;
		in->left -= n;
	}
	if (in->pad && take(in, buf, in->pad))
		return -1;
	in->pad = 0;
	in->has_path = in->has_link = in->has_size = in->has_uid = in->has_gid = in->has_mtime = in->sparse_file = false;
	in->real_size = 0;
	in->e.n_extents = in->e.n_xattrs = 0;
	in->e.path[0] = in->e.link[0] = 0;
	in->e.sparse = false;
	return 0;
}

static int head_name(struct tar_in *in, const struct tar_head *h)
{
	char text[sizeof(h->prefix) + sizeof(h->name) + 2];

	if (memcmp(h->magic, "ustar\0", 6) == 0 && h->prefix[0])
		snprintf(text, sizeof(text), "%.155s/%.100s", h->prefix, h->name);
	else
		snprintf(text, sizeof(text), "%.100s", h->name);
	return clean(in, text, strlen(text), in->e.path);
}

static int entry_type(struct tar_in *in, char type)
{
	static const char types[] = "0123456";

	if (!type || type == '7' || type == 'S')
		type = '0';
	if (type < '0' || type > '6')
		return bad(in, "a file is of an unknown kind");
	in->e.type = (int[]){ TAR_FILE, TAR_LINK, TAR_SYMLINK, TAR_CHAR, TAR_BLOCK, TAR_FOLDER, TAR_FIFO }[strchr(types, type) - types];
	return 0;
}

static int entry_numbers(struct tar_in *in, const struct tar_head *h)
{
	struct tar_entry *e = &in->e;
	uint64_t time;
	int r = number32(in, h->mode, sizeof(h->mode), &e->mode);

	e->mode &= 07777;
	if (!in->has_size)
		r = r ?: number(in, h->size, sizeof(h->size), &in->size);
	if (!in->has_uid)
		r = r ?: number32(in, h->uid, sizeof(h->uid), &e->uid);
	if (!in->has_gid)
		r = r ?: number32(in, h->gid, sizeof(h->gid), &e->gid);
	if (!in->has_mtime && !r) {
		r = number(in, h->mtime, sizeof(h->mtime), &time);
		e->mtime = (struct timespec){ .tv_sec = (time_t)MIN(time, (uint64_t)INT64_MAX) };
	}
	e->major = e->minor = 0;
	if (e->type == TAR_CHAR || e->type == TAR_BLOCK)
		r = r ?: number32(in, h->major, sizeof(h->major), &e->major) ?: number32(in, h->minor, sizeof(h->minor), &e->minor);
	return r;
}

/* A link to a file is one to a place in the archive, too. */
static int entry_link(struct tar_in *in, const struct tar_head *h)
{
	struct tar_entry *e = &in->e;
	char *text;
	int r = in->has_link ? 0 : copy(in, h->link, strnlen(h->link, sizeof(h->link)), e->link);

	if (r || e->type != TAR_LINK)
		return r;
	text = strdup(e->link);
	r = text ? clean(in, text, strlen(text), e->link) : bad(in, "out of memory");
	free(text);
	return r;
}

static int entry_data(struct tar_in *in, const struct tar_head *h)
{
	struct tar_entry *e = &in->e;
	bool gnu = h->type == 'S';

	e->xattrs = in->xattrs;
	if (e->type != TAR_FILE)
		in->size = 0;
	if (in->size > INT64_MAX || in->real_size > INT64_MAX)
		return bad(in, "a size is too big");
	in->left = in->size;
	in->pad = (unsigned)(-in->size % TAR_BLOCK_SIZE);
	e->size = in->size;
	e->sparse = e->type == TAR_FILE && (gnu || in->sparse_file);
	if (!e->sparse)
		return 0;
	if (gnu && number(in, h->gnu.real_size, sizeof(h->gnu.real_size), &in->real_size))
		return -1;
	e->size = in->real_size;
	if (e->size > INT64_MAX)
		return bad(in, "a size is too big");
	return (gnu ? read_gnu_map(in, h) : read_map(in)) ?: check_extents(in);
}

/* Heads that say something of the next one. 1: it was one of those. */
static int extension(struct tar_in *in, const struct tar_head *h)
{
	uint64_t size;

	if (!h->type || !strchr("xgLK", h->type))
		return 0;
	if (number(in, h->size, sizeof(h->size), &size))
		return -1;
	if (h->type == 'x') {
		if (in->e.n_xattrs || in->has_path || in->has_mtime)
			return bad(in, "a file has two extended heads"); /* the attributes would point into the first */
		return read_long(in, size) || pax(in) ? -1 : 1;
	}
	if (in->e.n_xattrs)
		return bad(in, "an extended head is in the wrong place");
	if (read_long(in, size))
		return -1;
	if (h->type == 'g')
		return 1;
	*(h->type == 'L' ? &in->has_path : &in->has_link) = true;
	size = strnlen(in->pax, in->pax_size);
	return (h->type == 'L' ? clean(in, in->pax, size, in->e.path) : copy(in, in->pax, size, in->e.link)) ? -1 : 1;
}

int tar_next(struct tar_in *in, const struct tar_entry **ret)
{
	struct tar_head h;
	int r = leave(in);

	*ret = &in->e;
	while (!r) {
		ssize_t n = in->read(in->arg, &h, sizeof(h));

		if (n == 0 || (n == sizeof(h) && all_zero(&h)))
			return 0;
		if (n != sizeof(h))
			return bad(in, "it is cut off, or cannot be unpacked");
		r = check_sum(in, &h) ?: extension(in, &h);
		if (r <= 0)
			break;
		r = 0;
	}
	if (r)
		return -1;
	r = (in->has_path ? 0 : head_name(in, &h)) ?: entry_type(in, h.type) ?: entry_numbers(in, &h) ?: entry_link(in, &h) ?:
	    entry_data(in, &h);
	return r ? -1 : 1;
}

ssize_t tar_data(struct tar_in *in, void *buf, size_t n)
{
	n = (size_t)MIN(in->left, n);
	if (n && take(in, buf, n))
		return -1;
	in->left -= n;
	return (ssize_t)n;
}
