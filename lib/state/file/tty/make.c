/* SPDX-License-Identifier: MIT */
/*
 * Restore: pseudo terminals are made again, each under its number, for programs know the names of their terminals (utmp,
 * $SSH_TTY, ps). The kernel gives the lowest number that is free, so masters are opened until the right one comes.
 * Everything is done before any task exists: no signal reaches anybody.
 */
#include "lib/state/file/tty/tty.h"

#define PTMX "/dev/ptmx"
#define PTS "/pts/"
#define OPEN_FLAGS (O_ACCMODE | O_NONBLOCK | O_APPEND | O_SYNC | (int)KFLAG_LARGEFILE)

/* Masters below the number that is wanted, held until all numbers were given. */
struct blockers {
	ARRAY(int) v;
};

static int fail(struct op *op, const struct terminal *t, const char *what)
{
	return op_errno(op, errno, AT(.kind = "pty"), "pseudo terminal %u: cannot %s", t->index, what);
}

/* ------------------------------------------------------------------------------------------------------ numbers */

static struct snap_file *file_of_info(const struct snapshot *s, uint32_t info_id)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const FileEntry *m = s->files.v[i]->msg;

		if (m->type == FD_TYPES__TTY && m->tty && m->tty->tty_info_id == info_id)
			return s->files.v[i];
	}
	return NULL;
}

static const RegFileEntry *name_of(const struct snapshot *s, const struct snap_file *f)
{
	const struct snap_file *reg = f && f->msg->tty->has_regf_id ? snapshot_file(s, f->msg->tty->regf_id) : NULL;

	return reg ? reg->msg->reg : NULL;
}

/* The name comes from an image: it must be what it should be before it is opened. */
static int open_ptmx(struct op *op, const struct terminal *t, const struct fs_view *view, const char *path, int flags, int *fd)
{
	struct stat st;

	if (view_stat(view, path, &st) < 0)
		return op_errno(op, errno, AT(.kind = "pty"), "pseudo terminal %u: %s", t->index, path);
	if (!S_ISCHR(st.st_mode) || st.st_rdev != RDEV_PTMX)
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "pty"), "pseudo terminal %u: %s does not make pseudo terminals",
			       t->index, path);
	*fd = file_high(view_open(view, path, flags | O_NOCTTY | O_CLOEXEC, 0));
	if (*fd < 0 && errno == ENOSPC)
		return op_errno(op, errno, AT(.kind = "pty", .hint = "raise kernel.pty.max"), "pseudo terminal %u: %s", t->index,
				path);
	return *fd < 0 ? op_errno(op, errno, AT(.kind = "pty"), "pseudo terminal %u: %s", t->index, path) : 0;
}

/* What makes terminals in the devpts that the slave @name is in. */
static const char *ptmx_beside(struct op *op, const RegFileEntry *name)
{
	const char *last = name ? strrchr(name->name, '/') : NULL;
	size_t n = last ? (size_t)(last + 1 - name->name) : 0;
	const char *path;

	if (n < strlen(PTS) || strncmp(name->name + n - strlen(PTS), PTS, strlen(PTS)) != 0)
		return PTMX;
	path = arena_printf(op->arena, "%.*sptmx", (int)n, name->name);
	return path ? path : PTMX;
}

