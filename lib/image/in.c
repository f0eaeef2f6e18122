// SPDX-License-Identifier: MIT
/*
 * Reading one image. Nothing in it is believed: the size of the file bounds every length, and whatever is wrong is
 * reported with file and offset.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/block.h" /* the sum */
#include "lib/image/sums.h"

#define IN_BUF (32u << 10)
#define MAX_DEPTH 64 /* of messages that contain their own kind; the unpacker recurses */

struct img_in {
	enum img_kind kind;
	char name[IMG_NAME_MAX];
	int fd;
	uint64_t size, pos;
	uint64_t buf_pos; /* offset in the file of buf[0] */
	size_t buf_len;
	uint64_t n_read; /* entries */
	uint8_t *msg;	 /* one packed entry */
	size_t msg_cap;
	uint8_t buf[IN_BUF];
};

static int damaged(struct op *op, const struct img_in *in, uint64_t at, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, NULL, "image %s is damaged at offset %llu: %s", in->name, (unsigned long long)at,
		       what);
}

static int read_at(struct op *op, struct img_in *in, void *p, size_t n, uint64_t off, size_t *got)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(in->fd, (char *)p + done, n - done, off + done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, NULL, "read image %s", in->name);
		if (r == 0)
			break;
		done += r;
	}
	*got = done;
	return 0;
}

/* The next @n bytes, which the caller knows to be inside the file. */
static int get(struct op *op, struct img_in *in, void *p, size_t n)
{
	size_t got;
	int r;

	if (n > IN_BUF) {
		r = read_at(op, in, p, n, in->pos, &got);
		if (r < 0)
			return r;
		if (got < n)
			return damaged(op, in, in->pos + got, "the file became shorter while it was read");
		in->pos += n;
		return 0;
	}
	if (in->pos < in->buf_pos || in->pos - in->buf_pos > in->buf_len || in->buf_len - (in->pos - in->buf_pos) < n) {
		r = read_at(op, in, in->buf, MIN((uint64_t)IN_BUF, in->size - in->pos), in->pos, &in->buf_len);
		if (r < 0)
			return r;
		in->buf_pos = in->pos;
		if (in->buf_len < n)
			return damaged(op, in, in->pos + in->buf_len, "the file became shorter while it was read");
	}
	if (n > 0)
		memcpy(p, in->buf + (in->pos - in->buf_pos), n);
	in->pos += n;
	return 0;
}

/* Opens @name for reading; only a regular file will do (opening must not block, and the size must mean something). */
static int open_regular(struct op *op, struct img_dir *dir, const char *name, int *ret, uint64_t *size)
{
	_cleanup_close_ int fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return IMG_ABSENT;
	if (fd < 0)
		return op_errno(op, errno, NULL, "open image %s", name);
	if (fstat(fd, &st) < 0)
		return op_errno(op, errno, NULL, "fstat image %s", name);
	if (!S_ISREG(st.st_mode))
		return op_fail(op, CKPT_E_IMAGE, NULL, "image %s is not a regular file", name);
	*size = st.st_size;
	*ret = TAKE_FD(fd);
	return 0;
}

static int check_head(struct op *op, struct img_in *in)
{
	uint32_t want[2], head[2];
	size_t n = img_put_head(in->kind, want);
	int r;

	if (in->size < n)
		return op_fail(op, CKPT_E_IMAGE, NULL, in->size ? "image %s is damaged: it ends within its header"
								: "image %s is damaged: it is empty", in->name);
	r = get(op, in, head, n);
	if (r < 0)
		return r;
	if (n > 0 && head[0] != want[0])
		return damaged(op, in, 0, "it does not start as such an image does");
	if (n > sizeof(head[0]) && head[1] != want[1])
		return damaged(op, in, sizeof(head[0]), "it is an image of another kind");
	return 0;
}

/* Is the image what was written? What fits into the buffer is not read a second time. */
static int check_sum(struct op *op, const struct img_dir *dir, struct img_in *in)
{
	const struct img_sum *want;
	uint64_t sum;
	int r = sums_want(op, dir->sums, in->kind, in->name, &want);

	if (r < 0 || !want)
		return r;
	if (in->size != want->size)
		return sums_compare(op, want, in->size, 0);
	if (in->size > IN_BUF) {
		r = sums_of_fd(op, in->fd, in->name, in->size, &sum);
		return r ?: sums_compare(op, want, in->size, sum);
	}
	r = read_at(op, in, in->buf, in->size, 0, &in->buf_len);
	if (r < 0)
		return r;
	if (in->buf_len < in->size)
		return damaged(op, in, in->buf_len, "the file became shorter while it was read");
	return sums_compare(op, want, in->size, XXH3_64bits(in->buf, in->size));
}

