/* SPDX-License-Identifier: MIT */
/*
 * fanotify: a group with marks on inodes, mounts and file systems. The format has no place for marks of file systems: those
 * go to our own file, and other readers lose them. Events that nobody has read yet are lost, as those of inotify.
 *
 * Groups that are asked for permission are refused: while such a program is stopped, everybody who opens a file that it
 * watches waits for it, we among them.
 */
#include <sys/fanotify.h>
#include <sys/ioctl.h>

#include "lib/kernel/uapi.h"
#include "lib/state/file/watch.h"
#include "lib/state/msg.h"

#define PERMISSIONS (FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | FAN_PRE_ACCESS)
#define MARK_FLAGS_KEPT (FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE | FAN_MARK_IGNORE)

/* Restore: a mark to set, and what it is on, open. */
struct fanotify_target {
	uint32_t type, flags, mask, ignored; /* type: FAN_MARK_INODE ... */
	const char *name;
	int fd;
};
struct fanotify_targets {
	struct fanotify_target *v;
	size_t n;
};

static bool fanotify_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[fanotify]") == 0;
}

/* ----------------------------------------------------------------------------------------------- dump half */

static int parse(struct op *op, const struct fd_view *v, struct proc_fanotify *list)
{
	if (proc_parse_fanotify(op->arena, v->info.rest, v->info.rest_len, list) != 0)
		return file_refuse(op, v, "fanotify", NULL, "the kernel shows its marks in a way that is not known");
	for (size_t i = 0; i < list->v.n; i++) {
		if ((list->v.v[i].mask | list->v.v[i].ignored) & PERMISSIONS)
			return file_refuse(op, v, "fanotify", NULL, "it decides about the accesses of others: not supported");
		if (list->v.v[i].type == PROC_MARK_OTHER)
			return file_refuse(op, v, "fanotify", NULL, "it has a mark of a kind that is not supported yet");
	}
	return 0;
}

static int fanotify_check(struct op *op, const struct fd_view *v)
{
	struct proc_fanotify list;

	return parse(op, v, &list);
}

static int preflight_fd(struct op *op, pid_t pid, int fd)
{
	struct fd_view v = { .pid = pid, .fd = fd, .what = "fd", .copy = -1 };
	char name[32], *link;
	int r;

	snprintf(name, sizeof(name), "fd/%d", fd);
	r = proc_read_link(op, pid, name, &link);
	if (r)
		return r;
	v.link = link;
	r = fanotify_match(&v) ? proc_read_fdinfo(op, pid, fd, &v.info) : PROC_GONE;
	return r ? r : fanotify_check(op, &v);
}

static int preflight_task(struct op *op, pid_t pid)
{
	struct proc_numbers fds = { 0 };
	int r = proc_list_numbers(op, pid, "fd", &fds);

	for (size_t i = 0; r >= 0 && i < fds.v.n; i++)
		r = preflight_fd(op, pid, fds.v.v[i]);
	return MIN(r, 0);
}

int files_preflight(struct op *op, pid_t root)
{
	struct proc_numbers all = { 0 };
	int *first = ARRAY_ADD(op->arena, &all.v), r = 0;

	if (!first)
		return op_nomem(op);
	*first = root;
	for (size_t i = 0; !r && i < all.v.n; i++) {
		struct proc_numbers children = { 0 };

		r = preflight_task(op, all.v.v[i]);
		r = r ? r : MIN(proc_list_children(op, all.v.v[i], &children), 0);
		for (size_t j = 0; !r && j < children.v.n; j++) {
			int *slot = ARRAY_ADD(op->arena, &all.v);

			if (!slot)
				return op_nomem(op);
			*slot = children.v.v[j];
		}
	}
	return r;
}

static int mount_name(struct op *op, const struct fd_view *v, const struct proc_mark *p, char **ret)
{
	const char *path = watch_mount(op, v->pid, p->mnt_id, p->dev);

	if (!path)
		return file_refuse(op, v, "fanotify", NULL, "it watches a mount that the task does not see (%u, device %u:%u)",
				   p->mnt_id, p->dev >> 20, p->dev & 0xfffff);
	*ret = arena_strdup(op->arena, path);
	return *ret ? 0 : op_nomem(op);
}

static int dump_inode(struct op *op, struct snapshot *s, const struct fd_view *v, const struct proc_mark *p, FanotifyMarkEntry *m)
{
	const struct watch_what what = { .kind = "fanotify", .dev = p->dev, .ino = p->ino, .handle = &p->handle };

	m->type = MARK_TYPE__INODE;
	m->s_dev = p->dev;
	m->ie = msg_new(op, FanotifyInodeMarkEntry, fanotify_inode_mark_entry);
	if (!m->ie)
		return CKPT_E_NOMEM;
	m->ie->i_ino = p->ino;
	return watch_dump(op, s, v, &what, &m->ie->f_handle);
}

