/* SPDX-License-Identifier: MIT */
/*
 * Everything that is opened by its name: regular files, directories, the memory devices, and whatever an O_PATH
 * descriptor may point to. Also the special references: executable, current directory, root, mapped files.
 *
 * The image holds the name and what lets restore recognise the file: size, mode, build-id. A file whose name leads to it no
 * more is either a ghost (deleted: its content goes into the checkpoint, ghost.c) or gets a second name (remap.c).
 */
#include <sys/vfs.h>

#include "lib/state/file/core.h"
#include "lib/state/file/elf.h"
#include "lib/state/msg.h"

#define DELETED " (deleted)"

static bool reg_match(const struct fd_view *v)
{
	return v->link[0] == '/' || strncmp(v->link, "(unreachable)", 13) == 0;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/*
 * Does @path lead to the thing? On overlayfs a mapped file may show the numbers of the file below; the name was given by
 * the kernel for this very file, so there agreement of everything else has to do.
 */
static bool leads_to(const struct fd_view *v, const char *path)
{
	struct statfs fs;
	struct stat st;

	if (view_lstat(v->view, path, &st) < 0)
		return false;
	if (same_inode(&st, &v->st))
		return true;
	if (v->fd >= 0 || view_statfs(v->view, path, &fs) < 0 || fs.f_type != FS_OVERLAY)
		return false;
	return st.st_mode == v->st.st_mode && st.st_size == v->st.st_size && st.st_mtim.tv_sec == v->st.st_mtim.tv_sec &&
	       st.st_mtim.tv_nsec == v->st.st_mtim.tv_nsec;
}

/* On overlayfs the count of names may be that of the file below, which keeps its name when it is deleted above. */
static bool has_no_name(struct op *op, const struct fd_view *v, const char *path)
{
	if (v->st.st_nlink == 0 || S_ISDIR(v->st.st_mode))
		return true;
	return v->fs_magic == FS_OVERLAY && (v->copy < 0 || !remap_can_link(op, v, path));
}

static int refuse_astray(struct op *op, const struct fd_view *v)
{
	const char *key = v->fd >= 0 ? arena_printf(op->arena, "name it with --external file[%x:%lx], and give another one at restore "
						    "with --inherit-fd", (unsigned)v->mnt_id, (unsigned long)v->st.st_ino) : NULL;

	return file_refuse(op, v, "file", key ? key : "the program must leave it before the checkpoint",
			   "%s is on a mount that is in no mount namespace of the tree (it was unmounted, or comes from outside)", v->link);
}

int reg_locate(struct op *op, const struct fd_view *v, const char **path, enum reg_where *where)
{
	size_t n = strlen(v->link), tail = sizeof(DELETED) - 1;

	*path = v->link;
	*where = REG_HERE;
	if (v->link[0] != '/')
		return file_refuse(op, v, "file", "it lies outside of what the root directory shows", "%s cannot be reached",
				   v->link);
	if (v->astray)
		return refuse_astray(op, v);
	if (leads_to(v, v->link))
		return 0;
	if (n <= tail || strcmp(v->link + n - tail, DELETED) != 0)
		return file_refuse(op, v, "file", "a mount may hide it, or the task lives in another mount namespace",
				   "%s leads to another file, or to none", v->link);
	*path = arena_strndup(op->arena, v->link, n - tail);
	if (!*path)
		return op_nomem(op);
	if (leads_to(v, *path))
		return 0;
	*where = has_no_name(op, v, *path) ? REG_GHOST : REG_UNLINKED;
	return 0;
}

static int examine_type(struct op *op, const struct fd_view *v)
{
	mode_t m = v->st.st_mode;

	if (v->info.flags & O_PATH)
		return 0;
	if (S_ISREG(m) || S_ISDIR(m) || S_ISFIFO(m))
		return 0;
	if (S_ISCHR(m) || S_ISBLK(m))
		return device_check(op, v);
	if (v->fd < 0)
		return 0;
	return file_refuse(op, v, "file", NULL, "%s is of a type that is not supported (mode 0%o)", v->link, m);
}

static int examine_ghost(struct op *op, const struct fd_view *v)
{
	uint64_t limit = ghost_limit(op), bytes = (uint64_t)v->st.st_blocks * 512;

	if (S_ISSOCK(v->st.st_mode))
		return file_refuse(op, v, "deleted file", NULL, "%s is a socket: not supported yet", v->link);
	if (!S_ISREG(v->st.st_mode) || bytes <= limit)
		return 0;
	/* POSIX shared memory without a name, above all: that is memory, and saved like memory whatever its size. */
	if (v->fs_magic == FS_TMPFS || v->fs_magic == FS_HUGETLBFS)
		return 0;
	return file_refuse(op, v, "deleted file", "allow larger deleted files with --ghost-limit SIZE",
			   "%s has %lu bytes, more than the limit of %lu", v->link, (unsigned long)bytes,
			   (unsigned long)limit);
}

static int examine_place(struct op *op, const struct fd_view *v, enum reg_where where)
{
	if (where == REG_GHOST)
		return examine_ghost(op, v);
	if (where == REG_UNLINKED && !op->opts->link_remap)
		return file_refuse(op, v, "unlinked file", "allow a temporary second name beside it with --link-remap",
				   "%s is gone or another file now, but the file exists under another name", v->link);
	return 0;
}

static int external_key(struct op *op, const struct fd_view *v, char **key)
{
	*key = arena_printf(op->arena, "file[%x:%lx]", (unsigned)v->info.mnt_id, (unsigned long)v->st.st_ino);
	return *key ? 0 : op_nomem(op);
}

/* Whether it can be dumped, and where it is found; *@key is set if it is an external resource. */
static int examine(struct op *op, const struct fd_view *v, const char **path, enum reg_where *where, char **key)
{
	const char *other;
	int r;

	*key = NULL;
	if (v->fd >= 0 && op->opts->external.n) {
		r = external_key(op, v, key);
		if (r || external_wanted(op, *key))
			return r;
		*key = NULL;
	}
	r = examine_type(op, v);
	r = r ? r : reg_locate(op, v, path, where);
	if (!r && *where == REG_UNLINKED && !op->opts->link_remap && (other = remap_other_name(op, v, *path))) {
		log_info(op, "task %d: fd %d: %s is %s now", v->pid, v->fd, v->link, other);
		*path = other;
		*where = REG_HERE;
	}
	return r ? r : examine_place(op, v, *where);
}

int reg_examine(struct op *op, const struct fd_view *v)
{
	enum reg_where where;
	const char *path;
	char *key;

	return examine(op, v, &path, &where, &key);
}

/* Words of 4 bytes in the order of the file, the last one filled up with zeros. */
static int words_of(struct op *op, const uint8_t *id, size_t n, uint32_t **words, size_t *n_words)
{
	*n_words = (n + 3) / 4;
	*words = op_alloc(op, *n_words * 4);
	if (!*words)
		return CKPT_E_NOMEM;
	memcpy(*words, id, n);
	return 0;
}

/*
 * Reads the build-id of the regular file behind @fd: through it, where that is possible. To open the file again would break
 * a lease on it, so that is not done where it has one.
 */
static size_t build_id_of(int fd, uint8_t id[BUILD_ID_MAX])
{
	_cleanup_close_ int own = -1;
	int flags = fcntl(fd, F_GETFL);

	if (!(flags & (O_PATH | O_DIRECT)) && (flags & O_ACCMODE) != O_WRONLY)
		return elf_build_id(fd, id);
	if (flags < 0 || (!(flags & O_PATH) && fcntl(fd, F_GETLEASE) != F_UNLCK))
		return 0;
	own = file_reopen(fd, O_RDONLY | O_NONBLOCK | O_NOATIME);

	if (own < 0)
		own = file_reopen(fd, O_RDONLY | O_NONBLOCK);
	return own < 0 ? 0 : elf_build_id(own, id);
}

static int fill_identity(struct op *op, const struct fd_view *v, RegFileEntry *m)
{
	uint8_t id[BUILD_ID_MAX];
	size_t n;

	m->has_mode = true;
	m->mode = v->st.st_mode;
	if (!S_ISREG(v->st.st_mode))
		return 0;
	/* A log that is only appended to may go on growing between dump and restore. */
	if ((v->info.flags & O_ACCMODE) == O_WRONLY && (v->info.flags & O_APPEND))
		return 0;
	m->has_size = true;
	m->size = (uint64_t)v->st.st_size;
	if (op->opts->file_validation == CKPT_VALIDATE_FILESIZE)
		return 0;
	if (v->build_id_known)
		return v->build_id ? words_of(op, v->build_id, v->build_id_len, &m->build_id, &m->n_build_id) : 0;
	n = build_id_of(v->copy, id);
	return n ? words_of(op, id, n, &m->build_id, &m->n_build_id) : 0;
}

uint64_t reg_position(const struct fd_view *v)
{
	if (v->fd < 0 || (v->info.flags & O_PATH))
		return 0;
	return lseek(v->copy, 0, SEEK_CUR) < 0 ? POS_NONE : v->info.pos;
}

void reg_note_mount(const struct snapshot *s, const struct fd_view *v, RegFileEntry *m)
{
	if (mounts_own(s) && v->mnt_id >= 0)
		msg_set(m, mnt_id, v->mnt_id);
}

int reg_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	RegFileEntry *m = op_new(op, RegFileEntry);
	enum reg_where where = REG_HERE;
	const char *path = v->link;
	char *key;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	r = examine(op, v, &path, &where, &key);
	if (r)
		return r;
	reg_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->pos = reg_position(v);
	m->fown = file_fown(op, v);
	m->name = key ? key : arena_strdup(op->arena, path);
	if (!m->fown || !m->name)
		return op_nomem(op);
	f->msg->reg = m;
	reg_note_mount(s, v, m);
	if (key) {
		m->has_ext = m->ext = true;
		return 0;
	}
	r = fill_identity(op, v, m);
	if (!r && (S_ISCHR(v->st.st_mode) || S_ISBLK(v->st.st_mode)))
		r = device_note(op, s, v, f->id);
	if (!r && S_ISDIR(v->st.st_mode) && m->fown->pid)
		r = file_refuse(op, v, "directory notification", "the program must close it, or end the notification, before the checkpoint",
				"%s has an owner for signals: what it is to be notified of (F_NOTIFY) is shown to nobody", v->link);
	if (!r && where == REG_GHOST)
		r = ghost_dump(op, s, v, f->id);
	else if (!r && where == REG_UNLINKED)
		r = remap_dump_link(op, s, v, path, f->id);
	return r;
}

