/* SPDX-License-Identifier: MIT */
/* Files that inotify and fanotify descriptors watch: which ones they are is known by device, inode and handle only. */
#ifndef CKPT_STATE_FILE_WATCH_H
#define CKPT_STATE_FILE_WATCH_H

#include "lib/state/file/core.h"

/* What is watched, as the kernel shows it. */
struct watch_what {
	const char *kind; /* "inotify" */
	uint32_t dev;	  /* the kernel's */
	uint64_t ino;
	const struct proc_handle *handle;
};

/*
 * Dump: the handle, and the name if it can be found by it. Names that need a search are found in watch_complete(), one
 * search for all. @v need not stay.
 */
int watch_dump(struct op *op, struct snapshot *s, const struct fd_view *v, const struct watch_what *w, FhEntry **ret);
/* For .complete of both kinds; does nothing the second time. */
int watch_complete(struct op *op, struct snapshot *s);
/* A mount of @mnt_id (or, if that is 0, of device @dev) that the task sees: where it is. NULL (not recorded): none. */
const char *watch_mount(struct op *op, pid_t pid, uint32_t mnt_id, uint32_t dev);

/* Restore: an O_PATH descriptor (O_CLOEXEC) of what is watched. */
int watch_open(struct op *op, const struct snapshot *s, const char *kind, uint32_t file_id, uint32_t dev, const FhEntry *fh, int *fd);
/* The same by name only. */
int watch_open_path(struct op *op, const struct fs_view *view, const char *kind, uint32_t file_id, const char *path, int *fd);
/* Its name for calls that do not take O_PATH descriptors. */
struct watch_name {
	char s[32];
};
struct watch_name watch_name(int fd);

#endif
