/* SPDX-License-Identifier: MIT */
/*
 * Ghosts: deleted things that a task still has open. A file's content travels in the checkpoint; of directories, devices,
 * FIFOs and symbolic links the node is enough. Restore makes them again under a name of its own, which lasts until the tree
 * exists, and they are opened through the old name if nobody else has it. A file that was made without a name (O_TMPFILE)
 * is made like that again: only such a file may be given a name later.
 */
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

#define GHOST_LIMIT_DEFAULT (1ull << 20)
#define CHUNKED_FROM 12288 /* bytes of a file from which on it is stored in chunks, without its holes */
#define CHUNK_MAX (1u << 20)

uint64_t ghost_limit(const struct op *op)
{
	return op->opts->ghost_limit ? op->opts->ghost_limit : GHOST_LIMIT_DEFAULT;
}

static Timeval *time_of(struct op *op, const struct timespec *ts)
{
	Timeval *t = op_new(op, Timeval);

	if (!t)
		return NULL;
	timeval__init(t);
	t->tv_sec = (uint64_t)ts->tv_sec;
	t->tv_usec = (uint64_t)ts->tv_nsec / 1000;
	return t;
}

static int link_target(struct op *op, const struct fd_view *v, GhostFileEntry *m)
{
	char buf[4096];
	ssize_t n = readlinkat(v->copy, "", buf, sizeof(buf));

	if (n < 0 || (size_t)n == sizeof(buf))
		return file_errno(op, v, "read the symbolic link");
	m->symlnk_target = arena_strndup(op->arena, buf, (size_t)n);
	return m->symlnk_target ? 0 : op_nomem(op);
}

static int fill(struct op *op, const struct snapshot *s, const struct fd_view *v, GhostFileEntry *m)
{
	const struct stat *st = &v->st;

	ghost_file_entry__init(m);
	m->uid = ns_uid_inside(s, st->st_uid);
	m->gid = ns_gid_inside(s, st->st_gid);
	m->mode = st->st_mode;
	m->has_dev = m->has_ino = true;
	m->dev = (uint32_t)(major(st->st_dev) << 20 | minor(st->st_dev)); /* the kernel's own encoding */
	m->ino = st->st_ino;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		m->has_rdev = true;
		m->rdev = (uint32_t)st->st_rdev;
	}
	m->atim = time_of(op, &st->st_atim);
	m->mtim = time_of(op, &st->st_mtim);
	if (!m->atim || !m->mtim)
		return CKPT_E_NOMEM;
	if (S_ISREG(st->st_mode)) {
		m->size = (uint64_t)st->st_size;
		m->has_size = st->st_size >= CHUNKED_FROM;
		m->has_chunks = m->chunks = m->has_size;
	}
	return S_ISLNK(st->st_mode) ? link_target(op, v, m) : 0;
}

static int ghost_new(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_ghost **ret)
{
	struct snap_ghost *g = op_new(op, struct snap_ghost), *slot;
	int r;

	if (!g)
		return CKPT_E_NOMEM;
	g->fd = -1;
	g->msg = op_new(op, GhostFileEntry);
	if (!g->msg)
		return CKPT_E_NOMEM;
	r = fill(op, s, v, g->msg);
	if (r)
		return r;
	g->id = (uint32_t)s->ghosts.n + 1;
	if (S_ISREG(v->st.st_mode)) {
		g->fd = file_reopen(v->copy, O_RDONLY | O_NOATIME);
		if (g->fd < 0)
			return file_errno(op, v, "read the deleted file");
	}
	slot = ARRAY_ADD(op->arena, &s->ghosts);
	if (!slot) {
		close_fd_p(&g->fd);
		return op_nomem(op);
	}
	*slot = *g;
	*ret = g;
	r = ghost_extra_dump(op, s, v, g->id);
	return r ? r : index_add(op, &s->file_state->ghosts, KEY(v->st.st_dev, v->st.st_ino), g);
}

int ghost_dump(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t file_id)
{
	struct snap_ghost *g = index_find(&s->file_state->ghosts, KEY(v->st.st_dev, v->st.st_ino));
	int r = g ? 0 : ghost_new(op, s, v, &g);

	return r ? r : remap_add(op, s, file_id, g->id, REMAP_TYPE__GHOST);
}

