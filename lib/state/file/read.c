/* SPDX-License-Identifier: MIT */
/*
 * Reading of the file images. Whatever refers to something is checked here: ids resolve, types agree, sizes are possible.
 * After files_read() the other parts of the restore half need not ask again.
 */
#include "lib/state/file/core.h"

#define FD_MAX 1048576u /* fs.nr_open can be raised beyond it, but images of such tables are not ours */
#define ENTRIES_MAX (4u << 20)

int file_read_list(struct op *op, struct snapshot *s, enum img_kind kind, uint64_t id, file_add_fn add, void *arg)
{
	struct img_in *in = NULL;
	ProtobufCMessage *msg;
	size_t n = 0;
	int r;

	r = img_open(op, s->dir, kind, id, &in);
	if (r)
		return r < 0 ? r : 0;
	while ((r = img_read(op, in, &msg)) == 0) {
		r = ++n > ENTRIES_MAX ? image_bad(op, "an image has more than %u entries", ENTRIES_MAX)
				      : add(op, s, in, msg, arg);
		if (r)
			break;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

#define APPEND(arr, value)                                   \
	({                                                   \
		__typeof__((arr)->v) _p = ARRAY_ADD(op->arena, (arr)); \
		if (_p)                                      \
			*_p = (value);                       \
		_p ? 0 : op_nomem(op);                       \
	})

/* -------------------------------------------------------------------------------------------------- files */

static int check_reg(struct op *op, const RegFileEntry *m)
{
	if (!m->has_ext || !m->ext) {
		if (m->name[0] != '/')
			return image_bad(op, "files.img: id %u: the name \"%s\" is not absolute", m->id, m->name);
	}
	if (m->pos != POS_NONE && m->pos > INT64_MAX)
		return image_bad(op, "files.img: id %u: the position is absurd", m->id);
	if (m->n_build_id > 16)
		return image_bad(op, "files.img: id %u: the build-id is too long", m->id);
	return 0;
}

static int add_file(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	FileEntry *m = (FileEntry *)msg;
	struct snap_file *f = op_new(op, struct snap_file);
	const struct file_kind *kind = file_kind_of_type(m->type);
	const uint32_t *id = file_message_id(m, kind);
	int r;

	(void)in;
	(void)arg;
	if (!f)
		return CKPT_E_NOMEM;
	/* Without a kind it is not supported: refused when something refers to it. */
	if (kind && !id)
		return image_bad(op, "files.img: id %u: the entry of its type (%d) is missing", m->id, (int)m->type);
	if (id && *id != m->id)
		return image_bad(op, "files.img: id %u: the entry inside has id %u", m->id, *id);
	r = m->type == FD_TYPES__REG ? check_reg(op, m->reg) : 0;
	if (!r && m->type == FD_TYPES__MEMFD && m->memfd->pos > INT64_MAX)
		r = image_bad(op, "files.img: id %u: the position is absurd", m->id);
	if (r)
		return r;
	f->id = m->id;
	f->msg = m;
	f->fd = -1;
	f->kind = kind;
	return APPEND(&s->files, f);
}

static int by_id(const void *a, const void *b)
{
	uint32_t x = (*(struct snap_file *const *)a)->id, y = (*(struct snap_file *const *)b)->id;

	return (x > y) - (x < y);
}

/* A tun descriptor is two entries: the REG one only says where the device is. */
static void join_pairs(struct snapshot *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->files.n; i++) {
		struct snap_file *f = s->files.v[i], *last = n ? s->files.v[n - 1] : NULL;
		bool pair = last && last->id == f->id && (last->msg->type == FD_TYPES__TUNF) + (f->msg->type == FD_TYPES__TUNF) == 1 &&
			    (last->msg->type == FD_TYPES__REG) + (f->msg->type == FD_TYPES__REG) == 1;

		if (!pair) {
			s->files.v[n++] = f;
			continue;
		}
		if (f->msg->type == FD_TYPES__REG) {
			last->msg->reg = f->msg->reg;
		} else {
			f->msg->reg = last->msg->reg;
			s->files.v[n - 1] = f;
		}
	}
	s->files.n = n;
}

static int read_files(struct op *op, struct snapshot *s)
{
	int r = file_read_list(op, s, IMG_FILES, 0, add_file, NULL);

	if (r || !s->files.n)
		return r;
	qsort(s->files.v, s->files.n, sizeof(*s->files.v), by_id);
	join_pairs(s);
	for (size_t i = 1; i < s->files.n; i++)
		if (s->files.v[i]->id == s->files.v[i - 1]->id)
			return image_bad(op, "files.img: two entries have id %u", s->files.v[i]->id);
	return 0;
}

/* ------------------------------------------------------------------------------------------------- fdinfo */

static int add_fd(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	FdinfoEntry *m = (FdinfoEntry *)msg;
	struct snap_task *t = arg;
	const struct snap_file *f = snapshot_file(s, m->id);

	(void)in;
	if (m->fd >= FD_MAX)
		return image_bad(op, "fdinfo-%u.img: descriptor %u is out of range", t->ids->files_id, m->fd);
	if (!f)
		return image_bad(op, "fdinfo-%u.img: descriptor %u refers to file id %u, which is not in files.img",
				 t->ids->files_id, m->fd, m->id);
	if (f->msg->type != m->type)
		return image_bad(op, "fdinfo-%u.img: descriptor %u: file id %u is of another type", t->ids->files_id, m->fd,
				 m->id);
	return APPEND(&t->fds, m);
}

static int by_fd(const void *a, const void *b)
{
	uint32_t x = (*(FdinfoEntry *const *)a)->fd, y = (*(FdinfoEntry *const *)b)->fd;

	return (x > y) - (x < y);
}

static int read_fdinfo(struct op *op, struct snapshot *s, struct snap_task *t)
{
	int r = file_read_list(op, s, IMG_FDINFO, t->ids->files_id, add_fd, t);

	if (r || !t->fds.n)
		return r;
	qsort(t->fds.v, t->fds.n, sizeof(*t->fds.v), by_fd);
	for (size_t i = 1; i < t->fds.n; i++)
		if (t->fds.v[i]->fd == t->fds.v[i - 1]->fd)
			return image_bad(op, "fdinfo-%u.img: descriptor %u appears twice", t->ids->files_id,
					 t->fds.v[i]->fd);
	return 0;
}

static int read_fdinfos(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->tasks.n; i++)
		if (s->tasks.v[i].ids)
			r = read_fdinfo(op, s, &s->tasks.v[i]);
	return r;
}

