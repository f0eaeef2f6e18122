/* SPDX-License-Identifier: MIT */
/*
 * The kind: descriptors that are terminals. Pseudo terminals whose master is in the tree are saved whole (pair.c). Others
 * belong to somebody outside: the one a program was started from (--shell-job: at restore the caller's own takes its
 * place), or one that --external names (at restore --inherit-fd gives it). The system console is opened again by its name.
 */
#include "lib/state/file/tty/tty.h"
#include "lib/state/pids.h"

struct tty_state *tty_state(struct op *op, struct snapshot *s)
{
	struct file_state *fs = files_state(op, s);

	if (!fs || fs->tty)
		return fs ? fs->tty : NULL;
	fs->tty = op_new(op, struct tty_state);
	if (fs->tty)
		fs->tty->own = -1;
	return fs->tty;
}

bool is_pty_slave(dev_t rdev)
{
	return major(rdev) >= 136 && major(rdev) <= 143;
}

unsigned pty_number(dev_t rdev)
{
	return (major(rdev) - 136) * 256 + minor(rdev);
}

static bool tty_match(const struct fd_view *v)
{
	dev_t rdev = v->st.st_rdev;

	if (!S_ISCHR(v->st.st_mode) || (v->info.flags & O_PATH))
		return false;
	return is_pty_slave(rdev) || major(rdev) == 4 || rdev == RDEV_TTY || rdev == RDEV_CONSOLE || rdev == RDEV_PTMX;
}

char *tty_key(struct op *op, uint64_t rdev, uint64_t dev)
{
	return arena_printf(op->arena, "tty[%lx:%lx]", (unsigned long)rdev, (unsigned long)dev);
}

static bool is_external(struct op *op, const struct fd_view *v)
{
	const char *key = op->opts->external.n ? tty_key(op, v->st.st_rdev, v->st.st_dev) : NULL;

	return key && external_wanted(op, key);
}

/* ---------------------------------------------------------------------------------------------- what is refused */

static int check_device(struct op *op, const struct fd_view *v)
{
	const char *hint = "name it with --external %s, and give another one at restore with --inherit-fd";
	dev_t rdev = v->st.st_rdev;
	bool virtual = minor(rdev) < 64;

	if (major(rdev) != 4)
		return 0;
	hint = arena_printf(op->arena, hint, tty_key(op, rdev, v->st.st_dev));
	return file_refuse(op, v, virtual ? "virtual console" : "serial line", hint,
			   virtual ? "%s: screen, keyboard mode and font are the kernel's: not supported"
				   : "%s: the state of the line is its driver's: not supported",
			   v->link);
}

int tty_refuse_outside(struct op *op, const struct fd_view *v)
{
	return file_refuse(op, v, "terminal",
			   "use --shell-job (-j) if the program runs in a shell, also at restore; or detach it first",
			   "%s belongs to somebody outside of the tree", v->link);
}

static int check_number(struct op *op, const struct fd_view *v, unsigned index)
{
	if (index <= PTY_INDEX_MAX)
		return 0;
	return file_refuse(op, v, "terminal", NULL, "%s: the format knows pty numbers up to %u only, this is %u", v->link,
			   PTY_INDEX_MAX, index);
}

static bool is_master(struct op *op, pid_t pid, int fd, unsigned index)
{
	struct proc_fdinfo info;
	char name[32], *link;
	const char *at;

	snprintf(name, sizeof(name), "fd/%d", fd);
	if (proc_read_link(op, pid, name, &link) != 0 || !strstr(link, "ptmx") || proc_read_fdinfo(op, pid, fd, &info) != 0)
		return false;
	at = info.rest ? memmem(info.rest, info.rest_len, "tty-index:", 10) : NULL;
	return at && strtoul(at + 10, NULL, 10) == index;
}

/* Whether process @pid or one below it has the master @index open. */
static bool has_master(struct op *op, pid_t pid, unsigned index, unsigned depth)
{
	struct proc_numbers fds, children;
	bool found = false;

	if (proc_list_numbers(op, pid, "fd", &fds) != 0)
		return false;
	for (size_t i = 0; i < fds.v.n && !found; i++)
		found = is_master(op, pid, fds.v.v[i], index);
	if (found || depth > 64 || proc_list_children(op, pid, &children) != 0)
		return found;
	for (size_t i = 0; i < children.v.n && !found; i++)
		found = has_master(op, children.v.v[i], index, depth + 1);
	return found;
}

