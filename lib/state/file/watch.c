/* SPDX-License-Identifier: MIT */
/*
 * The kernel tells of a watch the device, the inode and a file handle; the image wants a name, too, for a handle is worth
 * nothing on another machine. The name is found
 * - by opening the handle on a mount of the device, where the file system can do that (open_by_handle_at);
 * - else by looking for the inode: in folders that --irmap-scan-path names, in those where the programs are at work, in
 *   those that programs like to watch, and at last in the whole file system, up to a limit.
 * --force-irmap leaves out the first. A file whose name is not found but whose handle can be opened keeps the handle.
 */
#include <fts.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>

#include "lib/state/file/watch.h"
#include "lib/state/msg.h"

#define HANDLE_WORDS 16
#define NEAR_NAMES_MAX 10000
#define NEAR_FILES_MAX 1000
#define SCAN_NAMES_MAX 1000000 /* in the last search, about two seconds */

/* A name that is looked for. */
struct watch_want {
	struct fd_view view; /* without the copy */
	struct watch_what what;
	FhEntry *fh;
	bool by_handle; /* it can be opened by its handle, at least */
};

/* What is watched most, in programs that are watched over most. */
static const char *const usual_folders[] = {
	"/etc", "/var/spool", "/var/log", "/usr/share/dbus-1/services", "/usr/share/dbus-1/system-services",
	"/var/lib/polkit-1/localauthority", "/usr/share/polkit-1/actions", "/lib/udev",
};

struct kernel_handle {
	struct file_handle h;
	uint8_t room[128];
};

static dev_t user_dev(uint32_t dev)
{
	return makedev(dev >> 20, dev & 0xfffff);
}

struct watch_name watch_name(int fd)
{
	struct watch_name n;

	snprintf(n.s, sizeof(n.s), "/proc/self/fd/%d", fd);
	return n;
}

static bool is_on(const struct proc_mount *m, uint32_t dev)
{
	return makedev(m->dev_major, m->dev_minor) == user_dev(dev);
}

/* ----------------------------------------------------------------------------------------------- by handle */

/* O_PATH descriptor of what the handle says, on a mount of the device that @pid sees; -1. */
static int open_handle(struct op *op, pid_t pid, const struct proc_mounts *mounts, uint32_t dev, const void *data, uint32_t bytes,
		       uint32_t type)
{
	struct kernel_handle k = { .h.handle_bytes = bytes, .h.handle_type = (int)type };

	memcpy(k.h.f_handle, data, bytes);
	/* A mount of the whole file system shows every name; others only what lies below. */
	for (int whole = 1; bytes && whole >= 0; whole--) {
		for (size_t i = 0; i < mounts->v.n; i++) {
			const struct proc_mount *m = &mounts->v.v[i];
			const char *path = arena_printf(op->arena, "/proc/%d/root%s", pid, m->mountpoint);
			_cleanup_close_ int dir = -1;
			int fd;

			if (!path || !is_on(m, dev) || (strcmp(m->root, "/") == 0) != whole)
				continue;
			dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
			fd = dir < 0 ? -1 : open_by_handle_at(dir, &k.h, O_PATH | O_CLOEXEC);
			if (fd >= 0)
				return fd;
		}
	}
	return -1;
}

/* The name of @fd, if it leads there. */
static char *name_of(struct op *op, const struct fs_view *view, int fd)
{
	char buf[4096];
	ssize_t n = readlink(watch_name(fd).s, buf, sizeof(buf) - 1);
	struct stat a, b;

	if (n <= 0 || buf[0] != '/' || fstat(fd, &a) < 0)
		return NULL;
	buf[n] = 0;
	if (view_lstat(view, buf, &b) < 0 || a.st_dev != b.st_dev || a.st_ino != b.st_ino)
		return NULL;
	return arena_strdup(op->arena, buf);
}

