/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "lib/kernel/sys.h"
#include "lib/state/mount/tar.h"

#define BUF (128u << 10)
#define WITHIN (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)

/* Folders get their times when everything is in them. */
struct late {
	const char *path;
	struct timespec mtime;
};

struct extract {
	struct op *op;
	struct tar_in *in;
	int root;
	int folder; /* that of the entry, open */
	char folder_path[TAR_NAME_MAX];
	ARRAY(struct late) late;
	char *buf;
};

static int fail(struct extract *x, const char *what, const char *path)
{
	return op_errno(x->op, errno, AT(.kind = "tmpfs"), "%s %s", what, path);
}

static int damaged(struct extract *x)
{
	return op_fail(x->op, CKPT_E_IMAGE, AT(.kind = "tmpfs"), "the archive is damaged: %s", tar_why(x->in));
}

static int open_within(struct extract *x, const char *path)
{
	struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = WITHIN };

	return sys_openat2(x->root, *path ? path : ".", &how, sizeof(how));
}

/* The folder of @path, as a descriptor of the caller's; *@last is the rest. */
static int open_parent(struct extract *x, const char *path, const char **last)
{
	char folder[TAR_NAME_MAX];
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	memcpy(folder, path, n);
	folder[n] = 0;
	*last = slash ? slash + 1 : path;
	return open_within(x, folder);
}

/* Goes to the folder of @path, where the last one was often, too. */
static int go_to(struct extract *x, const char *path, const char **last)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	*last = slash ? slash + 1 : path;
	if (x->folder >= 0 && strncmp(x->folder_path, path, n) == 0 && !x->folder_path[n])
		return 0;
	close_fd_p(&x->folder);
	x->folder = open_parent(x, path, last);
	if (x->folder < 0 || fchdir(x->folder) < 0)
		return fail(x, "go to the folder of", path);
	memcpy(x->folder_path, path, n);
	x->folder_path[n] = 0;
	return 0;
}

/* ---------------------------------------------------------------------------------------------------- files */

static int write_all(struct extract *x, int fd, const struct tar_entry *e, uint64_t offset, uint64_t size)
{
	while (size) {
		ssize_t n = tar_data(x->in, x->buf, (size_t)MIN(size, BUF)), put = 0;

		if (n <= 0)
			return damaged(x);
		for (ssize_t done = 0; done < n; done += put) {
			put = pwrite(fd, x->buf + done, (size_t)(n - done), (off_t)(offset + (uint64_t)done));
			if (put <= 0)
				return fail(x, "write", e->path);
		}
		offset += (uint64_t)n;
		size -= (uint64_t)n;
	}
	return op_check_cancel(x->op);
}

static int make_file(struct extract *x, const struct tar_entry *e, const char *name)
{
	_cleanup_close_ int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = 0;

	if (fd < 0)
		return fail(x, "make", e->path);
	if (!e->sparse)
		return write_all(x, fd, e, 0, e->size);
	for (size_t i = 0; i < e->n_extents && !r; i++)
		r = write_all(x, fd, e, e->extents[i].offset, e->extents[i].size);
	return !r && ftruncate(fd, (off_t)e->size) < 0 ? fail(x, "set the size of", e->path) : r;
}

static int make_link(struct extract *x, const struct tar_entry *e, const char *name)
{
	const char *last;
	_cleanup_close_ int from = open_parent(x, e->link, &last);

	if (from < 0 || linkat(from, last, AT_FDCWD, name, 0) < 0)
		return fail(x, "link", e->path);
	return 0;
}

static int make_folder(struct extract *x, const struct tar_entry *e, const char *name)
{
	struct stat st;

	if (mkdir(name, 0700) == 0)
		return 0;
	if (errno == EEXIST && lstat(name, &st) == 0 && S_ISDIR(st.st_mode))
		return 0;
	return fail(x, "make", e->path);
}

static int make(struct extract *x, const struct tar_entry *e, const char *name)
{
	static const mode_t types[] = { [TAR_CHAR] = S_IFCHR, [TAR_BLOCK] = S_IFBLK, [TAR_FIFO] = S_IFIFO };

	if (e->type == TAR_FOLDER)
		return make_folder(x, e, name);
	if (unlink(name) < 0 && errno != ENOENT)
		return fail(x, "replace", e->path);
	if (e->type == TAR_FILE)
		return make_file(x, e, name);
	if (e->type == TAR_LINK)
		return make_link(x, e, name);
	if (e->type == TAR_SYMLINK)
		return symlink(e->link, name) < 0 ? fail(x, "make", e->path) : 0;
	return mknod(name, types[e->type] | 0600, makedev(e->major, e->minor)) < 0 ? fail(x, "make", e->path) : 0;
}

/* What is changed by the one before comes after it: owners take away bits of the mode, and attributes. */
static int furnish(struct extract *x, const struct tar_entry *e, const char *name)
{
	const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, e->mtime };

	if (lchown(name, e->uid, e->gid) < 0)
		return fail(x, "set the owner of", e->path);
	if (e->type != TAR_SYMLINK && chmod(name, e->mode) < 0)
		return fail(x, "set the mode of", e->path);
	for (size_t i = 0; i < e->n_xattrs; i++)
		if (lsetxattr(name, e->xattrs[i].name, e->xattrs[i].value, e->xattrs[i].size, 0) < 0)
			return fail(x, "set an extended attribute of", e->path);
	return utimensat(AT_FDCWD, name, times, AT_SYMLINK_NOFOLLOW) < 0 ? fail(x, "set the times of", e->path) : 0;
}

static int remember(struct extract *x, const struct tar_entry *e)
{
	struct late *l = ARRAY_ADD(x->op->arena, &x->late);

	if (!l || !(l->path = arena_strdup(x->op->arena, e->path)))
		return op_nomem(x->op);
	l->mtime = e->mtime;
	return 0;
}

static int extract_one(struct extract *x, const struct tar_entry *e)
{
	const char *name;
	int r = go_to(x, e->path, &name);

	if (r)
		return r;
	if (!*e->path) {
		if (e->type != TAR_FOLDER)
			return op_fail(x->op, CKPT_E_IMAGE, AT(.kind = "tmpfs"), "the archive is damaged: its root is no folder");
		name = ".";
	} else {
		r = make(x, e, name);
	}
	if (e->type == TAR_FOLDER)
		r = r ?: remember(x, e);
	return r || e->type == TAR_LINK ? r : furnish(x, e, name);
}

static int late_times(struct extract *x)
{
	for (size_t i = x->late.n; i > 0; i--) {
		const struct late *l = &x->late.v[i - 1];
		const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, l->mtime };
		_cleanup_close_ int fd = open_within(x, l->path);

		if (fd < 0 || fchdir(fd) < 0 || utimensat(AT_FDCWD, ".", times, 0) < 0)
			return fail(x, "set the times of", l->path);
	}
	return 0;
}

int tar_extract(struct op *op, struct tar_in *in, int root)
{
	struct extract *x = op_new(op, struct extract);
	const struct tar_entry *e;
	int r = x ? 0 : CKPT_E_NOMEM, next = 0;

	if (r)
		return r;
	*x = (struct extract){ .op = op, .in = in, .root = root, .folder = -1, .buf = malloc(BUF) };
	if (!x->buf)
		r = op_nomem(op);
	while (!r && (next = tar_next(in, &e)) > 0)
		r = extract_one(x, e);
	if (next < 0)
		r = damaged(x);
	close_fd_p(&x->folder);
	r = r ?: late_times(x);
	free(x->buf);
	return r;
}
