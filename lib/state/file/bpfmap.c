/* SPDX-License-Identifier: MIT */
/*
 * BPF maps of the kinds hash and array: what they are comes from the kernel's own description, what is in them is read and
 * written with bpf(2). A map that somebody else holds, too (a loaded program, a name in a BPF file system), is refused:
 * the restored program would get one that nobody else looks at.
 */
#include <linux/bpf.h>
#include <sys/syscall.h>

#include "lib/state/file/bpf.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"

#define MAP_DATA_MAX (1u << 30) /* bytes of keys, or of values, that a checkpoint holds of one map */

/* What is in a map; shared by all descriptions of it. */
struct bpf_content {
	uint32_t map_id;
	uint32_t count;
	void *keys, *values;
	bool whole; /* restore: in the new map already */
	int fd;	    /* restore: one description of the new map, -1: not made yet. Belongs to its file */
};

static int map_info(int fd, struct bpf_map_info *info)
{
	union bpf_attr a = { .info = { .bpf_fd = (uint32_t)fd, .info_len = sizeof(*info), .info = (uintptr_t)info } };

	memset(info, 0, sizeof(*info));
	return bpf_call(BPF_OBJ_GET_INFO_BY_FD, &a);
}

static bool bpfmap_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:bpf-map") == 0;
}

/* ---------------------------------------------------------------------------------------------------- dump */

