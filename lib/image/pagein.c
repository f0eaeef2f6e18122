// SPDX-License-Identifier: MIT
#include "lib/image/pagein.h"

#include "lib/image/dir.h"

struct pagein {
	char name[IMG_NAME_MAX];
	int fd;
	uint64_t n_pages;
};

int pagein_open(struct op *op, struct img_dir *dir, uint32_t pages_id, struct pagein **ret)
{
	struct pagein *in = op_new(op, struct pagein);
	uint64_t size;
	int r;

	if (!in)
		return CKPT_E_NOMEM;
	img_name(IMG_PAGES, pages_id, in->name, sizeof(in->name));
	r = img_open_pages(op, dir, pages_id, &in->fd, &size);
	if (r)
		return r;
	in->n_pages = size / PAGE_SIZE;
	*ret = in;
	return 0;
}

struct pagein *pagein_close(struct pagein *in)
{
	if (!in)
		return NULL;
	close_fd_p(&in->fd);
	in->fd = -1;
	return NULL;
}

uint64_t pagein_pages(const struct pagein *in)
{
	return in->n_pages;
}

int pagein_plain(const struct pagein *in)
{
	return in->fd;
}

const char *pagein_name(const struct pagein *in)
{
	return in->name;
}

int pagein_read(struct op *op, struct pagein *in, uint64_t first, size_t n, void *buf)
{
	size_t len = n * PAGE_SIZE, done = 0;

	if (first > in->n_pages || n > in->n_pages - first)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "image %s has %lu pages, and page %lu is asked for", in->name,
			       in->n_pages, first + n - 1);
	while (done < len) {
		ssize_t r = pread(in->fd, (char *)buf + done, len - done, (off_t)(first * PAGE_SIZE + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "pages"), "read image %s", in->name);
		if (r == 0)
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "pages"), "image %s became shorter", in->name);
		done += (size_t)r;
	}
	return 0;
}
