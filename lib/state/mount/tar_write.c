/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "lib/state/mount/gzip.h"
#include "lib/state/mount/tar.h"
#include "lib/state/mount/tar_head.h"

#define BUF (128u << 10) /* twice what attributes can be */
#define LINKS 1024
#define ID_MAX 07777777u     /* what fits into a head */
#define SIZE_MAX_OCTAL 077777777777ull

/* A file that has other names, and its first. */
struct link {
	struct link *next;
	ino_t ino;
	const char *path;
};

struct text {
	char *p;
	size_t n, cap;
};

struct walk {
	struct op *op;
	struct gz_out *gz;
	dev_t dev;
	char path[TAR_NAME_MAX]; /* "./a/b": of what is being looked at */
	struct link *links[LINKS];
	struct text pax; /* what does not fit into the head of the entry */
	char *buf;
};

static int fail(struct walk *w, const char *what)
{
	return op_errno(w->op, errno, AT(.kind = "tmpfs"), "%s %s", what, w->path);
}

/* ------------------------------------------------------------------------------------------ extended heads */

static char *room(struct walk *w, size_t n)
{
	struct text *t = &w->pax;

	if (t->cap - t->n < n) {
		size_t cap = MAX(2 * t->cap, t->n + n);
		char *p = realloc(t->p, cap);

		if (!p)
			return NULL;
		t->p = p;
		t->cap = cap;
	}
	t->n += n;
	return t->p + t->n - n;
}

/* "LENGTH KEY=VALUE\n"; the length counts its own digits, too. */
static int pax(struct walk *w, const char *prefix, const char *key, const void *value, size_t size)
{
	size_t rest = 1 + strlen(prefix) + strlen(key) + 1 + size + 1, n = rest + 1;
	char digits[24], *p;

	while (n != rest + (size_t)snprintf(digits, sizeof(digits), "%zu", n))
		n = rest + strlen(digits);
	p = room(w, n);
	if (!p)
		return op_nomem(w->op);
	p += sprintf(p, "%s %s%s", digits, prefix, key);
	*p++ = '=';
	memcpy(p, value, size);
	p[size] = '\n';
	return 0;
}

static int pax_text(struct walk *w, const char *key, const char *value)
{
	return pax(w, "", key, value, strlen(value));
}

static int pax_number(struct walk *w, const char *key, uint64_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)n);
	return pax_text(w, key, text);
}

static int pax_time(struct walk *w, const struct timespec *t)
{
	char text[48];
	int64_t s = t->tv_sec;
	long ns = t->tv_nsec;

	if (s < 0 && ns) { /* the fraction is of the number, not of the second */
		s++;
		ns = 1000000000 - ns;
	}
	snprintf(text, sizeof(text), "%s%lld.%09ld", t->tv_sec < 0 ? "-" : "", (long long)llabs(s), ns);
	return pax_text(w, "mtime", text);
}

/* @name: of what is in the working directory. */
static int pax_xattrs(struct walk *w, const char *name)
{
	char *names = w->buf, *value = w->buf + BUF / 2;
	ssize_t n = llistxattr(name, names, BUF / 2), size;
	int r = 0;

	if (n < 0)
		return errno == EOPNOTSUPP ? 0 : fail(w, "list extended attributes of");
	for (const char *p = names; p < names + n && !r; p += strlen(p) + 1) {
		size = lgetxattr(name, p, value, BUF / 2);
		if (size < 0 && errno == ENODATA)
			continue;
		r = size < 0 ? fail(w, "read an extended attribute of") : pax(w, "SCHILY.xattr.", p, value, (size_t)size);
	}
	return r;
}

/* ---------------------------------------------------------------------------------------------------- heads */

static void octal(char *field, size_t n, uint64_t value)
{
	for (field[--n] = 0; n > 0; value >>= 3)
		field[--n] = (char)('0' + (value & 7));
}