/* The tree runs: what can be said without a copy of the descriptor. */
static int tty_check(struct op *op, const struct fd_view *v)
{
	dev_t rdev = v->st.st_rdev;
	size_t n = strlen(v->link);
	int r;

	if (is_external(op, v))
		return 0;
	r = check_device(op, v);
	if (r || !is_pty_slave(rdev) || op->opts->shell_job)
		return r;
	if (n > 10 && strcmp(v->link + n - 10, " (deleted)") == 0)
		return 0;
	r = check_number(op, v, pty_number(rdev));
	if (r || has_master(op, op->root > 0 ? op->root : v->pid, pty_number(rdev), 0))
		return r;
	op_forget(op);
	return tty_refuse_outside(op, v);
}

static int check_discipline(struct op *op, const struct fd_view *v)
{
	int discipline = 0;

	if (ioctl(v->copy, TIOCGETD, &discipline) < 0 || discipline == 0)
		return 0;
	return file_refuse(op, v, "terminal", NULL, "%s has line discipline %d: not supported", v->link, discipline);
}

/* ------------------------------------------------------------------------------------------------------- dump */

/* The name in files.img; that of a slave whose master is gone leads nowhere any more. */
static int dump_name(struct op *op, struct snapshot *s, const struct fd_view *v, bool hung_up, uint32_t *id)
{
	size_t n = strlen(v->link), tail = sizeof(" (deleted)") - 1;
	struct snap_file *f;
	RegFileEntry *m;

	/* What --shell-job replaces, or --external names, may be anywhere. */
	if (!hung_up && !v->astray) {
		int r = reg_dump_ref(op, s, v, id);

		if (!r)
			snapshot_file(s, *id)->msg->reg->pos = 0; /* there is none; the format says so like this */
		return r;
	}
	f = file_new(op, s, &file_reg);
	m = f ? op_new(op, RegFileEntry) : NULL;
	if (!m)
		return CKPT_E_NOMEM;
	reg_file_entry__init(m);
	m->id = *id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	m->name = arena_strndup(op->arena, v->link, hung_up && n > tail ? n - tail : n);
	m->has_mode = true;
	m->mode = v->st.st_mode;
	f->msg->reg = m;
	return m->fown && m->name ? 0 : op_nomem(op);
}

static TtyInfoEntry *info_of_device(const struct snapshot *s, const struct fd_view *v)
{
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->rdev == (uint32_t)v->st.st_rdev && s->ttys.v[i]->dev == (uint32_t)v->st.st_dev &&
		    s->ttys.v[i]->type != TTY_TYPE__PTY)
			return s->ttys.v[i];
	return NULL;
}

/* Of somebody outside: session and foreground group show only in a task whose controlling terminal it is. */
static int read_session(struct op *op, const struct fd_view *v, TtyInfoEntry *m)
{
	struct proc_stat stat;
	int r = proc_read_stat(op, v->pid, &stat);

	if (r < 0)
		return r;
	if (r == 0 && ((dev_t)stat.tty_nr == v->st.st_rdev || v->st.st_rdev == RDEV_TTY) && stat.tty_nr) {
		m->sid = (uint32_t)pids_inside(v->pids, stat.session);
		m->pgrp = stat.tpgid > 0 ? (uint32_t)pids_inside(v->pids, stat.tpgid) : 0;
	}
	return 0;
}

/* One that is neither end of a pseudo terminal. */
static int dump_device(struct op *op, struct snapshot *s, const struct fd_view *v, TtyType type, TtyInfoEntry **info)
{
	uint32_t index = type == TTY_TYPE__CONSOLE ? INDEX_CONSOLE : type == TTY_TYPE__CTTY ? INDEX_CTTY : INDEX_EXTERNAL;
	int r;

	*info = info_of_device(s, v);
	if (*info)
		return 0;
	if (type == TTY_TYPE__EXT_TTY)
		index += (uint32_t)s->ttys.n;
	*info = info_new(op, s, v, index << 1, type);
	if (!*info)
		return CKPT_E_NOMEM;
	r = read_session(op, v, *info);
	r = r ? r : info_read(op, v, *info);
	return r == IMG_ABSENT ? file_refuse(op, v, "terminal", NULL, "%s was hung up: not supported", v->link) : r;
}

/* The kernel's encoding in 32 bits. */
static dev_t decode_dev(unsigned d)
{
	return makedev((d & 0xfff00) >> 8, (d & 0xff) | (d >> 12 & 0xfff00));
}