static int read_exact(struct op *op, int fd, void *p, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(fd, (char *)p + done, n - done, (off_t)(offset + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "deleted file"), "cannot read a deleted file");
		if (r == 0)
			return op_fail(op, CKPT_E_CHANGED, AT(.kind = "deleted file"),
				       "a deleted file became shorter while it was saved");
		done += (size_t)r;
	}
	return 0;
}

static int write_piece(struct op *op, const struct snap_ghost *g, struct img_out *out, void *buf, size_t n, uint64_t off)
{
	GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
	int r = read_exact(op, g->fd, buf, n, off);

	chunk.len = n;
	chunk.off = off;
	if (!r && g->msg->chunks)
		r = img_write(op, out, &chunk.base);
	return r ? r : img_write_payload(op, out, buf, n);
}

static int write_range(struct op *op, const struct snap_ghost *g, struct img_out *out, void *buf, uint64_t off, uint64_t end)
{
	int r = 0;

	while (!r && off < end) {
		size_t n = MIN(end - off, (uint64_t)CHUNK_MAX);

		r = op_check_cancel(op);
		r = r ? r : write_piece(op, g, out, buf, n, off);
		off += n;
	}
	return r;
}

static int write_content(struct op *op, const struct snap_ghost *g, struct img_out *out)
{
	_cleanup_free_ void *buf = malloc(CHUNK_MAX);
	struct stat st;
	off_t off = 0;
	int r = 0;

	if (!buf)
		return op_nomem(op);
	if (fstat(g->fd, &st) < 0)
		return op_errno(op, errno, NULL, "cannot look at a deleted file");
	if (!g->msg->chunks)
		return write_range(op, g, out, buf, 0, (uint64_t)st.st_size);
	while (!r && (off = lseek(g->fd, off, SEEK_DATA)) >= 0) {
		off_t end = lseek(g->fd, off, SEEK_HOLE);

		if (end < 0)
			break;
		r = write_range(op, g, out, buf, (uint64_t)off, MIN((uint64_t)end, g->msg->size));
		off = end;
	}
	if (!r && off < 0 && errno != ENXIO)
		return op_errno(op, errno, NULL, "cannot find the data of a deleted file");
	return r;
}

int ghost_write(struct op *op, struct snapshot *s, struct snap_ghost *g)
{
	struct img_out *out = NULL;
	int r, r2;

	r = img_create(op, s->dir, IMG_GHOST_FILE, g->id, &out);
	if (r)
		return r;
	r = img_write(op, out, &g->msg->base);
	if (!r && g->fd >= 0)
		r = write_content(op, g, out);
	r2 = img_close(op, out);
	return r ? r : r2;
}

/* ------------------------------------------------------------------------------------------- restore half */

static int ghost_fail(struct op *op, const char *path, const char *what)
{
	return op_errno(op, errno, AT(.kind = "deleted file"), "cannot %s %s for a deleted file", what, path);
}

/* The directories the name needs may have been deleted too: they are made for as long as the ghost has a name. */
static int make_parents(struct op *op, struct snapshot *s, const struct fs_view *view, const char *name)
{
	char *dir = arena_strdup(op->arena, name);

	if (!dir)
		return op_nomem(op);
	for (char *p = strchr(dir + 1, '/'); p; p = strchr(p + 1, '/')) {
		*p = 0;
		if (view_mkdir(view, dir, 0700) == 0) {
			char *path = arena_strdup(op->arena, dir);
			const struct made_name made = { .view = view, .path = path, .dir = true };
			int r = path ? file_made(op, s->file_state, &made) : op_nomem(op);

			if (r) {
				view_rmdir(view, dir);
				return r;
			}
		} else if (errno != EEXIST && errno != EROFS) {
			return ghost_fail(op, dir, "create the directory");
		}
		*p = '/';
	}
	return 0;
}

static int make_node(const struct fs_view *view, const char *path, const GhostFileEntry *m)
{
	switch (m->mode & S_IFMT) {
	case S_IFREG:
		return view_mknod(view, path, S_IFREG | 0600, 0);
	case S_IFDIR:
		return view_mkdir(view, path, 0700);
	case S_IFLNK:
		return view_symlink(view, m->symlnk_target ? m->symlnk_target : "", path);
	case S_IFIFO:
		return view_mknod(view, path, S_IFIFO | 0600, 0);
	case S_IFCHR:
	case S_IFBLK:
		return view_mknod(view, path, (m->mode & S_IFMT) | 0600, m->rdev);
	default:
		errno = EINVAL;
		return -1;
	}
}

