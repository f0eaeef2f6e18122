/* SPDX-License-Identifier: MIT */
/*
 * What is in file systems that live in memory: an archive of each, once, however often it is mounted. It is read through a
 * clone of one of its mounts, below which nothing is mounted; an errand in the tree's mount namespace makes that. Where all
 * its mounts are hidden by others, or none can be cloned, the errand takes a copy of the whole namespace, and unmounts there
 * what is in the way.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "lib/kernel/proc/proc.h"
#include "lib/kernel/sys.h"
#include "lib/state/mount/core.h"
#include "lib/state/mount/gzip.h"
#include "lib/state/mount/tar.h"

/* ---------------------------------------------------------------------------------------------------- dump */

struct job {
	struct snapshot *s;
	ARRAY(struct mnt *) v; /* to be archived; NULL: done */
	struct mnt *only;      /* in a copy of the namespace */
};

static int mount_id(int fd, uint64_t *id)
{
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0 || !(x.stx_mask & STATX_MNT_ID))
		return -1;
	*id = x.stx_mnt_id;
	return 0;
}

/* In the errand, where names begin at the root of the namespace. */
static int open_place(const char *place)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };

	return sys_openat2(AT_FDCWD, place, &how, sizeof(how));
}

/* A clone of the mount of number @id at @place, alone; -1: something else is there, or it cannot be cloned. */
static int clone_of(const char *place, uint64_t id)
{
	_cleanup_close_ int fd = open_place(place);
	uint64_t is;

	if (fd < 0 || mount_id(fd, &is) < 0 || is != id)
		return -1;
	return sys_open_tree(fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
}

static int archive(struct op *op, const struct mnt *m, int root)
{
	struct gz_out *gz = NULL;
	int r = gz_create(op, m->base->out, &gz) ?: tar_write_tree(op, gz, root) ?: gz_finish(gz);

	gz_out_free(gz);
	return r ? op_wrap(op, r, "contents of %s", mnt_name(op, m)) : 0;
}

/* The mount by which a file system is read: of those that show all of it one that is not hidden, if there is one. */
static struct mnt *by_which(const struct mount_state *st, const struct mnt_base *b)
{
	struct mnt *hidden = NULL;

	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i];

		if (m->base != b || strcmp(m->e->root, "/") != 0)
			continue;
		if (!mnt_hidden(m))
			return m;
		hidden = hidden ?: m;
	}
	return hidden;
}

static int archive_all(struct op *op, void *arg)
{
	struct job *j = arg;
	int r = 0;

	for (size_t i = 0; i < j->v.n && !r; i++) {
		struct mnt *m = j->v.v[i];
		_cleanup_close_ int fd = clone_of(m->e->mountpoint, m->e->mnt_id);

		if (fd < 0)
			continue;
		r = archive(op, m, fd);
		j->v.v[i] = NULL;
	}
	return r;
}

/* The number that @m has in our copy of the namespace; 0: none. */
static uint64_t number_in_copy(const struct proc_mounts *copy, const struct mnt *m)
{
	uint64_t parent = m->parent ? number_in_copy(copy, m->parent) : 0;

	for (size_t i = 0; i < copy->v.n; i++) {
		const struct proc_mount *p = &copy->v.v[i];

		if (strcmp(p->mountpoint, m->e->mountpoint) != 0 || (m->parent && (uint64_t)p->parent_id != parent))
			continue;
		/* The root is the one at "/" that is on nothing which could be seen. */
		if (m->parent)
			return (uint64_t)p->mnt_id;
		for (size_t k = 0; k <= copy->v.n; k++)
			if (k == copy->v.n)
				return (uint64_t)p->mnt_id;
			else if (copy->v.v[k].mnt_id == p->parent_id)
				break;
	}
	return 0;
}

static int read_copy(struct op *op, int proc, struct proc_mounts *out)
{
	_cleanup_close_ int fd = openat(proc, "thread-self/mountinfo", O_RDONLY | O_CLOEXEC);
	size_t n = 0, cap = 1u << 20;
	char *text = op_alloc(op, cap);
	ssize_t got = 0;

	while (text && fd >= 0 && n < cap && (got = read(fd, text + n, cap - n)) > 0)
		n += (size_t)got;
	if (!text)
		return CKPT_E_NOMEM;
	if (fd < 0 || got < 0 || n == cap || proc_parse_mountinfo(op->arena, text, n, out))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "mount"), "the mounts of a copy of a mount namespace cannot be read");
	return 0;
}