static int allocate(struct op *op, struct snapshot *s, struct terminal *t, struct blockers *blockers)
{
	const struct snap_file *f = t->master ? file_of_info(s, t->master->id) : NULL;
	const RegFileEntry *name = t->orphan ? name_of(s, file_of_info(s, t->slave->id)) : name_of(s, f);
	const struct fs_view *view = name ? reg_view(s, name) : mounts_view(s, -1);
	const char *path = t->orphan ? ptmx_beside(op, name) : name ? name->name : PTMX;
	int flags = f ? (int)f->msg->tty->flags & O_ACCMODE : O_RDWR;

	/* It was needed before, for a mount of its file. */
	if (!t->hung_up && name && name->has_mnt_id)
		t->master_fd = mounts_pty(s, name->mnt_id, t->index);
	if (t->master_fd >= 0)
		return 0;

	for (;;) {
		unsigned got = 0;
		int fd = -1, *slot, r = open_ptmx(op, t, view, path, flags, &fd);

		if (r)
			return r;
		t->master_fd = fd;
		if (ioctl(fd, TIOCGPTN, &got) < 0)
			return fail(op, t, "ask for its number");
		if (got == t->index)
			return 0;
		/* Nobody can open it, whatever its number. */
		if (got > t->index && t->hung_up)
			return 0;
		if (got > t->index)
			return op_fail(op, CKPT_E_EXISTS,
				       AT(.kind = "pty", .hint = "close that terminal, or restore where /dev/pts is another one"),
				       "pseudo terminal %u (/dev/pts/%u) is in use by somebody else", t->index, t->index);
		slot = ARRAY_ADD(op->arena, &blockers->v);
		if (!slot)
			return op_nomem(op);
		*slot = TAKE_FD(t->master_fd);
	}
}

/* ---------------------------------------------------------------------------------------------------- contents */

static void queue_from(const TtyDataEntry *m, struct tty_queue *q)
{
	q->n = m ? (uint32_t)m->data.len : 0;
	if (q->n)
		memcpy(q->bytes, m->data.data, q->n);
	memset(q->marks, TTY_PLAIN, q->n);
}

static void input_from(const struct terminal *t, struct tty_queue *q)
{
	queue_from(t->input, q);
	if (t->extra) {
		for (size_t i = 0; i < t->extra->n_line_ends; i++)
			q->marks[t->extra->line_ends[i]] = TTY_END;
		for (size_t i = 0; i < t->extra->n_eofs; i++)
			q->marks[t->extra->eofs[i]] = TTY_EOF;
		return;
	}
	for (uint32_t i = 0; i < q->n; i++)
		if (q->bytes[i] == '\n')
			q->marks[i] = TTY_END;
}

/* @q: room for two. */
static int fill(struct op *op, const struct terminal *t, const struct termios2 *final, struct tty_queue *q)
{
	bool stopped = t->extra && t->extra->stopped;
	const char *step = "";
	int err;

	input_from(t, &q[0]);
	queue_from(t->output, &q[1]);
	err = tty_queues_put(t->master_fd, t->slave_fd, final, &q[0], &q[1], stopped, &step);
	if (err == EPERM || err == EIO)
		return op_errno(op, err, AT(.kind = "pty", .hint = "this needs CAP_SYS_ADMIN"), "pseudo terminal %u: cannot %s",
				t->index, step);
	return err ? op_errno(op, err, AT(.kind = "pty"), "pseudo terminal %u: cannot %s", t->index, step) : 0;
}

static int set_owner(struct op *op, const struct snapshot *s, const struct terminal *t)
{
	const TtyInfoEntry *info = t->slave ? t->slave : t->master;
	const RegFileEntry *name = t->slave ? name_of(s, file_of_info(s, t->slave->id)) : NULL;
	_cleanup_close_ int node = ioctl(t->master_fd, TIOCGPTPEER, O_PATH | O_CLOEXEC);
	bool has_mode = name ? name->has_mode : t->extra && t->extra->has_mode;
	mode_t mode = has_mode ? (name ? name->mode : t->extra->mode) & 07777 : 0;
	char path[64];

	if (node < 0)
		return fail(op, t, "find its slave");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", node);
	if (info->has_uid && info->has_gid && chown(path, ns_uid_outside(s, info->uid), ns_gid_outside(s, info->gid)) < 0)
		return fail(op, t, "set the owner of its slave");
	if (has_mode && chmod(path, mode) < 0)
		return fail(op, t, "set the mode of its slave");
	return 0;
}

