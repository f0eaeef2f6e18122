/* SPDX-License-Identifier: MIT */
/*
 * Sharing groups: mounts that tell each other what is mounted on them (peers: one shared_id), and those that only listen to
 * a group (slaves: its number is their master_id). A group of slaves may be peers, too.
 */
#include "lib/state/mount/core.h"

static struct mnt_group *find(const struct mount_state *st, uint32_t shared, uint32_t master)
{
	for (size_t i = 0; i < st->groups.n; i++)
		if (st->groups.v[i]->shared == shared && st->groups.v[i]->master == master)
			return st->groups.v[i];
	return NULL;
}

static struct mnt_group *group_for(struct op *op, struct mount_state *st, const MntEntry *e)
{
	struct mnt_group *g = find(st, e->shared_id, e->master_id), **slot;

	if (g)
		return g;
	g = op_new(op, struct mnt_group);
	slot = g ? ARRAY_ADD(op->arena, &st->groups) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*g = (struct mnt_group){ .shared = e->shared_id, .master = e->master_id, .fd = -1 };
	return *slot = g;
}

static int collect(struct op *op, struct mount_state *st)
{
	for (size_t i = 0; i < st->all.n; i++) {
		struct mnt *m = st->all.v[i], **slot;

		if (!m->e->shared_id && !m->e->master_id)
			continue;
		m->group = group_for(op, st, m->e);
		slot = m->group ? ARRAY_ADD(op->arena, &m->group->v) : NULL;
		if (!slot)
			return op_nomem(op);
		*slot = m;
	}
	return 0;
}

/* By which of its mounts it is known outside; NULL: by none. */
static struct mnt *ambassador(const struct mount_state *st, const struct mnt_group *g)
{
	for (size_t i = 0; i < g->v.n; i++) {
		struct mnt *m = g->v.v[i];

		if (m->base->kind == MNT_BASE_EXT && (g->master || !(m->e->has_internal_sharing && m->e->internal_sharing)))
			return m;
	}
	for (size_t i = 0; i < g->v.n && g->master; i++)
		if (g->v.v[i] == st->nss.v[0]->root)
			return g->v.v[i];
	return NULL;
}

static struct mnt *widest(const struct mnt_group *g)
{
	struct mnt *best = g->v.v[0];

	for (size_t i = 1; i < g->v.n; i++)
		if (strlen(g->v.v[i]->e->root) < strlen(best->e->root))
			best = g->v.v[i];
	return best;
}

static int find_master(struct op *op, struct mount_state *st, struct mnt_group *g, int code)
{
	for (size_t i = 0; i < st->groups.n && !g->from && g->master; i++)
		if (st->groups.v[i]->shared == g->master)
			g->from = st->groups.v[i];
	g->of = g->from ? NULL : ambassador(st, g);
	g->outside = g->of;
	if (!g->of)
		g->of = widest(g);
	if (!g->master || g->from || g->outside)
		return 0;
	return op_fail(op, code, MNT_AT("make it private, or external"),
		       "%s is a slave of mounts outside of the tree (group %u), which it cannot be again", mnt_name(op, g->of),
		       g->master);
}

/* Masters before slaves. */
static int sort(struct op *op, struct mount_state *st, int code)
{
	size_t n = st->groups.n, done = 0;
	struct mnt_group **v = op_alloc(op, (n + 1) * sizeof(struct mnt_group *));

	if (!v)
		return CKPT_E_NOMEM;
	while (done < n) {
		size_t before = done;

		for (size_t i = 0; i < n; i++) {
			struct mnt_group *g = st->groups.v[i];

			if (!g || (g->from && !g->from->sorted))
				continue;
			g->sorted = true;
			v[done++] = g;
			st->groups.v[i] = NULL;
		}
		if (done == before)
			return op_fail(op, code, AT(.kind = "mount"), "sharing groups of mounts are each other's masters in a circle");
	}
	st->groups.v = v;
	return 0;
}

int mnt_groups(struct op *op, struct mount_state *st, int code)
{
	int r = collect(op, st);

	for (size_t i = 0; i < st->groups.n && !r; i++) {
		struct mnt_group *g = st->groups.v[i];

		for (size_t j = 0; j < i && !r && g->shared; j++)
			if (st->groups.v[j]->shared == g->shared)
				r = op_fail(op, code, AT(.kind = "mount"), "sharing group %u of mounts has two masters", g->shared);
		r = r ?: find_master(op, st, g, code);
	}
	return r ?: sort(op, st, code);
}
