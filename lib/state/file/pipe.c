/* SPDX-License-Identifier: MIT */
/*
 * Ends of pipes. A pipe is known by its inode number. Each has at most one original description an end; others came from
 * opening /proc/PID/fd again, which the kernel marks with O_LARGEFILE. An end whose other side is outside of the tree comes
 * back with nobody at the other side, unless --inherit-fd fd[N]:pipe:[INO] brings one.
 */
#include "lib/state/file/core.h"

static bool pipe_match(const struct fd_view *v)
{
	return S_ISFIFO(v->st.st_mode) && strncmp(v->link, "pipe:[", 6) == 0;
}

static int pipe_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	PipeEntry *m = op_new(op, PipeEntry);

	if (!m)
		return CKPT_E_NOMEM;
	pipe_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	if (!m->fown)
		return CKPT_E_NOMEM;
	f->msg->pipe = m;
	return queue_dump(op, s, v, false, &m->pipe_id);
}

static int fail(struct op *op, const PipeEntry *m)
{
	return op_errno(op, errno, AT(.kind = "pipe"), "cannot open an end of pipe %u", m->pipe_id);
}

/* A descriptor from outside replaces all ends of its direction. Its flags are changed only on a description of our own. */
static int take_inherited(struct op *op, const PipeEntry *m, int *fd)
{
	const int own = O_NONBLOCK | O_APPEND | O_DIRECT | O_ASYNC;
	char key[32];
	int given, flags;

	snprintf(key, sizeof(key), "pipe:[%u]", m->pipe_id);
	given = inherit_find(op, key);
	if (given < 0)
		return IMG_ABSENT;
	flags = fcntl(given, F_GETFL);
	if (flags < 0)
		return fail(op, m);
	if ((flags & O_ACCMODE) != (int)(m->flags & O_ACCMODE))
		return IMG_ABSENT;
	*fd = -1;
	if ((flags & own) != ((int)m->flags & own))
		*fd = file_reopen(given, (int)m->flags & (O_ACCMODE | own));
	if (*fd < 0)
		*fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	*fd = file_high(*fd);
	return *fd < 0 ? fail(op, m) : 0;
}

/* The original end if it is still to be had, else the pipe opened again. */
static int take_end(struct queue_ends *e, uint32_t flags)
{
	bool reopened = flags & KFLAG_LARGEFILE;
	int mode = (int)flags & O_ACCMODE;

	if (!reopened && mode == O_RDONLY && !e->taken_r) {
		e->taken_r = true;
		return fcntl(e->r, F_DUPFD_CLOEXEC, 3);
	}
	if (!reopened && mode == O_WRONLY && !e->taken_w) {
		e->taken_w = true;
		return fcntl(e->w, F_DUPFD_CLOEXEC, 3);
	}
	return file_high(file_reopen(e->r, mode));
}

static int pipe_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const PipeEntry *m = f->msg->pipe;
	struct queue_ends *e;
	int r = take_inherited(op, m, &f->fd);

	if (r <= 0)
		return r;
	if ((m->flags & O_ACCMODE) == O_ACCMODE)
		return image_bad(op, "files.img: id %u: flags 0x%x of a pipe make no sense", f->id, m->flags);
	e = index_find(&s->file_state->ends, KEY(m->pipe_id, false));
	r = e ? 0 : queue_make(op, s, m->pipe_id, &e);
	if (r)
		return r;
	f->fd = take_end(e, m->flags);
	return f->fd < 0 || file_set_flags(f->fd, m->flags) < 0 ? fail(op, m) : 0;
}

const struct file_kind file_pipe = {
	.name = "pipe",
	.type = FD_TYPES__PIPE,
	.message = offsetof(FileEntry, pipe),
	.match = pipe_match,
	.dump = pipe_dump,
	.open = pipe_open,
};