static int pad(struct walk *w, uint64_t size)
{
	static const char zero[TAR_BLOCK_SIZE];
	size_t n = (size_t)(-size % TAR_BLOCK_SIZE);

	return n ? gz_write(w->gz, zero, n) : 0;
}

static int put_head(struct walk *w, struct tar_head *h)
{
	unsigned sum = 0;

	memcpy(h->magic, "ustar\00000", 8);
	memset(h->sum, ' ', sizeof(h->sum));
	for (size_t i = 0; i < sizeof(*h); i++)
		sum += ((const uint8_t *)h)[i];
	snprintf(h->sum, sizeof(h->sum), "%06o", sum);
	return gz_write(w->gz, h, sizeof(*h));
}

static int put_pax(struct walk *w)
{
	struct tar_head h = { .name = "./PaxHeaders/entry", .type = 'x' };
	size_t n = w->pax.n;

	if (!n)
		return 0;
	octal(h.mode, sizeof(h.mode), 0644);
	octal(h.uid, sizeof(h.uid), 0);
	octal(h.gid, sizeof(h.gid), 0);
	octal(h.size, sizeof(h.size), n);
	octal(h.mtime, sizeof(h.mtime), 0);
	w->pax.n = 0;
	return put_head(w, &h) ?: gz_write(w->gz, w->pax.p, n) ?: pad(w, n);
}

/* A text for a field of 100 bytes, and all of it for the extended head if it is longer. */
static int put_name(struct walk *w, char field[100], const char *key, const char *text)
{
	size_t n = strlen(text);

	memcpy(field, text, MIN(n, 100));
	return n <= 100 ? 0 : pax_text(w, key, text);
}

static int put_entry(struct walk *w, char type, const char *name, const char *link, const struct stat *st, uint64_t size)
{
	struct tar_head h = { .type = type };
	int r = put_name(w, h.name, "path", name) ?: put_name(w, h.link, "linkpath", link);

	octal(h.mode, sizeof(h.mode), st->st_mode & 07777);
	octal(h.uid, sizeof(h.uid), MIN(st->st_uid, ID_MAX));
	octal(h.gid, sizeof(h.gid), MIN(st->st_gid, ID_MAX));
	octal(h.size, sizeof(h.size), MIN(size, SIZE_MAX_OCTAL));
	octal(h.mtime, sizeof(h.mtime), MIN((uint64_t)MAX(st->st_mtim.tv_sec, 0), SIZE_MAX_OCTAL));
	if (type == '3' || type == '4') {
		octal(h.major, sizeof(h.major), major(st->st_rdev));
		octal(h.minor, sizeof(h.minor), minor(st->st_rdev));
	}
	if (!r && st->st_uid > ID_MAX)
		r = pax_number(w, "uid", st->st_uid);
	if (!r && st->st_gid > ID_MAX)
		r = pax_number(w, "gid", st->st_gid);
	if (!r && size > SIZE_MAX_OCTAL)
		r = pax_number(w, "size", size);
	if (!r && (st->st_mtim.tv_nsec || st->st_mtim.tv_sec < 0))
		r = pax_time(w, &st->st_mtim);
	return r ?: put_pax(w) ?: put_head(w, &h);
}

/* ---------------------------------------------------------------------------------------------------- files */