/* Files of huge pages cannot be written, only mapped. */
static int write_mapped(struct op *op, int fd, const char *path, const void *p, size_t n, uint64_t offset)
{
	struct stat st;
	uint64_t base, end;
	char *at;

	if (fstat(fd, &st) < 0)
		return ghost_fail(op, path, "look at");
	base = offset - offset % (uint64_t)st.st_blksize;
	end = (offset + n + (uint64_t)st.st_blksize - 1) / (uint64_t)st.st_blksize * (uint64_t)st.st_blksize;
	if ((uint64_t)st.st_size < end && ftruncate(fd, (off_t)end) < 0)
		return ghost_fail(op, path, "set the size of");
	at = mmap(NULL, end - base, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)base);
	if (at == MAP_FAILED)
		return ghost_fail(op, path, "map");
	memcpy(at + (offset - base), p, n);
	munmap(at, end - base);
	return 0;
}

static int write_all(struct op *op, int fd, const char *path, const void *p, size_t n, uint64_t offset)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pwrite(fd, (const char *)p + done, n - done, (off_t)(offset + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EINVAL && !done)
			return write_mapped(op, fd, path, p, n, offset);
		if (r < 0)
			return ghost_fail(op, path, "fill");
		done += (size_t)r;
	}
	return 0;
}

static int fill_chunks(struct op *op, struct img_in *in, const struct snap_ghost *g, int fd)
{
	ProtobufCMessage *msg;
	int r;

	if (!g->msg->has_size || g->msg->size > INT64_MAX)
		return image_bad(op, "ghost-file-%x.img: the size is missing or absurd", g->id);
	if (ftruncate(fd, (off_t)g->msg->size) < 0)
		return ghost_fail(op, g->path, "set the size of");
	while ((r = img_read_as(op, in, &ghost_chunk_entry__descriptor, &msg)) == 0) {
		const GhostChunkEntry *chunk = (const GhostChunkEntry *)msg;
		void *p;

		if (chunk->len > g->msg->size || chunk->off > g->msg->size - chunk->len)
			return image_bad(op, "ghost-file-%x.img: a chunk lies outside of the file", g->id);
		r = img_read_payload(op, in, chunk->len, &p);
		r = r ? r : write_all(op, fd, g->path, p, chunk->len, chunk->off);
		r = r ? r : op_check_cancel(op);
		if (r)
			return r;
	}
	return r == IMG_END ? 0 : r;
}

static int fill_plain(struct op *op, struct img_in *in, const struct snap_ghost *g, int fd)
{
	_cleanup_free_ void *buf = malloc(CHUNK_MAX);
	uint64_t offset, length, done = 0;
	int from, r;

	if (!buf)
		return op_nomem(op);
	r = img_rest(op, in, &from, &offset, &length);
	while (!r && done < length) {
		size_t n = MIN(length - done, (uint64_t)CHUNK_MAX);

		r = read_exact(op, from, buf, n, offset + done);
		r = r ? r : write_all(op, fd, g->path, buf, n, done);
		done += n;
	}
	return r;
}

static int fill_file(struct op *op, struct snapshot *s, const struct snap_ghost *g)
{
	_cleanup_close_ int fd = g->fd < 0 ? view_open(g->view, g->path, O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0) : file_reopen(g->fd, O_RDWR);
	struct img_in *in = NULL;
	ProtobufCMessage *head;
	int r;

	if (fd < 0)
		return ghost_fail(op, g->path, "open");
	r = img_open(op, s->dir, IMG_GHOST_FILE, g->id, &in);
	if (r)
		return r < 0 ? r : image_bad(op, "ghost-file-%x.img is missing", g->id);
	r = img_read(op, in, &head);
	if (r == IMG_END)
		r = image_bad(op, "ghost-file-%x.img is empty", g->id);
	else if (!r)
		r = g->msg->chunks ? fill_chunks(op, in, g, fd) : fill_plain(op, in, g, fd);
	img_in_close(in);
	return r;
}

static struct timespec time_from(const Timeval *t, const uint32_t *nsec)
{
	if (!t || t->tv_usec >= 1000000)
		return (struct timespec){ .tv_nsec = UTIME_OMIT };
	return (struct timespec){ (time_t)t->tv_sec, nsec && *nsec < 1000000000 ? (long)*nsec : (long)t->tv_usec * 1000 };
}

