// SPDX-License-Identifier: MIT
/*
 * Any bytes as an image of any kind: the first byte chooses the kind, the rest is the file. With the top bit set the file
 * gets the right head first, which mutations hardly ever find. It is read entry by entry, with the payloads that entries
 * announce; errors are fine, crashes are not.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/image/dir.h"
#include "tests/fuzz/fuzz.h"

static char folder[] = "/tmp/fuzz-image-XXXXXX";

static void cleanup(void)
{
	rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	if (!mkdtemp(folder))
		abort();
	atexit(cleanup);
	return 0;
}

static void read_entries(struct op *op, struct img_dir *dir, enum img_kind kind)
{
	ProtobufCMessage *msg;
	struct img_in *in;
	uint64_t off, len;
	void *p;
	int fd;

	if (img_open(op, dir, kind, 1, &in) != 0)
		return;
	while (img_read(op, in, &msg) == 0) {
		/* What was accepted can be packed again. */
		if (protobuf_c_message_get_packed_size(msg) == SIZE_MAX)
			abort();
		if (kind == IMG_PIPES_DATA && img_read_payload(op, in, ((PipeDataEntry *)msg)->bytes, &p) < 0)
			break;
	}
	if (img_rest(op, in, &fd, &off, &len) == 0)
		close(fd);
	img_in_close(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { 0 };
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	struct img_dir *dir;
	uint32_t head[2];
	size_t n_head;
	char name[64];
	int fd, kind;

	if (size == 0 || !op.arena) {
		arena_free(op.arena);
		return 0;
	}
	kind = (data[0] & 0x7f) % IMG_N_KINDS;
	n_head = data[0] & 0x80 ? img_put_head(kind, head) : 0;
	opts.images_dir = folder;
	if (img_dir_create(&op, &dir) < 0)
		abort();
	img_name(kind, 1, name, sizeof(name));
	fd = openat(img_dir_fd(dir), name, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, head, n_head) != (ssize_t)n_head || write(fd, data + 1, size - 1) != (ssize_t)size - 1)
		abort();
	close(fd);
	read_entries(&op, dir, kind);
	unlinkat(img_dir_fd(dir), name, 0);
	img_dir_close(dir);
	arena_free(op.arena);
	ckpt_err_free(op.err);
	return 0;
}

/* ---- seeds: for every kind an image with some entries, made by the writer itself */

static void set_field(const ProtobufCFieldDescriptor *f, char *m, struct arena *a);

static ProtobufCMessage *sample(const ProtobufCMessageDescriptor *type, struct arena *a)
{
	char *m = arena_alloc(a, type->sizeof_message);

	if (!m)
		abort();
	protobuf_c_message_init(type, m);
	for (unsigned i = 0; i < type->n_fields; i++)
		if (type->fields[i].label == PROTOBUF_C_LABEL_REQUIRED)
			set_field(&type->fields[i], m, a);
	return (ProtobufCMessage *)m;
}

static void set_field(const ProtobufCFieldDescriptor *f, char *m, struct arena *a)
{
	if (f->type == PROTOBUF_C_TYPE_STRING)
		*(const char **)(m + f->offset) = "name";
	else if (f->type == PROTOBUF_C_TYPE_BYTES)
		*(ProtobufCBinaryData *)(m + f->offset) = (ProtobufCBinaryData){ 2, arena_alloc(a, 2) };
	else if (f->type == PROTOBUF_C_TYPE_MESSAGE)
		*(void **)(m + f->offset) = sample(f->descriptor, a);
	else if (f->type != PROTOBUF_C_TYPE_ENUM && f->type != PROTOBUF_C_TYPE_BOOL)
		*(uint32_t *)(m + f->offset) = f->id;
}

static int write_sample(struct op *op, struct img_dir *dir, enum img_kind kind)
{
	const struct img_kind_info *info = img_kind_info(kind);
	struct img_out *out;
	int r = img_create(op, dir, kind, 1, &out);

	if (r == 0)
		r = img_touch(op, out);
	if (r == 0 && info->first)
		r = img_write(op, out, sample(info->first, op->arena));
	for (int i = 0; r == 0 && info->rest && i < 2; i++)
		r = img_write(op, out, sample(info->rest, op->arena));
	return r == 0 ? img_close(op, out) : r;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts };
	struct img_dir *dir;
	char name[64];
	ssize_t n;
	int fd;

	if (i >= IMG_N_KINDS) {
		arena_free(op.arena);
		return 0;
	}
	opts.images_dir = folder;
	if (img_dir_create(&op, &dir) < 0 || write_sample(&op, dir, i) < 0)
		abort();
	fd = openat(img_dir_fd(dir), img_name(i, 1, name, sizeof(name)), O_RDONLY);
	n = fd < 0 ? 0 : read(fd, buf + 1, cap - 1);
	close(fd);
	buf[0] = i;
	img_dir_abort(&op, dir);
	img_dir_close(dir);
	arena_free(op.arena);
	return n < 0 ? 0 : n + 1;
}
