/* SPDX-License-Identifier: MIT */
/*
 * Dump of mounts: mountinfo of each namespace, read by an errand that stands at the root of it (a task may be in a chroot) and
 * in the cgroup namespace of the tree, which the places of cgroups are told in.
 */
#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/mount/core.h"
#include "lib/state/msg.h"

#define DELETED "//deleted"

/* ----------------------------------------------------------------------------------- what is mounted where */

struct look {
	int proc, root, err;
	ARRAY(char) text;
};

static int look(struct op *op, void *arg)
{
	struct look *l = arg;
	_cleanup_close_ int fd = openat(l->proc, "thread-self/mountinfo", O_RDONLY | O_CLOEXEC);
	char buf[16384];
	ssize_t n = 0;

	while (fd >= 0 && (n = read(fd, buf, sizeof(buf))) > 0)
		for (ssize_t i = 0; i < n; i++) {
			char *c = ARRAY_ADD(op->arena, &l->text);

			if (!c)
				return op_nomem(op);
			*c = buf[i];
		}
	if (fd < 0 || n < 0)
		return op_errno(op, errno, AT(.kind = "mount"), "read the mounts of a namespace");
	l->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return l->root >= 0 ? 0 : op_errno(op, errno, AT(.kind = "mount"), "open the root of a mount namespace");
}

static bool listed(const struct ckpt_strv *list, const char *what)
{
	for (size_t i = 0; i < list->n; i++) {
		const char *v = list->v[i];
		size_t n = strlen(what);

		if (strcmp(v, "all") == 0)
			return true;
		for (const char *p = v; (p = strstr(p, what)); p++)
			if ((p == v || p[-1] == ',') && (!p[n] || p[n] == ','))
				return true;
	}
	return false;
}

static bool skipped(const struct op *op, const char *place)
{
	for (size_t i = 0; i < op->opts->skip_mnt.n; i++)
		if (strcmp(op->opts->skip_mnt.v[i], place) == 0)
			return true;
	return false;
}

/* uid= and gid= as the tree's user namespace calls them. */
static int map_ids(struct op *op, const struct snapshot *s, char **options)
{
	char *out = op_alloc(op, strlen(*options) * 3 + 1), *q = out;
	const char *p = *options;

	if (!out)
		return CKPT_E_NOMEM;
	while (*p) {
		bool start = p == *options || p[-1] == ',';
		char *end;

		if (start && (strncmp(p, "uid=", 4) == 0 || strncmp(p, "gid=", 4) == 0)) {
			uint32_t id = (uint32_t)strtoul(p + 4, &end, 10);

			q += sprintf(q, "%.4s%u", p, *p == 'u' ? ns_uid_inside(s, id) : ns_gid_inside(s, id));
			p = end;
		} else {
			*q++ = *p++;
		}
	}
	*options = out;
	return 0;
}

static bool dev_here(const struct mount_state *st, uint32_t dev)
{
	for (size_t i = 0; i < st->here->v.n; i++)
		if ((st->here->v.v[i].dev_major << 20 | st->here->v.v[i].dev_minor) == dev)
			return true;
	return false;
}

static int fill_options(struct op *op, const struct snapshot *s, const struct mnt *m, const struct proc_mount *p)
{
	uint32_t sb_flags = 0;
	int r = mnt_sb_flags(op, p->sb_options, &sb_flags, &m->e->options);

	msg_set(m->e, sb_flags, sb_flags);
	r = r ?: map_ids(op, s, &m->e->options);
	/* One that is ours is not a new instance: pseudo terminals in it are ours. */
	if (!r && m->e->fstype == FSTYPE__DEVPTS && !strstr(m->e->options, "newinstance") && !dev_here(s->mounts, m->e->root_dev)) {
		m->e->options = arena_printf(op->arena, "newinstance%s%s", *m->e->options ? "," : "", m->e->options);
		r = m->e->options ? 0 : op_nomem(op);
	}
	return r;
}

/* The kernel does not say (before 6.15) which owners it shows instead of which. */
static bool idmapped(const char *options)
{
	const char *p = strstr(options, "idmapped");

	return p && (p == options || p[-1] == ',') && (!p[8] || p[8] == ',');
}

