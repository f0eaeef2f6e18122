/* SPDX-License-Identifier: MIT */
/* Mounts as trees, one a namespace: by their numbers, from whatever said which there are. */
#include "lib/state/mount/core.h"

struct mnt *mnt_add(struct op *op, struct mount_state *st, struct mnt_ns *ns, MntEntry *e)
{
	struct mnt *m = op_new(op, struct mnt), **here = m ? ARRAY_ADD(op->arena, &ns->v) : NULL;
	struct mnt **all = here ? ARRAY_ADD(op->arena, &st->all) : NULL;

	if (!all) {
		op_nomem(op);
		return NULL;
	}
	*m = (struct mnt){ .e = e, .ns = ns, .fd = -1, .target = -1 };
	*here = *all = m;
	return m;
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = (*(struct mnt *const *)a)->e->mnt_id, y = (*(struct mnt *const *)b)->e->mnt_id;

	return x < y ? -1 : x > y;
}

struct mnt *mnt_find(const struct mount_state *st, uint32_t mnt_id)
{
	size_t lo = 0, hi = st->all.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (st->all.v[mid]->e->mnt_id < mnt_id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < st->all.n && st->all.v[lo]->e->mnt_id == mnt_id ? st->all.v[lo] : NULL;
}

const char *mnt_below(const char *path, const char *folder)
{
	size_t n = strlen(folder);

	while (n && folder[n - 1] == '/')
		n--;
	if (strncmp(path, folder, n) != 0 || (path[n] && path[n] != '/'))
		return NULL;
	for (path += n; *path == '/'; path++)
		;
	return path;
}

const char *mnt_name(struct op *op, const struct mnt *m)
{
	const char *fs = m->fsname ?: m->fs && m->fs->name && m->fs->name[0] ? m->fs->name : "file system";
	const char *name = arena_printf(op->arena, "mount %u (%s on %s)", m->e->mnt_id, fs, m->e->mountpoint);

	return name ?: "a mount";
}

static int bad(struct op *op, int code, const struct mnt *m, const char *hint, const char *why)
{
	return op_fail(op, code, MNT_AT(hint), "%s: %s", mnt_name(op, m), why);
}

static int place_root(struct op *op, struct mnt *m, int code)
{
	if (strcmp(m->e->mountpoint, "/") != 0)
		return bad(op, code, m, NULL, "its parent is none of the mounts");
	if (m->ns->root)
		return bad(op, code, m, NULL, "there are two roots of one namespace");
	m->ns->root = m;
	return 0;
}

/* Each under its parent. Mounts at one place could still be each other's parents: check_ns() finds those. */
static int place(struct op *op, struct mount_state *st, struct mnt *m, int code)
{
	struct mnt *p = mnt_find(st, m->e->parent_mnt_id), **slot;

	if (!p || p->ns != m->ns || p == m)
		return place_root(op, m, code);
	if (!mnt_below(m->e->mountpoint, p->e->mountpoint))
		return bad(op, code, m, NULL, "it is not below the mount that it is said to be on");
	slot = ARRAY_ADD(op->arena, &p->children);
	if (!slot)
		return op_nomem(op);
	*slot = m;
	m->parent = p;
	return 0;
}

/* How many there are below @m, and itself. A hostile tree may be deep: no recursion. */
static int count_below(struct op *op, struct mnt *m, size_t max, size_t *n)
{
	struct mnt **queue = op_alloc(op, max * sizeof(struct mnt *));

	if (!queue)
		return CKPT_E_NOMEM;
	queue[0] = m;
	*n = 1;
	for (size_t i = 0; i < *n; i++) /* each is the child of one: they are never more than @max */
		for (size_t j = 0; j < queue[i]->children.n; j++)
			queue[(*n)++] = queue[i]->children.v[j];
	return 0;
}

static int check_ns(struct op *op, struct mnt_ns *n, int code)
{
	size_t found;

	if (!n->root)
		return op_fail(op, code, AT(.kind = "mount"), "mount namespace %u has no root", n->ns->id);
	if (count_below(op, n->root, n->v.n, &found) < 0)
		return CKPT_E_NOMEM;
	if (found != n->v.n)
		return op_fail(op, code, AT(.kind = "mount"), "mount namespace %u: mounts are on each other in a circle", n->ns->id);
	return 0;
}

static int by_place(const void *a, const void *b)
{
	return strcmp((*(struct mnt *const *)a)->e->mountpoint, (*(struct mnt *const *)b)->e->mountpoint);
}

/* The deeper a place is, the earlier it is mounted upon, so that nothing hides it by then: sorted like that, from behind. */
static int sort_children(struct op *op, struct mnt *m, int code)
{
	if (m->children.n > 1)
		qsort(m->children.v, m->children.n, sizeof(*m->children.v), by_place);
	for (size_t i = 1; i < m->children.n; i++)
		if (by_place(&m->children.v[i - 1], &m->children.v[i]) == 0)
			return bad(op, code, m->children.v[i], "unmount one of the two",
				   "another mount is at the same place of the same mount, which cannot be made again");
	return 0;
}

int mnt_trees(struct op *op, struct mount_state *st, int code)
{
	int r = 0;

	if (st->all.n > 1)
		qsort(st->all.v, st->all.n, sizeof(*st->all.v), by_number);
	for (size_t i = 1; i < st->all.n; i++)
		if (st->all.v[i - 1]->e->mnt_id == st->all.v[i]->e->mnt_id)
			return bad(op, code, st->all.v[i], NULL, "there are two of this number");
	for (size_t i = 0; i < st->all.n && !r; i++)
		r = place(op, st, st->all.v[i], code);
	for (size_t i = 0; i < st->all.n && !r; i++)
		r = sort_children(op, st->all.v[i], code);
	for (size_t i = 0; i < st->nss.n && !r; i++)
		r = check_ns(op, st->nss.v[i], code);
	return r;
}

static bool is_ancestor(const struct mnt *m, const struct mnt *below)
{
	for (; below; below = below->parent)
		if (below == m)
			return true;
	return false;
}

bool mnt_hidden(const struct mnt *m)
{
	for (const struct mnt *a = m; a; a = a->parent)
		for (size_t i = 0; i < a->children.n; i++)
			if (!is_ancestor(a->children.v[i], m) && mnt_below(m->e->mountpoint, a->children.v[i]->e->mountpoint))
				return true;
	return false;
}
