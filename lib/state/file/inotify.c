/* SPDX-License-Identifier: MIT */
/*
 * inotify: watches with their numbers. Events that nobody has read yet can be counted but not read from outside (reading
 * takes them away): they are lost, with a warning, as the format has it. Watches are set when everything else of the tree
 * is there, so that the restore itself makes no events.
 */
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include "lib/kernel/uapi.h"
#include "lib/state/file/watch.h"
#include "lib/state/msg.h"

/* What fdinfo shows beyond events, as it was asked for. IN_ONLYDIR and IN_DONT_FOLLOW have had their effect. */
#define MASK_KEPT (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)

/* Restore: what is watched, open, in ascending order of the numbers. */
struct inotify_targets {
	struct inotify_target {
		const InotifyWdEntry *m;
		int fd;
	} *v;
	size_t n;
};

static bool inotify_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:inotify") == 0 || strcmp(v->link, "anon_inode:[inotify]") == 0;
}

/* ----------------------------------------------------------------------------------------------- dump half */

static int dump_watch(struct op *op, struct snapshot *s, const struct fd_view *v, const struct proc_watch *w, InotifyWdEntry **ret)
{
	const struct watch_what what = { .kind = "inotify", .dev = w->dev, .ino = w->ino, .handle = &w->handle };
	InotifyWdEntry *m = msg_new(op, InotifyWdEntry, inotify_wd_entry);

	if (!m)
		return CKPT_E_NOMEM;
	m->i_ino = w->ino;
	m->mask = w->mask;
	m->s_dev = w->dev;
	m->wd = w->wd;
	*ret = m;
	return watch_dump(op, s, v, &what, &m->f_handle);
}

static int by_wd(const void *a, const void *b)
{
	uint32_t x = (*(InotifyWdEntry *const *)a)->wd, y = (*(InotifyWdEntry *const *)b)->wd;

	return (x > y) - (x < y);
}

static int dump_watches(struct op *op, struct snapshot *s, const struct fd_view *v, InotifyFileEntry *m)
{
	struct proc_inotify list;
	int r = 0;

	if (proc_parse_inotify(op->arena, v->info.rest, v->info.rest_len, &list) != 0)
		return file_refuse(op, v, "inotify", NULL, "the kernel shows its watches in a way that is not known");
	m->wd = op_alloc(op, (list.v.n + 1) * sizeof(*m->wd));
	if (!m->wd)
		return CKPT_E_NOMEM;
	m->n_wd = list.v.n;
	for (size_t i = 0; !r && i < list.v.n; i++)
		r = dump_watch(op, s, v, &list.v.v[i], &m->wd[i]);
	if (!r)
		qsort(m->wd, m->n_wd, sizeof(*m->wd), by_wd);
	return r;
}

static int inotify_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	InotifyFileEntry *m = msg_new(op, InotifyFileEntry, inotify_file_entry);
	int queued = 0;

	if (!m)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->ify = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	if (ioctl(v->copy, FIONREAD, &queued) == 0 && queued)
		log_warn(op, "task %d: fd %d: inotify: events that were not read yet (%d bytes) are lost", v->pid, v->fd, queued);
	return dump_watches(op, s, v, m);
}

/* -------------------------------------------------------------------------------------------- restore half */

static int open_targets(struct op *op, const struct snapshot *s, struct snap_file *f)
{
	const InotifyFileEntry *m = f->msg->ify;
	struct inotify_targets *t = op_new(op, struct inotify_targets);
	int r = 0;

	if (t)
		t->v = op_alloc(op, (m->n_wd + 1) * sizeof(*t->v));
	if (!t || !t->v)
		return CKPT_E_NOMEM;
	f->priv = t;
	qsort(m->wd, m->n_wd, sizeof(*m->wd), by_wd);
	for (size_t i = 0; !r && i < m->n_wd; i++) {
		const InotifyWdEntry *w = m->wd[i];

		if (!w->wd || w->wd > INT32_MAX || (i && w->wd == m->wd[i - 1]->wd) || !(w->mask & IN_ALL_EVENTS))
			return image_bad(op, "files.img: inotify id %u: watch %u makes no sense", f->id, w->wd);
		t->v[t->n] = (struct inotify_target){ .m = w, .fd = -1 };
		r = watch_open(op, s, "inotify", f->id, w->s_dev, w->f_handle, &t->v[t->n++].fd);
	}
	return r;
}

static int inotify_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	(void)s;
	f->fd = file_high(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
	if (f->fd < 0 || file_set_flags(f->fd, f->msg->ify->flags) < 0)
		return op_errno(op, errno, AT(.kind = "inotify", .hint = "fs.inotify.max_user_instances limits how many there are"),
				"cannot create inotify id %u", f->id);
	return open_targets(op, s, f);
}

static int add_watch(struct op *op, const struct snap_file *f, const struct inotify_target *t)
{
	int wd;

	/* Kernels without this ioctl count from 1, which may do. */
	if (ioctl(f->fd, INOTIFY_IOC_SETNEXTWD, t->m->wd) < 0)
		log_debug(op, "inotify id %u: cannot choose number %u: %s", f->id, t->m->wd, strerror(errno));
	wd = inotify_add_watch(f->fd, watch_name(t->fd).s, t->m->mask & MASK_KEPT);
	if (wd < 0)
		return op_errno(op, errno, AT(.kind = "inotify", .hint = "fs.inotify.max_user_watches limits how many there are"),
				"inotify id %u: cannot watch %s", f->id, t->m->f_handle->path ?: "a file known by its handle");
	if ((uint32_t)wd == t->m->wd)
		return 0;
	return op_fail(op, CKPT_E_KERNEL, AT(.kind = "inotify"), "inotify id %u: the watch of %s got number %d instead of %u", f->id,
		       t->m->f_handle->path ?: "a file known by its handle", wd, t->m->wd);
}

static int inotify_settle(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const struct inotify_targets *t = f->kind == &file_inotify && f->fd >= 0 ? f->priv : NULL;

		for (size_t j = 0; t && !r && j < t->n; j++)
			r = add_watch(op, f, &t->v[j]);
	}
	return r;
}

static void inotify_done(struct op *op, struct snapshot *s, bool success)
{
	(void)op;
	(void)success;
	for (size_t i = 0; i < s->files.n; i++) {
		struct inotify_targets *t = s->files.v[i]->kind == &file_inotify ? s->files.v[i]->priv : NULL;

		for (size_t j = 0; t && j < t->n; j++) {
			close_fd_p(&t->v[j].fd);
			t->v[j].fd = -1;
		}
	}
}

const struct file_kind file_inotify = {
	.name = "inotify",
	.type = FD_TYPES__INOTIFY,
	.message = offsetof(FileEntry, ify),
	.match = inotify_match,
	.dump = inotify_dump,
	.complete = watch_complete,
	.open = inotify_open,
	.settle = inotify_settle,
	.done = inotify_done,
};
