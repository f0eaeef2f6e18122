/* SPDX-License-Identifier: MIT */
/* Restore: folders and their properties; and how what was changed is changed back. */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/state/cgroup/core.h"

#define REMOVE_TRIES 1000 /* of a millisecond: those who were in there are dead, and leave it a moment later */

static bool makes_folders(const struct op *op)
{
	return op->opts->manage_cgroups != CKPT_CGROUP_NONE && op->opts->manage_cgroups != CKPT_CGROUP_PROPS;
}

bool cg_wants_props(const struct op *op, const struct cg_dir *d)
{
	switch (op->opts->manage_cgroups) {
	case CKPT_CGROUP_SOFT:
		return d->made;
	case CKPT_CGROUP_PROPS:
	case CKPT_CGROUP_FULL:
	case CKPT_CGROUP_STRICT:
		return !d->root;
	default:
		return false;
	}
}

int cg_note(struct op *op, struct cgroup_state *st, struct cg_hier *h, const char *path, const char *prop, const char *value)
{
	struct cg_change *c = ARRAY_ADD(op->arena, &st->changes);

	if (!c)
		return op_nomem(op);
	*c = (struct cg_change){ .hier = h, .path = path, .prop = prop, .value = value };
	return 0;
}

static bool was_made(const struct cgroup_state *st, const struct cg_hier *h, const char *path)
{
	for (size_t i = 0; i < st->changes.n; i++)
		if (st->changes.v[i].hier == h && !st->changes.v[i].prop && !strcmp(st->changes.v[i].path, path))
			return true;
	return false;
}

/* ------------------------------------------------------------------------------------------------ properties */

/* @name: of a file in the folder, or "." */
static int set_perms(struct op *op, const struct snapshot *s, const struct cg_dir *d, int dir, const char *name, const CgroupPerms *perms)
{
	uint32_t uid, gid;
	struct stat st;

	if (!perms || fstatat(dir, name, &st, 0) < 0)
		return 0;
	uid = ns_uid_outside(s, perms->uid);
	gid = ns_gid_outside(s, perms->gid);
	if ((st.st_uid == uid && st.st_gid == gid) || fchownat(dir, name, uid, gid, 0) == 0)
		if ((st.st_mode & 07777) == (perms->mode & 07777) || fchmodat(dir, name, perms->mode & 07777, 0) == 0)
			return 0;
	return op_errno(op, errno, AT(.kind = "cgroup"), "set owner and mode of %s%s%s in the cgroup hierarchy %s", d->path,
			*name == '.' ? "" : "/", *name == '.' ? "" : name, cg_word(d->hier));
}

/* What the kernel has anyway, and not every kernel lets one write. */
static bool goes_without_saying(const CgroupPropEntry *p)
{
	return (!strcmp(p->name, "memory.swappiness") && !strcmp(p->value, "60")) ||
	       (!strcmp(p->name, "memory.oom_control") && !strcmp(p->value, "0")) ||
	       (!strcmp(p->name, "cgroup.type") && strcmp(p->value, "threaded")) || cg_prop_is_list_of_tasks(p->name);
}

/* v2: "pids.max" is there if the folders above have pids in their cgroup.subtree_control: ours to change if we made them. */
static void enable_controller(struct op *op, const struct cgroup_state *st, const struct cg_hier *h, const char *path, const char *prop)
{
	char *above = strndupa(path, (size_t)(strrchr(path, '/') - path)), word[64];
	_cleanup_close_ int dir = -1;
	size_t n = strcspn(prop, ".");

	if (!cg_is_v2(h) || !strncmp(prop, "cgroup.", 7) || n >= sizeof(word) || !was_made(st, h, above))
		return;
	enable_controller(op, st, h, above, prop);
	snprintf(word, sizeof(word), "%.*s", (int)n, prop);
	dir = cg_open_dir(h, above, O_PATH);
	if (dir < 0 || cg_write_value(op, dir, "cgroup.subtree_control", word, false) < 0)
		log_debug(op, "the controller %s cannot be enabled in the cgroup %s: %s", word, above, strerror(errno));
}

/* 0; 1: it could not be written (errno); or a recorded failure. */
static int set_prop(struct op *op, struct cgroup_state *st, const struct cg_dir *d, int dir, const CgroupPropEntry *p)
{
	char *now;
	int r;

	if (goes_without_saying(p))
		return 0;
	r = cg_value(op, dir, p->name, &now);
	if (!r && !now) {
		enable_controller(op, st, d->hier, d->path, p->name);
		r = cg_value(op, dir, p->name, &now);
	}
	if (r || (now && !strcmp(now, p->value)))
		return r;
	if (!now && faccessat(dir, p->name, F_OK, 0) < 0) {
		log_warn(op, "the cgroup %s of %s has no %s here: %s is not restored", d->path, cg_word(d->hier), p->name, p->value);
		return 0;
	}
	if (!d->made && now)
		r = cg_note(op, st, d->hier, d->path, p->name, now);
	return r ?: cg_write_value(op, dir, p->name, p->value, false) < 0;
}