static int put_bytes(struct walk *w, int fd, uint64_t from, uint64_t n)
{
	int r = 0;

	while (n && !r) {
		ssize_t got = pread(fd, w->buf, MIN(n, BUF), (off_t)from);

		if (got < 0)
			return fail(w, "read");
		if (!got) { /* it was made shorter meanwhile, by somebody outside */
			got = (ssize_t)MIN(n, BUF);
			memset(w->buf, 0, (size_t)got);
		}
		r = gz_write(w->gz, w->buf, (size_t)got) ?: op_check_cancel(w->op);
		from += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return r;
}

typedef ARRAY(struct tar_extent) extent_list;

/* Where it has data. An end without data is an extent of no bytes there. */
static int find_extents(struct walk *w, int fd, uint64_t size, extent_list *out)
{
	uint64_t pos = 0;

	while (pos < size) {
		off_t data = lseek(fd, (off_t)pos, SEEK_DATA), hole;
		struct tar_extent *x;

		if (data < 0 && errno != ENXIO)
			return fail(w, "look for data in");
		if (data < 0 || (uint64_t)data >= size)
			break;
		hole = lseek(fd, data, SEEK_HOLE);
		x = hole < 0 ? NULL : ARRAY_ADD(w->op->arena, out);
		if (!x)
			return hole < 0 ? fail(w, "look for holes in") : op_nomem(w->op);
		x->offset = (uint64_t)data;
		pos = MIN((uint64_t)hole, size);
		x->size = pos - x->offset;
	}
	if (!out->n || out->v[out->n - 1].offset + out->v[out->n - 1].size < size) {
		struct tar_extent *x = ARRAY_ADD(w->op->arena, out);

		if (!x)
			return op_nomem(w->op);
		x->offset = size;
	}
	return 0;
}

/* GNU's form 1.0: the list of extents is in front of the data, and the name in the extended head. */
static int put_sparse(struct walk *w, int fd, const struct stat *st)
{
	extent_list list = { 0 };
	uint64_t data = 0;
	char *map, *p;
	size_t n;
	int r = find_extents(w, fd, (uint64_t)st->st_size, &list);

	map = p = r ? NULL : malloc(48 * (list.n + 1) + TAR_BLOCK_SIZE);
	if (!map)
		return r ?: op_nomem(w->op);
	p += sprintf(p, "%zu\n", list.n);
	for (size_t i = 0; i < list.n; i++) {
		p += sprintf(p, "%llu\n%llu\n", (unsigned long long)list.v[i].offset, (unsigned long long)list.v[i].size);
		data += list.v[i].size;
	}
	n = ALIGN_UP((size_t)(p - map), TAR_BLOCK_SIZE);
	memset(p, 0, n - (size_t)(p - map));
	r = pax_text(w, "GNU.sparse.major", "1") ?: pax_text(w, "GNU.sparse.minor", "0") ?: pax_text(w, "GNU.sparse.name", w->path) ?:
	    pax_number(w, "GNU.sparse.realsize", (uint64_t)st->st_size) ?:
	    put_entry(w, '0', "./GNUSparseFile/file", "", st, n + data) ?: gz_write(w->gz, map, n);
	free(map);
	for (size_t i = 0; i < list.n && !r; i++)
		r = put_bytes(w, fd, list.v[i].offset, list.v[i].size);
	return r ?: pad(w, n + data);
}

static int put_file(struct walk *w, const char *name, const struct stat *st)
{
	_cleanup_close_ int fd = open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOATIME | O_CLOEXEC);

	if (fd < 0)
		return fail(w, "open");
	if (st->st_size >= PAGE_SIZE && (uint64_t)st->st_blocks * 512 < (uint64_t)st->st_size)
		return put_sparse(w, fd, st);
	return put_entry(w, '0', w->path, "", st, (uint64_t)st->st_size) ?: put_bytes(w, fd, 0, (uint64_t)st->st_size) ?:
	       pad(w, (uint64_t)st->st_size);
}

static int put_symlink(struct walk *w, const char *name, const struct stat *st)
{
	char target[TAR_NAME_MAX];
	ssize_t n = readlink(name, target, sizeof(target) - 1);

	if (n < 0)
		return fail(w, "read the link");
	target[n] = 0;
	return put_entry(w, '2', w->path, target, st, 0);
}

