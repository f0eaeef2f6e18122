// SPDX-License-Identifier: MIT
/* Writing one image: head, framed entries, payloads, through a buffer, so that a small image costs one write. */
#include <fcntl.h>

#include "lib/image/block.h" /* the sum */
#include "lib/image/sums.h"

#define OUT_BUF (64u << 10)

struct img_out {
	struct img_dir *dir;
	struct img_out *next;
	enum img_kind kind;
	char name[IMG_NAME_MAX];
	int fd; /* -1: nothing was written yet */
	char *buf;
	size_t used;
	uint64_t size;	   /* of what was written */
	XXH3_state_t *sum; /* of that; NULL: nothing was yet */
};

int img_write_all(struct op *op, int fd, const char *name, const void *p, size_t n)
{
	const char *at = p;

	while (n > 0) {
		ssize_t w = write(fd, at, n);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return op_errno(op, w < 0 ? errno : ENOSPC, NULL, "write image %s", name);
		at += w;
		n -= w;
	}
	return 0;
}

int img_create(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_out **ret)
{
	struct img_out *out = calloc(1, sizeof(*out));

	if (!out)
		return op_nomem(op);
	out->buf = dir->spare ? TAKE_PTR(dir->spare) : malloc(OUT_BUF);
	if (!out->buf) {
		free(out);
		return op_nomem(op);
	}
	out->dir = dir;
	out->kind = kind;
	out->fd = -1;
	img_name(kind, id, out->name, sizeof(out->name));
	out->next = dir->outs;
	dir->outs = out;
	*ret = out;
	return 0;
}

static int write_out(struct op *op, struct img_out *out, const void *p, size_t n)
{
	if (!out->sum) {
		out->sum = XXH3_createState();
		if (!out->sum)
			return op_nomem(op);
		XXH3_64bits_reset(out->sum);
	}
	XXH3_64bits_update(out->sum, p, n);
	out->size += n;
	out->dir->bytes += n;
	return img_write_all(op, out->fd, out->name, p, n);
}

int img_create_hidden(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_out **ret)
{
	char name[IMG_NAME_MAX], hidden[IMG_NAME_MAX];
	int r;

	img_name(kind, id, name, sizeof(name));
	if (snprintf(hidden, sizeof(hidden), ".%s" IMG_HIDDEN_SUFFIX, name) >= (int)sizeof(hidden))
		return op_fail(op, CKPT_E_INTERNAL, NULL, "the name %s is too long", name);
	if (faccessat(dir->fd, hidden, F_OK, 0) == 0)
		return IMG_EXISTS;
	r = img_create(op, dir, kind, id, ret);
	if (r < 0)
		return r;
	strcpy((*ret)->name, hidden);
	return img_touch(op, *ret);
}

static int flush(struct op *op, struct img_out *out)
{
	int r = write_out(op, out, out->buf, out->used);

	out->used = 0;
	return r;
}

/* The rest, which is usually all there is. */
static int flush_last(struct op *op, struct img_out *out)
{
	uint64_t sum;
	int r;

	if (out->sum) {
		r = flush(op, out);
		sum = XXH3_64bits_digest(out->sum);
	} else {
		r = img_write_all(op, out->fd, out->name, out->buf, out->used);
		sum = XXH3_64bits(out->buf, out->used);
		out->size = out->used;
		out->dir->bytes += out->used;
	}
	return r ?: sums_add(op, out->dir, out->name, out->size, sum);
}

int img_touch(struct op *op, struct img_out *out)
{
	uint32_t head[2];
	int r;

	if (out->fd >= 0)
		return 0;
	r = img_make(op, out->dir, out->name, &out->fd);
	if (r < 0)
		return r;
	out->used = img_put_head(out->kind, head);
	memcpy(out->buf, head, out->used);
	return 0;
}

int img_write_payload(struct op *op, struct img_out *out, const void *p, size_t n)
{
	int r = img_touch(op, out);

	if (r < 0)
		return r;
	if (n > OUT_BUF - out->used) {
		r = flush(op, out);
		if (r < 0)
			return r;
	}
	if (n > OUT_BUF)
		return write_out(op, out, p, n);
	if (n > 0)
		memcpy(out->buf + out->used, p, n);
	out->used += n;
	return 0;
}

