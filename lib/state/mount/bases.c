/* SPDX-License-Identifier: MIT */
/*
 * Where the file systems come from: the root of the tree from --root, external ones from their places outside, and of each
 * other one is mounted anew, once. What a mount shows must be within one of these.
 */
#include "lib/state/mount/core.h"

static struct mnt_base *add(struct op *op, struct mount_state *st, struct mnt *m, int kind, const char *root)
{
	struct mnt_base *b = op_new(op, struct mnt_base), **slot = b ? ARRAY_ADD(op->arena, &st->bases) : NULL;

	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*b = (struct mnt_base){
		.kind = kind, .of = m, .root = root, .fd = -1, .outside = -1, .archive = -1, .slot = (unsigned)st->bases.n,
	};
	*slot = m->base = b;
	return b;
}

/* One that shows all that @m shows; those from outside last. */
static struct mnt_base *find(const struct mount_state *st, const struct mnt *m)
{
	struct mnt_base *ext = NULL;

	for (size_t i = 0; i < st->bases.n; i++) {
		struct mnt_base *b = st->bases.v[i];

		if (b->of->e->root_dev != m->e->root_dev || (strcmp(b->root, m->e->root) != 0 && !mnt_below(m->e->root, b->root)))
			continue;
		if (b->kind != MNT_BASE_EXT)
			return b;
		ext = ext ?: b;
	}
	return ext;
}

static int outside(struct op *op, struct mount_state *st)
{
	struct mnt *root = st->nss.n ? st->nss.v[0]->root : NULL;

	if (root && !add(op, st, root, MNT_BASE_ROOT, root->e->root))
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i];
		bool no_root = strcmp(m->e->root, MNT_EXT_NO_ROOT) == 0 || (m->e->has_ext_mount && m->e->ext_mount);

		if (m->ext_path && !add(op, st, m, MNT_BASE_EXT, no_root ? "" : m->e->root))
			return CKPT_E_NOMEM;
	}
	return 0;
}

static int anew(struct op *op, struct mount_state *st, bool whole)
{
	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i];

		if (m->base || m->fs->traits & (MNT_FS_DEVICE | MNT_FS_REFUSED) || find(st, m))
			continue;
		if (whole ? strcmp(m->e->root, "/") == 0 : m->fs->traits & MNT_FS_KERNELS)
			if (!add(op, st, m, MNT_BASE_NEW, "/"))
				return CKPT_E_NOMEM;
	}
	return 0;
}

static int refuse(struct op *op, const struct mnt *m, int code)
{
	const char *hint = arena_printf(op->arena, "make it external: --external 'mnt[%s]:KEY'", m->e->mountpoint);

	if (m->fs->traits & MNT_FS_REFUSED)
		return op_fail(op, code, MNT_AT(hint),
			       "%s: file systems of this kind are served by a program, and cannot be made again", mnt_name(op, m));
	if (strcmp(m->e->root, "/") != 0)
		return op_fail(op, code, MNT_AT(hint),
			       "%s: only %s of its file system is mounted, and there is no mount of all of it to take that from",
			       mnt_name(op, m), m->e->root);
	if (m->fsname)
		hint = arena_printf(op->arena, "%s; or, where mounting it by its name is enough, --enable-fs %s", hint ?: "", m->fsname);
	return op_fail(op, code, MNT_AT(hint),
		       "%s: a file system of this kind cannot be made again, and its contents are not dumped", mnt_name(op, m));
}

int mnt_bases(struct op *op, struct mount_state *st, int code)
{
	int r = outside(op, st) ?: anew(op, st, true) ?: anew(op, st, false);

	for (size_t i = 0; i < st->all.n && !r; i++) {
		struct mnt *m = st->all.v[i];

		m->base = m->base ?: find(st, m);
		if (!m->base)
			r = refuse(op, m, code);
	}
	return r;
}
