/* SPDX-License-Identifier: MIT */
/*
 * Restore of mounts. Each new mount namespace begins as a copy of ours. An errand in that of the root task mounts all file
 * systems in a scratch place and clones every mount of every namespace from there; puts the tree together, goes to its root
 * (pivot_root), and lets all the rest go. Other namespaces get their mounts, which are clones without a place until then.
 * Sharing groups come last.
 *
 * Until a tree is complete it exists in namespaces only that end with the restore that fails.
 */
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#include "lib/kernel/features.h"
#include "lib/kernel/sys.h"
#include "lib/state/mount/core.h"

#define FS_DEVPTS 0x1cd1

/* ------------------------------------------------------------------------------- what comes from outside */

static const char *path_of(const struct op *op, const struct mnt_base *b)
{
	return b->kind == MNT_BASE_ROOT ? op->opts->root ?: "/" : b->of->ext_path;
}

static int fetch(struct op *op, const struct mnt_base *b, int *fd)
{
	const char *path = path_of(op, b);

	*fd = sys_open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
	if (*fd >= 0)
		return 0;
	return op_errno(op, errno, MNT_AT(errno == EINVAL ? "it may be on an unbindable mount" : NULL), "%s: take %s from outside",
			mnt_name(op, b->of), path);
}

static int fetch_all(struct op *op, struct mount_state *st)
{
	int r = 0;

	for (size_t i = 0; i < st->bases.n && !r; i++)
		if (st->bases.v[i]->kind != MNT_BASE_NEW)
			r = fetch(op, st->bases.v[i], &st->bases.v[i]->fd);
	for (size_t i = 0; i < st->groups.n && !r; i++) {
		struct mnt_group *g = st->groups.v[i];

		if (g->outside && g->of->base->outside < 0)
			r = fetch(op, g->of->base, &g->of->base->outside);
	}
	return r;
}

/*
 * Images of ours say of a devpts whether it is one of the tree's. Where it was the dumper's, it is ours now: a new one would
 * have none of the terminals.
 */
static void keep_our_devpts(struct op *op, struct snapshot *s)
{
	struct mount_state *st = s->mounts;
	struct statfs fs;

	if (!s->extra || statfs("/dev/pts", &fs) < 0 || fs.f_type != FS_DEVPTS)
		return;
	for (size_t i = 0; i < st->bases.n; i++) {
		struct mnt_base *b = st->bases.v[i];

		if (b->kind != MNT_BASE_NEW || b->of->e->fstype != FSTYPE__DEVPTS || strstr(b->of->e->options, "newinstance"))
			continue;
		log_debug(op, "%s is our own", mnt_name(op, b->of));
		b->kind = MNT_BASE_EXT;
		b->of->ext_path = "/dev/pts";
	}
}

/* ---------------------------------------------------------------------------------------- in the namespace */

static int fail(struct op *op, const char *what)
{
	return op_errno(op, errno, AT(.kind = "mount"), "%s", what);
}

