/* SPDX-License-Identifier: MIT */
/* Restore: the terminal that we were started from takes the place of the one that the program was started from. */
#include <signal.h>

#include "lib/state/file/tty/tty.h"

/* Of the standard descriptors, or the controlling one. Closed by the caller. */
static int own_terminal(void)
{
	for (int fd = 0; fd < 3; fd++)
		if (isatty(fd))
			return fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return file_high(open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC));
}

static int set_quietly(int fd, const struct termios2 *t)
{
	sigset_t ttou, old;
	int r;

	/* A background process that changes its terminal is stopped, unless it blocks the signal for that. */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	r = tty_set(fd, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* The program left the terminal as it needs it (an editor: raw). What it is now is put back if the restore fails. */
static int take_attributes(struct op *op, struct tty_state *ts, const TtyInfoEntry *info, int terminal)
{
	struct winsize size;
	struct termios2 t;

	if (!info->termios || ts->own >= 0)
		return 0;
	if (ioctl(terminal, TIOCGWINSZ, &size) == 0)
		ts->own_resized = size.ws_row != info->winsize->ws_row || size.ws_col != info->winsize->ws_col;
	if (tty_get(terminal, &ts->own_old) < 0)
		return op_errno(op, errno, AT(.kind = "terminal"), "cannot read the attributes of the terminal");
	ts->own = fcntl(terminal, F_DUPFD_CLOEXEC, 3);
	termios_from(info->termios, &t);
	if (set_quietly(terminal, &t) < 0)
		log_warn(op, "the attributes of the terminal cannot be set: %s", strerror(errno));
	return 0;
}

void own_done(struct tty_state *ts, bool success)
{
	if (ts->own < 0)
		return;
	if (!success)
		set_quietly(ts->own, &ts->own_old);
	close_fd_p(&ts->own);
	ts->own = -1;
}

int open_own(struct op *op, struct snapshot *s, struct snap_file *f, const TtyInfoEntry *info)
{
	_cleanup_close_ int terminal = -1;

	if (!op->opts->shell_job)
		return op_fail(op, CKPT_E_INVAL,
			       AT(.kind = "terminal", .hint = mounts_own(s) ? "have a new master made for it with --orphan-pts-master, or let "
									      "it use this terminal instead with --shell-job (-j)"
									    : "let it use this terminal instead with --shell-job (-j)"),
			       "the program used a terminal whose master was held outside");
	terminal = own_terminal();
	if (terminal < 0)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "terminal", .hint = "run the restore in a terminal"),
			       "the program needs a terminal, and there is none here");
	f->fd = file_high(file_reopen(terminal, (int)f->msg->tty->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND)));
	if (f->fd < 0)
		f->fd = fcntl(terminal, F_DUPFD_CLOEXEC, 3);
	if (f->fd < 0)
		return op_errno(op, errno, AT(.kind = "terminal"), "file id %u: cannot open the terminal", f->id);
	f->priv = s->file_state->tty; /* how plan_terminal() knows them */
	return take_attributes(op, s->file_state->tty, info, terminal);
}
