/* SPDX-License-Identifier: MIT */
/* Restore: cgroups that are frozen, and how the tree is frozen that was. */
#include <fcntl.h>

#include "lib/state/cgroup/core.h"

/* The file that tells whether a folder is frozen by itself, the one to change that, and the words. */
struct freezer_files {
	const char *tells, *state, *frozen, *thawed;
};
static const struct freezer_files v1 = { "freezer.self_freezing", "freezer.state", "FROZEN", "THAWED" };
static const struct freezer_files v2 = { "cgroup.freeze", "cgroup.freeze", "1", "0" };

static const struct freezer_files *files_of(const struct cg_hier *h)
{
	return cg_is_v2(h) ? &v2 : cg_has_word(h->name, "freezer") ? &v1 : NULL;
}

static struct cg_dir *dir_at(const struct cgroup_state *st, const struct cg_hier *h, const char *path)
{
	for (size_t i = 0; i < st->dirs.n; i++)
		if (st->dirs.v[i].hier == h && !strcmp(st->dirs.v[i].path, path))
			return &st->dirs.v[i];
	return NULL;
}

static int thaw_one(struct op *op, struct cgroup_state *st, struct cg_hier *h, const char *path)
{
	const struct freezer_files *f = files_of(h);
	_cleanup_close_ int dir = cg_open_dir(h, path, O_PATH);
	struct cg_dir *d = dir_at(st, h, path), **slot;
	char *value = NULL;
	int r = dir < 0 ? 0 : cg_value(op, dir, f->tells, &value);

	if (r || !value || strcmp(value, "1"))
		return r;
	if (!d || op->opts->manage_cgroups == CKPT_CGROUP_NONE)
		return op_fail(op, CKPT_E_BUSY, AT(.kind = "cgroup", .hint = "thaw it first"),
			       "the cgroup %s of %s is frozen: nothing can be restored into it", path, cg_word(h));
	slot = ARRAY_ADD(op->arena, &st->frozen);
	if (!slot)
		return op_nomem(op);
	*slot = d;
	r = cg_note(op, st, h, d->path, f->state, f->frozen);
	if (r || cg_write_value(op, dir, f->state, f->thawed, false) == 0)
		return r;
	return op_errno(op, errno, AT(.kind = "cgroup"), "thaw the cgroup %s of %s", path, cg_word(h));
}

/* All levels: a folder is frozen with the one it is in. */
static int thaw_path(struct op *op, struct cgroup_state *st, const struct cg_place *p)
{
	char *path = arena_strdup(op->arena, p->path);
	int r = path ? 0 : op_nomem(op);

	for (; !r && path[0] && path[1]; *strrchr(path, '/') = '\0')
		r = thaw_one(op, st, p->hier, path);
	return r;
}

int cg_thaw(struct op *op, struct cgroup_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->sets.n; i++)
		for (size_t k = 0; k < st->sets.v[i]->places.n && !r; k++)
			if (files_of(st->sets.v[i]->places.v[k].hier))
				r = thaw_path(op, st, &st->sets.v[i]->places.v[k]);
	return r;
}

static int freeze_one(struct op *op, struct cgroup_state *st, const struct cg_dir *d, const char *value)
{
	const struct freezer_files *f = files_of(d->hier);
	_cleanup_close_ int dir = -1;
	char *now = NULL;
	int r;

	if (!f)
		return 0;
	dir = cg_open_dir(d->hier, d->path, O_PATH);
	r = dir < 0 ? 0 : cg_value(op, dir, f->state, &now);
	if (r || (now && !strcmp(now, value)))
		return r;
	r = d->made ? 0 : cg_note(op, st, d->hier, d->path, f->state, now ?: f->thawed);
	if (r || (dir >= 0 && cg_write_value(op, dir, f->state, value, false) == 0))
		return r;
	return op_errno(op, errno, AT(.kind = "cgroup"), "set %s of the cgroup %s of %s to %s", f->state, d->path, cg_word(d->hier),
			value);
}

int cgroups_freeze(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	for (size_t i = 0; st && i < st->dirs.n && !r; i++) {
		const struct cg_dir *d = &st->dirs.v[i];

		for (size_t k = 0; k < d->msg->n_properties && !r && cg_wants_props(op, d); k++)
			if (cg_prop_freezes(d->msg->properties[k]->name))
				r = freeze_one(op, st, d, d->msg->properties[k]->value);
	}
	for (size_t i = 0; st && i < st->frozen.n && !r; i++)
		r = freeze_one(op, st, st->frozen.v[i], files_of(st->frozen.v[i]->hier)->frozen);
	return r;
}