static int enter(struct op *op, struct mnt_make *k)
{
	if (k->ns->ns->fd < 0) {
		if (unshare(CLONE_NEWNS) < 0)
			return fail(op, "make a mount namespace");
		k->ns->ns->fd = openat(k->st->proc, "thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
		if (k->ns->ns->fd < 0)
			return fail(op, "open the new mount namespace");
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fail(op, "make the mounts of the new namespace private");
	k->old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return k->old >= 0 ? 0 : fail(op, "open the root of the new namespace");
}

static int make_scratch(struct op *op, struct mnt_make *k)
{
	_cleanup_close_ int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 || (k->scratch = fsmount(fs, FSMOUNT_CLOEXEC, 0)) < 0 ||
	    sys_move_mount(k->scratch, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
		return fail(op, "mount a file system for the time being");
	return 0;
}

/* All that is not in need of the tree itself. */
static int make_bases(struct op *op, struct mnt_make *k)
{
	int r = 0;

	for (size_t i = 0; i < k->st->bases.n && !r; i++)
		if (k->st->bases.v[i]->kind != MNT_BASE_NEW || !(k->st->bases.v[i]->of->fs->traits & MNT_FS_LATE))
			r = mnt_make_base(op, k, k->st->bases.v[i]);
	return r;
}

static int place(struct op *op, struct mnt *m)
{
	int r = m->parent ? sys_move_mount(m->fd, "", m->target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
			  : sys_move_mount(m->fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);

	if (r < 0)
		return op_errno(op, errno, AT(.kind = "mount"), "%s: mount it in its place", mnt_name(op, m));
	close_fd_p(&m->target);
	m->target = -1;
	m->placed = true;
	return 0;
}

/* Parents first. */
static int in_order(struct op *op, const struct mnt_ns *n, struct mnt ***ret)
{
	struct mnt **v = op_alloc(op, (n->v.n + 1) * sizeof(struct mnt *));
	size_t have = 1;

	if (!v)
		return CKPT_E_NOMEM;
	v[0] = n->root;
	for (size_t i = 0; i < have; i++)
		for (size_t j = 0; j < v[i]->children.n; j++)
			v[have++] = v[i]->children.v[j];
	*ret = v;
	return 0;
}

/* Once without those that need the tree (@late: and with them); what is mounted on such a one waits as well. */
static int place_all(struct op *op, struct mnt_make *k, struct mnt **v, bool late)
{
	int r = 0;

	for (size_t i = 0; i < k->ns->v.n && !r; i++) {
		struct mnt *m = v[i];

		if (m->placed || (m->parent && !m->parent->placed))
			continue;
		if (m->base->fd < 0 && !late)
			continue;
		if (m->base->fd < 0)
			r = mnt_make_base(op, k, m->base);
		if (m->fd < 0)
			r = r ?: mnt_make_clone(op, k, m);
		r = r ?: place(op, m);
		if (k->old_way)
			r = r ?: mnt_old_furnish(op, m);
	}
	return r;
}

/* Clones for the other namespaces, and for the groups: what they are made from is here. */
static int clone_others(struct op *op, struct mnt_make *k)
{
	struct mnt **v;
	int r = 0;

	for (size_t i = 1; i < k->st->nss.n && !r; i++) {
		r = in_order(op, k->st->nss.v[i], &v);
		for (size_t j = 0; j < k->st->nss.v[i]->v.n && !r; j++)
			r = (v[j]->base->fd < 0 ? mnt_make_base(op, k, v[j]->base) : 0) ?: mnt_make_clone(op, k, v[j]);
	}
	for (size_t i = 0; i < k->st->groups.n && !r && !k->old_way; i++) {
		struct mnt_group *g = k->st->groups.v[i];

		g->fd = sys_open_tree(g->of->base->fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
		r = g->fd < 0 ? fail(op, "clone a mount for a sharing group") : 0;
	}
	return r;
}

/* What was there before is then on top of the new root, and goes; first the scratch place, which is on top of that. */
static int go_in(struct op *op, struct mnt_make *k)
{
	if (fchdir(k->ns->root->fd) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
		return fail(op, "go to the new root");
	if (fchdir(k->old) < 0 || (k->scratch >= 0 && umount2(".", MNT_DETACH) < 0) || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return fail(op, "unmount the old root");
	k->ns->view.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return k->ns->view.root >= 0 ? 0 : fail(op, "open the new root");
}

static int fill_first(struct op *op, void *arg)
{
	struct mnt_make *k = arg;
	struct mnt **v;
	int r = enter(op, k) ?: make_scratch(op, k) ?: make_bases(op, k) ?: in_order(op, k->ns, &v);

	r = r ?: place_all(op, k, v, false) ?: place_all(op, k, v, true) ?: clone_others(op, k) ?: mnt_old_groups(op, k);
	return r ?: go_in(op, k);
}

static int fill_other(struct op *op, void *arg)
{
	struct mnt_make *k = arg;
	struct mnt **v;
	int r = enter(op, k) ?: in_order(op, k->ns, &v);

	return r ?: place_all(op, k, v, false) ?: mnt_old_groups(op, k) ?: go_in(op, k);
}

/* -------------------------------------------------------------------------------------------------- stages */

static bool old_way(const struct op *op)
{
	return op->opts->mntns_compat_mode || (op->features && !feature_has(op->features, FEATURE_MOVE_MOUNT_SET_GROUP));
}

static int fill(struct op *op, struct snapshot *s, struct mnt_ns *n)
{
	struct mnt_make k = { .s = s, .st = s->mounts, .ns = n, .old = -1, .scratch = -1, .old_way = old_way(op) };
	struct errand_where where = ns_where(s);
	int r;

	where.mnt = n->ns->fd;
	n->view.uid = ns_uid_outside(s, 0);
	n->view.gid = ns_gid_outside(s, 0);
	r = errand_run(op, &where, n == s->mounts->nss.v[0] ? fill_first : fill_other, &k);
	close_fd_p(&k.old);
	close_fd_p(&k.scratch);
	return r;
}

static int look_joined(struct op *op, void *arg)
{
	struct mount_state *st = arg;

	st->joined.view.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return st->joined.view.root >= 0 ? 0 : fail(op, "open the root of the mount namespace to be joined");
}

static int join_one(struct op *op, struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_MNT);
	struct errand_where where = ERRAND_HERE;

	if (!ns || !ns->joined)
		return 0;
	where.mnt = ns->fd;
	return errand_run(op, &where, look_joined, s->mounts);
}

/* They would keep file systems mounted that nobody sees any more. */
static void let_go(struct mount_state *st)
{
	for (size_t i = 0; i < st->all.n; i++) {
		close_fd_p(&st->all.v[i]->fd);
		st->all.v[i]->fd = -1;
	}
	for (size_t i = 0; i < st->bases.n; i++) {
		close_fd_p(&st->bases.v[i]->fd);
		close_fd_p(&st->bases.v[i]->outside);
		st->bases.v[i]->fd = st->bases.v[i]->outside = -1;
	}
	for (size_t i = 0; i < st->groups.n; i++) {
		close_fd_p(&st->groups.v[i]->fd);
		st->groups.v[i]->fd = -1;
	}
}

int mounts_make(struct op *op, struct snapshot *s)
{
	struct mount_state *st = s->mounts;
	int r = st ? join_one(op, s) : 0;

	if (r || !st || !st->nss.n)
		return r;
	keep_our_devpts(op, s);
	r = fetch_all(op, st);
	for (size_t i = 0; i < st->nss.n && !r; i++)
		r = fill(op, s, st->nss.v[i]);
	for (size_t i = 0; i < st->groups.n && !r && !old_way(op); i++)
		r = mnt_make_group(op, st->groups.v[i]);
	for (size_t i = 0; i < st->all.n && !r; i++)
		mnt_unmake(st->all.v[i]);
	for (size_t i = 0; i < st->bases.n && !r; i++)
		r = mnt_make_settle(op, st->bases.v[i]);
	if (!r)
		let_go(st);
	return r;
}
