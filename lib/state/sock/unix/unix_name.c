/* SPDX-License-Identifier: MIT */
/*
 * Names of UNIX sockets. A name is what was given to bind(); where the file is now is another question: it may have been
 * deleted or moved, or the name may count from a folder that is nobody's working directory any more. The kernel tells the
 * file by SIOCUNIXFILE.
 *
 * Restore: the name is bound where it leads to the right place: in the folder it counts from; in a file system of our own
 * that nobody else sees, where the file is deleted; or in a folder for the moment, from which the file is moved to its place.
 */
#include <libgen.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/unix/unix.h"

#define DELETED " (deleted)"

/* ----------------------------------------------------------------------------------------------------- dump half */

static int set_perms(struct op *op, const struct snapshot *s, struct unix_seen *u, const struct stat *st)
{
	u->msg->file_perms = msg_new(op, FilePermsEntry, file_perms_entry);
	if (!u->msg->file_perms)
		return CKPT_E_NOMEM;
	u->msg->file_perms->mode = st->st_mode;
	u->msg->file_perms->uid = ns_uid_inside(s, st->st_uid);
	u->msg->file_perms->gid = ns_gid_inside(s, st->st_gid);
	return 0;
}

static bool same_file(const struct fs_view *view, const char *path, const struct stat *st)
{
	struct stat now;

	return view_stat(view, path, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino;
}

/* The folder from which relative @name leads to @path; NULL: none was found. */
static char *folder_of(struct op *op, const struct fd_view *v, const char *path, const char *name, const struct stat *st)
{
	size_t n = strlen(path), m = strlen(name);
	char text[4096], link[64];
	ssize_t len;

	if (n > m + 1 && path[n - m - 1] == '/' && strcmp(path + n - m, name) == 0)
		return arena_strndup(op->arena, path, n - m - 1);
	if (n == m + 1 && strcmp(path + 1, name) == 0)
		return arena_strdup(op->arena, "/");
	snprintf(link, sizeof(link), "/proc/%d/cwd", v->pid);
	if (snprintf(text, sizeof(text), "%s/%s", link, name) >= (int)sizeof(text) || !same_file(&fs_view_ours, text, st))
		return NULL;
	len = readlink(link, text, sizeof(text) - 1);
	return len > 0 ? arena_strndup(op->arena, text, (size_t)len) : NULL;
}

static bool is_deleted(const char *path, const struct stat *st)
{
	size_t n = strlen(path);

	return !st->st_nlink || (n > strlen(DELETED) && strcmp(path + n - strlen(DELETED), DELETED) == 0);
}

/* Where the file is. The name alone leads there, or with a folder, or not. */
static int place(struct op *op, const struct fs_view *view, const struct fd_view *v, struct unix_seen *u, const char *path,
		 const struct stat *st)
{
	char name[UNIX_NAME_MAX + 1] = "";

	memcpy(name, u->msg->name.data, MIN(u->msg->name.len, UNIX_NAME_MAX));
	if (is_deleted(path, st)) {
		msg_set(u->msg, deleted, 1);
		return 0;
	}
	if (name[0] != '/') {
		u->msg->name_dir = folder_of(op, v, path, name, st);
		if (u->msg->name_dir)
			return 0;
	} else if (same_file(view, name, st)) {
		return 0;
	}
	/* To a reader that knows nothing of "path", the name is one that does not exist any more: that is true. */
	msg_set(u->msg, deleted, 1);
	u->extra->path = arena_strdup(op->arena, path);
	u->noted = true;
	return u->extra->path ? 0 : op_nomem(op);
}

static int dump_file(struct op *op, const struct snapshot *s, const struct fd_view *v, struct unix_seen *u)
{
	_cleanup_close_ int file = ioctl(v->copy, SIOCUNIXFILE);
	char link[64], path[4096];
	struct stat st;
	int32_t mnt_id;
	ssize_t n;
	int r;

	if (file < 0)
		return file_errno(op, v, "open the file it is bound to");
	fcntl(file, F_SETFD, FD_CLOEXEC);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0 || fstat(file, &st) < 0)
		return file_errno(op, v, "look at the file it is bound to");
	path[n] = '\0';
	mnt_id = file_mount(file);
	/* A deleted one may be in a file system that a restore made for it. */
	if (mounts_own(s) && !mounts_know(s, mnt_id) && !is_deleted(path, &st))
		return file_refuse(op, v, "unix socket", "the program must close it before the checkpoint",
				   "it is bound to %s, on a mount that is in no mount namespace of the tree", path);
	if (mounts_own(s) && mounts_know(s, mnt_id))
		msg_set(u->msg, mnt_id, mnt_id);
	r = set_perms(op, s, u, &st);
	return r ? r : place(op, mounts_view(s, mnt_id), v, u, path, &st);
}