int reg_dump_ref(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t *id)
{
	struct snap_file *f = file_new(op, s, &file_reg);

	if (!f)
		return CKPT_E_NOMEM;
	*id = f->id;
	return reg_dump(op, s, v, f);
}

/* ------------------------------------------------------------------------------------------- restore half */

static int changed(struct op *op, const RegFileEntry *m, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int changed(struct op *op, const RegFileEntry *m, const char *fmt, ...)
{
	const char *text;
	va_list ap;

	va_start(ap, fmt);
	text = arena_vprintf(op->arena, fmt, ap);
	va_end(ap);
	return op_fail(op, CKPT_E_CHANGED,
		       AT(.kind = "file", .hint = "put the file back as it was when the checkpoint was made"), "%s: %s",
		       m->name, text ? text : "changed");
}

static int verify_stat(struct op *op, const RegFileEntry *m, const struct stat *st)
{
	uint32_t ignored = op->opts->skip_file_rwx_check ? 0777 : 0;

	if (m->has_size && S_ISREG(st->st_mode) && m->size != (uint64_t)st->st_size)
		return changed(op, m, "the size was %lu, it is %lu now", (unsigned long)m->size,
			       (unsigned long)st->st_size);
	if (m->has_mode && ((m->mode ^ st->st_mode) & S_IFMT))
		return changed(op, m, "it is another type of file now (mode was 0%o, is 0%o)", m->mode, st->st_mode);
	if (m->has_mode && ((m->mode ^ st->st_mode) & ~ignored))
		return op_fail(op, CKPT_E_CHANGED,
			       AT(.kind = "file", .hint = "--skip-file-rwx-check accepts other permissions"),
			       "%s: the mode was 0%o, it is 0%o now", m->name, m->mode, st->st_mode);
	return 0;
}

static int verify_build_id(struct op *op, const RegFileEntry *m, const struct stat *st, int fd)
{
	uint8_t id[ALIGN_UP(BUILD_ID_MAX, 4u)] = { 0 };
	size_t n;

	if (!m->n_build_id || !S_ISREG(st->st_mode) || op->opts->file_validation == CKPT_VALIDATE_FILESIZE)
		return 0;
	n = build_id_of(fd, id);
	if (!n)
		return changed(op, m, "it had a build-id, it has none now");
	if ((n + 3) / 4 != m->n_build_id || memcmp(id, m->build_id, m->n_build_id * 4) != 0)
		return changed(op, m, "the build-id is another one now");
	return 0;
}

/* What is about to be opened, looked at without opening it: opening a FIFO or a device has effects. */
static int verify_before(struct op *op, const struct snapshot *s, const RegFileEntry *m, const struct appearance *at,
			 const struct reg_how *how, struct stat *st)
{
	int r;

	if (view_lstat(at->view, at->path, st) < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return changed(op, m, "the file is gone");
		return op_errno(op, errno, AT(.kind = "file"), "cannot look at %s", at->path);
	}
	r = verify_stat(op, m, st);
	if (r || (how->flags & O_PATH) || (how->special && (st->st_mode & S_IFMT) == how->special))
		return r;
	if (S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))
		return 0;
	if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
		return device_verify(op, s, m, st);
	return image_bad(op, "files.img: id %u: %s is not a file that can be opened like this (mode 0%o)", m->id, m->name,
			 st->st_mode);
}