/* What is at @place, and does not lead to @m, goes. False: it does not want to. */
static bool uncover(const struct proc_mounts *copy, const struct mnt *m, const char *place)
{
	for (;;) {
		_cleanup_close_ int fd = open_place(place);
		const struct mnt *a = m;
		uint64_t is;

		if (fd < 0 || mount_id(fd, &is) < 0)
			return false;
		while (a && number_in_copy(copy, a) != is)
			a = a->parent;
		if (a)
			return true;
		close(fd);
		fd = -1;
		if (umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return false;
	}
}

/* From the root on to where it is mounted, so that each place can be reached. */
static bool uncover_all(struct op *op, const struct proc_mounts *copy, const struct mnt *m)
{
	char *place = arena_strdup(op->arena, m->e->mountpoint), *p = place;
	bool ok = place != NULL;

	while (ok && *p) {
		size_t n = 1 + strcspn(p + 1, "/");
		char was = p[n];

		p[n] = 0;
		ok = uncover(copy, m, place);
		p[n] = was;
		p += n;
	}
	return ok;
}

static int archive_hidden(struct op *op, void *arg)
{
	struct proc_mounts copy = { 0 };
	struct job *j = arg;
	_cleanup_close_ int fd = -1;
	int r;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return op_errno(op, errno, AT(.kind = "mount"), "copy a mount namespace");
	r = read_copy(op, j->s->mounts->proc, &copy);
	if (r)
		return r;
	if (uncover_all(op, &copy, j->only))
		fd = clone_of(j->only->e->mountpoint, number_in_copy(&copy, j->only));
	if (fd < 0)
		return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("unmount what is mounted above it, or make it external"),
			       "%s is hidden, and its contents cannot be reached", mnt_name(op, j->only));
	return archive(op, j->only, fd);
}

/* Which of them are to be read by way of @n, with images that are open. */
static int prepare(struct op *op, struct job *j, const struct mnt_ns *n)
{
	struct mount_state *st = j->s->mounts;
	int r = 0;

	for (size_t i = 0; i < st->bases.n && !r; i++) {
		struct mnt_base *b = st->bases.v[i];
		struct mnt *m = b->kind == MNT_BASE_NEW && b->of->fs->traits & MNT_FS_CONTENT ? by_which(st, b) : NULL, **slot;

		if (!m || m->ns != n)
			continue;
		slot = ARRAY_ADD(op->arena, &j->v);
		if (!slot)
			return op_nomem(op);
		*slot = m;
		r = img_create(op, j->s->dir, IMG_TMPFS_DEV, m->e->root_dev, &b->out) ?: img_touch(op, b->out);
	}
	return r;
}

static int finish(struct op *op, struct mount_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->bases.n; i++) {
		r = img_close(op, st->bases.v[i]->out) ?: r;
		st->bases.v[i]->out = NULL;
	}
	return r;
}

int mnt_tmpfs_dump(struct op *op, struct snapshot *s, struct mnt_ns *n)
{
	const struct errand_where tree = ns_where(s);
	struct errand_where where = ERRAND_HERE;
	struct job j = { .s = s };
	int r = prepare(op, &j, n);

	if (r || !j.v.n)
		return r;
	where.user = tree.user;
	where.mnt = n->ns->fd;
	r = errand_run(op, &where, archive_all, &j);
	for (size_t i = 0; i < j.v.n && !r; i++) {
		j.only = j.v.v[i];
		if (j.only)
			r = errand_run(op, &where, archive_hidden, &j);
	}
	return finish(op, s->mounts) ?: r;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int open_archive(struct op *op, struct snapshot *s, const struct mnt_base *b, struct img_in **in)
{
	int r = img_open(op, s->dir, IMG_TMPFS_DEV, b->of->e->root_dev, in);

	for (size_t i = 0; i < s->mounts->all.n && r == IMG_ABSENT; i++)
		if (s->mounts->all.v[i]->base == b)
			r = img_open(op, s->dir, IMG_TMPFS, s->mounts->all.v[i]->e->mnt_id, in);
	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "tmpfs"),
			       "%s: there is no image of what was in it (tmpfs-dev-%u.tar.gz.img)", mnt_name(op, b->of), b->of->e->root_dev);
	return r;
}

int mnt_tmpfs_find(struct op *op, struct snapshot *s, struct mnt_base *b)
{
	struct img_in *in = NULL;
	int r = open_archive(op, s, b, &in) ?: img_rest(op, in, &b->archive, &b->archive_at, &b->archive_len);

	img_in_close(in);
	return r;
}

int mnt_tmpfs_fill(struct op *op, const struct mnt_base *b, int root)
{
	struct tar_in *tar = NULL;
	struct gz_in *gz = NULL;
	int r = gz_open(op, b->archive, b->archive_at, b->archive_len, &gz);

	if (!r) {
		tar = tar_open(gz_read, gz);
		r = tar ? tar_extract(op, tar, root) : op_nomem(op);
	}
	tar_close(tar);
	gz_in_free(gz);
	return r ? op_wrap(op, r, "contents of %s", mnt_name(op, b->of)) : 0;
}
