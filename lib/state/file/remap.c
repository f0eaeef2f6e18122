/* SPDX-License-Identifier: MIT */
/*
 * Files whose name leads to them no more. Dump gives a file that still has other names one that we know (link remap), in
 * the same directory or the nearest one that still exists; restore links it back to the old name for the moment of the open.
 * Ghosts (no name at all) are in ghost.c; here is what both have in common.
 */
#include <dirent.h>
#include <sys/vfs.h>

#include "lib/state/file/core.h"

int remap_add(struct op *op, struct snapshot *s, uint32_t orig, uint32_t target, RemapType type)
{
	RemapFilePathEntry *m = op_new(op, RemapFilePathEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &s->remaps) : NULL;
	if (!slot)
		return op_nomem(op);
	remap_file_path_entry__init(m);
	m->orig_id = orig;
	m->remap_id = target;
	m->has_remap_type = true;
	m->remap_type = type;
	*slot = m;
	return 0;
}

#define NAMES_MAX 100000 /* that are looked at for another name of a file */

/* On overlayfs a file may have another device than its directory. */
static bool on_same_fs(const struct fd_view *v, const char *dir, const struct stat *st)
{
	struct statfs fs;

	if (v->fs_magic != FS_OVERLAY)
		return st->st_dev == v->st.st_dev;
	return view_statfs(v->view, dir, &fs) == 0 && (uint32_t)fs.f_type == FS_OVERLAY;
}

/* The nearest directory above @path that exists on the same file system; NULL (errno) if there is none. */
static char *directory_for(struct op *op, const char *path, const struct fd_view *v)
{
	char *dir = arena_strdup(op->arena, path), *slash;
	struct stat st;

	while (dir && (slash = strrchr(dir, '/'))) {
		const char *name = slash > dir ? dir : "/";

		*slash = 0;
		if (view_stat(v->view, name, &st) == 0 && S_ISDIR(st.st_mode) && on_same_fs(v, name, &st))
			return dir;
	}
	errno = dir ? ENOENT : ENOMEM;
	return NULL;
}

const char *remap_other_name(struct op *op, const struct fd_view *v, const char *path)
{
	const char *dir = directory_for(op, path, v), *name = NULL;
	int fd = dir ? view_open(v->view, *dir ? dir : "/", O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC, 0) : -1;
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	struct stat st;

	for (size_t i = 0; d && !name && i < NAMES_MAX && (e = readdir(d)); i++)
		if (e->d_ino == v->st.st_ino && fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    st.st_ino == v->st.st_ino && st.st_dev == v->st.st_dev)
			name = arena_printf(op->arena, "%s/%s", dir, e->d_name);
	if (d)
		closedir(d);
	else
		close_fd_p(&fd);
	return name;
}

bool remap_can_link(struct op *op, const struct fd_view *v, const char *path)
{
	const char *dir = directory_for(op, path, v);
	const char *name = dir ? arena_printf(op->arena, "%s/link_remap.try.%d", dir, v->pid) : NULL;

	if (!name)
		return false;
	if (view_link_fd(v->view, v->copy, name) < 0)
		return errno != ENOENT;
	view_unlink(v->view, name);
	return true;
}

static int link_copy(struct op *op, const struct fd_view *v, const char *dir, uint32_t id, char **name)
{
	*name = arena_printf(op->arena, "%s/link_remap.%u", dir, id);
	for (unsigned i = 1; *name; i++) {
		if (view_link_fd(v->view, v->copy, *name) == 0)
			return 0;
		/* A name left by another checkpoint: the image tells restore which one is ours. */
		if (errno != EEXIST || i > 1000)
			return file_errno(op, v, "give it a second name (link remap)");
		*name = arena_printf(op->arena, "%s/link_remap.%u.%u", dir, id, i);
	}
	return op_nomem(op);
}

static int link_message(struct op *op, const struct snapshot *s, const struct fd_view *v, struct snap_file *link, char *name)
{
	RegFileEntry *m = op_new(op, RegFileEntry);

	if (!m)
		return CKPT_E_NOMEM;
	reg_file_entry__init(m);
	m->id = link->id;
	m->fown = op_new(op, FownEntry);
	if (!m->fown)
		return CKPT_E_NOMEM;
	fown_entry__init(m->fown);
	m->name = name;
	reg_note_mount(s, v, m);
	m->has_mode = true;
	m->mode = v->st.st_mode;
	if (S_ISREG(v->st.st_mode)) {
		m->has_size = true;
		m->size = (uint64_t)v->st.st_size;
	}
	link->msg->reg = m;
	return 0;
}

