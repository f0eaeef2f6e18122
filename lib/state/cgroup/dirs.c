/* SPDX-License-Identifier: MIT */
/* Dump: the folders that tasks are in, all below them, and their properties. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/state/cgroup/core.h"
#include "lib/state/msg.h"

#define MAX_DEPTH 64 /* of folders: readers go down, too */

struct forest {
	struct op *op;
	const struct snapshot *s;
	struct cgroup_state *st;
	struct cg_hier *hier;
	cg_names names; /* of properties */
	CgControllerEntry *ctl;
	struct stat frozen; /* folder of --freeze-cgroup */
	bool threaded;
};

/* As the tree calls owner and group. It may have no names for whoever made its cgroups: then nothing is said, and nothing changed. */
static int perms_of(struct forest *f, const struct stat *st, CgroupPerms **ret)
{
	CgroupPerms *p = msg_new(f->op, CgroupPerms, cgroup_perms);

	if (!p)
		return CKPT_E_NOMEM;
	p->mode = st->st_mode;
	p->uid = ns_uid_inside(f->s, st->st_uid);
	p->gid = ns_gid_inside(f->s, st->st_gid);
	*ret = p->uid == (uint32_t)-1 || p->gid == (uint32_t)-1 ? NULL : p;
	return 0;
}

static int add_prop(struct forest *f, CgroupDirEntry *d, const char *name, const char *value, const struct stat *st)
{
	CgroupPropEntry *p = msg_new(f->op, CgroupPropEntry, cgroup_prop_entry);

	if (!p)
		return CKPT_E_NOMEM;
	p->name = (char *)(uintptr_t)name;
	p->value = (char *)(uintptr_t)value;
	d->properties[d->n_properties++] = p;
	return perms_of(f, st, &p->perms);
}

/* Of the folder whose freezer was used: as it was before that. */
static const char *freezer_word(const struct forest *f, const struct stat *dir, const char *name, const char *value)
{
	if (f->st->was_frozen < 0 || strcmp(name, "cgroup.freeze") || dir->st_dev != f->frozen.st_dev || dir->st_ino != f->frozen.st_ino)
		return value;
	return f->st->was_frozen ? "1" : "0";
}

static int dump_prop(struct forest *f, int dir, const struct stat *dir_st, CgroupDirEntry *d, const char *name)
{
	_cleanup_close_ int fd = -1;
	char *value = NULL;
	struct stat st;
	int r;

	if (cg_prop_is_list_of_tasks(name))
		return fstatat(dir, name, &st, 0) < 0 ? 0 : add_prop(f, d, name, "", &st);
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return 0; /* this one has none */
	r = cg_read_value(f->op, fd, name, &value);
	if (r || !value || (cg_is_v2(f->hier) && cg_prop_is_default(&f->st->props, name, value)))
		return r;
	f->threaded = f->threaded || (!strcmp(name, "cgroup.type") && !strcmp(value, "threaded"));
	return add_prop(f, d, name, freezer_word(f, dir_st, name, value), &st);
}

/* Of the root of a hierarchy nothing could be set. */
static int dump_props(struct forest *f, int dir, const struct stat *st, const char *path, CgroupDirEntry *d)
{
	int r = 0;

	d->properties = op_alloc(f->op, (f->names.n + 2) * sizeof(*d->properties));
	if (!d->properties)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < f->names.n && !r && strcmp(path, "/"); i++)
		r = dump_prop(f, dir, st, d, f->names.v[i]);
	return r;
}

static int add_child(struct op *op, CgroupDirEntry *parent, CgroupDirEntry *child, size_t *cap)
{
	if (parent->n_children == *cap) {
		CgroupDirEntry **more = op_alloc(op, MAX(8, *cap * 2) * sizeof(*more));

		if (!more)
			return CKPT_E_NOMEM;
		if (parent->n_children)
			memcpy(more, parent->children, parent->n_children * sizeof(*more));
		parent->children = more;
		*cap = MAX(8, *cap * 2);
	}
	parent->children[parent->n_children++] = child;
	return 0;
}

static void closedir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

static int dump_dir(struct forest *f, int dir, const char *name, const char *path, bool below, CgroupDirEntry **ret);

