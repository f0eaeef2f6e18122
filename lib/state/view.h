/* SPDX-License-Identifier: MIT */
/*
 * Views: where names of files are looked up. Names in images are as the tasks' mount namespace has them; we live in another
 * one, and reach theirs by a descriptor of its root. All calls resolve absolute names, and symbolic links, below that root; they
 * return -1 and errno on failure, as their namesakes do. The view of ourselves is plain open(2).
 */
#ifndef CKPT_STATE_VIEW_H
#define CKPT_STATE_VIEW_H

#include <sys/stat.h>

#include "lib/base/base.h"

struct fs_view {
	int root; /* O_PATH descriptor of the root of the mount namespace; AT_FDCWD: ours */
};
#define FS_VIEW_OURS { AT_FDCWD }

int view_open(const struct fs_view *v, const char *path, int flags, mode_t mode); /* O_CLOEXEC is up to @flags */
int view_lstat(const struct fs_view *v, const char *path, struct stat *st);
/*
 * The folder that @path is in, O_PATH, for *at() calls; *@last is its last component, within @path. EINVAL for the root itself
 * and names that end in "." or "..".
 */
int view_parent(const struct fs_view *v, const char *path, const char **last);

#endif
