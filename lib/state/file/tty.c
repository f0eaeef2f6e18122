/* SPDX-License-Identifier: MIT */
/*
 * Terminals. What is saved is a terminal that lives outside of the tree: the one a program was started from (--shell-job:
 * at restore the caller's own takes its place), one that --external names (at restore --inherit-fd gives it), or a device
 * that is there anyway (console, virtual and serial terminals). A pty master inside of the tree is refused elsewhere.
 */
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "lib/state/file/core.h"

/* Indices of terminals that have no number of their own, as the format wants them. */
enum { INDEX_CONSOLE = 1002, INDEX_VT = 1004, INDEX_CTTY = 1006, INDEX_SERIAL = 1010, INDEX_EXTERNAL = 1013 };
#define PTY_INDEX_MAX 1000u
#define CC_BYTES 32u
#define CC_WORDS 19u /* readers want as many as there are characters; the first 8 hold them */

static bool is_pty_slave(dev_t rdev)
{
	return major(rdev) >= 136 && major(rdev) <= 143;
}

static bool tty_match(const struct fd_view *v)
{
	dev_t rdev = v->st.st_rdev;

	if (!S_ISCHR(v->st.st_mode) || (v->info.flags & O_PATH))
		return false;
	return is_pty_slave(rdev) || major(rdev) == 4 || rdev == makedev(5, 0) || rdev == makedev(5, 1);
}

static char *tty_key(struct op *op, uint64_t rdev, uint64_t dev)
{
	return arena_printf(op->arena, "tty[%lx:%lx]", (unsigned long)rdev, (unsigned long)dev);
}

static bool is_external(struct op *op, const struct fd_view *v)
{
	const char *key = op->opts->external.n ? tty_key(op, v->st.st_rdev, v->st.st_dev) : NULL;

	return key && external_wanted(op, key);
}

static TtyType type_of(struct op *op, const struct fd_view *v)
{
	dev_t rdev = v->st.st_rdev;

	if (is_external(op, v))
		return TTY_TYPE__EXT_TTY;
	if (is_pty_slave(rdev))
		return TTY_TYPE__PTY;
	if (rdev == makedev(5, 0))
		return TTY_TYPE__CTTY;
	if (rdev == makedev(5, 1))
		return TTY_TYPE__CONSOLE;
	return minor(rdev) < 64 ? TTY_TYPE__VT : TTY_TYPE__SERIAL;
}

static bool needs_shell_job(TtyType type)
{
	return type == TTY_TYPE__PTY || type == TTY_TYPE__CTTY;
}

static unsigned pty_number(dev_t rdev)
{
	return (major(rdev) - 136) * 256 + minor(rdev);
}

static int tty_check(struct op *op, const struct fd_view *v)
{
	TtyType type = type_of(op, v);

	if (needs_shell_job(type) && !op->opts->shell_job)
		return file_refuse(op, v, "terminal",
				   "use --shell-job (-j) if the program runs in a shell, also at restore; or detach it first",
				   "%s belongs to somebody outside of the tree", v->link);
	if (type == TTY_TYPE__PTY && pty_number(v->st.st_rdev) > PTY_INDEX_MAX)
		return file_refuse(op, v, "terminal", NULL, "%s: the format knows pty numbers up to %u only", v->link,
				   PTY_INDEX_MAX);
	return reg_examine(op, v);
}

static uint32_t index_of(struct op *op, const struct snapshot *s, const struct fd_view *v)
{
	switch (type_of(op, v)) {
	case TTY_TYPE__PTY:
		return pty_number(v->st.st_rdev);
	case TTY_TYPE__CONSOLE:
		return INDEX_CONSOLE;
	case TTY_TYPE__VT:
		return INDEX_VT;
	case TTY_TYPE__CTTY:
		return INDEX_CTTY;
	case TTY_TYPE__SERIAL:
		return INDEX_SERIAL;
	default:
		return INDEX_EXTERNAL + (uint32_t)s->ttys.n;
	}
}

static TermiosEntry *termios_entry(struct op *op, const struct termios *t)
{
	TermiosEntry *m = op_new(op, TermiosEntry);
	uint32_t *words = op_alloc(op, CC_WORDS * sizeof(uint32_t));

	if (!m || !words)
		return NULL;
	termios_entry__init(m);
	m->c_iflag = t->c_iflag;
	m->c_oflag = t->c_oflag;
	m->c_cflag = t->c_cflag;
	m->c_lflag = t->c_lflag;
	m->c_line = t->c_line;
	memcpy(words, t->c_cc, MIN(sizeof(t->c_cc), (size_t)CC_BYTES));
	m->n_c_cc = CC_WORDS;
	m->c_cc = words;
	return m;
}

