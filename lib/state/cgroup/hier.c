/* SPDX-License-Identifier: MIT */
/* The hierarchies of this machine, and how to get at their folders. */
#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "lib/state/cgroup/core.h"

struct cgroup_state *cg_state(struct op *op, struct snapshot *s)
{
	if (!s->cgroups) {
		s->cgroups = op_new(op, struct cgroup_state);
		if (s->cgroups)
			s->cgroups->was_frozen = -1;
	}
	return s->cgroups;
}

bool cg_has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *at = list; n && (at = strstr(at, word)); at += n)
		if ((at == list || at[-1] == ',') && (!at[n] || at[n] == ','))
			return true;
	return false;
}

const char *cg_word(const struct cg_hier *h)
{
	return cg_is_v2(h) ? "unified" : h->name;
}

bool cg_is_below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strcmp(dir, "/") || (!strncmp(path, dir, n) && (!path[n] || path[n] == '/'));
}

struct cg_hier *cg_hier(const struct cgroup_state *st, const char *name)
{
	for (size_t i = 0; st && i < st->hiers.n; i++)
		if (!strcmp(st->hiers.v[i]->name, name))
			return st->hiers.v[i];
	return NULL;
}

/* --cgroup-dump-controller */
static bool is_wanted(const struct op *op, const char *name)
{
	const struct ckpt_strv *only = &op->opts->cgroup_dump_controller;

	for (size_t i = 0; i < only->n; i++)
		if (*name ? cg_has_word(name, only->v[i]) : !*only->v[i] || !strcmp(only->v[i], "unified"))
			return true;
	return !only->n;
}