static int dump_below(struct forest *f, int dir, const char *path, CgroupDirEntry *d)
{
	_cleanup_(closedir_p) DIR *list = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	struct dirent *e;
	size_t cap = 0;
	int r = 0;

	if (!list)
		return op_errno(f->op, errno, AT(.kind = "cgroup"), "list the cgroup %s of %s", path, cg_word(f->hier));
	while (!r && (e = readdir(list))) {
		_cleanup_close_ int fd = -1;
		CgroupDirEntry *child;
		char *name, *at;

		if (e->d_type != DT_DIR || !strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		fd = openat(dir, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			continue; /* it went just now: nobody of the tree is in it */
		name = arena_strdup(f->op->arena, e->d_name);
		at = arena_printf(f->op->arena, "%s/%s", path, e->d_name);
		r = name && at ? dump_dir(f, fd, name, at, true, &child) : op_nomem(f->op);
		r = r ?: add_child(f->op, d, child, &cap);
	}
	return r;
}

static int dump_dir(struct forest *f, int dir, const char *name, const char *path, bool below, CgroupDirEntry **ret)
{
	CgroupDirEntry *d = msg_new(f->op, CgroupDirEntry, cgroup_dir_entry);
	size_t depth = 0;
	struct stat st;
	int r;

	if (!d)
		return CKPT_E_NOMEM;
	for (const char *c = path; *c; c++)
		depth += *c == '/';
	if (depth > MAX_DEPTH)
		return op_fail(f->op, CKPT_E_UNSUPPORTED, AT(.kind = "cgroup"), "the cgroup %s is nested too deeply", path);
	if (fstat(dir, &st) < 0)
		return op_errno(f->op, errno, AT(.kind = "cgroup"), "look at the cgroup %s of %s", path, cg_word(f->hier));
	d->dir_name = (char *)(uintptr_t)name;
	r = perms_of(f, &st, &d->dir_perms) ?: dump_props(f, dir, &st, path, d);
	*ret = d;
	return r || !below ? r : dump_below(f, dir, path, d);
}

/* ------------------------------------------------------------------------------------------------- the heads */

/* One of the tree's own folders, or one that the dumper lives in as well: what else is below that is not the tree's. */
static bool is_shared(const struct cg_hier *h, const char *path)
{
	return cg_is_below(h->ours, path);
}

static bool has_head(const struct forest *f, const char *path)
{
	for (size_t i = 0; i < f->ctl->n_dirs; i++) {
		const char *head = arena_printf(f->op->arena, "/%s", f->ctl->dirs[i]->dir_name);

		if (!head || !strcmp(head, path) || (!is_shared(f->hier, head) && cg_is_below(path, head)))
			return true;
	}
	return false;
}

static int add_head(struct forest *f, const char *path)
{
	_cleanup_close_ int dir = -1;

	if (has_head(f, path))
		return 0;
	dir = cg_open_dir(f->hier, path, O_RDONLY);
	if (dir < 0)
		return op_errno(f->op, errno, AT(.kind = "cgroup"), "open the cgroup %s of %s", path, cg_word(f->hier));
	return dump_dir(f, dir, path + 1, path, !is_shared(f->hier, path), &f->ctl->dirs[f->ctl->n_dirs++]);
}

/* --cgroup-root: NULL where nothing is said of this hierarchy. */
static const char *root_option(const struct op *op, const struct cg_hier *h)
{
	return cg_root_option(&op->opts->cgroup_root, h->name);
}

/* Where the collection begins for a place: the root of its namespace, or that of the options. */
static const char *head_of(struct op *op, const struct cg_place *p)
{
	const char *root = root_option(op, p->hier);

	if (root && cg_is_below(p->path, root))
		return root;
	return p->ns ? arena_strndup(op->arena, p->path, p->ns) : p->path;
}

/* The shortest ones first: those below are a part of them. */
static int by_length(const void *a, const void *b)
{
	const char *x = *(const char *const *)a, *y = *(const char *const *)b;
	size_t n = strlen(x), m = strlen(y);

	return n != m ? (n > m) - (n < m) : strcmp(x, y);
}

static int add_heads(struct forest *f, size_t index)
{
	const char **paths = op_alloc(f->op, (f->st->sets.n + 1) * sizeof(*paths));
	size_t n = 0;
	int r = 0;

	f->ctl->dirs = op_alloc(f->op, (f->st->sets.n + 1) * sizeof(*f->ctl->dirs));
	if (!paths || !f->ctl->dirs)
		return CKPT_E_NOMEM;
	for (size_t i = 1; i < f->st->sets.n; i++) {
		paths[n] = head_of(f->op, &f->st->sets.v[i]->places.v[index]);
		if (!paths[n++])
			return op_nomem(f->op);
	}
	qsort(paths, n, sizeof(*paths), by_length);
	for (size_t i = 0; i < n && !r; i++)
		r = add_head(f, paths[i]);
	return r;
}

/* freezer.state is stored where the freezer of v1 was used. */
static int add_freezer_state(struct forest *f)
{
	_cleanup_close_ int dir = -1, fd = -1;
	struct stat st;

	if (f->st->was_frozen < 0 || !cg_has_word(f->hier->name, "freezer") || !f->ctl->n_dirs || !*f->ctl->dirs[0]->dir_name)
		return 0;
	dir = openat(f->hier->fd, f->ctl->dirs[0]->dir_name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fstatat(dir, "freezer.state", &st, 0) < 0)
		return 0;
	return add_prop(f, f->ctl->dirs[0], "freezer.state", f->st->was_frozen ? "FROZEN" : "THAWED", &st);
}

static int add_names(struct op *op, CgControllerEntry *ctl, const char *name)
{
	size_t n = 1;

	for (const char *c = name; *c; c++)
		n += *c == ',';
	ctl->cnames = op_alloc(op, n * sizeof(*ctl->cnames));
	if (!ctl->cnames)
		return CKPT_E_NOMEM;
	do {
		size_t len = strcspn(name, ",");

		ctl->cnames[ctl->n_cnames] = arena_strndup(op->arena, name, len);
		if (!ctl->cnames[ctl->n_cnames++])
			return op_nomem(op);
		name += len + (name[len] == ',');
	} while (*name);
	return 0;
}

static int dump_hierarchy(struct op *op, const struct snapshot *s, size_t index)
{
	struct cgroup_state *st = s->cgroups;
	struct forest f = { .op = op, .s = s, .st = st, .hier = st->hiers.v[index] };
	int r = cg_hier_open(op, st, f.hier);

	if (r)
		return r;
	if (st->was_frozen >= 0 && stat(op->opts->freeze_cgroup, &f.frozen) < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "look at the cgroup %s", op->opts->freeze_cgroup);
	f.ctl = msg_new(op, CgControllerEntry, cg_controller_entry);
	if (!f.ctl)
		return CKPT_E_NOMEM;
	if (cg_props_of(op->arena, f.hier->name, &st->props, &f.names))
		return op_nomem(op);
	r = add_names(op, f.ctl, f.hier->name) ?: add_heads(&f, index) ?: add_freezer_state(&f);
	msg_set(f.ctl, is_threaded, !cg_is_v2(f.hier) || f.threaded);
	st->img->controllers[st->img->n_controllers++] = f.ctl;
	return r;
}

static int dump_set(struct op *op, struct cgroup_state *st, const struct cg_set *set)
{
	CgSetEntry *e = msg_new(op, CgSetEntry, cg_set_entry);

	if (!e)
		return CKPT_E_NOMEM;
	e->id = set->id;
	e->ctls = op_alloc(op, (set->places.n + 1) * sizeof(*e->ctls));
	if (!e->ctls)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < set->places.n; i++) {
		CgMemberEntry *m = msg_new(op, CgMemberEntry, cg_member_entry);

		if (!m)
			return CKPT_E_NOMEM;
		m->name = (char *)(uintptr_t)set->places.v[i].hier->name;
		m->path = (char *)(uintptr_t)set->places.v[i].path;
		if (set->places.v[i].ns)
			msg_set(m, cgns_prefix, (uint32_t)set->places.v[i].ns);
		e->ctls[e->n_ctls++] = m;
	}
	st->img->sets[st->img->n_sets++] = e;
	return 0;
}

int cg_dirs_dump(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	st->img = msg_new(op, CgroupEntry, cgroup_entry);
	if (!st->img)
		return CKPT_E_NOMEM;
	st->img->sets = op_alloc(op, st->sets.n * sizeof(*st->img->sets));
	st->img->controllers = op_alloc(op, (st->hiers.n + 1) * sizeof(*st->img->controllers));
	if (!st->img->sets || !st->img->controllers)
		return CKPT_E_NOMEM;
	for (size_t i = 1; i < st->sets.n && !r; i++) /* the first one is ours */
		r = dump_set(op, st, st->sets.v[i]);
	for (size_t i = 0; i < st->hiers.n && !r; i++)
		r = dump_hierarchy(op, s, i) ?: op_check_cancel(op);
	return r;
}
