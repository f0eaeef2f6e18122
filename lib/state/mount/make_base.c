/* SPDX-License-Identifier: MIT */
/* File systems, mounted anew or taken from outside, in a place of their own; and clones of parts of them. */
#include <ctype.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "lib/kernel/sys.h"
#include "lib/state/mount/core.h"

#define PTYS_MAX 4096u
#define SB_FLAGS (MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_MANDLOCK | MS_LAZYTIME)
#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

static int fail(struct op *op, const struct mnt *m, const char *what)
{
	return op_errno(op, errno, AT(.kind = "mount"), "%s: %s", mnt_name(op, m), what);
}

static int open_within(int root, const char *path, int flags)
{
	struct open_how how = { .flags = (uint64_t)(O_PATH | O_NOFOLLOW | O_CLOEXEC | flags), .resolve = MNT_WITHIN };

	return sys_openat2(root, *path ? path : ".", &how, sizeof(how));
}

/* ------------------------------------------------------------------------------------------ file systems */

/* What a mount that joins others may say without changing those. */
static const char *data_of(struct op *op, const struct mnt *m)
{
	char *out, *q;

	if (m->fs->traits & MNT_FS_SINGLE || m->e->fstype == FSTYPE__CGROUP2)
		return "";
	if (m->e->fstype != FSTYPE__CGROUP)
		return m->e->options;
	out = q = op_alloc(op, strlen(m->e->options) + 1);
	for (const char *p = m->e->options; out && *p; p += *p == ',') {
		size_t n = strcspn(p, ",");

		if (strncmp(p, "release_agent=", 14) != 0) {
			q += sprintf(q, "%s%.*s", q > out ? "," : "", (int)n, p);
		}
		p += n;
	}
	return out;
}

/* Flags of the superblock. That of sysfs is one for each network namespace: if that is new, it is, too. */
static unsigned long flags_of(const struct mnt_make *k, const struct mnt *m)
{
	unsigned long flags = m->e->sb_flags & SB_FLAGS;

	if (m->fs->traits & MNT_FS_SINGLE && !(m->e->fstype == FSTYPE__SYSFS && ns_own(k->s, NS_NET)))
		return 0;
	return m->fs->traits & MNT_FS_CONTENT ? flags & ~(unsigned long)MS_RDONLY : flags; /* it is filled first */
}

/* In the working directory. Folders that options name are those of the new root, where there is one (@root). */
static int mount_here(struct op *op, const struct mnt_make *k, const struct mnt *m, int place, int root)
{
	const char *data = data_of(op, m), *source = m->e->source[0] ? m->e->source : "none";
	int r = 0;

	if (!data)
		return CKPT_E_NOMEM;
	if (root >= 0 && (fchdir(root) < 0 || chroot(".") < 0))
		return fail(op, m, "go to the new root");
	if (fchdir(place) < 0 || mount(source, ".", m->fsname, flags_of(k, m), data) < 0)
		r = op_errno(op, errno, AT(.kind = "mount"), "%s: mount a file system with options \"%s\"", mnt_name(op, m), data);
	if (root >= 0 && (fchdir(k->old) < 0 || chroot(".") < 0))
		r = r ?: fail(op, m, "come back from the new root");
	return r;
}

static int make_place(struct op *op, const struct mnt_make *k, const struct mnt_base *b, char name[16])
{
	struct stat st = { .st_mode = S_IFDIR };

	snprintf(name, 16, "%u", b->slot);
	if (b->fd >= 0 && fstat(b->fd, &st) < 0)
		return fail(op, b->of, "look at what is to be mounted");
	if ((S_ISDIR(st.st_mode) ? mkdirat(k->scratch, name, 0700) : mknodat(k->scratch, name, S_IFREG | 0600, 0)) < 0)
		return fail(op, b->of, "make a place for it");
	return 0;
}

