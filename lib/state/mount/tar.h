/* SPDX-License-Identifier: MIT */
/*
 * Archives of files, as the format has them for file systems in memory. Written: POSIX (pax), with GNU's sparse files, as GNU
 * tar writes and reads them. Read: that, and GNU tar's own form. Nothing of an archive is believed: names are made
 * relative and plain, or refused.
 *
 * Not a library: libarchive, with what it links, adds many milliseconds to the start of every program that uses us.
 */
#ifndef CKPT_STATE_MOUNT_TAR_H
#define CKPT_STATE_MOUNT_TAR_H

#include <time.h>

#include "lib/base/op.h"

#define TAR_NAME_MAX 4096 /* with its end */

/* ---- reading: tar_read.c. No system calls, no allocation that an archive could drive beyond what is said here. */
typedef ssize_t tar_read_fn(void *arg, void *buf, size_t n); /* less than @n at the end only; -1: cannot be read */

struct tar_xattr {
	const char *name;
	const void *value;
	size_t size;
};
struct tar_extent {
	uint64_t offset, size;
};
struct tar_entry {
	enum { TAR_FILE, TAR_LINK, TAR_SYMLINK, TAR_CHAR, TAR_BLOCK, TAR_FOLDER, TAR_FIFO } type;
	char path[TAR_NAME_MAX]; /* relative, without "." and ".."; "": the root itself */
	char link[TAR_NAME_MAX]; /* of TAR_LINK such a path, too; of TAR_SYMLINK anything */
	uint32_t mode, uid, gid, major, minor;
	struct timespec mtime;
	uint64_t size; /* of a file, with its holes */
	bool sparse;
	struct tar_extent *extents; /* of a sparse file: ascending, apart, within size */
	size_t n_extents;
	struct tar_xattr *xattrs;
	size_t n_xattrs;
};

struct tar_in;
struct tar_in *tar_open(tar_read_fn *read, void *arg); /* NULL: out of memory */
struct tar_in *tar_close(struct tar_in *in);
/* 1: there is one, valid until the next; 0: the end; -1: tar_why() says why. What was not read of the last one is skipped. */
int tar_next(struct tar_in *in, const struct tar_entry **e);
/* Data of the entry, of a sparse file that of its extents one after the other. As a tar_read_fn. */
ssize_t tar_data(struct tar_in *in, void *buf, size_t n);
const char *tar_why(const struct tar_in *in);

/* ---- tar_write.c */
struct gz_out;
/* All below the folder @root, itself included, but nothing that is mounted there. Changes the working directory. */
int tar_write_tree(struct op *op, struct gz_out *gz, int root);

/* ---- tar_extract.c */
/* Into the folder @root. Nothing is written anywhere else. Changes the working directory. */
int tar_extract(struct op *op, struct tar_in *in, int root);

#endif
