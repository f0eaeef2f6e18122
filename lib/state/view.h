/* SPDX-License-Identifier: MIT */
/*
 * Views: where names of files are looked up. Names in images are as the tasks' mount namespace has them; we live in another
 * one, and reach theirs by a descriptor of its root. All calls resolve absolute names, and symbolic links, below that root; they
 * return -1 and errno on failure, as their namesakes do. The view of ourselves, or NULL, is plain open(2).
 */
#ifndef CKPT_STATE_VIEW_H
#define CKPT_STATE_VIEW_H

#include <sys/stat.h>
#include <sys/vfs.h>

#include "lib/base/base.h"

struct fs_view {
	int root; /* O_PATH descriptor of the root of the mount namespace; AT_FDCWD: ours */
	/* Whom we are where our own ids have no place: root of the user namespace that file systems in there belong to. 0: we. */
	uint32_t uid, gid;
};
#define FS_VIEW_OURS { .root = AT_FDCWD }
extern const struct fs_view fs_view_ours;

/* Whether it is that of ourselves, so that a name can be given to any call as it is. */
bool view_is_ours(const struct fs_view *v);

int view_open(const struct fs_view *v, const char *path, int flags, mode_t mode); /* O_CLOEXEC is up to @flags */
int view_lstat(const struct fs_view *v, const char *path, struct stat *st);
int view_stat(const struct fs_view *v, const char *path, struct stat *st); /* follows symbolic links */
int view_statfs(const struct fs_view *v, const char *path, struct statfs *st);
/*
 * The folder that @path is in, O_PATH, for *at() calls; *@last is its last component, within @path. EINVAL for the root itself
 * and names that end in "." or "..".
 */
int view_parent(const struct fs_view *v, const char *path, const char **last);

/*
 * What makes files may fail with EOVERFLOW, where the file system belongs to a user namespace that does not know us. Then this thread
 * becomes @v's owner for what makes files, with all its capabilities; false: that is no other than we. *@self: what it was. Plain
 * system calls.
 */
struct view_self {
	uint32_t effective[2]; /* capabilities */
	int dumpable;	       /* whether others may look into us: the kernel takes that back when ids change */
};
bool view_become(const struct fs_view *v, struct view_self *self);
void view_come_back(const struct view_self *self);

/* What changes names, as owner of the view where it must be; the last component of a name is never followed. */
int view_mkdir(const struct fs_view *v, const char *path, mode_t mode);
int view_mknod(const struct fs_view *v, const char *path, mode_t mode, dev_t dev);
int view_symlink(const struct fs_view *v, const char *target, const char *path);
int view_unlink(const struct fs_view *v, const char *path);
int view_rmdir(const struct fs_view *v, const char *path);
int view_link(const struct fs_view *v, const char *have, const char *want);
/* Another name for what @fd is, which may be O_PATH. Its mount must be the one that @want is on. */
int view_link_fd(const struct fs_view *v, int fd, const char *want);

#endif