int cg_hiers_find(struct op *op, struct snapshot *s)
{
	struct cgroup_state *st = cg_state(op, s);
	struct proc_cgroups groups;
	char file[32], *text;
	size_t len;
	int r;

	if (!st || st->hiers.n)
		return st ? 0 : CKPT_E_NOMEM;
	/* Of this thread, whose children are born where it is. */
	snprintf(file, sizeof(file), "task/%d/cgroup", gettid());
	r = proc_read_file(op, getpid(), file, &text, &len);
	if (r == PROC_GONE)
		return 0; /* a kernel without cgroups */
	if (r || proc_parse_cgroup(op->arena, text, len, &groups))
		return r ?: op_fail(op, CKPT_E_KERNEL, AT(.kind = "cgroup"), "/proc/self/cgroup is not of the form that is known");
	for (size_t i = 0; i < groups.v.n; i++) {
		struct cg_hier *h = op_new(op, struct cg_hier), **slot;

		if (!is_wanted(op, groups.v.v[i].controllers))
			continue;
		slot = h ? ARRAY_ADD(op->arena, &st->hiers) : NULL;
		if (!slot)
			return op_nomem(op);
		*h = (struct cg_hier){ .name = groups.v.v[i].controllers, .ours = groups.v.v[i].path, .fd = -1 };
		*slot = h;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------- its root */

static int open_yard(struct op *op, const struct cg_hier *h)
{
	const char *name = cg_word(h), *yard = op->opts->cgroup_yard;
	_cleanup_close_ int dir = open(yard, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int fd;

	if (dir < 0)
		return op_errno(op, errno, AT(.kind = "cgroup"), "open the cgroup yard %s", yard);
	fd = openat(dir, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 && !strncmp(name, "name=", 5))
		fd = openat(dir, name + 5, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd >= 0 ? fd : op_errno(op, errno, AT(.kind = "cgroup"), "open %s in the cgroup yard %s", name, yard);
}

/* A mount of the whole of it that nothing else is mounted over. */
static int open_mounted(const struct proc_mounts *mounts, const struct cg_hier *h, bool read_only)
{
	size_t first = strcspn(h->name, ",");

	for (size_t i = 0; i < mounts->v.n; i++) {
		const struct proc_mount *m = &mounts->v.v[i];
		char word[64];
		struct stat st;
		int fd;

		if (strcmp(m->fstype, cg_is_v2(h) ? "cgroup2" : "cgroup") || strcmp(m->root, "/") ||
		    cg_has_word(m->options, "ro") != read_only || first >= sizeof(word))
			continue;
		snprintf(word, sizeof(word), "%.*s", (int)first, h->name);
		if (!cg_is_v2(h) && !cg_has_word(m->sb_options, word))
			continue;
		fd = open(m->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == makedev(m->dev_major, m->dev_minor))
			return fd;
		close_fd_p(&fd);
	}
	return -1;
}

static int configure(int fs, const struct cg_hier *h)
{
	char word[64];

	if (!strncmp(h->name, "name=", 5)) {
		if (fsconfig(fs, FSCONFIG_SET_FLAG, "none", NULL, 0) < 0 ||
		    fsconfig(fs, FSCONFIG_SET_STRING, "name", h->name + 5, 0) < 0)
			return -1;
	} else {
		for (const char *at = h->name; *at;) {
			int n = (int)strcspn(at, ",");

			snprintf(word, sizeof(word), "%.*s", n, at);
			if (fsconfig(fs, FSCONFIG_SET_FLAG, word, NULL, 0) < 0)
				return -1;
			at += n + (at[n] == ',');
		}
	}
	return fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
}

/* A mount that is in no namespace, and goes with its last descriptor. */
static int mount_detached(const struct cg_hier *h)
{
	_cleanup_close_ int fs = fsopen(cg_is_v2(h) ? "cgroup2" : "cgroup", FSOPEN_CLOEXEC);

	if (fs < 0 || configure(fs, h) < 0)
		return -1;
	return fsmount(fs, FSMOUNT_CLOEXEC, 0);
}

int cg_hier_open(struct op *op, struct cgroup_state *st, struct cg_hier *h)
{
	int r, eno;

	if (h->fd >= 0)
		return 0;
	if (op->opts->cgroup_yard) {
		r = open_yard(op, h);
		h->fd = r < 0 ? -1 : r;
		return r < 0 ? r : 0;
	}
	r = st->mounts.v.n ? 0 : proc_read_mountinfo(op, getpid(), &st->mounts);
	if (r)
		return r;
	h->fd = open_mounted(&st->mounts, h, false);
	if (h->fd < 0)
		h->fd = mount_detached(h);
	eno = errno;
	if (h->fd < 0)
		h->fd = open_mounted(&st->mounts, h, true);
	if (h->fd >= 0)
		return 0;
	return op_errno(op, eno,
			AT(.kind = "cgroup", .hint = "--manage-cgroups=ignore leaves cgroups alone, --cgroup-yard says where they are"),
			"get at the cgroup hierarchy %s, which is not mounted here", cg_word(h));
}

int cg_open_dir(const struct cg_hier *h, const char *path, int flags)
{
	return openat(h->fd, path[0] == '/' && path[1] ? path + 1 : ".", flags | O_DIRECTORY | O_CLOEXEC);
}

/* ------------------------------------------------------------------------------------------------ --cgroup-root */

bool cg_path_ok(const char *path)
{
	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return false;
	for (const char *at = path; (at = strstr(at, "..")); at += 2)
		if (at[-1] == '/' && (!at[2] || at[2] == '/'))
			return false;
	return true;
}

/* Where the path of "[CONTROLLER:]/PATH" begins; NULL if it is none. */
static const char *path_of(const char *option)
{
	const char *colon = *option == '/' ? NULL : strstr(option, ":/");

	return *option == '/' ? option : colon ? colon + 1 : NULL;
}

static bool names_hierarchy(const char *option, const char *path, const char *hier)
{
	char *word = strndupa(option, (size_t)(path - option - 1));

	if (!*hier)
		return !*word || !strcmp(word, "unified");
	return !strcmp(word, hier) || cg_has_word(hier, word) || (!strncmp(hier, "name=", 5) && !strcmp(word, hier + 5));
}

const char *cg_root_option(const struct ckpt_strv *options, const char *hier)
{
	const char *found = NULL, *of_all = NULL;

	for (size_t i = 0; i < options->n; i++) {
		const char *path = path_of(options->v[i]);

		if (path == options->v[i])
			of_all = path;
		else if (path && names_hierarchy(options->v[i], path, hier))
			found = path;
	}
	return found ?: of_all;
}

int cg_check_root_options(struct op *op)
{
	for (size_t i = 0; i < op->opts->cgroup_root.n; i++) {
		const char *path = path_of(op->opts->cgroup_root.v[i]);

		if (!path || !cg_path_ok(path))
			return op_fail(op, CKPT_E_INVAL, AT(.kind = "cgroup"), "--cgroup-root %s: it is to be [CONTROLLER:]/PATH",
				       op->opts->cgroup_root.v[i]);
	}
	return 0;
}