/* A clone that we brought along, of any flags and peers: it becomes writable and private. */
static int attach_base(struct op *op, const struct mnt_make *k, struct mnt_base *b, const char *name)
{
	struct mount_attr attr = { .attr_clr = MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE };

	if (sys_move_mount(b->fd, "", k->scratch, name, MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
	    (k->old_way ? mnt_old_private(b->fd) : sys_mount_setattr(b->fd, "", AT_EMPTY_PATH, &attr, sizeof(attr))) < 0)
		return fail(op, b->of, "bring it in from outside");
	return 0;
}

int mnt_make_base(struct op *op, struct mnt_make *k, struct mnt_base *b)
{
	const struct mnt *m = b->of;
	_cleanup_close_ int place = -1;
	char name[16];
	int r = make_place(op, k, b, name);

	if (r || b->kind != MNT_BASE_NEW)
		return r ?: attach_base(op, k, b, name);
	place = openat(k->scratch, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (place < 0)
		return fail(op, m, "open its place");
	if (!m->fsname)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "mount"), "%s: there is nothing that could be mounted", mnt_name(op, m));
	r = mount_here(op, k, m, place, m->fs->traits & MNT_FS_LATE ? k->st->nss.v[0]->root->fd : -1);
	if (r)
		return r;
	b->fd = openat(k->scratch, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (b->fd < 0)
		return fail(op, m, "open the new file system");
	return m->fs->traits & MNT_FS_CONTENT ? mnt_tmpfs_fill(op, b, b->fd) : 0;
}

int mnt_make_settle(struct op *op, const struct mnt_base *b)
{
	const struct mnt *m = b->of;
	_cleanup_close_ int fs = -1;

	if (b->kind != MNT_BASE_NEW || !(m->fs->traits & MNT_FS_CONTENT) || !(m->e->sb_flags & MS_RDONLY))
		return 0;
	fs = fspick(b->fd, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 || fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
		return fail(op, m, "make the file system read-only");
	return 0;
}

/* --------------------------------------------------------------------------------------- deleted files */

static int make_name(struct op *op, struct mnt *m, int folder, const char *name, bool dir)
{
	struct mnt_made *made;

	if ((dir ? mkdirat(folder, name, 0700) : mknodat(folder, name, S_IFREG | 0600, 0)) < 0)
		return errno == EEXIST ? 1 : -1;
	made = ARRAY_ADD(op->arena, &m->made);
	if (!made) {
		unlinkat(folder, name, dir ? AT_REMOVEDIR : 0);
		errno = ENOMEM;
		return -1;
	}
	*made = (struct mnt_made){ .folder = fcntl(folder, F_DUPFD_CLOEXEC, 3), .name = name, .dir = dir };
	return made->folder < 0 ? -1 : 0;
}

void mnt_unmake(struct mnt *m)
{
	for (size_t i = m->made.n; i > 0; i--) {
		struct mnt_made *made = &m->made.v[i - 1];

		if (made->folder >= 0)
			unlinkat(made->folder, made->name, made->dir ? AT_REMOVEDIR : 0);
		close_fd_p(&made->folder);
	}
	m->made.n = 0;
}

/* What was deleted exists again until it is mounted (what has no name cannot be), with the folders that led to it. */
static int remake(struct op *op, struct mnt *m, const char *rel)
{
	int folder = open_within(m->base->fd, "", O_DIRECTORY), fd = -1, r;
	char *path = arena_strdup(op->arena, rel), *part = path, *slash;
	struct stat st;

	while (folder >= 0 && path && (slash = strchr(part, '/'))) {
		int next;

		*slash = 0;
		r = make_name(op, m, folder, part, true);
		next = r < 0 ? -1 : open_within(folder, part, O_DIRECTORY);
		close(folder);
		folder = next;
		part = slash + 1;
	}
	if (folder < 0 || !path || fstat(m->target, &st) < 0) {
		close_fd_p(&folder);
		return -1;
	}
	r = make_name(op, m, folder, part, S_ISDIR(st.st_mode));
	if (r == 1) { /* there is another one of that name by now */
		part = arena_printf(op->arena, "%.200s.ckpt-%u", part, m->e->mnt_id);
		r = part ? make_name(op, m, folder, part, S_ISDIR(st.st_mode)) : -1;
	}
	if (!r)
		fd = open_within(folder, part, 0);
	close(folder);
	return fd;
}

/* ------------------------------------------------------------------------------------------- terminals */

/* A terminal's file is there as long as somebody has the other side open: we do, until somebody takes it. */
static int make_pty(struct op *op, struct mnt_make *k, const struct mnt *m, const char *rel)
{
	_cleanup_close_ int ptmx = -1;
	ARRAY(int) lower = { 0 };
	unsigned index = 0, want = 0;
	struct mnt_pty *p = NULL;
	int zero = 0, r = 0;

	if (strlen(rel) > 4 || sscanf(rel, "%u", &want) != 1 || want >= PTYS_MAX)
		return 0;
	for (size_t i = 0; i < k->st->ptys.n; i++)
		if (k->st->ptys.v[i].base == m->base && k->st->ptys.v[i].index == want)
			return 0;
	for (;;) {
		int *slot;

		ptmx = openat(m->base->fd, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (ptmx < 0 || ioctl(ptmx, TIOCGPTN, &index) < 0 || ioctl(ptmx, TIOCSPTLCK, &zero) < 0)
			r = fail(op, m, "make its terminal");
		if (r || index >= want)
			break;
		slot = ARRAY_ADD(op->arena, &lower);
		if (!slot) {
			r = op_nomem(op);
			break;
		}
		*slot = TAKE_FD(ptmx);
	}
	if (!r && index == want) {
		p = ARRAY_ADD(op->arena, &k->st->ptys);
		r = p ? 0 : op_nomem(op);
	}
	if (p)
		*p = (struct mnt_pty){ .base = m->base, .index = want, .fd = TAKE_FD(ptmx) };
	for (size_t i = 0; i < lower.n; i++)
		close(lower.v[i]);
	return r;
}

int mounts_pty(struct snapshot *s, int32_t mnt_id, uint32_t index)
{
	const struct mnt *m = s->mounts && mnt_id > 0 ? mnt_find(s->mounts, (uint32_t)mnt_id) : NULL;

	for (size_t i = 0; m && i < s->mounts->ptys.n; i++)
		if (s->mounts->ptys.v[i].base == m->base && s->mounts->ptys.v[i].index == index)
			return TAKE_FD(s->mounts->ptys.v[i].fd);
	return -1;
}

/* ---------------------------------------------------------------------------------------------- clones */

static int open_part(struct op *op, struct mnt_make *k, struct mnt *m)
{
	const struct mnt_base *b = m->base;
	const char *rel = strcmp(m->e->root, b->root) == 0 ? "" : mnt_below(m->e->root, b->root);
	bool pty = m->e->fstype == FSTYPE__DEVPTS && b->kind == MNT_BASE_NEW && rel && isdigit((unsigned char)*rel);
	int fd;

	if (!rel) /* mnt_bases() saw to it that there is */
		return op_fail(op, CKPT_E_INTERNAL, AT(.kind = "mount"), "%s is not within its file system", mnt_name(op, m));
	if (pty && make_pty(op, k, m, rel) < 0)
		return -1;
	if (*rel && m->e->has_deleted && m->e->deleted)
		fd = remake(op, m, rel);
	else
		fd = *rel ? open_within(b->fd, rel, 0) : fcntl(b->fd, F_DUPFD_CLOEXEC, 3);
	if (fd < 0)
		op_errno(op, errno, MNT_AT("the new root, and what is external, must have what was mounted"),
			 "%s: open %s of its file system", mnt_name(op, m), m->e->root);
	return fd;
}

static int furnish(struct op *op, const struct mnt *m)
{
	struct mount_attr attr;

	mnt_attr(m->e->flags, &attr);
	attr.propagation = m->e->flags & MS_UNBINDABLE ? MS_UNBINDABLE : MS_PRIVATE;
	return sys_mount_setattr(m->fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ? fail(op, m, "set its flags") : 0;
}

/* Before anything is mounted on it, so that nothing is in the way. */
static int find_targets(struct op *op, const struct mnt *m)
{
	for (size_t i = 0; i < m->children.n; i++) {
		struct mnt *c = m->children.v[i];

		c->target = open_within(m->fd, mnt_below(c->e->mountpoint, m->e->mountpoint), 0);
		if (c->target < 0)
			return op_errno(op, errno, MNT_AT("the new root must have all places that something was mounted on"),
					"%s: open the place it is mounted on", mnt_name(op, c));
	}
	return 0;
}

int mnt_make_clone(struct op *op, struct mnt_make *k, struct mnt *m)
{
	_cleanup_close_ int part = open_part(op, k, m);

	if (part < 0)
		return ckpt_err_code(op->err);
	m->fd = sys_open_tree(part, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	if (m->fd < 0)
		return fail(op, m, "clone what it shows");
	return (k->old_way ? 0 : furnish(op, m)) ?: find_targets(op, m);
}