static int dump_mount(struct op *op, const struct fd_view *v, const struct proc_mark *p, FanotifyMarkEntry *m)
{
	m->type = MARK_TYPE__MOUNT;
	m->me = msg_new(op, FanotifyMountMarkEntry, fanotify_mount_mark_entry);
	if (!m->me)
		return CKPT_E_NOMEM;
	m->me->mnt_id = p->mnt_id;
	return mount_name(op, v, p, &m->me->path);
}

static int dump_mark(struct op *op, struct snapshot *s, const struct fd_view *v, const struct proc_mark *p, FanotifyFileEntry *out)
{
	FanotifyMarkEntry *m = msg_new(op, FanotifyMarkEntry, fanotify_mark_entry);

	if (!m)
		return CKPT_E_NOMEM;
	m->mflags = p->flags;
	m->mask = p->mask;
	m->ignored_mask = p->ignored;
	out->mark[out->n_mark++] = m;
	return p->type == PROC_MARK_INODE ? dump_inode(op, s, v, p, m) : dump_mount(op, v, p, m);
}

static int dump_filesystem(struct op *op, const struct fd_view *v, const struct proc_mark *p, FanotifyExtra *x)
{
	FanotifySbMark *m = msg_new(op, FanotifySbMark, fanotify_sb_mark);

	if (!m)
		return CKPT_E_NOMEM;
	m->mflags = p->flags;
	m->mask = p->mask;
	m->ignored_mask = p->ignored;
	x->marks[x->n_marks++] = m;
	return mount_name(op, v, p, &m->path);
}

static int dump_marks(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f, const struct proc_fanotify *list)
{
	FanotifyFileEntry *m = f->msg->ffy;
	FanotifyExtra *x = msg_new(op, FanotifyExtra, fanotify_extra);
	int r = 0;

	m->mark = op_alloc(op, (list->v.n + 1) * sizeof(*m->mark));
	if (x)
		x->marks = op_alloc(op, (list->v.n + 1) * sizeof(*x->marks));
	if (!x || !x->marks || !m->mark)
		return CKPT_E_NOMEM;
	x->file_id = f->id;
	for (size_t i = 0; !r && i < list->v.n; i++)
		r = list->v.v[i].type == PROC_MARK_FILESYSTEM ? dump_filesystem(op, v, &list->v.v[i], x)
							       : dump_mark(op, s, v, &list->v.v[i], m);
	f->priv = x->n_marks ? x : NULL;
	return r;
}

static int fanotify_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	FanotifyFileEntry *m = msg_new(op, FanotifyFileEntry, fanotify_file_entry);
	struct proc_fanotify list;
	int queued = 0, r;

	if (!m)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->ffy = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	r = parse(op, v, &list);
	if (r)
		return r;
	m->faflags = list.flags;
	m->evflags = list.event_flags;
	if (ioctl(v->copy, FIONREAD, &queued) == 0 && queued)
		log_warn(op, "task %d: fd %d: fanotify: events that were not read yet (%d bytes) are lost", v->pid, v->fd, queued);
	return dump_marks(op, s, v, f, &list);
}

static int fanotify_write(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];

		if (f->kind != &file_fanotify || !f->priv)
			continue;
		if (!s->extra->fanotifies)
			s->extra->fanotifies = op_alloc(op, s->files.n * sizeof(*s->extra->fanotifies));
		if (!s->extra->fanotifies)
			return CKPT_E_NOMEM;
		s->extra->fanotifies[s->extra->n_fanotifies++] = f->priv;
	}
	return 0;
}

/* -------------------------------------------------------------------------------------------- restore half */

static int fanotify_read(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_fanotifies; i++) {
		struct snap_file *f = snapshot_file(s, s->extra->fanotifies[i]->file_id);

		if (!f || f->kind != &file_fanotify)
			return image_bad(op, "ckpt-extra: file id %u is no fanotify descriptor", s->extra->fanotifies[i]->file_id);
		f->priv = s->extra->fanotifies[i];
	}
	return 0;
}

static int open_mark(struct op *op, const struct snapshot *s, const struct snap_file *f, const FanotifyMarkEntry *m, struct fanotify_target *t)
{
	*t = (struct fanotify_target){ .flags = m->mflags, .mask = m->mask, .ignored = m->ignored_mask, .fd = -1 };
	if (m->type == MARK_TYPE__INODE && m->ie) {
		t->type = FAN_MARK_INODE;
		t->name = m->ie->f_handle->path;
		return watch_open(op, s, "fanotify", f->id, m->s_dev, m->ie->f_handle, &t->fd);
	}
	if (m->type == MARK_TYPE__MOUNT && m->me && m->me->path) {
		t->type = FAN_MARK_MOUNT;
		t->name = m->me->path;
		return watch_open_path(op, mounts_view(s, (int32_t)m->me->mnt_id), "fanotify", f->id, m->me->path, &t->fd);
	}
	return image_bad(op, "files.img: fanotify id %u: a mark does not say what it is on", f->id);
}