/* An image that is not there may be one that there never was, which is the caller's business. */
static int check_absent(struct op *op, const struct img_dir *dir, const struct img_in *in)
{
	if (!dir->sums || in->kind == IMG_INVENTORY || !sums_find(dir->sums, in->name))
		return IMG_ABSENT;
	return op_fail(op, CKPT_E_IMAGE, AT(.hint = "the folder is not a whole checkpoint"), "image %s is missing", in->name);
}

int img_open(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, struct img_in **ret)
{
	struct img_in *in = malloc(sizeof(*in));
	int r;

	if (!in)
		return op_nomem(op);
	memset(in, 0, offsetof(struct img_in, buf));
	in->kind = kind;
	in->fd = -1;
	img_name(kind, id, in->name, sizeof(in->name));
	r = open_regular(op, dir, in->name, &in->fd, &in->size);
	if (r == IMG_ABSENT)
		r = check_absent(op, dir, in);
	if (r == 0)
		r = check_sum(op, dir, in);
	if (r == 0)
		r = check_head(op, in);
	if (r != 0) {
		img_in_close(in);
		return r;
	}
	*ret = in;
	return 0;
}

struct img_in *img_in_close(struct img_in *in)
{
	if (!in)
		return NULL;
	if (in->fd >= 0)
		close(in->fd);
	free(in->msg);
	free(in);
	return NULL;
}

/* Reads a varint of at most 10 bytes. False at the end of the data. */
static bool varint(const uint8_t **p, const uint8_t *end, uint64_t *v)
{
	*v = 0;
	for (unsigned shift = 0; shift < 64 && *p < end; shift += 7) {
		uint8_t b = *(*p)++;

		*v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return true;
	}
	return false;
}

/* Moves behind one field's value; what is no well-formed message is left for the unpacker to refuse. */
static bool skip_value(unsigned wire, const uint8_t **p, const uint8_t *end, uint64_t *len)
{
	switch (wire) {
	case 0:
		return varint(p, end, len);
	case 1:
		*len = 8;
		break;
	case 2:
		if (!varint(p, end, len))
			return false;
		break;
	case 5:
		*len = 4;
		break;
	default:
		return false;
	}
	if (*len > (uint64_t)(end - *p))
		return false;
	*p += *len;
	return true;
}

static bool too_deep(const ProtobufCMessageDescriptor *type, const uint8_t *p, const uint8_t *end, int depth)
{
	uint64_t tag, len;

	if (depth > MAX_DEPTH)
		return true;
	while (p < end && varint(&p, end, &tag)) {
		const ProtobufCFieldDescriptor *f;

		if (!skip_value(tag & 7, &p, end, &len))
			return false;
		if ((tag & 7) != 2)
			continue;
		f = protobuf_c_message_descriptor_get_field(type, tag >> 3);
		if (f && f->type == PROTOBUF_C_TYPE_MESSAGE && too_deep(f->descriptor, p - len, p, depth + 1))
			return true;
	}
	return false;
}

/* The messages that contain their own kind. All others are as deep as the schema. */
static bool may_recurse(const ProtobufCMessageDescriptor *type)
{
	return type == &cgroup_entry__descriptor || type == &cgroup_dir_entry__descriptor ||
	       type == &cg_controller_entry__descriptor || type == &apparmor_entry__descriptor ||
	       type == &aa_namespace__descriptor;
}

struct unpack_memory {
	struct arena *arena;
	bool out;
};

static void *unpack_alloc(void *data, size_t n)
{
	struct unpack_memory *m = data;
	void *p = arena_alloc(m->arena, n);

	if (!p)
		m->out = true;
	return p;
}

static void unpack_free(void *data, void *p)
{
	(void)data; /* the arena goes as a whole */
	(void)p;
}

