/* SPDX-License-Identifier: MIT */
/* Images of mounts: read, and everything in them checked, before anything is made. */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "lib/state/mount/core.h"

static int bad(struct op *op, const struct mnt *m, const char *why)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "mount"), "%s: %s", mnt_name(op, m), why);
}

/* Absolute, and without components that lead elsewhere. */
static bool plain_path(const char *p)
{
	if (p[0] != '/' || strlen(p) >= PATH_MAX)
		return false;
	if (!p[1])
		return true;
	while (*p == '/') {
		size_t n = strcspn(++p, "/");

		if (n == 0 || (n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += n;
	}
	return true;
}

static int check_fs(struct op *op, struct mnt *m)
{
	const MntEntry *e = m->e;

	m->fs = mnt_fs_of(e->fstype);
	if (!m->fs)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "mount"), "%s: file systems of number %u are unknown", mnt_name(op, m),
			       e->fstype);
	m->fsname = e->fstype == FSTYPE__AUTO ? e->fsname : m->fs->name[0] ? m->fs->name : NULL;
	if (e->fstype == FSTYPE__AUTO && (!e->fsname || !e->fsname[0] || strchr(e->fsname, '/')))
		return bad(op, m, "its file system has no name");
	if (e->has_with_plugin && e->with_plugin)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "mount"),
			       "%s is to be mounted by a plugin, of which there are none", mnt_name(op, m));
	return 0;
}

int mnt_check_entry(struct op *op, struct mnt *m)
{
	const MntEntry *e = m->e;
	bool outside = e->ext_key || (e->has_ext_mount && e->ext_mount);

	if (!e->mnt_id || e->mnt_id > INT32_MAX)
		return bad(op, m, "its number makes no sense");
	if (!plain_path(e->mountpoint))
		return bad(op, m, "its place makes no sense");
	/* What cgroups and files of namespaces say they show is no path, and need not be one of those from outside, or the root. */
	if (!outside && strcmp(e->mountpoint, "/") != 0 && !plain_path(e->root))
		return bad(op, m, "what it shows of its file system makes no sense");
	if (!m->e->has_sb_flags) /* an old image */
		m->e->sb_flags = e->flags & (MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_MANDLOCK);
	return check_fs(op, m);
}

static int read_ns(struct op *op, struct snapshot *s, struct mnt_ns *n)
{
	struct img_in *in;
	ProtobufCMessage *msg;
	int r = img_open(op, s->dir, IMG_MNTS, n->ns->id, &in);

	if (r == IMG_ABSENT)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "mount"), "mountpoints-%u.img is missing: the mount namespace cannot be made",
			       n->ns->id);
	while (!r && (r = img_read(op, in, &msg)) == 0) {
		struct mnt *m = mnt_add(op, s->mounts, n, (MntEntry *)msg);

		r = m ? mnt_check_entry(op, m) : CKPT_E_NOMEM;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

int mnt_check(struct op *op, struct mount_state *st)
{
	return mnt_trees(op, st, CKPT_E_IMAGE) ?: mnt_ext_restore(op, st) ?: mnt_bases(op, st, CKPT_E_UNSUPPORTED) ?:
	       mnt_groups(op, st, CKPT_E_IMAGE);
}

static int check_root(struct op *op, const struct snapshot *s)
{
	const char *root = op->opts->root;
	struct stat st;

	if (!root && ns_own(s, NS_MNT))
		return op_fail(op, CKPT_E_INVAL, MNT_AT("say which folder has the files of the tree: --root FOLDER"),
			       "the tree has a mount namespace of its own, and its root is not given");
	if (root && stat(root, &st) < 0)
		return op_errno(op, errno, MNT_AT("--root must have the files of the tree"), "look at the new root %s", root);
	if (root && !S_ISDIR(st.st_mode))
		return op_fail(op, CKPT_E_INVAL, MNT_AT("--root must be a folder"), "the new root %s is no folder", root);
	return 0;
}

static int check_external(struct op *op, const struct mnt *m)
{
	struct stat st;

	if (stat(m->ext_path, &st) < 0)
		return op_errno(op, errno, MNT_AT("what is external must be there at the restore"), "look at %s, for %s", m->ext_path,
				mnt_name(op, m));
	return 0;
}

/* What our own dump refuses, others save: formats that belong to a user namespace. */
static int check_formats(struct op *op, const struct snapshot *s, const struct mnt_base *b)
{
	struct img_in *in;
	int r = b->of->e->fstype == FSTYPE__BINFMT_MISC ? img_open(op, s->dir, IMG_BINFMT_MISC, 0, &in) : IMG_ABSENT;

	if (r)
		return r < 0 ? r : 0;
	img_in_close(in);
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "mount"), "%s: there are binary formats in it, which cannot be restored",
		       mnt_name(op, b->of));
}

int mounts_read(struct op *op, struct snapshot *s)
{
	struct mount_state *st;
	int r = mnt_begin(op, s);

	st = s->mounts;
	if (r || !st || !st->nss.n)
		return r;
	for (size_t i = 0; i < st->nss.n && !r; i++)
		r = read_ns(op, s, st->nss.v[i]);
	r = r ?: mnt_check(op, st);
	for (size_t i = 0; i < st->bases.n && !r; i++) {
		struct mnt_base *b = st->bases.v[i];

		if (b->kind == MNT_BASE_EXT)
			r = check_external(op, b->of);
		else if (b->kind == MNT_BASE_NEW && b->of->fs->traits & MNT_FS_CONTENT)
			r = mnt_tmpfs_find(op, s, b);
		r = r ?: check_formats(op, s, b);
	}
	return r ?: check_root(op, s);
}
