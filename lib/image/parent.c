/* SPDX-License-Identifier: MIT */
#include "lib/image/parent.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "lib/image/dir.h"

#define LINK "parent"

static int read_names(struct op *op, const char *path, struct img_parent *p)
{
	ProtobufCMessage *msg;
	int r = img_dir_identify(op, p->dir, &p->inventory);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "parent", .hint = "a dump or pre-dump that failed leaves none"),
			       "%s is no set of images: it has no inventory.img", path);
	if (r)
		return r;
	if (p->inventory->img_version != 2)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "parent"), "%s is of format version %u, only 2 is supported", path,
			       p->inventory->img_version);
	p->run_id = p->inventory->dump_criu_run_id;
	r = img_read_one(op, p->dir, IMG_EXTRA, 0, &msg);
	if (!r)
		p->parent_run_id = ((CkptExtraEntry *)msg)->parent_run_id;
	return r == IMG_ABSENT ? 0 : r;
}

static int open_at(struct op *op, int at, const char *path, struct img_parent *ret)
{
	struct img_dir *dir = op_new(op, struct img_dir);
	struct stat st;
	int r;

	*ret = (struct img_parent){ 0 };
	if (!dir)
		return CKPT_E_NOMEM;
	dir->fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0 || fstat(dir->fd, &st) < 0)
		return op_errno(op, errno,
				AT(.kind = "parent", .hint = at >= 0 ? "a parent is named relative to the images folder" : NULL),
				"open %s%s", at >= 0 ? "the parent, " : "images folder ", path);
	ret->dir = dir;
	ret->dev = st.st_dev;
	ret->ino = st.st_ino;
	r = op->opts->no_verify ? 0 : img_dir_sums(op, dir);
	r = r ?: read_names(op, path, ret);
	if (r)
		ret->dir = img_dir_close(dir);
	return r;
}

int img_parent_open(struct op *op, const struct img_dir *child, const char *path, struct img_parent *ret)
{
	struct stat own, st;

	if (fstat(child->fd, &own) < 0 || fstatat(child->fd, path, &st, 0) < 0 || st.st_dev != own.st_dev || st.st_ino != own.st_ino)
		return open_at(op, child->fd, path, ret);
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "parent"), "--prev-images-dir %s is the images folder itself", path);
}

int img_set_open(struct op *op, struct img_parent *ret)
{
	if (op->opts->images_dir_fd >= 0)
		return open_at(op, op->opts->images_dir_fd, ".", ret);
	return open_at(op, AT_FDCWD, op->opts->images_dir ?: ".", ret);
}

int img_parent_follow(struct op *op, const struct img_dir *child, struct img_parent *ret)
{
	struct stat st;

	if (fstatat(child->fd, LINK, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? IMG_ABSENT : op_errno(op, errno, AT(.kind = "parent"), "look for the link to the parent");
	return open_at(op, child->fd, LINK, ret);
}

int img_parent_link(struct op *op, struct img_dir *dir, const char *path, const struct img_parent *parent)
{
	struct stat st;

	if (symlinkat(path, dir->fd, LINK) == 0) {
		dir->link_made = true;
		return 0;
	}
	if (errno != EEXIST)
		return op_errno(op, errno, AT(.kind = "parent"), "make the link to the parent");
	if (fstatat(dir->fd, LINK, &st, 0) == 0 && st.st_dev == parent->dev && st.st_ino == parent->ino)
		return 0;
	return op_fail(op, CKPT_E_EXISTS, AT(.kind = "parent", .hint = "remove the link `parent` from the images folder"),
		       "the images folder has a link to another parent than %s", path);
}