int remap_dump_link(struct op *op, struct snapshot *s, const struct fd_view *v, const char *path, uint32_t file_id)
{
	const char *dir = directory_for(op, path, v);
	struct snap_file *link;
	char *name;
	int r;

	if (!dir)
		return file_errno(op, v, "find a directory for its second name (link remap)");
	link = file_new(op, s, &file_reg);
	if (!link)
		return CKPT_E_NOMEM;
	r = link_copy(op, v, dir, link->id, &name);
	if (r)
		return r;
	r = file_made(op, s->file_state, &(const struct made_name){ .view = v->view, .path = name, .only_on_failure = true });
	if (r) {
		view_unlink(v->view, name);
		return r;
	}
	r = link_message(op, s, v, link, name);
	return r ? r : remap_add(op, s, file_id, link->id, REMAP_TYPE__LINKED);
}

/* ------------------------------------------------------------------------------------------- restore half */

/* Gives @have the name @want for a moment. If somebody else has that name now, the file is opened under the one it has. */
static int borrow_name(struct op *op, const char *have, const char *want, struct appearance *how)
{
	how->path = want;
	how->temporary = view_link(how->view, have, want) == 0;
	if (how->temporary)
		return 0;
	how->path = have;
	if (errno != EEXIST && errno != EPERM && errno != ENOENT && errno != EXDEV && errno != ENOTDIR)
		return op_errno(op, errno, AT(.kind = "file"), "cannot link %s to %s", have, want);
	log_debug(op, "%s cannot be had as a name for %s: %s", want, have, strerror(errno));
	return 0;
}

static int appear_linked(struct op *op, struct snapshot *s, const struct snap_file *f, uint32_t target, struct appearance *how)
{
	const struct snap_file *link = snapshot_file(s, target);
	const char *name;
	struct stat st;
	int r;

	if (!link || !link->msg->reg)
		return image_bad(op, "remap-fpath.img: file id %u is remapped to id %u, which is no file", f->id, target);
	name = link->msg->reg->name;
	how->view = reg_view(s, link->msg->reg);
	if (view_stat(how->view, name, &st) < 0)
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "file"), "%s: its second name %s is gone", f->msg->reg->name,
			       name);
	r = file_made(op, s->file_state, &(const struct made_name){ .view = how->view, .path = name, .only_on_success = true });
	return r ? r : borrow_name(op, name, f->msg->reg->name, how);
}

static int appear_ghost(struct op *op, struct snapshot *s, const struct snap_file *f, uint32_t id, struct appearance *how)
{
	struct snap_ghost *g = index_find(&s->file_state->ghost_ids, KEY(id));
	int r;

	if (!g)
		return image_bad(op, "remap-fpath.img: file id %u is remapped to ghost %u, which has no image", f->id, id);
	r = ghost_appear(op, s, g, how->view, f->msg->reg->name);
	if (r)
		return r;
	how->view = g->view;
	how->path = g->path;
	how->fd = g->fd;
	return S_ISDIR(g->msg->mode) || g->fd >= 0 ? 0 : borrow_name(op, g->path, f->msg->reg->name, how);
}

int remap_appear(struct op *op, struct snapshot *s, const struct snap_file *f, struct appearance *how)
{
	const RemapFilePathEntry *m = index_find(&s->file_state->remaps, KEY(f->id));

	*how = (struct appearance){ .view = reg_view(s, f->msg->reg), .path = f->msg->reg->name, .fd = -1 };
	if (!m)
		return 0;
	if (m->has_remap_type && m->remap_type == REMAP_TYPE__LINKED)
		return appear_linked(op, s, f, m->remap_id, how);
	/* Old images have no type and mark a ghost by the top bit of its id. */
	if (!m->has_remap_type || m->remap_type == REMAP_TYPE__GHOST)
		return appear_ghost(op, s, f, m->remap_id & 0x7fffffffu, how);
	/* A descriptor of /proc/PID was opened without coming here. */
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "file of /proc/PID"), "%s: only descriptors of dead processes are supported",
		       f->msg->reg->name);
}