/* Size of @msg packed, or a failure: a message that lacks something must not reach the packer, which trusts it. */
static int packed_size(struct op *op, const char *name, const ProtobufCMessage *msg, uint32_t *len)
{
	size_t n;

	if (!protobuf_c_message_check(msg))
		return op_fail(op, CKPT_E_INTERNAL, NULL, "image %s: %s is not complete", name, msg->descriptor->name);
	n = protobuf_c_message_get_packed_size(msg);
	if (n > IMG_MAX_ENTRY)
		return op_fail(op, CKPT_E_UNSUPPORTED, NULL, "image %s: %s of %zu bytes is larger than an entry can be", name,
			       msg->descriptor->name, n);
	*len = n;
	return 0;
}

int img_write(struct op *op, struct img_out *out, const ProtobufCMessage *msg)
{
	_cleanup_free_ uint8_t *big = NULL;
	uint32_t len;
	int r = packed_size(op, out->name, msg, &len);

	if (r < 0)
		return r;
	r = img_write_payload(op, out, &len, sizeof(len));
	if (r < 0)
		return r;
	if (len > OUT_BUF - out->used && len <= OUT_BUF) {
		r = flush(op, out);
		if (r < 0)
			return r;
	}
	if (len <= OUT_BUF - out->used) {
		out->used += protobuf_c_message_pack(msg, (uint8_t *)out->buf + out->used);
		return 0;
	}
	big = malloc(len);
	if (!big)
		return op_nomem(op);
	protobuf_c_message_pack(msg, big);
	return img_write_payload(op, out, big, len);
}

static void out_free(struct img_out *out)
{
	struct img_out **p;

	for (p = &out->dir->outs; *p; p = &(*p)->next)
		if (*p == out) {
			*p = out->next;
			break;
		}
	if (out->fd >= 0)
		close(out->fd);
	XXH3_freeState(out->sum);
	if (out->dir->spare)
		free(out->buf);
	else
		out->dir->spare = out->buf;
	free(out);
}

void img_outs_free(struct img_dir *dir)
{
	while (dir->outs)
		out_free(dir->outs);
}

int img_close(struct op *op, struct img_out *out)
{
	int r = 0;

	if (!out)
		return 0;
	if (out->fd >= 0) {
		r = flush_last(op, out);
		img_made_done(out->dir, out->name, TAKE_FD(out->fd));
	}
	out_free(out);
	return r;
}

int img_write_one(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, const ProtobufCMessage *msg)
{
	struct img_out *out;
	int r = img_create(op, dir, kind, id, &out);

	if (r < 0)
		return r;
	r = img_write(op, out, msg);
	if (r < 0) {
		img_close(op, out);
		return r;
	}
	return img_close(op, out);
}

int img_pack(struct op *op, const char *name, enum img_kind kind, const ProtobufCMessage *msg, uint8_t **ret, size_t *size)
{
	uint32_t head[2], len;
	size_t n = img_put_head(kind, head);
	uint8_t *buf;
	int r = packed_size(op, name, msg, &len);

	if (r < 0)
		return r;
	buf = malloc(n + sizeof(len) + len);
	if (!buf)
		return op_nomem(op);
	memcpy(buf, head, n);
	memcpy(buf + n, &len, sizeof(len));
	protobuf_c_message_pack(msg, buf + n + sizeof(len));
	*ret = buf;
	*size = n + sizeof(len) + len;
	return 0;
}

int img_write_at(struct op *op, int dirfd, enum img_kind kind, uint64_t id, const ProtobufCMessage *msg)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ uint8_t *buf = NULL;
	char name[IMG_NAME_MAX];
	size_t n;
	int r;

	img_name(kind, id, name, sizeof(name));
	r = img_pack(op, name, kind, msg, &buf, &n);
	if (r < 0)
		return r;
	if (unlinkat(dirfd, name, 0) < 0 && errno != ENOENT)
		return op_errno(op, errno, NULL, "replace %s", name);
	fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return op_errno(op, errno, NULL, "create %s", name);
	return img_write_all(op, fd, name, buf, n);
}