static int open_sb_mark(struct op *op, const struct snapshot *s, const struct snap_file *f, const FanotifySbMark *m, struct fanotify_target *t)
{
	*t = (struct fanotify_target){
		.type = FAN_MARK_FILESYSTEM, .flags = m->mflags, .mask = m->mask, .ignored = m->ignored_mask, .name = m->path, .fd = -1,
	};
	return watch_open_path(op, mounts_view(s, -1), "fanotify", f->id, m->path, &t->fd);
}

static int open_targets(struct op *op, const struct snapshot *s, struct snap_file *f, const FanotifyExtra *x)
{
	const FanotifyFileEntry *m = f->msg->ffy;
	size_t n_sb = x ? x->n_marks : 0;
	struct fanotify_targets *t = op_new(op, struct fanotify_targets);
	int r = 0;

	if (t)
		t->v = op_alloc(op, (m->n_mark + n_sb + 1) * sizeof(*t->v));
	if (!t || !t->v)
		return CKPT_E_NOMEM;
	f->priv = t;
	for (size_t i = 0; !r && i < m->n_mark; i++)
		r = open_mark(op, s, f, m->mark[i], &t->v[t->n++]);
	for (size_t i = 0; !r && i < n_sb; i++)
		r = open_sb_mark(op, s, f, x->marks[i], &t->v[t->n++]);
	for (size_t i = 0; !r && i < t->n; i++)
		if ((t->v[i].mask | t->v[i].ignored) & PERMISSIONS)
			r = op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "fanotify"),
				    "files.img: fanotify id %u decides about the accesses of others: not supported", f->id);
	return r;
}

static int fanotify_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const FanotifyFileEntry *m = f->msg->ffy;
	const FanotifyExtra *x = f->priv;

	(void)s;
	f->priv = NULL;
	/* fdinfo goes on showing what it was made with. */
	f->fd = file_high(fanotify_init(m->faflags, m->evflags));
	if (f->fd < 0 || fcntl(f->fd, F_SETFD, FD_CLOEXEC) < 0 || file_set_flags(f->fd, m->flags) < 0)
		return op_errno(op, errno, AT(.kind = "fanotify"), "cannot create fanotify id %u", f->id);
	return open_targets(op, s, f, x);
}

static int set_mark(struct op *op, const struct snap_file *f, const struct fanotify_target *t)
{
	uint32_t flags = FAN_MARK_ADD | t->type | (t->flags & FAN_MARK_EVICTABLE);
	uint32_t ignore = t->flags & FAN_MARK_IGNORE ? FAN_MARK_IGNORE : FAN_MARK_IGNORED_MASK;
	int r = 0;

	if (t->mask)
		r = fanotify_mark(f->fd, flags, t->mask, AT_FDCWD, watch_name(t->fd).s);
	if (r == 0 && t->ignored)
		r = fanotify_mark(f->fd, flags | ignore | (t->flags & FAN_MARK_IGNORED_SURV_MODIFY), t->ignored, AT_FDCWD,
				  watch_name(t->fd).s);
	return r == 0 ? 0 : op_errno(op, errno, AT(.kind = "fanotify"), "fanotify id %u: cannot mark %s", f->id,
				     t->name ?: "a file known by its handle");
}

static int fanotify_settle(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const struct fanotify_targets *t = f->kind == &file_fanotify && f->fd >= 0 ? f->priv : NULL;

		/* The kernel shows the newest first. */
		for (size_t j = t ? t->n : 0; !r && j-- > 0;)
			r = set_mark(op, f, &t->v[j]);
	}
	return r;
}

static void fanotify_done(struct op *op, struct snapshot *s, bool success)
{
	(void)op;
	(void)success;
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		struct fanotify_targets *t = f->kind == &file_fanotify && f->fd >= 0 ? f->priv : NULL;

		for (size_t j = 0; t && j < t->n; j++) {
			close_fd_p(&t->v[j].fd);
			t->v[j].fd = -1;
		}
	}
}

const struct file_kind file_fanotify = {
	.name = "fanotify",
	.type = FD_TYPES__FANOTIFY,
	.message = offsetof(FileEntry, ffy),
	.match = fanotify_match,
	.check = fanotify_check,
	.dump = fanotify_dump,
	.complete = watch_complete,
	.write = fanotify_write,
	.read = fanotify_read,
	.open = fanotify_open,
	.settle = fanotify_settle,
	.done = fanotify_done,
};