static int prop_failed(struct op *op, const struct cg_dir *d, const CgroupPropEntry *p, int eno)
{
	return op_errno(op, eno, AT(.kind = "cgroup"), "set %s to \"%s\" in the cgroup %s of %s", p->name, p->value, d->path,
			cg_word(d->hier));
}

/* Those that wait for the tasks, or those that do not. One that depends on another is tried again, after all of them. */
static int set_props(struct op *op, const struct snapshot *s, const struct cg_dir *d, bool early)
{
	struct cgroup_state *st = s->cgroups;
	_cleanup_close_ int dir = cg_open_dir(d->hier, d->path, O_PATH);
	bool again = false;
	int r = 0;

	if (dir < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup %s of %s", d->path, cg_word(d->hier));
	for (int pass = 0; pass < 2; pass++, r = 0) {
		for (size_t i = 0; i < d->msg->n_properties; i++) {
			const CgroupPropEntry *p = d->msg->properties[i];

			if (cg_prop_is_early(p->name) != early || cg_prop_freezes(p->name))
				continue;
			r = set_prop(op, st, d, dir, p);
			if (r < 0 || (r && pass))
				return r < 0 ? r : prop_failed(op, d, p, errno);
			again = again || r;
			if (!pass && (r = set_perms(op, s, d, dir, p->name, p->perms)))
				return r;
			/* Whoever may move processes may move threads: the image does not say it. */
			if (!pass && cg_is_v2(d->hier) && !strcmp(p->name, "cgroup.procs") &&
			    (r = set_perms(op, s, d, dir, "cgroup.threads", p->perms)))
				return r;
		}
		if (!again)
			return 0;
	}
	return 0;
}

int cgroups_settle(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	for (size_t i = 0; st && i < st->dirs.n && !r; i++)
		if (cg_wants_props(op, &st->dirs.v[i]))
			r = set_props(op, s, &st->dirs.v[i], false);
	return r;
}

/* ------------------------------------------------------------------------------------------------ folders */

/* A new folder of cpuset v1 has no processors: it gets those of the one above, until it is told better. */
static int fill_cpuset(struct op *op, struct cg_hier *h, int dir, const char *path)
{
	static const char *const names[] = { "cpuset.cpus", "cpuset.mems" };
	char above[32], *value;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(names) && cg_has_word(h->name, "cpuset") && !r; i++) {
		snprintf(above, sizeof(above), "../%s", names[i]);
		r = cg_value(op, dir, above, &value);
		if (!r && value && cg_write_value(op, dir, names[i], value, false) < 0)
			r = op_errno(op, errno, AT(.kind = "cgroup"), "set %s of the cgroup %s", names[i], path);
	}
	return r;
}

static int cannot_make(struct op *op, const struct cg_hier *h, const char *path, int eno)
{
	return op_errno(op, eno, AT(.kind = "cgroup", .hint = "--cgroup-root names another place, --manage-cgroups=ignore does without"),
			"make the cgroup %s in the hierarchy %s", path, cg_word(h));
}

/* One that somebody makes at the same time is there, too. */
static int make_one(struct op *op, struct cgroup_state *st, struct cg_hier *h, const char *path, bool *made)
{
	_cleanup_close_ int dir = -1;
	int r;

	*made = false;
	if (mkdirat(h->fd, path + 1, 0755) < 0)
		return errno == EEXIST ? 0 : cannot_make(op, h, path, errno);
	*made = true;
	r = cg_note(op, st, h, path, NULL, NULL);
	if (r) {
		unlinkat(h->fd, path + 1, AT_REMOVEDIR);
		return r;
	}
	dir = cg_open_dir(h, path, O_PATH);
	return dir < 0 ? cannot_make(op, h, path, errno) : fill_cpuset(op, h, dir, path);
}

/* With all that are above it. */
static int make_folder(struct op *op, struct cgroup_state *st, struct cg_hier *h, const char *path, bool *made)
{
	int r = 0;

	*made = false;
	for (const char *end = path + 1; *end && !r; end++) {
		char *above;

		end = strchrnul(end, '/');
		above = arena_strndup(op->arena, path, (size_t)(end - path));
		r = above ? make_one(op, st, h, above, made) : op_nomem(op);
		if (!*end)
			break;
	}
	return r;
}

