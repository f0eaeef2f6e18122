/* SPDX-License-Identifier: MIT */
/* gzip streams, to an image and from a file. */
#ifndef CKPT_STATE_MOUNT_GZIP_H
#define CKPT_STATE_MOUNT_GZIP_H

#include "lib/image/image.h"

struct gz_out;
int gz_create(struct op *op, struct img_out *out, struct gz_out **ret);
int gz_write(struct gz_out *gz, const void *p, size_t n);
int gz_finish(struct gz_out *gz);		/* the end of the stream */
struct gz_out *gz_out_free(struct gz_out *gz);	/* NULL allowed; returns NULL; the image stays open */

struct gz_in;
/* @length bytes of @fd from @offset on; @fd stays the caller's. */
int gz_open(struct op *op, int fd, uint64_t offset, uint64_t length, struct gz_in **ret);
/* How many bytes there were, up to @n: less at the end only; -1: damaged, or not readable. A tar_read_fn. */
ssize_t gz_read(void *gz, void *buf, size_t n);
struct gz_in *gz_in_free(struct gz_in *gz);

#endif