/* "KEY:\tvalue" of fdinfo. */
static uint64_t field(const struct fd_view *v, const char *key)
{
	const char *line = v->info.rest;
	size_t n = strlen(key);

	while (line && (size_t)(line - v->info.rest) < v->info.rest_len) {
		if (!strncmp(line, key, n) && line[n] == ':')
			return strtoull(line + n + 1, NULL, 10);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return 0;
}

static int refuse_kind(struct op *op, const struct fd_view *v, const struct bpf_map_info *info)
{
	return file_refuse(op, v, "bpf map", "only maps of the kinds hash and array can be saved",
			   "\"%.16s\" is of kind %s (%u)", info->name, bpf_map_kind_name(info->type), info->type);
}

static int check_info(struct op *op, const struct fd_view *v, const struct bpf_map_info *info)
{
	const char *user;

	if (info->type != BPF_MAP_TYPE_HASH && info->type != BPF_MAP_TYPE_ARRAY)
		return refuse_kind(op, v, info);
	if (info->ifindex)
		return file_refuse(op, v, "bpf map", NULL, "\"%.16s\" is offloaded to a network device", info->name);
	if (info->map_flags & BPF_F_NUMA_NODE)
		return file_refuse(op, v, "bpf map", NULL, "\"%.16s\" is bound to a NUMA node, which the kernel does not tell",
				   info->name);
	if ((uint64_t)info->max_entries * info->key_size > MAP_DATA_MAX && info->type == BPF_MAP_TYPE_ARRAY)
		return file_refuse(op, v, "bpf map", NULL, "\"%.16s\" has room for %u entries, which is too much", info->name,
				   info->max_entries);
	user = bpf_map_user(op, info->id);
	if (user)
		return file_refuse(op, v, "bpf map", "unload or unpin it, or close the map, before the checkpoint",
				   "\"%.16s\" (id %u) is used by others, too: %s", info->name, info->id, user);
	/* Types only: nothing of the map's own behaviour depends on them as long as no program is there. */
	if (info->btf_id)
		log_warn(op, "task %d: fd %d: bpf map \"%.16s\": its type information (BTF) is not saved", v->pid, v->fd, info->name);
	return 0;
}

static struct bpf_content *content_of(const struct snapshot *s, uint32_t map_id)
{
	for (size_t i = 0; i < s->files.n; i++) {
		struct bpf_content *c = s->files.v[i]->priv;

		if (s->files.v[i]->kind == &file_bpfmap && c && c->map_id == map_id)
			return c;
	}
	return NULL;
}

static int cannot(struct op *op, const struct fd_view *v, const char *what)
{
	return file_errno(op, v, what);
}

static bool grow(char **keys, char **values, uint64_t cap, const struct bpf_map_info *info)
{
	char *k, *w;

	if (cap * MAX(info->key_size, info->value_size) > MAP_DATA_MAX)
		return false;
	k = realloc(*keys, cap * info->key_size);
	*keys = k ? k : *keys;
	w = realloc(*values, cap * info->value_size);
	*values = w ? w : *values;
	return k && w;
}

/* Nobody changes the map meanwhile: whoever could is frozen. */
static int read_pairs(struct op *op, const struct fd_view *v, const struct bpf_map_info *info, int fd, struct bpf_content *c)
{
	_cleanup_free_ char *keys = NULL, *values = NULL;
	uint64_t cap = 0, n = 0;
	int r = 0;

	for (;; n++) {
		union bpf_attr a = { .map_fd = (uint32_t)fd };

		if (n == cap) {
			cap = cap ? cap * 2 : 256;
			if (!grow(&keys, &values, cap, info))
				return file_refuse(op, v, "bpf map", NULL, "\"%.16s\" holds more than fits", info->name);
		}
		a.key = n ? (uintptr_t)(keys + (n - 1) * info->key_size) : 0;
		a.next_key = (uintptr_t)(keys + n * info->key_size);
		if (bpf_call(BPF_MAP_GET_NEXT_KEY, &a) < 0)
			break;
		if (n >= info->max_entries)
			return file_refuse(op, v, "bpf map", NULL, "\"%.16s\" changes while it is read", info->name);
		a = (union bpf_attr){ .map_fd = (uint32_t)fd };
		a.key = (uintptr_t)(keys + n * info->key_size);
		a.value = (uintptr_t)(values + n * info->value_size);
		if (bpf_call(BPF_MAP_LOOKUP_ELEM, &a) < 0)
			return cannot(op, v, "read an element of the map");
		r = n % 4096 ? 0 : op_check_cancel(op);
		if (r)
			return r;
	}
	if (errno != ENOENT)
		return cannot(op, v, "read the keys of the map");
	c->count = (uint32_t)n;
	c->keys = arena_memdup(op->arena, keys, n * info->key_size);
	c->values = arena_memdup(op->arena, values, n * info->value_size);
	return c->keys && c->values ? 0 : op_nomem(op);
}

/* The program's own descriptor may be for writing only. */
static int readable(const struct fd_view *v, const struct bpf_map_info *info)
{
	union bpf_attr a = { .map_id = info->id };

	if ((v->info.flags & O_ACCMODE) != O_WRONLY)
		return fcntl(v->copy, F_DUPFD_CLOEXEC, 3);
	return bpf_call(BPF_MAP_GET_FD_BY_ID, &a);
}

static int dump_content(struct op *op, struct snapshot *s, const struct fd_view *v, const struct bpf_map_info *info,
			struct snap_file *f)
{
	struct bpf_content *c = content_of(s, info->id);
	_cleanup_close_ int fd = -1;
	int r = 0;

	if (!c) {
		c = op_new(op, struct bpf_content);
		if (!c)
			return CKPT_E_NOMEM;
		c->map_id = info->id;
		fd = readable(v, info);
		if (fd < 0)
			return cannot(op, v, "open the map for reading");
		r = read_pairs(op, v, info, fd, c);
	}
	f->priv = c;
	return r;
}

/* Without a copy there is only fdinfo, which lacks the name. */
static int bpfmap_check(struct op *op, const struct fd_view *v)
{
	struct bpf_map_info info = { .type = (uint32_t)field(v, "map_type"), .id = (uint32_t)field(v, "map_id"), .name = "?" };

	return check_info(op, v, &info);
}

static int bpfmap_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	BpfmapFileEntry *m = msg_new(op, BpfmapFileEntry, bpfmap_file_entry);
	struct bpf_map_info info;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	if (v->fd < 0)
		return file_refuse(op, v, "bpf map", "unmap it before the checkpoint", "a BPF map is mapped into memory");
	if (map_info(v->copy, &info) < 0)
		return cannot(op, v, "ask what map it is");
	r = check_info(op, v, &info);
	if (r)
		return r;
	m->id = f->id;
	m->flags = v->info.flags;
	m->pos = v->info.pos;
	m->fown = file_fown(op, v);
	m->map_type = info.type;
	m->key_size = info.key_size;
	m->value_size = info.value_size;
	m->map_id = info.id;
	m->max_entries = info.max_entries;
	m->map_flags = info.map_flags;
	m->memlock = field(v, "memlock");
	m->frozen = field(v, "frozen") != 0;
	m->map_name = arena_strndup(op->arena, info.name, strnlen(info.name, sizeof(info.name)));
	m->ifindex = info.ifindex;
	msg_set(m, map_extra, info.map_extra);
	if (!m->fown || !m->map_name)
		return op_nomem(op);
	f->msg->bpf = m;
	return dump_content(op, s, v, &info, f);
}

