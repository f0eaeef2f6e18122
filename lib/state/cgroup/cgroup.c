/* SPDX-License-Identifier: MIT */
/* Dump: the whole of it, and what the freezer wants to know. */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/state/cgroup/core.h"

#define PROPS_MAX (1u << 20)

static int parse_props(struct op *op, struct cgroup_state *st, const char *text, size_t len, const char *where)
{
	unsigned line;

	if (cg_props_parse(op->arena, text, len, &st->props, &line) == 0)
		return 0;
	if (!line)
		return op_nomem(op);
	return op_fail(op, CKPT_E_INVAL,
		       AT(.kind = "cgroup",
			  .hint = "the form is: \"CONTROLLER\":, then  - \"strategy\": \"merge\", "
				  "then  - \"properties\": [\"FILE\", \"FILE\"]"),
		       "%s: line %u is not of the form that is known", where, line);
}

static int read_props_file(struct op *op, struct cgroup_state *st, const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = malloc(PROPS_MAX);
	size_t len = 0;
	ssize_t n = 0;

	if (!text)
		return op_nomem(op);
	while (fd >= 0 && len < PROPS_MAX && (n = read(fd, text + len, PROPS_MAX - len)) > 0)
		len += (size_t)n;
	if (fd < 0 || n < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "read --cgroup-props-file %s", path);
	if (len == PROPS_MAX)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "cgroup"), "--cgroup-props-file %s is too large", path);
	return parse_props(op, st, text, len, path);
}

int cgroups_check_options(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = cg_state(op, s);
	int r = st ? cg_check_root_options(op) : CKPT_E_NOMEM;

	if (!r && op->opts->cgroup_props_file)
		r = read_props_file(op, st, op->opts->cgroup_props_file);
	if (!r && op->opts->cgroup_props)
		r = parse_props(op, st, op->opts->cgroup_props, strlen(op->opts->cgroup_props), "--cgroup-props");
	return r;
}

int cgroups_dump(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = cg_state(op, s);
	int r;

	if (!st)
		return CKPT_E_NOMEM;
	r = cg_nested_check(op, s);
	if (r || op->opts->manage_cgroups == CKPT_CGROUP_IGNORE)
		return r;
	r = cg_nested_dump(op, s) ?: cg_hiers_find(op, s);
	r = r ?: cg_sets_dump(op, s);
	if (r || st->sets.n < 2)
		return r;
	if (op->opts->unprivileged) {
		log_warn(op, "the tree is in other cgroups than we are; with --unprivileged they are not recorded, and restore leaves "
			     "it in its own");
		return cg_sets_forget(s);
	}
	return cg_dirs_dump(op, s);
}

int cgroups_write(struct op *op, struct snapshot *s)
{
	if (!s->cgroups || !s->cgroups->img)
		return 0;
	return img_write_one(op, s->dir, IMG_CGROUP, 0, &s->cgroups->img->base);
}

int cgroups_note_freezer(struct op *op, struct snapshot *s, bool was_frozen)
{
	struct cgroup_state *st = cg_state(op, s);

	if (!st)
		return CKPT_E_NOMEM;
	st->was_frozen = was_frozen;
	return 0;
}

/* A folder is frozen with all that it is in. *@at: which of them is. */
static int find_frozen(struct op *op, const struct cg_hier *h, const char *path, const char **at)
{
	char *level = arena_strdup(op->arena, path), *value;
	int r = level ? 0 : op_nomem(op);

	for (*at = NULL; !r && !*at && level[0] && level[1]; *strrchr(level, '/') = '\0') {
		_cleanup_close_ int dir = cg_open_dir(h, level, O_PATH);

		r = dir < 0 ? 0 : cg_value(op, dir, cg_is_v2(h) ? "cgroup.freeze" : "freezer.self_freezing", &value);
		if (!r && dir >= 0 && value && !strcmp(value, "1"))
			*at = arena_strdup(op->arena, level);
	}
	return r;
}

int cgroups_check_running(struct op *op, struct snapshot *s, pid_t pid)
{
	struct proc_cgroups groups;
	int r = cg_hiers_find(op, s) ?: proc_read_cgroup(op, pid, &groups);

	if (r)
		return r < 0 ? r : 0; /* it is gone, which others tell better */
	for (size_t i = 0; i < groups.v.n && !r; i++) {
		struct cg_hier *h = cg_hier(s->cgroups, groups.v.v[i].controllers);
		const char *at;

		if (!h || (!cg_is_v2(h) && !cg_has_word(h->name, "freezer")))
			continue;
		if (cg_hier_open(op, s->cgroups, h)) {
			op_forget(op); /* then it is not asked */
			continue;
		}
		r = find_frozen(op, h, groups.v.v[i].path, &at);
		if (!r && at)
			r = op_fail(op, CKPT_E_BUSY,
				    AT(.pid = pid, .kind = "cgroup", .hint = "thaw it, or name its folder with --freeze-cgroup"),
				    "process %d is in the cgroup %s of %s, which is frozen", pid, at, cg_word(h));
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------- are we in it? */

static bool same_folder(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Upwards from ours, until the root. */
static bool is_above(const struct cg_hier *h, const struct stat *want)
{
	size_t n = strlen(h->ours);
	char path[4096];

	if (n >= sizeof(path))
		return false;
	memcpy(path, h->ours, n + 1);
	for (;;) {
		_cleanup_close_ int dir = cg_open_dir(h, path, O_PATH);
		struct stat st;

		if (dir >= 0 && fstat(dir, &st) == 0 && same_folder(&st, want))
			return true;
		if (!path[0] || !path[1])
			return false;
		*strrchr(path, '/') = '\0';
	}
}

int cgroups_contain_us(struct op *op, struct snapshot *s, int dir, bool *yes)
{
	struct stat want, root;
	int r = cg_hiers_find(op, s);

	*yes = false;
	if (!r && fstat(dir, &want) < 0)
		r = op_errno(op, errno, AT(.kind = "cgroup"), "look at a cgroup");
	for (size_t i = 0; !r && i < s->cgroups->hiers.n && !*yes; i++) {
		struct cg_hier *h = s->cgroups->hiers.v[i];

		if (!cg_is_v2(h) && !cg_has_word(h->name, "freezer"))
			continue;
		r = cg_hier_open(op, s->cgroups, h);
		if (!r && fstat(h->fd, &root) == 0 && root.st_dev == want.st_dev)
			*yes = is_above(h, &want);
	}
	return r;
}
