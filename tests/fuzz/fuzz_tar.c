/* SPDX-License-Identifier: MIT */
/* Any bytes as an archive, not packed: names that come out of it must be plain ones, and extents within the file. */
#include <stdlib.h>
#include <string.h>

#include "lib/state/mount/tar.h"
#include "lib/state/mount/tar_head.h"
#include "tests/fuzz/fuzz.h"

struct bytes {
	const uint8_t *p;
	size_t n;
};

static ssize_t read_bytes(void *arg, void *buf, size_t n)
{
	struct bytes *b = arg;

	n = MIN(n, b->n);
	memcpy(buf, b->p, n);
	b->p += n;
	b->n -= n;
	return (ssize_t)n;
}

static void seal(struct tar_head *h)
{
	unsigned sum = 0;

	memset(h->sum, ' ', sizeof(h->sum));
	for (size_t i = 0; i < sizeof(*h); i++)
		sum += ((const uint8_t *)h)[i];
	snprintf(h->sum, sizeof(h->sum), "%06o", sum);
}

static void plain(const char *path)
{
	if (path[0] == '/')
		abort();
	for (const char *p = path; *p;) {
		size_t n = strcspn(p, "/");

		if (n == 0 || (n == 2 && memcmp(p, "..", 2) == 0))
			abort();
		p += n + (p[n] == '/');
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size + 1);
	struct bytes b = { copy, size };
	struct tar_in *in = tar_open(read_bytes, &b);
	const struct tar_entry *e;
	char buf[1000];

	if (!copy || !in)
		abort();
	memcpy(copy, data, size);
	/* Mutations never find the right sum: where the first byte is odd, all are put right. */
	for (size_t i = 0; size && data[0] & 1 && i + sizeof(struct tar_head) <= size; i += sizeof(struct tar_head))
		if (memcmp(copy + i + offsetof(struct tar_head, magic), "ustar", 5) == 0)
			seal((struct tar_head *)(copy + i));
	while (tar_next(in, &e) == 1) {
		plain(e->path);
		if (e->type == TAR_LINK)
			plain(e->link);
		for (size_t i = 0; i < e->n_extents; i++)
			if (e->extents[i].offset > e->size || e->extents[i].size > e->size - e->extents[i].offset)
				abort();
		for (size_t i = 0; i < e->n_xattrs; i++)
			if (strlen(e->xattrs[i].name) > sizeof(buf) << 10)
				abort();
		tar_data(in, buf, sizeof(buf));
	}
	tar_close(in);
	free(copy);
	return 0;
}

/* ---- seeds */

static size_t put_head(uint8_t *buf, const char *name, char type, unsigned size, const char *link)
{
	struct tar_head *h = (struct tar_head *)buf;

	memset(h, 0, sizeof(*h));
	memcpy(h->magic, "ustar", 6);
	snprintf(h->name, sizeof(h->name), "%s", name);
	snprintf(h->link, sizeof(h->link), "%s", link);
	snprintf(h->size, sizeof(h->size), "%011o", size);
	snprintf(h->mode, sizeof(h->mode), "0000644");
	h->type = type;
	seal(h);
	return sizeof(*h);
}

static size_t put_text(uint8_t *buf, const char *text)
{
	memset(buf, 0, TAR_BLOCK_SIZE);
	memcpy(buf, text, strlen(text));
	return TAR_BLOCK_SIZE;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const char pax[] = "18 path=./one/two\n28 SCHILY.xattr.user.a=bytes\n19 mtime=-5.250000\n",
			  sparse[] = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n25 GNU.sparse.name=./gap\n"
				     "28 GNU.sparse.realsize=4096\n";
	size_t n = 0;

	if (cap < 16 * TAR_BLOCK_SIZE || i > 3)
		return 0;
	n += put_head(buf, "a/", '5', 0, "");
	if (i == 0) {
		n += put_head(buf + n, "x", 'x', sizeof(pax) - 1, "");
		n += put_text(buf + n, pax);
		n += put_head(buf + n, "short", '0', 5, "");
		n += put_text(buf + n, "hello");
	} else if (i == 1) {
		n += put_head(buf + n, "x", 'x', sizeof(sparse) - 1, "");
		n += put_text(buf + n, sparse);
		n += put_head(buf + n, "./GNUSparseFile/file", '0', 515, "");
		n += put_text(buf + n, "2\n1024\n3\n4096\n0\n");
		n += put_text(buf + n, "gap");
	} else if (i == 2) {
		struct tar_head *h = (struct tar_head *)(buf + n);

		n += put_head(buf + n, "old", 'S', 5, "");
		memcpy(h->gnu.sparse[0].offset, "00000001000", 12);
		memcpy(h->gnu.sparse[0].size, "00000000005", 12);
		memcpy(h->gnu.real_size, "00000002000", 12);
		seal(h);
		n += put_text(buf + n, "hello");
	} else {
		n += put_head(buf + n, "././@LongLink", 'L', 9, "");
		n += put_text(buf + n, "very/long");
		n += put_head(buf + n, "cut", '1', 0, "a/../b");
		n += put_head(buf + n, "dev", '3', 0, "");
	}
	memset(buf + n, 0, 2 * TAR_BLOCK_SIZE);
	return n + 2 * TAR_BLOCK_SIZE;
}