static int write_content(struct op *op, struct img_out *out, const BpfmapFileEntry *m, const struct bpf_content *c)
{
	BpfmapDataEntry e = BPFMAP_DATA_ENTRY__INIT;
	int r;

	e.map_id = c->map_id;
	e.count = c->count;
	e.keys_bytes = c->count * m->key_size;
	e.values_bytes = c->count * m->value_size;
	r = img_write(op, out, &e.base);
	r = r ? r : img_write_payload(op, out, c->keys, e.keys_bytes);
	return r ? r : img_write_payload(op, out, c->values, e.values_bytes);
}

static int bpfmap_write(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r = img_create(op, s->dir, IMG_BPFMAP_DATA, 0, &out), r2;

	if (r)
		return r;
	for (size_t i = 0; !r && i < s->files.n; i++) {
		struct snap_file *f = s->files.v[i];
		struct bpf_content *c = f->kind == &file_bpfmap ? f->priv : NULL;

		/* Once a map: with the first of its descriptions. */
		if (c && c->count && !c->whole) {
			c->whole = true;
			r = write_content(op, out, f->msg->bpf, c);
		}
	}
	r2 = img_close(op, out);
	return r ? r : r2;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int check_entry(struct op *op, const BpfmapFileEntry *m)
{
	uint32_t mode = m->flags & O_ACCMODE;

	if (m->map_type != BPF_MAP_TYPE_HASH && m->map_type != BPF_MAP_TYPE_ARRAY)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "bpf map"), "files.img: id %u: BPF maps of kind %s (%u) are not supported",
			       m->id, bpf_map_kind_name(m->map_type), m->map_type);
	if (!m->key_size || !m->value_size || !m->max_entries || mode == O_ACCMODE)
		return image_bad(op, "files.img: id %u: the sizes or flags of a BPF map make no sense", m->id);
	if (m->ifindex)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "bpf map"),
			       "files.img: id %u: the BPF map was offloaded to network device %u", m->id, m->ifindex);
	return 0;
}

/* Descriptions of one map must agree on what it is. */
static bool same_map(const BpfmapFileEntry *a, const BpfmapFileEntry *b)
{
	return a->map_type == b->map_type && a->key_size == b->key_size && a->value_size == b->value_size &&
	       a->max_entries == b->max_entries && a->map_flags == b->map_flags && a->frozen == b->frozen;
}

static int attach(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const BpfmapFileEntry *m = f->msg->bpf;
	struct bpf_content *c;
	int r = check_entry(op, m);

	for (size_t i = 0; !r && i < s->files.n && s->files.v[i] != f; i++) {
		const struct snap_file *g = s->files.v[i];

		if (g->kind != &file_bpfmap || g->msg->bpf->map_id != m->map_id)
			continue;
		f->priv = g->priv;
		return same_map(m, g->msg->bpf) ? 0 : image_bad(op, "files.img: ids %u and %u describe BPF map %u in two ways", g->id,
								f->id, m->map_id);
	}
	c = r ? NULL : op_new(op, struct bpf_content);
	if (!c)
		return r ? r : CKPT_E_NOMEM;
	c->map_id = m->map_id;
	c->fd = -1;
	f->priv = c;
	return 0;
}

static int read_content(struct op *op, struct snapshot *s, struct img_in *in, const BpfmapDataEntry *e)
{
	struct bpf_content *c = content_of(s, e->map_id);
	const BpfmapFileEntry *m = NULL;
	int r;

	for (size_t i = 0; i < s->files.n && c; i++)
		if (s->files.v[i]->priv == c)
			m = s->files.v[i]->msg->bpf;
	if (!m)
		return image_bad(op, "bpfmap-data.img: no descriptor has BPF map %u", e->map_id);
	if (c->keys || e->count > m->max_entries || e->keys_bytes != (uint64_t)e->count * m->key_size ||
	    e->values_bytes != (uint64_t)e->count * m->value_size)
		return image_bad(op, "bpfmap-data.img: the content of BPF map %u does not fit it", e->map_id);
	c->count = e->count;
	r = img_read_payload(op, in, e->keys_bytes, &c->keys);
	return r ? r : img_read_payload(op, in, e->values_bytes, &c->values);
}