int unix_name_dump(struct op *op, const struct snapshot *s, const struct fd_view *v, struct unix_seen *u)
{
	struct sockaddr_un a = { 0 };
	socklen_t n = sizeof(a);

	if (getsockname(v->copy, (struct sockaddr *)&a, &n) < 0)
		return file_errno(op, v, "ask its name");
	u->msg->name.len = n > offsetof(struct sockaddr_un, sun_path) ? n - offsetof(struct sockaddr_un, sun_path) : 0;
	u->msg->name.len = MIN(u->msg->name.len, UNIX_NAME_MAX);
	u->msg->name.data = arena_memdup(op->arena, a.sun_path, u->msg->name.len + 1);
	if (!u->msg->name.data)
		return op_nomem(op);
	return u->msg->name.len && a.sun_path[0] ? dump_file(op, s, v, u) : 0;
}

/* -------------------------------------------------------------------------------------------------- restore half */

/* A file system that only we see, and that goes with its last socket. */
static int scratch(struct op *op, struct unix_state *us)
{
	_cleanup_close_ int fs = -1;

	if (us->scratch >= 0)
		return 0;
	fs = (int)syscall(SYS_fsopen, "tmpfs", 1 /* FSOPEN_CLOEXEC */);
	if (fs >= 0 && syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) == 0)
		us->scratch = (int)syscall(SYS_fsmount, fs, 1 /* FSMOUNT_CLOEXEC */, 0);
	if (us->scratch < 0)
		return op_errno(op, errno, AT(.kind = "unix socket"),
				"cannot make a file system for names of sockets that do not exist any more");
	return 0;
}

static int extra_fd(struct op *op, struct unix_state *us, int fd)
{
	int *slot = fd < 0 ? NULL : ARRAY_ADD(op->arena, &us->extra_fds);

	if (fd >= 0 && !slot) {
		close(fd);
		return op_nomem(op);
	}
	if (slot)
		*slot = fd;
	return 0;
}

static int keep_file(struct op *op, void *arg, const struct unix_diag *d)
{
	struct unix_state *us = arg;

	if (!d->has_file || index_find(&us->bound_files, KEY(d->file_dev, d->file_ino)))
		return 0;
	return index_add(op, &us->bound_files, KEY(d->file_dev, d->file_ino), us);
}

/* Whether some socket is bound to this file now. */
static int in_use(struct op *op, struct unix_state *us, const struct stat *st, bool *used)
{
	/* sock_diag has the kernel's own form of the device */
	uint32_t dev = (uint32_t)major(st->st_dev) << 20 | (uint32_t)minor(st->st_dev);
	int r = us->listed_files ? 0 : unix_diag_list(op, keep_file, us);

	us->listed_files = true;
	*used = index_find(&us->bound_files, KEY(dev, (uint32_t)st->st_ino)) != NULL;
	return r;
}

/* What lies where the name shall be: a socket file that nobody uses any more is put aside. */
static int make_way(struct op *op, struct unix_state *us, const struct unix_sk *sk, int dir, const char *name)
{
	struct unix_moved *slot;
	struct stat st;
	bool used;
	int r;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : unix_sys(op, sk, "look at its name");
	if (!S_ISSOCK(st.st_mode))
		return op_fail(op, CKPT_E_EXISTS, AT(.kind = "unix socket"), "%s: there is a file named %s that is no socket",
			       unix_what(op, sk), name);
	r = in_use(op, us, &st, &used);
	if (r)
		return r;
	if (used)
		return op_fail(op, CKPT_E_EXISTS, AT(.kind = "unix socket", .hint = "does the original still run?"),
			       "%s: its name, %s, is in use", unix_what(op, sk), name);
	slot = ARRAY_ADD(op->arena, &us->moved);
	if (!slot)
		return op_nomem(op);
	slot->dir = dir;
	slot->name = arena_strdup(op->arena, name);
	slot->aside = arena_printf(op->arena, ".ckpt-%d-%zu", getpid(), us->moved.n);
	if (!slot->name || !slot->aside) {
		us->moved.n--;
		return op_nomem(op);
	}
	if (renameat(dir, name, dir, slot->aside) == 0)
		return 0;
	us->moved.n--;
	return unix_sys(op, sk, "put aside an old socket file with its name");
}

