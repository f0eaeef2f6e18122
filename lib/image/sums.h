/* SPDX-License-Identifier: MIT */
/* The file `ckpt-sums`: what every image of a checkpoint was when it was written. Inside lib/image, and for `ckpt verify`. */
#ifndef CKPT_IMAGE_SUMS_H
#define CKPT_IMAGE_SUMS_H

#include "lib/image/dir.h"

struct sums {
	uint64_t dump;
	bool blocks; /* there is a ckpt-blocks of the same dump */
	struct img_sum *v; /* by name */
	size_t n;
};

/* Writing: an image is complete. */
int sums_add(struct op *op, struct img_dir *dir, const char *name, uint64_t size, uint64_t sum);
int sums_write(struct op *op, struct img_dir *dir);

/* Returns 0, IMG_ABSENT. In the arena. */
int sums_read(struct op *op, int dirfd, struct sums **ret);
int sums_parse(struct op *op, const void *bytes, size_t n, struct sums **ret);
/* NULL if it is not known. */
const struct img_sum *sums_find(const struct sums *s, const char *name);
/* What is known of an image that is there: *@ret is NULL where nothing is, which is an error where it should. @s may be NULL. */
int sums_want(struct op *op, const struct sums *s, enum img_kind kind, const char *name, const struct img_sum **ret);
/* Sum of the first @size bytes of a file. */
int sums_of_fd(struct op *op, int fd, const char *name, uint64_t size, uint64_t *sum);
int sums_compare(struct op *op, const struct img_sum *want, uint64_t size, uint64_t sum);

#endif