static int fill(struct op *op, const struct snapshot *s, struct mnt *m, const struct proc_mount *p)
{
	size_t n = strlen(p->root), tail = strlen(DELETED);
	MntEntry *e = m->e;

	m->fsname = p->fstype;
	m->fs = mnt_fs_named(p->fstype);
	if (m->fs->traits & MNT_FS_DEVICE && listed(&op->opts->enable_fs, p->fstype)) {
		m->fs = mnt_fs_of(FSTYPE__AUTO);
		e->fsname = (char *)p->fstype;
	}
	e->fstype = m->fs->type;
	e->root_dev = p->dev_major << 20 | p->dev_minor;
	e->mountpoint = (char *)p->mountpoint;
	e->source = (char *)p->source;
	e->flags = mnt_flags(p->options) | (p->shared_id ? MS_SHARED : 0) | (p->master_id ? MS_SLAVE : 0) |
		   (p->unbindable ? MS_UNBINDABLE : 0) | (e->fstype == FSTYPE__DEBUGFS ? MS_REC : 0);
	if (p->shared_id)
		msg_set(e, shared_id, (uint32_t)p->shared_id);
	if (p->master_id)
		msg_set(e, master_id, (uint32_t)p->master_id);
	if (n > tail && strcmp(p->root + n - tail, DELETED) == 0) {
		msg_set(e, deleted, 1);
		n -= tail;
	}
	if (idmapped(p->options))
		return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("mount it without mapped owners, or leave it out: --skip-mnt"),
			       "%s shows files with other owners than they have (idmapped), which cannot be made again", mnt_name(op, m));
	e->root = arena_strndup(op->arena, p->root, n);
	return e->root ? fill_options(op, s, m, p) : op_nomem(op);
}

/* Left out, as is what is mounted below it. */
static bool *left_out(struct op *op, const struct proc_mounts *all)
{
	bool *out = op_alloc(op, all->v.n + 1), more = true;

	for (size_t i = 0; out && i < all->v.n; i++)
		out[i] = mnt_fs_named(all->v.v[i].fstype)->traits & MNT_FS_LEFT_OUT || skipped(op, all->v.v[i].mountpoint);
	while (out && more) {
		more = false;
		for (size_t i = 0; i < all->v.n; i++)
			for (size_t j = 0; !out[i] && j < all->v.n; j++)
				if (out[j] && all->v.v[j].mnt_id == all->v.v[i].parent_id)
					out[i] = more = true;
	}
	return out;
}

static int read_ns(struct op *op, struct snapshot *s, struct mnt_ns *n)
{
	struct errand_where where = ERRAND_HERE;
	const struct snap_ns *cg = ns_own(s, NS_CGROUP);
	struct look l = { .proc = s->mounts->proc, .root = -1 };
	struct proc_mounts all;
	bool *out;
	int r;

	where.mnt = n->ns->fd;
	where.cgroup = cg ? cg->fd : -1;
	r = errand_run(op, &where, look, &l);
	n->view = (struct fs_view){ l.root, ns_uid_outside(s, 0), ns_gid_outside(s, 0) };
	if (r)
		return r;
	if (proc_parse_mountinfo(op->arena, l.text.v, l.text.n, &all))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "mount"), "mountinfo has an unknown form");
	out = left_out(op, &all);
	r = out ? 0 : CKPT_E_NOMEM;
	for (size_t i = 0; i < all.v.n && !r; i++) {
		MntEntry *e = out[i] ? NULL : msg_new(op, MntEntry, mnt_entry);
		struct mnt *m = e ? mnt_add(op, s->mounts, n, e) : NULL;

		if (out[i])
			continue;
		if (!m)
			return CKPT_E_NOMEM;
		e->mnt_id = (uint32_t)all.v.v[i].mnt_id;
		e->parent_mnt_id = (uint32_t)all.v.v[i].parent_id;
		r = fill(op, s, m, &all.v.v[i]);
	}
	return r;
}

/* ------------------------------------------------------------------------------------ what must be refused */

static int check_empty(struct op *op, const struct mnt *m)
{
	int fd = mnt_hidden(m) ? -1 : view_open(&m->ns->view, m->e->mountpoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	const struct dirent *file;
	int r = 0;

	if (!d) {
		close_fd_p(&fd);
		return 0;
	}
	while (!r && (file = readdir(d)))
		if (strcmp(file->d_name, ".") && strcmp(file->d_name, ".."))
			r = op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("move the files away"), "%s must be empty, and has %s",
				    mnt_name(op, m), file->d_name);
	closedir(d);
	return r;
}

/* Of a deleted file that something was bound from there will only be the name. */
static int check_deleted(struct op *op, const struct mnt *m)
{
	struct stat st;

	if (mnt_hidden(m) || view_lstat(&m->ns->view, m->e->mountpoint, &st) < 0 || !S_ISREG(st.st_mode) || !st.st_size)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("unmount it, or make it external"),
		       "%s shows a deleted file, whose %lld bytes would be lost", mnt_name(op, m), (long long)st.st_size);
}