static int unpack(struct op *op, struct img_in *in, const ProtobufCMessageDescriptor *type, size_t len,
		  ProtobufCMessage **msg)
{
	struct unpack_memory memory = { .arena = op->arena };
	ProtobufCAllocator alloc = { .alloc = unpack_alloc, .free = unpack_free, .allocator_data = &memory };
	uint64_t at = in->pos - len;

	if (may_recurse(type) && too_deep(type, in->msg, in->msg + len, 0))
		return damaged(op, in, at, "messages are nested too deeply");
	*msg = protobuf_c_message_unpack(type, &alloc, len, in->msg);
	if (*msg)
		return 0;
	if (memory.out)
		return op_nomem(op);
	return op_fail(op, CKPT_E_IMAGE, NULL,
		       "image %s is damaged at offset %llu: entry %llu is no complete %s (%zu bytes)", in->name,
		       (unsigned long long)at, (unsigned long long)in->n_read, type->name, len);
}

static int reserve(struct op *op, struct img_in *in, size_t n)
{
	uint8_t *p;

	if (n <= in->msg_cap)
		return 0;
	p = realloc(in->msg, n);
	if (!p)
		return op_nomem(op);
	in->msg = p;
	in->msg_cap = n;
	return 0;
}

int img_read_as(struct op *op, struct img_in *in, const ProtobufCMessageDescriptor *type, ProtobufCMessage **msg)
{
	uint64_t left = in->size - in->pos;
	uint32_t len;
	int r;

	if (left == 0)
		return IMG_END;
	if (left < sizeof(len))
		return damaged(op, in, in->pos, "it ends within the length of an entry");
	r = get(op, in, &len, sizeof(len));
	if (r < 0)
		return r;
	if (len > left - sizeof(len))
		return op_fail(op, CKPT_E_IMAGE, NULL,
			       "image %s is damaged at offset %llu: an entry of %u bytes, but the file has only %llu more",
			       in->name, (unsigned long long)(in->pos - sizeof(len)), len,
			       (unsigned long long)(left - sizeof(len)));
	if (len > IMG_MAX_ENTRY)
		return damaged(op, in, in->pos - sizeof(len), "an entry is larger than any can be");
	r = reserve(op, in, MAX(len, 1u));
	if (r < 0)
		return r;
	r = get(op, in, in->msg, len);
	if (r < 0)
		return r;
	r = unpack(op, in, type, len, msg);
	if (r < 0)
		return r;
	in->n_read++;
	return 0;
}

int img_read(struct op *op, struct img_in *in, ProtobufCMessage **msg)
{
	const struct img_kind_info *info = img_kind_info(in->kind);
	const ProtobufCMessageDescriptor *type = in->n_read == 0 ? info->first : info->rest;

	if (!type)
		return IMG_END;
	return img_read_as(op, in, type, msg);
}

int img_read_payload(struct op *op, struct img_in *in, size_t n, void **p)
{
	if (n > in->size - in->pos)
		return op_fail(op, CKPT_E_IMAGE, NULL,
			       "image %s is damaged at offset %llu: %zu bytes of data should follow, but it has only %llu more",
			       in->name, (unsigned long long)in->pos, n, (unsigned long long)(in->size - in->pos));
	*p = op_alloc(op, MAX(n, (size_t)1));
	if (!*p)
		return CKPT_E_NOMEM;
	return get(op, in, *p, n);
}

int img_rest(struct op *op, struct img_in *in, int *fd, uint64_t *offset, uint64_t *length)
{
	*fd = fcntl(in->fd, F_DUPFD_CLOEXEC, 3);
	if (*fd < 0)
		return op_errno(op, errno, NULL, "duplicate descriptor of image %s", in->name);
	*offset = in->pos;
	*length = in->size - in->pos;
	return 0;
}

int img_read_one(struct op *op, struct img_dir *dir, enum img_kind kind, uint64_t id, ProtobufCMessage **msg)
{
	struct img_in *in;
	int r = img_open(op, dir, kind, id, &in);

	if (r != 0)
		return r;
	r = img_read(op, in, msg);
	if (r == IMG_END)
		r = damaged(op, in, in->pos, "it has no entry");
	img_in_close(in);
	return r;
}

int img_open_pages(struct op *op, struct img_dir *dir, uint32_t pages_id, int *fd, uint64_t *size)
{
	char name[IMG_NAME_MAX];

	return open_regular(op, dir, img_name(IMG_PAGES, pages_id, name, sizeof(name)), fd, size);
}