static int find_by_handle(struct op *op, const struct snapshot *s, struct watch_want *w)
{
	const struct proc_handle *h = w->what.handle;
	struct proc_mounts mounts;
	_cleanup_close_ int fd = -1;
	struct stat st;
	int32_t mnt_id;
	int r = proc_read_mountinfo(op, w->view.pid, &mounts);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = w->view.pid), "task %d went away", w->view.pid);
	fd = open_handle(op, w->view.pid, &mounts, w->what.dev, h->data, h->bytes, h->type);
	if (fd < 0)
		return 0;
	if (fstat(fd, &st) == 0 && !st.st_nlink)
		return file_refuse(op, &w->view, w->what.kind, "let the program take the watch away before the checkpoint",
				   "it watches a deleted file (inode %lu): not supported yet", (unsigned long)w->what.ino);
	w->by_handle = true;
	mnt_id = file_mount(fd);
	w->fh->path = name_of(op, mounts_view(s, mnt_id), fd);
	if (mounts_own(s) && mnt_id >= 0)
		msg_set(w->fh, mnt_id, (uint32_t)mnt_id);
	return 0;
}

/* ----------------------------------------------------------------------------------------------- by search */

/* All are looked for where the first of them is. */
static const struct fs_view *view_of(const struct file_state *fs)
{
	return fs->wants.v[0]->view.view;
}

/* Something that was found. On overlayfs what is no folder may have another device than the file system. */
struct found {
	const char *dir, *path; /* its name is both together */
	const struct stat *st;
	dev_t parent; /* device of the folder it is in */
};

static bool is_it(const struct watch_want *w, const struct found *f)
{
	dev_t dev = user_dev(w->what.dev);
	struct statfs fs;
	char name[4096];

	if (w->what.ino != f->st->st_ino || f->st->st_dev == dev)
		return w->what.ino == f->st->st_ino;
	if (S_ISDIR(f->st->st_mode) || f->parent != dev)
		return false;
	return snprintf(name, sizeof(name), "%s%s", f->dir, f->path) < (int)sizeof(name) &&
	       view_statfs(w->view.view, name, &fs) == 0 && (uint32_t)fs.f_type == FS_OVERLAY;
}

static struct watch_want *wanted(struct file_state *fs, const struct found *f, size_t *open)
{
	struct watch_want *found = NULL;

	*open = 0;
	for (size_t i = 0; i < fs->wants.n; i++) {
		struct watch_want *w = fs->wants.v[i];

		if (w->fh->path)
			continue;
		if (is_it(w, f))
			found = w;
		else
			++*open;
	}
	return found;
}

/* Several descriptors may watch one file. */
static int take(struct op *op, struct file_state *fs, const struct found *f, bool *all)
{
	struct watch_want *w;
	size_t open;

	while ((w = wanted(fs, f, &open))) {
		w->fh->path = *f->dir || *f->path ? arena_printf(op->arena, "%s%s", f->dir, f->path) : arena_strdup(op->arena, "/");
		if (!w->fh->path)
			return op_nomem(op);
	}
	*all = !open;
	return 0;
}