static const struct fs_view *view_of(const struct unix_state *us, const struct unix_sk *sk)
{
	return mounts_view(us->s, sk->m->has_mnt_id ? sk->m->mnt_id : -1);
}

/* Opens the folder of @path, relative to @base; *@last is what comes after it. */
static int open_parent(struct op *op, struct unix_state *us, const struct unix_sk *sk, int base, const char *path, int *dir,
		       const char **last)
{
	char *copy = arena_strdup(op->arena, path), *copy2 = arena_strdup(op->arena, path);
	const char *folder;

	if (!copy || !copy2)
		return op_nomem(op);
	folder = dirname(copy);
	*last = basename(copy2);
	if (path[0] == '/')
		*dir = view_open(view_of(us, sk), folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
	else
		*dir = openat(base, folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*dir < 0)
		return op_errno(op, errno, AT(.kind = "unix socket"), "%s: cannot open the folder %s", unix_what(op, sk), folder);
	return extra_fd(op, us, *dir);
}

/* Where the name leads to: absolute, or in name_dir. */
static int bind_in_place(struct op *op, struct unix_state *us, struct unix_sk *sk, const char *name)
{
	int base = AT_FDCWD, dir, r;
	const char *last;

	if (name[0] != '/') {
		if (!sk->m->name_dir)
			return image_bad(op, "files.img: id %u: a relative name, and no folder for it", sk->m->id);
		base = view_open(view_of(us, sk), sk->m->name_dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
		if (base < 0)
			return op_errno(op, errno, AT(.kind = "unix socket"), "%s: cannot open the folder %s",
					unix_what(op, sk), sk->m->name_dir);
		r = extra_fd(op, us, base);
		if (r)
			return r;
		sk->bind->dir = base;
	}
	sk->bind->view = view_of(us, sk);
	if (!view_is_ours(sk->bind->view))
		sk->bind->root = sk->bind->view->root;
	r = open_parent(op, us, sk, base, name, &dir, &last);
	r = r ? r : make_way(op, us, sk, dir, last);
	sk->name_at = dir;
	sk->name_last = last;
	return r;
}

static int bind_deleted(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	int r = scratch(op, us);

	sk->bind->root = us->scratch;
	sk->bind->dir = us->scratch;
	sk->bind->make_parents = sk->bind->unlink = true;
	return r;
}

/* In a folder beside the place: only within a file system can a file be moved. */
static int bind_moved(struct op *op, struct unix_state *us, struct unix_sk *sk, const char *path)
{
	const char *last;
	char *name;
	int dir, r;

	if (path[0] != '/')
		return image_bad(op, "ckpt-extra: the path of socket id %u is not absolute", sk->m->id);
	r = open_parent(op, us, sk, AT_FDCWD, path, &dir, &last);
	r = r ? r : make_way(op, us, sk, dir, last);
	if (r)
		return r;
	if (strlen(last) >= sizeof(sk->bind->move_name))
		return image_bad(op, "ckpt-extra: the path of socket id %u is too long", sk->m->id);
	strcpy(sk->bind->move_name, last);
	sk->bind->move_dir = dir;
	name = arena_printf(op->arena, ".ckpt-%d-b%zu", getpid(), us->extra_fds.n);
	if (!name)
		return op_nomem(op);
	if (mkdirat(dir, name, 0700) < 0)
		return unix_sys(op, sk, "make a folder for it");
	sk->bind_folder = name;
	sk->bind->root = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (sk->bind->root < 0)
		return unix_sys(op, sk, "open the folder made for it");
	sk->bind->dir = sk->bind->root;
	sk->bind->make_parents = true;
	return extra_fd(op, us, sk->bind->root);
}

static int prepare_bind(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	const ProtobufCBinaryData *name = &sk->m->name;
	struct stand_in_job *j = op_new(op, struct stand_in_job);
	char text[UNIX_NAME_MAX + 1] = "";

	if (!j)
		return CKPT_E_NOMEM;
	*j = (struct stand_in_job){ .call = STAND_IN_BIND, .fd = sk->f->fd, .root = -1, .dir = -1, .move_dir = -1,
				    .listener = -1, .file = -1, .addr.sun_family = AF_UNIX };
	memcpy(j->addr.sun_path, name->data, name->len);
	j->addr_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len);
	memcpy(text, name->data, name->len);
	sk->bind = j;
	if (!text[0])
		return 0;
	if (sk->x && sk->x->path)
		return bind_moved(op, us, sk, sk->x->path);
	if (sk->m->has_deleted && sk->m->deleted)
		return bind_deleted(op, us, sk);
	return bind_in_place(op, us, sk, text);
}

/* A name in the abstract space, or a path, as one can print it. */
static const char *printable(struct op *op, const ProtobufCBinaryData *name)
{
	char *text = arena_strndup(op->arena, (const char *)name->data, name->len);

	if (!text)
		return "";
	for (size_t i = 0; i + 1 < name->len || (i < name->len && text[i]); i++)
		if ((unsigned char)name->data[i] < ' ')
			text[i] = '@';
	return text;
}

static int run_binds(struct op *op, struct unix_state *us, struct unix_sk *const *socks, size_t n)
{
	struct stand_in_job **jobs = op_alloc(op, (n + 1) * sizeof(*jobs));
	int r;

	if (!jobs)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n; i++)
		jobs[i] = socks[i]->bind;
	r = stand_in_run(op, us->s, NULL, jobs, n, &us->number_taken);
	for (size_t i = 0; i < n; i++)
		socks[i]->file = jobs[i]->result[0];
	for (size_t i = 0; !r && i < n; i++) {
		const struct stand_in_job *j = jobs[i];

		if (j->err)
			r = op_errno(op, j->err, AT(.kind = "unix socket"), "%s: cannot %s, %s", unix_what(op, socks[i]), j->step,
				     printable(op, &socks[i]->m->name));
	}
	return r;
}