static int make_dir(struct op *op, const struct snapshot *s, struct cg_dir *d)
{
	struct cgroup_state *st = s->cgroups;
	_cleanup_close_ int dir = cg_open_dir(d->hier, d->path, O_PATH);
	int r = 0;

	/* Where we are ourselves it cannot be new: a runtime puts whoever restores a container into its cgroups. */
	if (dir >= 0 && op->opts->manage_cgroups == CKPT_CGROUP_STRICT && !cg_is_below(d->hier->ours, d->path))
		return op_fail(op, CKPT_E_EXISTS,
			       AT(.kind = "cgroup", .hint = "remove it, or choose another mode than --manage-cgroups=strict"),
			       "the cgroup %s of %s is there already", d->path, cg_word(d->hier));
	if (dir < 0 && errno != ENOENT)
		return op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup %s of %s", d->path, cg_word(d->hier));
	if (dir < 0 && !makes_folders(op))
		return op_fail(op, CKPT_E_SYS,
			       AT(.kind = "cgroup", .hint = "make it, or choose another mode than --manage-cgroups=none and props"),
			       "the cgroup %s of %s is not there", d->path, cg_word(d->hier));
	if (dir < 0) {
		r = make_folder(op, st, d->hier, d->path, &d->made);
		dir = r ? -1 : cg_open_dir(d->hier, d->path, O_PATH);
		if (!r && dir < 0)
			r = cannot_make(op, d->hier, d->path, errno);
		if (!r && d->made)
			r = set_perms(op, s, d, dir, ".", d->msg->dir_perms);
	}
	return r || !cg_wants_props(op, d) ? r : set_props(op, s, d, true);
}

/* A place that the image's folders do not tell of: one that was the dumper's as well. */
static int need_place(struct op *op, struct cgroup_state *st, const struct cg_place *p)
{
	_cleanup_close_ int dir = -1;
	int r = cg_hier_open(op, st, p->hier);

	if (r)
		return r;
	dir = cg_open_dir(p->hier, p->path, O_PATH);
	return dir >= 0 ? 0 : op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup %s of %s", p->path, cg_word(p->hier));
}

static int need_places(struct op *op, struct cgroup_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->sets.n; i++)
		for (size_t k = 0; k < st->sets.v[i]->places.n && !r; k++)
			r = need_place(op, st, &st->sets.v[i]->places.v[k]);
	return r;
}

int cgroups_make(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = s->cgroups;
	int r = 0;

	if (!st || !st->img)
		return 0;
	for (size_t i = 0; i < st->dirs.n && !r; i++)
		r = cg_hier_open(op, st, st->dirs.v[i].hier) ?: make_dir(op, s, &st->dirs.v[i]) ?: op_check_cancel(op);
	return r ?: need_places(op, st) ?: cg_thaw(op, st) ?: cg_nested_make(op, s);
}

/* ------------------------------------------------------------------------------------------------ back again */

static void remove_folder(struct op *op, const struct cg_change *c)
{
	int r = unlinkat(c->hier->fd, c->path + 1, AT_REMOVEDIR);

	for (int i = 0; r < 0 && errno == EBUSY && i < REMOVE_TRIES; i++) {
		usleep(1000);
		r = unlinkat(c->hier->fd, c->path + 1, AT_REMOVEDIR);
	}
	if (r < 0 && errno != ENOENT)
		log_warn(op, "the cgroup %s of %s was made, and cannot be removed: %s", c->path, cg_word(c->hier), strerror(errno));
}

static void change_back(struct op *op, const struct cg_change *c)
{
	_cleanup_close_ int dir = cg_open_dir(c->hier, c->path, O_PATH);

	if (dir < 0 || cg_write_value(op, dir, c->prop, c->value, true) < 0)
		log_warn(op, "%s of the cgroup %s of %s cannot be set back to %s: %s", c->prop, c->path, cg_word(c->hier), c->value,
			 strerror(errno));
}

void cgroups_done(struct op *op, struct snapshot *s, bool success)
{
	struct cgroup_state *st = s->cgroups;

	if (!st)
		return;
	for (size_t i = st->changes.n; i-- > 0 && !success;)
		if (st->changes.v[i].prop)
			change_back(op, &st->changes.v[i]);
		else
			remove_folder(op, &st->changes.v[i]);
	for (size_t i = 0; i < st->hiers.n; i++) {
		close_fd_p(&st->hiers.v[i]->fd);
		st->hiers.v[i]->fd = -1;
	}
	s->cgroups = NULL;
}
