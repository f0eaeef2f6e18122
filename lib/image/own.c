// SPDX-License-Identifier: MIT
/* Reading files of our own that are not images: they come whole, and are not large. */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/dir.h"

int img_pread(struct op *op, int fd, const char *name, void *p, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(fd, (char *)p + done, n - done, off + done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, NULL, "read image %s", name);
		if (r == 0)
			return op_fail(op, CKPT_E_IMAGE, NULL, "image %s became shorter while it was read", name);
		done += r;
	}
	return 0;
}

int img_read_own(struct op *op, int dirfd, const char *name, uint64_t max, char **bytes, size_t *n)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;

	if (fd < 0 && errno == ENOENT)
		return IMG_ABSENT;
	if (fd < 0)
		return op_errno(op, errno, NULL, "open image %s", name);
	if (fstat(fd, &st) < 0)
		return op_errno(op, errno, NULL, "fstat image %s", name);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > max)
		return op_fail(op, CKPT_E_IMAGE, NULL, "image %s is damaged: it is no regular file, or absurdly large", name);
	*bytes = malloc(st.st_size + 1);
	if (!*bytes)
		return op_nomem(op);
	*n = st.st_size;
	return img_pread(op, fd, name, *bytes, *n, 0);
}