/* TIOCGLCKTRMIOS fills the kernel's struct termios, which ends after 19 characters; that of the C library is larger. */
static int read_attributes(struct op *op, const struct fd_view *v, TtyInfoEntry *m)
{
	struct termios now = { 0 }, locked = { 0 };
	struct winsize size = { 0 };

	if (tcgetattr(v->copy, &now) < 0)
		return errno == EIO ? file_refuse(op, v, "terminal", NULL, "%s was hung up: not supported", v->link)
				    : file_errno(op, v, "read the terminal attributes");
	if (ioctl(v->copy, TIOCGLCKTRMIOS, &locked) < 0 || ioctl(v->copy, TIOCGWINSZ, &size) < 0)
		return file_errno(op, v, "read the terminal attributes");
	m->termios = termios_entry(op, &now);
	m->termios_locked = termios_entry(op, &locked);
	m->winsize = op_new(op, WinsizeEntry);
	if (!m->termios || !m->termios_locked || !m->winsize)
		return CKPT_E_NOMEM;
	winsize_entry__init(m->winsize);
	m->winsize->ws_row = size.ws_row;
	m->winsize->ws_col = size.ws_col;
	m->winsize->ws_xpixel = size.ws_xpixel;
	m->winsize->ws_ypixel = size.ws_ypixel;
	return 0;
}

/* Session and foreground group show only in a task whose controlling terminal it is. */
static int read_session(struct op *op, const struct fd_view *v, TtyInfoEntry *m)
{
	struct proc_stat stat;
	int r = proc_read_stat(op, v->pid, &stat);

	if (r < 0)
		return r;
	if (r == 0 && ((dev_t)stat.tty_nr == v->st.st_rdev || v->st.st_rdev == makedev(5, 0)) && stat.tty_nr) {
		m->sid = (uint32_t)stat.session;
		m->pgrp = stat.tpgid > 0 ? (uint32_t)stat.tpgid : 0;
	}
	return 0;
}

static int info_new(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id)
{
	TtyInfoEntry *m = op_new(op, TtyInfoEntry), **slot;
	int exclusive = 0, r;

	slot = m ? ARRAY_ADD(op->arena, &s->ttys) : NULL;
	if (!slot)
		return op_nomem(op);
	tty_info_entry__init(m);
	*slot = m;
	m->id = id;
	m->type = type_of(op, v);
	m->rdev = (uint32_t)v->st.st_rdev;
	m->has_dev = m->has_uid = m->has_gid = true;
	m->dev = (uint32_t)v->st.st_dev;
	m->uid = v->st.st_uid;
	m->gid = v->st.st_gid;
	if (ioctl(v->copy, TIOCGEXCL, &exclusive) == 0)
		m->exclusive = exclusive != 0;
	if (m->type == TTY_TYPE__PTY) {
		m->pty = op_new(op, TtyPtyEntry);
		if (!m->pty)
			return CKPT_E_NOMEM;
		tty_pty_entry__init(m->pty);
		m->pty->index = pty_number(v->st.st_rdev);
	}
	r = read_session(op, v, m);
	return r ? r : read_attributes(op, v, m);
}

static TtyInfoEntry *info_of_device(const struct snapshot *s, const struct fd_view *v)
{
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->rdev == (uint32_t)v->st.st_rdev && s->ttys.v[i]->dev == (uint32_t)v->st.st_dev)
			return s->ttys.v[i];
	return NULL;
}

static int tty_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	TtyFileEntry *m = op_new(op, TtyFileEntry);
	const TtyInfoEntry *info = info_of_device(s, v);
	int r = tty_check(op, v);

	if (!m || r)
		return r ? r : CKPT_E_NOMEM;
	tty_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	m->tty_info_id = info ? info->id : index_of(op, s, v) << 1;
	m->has_regf_id = true;
	f->msg->tty = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	r = info ? 0 : info_new(op, s, v, m->tty_info_id);
	return r ? r : reg_dump_ref(op, s, v, &m->regf_id);
}

/* ------------------------------------------------------------------------------------------- restore half */

static const TtyInfoEntry *info_by_id(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->id == id)
			return s->ttys.v[i];
	return NULL;
}

static int tty_fail(struct op *op, const struct snap_file *f, const char *what)
{
	return op_errno(op, errno, AT(.kind = "terminal"), "file id %u: cannot %s the terminal", f->id, what);
}