static int check_mount(struct op *op, const struct snapshot *s, const struct mnt *m)
{
	const char *remedy = "make it external";

	if (m->ext_path || !m->parent)
		return 0;
	if (m->fs->traits & MNT_FS_EMPTY)
		return check_empty(op, m);
	if (m->e->fstype == FSTYPE__PROC && ns_own(s, NS_PID) && dev_here(s->mounts, m->e->root_dev))
		return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT(remedy), "%s shows the processes of another PID namespace than the tree's",
			       mnt_name(op, m));
	if (m->fs->traits & MNT_FS_LATE && dev_here(s->mounts, m->e->root_dev))
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       MNT_AT("make it external, or all that is mounted here, too: --external 'mnt[]'"),
			       "%s is mounted outside of the tree, too: a second one of it would spoil the files of both", mnt_name(op, m));
	if (m->fs->traits & MNT_FS_CONTENT && dev_here(s->mounts, m->e->root_dev))
		log_warn(op, "%s is mounted outside of the tree, too: the tree will have a copy of its own", mnt_name(op, m));
	if (m->e->fstype == FSTYPE__BINFMT_MISC && ns_own(s, NS_USER) && !dev_here(s->mounts, m->e->root_dev))
		return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT(remedy), "%s: binary formats of a user namespace cannot be dumped",
			       mnt_name(op, m));
	return m->e->has_deleted && m->e->deleted ? check_deleted(op, m) : 0;
}

/* What is mounted there by others would no longer arrive. */
static int check_sharing(struct op *op, const struct mount_state *st, const struct mnt *m)
{
	if (op->opts->ext_sharing || !m->e->shared_id || m->ext_path || !m->parent)
		return 0;
	for (size_t i = 0; i < st->here->v.n; i++)
		if ((uint32_t)st->here->v.v[i].shared_id == m->e->shared_id)
			return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("make it private or external, or say --enable-external-sharing"),
				       "%s is shared with %s outside of the tree, which it cannot be again", mnt_name(op, m),
				       st->here->v.v[i].mountpoint);
	return 0;
}

/* -------------------------------------------------------------------------------------------------- stages */

static int add_ns(struct op *op, struct mount_state *st, struct snap_ns *ns)
{
	struct mnt_ns *n = op_new(op, struct mnt_ns), **slot = n ? ARRAY_ADD(op->arena, &st->nss) : NULL;

	if (!slot)
		return op_nomem(op);
	*n = (struct mnt_ns){ .ns = ns, .view = { .root = -1 } };
	*slot = n;
	return 0;
}

int mnt_begin(struct op *op, struct snapshot *s)
{
	struct snap_ns *first = ns_own(s, NS_MNT);
	struct mount_state *st;
	int r = 0;

	if (!s->ns)
		return 0;
	st = s->mounts = op_new(op, struct mount_state);
	if (!st)
		return CKPT_E_NOMEM;
	st->joined.view.root = -1;
	st->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (st->proc < 0)
		return op_errno(op, errno, NULL, "open /proc");
	if (first && !first->joined)
		r = add_ns(op, st, first);
	for (size_t i = 0; i < s->ns->v.n && !r; i++) {
		struct snap_ns *ns = s->ns->v.v[i];

		if (ns->kind == NS_MNT && !ns->ours && !ns->joined && ns != first)
			r = add_ns(op, st, ns);
	}
	return r;
}

int mounts_dump_begin(struct op *op, struct snapshot *s)
{
	struct mount_state *st;
	int r = mnt_begin(op, s);

	st = s->mounts;
	if (r || !st || !st->nss.n)
		return r;
	st->here = op_new(op, struct proc_mounts);
	r = st->here ? proc_read_mountinfo(op, getpid(), st->here) : CKPT_E_NOMEM;
	for (size_t i = 0; i < st->nss.n && !r; i++)
		r = read_ns(op, s, st->nss.v[i]);
	r = r ?: mnt_trees(op, st, CKPT_E_UNSUPPORTED);
	r = r ?: mnt_ext_dump(op, st);
	for (size_t i = 0; i < st->all.n && !r; i++)
		r = check_mount(op, s, st->all.v[i]) ?: check_sharing(op, st, st->all.v[i]);
	return r ?: mnt_bases(op, st, CKPT_E_UNSUPPORTED) ?: mnt_groups(op, st, CKPT_E_UNSUPPORTED);
}

int mounts_dump_contents(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->mounts && i < s->mounts->nss.n && !r; i++)
		r = mnt_tmpfs_dump(op, s, s->mounts->nss.v[i]);
	return r;
}

static int write_ns(struct op *op, struct snapshot *s, const struct mnt_ns *n)
{
	struct img_out *out;
	int r = img_create(op, s->dir, IMG_MNTS, n->ns->id, &out);

	if (r)
		return r;
	for (size_t i = n->v.n; i > 0 && !r; i--)
		if (n->v.v[i - 1] != n->root)
			r = img_write(op, out, &n->v.v[i - 1]->e->base);
	r = r ?: img_write(op, out, &n->root->e->base);
	return img_close(op, out) ?: r;
}

int mounts_write(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->mounts && i < s->mounts->nss.n && !r; i++)
		r = write_ns(op, s, s->mounts->nss.v[i]);
	return r;
}