/* O_CLOEXEC would stay among the flags of the description. */
static int open_peer(const struct terminal *t, int flags)
{
	int fd = file_high(ioctl(t->master_fd, TIOCGPTPEER, flags | O_NOCTTY));

	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

/* A slave that nobody has opened yet must not be opened by us: its master would see it close. */
static int open_slave(struct op *op, struct terminal *t)
{
	int off = 0;

	if (ioctl(t->master_fd, TIOCSPTLCK, &off) < 0)
		return fail(op, t, "unlock it");
	if (!t->slave && !t->master->sid && !(t->extra && t->extra->slave_closed))
		return t->input ? image_bad(op, "tty-data.img: terminal %u has input, and no slave", t->index) : 0;
	t->slave_fd = open_peer(t, O_RDWR);
	return t->slave_fd < 0 ? fail(op, t, "open its slave") : 0;
}

static int prepare(struct op *op, struct snapshot *s, struct terminal *t, struct tty_queue *q)
{
	const TtyInfoEntry *info = t->slave && t->slave->termios ? t->slave : t->master;
	struct termios2 final, locks;
	struct winsize size;
	int r = open_slave(op, t);

	r = r ? r : set_owner(op, s, t);
	if (r || t->hung_up)
		return r;
	termios_from(info->termios, &final);
	termios_from(info->termios_locked, &locks);
	size = (struct winsize){ .ws_row = (unsigned short)info->winsize->ws_row, .ws_col = (unsigned short)info->winsize->ws_col,
				 .ws_xpixel = (unsigned short)info->winsize->ws_xpixel,
				 .ws_ypixel = (unsigned short)info->winsize->ws_ypixel };
	/* Through the master the slave's are meant. */
	if (tty_set(t->master_fd, &final) < 0 || ioctl(t->master_fd, TIOCSWINSZ, &size) < 0)
		return fail(op, t, "set its attributes");
	r = fill(op, t, &final, q);
	if (!r && memcmp(&locks, &(const struct termios2){ 0 }, sizeof(locks)) && tty_set_locks(t->master_fd, &locks) < 0)
		r = fail(op, t, "lock its attributes");
	return r;
}

/* ------------------------------------------------------------------------------------------------- descriptions */

static int take_master(struct op *op, struct terminal *t, struct snap_file *f)
{
	if (t->master_given)
		return image_bad(op, "files.img: id %u: a master has one description, this is a second one", f->id);
	t->master_given = true;
	f->fd = fcntl(t->master_fd, F_DUPFD_CLOEXEC, 3);
	return f->fd < 0 ? fail(op, t, "copy its master") : 0;
}

/*
 * By the name that it has in the image, if that is another one and leads to the terminal (a bind mount); in mounts of the tree's
 * own always: the master may come from before they were put together.
 */
static int open_by_name(const struct snapshot *s, const struct terminal *t, const struct snap_file *f, int flags)
{
	const RegFileEntry *name = name_of(s, f);
	struct stat ours, theirs;
	char usual[32];

	snprintf(usual, sizeof(usual), "/dev/pts/%u", t->index);
	if (t->hung_up || !name || (!mounts_own(s) && strcmp(name->name, usual) == 0) || fstat(t->slave_fd, &ours) < 0 ||
	    view_stat(reg_view(s, name), name->name, &theirs) < 0 || ours.st_rdev != theirs.st_rdev || ours.st_dev != theirs.st_dev)
		return -1;
	return view_open(reg_view(s, name), name->name, flags, 0);
}

int pty_open_slave(struct op *op, const struct snapshot *s, const struct terminal *t, struct snap_file *f)
{
	int flags = (int)f->msg->tty->flags & OPEN_FLAGS;

	f->fd = file_high(open_by_name(s, t, f, flags | O_NOCTTY | O_CLOEXEC));
	if (f->fd < 0)
		f->fd = open_peer(t, flags);
	if (f->fd < 0)
		return fail(op, t, "open its slave");
	return 0;
}

static int open_description(struct op *op, struct snapshot *s, struct terminal *t, struct snap_file *f)
{
	uint32_t id = f->msg->tty->tty_info_id;
	int r = id & 1 ? take_master(op, t, f) : pty_open_slave(op, s, t, f);

	if (!r && file_set_flags(f->fd, f->msg->tty->flags) < 0)
		r = fail(op, t, "set the flags of a descriptor");
	return r;
}

static int open_descriptions(struct op *op, struct snapshot *s, struct terminal *t)
{
	int r = 0;

	for (size_t i = 0; i < s->files.n && !r; i++) {
		struct snap_file *f = s->files.v[i];

		if (f->msg->type == FD_TYPES__TTY && f->msg->tty->tty_info_id >> 1 == t->index)
			r = open_description(op, s, t, f);
	}
	return r;
}

/* What would have been in our way so far. */
static int finish(struct op *op, struct terminal *t)
{
	int one = 1;

	if (t->hung_up) {
		close_fd_p(&t->master_fd);
		t->master_fd = -1;
		return 0;
	}
	if (t->extra && t->extra->slave_closed) {
		close_fd_p(&t->slave_fd);
		t->slave_fd = -1;
	}
	if (!t->master)
		return t->slave->exclusive && ioctl(t->slave_fd, TIOCEXCL) < 0 ? fail(op, t, "set its modes") : 0;
	if ((t->master->packet_mode && ioctl(t->master_fd, TIOCPKT, &one) < 0) ||
	    (t->master->exclusive && ioctl(t->master_fd, TIOCEXCL) < 0) ||
	    (t->slave && t->slave->exclusive && ioctl(t->slave_fd, TIOCEXCL) < 0) ||
	    (t->master->locked && ioctl(t->master_fd, TIOCSPTLCK, &one) < 0))
		return fail(op, t, "set its modes");
	return 0;
}

static int by_index(const void *a, const void *b)
{
	const struct terminal *x = *(struct terminal *const *)a, *y = *(struct terminal *const *)b;

	return x->index < y->index ? -1 : x->index > y->index;
}

/* Ascending, so that what is free below a number is never the number of a later one. */
static int allocate_all(struct op *op, struct snapshot *s, bool hung_up)
{
	struct tty_state *ts = s->file_state->tty;
	struct blockers blockers = { 0 };
	int r = 0;

	for (size_t i = 0; i < ts->all.n && !r; i++) {
		struct terminal *t = ts->all.v[i];

		if (hung_up ? t->hung_up : terminal_session(t) && !t->hung_up)
			r = allocate(op, s, t, &blockers);
	}
	for (size_t i = 0; i < blockers.v.n; i++)
		close(blockers.v.v[i]);
	return r;
}

/* One without a master, in a devpts of the tree's own. */
static bool is_orphan(const struct op *op, const struct snapshot *s, const struct terminal *t)
{
	const RegFileEntry *name = t->master || t->hung_up || !t->slave || !t->slave->termios ? NULL : name_of(s, file_of_info(s, t->slave->id));

	return name && op->opts->orphan_pts_master && mounts_own(s) && name->has_mnt_id && name->mnt_id >= 0;
}

/* From now on it is the caller's; ours is closed in the end. */
static int give_master(struct op *op, const struct snapshot *s, const struct terminal *t)
{
	const struct snap_ns *ns = ns_own(s, NS_MNT);

	return op_event(op, CKPT_EVENT_ORPHAN_PTS_MASTER, ns ? ns->host : 0, t->master_fd);
}

int ptys_make(struct op *op, struct snapshot *s)
{
	struct tty_state *ts = s->file_state->tty;
	struct tty_queue *q;
	int r;

	if (ts->made || !ts->all.n)
		return 0;
	ts->made = true;
	q = op_alloc(op, 2 * sizeof(*q));
	if (!q)
		return CKPT_E_NOMEM;
	qsort(ts->all.v, ts->all.n, sizeof(*ts->all.v), by_index);
	for (size_t i = 0; i < ts->all.n; i++)
		ts->all.v[i]->orphan = is_orphan(op, s, ts->all.v[i]);
	/* Those that need their number first. */
	r = allocate_all(op, s, false);
	r = r ? r : allocate_all(op, s, true);
	for (size_t i = 0; i < ts->all.n && !r; i++) {
		struct terminal *t = ts->all.v[i];

		if (t->master_fd < 0)
			continue;
		r = prepare(op, s, t, q);
		r = r ? r : open_descriptions(op, s, t);
		r = r ? r : finish(op, t);
		r = r || !t->orphan ? r : give_master(op, s, t);
	}
	return r;
}