static int bpfmap_read(struct op *op, struct snapshot *s)
{
	struct img_in *in = NULL;
	ProtobufCMessage *msg;
	int r = 0;

	for (size_t i = 0; !r && i < s->files.n; i++)
		if (s->files.v[i]->kind == &file_bpfmap)
			r = attach(op, s, s->files.v[i]);
	r = r ? r : img_open(op, s->dir, IMG_BPFMAP_DATA, 0, &in);
	if (r)
		return r < 0 ? r : 0;
	while (!r) {
		r = img_read(op, in, &msg);
		r = r ? r : read_content(op, s, in, (BpfmapDataEntry *)msg);
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int fail(struct op *op, const BpfmapFileEntry *m, const char *what)
{
	return op_errno(op, errno, AT(.kind = "bpf map"), "cannot %s BPF map \"%s\" (id %u of files.img)", what, m->map_name, m->id);
}

static int create(const BpfmapFileEntry *m)
{
	union bpf_attr a = {
		.map_type = m->map_type, .key_size = m->key_size, .value_size = m->value_size,
		.max_entries = m->max_entries, .map_flags = m->map_flags,
	};

	a.map_extra = m->has_map_extra ? m->map_extra : 0;
	memcpy(a.map_name, m->map_name, MIN(strlen(m->map_name), sizeof(a.map_name) - 1));
	return file_high(bpf_call(BPF_MAP_CREATE, &a));
}

static int fill(struct op *op, const BpfmapFileEntry *m, int fd, struct bpf_content *c)
{
	for (uint32_t i = 0; i < c->count; i++) {
		union bpf_attr a = { .map_fd = (uint32_t)fd };
		int r = i % 4096 ? 0 : op_check_cancel(op);

		a.key = (uintptr_t)((char *)c->keys + (uint64_t)i * m->key_size);
		a.value = (uintptr_t)((char *)c->values + (uint64_t)i * m->value_size);
		if (r)
			return r;
		if (bpf_call(BPF_MAP_UPDATE_ELEM, &a) < 0)
			return fail(op, m, "fill");
	}
	if (m->frozen) {
		union bpf_attr a = { .map_fd = (uint32_t)fd };

		if (bpf_call(BPF_MAP_FREEZE, &a) < 0)
			return fail(op, m, "freeze");
	}
	return 0;
}

/* Another description of a map, with the rights that this one has. */
static int open_again(const BpfmapFileEntry *m, int fd)
{
	union bpf_attr a = { 0 };
	uint32_t mode = m->flags & O_ACCMODE;
	struct bpf_map_info info;

	if (map_info(fd, &info) < 0)
		return -1;
	a.map_id = info.id;
	a.open_flags = mode == O_RDONLY ? BPF_F_RDONLY : mode == O_WRONLY ? BPF_F_WRONLY : 0;
	return file_high(bpf_call(BPF_MAP_GET_FD_BY_ID, &a));
}

static int bpfmap_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const BpfmapFileEntry *m = f->msg->bpf;
	struct bpf_content *c = f->priv;
	_cleanup_close_ int made = -1;
	int r;

	(void)s;
	if (c->fd < 0) {
		made = create(m);
		if (made < 0)
			return fail(op, m, "create");
		r = fill(op, m, made, c);
		if (r)
			return r;
	}
	if (made >= 0 && (m->flags & O_ACCMODE) == O_RDWR)
		f->fd = TAKE_FD(made);
	else
		f->fd = open_again(m, made >= 0 ? made : c->fd);
	if (f->fd < 0 || file_set_flags(f->fd, m->flags) < 0)
		return fail(op, m, "open");
	c->fd = f->fd; /* keeps the map */
	return 0;
}

const struct file_kind file_bpfmap = {
	.name = "bpf map",
	.type = FD_TYPES__BPFMAP,
	.message = offsetof(FileEntry, bpf),
	.match = bpfmap_match,
	.check = bpfmap_check,
	.dump = bpfmap_dump,
	.write = bpfmap_write,
	.read = bpfmap_read,
	.open = bpfmap_open,
};