/* Which pseudo terminal is behind /dev/tty is said when all of them are known. */
static int note_ctty(struct op *op, struct tty_state *ts, const struct fd_view *v, struct snap_file *f)
{
	struct ctty_file *c = ARRAY_ADD(op->arena, &ts->cttys);
	unsigned rdev = 0;

	if (!c)
		return op_nomem(op);
	*c = (struct ctty_file){ .file = f, .where = *v, .async = -1 };
	c->where.copy = -1;
	if ((v->info.flags & O_ASYNC) && (c->async = fcntl(v->copy, F_DUPFD_CLOEXEC, 3)) < 0)
		return file_errno(op, v, "keep a copy of it");
	if (ioctl(v->copy, TIOCGDEV, &rdev) < 0)
		return errno == EIO ? file_refuse(op, v, "terminal", NULL, "%s was hung up: not supported", v->link)
				    : file_errno(op, v, "find out which terminal it is");
	c->pty = is_pty_slave(decode_dev(rdev));
	c->index = pty_number(decode_dev(rdev));
	return 0;
}

static int keep_async(struct op *op, const struct fd_view *v, struct terminal *t)
{
	int *slot = v->info.flags & O_ASYNC ? ARRAY_ADD(op->arena, &t->async) : NULL;

	if (!(v->info.flags & O_ASYNC))
		return 0;
	if (!slot)
		return op_nomem(op);
	*slot = fcntl(v->copy, F_DUPFD_CLOEXEC, 3);
	return *slot < 0 ? file_errno(op, v, "keep a copy of it") : 0;
}

static int dump_master(struct op *op, struct snapshot *s, const struct fd_view *v, TtyInfoEntry **info)
{
	/* With O_PATH the slave's node is named, and the slave not opened, which would be noticed. */
	_cleanup_close_ int node = ioctl(v->copy, TIOCGPTPEER, O_PATH | O_CLOEXEC);
	struct terminal *t;
	unsigned index = 0;
	struct stat st;
	int r;

	if (node < 0 || fstat(node, &st) < 0 || ioctl(v->copy, TIOCGPTN, &index) < 0)
		return file_errno(op, v, "find the slave of the pseudo terminal");
	r = check_number(op, v, index);
	t = r ? NULL : terminal_of(op, s->file_state->tty, index, st.st_dev);
	if (!t)
		return r ? r : CKPT_E_NOMEM;
	if (t->master)
		return file_refuse(op, v, "pty master", NULL, "two masters have number %u, in two instances of devpts", index);
	t->where = *v;
	t->where.copy = -1;
	*info = t->master = info_new(op, s, v, index << 1 | 1, TTY_TYPE__PTY);
	if (!*info)
		return CKPT_E_NOMEM;
	(*info)->uid = ns_uid_inside(s, st.st_uid);
	(*info)->gid = ns_gid_inside(s, st.st_gid);
	t->slave_mode = st.st_mode & 07777;
	t->master_fd = fcntl(v->copy, F_DUPFD_CLOEXEC, 3);
	if (t->master_fd < 0)
		return file_errno(op, v, "keep a copy of it");
	r = keep_async(op, v, t);
	return r ? r : info_read(op, v, *info);
}

static int dump_slave(struct op *op, struct snapshot *s, const struct fd_view *v, TtyInfoEntry **info)
{
	unsigned index = pty_number(v->st.st_rdev);
	struct terminal *t;
	bool hung_up;
	int r = check_number(op, v, index);

	t = r ? NULL : terminal_of(op, s->file_state->tty, index, v->st.st_dev);
	if (!t)
		return r ? r : CKPT_E_NOMEM;
	if (!t->slave) {
		t->slave = info_new(op, s, v, index << 1, TTY_TYPE__PTY);
		r = t->slave ? info_read(op, v, t->slave) : CKPT_E_NOMEM;
		t->hung_up = r == IMG_ABSENT;
		if (!t->master)
			t->where = *v;
		t->where.copy = -1;
	}
	*info = t->slave;
	if (r < 0)
		return r;
	hung_up = ioctl(v->copy, TIOCGWINSZ, &(struct winsize){ 0 }) < 0;
	if (hung_up != t->hung_up || (hung_up && v->st.st_nlink))
		return file_refuse(op, v, "terminal", NULL, "%s was hung up and lives on (vhangup): not supported", v->link);
	return hung_up ? 0 : keep_async(op, v, t);
}