static int set_times(struct op *op, const struct snapshot *s, const struct snap_ghost *g, const char *own)
{
	const GhostExtraEntry *x = ghost_extra_of(s, g->id);
	const struct timespec times[2] = {
		time_from(g->msg->atim, x ? &x->atime_nsec : NULL), time_from(g->msg->mtim, x ? &x->mtime_nsec : NULL),
	};

	return utimensat(AT_FDCWD, own, times, 0) < 0 ? ghost_fail(op, g->path, "set the times of") : 0;
}

/* The mode after the owner, and the attributes after both: each may change what comes before it. */
static int set_attributes(struct op *op, const struct snapshot *s, const struct snap_ghost *g)
{
	const GhostFileEntry *m = g->msg;
	_cleanup_close_ int node = g->fd < 0 ? view_open(g->view, g->path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0)
					     : fcntl(g->fd, F_DUPFD_CLOEXEC, 3);
	char own[64];
	int r;

	if (node < 0)
		return ghost_fail(op, g->path, "look at");
	/* Through a descriptor even a symbolic link is meant itself. */
	snprintf(own, sizeof(own), "/proc/self/fd/%d", node);
	if (chown(own, ns_uid_outside(s, m->uid), ns_gid_outside(s, m->gid)) < 0)
		return ghost_fail(op, g->path, "set the owner of");
	if (!S_ISLNK(m->mode) && chmod(own, m->mode & 07777) < 0)
		return ghost_fail(op, g->path, "set the mode of");
	r = ghost_extra_apply(op, s, g, own);
	return r ? r : set_times(op, s, g, own);
}

/* Positive: the file system cannot do that. */
static int create_nameless(struct op *op, struct snapshot *s, struct snap_ghost *g, const RegFileEntry *m, const char *name)
{
	const uint32_t kept = O_ACCMODE | KFLAG_LARGEFILE | O_SYNC | O_DSYNC | O_NOATIME;
	char *dir = arena_strdup(op->arena, name), *slash = dir ? strrchr(dir, '/') : NULL;
	int *slot = ARRAY_ADD(op->arena, &s->file_state->held);

	if (slot)
		*slot = -1;
	if (!slot || !slash)
		return op_nomem(op);
	slash[slash == dir] = 0;
	g->fd = file_high(view_open(g->view, dir, O_TMPFILE | (int)(m->flags & kept) | O_CLOEXEC, 0600));
	if (g->fd < 0) {
		log_warn(op, "%s: its file system has no O_TMPFILE (%s): the program will not be able to give it a name", name,
			 strerror(errno));
		return 1;
	}
	*slot = g->fd;
	g->path = arena_printf(op->arena, "/proc/self/fd/%d", g->fd);
	return g->path ? 0 : op_nomem(op);
}

/* A directory gets its own name where that is free: a task's current directory keeps its path then. */
static int create(struct op *op, struct snapshot *s, struct snap_ghost *g, const char *name)
{
	bool dir = S_ISDIR(g->msg->mode);
	int r = -1;

	if (dir) {
		g->path = arena_strdup(op->arena, name);
		r = g->path ? make_node(g->view, g->path, g->msg) : 0;
		if (r < 0 && errno != EEXIST)
			return ghost_fail(op, g->path, "create");
	}
	if (r < 0) {
		g->path = arena_printf(op->arena, "%s.cr.%x.ghost", name, g->id);
		if (g->path && make_node(g->view, g->path, g->msg) < 0)
			return ghost_fail(op, g->path, "create");
	}
	if (!g->path)
		return op_nomem(op);
	r = file_made(op, s->file_state, &(const struct made_name){ .view = g->view, .path = g->path, .dir = dir });
	if (r)
		dir ? view_rmdir(g->view, g->path) : view_unlink(g->view, g->path);
	return r;
}

int ghost_appear(struct op *op, struct snapshot *s, struct snap_ghost *g, const struct fs_view *view, const char *name)
{
	const RegFileEntry *tmp = index_find(&s->file_state->tmpfiles, KEY(g->id));
	int r;

	if (g->path)
		return 0;
	g->view = view;
	r = make_parents(op, s, view, name);
	if (r)
		return r;
	r = S_ISREG(g->msg->mode) && tmp ? create_nameless(op, s, g, tmp, name) : 1;
	r = r > 0 ? create(op, s, g, name) : r;
	if (!r && S_ISREG(g->msg->mode))
		r = fill_file(op, s, g);
	return r ? r : set_attributes(op, s, g);
}