const struct fs_view *reg_view(const struct snapshot *s, const RegFileEntry *m)
{
	return mounts_view(s, m->has_mnt_id ? m->mnt_id : -1);
}

uint32_t reg_open_flags(uint32_t flags)
{
	if (flags & KFLAG_TMPFILE)
		flags &= ~(KFLAG_TMPFILE | (uint32_t)O_DIRECTORY);
	return flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC);
}

static int open_path(struct op *op, const struct snapshot *s, const RegFileEntry *m, const struct appearance *at,
		     const struct reg_how *how, bool verified, int *ret)
{
	_cleanup_close_ int fd = -1;
	struct stat before, after;
	int r = verify_before(op, s, m, at, how, &before);

	if (r)
		return r;
	fd = file_high(view_open(at->view, at->path, (int)reg_open_flags(how->flags) | O_CLOEXEC | O_NOCTTY, 0));
	if (fd < 0 || fstat(fd, &after) < 0)
		return op_errno(op, errno, AT(.kind = "file"), "cannot open %s", at->path);
	if (!same_inode(&before, &after))
		return changed(op, m, "it was replaced at this moment");
	r = verified ? 0 : verify_build_id(op, m, &after, fd);
	if (r)
		return r;
	*ret = TAKE_FD(fd);
	return 0;
}