/* Sockets whose names are their own; accepted ones have their listener's. */
int unix_bind_all(struct op *op, struct unix_state *us)
{
	struct unix_sk **socks = op_alloc(op, (us->socks.n + 1) * sizeof(struct unix_sk *));
	size_t n = 0;
	int r = 0;

	if (!socks)
		return CKPT_E_NOMEM;
	for (size_t i = 0; !r && i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!sk->m->name.len || sk->accepted || sk->outside)
			continue;
		r = prepare_bind(op, us, sk);
		socks[n++] = sk;
	}
	return r ? r : run_binds(op, us, socks, n);
}

static int own_path(int file, char path[64])
{
	return snprintf(path, 64, "/proc/self/fd/%d", file);
}

int unix_files_finish(struct op *op, struct unix_state *us)
{
	char path[64];

	for (size_t i = 0; i < us->socks.n; i++) {
		const struct unix_sk *sk = us->socks.v[i];
		const FilePermsEntry *p = sk->m->file_perms;

		if (sk->file < 0 || !p)
			continue;
		own_path(sk->file, path);
		if (chown(path, ns_uid_outside(us->s, p->uid), ns_gid_outside(us->s, p->gid)) < 0 || chmod(path, p->mode & 07777) < 0)
			return unix_sys(op, sk, "set owner and mode of its file");
	}
	return 0;
}

static void remove_name(const struct unix_sk *sk)
{
	if (sk->bind->move_dir >= 0)
		unlinkat(sk->bind->move_dir, sk->bind->move_name, 0);
	else if (sk->name_last)
		unlinkat(sk->name_at, sk->name_last, 0);
}

void unix_names_done(struct op *op, struct unix_state *us, bool success)
{
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!sk->bind)
			continue;
		if (!success && sk->file >= 0)
			remove_name(sk);
		if (sk->bind_folder)
			unlinkat(sk->bind->move_dir, sk->bind_folder, AT_REMOVEDIR);
		sk->bind = NULL;
	}
	for (size_t i = 0; i < us->moved.n; i++) {
		const struct unix_moved *m = &us->moved.v[i];

		if ((success ? unlinkat(m->dir, m->aside, 0) : renameat(m->dir, m->aside, m->dir, m->name)) < 0)
			log_warn(op, "an old socket file was put aside as %s and could not be %s: %s", m->aside,
				 success ? "removed" : "put back", strerror(errno));
	}
	us->moved.n = 0;
}