/* The terminal we were started from: of the standard descriptors, or the controlling one. Closed by the caller. */
static int own_terminal(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (isatty(fd))
			return fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return file_high(open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC));
}

static void termios_from(const TermiosEntry *m, struct termios *t)
{
	t->c_iflag = m->c_iflag;
	t->c_oflag = m->c_oflag;
	t->c_cflag = m->c_cflag;
	t->c_lflag = m->c_lflag;
	t->c_line = (cc_t)m->c_line;
	memcpy(t->c_cc, m->c_cc, MIN(sizeof(t->c_cc), (size_t)CC_BYTES));
}

static int set_attributes_quietly(int fd, const struct termios *t)
{
	sigset_t ttou, old;
	int r;

	/* A background process that changes its terminal is stopped, unless it blocks the signal for that. */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	r = tcsetattr(fd, TCSANOW, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* The program left the terminal as it needs it (an editor: raw). What it is now is put back if the restore fails. */
static int take_attributes(struct op *op, struct file_state *fs, const TtyInfoEntry *info, int terminal)
{
	struct termios t;

	if (!info->termios || fs->terminal >= 0)
		return 0;
	if (info->termios->n_c_cc < CC_WORDS)
		return image_bad(op, "tty-info.img: terminal %u has %zu characters instead of %u", info->id,
				 info->termios->n_c_cc, CC_WORDS);
	if (tcgetattr(terminal, &fs->old_termios) < 0)
		return op_errno(op, errno, AT(.kind = "terminal"), "cannot read the attributes of the terminal");
	fs->terminal = fcntl(terminal, F_DUPFD_CLOEXEC, 3);
	t = fs->old_termios;
	termios_from(info->termios, &t);
	if (set_attributes_quietly(terminal, &t) < 0)
		log_warn(op, "the attributes of the terminal cannot be set: %s", strerror(errno));
	return 0;
}

void tty_done(struct file_state *fs, bool success)
{
	if (fs->terminal < 0)
		return;
	if (!success)
		set_attributes_quietly(fs->terminal, &fs->old_termios);
	close_fd_p(&fs->terminal);
	fs->terminal = -1;
}

static int open_own(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info)
{
	_cleanup_close_ int terminal = -1;
	int r;

	if (!op->opts->shell_job)
		return op_fail(op, CKPT_E_INVAL,
			       AT(.kind = "terminal", .hint = "let it use this terminal instead with --shell-job (-j)"),
			       "the program used a terminal from outside");
	terminal = own_terminal();
	if (terminal < 0)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "terminal", .hint = "run the restore in a terminal"),
			       "the program needs a terminal, and there is none here");
	f->fd = file_high(file_reopen(terminal, (int)f->msg->tty->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND)));
	if (f->fd < 0)
		f->fd = fcntl(terminal, F_DUPFD_CLOEXEC, 3);
	if (f->fd < 0)
		return tty_fail(op, f, "open");
	r = take_attributes(op, s->file_state, info, terminal);
	return r;
}

static int open_device(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const TtyFileEntry *m = f->msg->tty;
	struct snap_file *reg = m->has_regf_id ? snapshot_file(s, m->regf_id) : NULL;

	if (!reg || !reg->msg->reg)
		return image_bad(op, "files.img: terminal id %u has no entry for its name", f->id);
	return reg_open_as(op, s, reg, &(const struct reg_how){ .flags = m->flags, .special = S_IFCHR }, &f->fd);
}

static int open_given(struct op *op, struct snap_file *f, const TtyInfoEntry *info)
{
	char *key = tty_key(op, info->rdev, info->dev);
	int given = key ? inherit_find(op, key) : -1;

	if (given < 0)
		return IMG_ABSENT;
	f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	return f->fd < 0 ? tty_fail(op, f, "take") : 0;
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
		if ((info->id & 1) || info_by_id(s, info->id | 1))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "pty"),
				       "file id %u: pseudo terminals inside of the tree are not supported yet", f->id);
		return open_own(op, s, f, info);
	case TTY_TYPE__CTTY:
		return open_own(op, s, f, info);
	case TTY_TYPE__CONSOLE:
	case TTY_TYPE__VT:
	case TTY_TYPE__SERIAL:
		return open_device(op, s, f);
	default:
		return image_bad(op, "tty-info.img: terminal %u is of an unknown type", info->id);
	}
}

const struct file_kind file_tty = {
	.name = "tty",
	.type = FD_TYPES__TTY,
	.message = offsetof(FileEntry, tty),
	.match = tty_match,
	.check = tty_check,
	.dump = tty_dump,
	.open = tty_open,
};