/* Its first name if it was there before; else this is the first (NULL). */
static const char *first_name(struct walk *w, const struct stat *st, int *r)
{
	struct link **slot = &w->links[st->st_ino % LINKS], *l;

	for (l = *slot; l; l = l->next)
		if (l->ino == st->st_ino)
			return l->path;
	l = op_new(w->op, struct link);
	if (!l || !(l->path = arena_strdup(w->op->arena, w->path))) {
		*r = op_nomem(w->op);
		return NULL;
	}
	l->ino = st->st_ino;
	l->next = *slot;
	*slot = l;
	return NULL;
}

static int put(struct walk *w, const char *name, const struct stat *st)
{
	const char *first;
	int r = 0;

	if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) {
		first = first_name(w, st, &r);
		if (r || first)
			return r ?: put_entry(w, '1', w->path, first, st, 0);
	}
	r = pax_xattrs(w, name);
	if (r)
		return r;
	switch (st->st_mode & S_IFMT) {
	case S_IFREG:
		return put_file(w, name, st);
	case S_IFLNK:
		return put_symlink(w, name, st);
	case S_IFDIR:
		return put_entry(w, '5', w->path, "", st, 0);
	case S_IFCHR:
		return put_entry(w, '3', w->path, "", st, 0);
	case S_IFBLK:
		return put_entry(w, '4', w->path, "", st, 0);
	case S_IFIFO:
		return put_entry(w, '6', w->path, "", st, 0);
	default: /* archives have no sockets: whoever listens at one makes it again */
		w->pax.n = 0;
		log_debug(w->op, "socket %s is not archived", w->path);
		return 0;
	}
}

static int put_folder(struct walk *w, int fd, size_t len);

static int put_one(struct walk *w, int folder, const char *name, size_t len)
{
	struct stat st;
	size_t n = strlen(name);
	int fd, r;

	if (len + n + 2 > sizeof(w->path)) {
		errno = ENAMETOOLONG;
		return fail(w, "archive what is in");
	}
	memcpy(w->path + len, name, n + 1);
	if (lstat(name, &st) < 0)
		return fail(w, "look at");
	if (st.st_dev != w->dev)
		return 0; /* something is mounted on it */
	if (!S_ISDIR(st.st_mode))
		return put(w, name, &st);
	memcpy(w->path + len + n, "/", 2);
	r = put(w, name, &st);
	if (r)
		return r;
	fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC);
	if (fd < 0)
		return fail(w, "open");
	r = put_folder(w, fd, len + n + 1);
	return !r && fchdir(folder) < 0 ? fail(w, "come back from") : r;
}

/* Takes @fd. Names are looked up from the working directory: links and devices have no descriptors that one could ask. */
static int put_folder(struct walk *w, int fd, size_t len)
{
	DIR *d = fdopendir(fd);
	const struct dirent *e;
	int r = 0;

	if (!d) {
		close(fd);
		return fail(w, "open");
	}
	if (fchdir(fd) < 0)
		r = fail(w, "go to");
	while (!r && (errno = 0, e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = put_one(w, fd, e->d_name, len) ?: op_check_cancel(w->op);
	if (!r && errno)
		r = fail(w, "read");
	closedir(d);
	return r;
}

int tar_write_tree(struct op *op, struct gz_out *gz, int root)
{
	static const char end[2 * TAR_BLOCK_SIZE];
	struct walk *w = op_new(op, struct walk);
	int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	struct stat st;

	if (!w || fd < 0 || fstat(fd, &st) < 0 || fchdir(fd) < 0) {
		r = w ? op_errno(op, errno, AT(.kind = "tmpfs"), "open the root") : CKPT_E_NOMEM;
		close_fd_p(&fd);
		return r;
	}
	*w = (struct walk){ .op = op, .gz = gz, .dev = st.st_dev, .path = "./", .buf = malloc(BUF) };
	if (!w->buf)
		r = op_nomem(op);
	r = r ?: put(w, ".", &st);
	if (r)
		close(fd);
	r = r ?: put_folder(w, fd, 2) ?: gz_write(gz, end, sizeof(end));
	free(w->buf);
	free(w->pax.p);
	return r;
}