/* A file without a name. The description that made it is the one we hold; others are opened through it. */
static int open_held(struct op *op, const RegFileEntry *m, const struct reg_how *how, int held, int *fd)
{
	struct stat st;
	int r;

	if (fstat(held, &st) < 0)
		return op_errno(op, errno, AT(.kind = "file"), "cannot look at %s", m->name);
	r = verify_stat(op, m, &st);
	if (r)
		return r;
	if (how->flags & KFLAG_TMPFILE)
		*fd = fcntl(held, F_DUPFD_CLOEXEC, 3);
	else
		*fd = file_high(file_reopen(held, (int)reg_open_flags(how->flags)));
	if (*fd < 0 || (how->flags & KFLAG_TMPFILE && file_set_flags(*fd, how->flags) < 0))
		return op_errno(op, errno, AT(.kind = "file"), "cannot open %s", m->name);
	return 0;
}

static int open_inherited(struct op *op, const RegFileEntry *m, const char *key, int *fd)
{
	int given = inherit_find(op, key);

	if (given < 0)
		return IMG_ABSENT;
	*fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	if (*fd < 0)
		return op_errno(op, errno, AT(AT_FD(given)), "cannot take descriptor %d for %s", given, m->name);
	return 0;
}

/* Positive: the descriptor was given by the caller; its flags and position are the caller's. */
#define REG_INHERITED 1

static int open_entry(struct op *op, struct snapshot *s, struct snap_file *f, const struct reg_how *how, int *fd)
{
	const RegFileEntry *m = f->msg->reg;
	struct appearance at;
	int r;

	r = open_inherited(op, m, m->ext ? m->name : m->name + 1, fd);
	if (r <= 0)
		return r ? r : REG_INHERITED;
	if (m->ext)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "file", .hint = "give one with --inherit-fd fd[N]:KEY"),
			       "the checkpoint needs a descriptor from outside for %s", m->name);
	r = remap_appear(op, s, f, &at);
	if (r)
		return r;
	if (at.fd >= 0)
		return open_held(op, m, how, at.fd, fd);
	r = open_path(op, s, m, &at, how, f->priv != NULL, fd);
	if (!r)
		f->priv = f; /* verified: 60,000 mappings of one library need that only once */
	if (at.temporary && view_unlink(at.view, at.path) < 0 && !r)
		log_warn(op, "%s: cannot be removed again: %s", at.path, strerror(errno));
	return r;
}

int reg_open_as(struct op *op, struct snapshot *s, struct snap_file *f, const struct reg_how *how, int *fd)
{
	int r = open_entry(op, s, f, how, fd);

	return r == REG_INHERITED ? 0 : r;
}

static int reg_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const RegFileEntry *m = f->msg->reg;
	int r = procfile_open(op, s, f);

	if (r <= 0)
		return r;
	r = open_entry(op, s, f, &(const struct reg_how){ .flags = m->flags }, &f->fd);
	if (r == REG_INHERITED)
		return 0;
	if (r || (m->flags & O_PATH))
		return r;
	if (m->pos != POS_NONE && m->pos && lseek(f->fd, (off_t)m->pos, SEEK_SET) < 0)
		return op_errno(op, errno, AT(.kind = "file"), "%s: cannot seek to %lu", m->name, (unsigned long)m->pos);
	return 0;
}

const struct file_kind file_reg = {
	.name = "reg",
	.type = FD_TYPES__REG,
	.message = offsetof(FileEntry, reg),
	.match = reg_match,
	.check = reg_examine,
	.dump = reg_dump,
	.open = reg_open,
	.plan = bytask_plan,
};