/* ----------------------------------------------------------------------------------- what hangs on files */

static int add_queue(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	struct snap_pipe_data d = { .msg = (PipeDataEntry *)msg, .fifo = arg != NULL };
	int r = d.msg->bytes ? img_read_payload(op, in, d.msg->bytes, &d.bytes) : 0;

	return r ? r : APPEND(&s->pipes, d);
}

static bool is_ghost(const RemapFilePathEntry *m)
{
	return !m->has_remap_type || m->remap_type == REMAP_TYPE__GHOST;
}

/* One description of a file made its inode by O_TMPFILE: how it is made again depends on that one. */
static int note_tmpfile(struct op *op, struct snapshot *s, const RemapFilePathEntry *m, RegFileEntry *reg)
{
	uint32_t id = m->remap_id & 0x7fffffffu;

	if (!is_ghost(m) || !(reg->flags & KFLAG_TMPFILE) || index_find(&s->file_state->tmpfiles, KEY(id)))
		return 0;
	return index_add(op, &s->file_state->tmpfiles, KEY(id), reg);
}

static int add_remap(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	RemapFilePathEntry *m = (RemapFilePathEntry *)msg;
	const struct snap_file *f = snapshot_file(s, m->orig_id);
	int r;

	(void)in;
	(void)arg;
	if (!f || !f->msg->reg)
		return image_bad(op, "remap-fpath.img: file id %u is not a file", m->orig_id);
	if (index_find(&s->file_state->remaps, KEY(m->orig_id)))
		return image_bad(op, "remap-fpath.img: file id %u appears twice", m->orig_id);
	r = APPEND(&s->remaps, m);
	r = r ? r : index_add(op, &s->file_state->remaps, KEY(m->orig_id), m);
	return r ? r : note_tmpfile(op, s, m, f->msg->reg);
}

static int read_ghost(struct op *op, struct snapshot *s, uint32_t id)
{
	struct snap_ghost *g;
	ProtobufCMessage *msg;
	struct img_in *in = NULL;
	int r;

	if (index_find(&s->file_state->ghost_ids, KEY(id)))
		return 0;
	r = img_open(op, s->dir, IMG_GHOST_FILE, id, &in);
	if (r)
		return r < 0 ? r : image_bad(op, "ghost-file-%x.img is missing", id);
	r = img_read(op, in, &msg);
	img_in_close(in);
	if (r)
		return r < 0 ? r : image_bad(op, "ghost-file-%x.img is empty", id);
	g = op_new(op, struct snap_ghost);
	if (!g)
		return CKPT_E_NOMEM;
	g->id = id;
	g->msg = (GhostFileEntry *)msg;
	g->fd = -1;
	r = APPEND(&s->ghosts, *g);
	return r ? r : index_add(op, &s->file_state->ghost_ids, KEY(id), g);
}

static int read_ghosts(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->remaps.n; i++)
		if (is_ghost(s->remaps.v[i]))
			r = read_ghost(op, s, s->remaps.v[i]->remap_id & 0x7fffffffu);
	return r;
}

static int add_lock(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	(void)in;
	(void)arg;
	return APPEND(&s->locks, (FileLockEntry *)msg);
}

/* ------------------------------------------------------------------------------------------ shared memory */

static int add_shmem(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	struct snap_shmem *sh = op_new(op, struct snap_shmem);

	(void)in;
	(void)arg;
	if (!sh)
		return CKPT_E_NOMEM;
	sh->msg = (MemfdInodeEntry *)msg;
	sh->fd = -1;
	if (shmem_of(s, (uint32_t)sh->msg->inode_id))
		return image_bad(op, "memfd.img: two objects have id %lu", (unsigned long)sh->msg->inode_id);
	return APPEND(&s->shmems, sh);
}

static int read_shmems(struct op *op, struct snapshot *s)
{
	int r = file_read_list(op, s, IMG_MEMFD, 0, add_shmem, NULL);

	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = shmem_read(op, s, s->shmems.v[i]);
	return r;
}

int files_read(struct op *op, struct snapshot *s)
{
	int r;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	r = read_files(op, s);
	r = r ? r : read_fdinfos(op, s);
	r = r ? r : file_read_list(op, s, IMG_PIPES_DATA, 0, add_queue, NULL);
	r = r ? r : file_read_list(op, s, IMG_FIFO_DATA, 0, add_queue, s);
	r = r ? r : file_read_list(op, s, IMG_REMAP_FPATH, 0, add_remap, NULL);
	r = r ? r : read_ghosts(op, s);
	r = r ? r : file_read_list(op, s, IMG_FILE_LOCKS, 0, add_lock, NULL);
	r = r ? r : read_shmems(op, s);
	for (size_t i = 0; !r && file_kinds[i]; i++)
		r = file_kinds[i]->read ? file_kinds[i]->read(op, s) : 0;
	return r;
}
