/* SPDX-License-Identifier: MIT */
#include "lib/image/punch.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/dir.h"

static uint64_t taken(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static int punch_one(struct op *op, int fd, const char *name, const struct block_range *v)
{
	int r = op_check_cancel(op);

	while (!r && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(v->first * PAGE_SIZE),
			       (off_t)(v->n * PAGE_SIZE)) < 0)
		r = errno == EINTR ? op_check_cancel(op) :
				     op_errno(op, errno, AT(.hint = errno == EOPNOTSUPP ? "this file system cannot free parts of files" : NULL),
					      "free pages of image %s", name);
	return r;
}

/* Ranges of one image, that of the first. */
static int punch_image(struct op *op, struct img_dir *dir, const struct block_range *v, size_t n, uint64_t *freed)
{
	char name[IMG_NAME_MAX];
	_cleanup_close_ int fd = -1;
	uint64_t before, after;
	int r = 0;

	img_name(IMG_PAGES, v->pages_id, name, sizeof(name));
	fd = openat(dir->fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return op_errno(op, errno, NULL, "open image %s to free pages of it", name);
	before = taken(fd);
	for (size_t i = 0; i < n && !r; i++)
		r = punch_one(op, fd, name, &v[i]);
	after = taken(fd);
	*freed += before > after ? before - after : 0;
	return r;
}

int pages_punch(struct op *op, struct img_dir *dir, const struct block_range *v, size_t n, uint64_t *freed)
{
	int r = n ? blocks_mark(op, dir->fd, v, n) : 0; /* else what is freed would pass for damage */

	for (size_t from = 0, to; from < n && !r; from = to) {
		for (to = from + 1; to < n && v[to].pages_id == v[from].pages_id; to++)
			;
		r = punch_image(op, dir, v + from, to - from, freed);
	}
	return r;
}