/* Looks through @dir, and what is below it if @deep, up to @max names. @xdev: does not go into other file systems. */
static int search(struct op *op, struct file_state *fs, const char *dir, bool deep, bool xdev, size_t max, bool *all)
{
	_cleanup_close_ int at = view_open(view_of(fs), dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	struct watch_name own = watch_name(at);
	char *const dirs[] = { own.s, NULL };
	FTS *fts = at < 0 ? NULL : fts_open(dirs, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR | (xdev ? FTS_XDEV : 0), NULL);
	FTSENT *e;
	int r = 0;

	if (!fts)
		return 0;
	dir = strcmp(dir, "/") ? dir : "";
	while (!r && !*all && max-- && (e = fts_read(fts))) {
		if (e->fts_info != FTS_DP && e->fts_info != FTS_NS && e->fts_info != FTS_DNR && e->fts_info != FTS_ERR)
			r = take(op, fs,
				 &(const struct found){ dir, e->fts_path + strlen(own.s), e->fts_statp,
							e->fts_level ? e->fts_parent->fts_dev : e->fts_statp->st_dev }, all);
		if (!deep && e->fts_level)
			fts_set(fts, e, FTS_SKIP);
		r = r ? r : op_check_cancel(op);
	}
	fts_close(fts);
	return r;
}

/* The folders where mounts are may be what is watched; for file systems without handles that is the best guess. */
static int search_mounts(struct op *op, struct file_state *fs, const struct proc_mounts *mounts, bool *all)
{
	int r = 0;

	for (size_t i = 0; !r && !*all && i < mounts->v.n; i++) {
		struct stat st;

		if (view_lstat(view_of(fs), mounts->v.v[i].mountpoint, &st) == 0)
			r = take(op, fs, &(const struct found){ "", mounts->v.v[i].mountpoint, &st, st.st_dev }, all);
	}
	return r;
}

/* The whole file systems, in the end. Mounts inside are not followed: each is looked through by itself. */
static int search_all(struct op *op, struct file_state *fs, const struct proc_mounts *mounts, bool *all)
{
	int r = 0;

	for (size_t i = 0; !r && !*all && i < mounts->v.n; i++)
		for (size_t j = 0; !r && !*all && j < fs->wants.n; j++) {
			const struct watch_want *w = fs->wants.v[j];

			if (w->fh->path || w->by_handle || !is_on(&mounts->v.v[i], w->what.dev))
				continue;
			r = search(op, fs, mounts->v.v[i].mountpoint, true, true, SCAN_NAMES_MAX, all);
			break;
		}
	return r;
}

/* Where the programs are at work: their folders, and those of what they have open. */
static int search_near(struct op *op, struct snapshot *s, bool *all)
{
	struct file_state *fs = s->file_state;
	int r = 0;

	for (size_t i = 0; !r && !*all && i < s->tasks.n; i++) {
		char *cwd;

		r = proc_read_link(op, s->tasks.v[i].host, "cwd", &cwd);
		if (!r && cwd[0] == '/' && cwd[1])
			r = search(op, fs, cwd, true, true, NEAR_NAMES_MAX, all);
		r = MIN(r, 0);
	}
	for (size_t i = 0; !r && !*all && i < s->files.n && i < NEAR_FILES_MAX; i++) {
		const RegFileEntry *m = s->files.v[i]->msg->reg;
		const char *slash = m && m->name ? strrchr(m->name, '/') : NULL;
		char *dir = slash && slash > m->name ? arena_strndup(op->arena, m->name, (size_t)(slash - m->name)) : NULL;

		if (dir && *dir == '/')
			r = search(op, fs, dir, false, true, NEAR_NAMES_MAX, all);
	}
	return r;
}

static int search_names(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	struct proc_mounts mounts;
	bool all = false;
	int r = proc_read_mountinfo(op, fs->wants.v[0]->view.pid, &mounts);

	r = r > 0 ? CKPT_E_NO_PROCESS : r;
	r = r ? r : search_mounts(op, fs, &mounts, &all);
	for (size_t i = 0; !r && !all && i < op->opts->irmap_scan_path.n; i++)
		r = search(op, fs, op->opts->irmap_scan_path.v[i], true, false, SIZE_MAX, &all);
	r = r || all ? r : search_near(op, s, &all);
	for (size_t i = 0; !r && !all && i < ARRAY_SIZE(usual_folders); i++)
		r = search(op, fs, usual_folders[i], true, false, SIZE_MAX, &all);
	r = r || all ? r : search(op, fs, "/", false, false, SIZE_MAX, &all);
	return r || all ? r : search_all(op, fs, &mounts, &all);
}

int watch_complete(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	int r = fs->wants.n ? search_names(op, s) : 0;

	for (size_t i = 0; !r && i < fs->wants.n; i++) {
		const struct watch_want *w = fs->wants.v[i];

		if (w->fh->path)
			continue;
		if (!w->by_handle)
			return file_refuse(op, &w->view, w->what.kind, "name a folder to search with --irmap-scan-path DIR",
					   "the file that it watches (inode %lu of device %u:%u) was not found",
					   (unsigned long)w->what.ino, w->what.dev >> 20, w->what.dev & 0xfffff);
		log_warn(op, "task %d: fd %d: %s: no name was found for inode %lu of device %u:%u: it can be restored only here",
			 w->view.pid, w->view.fd, w->what.kind, (unsigned long)w->what.ino, w->what.dev >> 20, w->what.dev & 0xfffff);
	}
	fs->wants.n = 0;
	return r;
}

int watch_dump(struct op *op, struct snapshot *s, const struct fd_view *v, const struct watch_what *what, FhEntry **ret)
{
	struct watch_want *w = op_new(op, struct watch_want), **slot;
	FhEntry *fh = msg_new(op, FhEntry, fh_entry);
	int r = 0;

	if (!w || !fh)
		return CKPT_E_NOMEM;
	fh->bytes = what->handle->bytes;
	fh->type = what->handle->type;
	fh->n_handle = HANDLE_WORDS;
	fh->handle = op_alloc(op, HANDLE_WORDS * sizeof(*fh->handle));
	if (!fh->handle)
		return CKPT_E_NOMEM;
	memcpy(fh->handle, what->handle->data, what->handle->bytes);
	*ret = fh;
	*w = (struct watch_want){ .view = *v, .what = *what, .fh = fh };
	w->view.copy = -1;
	if (what->handle->bytes && !op->opts->force_irmap)
		r = find_by_handle(op, s, w);
	if (r || fh->path)
		return r;
	slot = ARRAY_ADD(op->arena, &s->file_state->wants);
	if (!slot)
		return op_nomem(op);
	*slot = w;
	return 0;
}

const char *watch_mount(struct op *op, pid_t pid, uint32_t mnt_id, uint32_t dev)
{
	struct proc_mounts mounts;

	if (proc_read_mountinfo(op, pid, &mounts) != 0)
		return NULL;
	for (size_t i = 0; i < mounts.v.n; i++)
		if (mnt_id ? mounts.v.v[i].mnt_id == (int)mnt_id : is_on(&mounts.v.v[i], dev))
			return mounts.v.v[i].mountpoint;
	return NULL;
}

/* -------------------------------------------------------------------------------------------- restore half */

static int not_there(struct op *op, const char *kind, uint32_t file_id, const char *what)
{
	return op_fail(op, CKPT_E_CHANGED, AT(.kind = kind, .hint = "put back what was there when the checkpoint was made"),
		       "%s id %u watches %s, which cannot be opened: %s", kind, file_id, what, strerror(errno));
}

int watch_open_path(struct op *op, const struct fs_view *view, const char *kind, uint32_t file_id, const char *path, int *fd)
{
	if (path[0] != '/')
		return image_bad(op, "files.img: %s id %u: the name \"%s\" is not absolute", kind, file_id, path);
	*fd = file_high(view_open(view, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0));
	return *fd < 0 ? not_there(op, kind, file_id, path) : 0;
}

/* In the root file system of the tree; others can be told by their device only where nothing was mounted anew. */
static int open_handle_in(const struct fs_view *view, const FhEntry *fh)
{
	_cleanup_close_ int root = view_open(view, "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	struct kernel_handle k = { .h.handle_bytes = fh->bytes, .h.handle_type = (int)fh->type };

	memcpy(k.h.f_handle, fh->handle, fh->bytes);
	return root < 0 ? -1 : open_by_handle_at(root, &k.h, O_PATH | O_CLOEXEC);
}

int watch_open(struct op *op, const struct snapshot *s, const char *kind, uint32_t file_id, uint32_t dev, const FhEntry *fh, int *fd)
{
	const struct fs_view *view = mounts_view(s, fh->has_mnt_id ? (int32_t)fh->mnt_id : -1);
	struct proc_mounts mounts;
	int r;

	if (fh->path)
		return watch_open_path(op, view, kind, file_id, fh->path, fd);
	if (!fh->bytes || fh->bytes > sizeof(((struct kernel_handle *)0)->room) || fh->bytes > fh->n_handle * sizeof(*fh->handle))
		return image_bad(op, "files.img: %s id %u: a file has neither a name nor a handle that makes sense", kind, file_id);
	if (!view_is_ours(view)) {
		*fd = file_high(open_handle_in(view, fh));
		return *fd < 0 ? not_there(op, kind, file_id, "a file known by its handle only") : 0;
	}
	r = proc_read_mountinfo(op, getpid(), &mounts);
	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_INTERNAL, NULL, "cannot read the mounts of this process");
	errno = ESTALE;
	*fd = file_high(open_handle(op, getpid(), &mounts, dev, fh->handle, fh->bytes, fh->type));
	return *fd < 0 ? not_there(op, kind, file_id, "a file known by its handle only") : 0;
}