static int dump_info(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f, TtyInfoEntry **info)
{
	struct tty_state *ts = tty_state(op, s);
	dev_t rdev = v->st.st_rdev;
	int r;

	if (!ts)
		return CKPT_E_NOMEM;
	if (is_external(op, v))
		return dump_device(op, s, v, TTY_TYPE__EXT_TTY, info);
	r = check_device(op, v);
	r = r ? r : check_discipline(op, v);
	if (r)
		return r;
	if (rdev == RDEV_PTMX)
		return dump_master(op, s, v, info);
	if (is_pty_slave(rdev))
		return dump_slave(op, s, v, info);
	if (rdev == RDEV_TTY)
		r = note_ctty(op, ts, v, f);
	return r ? r : dump_device(op, s, v, rdev == RDEV_TTY ? TTY_TYPE__CTTY : TTY_TYPE__CONSOLE, info);
}

static int tty_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	TtyFileEntry *m = op_new(op, TtyFileEntry);
	TtyInfoEntry *info = NULL;
	int r = m ? dump_info(op, s, v, f, &info) : CKPT_E_NOMEM;

	if (r)
		return r;
	tty_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	m->tty_info_id = info->id;
	m->has_regf_id = true;
	f->msg->tty = m;
	return m->fown ? dump_name(op, s, v, !info->termios, &m->regf_id) : CKPT_E_NOMEM;
}

/* ---------------------------------------------------------------------------------------------------- restore */

static int open_device(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const TtyFileEntry *m = f->msg->tty;
	struct snap_file *reg = m->has_regf_id ? snapshot_file(s, m->regf_id) : NULL;

	if (!reg || !reg->msg->reg)
		return image_bad(op, "files.img: terminal id %u has no entry for its name", f->id);
	return reg_open_as(op, s, reg, &(const struct reg_how){ .flags = m->flags | O_NOCTTY, .special = S_IFCHR }, &f->fd);
}

static int open_given(struct op *op, struct snap_file *f, const TtyInfoEntry *info)
{
	char *key = tty_key(op, info->rdev, info->dev);
	int given = key ? inherit_find(op, key) : -1;

	if (given < 0)
		return IMG_ABSENT;
	f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	return f->fd < 0 ? op_errno(op, errno, AT(.kind = "terminal"), "file id %u: cannot take the terminal", f->id) : 0;
}

static int open_pty(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info)
{
	const struct terminal *t;
	int r = ptys_make(op, s);

	if (r || f->fd >= 0)
		return r;
	t = terminal_of_info(s->file_state->tty, info->id);
	if (t && (t->master || t->hung_up))
		return image_bad(op, "files.img: id %u: its terminal was not made", f->id);
	return open_own(op, s, f, info);
}

static int tty_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const TtyFileEntry *m = f->msg->tty;
	const TtyInfoEntry *info = info_by_id(s, m->tty_info_id);
	int r;

	if (!info)
		return image_bad(op, "files.img: terminal id %u: no entry %u in tty-info.img", f->id, m->tty_info_id);
	r = open_given(op, f, info);
	if (r <= 0)
		return r;
	switch (info->type) {
	case TTY_TYPE__EXT_TTY:
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "terminal", .hint = "give it with --inherit-fd fd[N]:tty[RDEV:DEV]"),
			       "the checkpoint needs terminal tty[%x:%x] from outside", info->rdev, info->dev);
	case TTY_TYPE__PTY:
		return open_pty(op, s, f, info);
	case TTY_TYPE__CTTY:
		return ctty_open(op, s, f, info);
	case TTY_TYPE__CONSOLE:
	case TTY_TYPE__VT:
	case TTY_TYPE__SERIAL:
		return open_device(op, s, f);
	default:
		return image_bad(op, "tty-info.img: terminal %u is of an unknown type", info->id);
	}
}

static void tty_done(struct op *op, struct snapshot *s, bool success)
{
	struct tty_state *ts = s->file_state->tty;

	(void)op;
	if (!ts)
		return;
	for (size_t i = 0; i < ts->all.n; i++) {
		struct terminal *t = ts->all.v[i];

		close_fd_p(&t->master_fd);
		close_fd_p(&t->slave_fd);
		for (size_t k = 0; k < t->async.n; k++)
			close_fd_p(&t->async.v[k]);
		t->master_fd = t->slave_fd = -1;
		t->async.n = 0;
	}
	for (size_t i = 0; i < ts->cttys.n; i++) {
		close_fd_p(&ts->cttys.v[i].async);
		ts->cttys.v[i].async = -1;
	}
	own_done(ts, success);
}

const struct file_kind file_tty = {
	.name = "tty",
	.type = FD_TYPES__TTY,
	.message = offsetof(FileEntry, tty),
	.match = tty_match,
	.check = tty_check,
	.dump = tty_dump,
	.complete = tty_complete,
	.write = tty_write,
	.read = tty_read,
	.open = tty_open,
	.plan = tty_plan,
	.done = tty_done,
};
