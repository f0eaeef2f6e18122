/* SPDX-License-Identifier: MIT */
#include "lib/state/mount/gzip.h"

#include <zlib.h>

#define CHUNK (64u << 10)
#define GZIP (15 + 16) /* the largest window, with gzip's head */

struct gz_out {
	struct op *op;
	struct img_out *out;
	z_stream z;
	uint8_t buf[CHUNK];
};

int gz_create(struct op *op, struct img_out *out, struct gz_out **ret)
{
	struct gz_out *gz = calloc(1, sizeof(*gz));

	if (!gz)
		return op_nomem(op);
	gz->op = op;
	gz->out = out;
	/* The tree stands still meanwhile: the fastest there is. */
	if (deflateInit2(&gz->z, Z_BEST_SPEED, Z_DEFLATED, GZIP, 8, Z_DEFAULT_STRATEGY) != Z_OK) {
		free(gz);
		return op_nomem(op);
	}
	*ret = gz;
	return 0;
}

static int deflate_some(struct gz_out *gz, int flush)
{
	int r;

	do {
		gz->z.next_out = gz->buf;
		gz->z.avail_out = CHUNK;
		deflate(&gz->z, flush);
		r = img_write_payload(gz->op, gz->out, gz->buf, CHUNK - gz->z.avail_out);
	} while (!r && !gz->z.avail_out);
	return r;
}

int gz_write(struct gz_out *gz, const void *p, size_t n)
{
	int r = 0;

	for (const uint8_t *q = p; n && !r;) {
		size_t now = MIN(n, 1u << 30);

		gz->z.next_in = (uint8_t *)q;
		gz->z.avail_in = (unsigned)now;
		r = deflate_some(gz, Z_NO_FLUSH);
		q += now;
		n -= now;
	}
	return r;
}

int gz_finish(struct gz_out *gz)
{
	gz->z.avail_in = 0;
	return deflate_some(gz, Z_FINISH);
}

struct gz_out *gz_out_free(struct gz_out *gz)
{
	if (gz)
		deflateEnd(&gz->z);
	free(gz);
	return NULL;
}

struct gz_in {
	int fd;
	uint64_t pos, left;
	bool ended;
	z_stream z;
	uint8_t buf[CHUNK];
};

int gz_open(struct op *op, int fd, uint64_t offset, uint64_t length, struct gz_in **ret)
{
	struct gz_in *gz = calloc(1, sizeof(*gz));

	if (!gz)
		return op_nomem(op);
	gz->fd = fd;
	gz->pos = offset;
	gz->left = length;
	if (inflateInit2(&gz->z, GZIP) != Z_OK) {
		free(gz);
		return op_nomem(op);
	}
	*ret = gz;
	return 0;
}

static bool more_input(struct gz_in *gz)
{
	ssize_t n = pread(gz->fd, gz->buf, MIN(CHUNK, gz->left), (off_t)gz->pos);

	if (n <= 0)
		return false;
	gz->pos += (uint64_t)n;
	gz->left -= (uint64_t)n;
	gz->z.next_in = gz->buf;
	gz->z.avail_in = (unsigned)n;
	return true;
}

ssize_t gz_read(void *arg, void *buf, size_t n)
{
	struct gz_in *gz = arg;

	n = MIN(n, 1u << 30);
	gz->z.next_out = buf;
	gz->z.avail_out = (unsigned)n;
	while (gz->z.avail_out && !gz->ended) {
		int r;

		if (!gz->z.avail_in && !more_input(gz))
			return -1; /* the stream has no end */
		r = inflate(&gz->z, Z_NO_FLUSH);
		gz->ended = r == Z_STREAM_END;
		if (r != Z_OK && r != Z_STREAM_END)
			return -1;
	}
	return (ssize_t)(n - gz->z.avail_out);
}

struct gz_in *gz_in_free(struct gz_in *gz)
{
	if (gz)
		inflateEnd(&gz->z);
	free(gz);
	return NULL;
}
