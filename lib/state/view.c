/* SPDX-License-Identifier: MIT */
#include "lib/state/view.h"

#include <fcntl.h>

#include "lib/kernel/sys.h"

int view_open(const struct fs_view *v, const char *path, int flags, mode_t mode)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)flags, .resolve = RESOLVE_IN_ROOT };

	if (v->root == AT_FDCWD)
		return open(path, flags, mode);
	/* openat2 is strict where open is not. */
	if (flags & (O_CREAT | __O_TMPFILE))
		how.mode = mode & 07777;
	if (flags & O_PATH)
		how.flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	return sys_openat2(v->root, path, &how, sizeof(how));
}

int view_lstat(const struct fs_view *v, const char *path, struct stat *st)
{
	_cleanup_close_ int fd = -1;

	if (v->root == AT_FDCWD)
		return fstatat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
	fd = view_open(v, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	return fd < 0 ? -1 : fstat(fd, st);
}

int view_parent(const struct fs_view *v, const char *path, const char **last)
{
	size_t end = strlen(path), from;
	_cleanup_free_ char *dir = NULL;

	while (end && path[end - 1] == '/')
		end--;
	for (from = end; from && path[from - 1] != '/'; from--)
		;
	/* A trailing slash would be a part of what *@last points to. */
	if (from == end || path[end] == '/' || strcmp(path + from, ".") == 0 || strcmp(path + from, "..") == 0) {
		errno = EINVAL;
		return -1;
	}
	dir = from ? strndup(path, from) : strdup(".");
	if (!dir) {
		errno = ENOMEM;
		return -1;
	}
	*last = path + from;
	return view_open(v, dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}
