/* SPDX-License-Identifier: MIT */
/* Restore: the image, checked: what it names is looked for here, and nothing is made yet. */
#include <sys/stat.h>

#include "lib/state/cgroup/core.h"

static int bad(struct op *op, const char *what, const char *name)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "cgroup"), "cgroup.img: %s: %s", what, name);
}

/* ------------------------------------------------------------------------------------------------ hierarchies */

static const char *joined(struct op *op, const CgControllerEntry *c)
{
	const char *name = c->cnames[0];

	for (size_t i = 1; i < c->n_cnames && name; i++)
		name = arena_printf(op->arena, "%s,%s", name, c->cnames[i]);
	if (!name)
		op_nomem(op);
	return name;
}

static int missing(struct op *op, const char *name, const char *path)
{
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.kind = "cgroup", .hint = "with --manage-cgroups=ignore the tree is in the cgroups of whoever restores it"),
		       "the tree was in the cgroup %s of the hierarchy %s, and there is no such hierarchy here", path,
		       *name ? name : "unified");
}

/* ------------------------------------------------------------------------------------------------ folders */

static int check_dir(struct op *op, const CgroupDirEntry *d, bool head)
{
	const char *path = arena_printf(op->arena, "/%s", d->dir_name);
	int r = 0;

	if (!path)
		return op_nomem(op);
	if (!cg_path_ok(path) || (!head && (!*d->dir_name || strchr(d->dir_name, '/'))))
		return bad(op, "this is no name of a folder", d->dir_name);
	for (size_t i = 0; i < d->n_properties; i++)
		if (!cg_prop_name_ok(d->properties[i]->name))
			return bad(op, "this is no name of a property", d->properties[i]->name);
	for (size_t i = 0; i < d->n_children && !r; i++)
		r = check_dir(op, d->children[i], false);
	return r;
}

static int check_controllers(struct op *op, const CgroupEntry *img)
{
	int r = 0;

	for (size_t i = 0; i < img->n_controllers && !r; i++) {
		const CgControllerEntry *c = img->controllers[i];

		if (!c->n_cnames)
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "cgroup"), "cgroup.img: a hierarchy without a name");
		for (size_t k = 0; k < c->n_dirs && !r; k++)
			r = check_dir(op, c->dirs[k], true);
	}
	return r;
}

/* As it goes into this machine: what --cgroup-root replaces is replaced. */
static const char *map_path(struct op *op, const struct cg_hier *h, const char *path)
{
	const char *rest, *to = h->root_to;

	if (!h->root_from || !cg_is_below(path, h->root_from))
		return path;
	rest = strcmp(h->root_from, "/") ? path + strlen(h->root_from) : strcmp(path, "/") ? path : "";
	if (!strcmp(to, "/"))
		return *rest ? rest : "/";
	return arena_printf(op->arena, "%s%s", to, rest);
}

static int add_dir(struct op *op, struct cgroup_state *st, struct cg_hier *h, const CgroupDirEntry *msg, const char *path)
{
	struct cg_dir *d = ARRAY_ADD(op->arena, &st->dirs);
	int r = 0;

	if (!d)
		return op_nomem(op);
	*d = (struct cg_dir){ .hier = h, .msg = msg, .path = map_path(op, h, path) };
	if (!d->path)
		return op_nomem(op);
	d->root = !strcmp(d->path, "/");
	for (size_t i = 0; i < msg->n_children && !r; i++) {
		const char *below = arena_printf(op->arena, "%s/%s", strcmp(path, "/") ? path : "", msg->children[i]->dir_name);

		r = below ? add_dir(op, st, h, msg->children[i], below) : op_nomem(op);
	}
	return r;
}

static int add_dirs(struct op *op, struct cgroup_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->img->n_controllers && !r; i++) {
		const CgControllerEntry *c = st->img->controllers[i];
		const char *name = joined(op, c);
		struct cg_hier *h = name ? cg_hier(st, name) : NULL;

		if (!name)
			return CKPT_E_NOMEM;
		for (size_t k = 0; k < c->n_dirs && !r; k++) {
			const char *path = arena_printf(op->arena, "/%s", c->dirs[k]->dir_name);

			if (!path)
				return op_nomem(op);
			if (h)
				r = add_dir(op, st, h, c->dirs[k], path);
			else if (strcmp(path, "/"))
				r = missing(op, name, path);
		}
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------ sets */

static int check_member(struct op *op, const CgMemberEntry *m)
{
	size_t n = strlen(m->path), ns = m->has_cgns_prefix ? m->cgns_prefix : 0;

	if (!cg_path_ok(m->path))
		return bad(op, "this is no path of a cgroup", m->path);
	if (ns > n || (ns && ns < n && m->path[ns] != '/' && ns != 1))
		return bad(op, "this path does not begin with that of its cgroup namespace", m->path);
	return 0;
}

static int add_set(struct op *op, struct cgroup_state *st, const CgSetEntry *e)
{
	struct cg_set *set = op_new(op, struct cg_set), **slot = set ? ARRAY_ADD(op->arena, &st->sets) : NULL;

	if (!slot)
		return op_nomem(op);
	*slot = set;
	set->id = e->id;
	for (size_t i = 0; i < e->n_ctls; i++) {
		const CgMemberEntry *m = e->ctls[i];
		struct cg_hier *h = cg_hier(st, m->name);
		struct cg_place *p;
		const char *ns;
		int r = check_member(op, m);

		if (r)
			return r;
		if (!h && strcmp(m->path, "/"))
			return missing(op, m->name, m->path);
		if (!h)
			continue;
		p = ARRAY_ADD(op->arena, &set->places);
		/* "/" as a prefix says no more than none does. */
		ns = m->has_cgns_prefix && m->cgns_prefix > 1 ? arena_strndup(op->arena, m->path, m->cgns_prefix) : "";
		if (!p || !ns)
			return op_nomem(op);
		ns = *ns ? map_path(op, h, ns) : ns;
		*p = (struct cg_place){ .hier = h, .path = map_path(op, h, m->path) };
		if (!p->path || !ns)
			return op_nomem(op);
		p->ns = strcmp(ns, "/") ? strlen(ns) : 0;
	}
	return 0;
}

static int add_sets(struct op *op, struct cgroup_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->img->n_sets && !r; i++) {
		for (size_t k = 0; k < i; k++)
			if (st->img->sets[k]->id == st->img->sets[i]->id)
				return op_fail(op, CKPT_E_IMAGE, AT(.kind = "cgroup"), "cgroup.img: there are two sets %u",
					       st->img->sets[i]->id);
		r = add_set(op, st, st->img->sets[i]);
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------ --cgroup-root */

/* @common becomes the folder that both are in. */
static void narrow(char *common, const char *path)
{
	while (!cg_is_below(path, common)) {
		char *slash = strrchr(common, '/');

		slash[slash == common ? 1 : 0] = '\0';
	}
}

/* What the options mean by the root of a hierarchy: that of the namespace, or else the folder that everything is in. */
static int find_root(struct op *op, struct cgroup_state *st, struct cg_hier *h)
{
	char *common = NULL;

	for (size_t i = 0; i < st->img->n_sets; i++)
		for (size_t k = 0; k < st->img->sets[i]->n_ctls; k++) {
			const CgMemberEntry *m = st->img->sets[i]->ctls[k];
			size_t n = m->has_cgns_prefix && m->cgns_prefix > 1 ? m->cgns_prefix : strlen(m->path);
			char *path;

			if (strcmp(m->name, h->name) || check_member(op, m))
				continue;
			path = arena_strndup(op->arena, m->path, n);
			if (!path)
				return op_nomem(op);
			common = common ?: path;
			narrow(common, path);
		}
	h->root_from = common;
	return 0;
}

static int find_roots(struct op *op, struct cgroup_state *st)
{
	int r = cg_check_root_options(op);

	for (size_t i = 0; i < st->hiers.n && !r; i++) {
		const char *to = cg_root_option(&op->opts->cgroup_root, st->hiers.v[i]->name);
		size_t n = to ? strlen(to) : 0;

		if (!to)
			continue;
		while (n > 1 && to[n - 1] == '/')
			n--;
		st->hiers.v[i]->root_to = arena_strndup(op->arena, to, n);
		r = st->hiers.v[i]->root_to ? find_root(op, st, st->hiers.v[i]) : op_nomem(op);
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------ tasks */

struct cg_set *cg_set_find(const struct cgroup_state *st, uint32_t id)
{
	for (size_t i = 0; st && i < st->sets.n; i++)
		if (st->sets.v[i]->id == id)
			return st->sets.v[i];
	return NULL;
}

/* 0: as its leader, or its parent. */
static uint32_t id_of(const struct snap_task *t, size_t thread)
{
	const CoreEntry *core = t->threads.v[thread].core;

	if (core->thread_core && core->thread_core->has_cg_set)
		return core->thread_core->cg_set;
	return core->tc && core->tc->has_cg_set ? core->tc->cg_set : 0;
}

static bool is_ours(const struct snapshot *s, uint32_t id)
{
	return s->inventory->has_root_cg_set && id == s->inventory->root_cg_set;
}

static int check_thread(struct op *op, const struct snapshot *s, const struct snap_task *t, size_t thread)
{
	uint32_t id = id_of(t, thread);

	if (!id || is_ours(s, id) || cg_set_find(s->cgroups, id))
		return 0;
	return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->threads.v[thread].tid, .kind = "cgroup"),
		       "core-%d.img: the thread is in the set %u of cgroups, which is not in cgroup.img", t->threads.v[thread].tid, id);
}

/* That of its parent, which came before it. */
static struct cg_set *inherited(const struct snapshot *s, size_t task)
{
	for (size_t i = task; i-- > 0;)
		if (s->tasks.v[i].pid == (pid_t)s->tasks.v[task].ps->ppid)
			return s->cgroups->of_task[i];
	return NULL;
}

static int find_sets(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	st->of_task = op_alloc(op, (s->tasks.n + 1) * sizeof(struct cg_set *));
	if (!st->of_task)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->tasks.n && !r; i++) {
		const struct snap_task *t = &s->tasks.v[i];
		uint32_t id = t->threads.v[0].core ? id_of(t, 0) : 0;

		for (size_t k = 0; k < t->threads.n && !r && t->threads.v[k].core; k++)
			r = check_thread(op, s, t, k);
		st->of_task[i] = id ? is_ours(s, id) ? NULL : cg_set_find(st, id) : inherited(s, i);
	}
	return r;
}

struct cg_set *cg_set_of(const struct snapshot *s, size_t task, size_t thread)
{
	uint32_t id = thread ? id_of(&s->tasks.v[task], thread) : 0;

	if (!id)
		return s->cgroups->of_task[task];
	return is_ours(s, id) ? NULL : cg_set_find(s->cgroups, id);
}

const struct cg_place *cg_place_in(const struct cg_set *set, const struct cg_hier *h)
{
	for (size_t i = 0; set && i < set->places.n; i++)
		if (set->places.v[i].hier == h)
			return &set->places.v[i];
	return NULL;
}

/* ------------------------------------------------------------------------------------------------ the whole */

int cg_take_image(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	if (st->img) {
		r = check_controllers(op, st->img);
		r = r ?: find_roots(op, st);
		r = r ?: add_sets(op, st);
		r = r ?: add_dirs(op, st);
	}
	return r ?: find_sets(op, s);
}

int cgroups_read(struct op *op, struct snapshot *s)
{
	ProtobufCMessage *msg = NULL;
	struct cgroup_state *st;
	int r = cg_nested_check(op, s);

	if (r || op->opts->manage_cgroups == CKPT_CGROUP_IGNORE)
		return r;
	st = cg_state(op, s);
	if (!st)
		return CKPT_E_NOMEM;
	r = img_read_one(op, s->dir, IMG_CGROUP, 0, &msg);
	if (r < 0)
		return r;
	st->img = (CgroupEntry *)msg;
	r = msg ? cg_hiers_find(op, s) : 0;
	return r ?: cg_take_image(op, s);
}
