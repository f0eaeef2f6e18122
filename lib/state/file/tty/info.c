/* SPDX-License-Identifier: MIT */
/* Attributes of a terminal. Both ends of a pseudo terminal have the slave's. */
#include "lib/state/file/tty/tty.h"

#define CC_WORDS 19u /* readers want as many as there are characters; the first 8 hold 32 of them */
#define K_CBAUD 0010017u
#define K_BOTHER 0010000u
#define K_IBSHIFT 16

int tty_get(int fd, struct termios2 *t)
{
	return ioctl(fd, TCGETS2, t);
}

int tty_set(int fd, const struct termios2 *t)
{
	return ioctl(fd, TCSETS2, t);
}

int tty_get_locks(int fd, struct termios2 *t)
{
	*t = (struct termios2){ 0 };
	return ioctl(fd, TIOCGLCKTRMIOS, t);
}

int tty_set_locks(int fd, const struct termios2 *t)
{
	return ioctl(fd, TIOCSLCKTRMIOS, t);
}

/* Speeds that have no code of their own; for the others the format wants zero. */
static bool own_speeds(uint32_t cflag)
{
	return (cflag & K_CBAUD) == K_BOTHER || (cflag >> K_IBSHIFT & K_CBAUD) == K_BOTHER;
}

static TermiosEntry *termios_entry(struct op *op, const struct termios2 *t)
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
	if (own_speeds(t->c_cflag)) {
		m->c_ispeed = t->c_ispeed;
		m->c_ospeed = t->c_ospeed;
	}
	memcpy(words, t->c_cc, sizeof(t->c_cc));
	m->n_c_cc = CC_WORDS;
	m->c_cc = words;
	return m;
}

void termios_from(const TermiosEntry *m, struct termios2 *t)
{
	*t = (struct termios2){
		.c_iflag = m->c_iflag, .c_oflag = m->c_oflag, .c_cflag = m->c_cflag, .c_lflag = m->c_lflag,
		.c_line = (uint8_t)m->c_line, .c_ispeed = m->c_ispeed, .c_ospeed = m->c_ospeed,
	};
	memcpy(t->c_cc, m->c_cc, sizeof(t->c_cc));
}

TtyInfoEntry *info_by_id(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->id == id)
			return s->ttys.v[i];
	return NULL;
}

const TtyInfoEntry *terminal_session(const struct terminal *t)
{
	return t->master ? t->master : t->orphan ? t->slave : NULL;
}

TtyInfoEntry *info_new(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id, TtyType type)
{
	TtyInfoEntry *m = op_new(op, TtyInfoEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &s->ttys) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	tty_info_entry__init(m);
	*slot = m;
	m->id = id;
	m->type = type;
	m->rdev = (uint32_t)v->st.st_rdev;
	m->has_dev = m->has_uid = m->has_gid = true;
	m->dev = (uint32_t)v->st.st_dev;
	m->uid = ns_uid_inside(s, v->st.st_uid);
	m->gid = ns_gid_inside(s, v->st.st_gid);
	if (type != TTY_TYPE__PTY)
		return m;
	m->pty = op_new(op, TtyPtyEntry);
	if (!m->pty)
		return NULL;
	tty_pty_entry__init(m->pty);
	m->pty->index = id >> 1;
	return m;
}

static int asked(int fd, unsigned long request)
{
	int value = 0;

	return ioctl(fd, request, &value) == 0 && value;
}

int info_read(struct op *op, const struct fd_view *v, TtyInfoEntry *m)
{
	struct termios2 now, locked;
	struct winsize size = { 0 };

	m->exclusive = asked(v->copy, TIOCGEXCL);
	m->locked = asked(v->copy, TIOCGPTLCK);
	m->packet_mode = asked(v->copy, TIOCGPKT);
	if (tty_get(v->copy, &now) < 0)
		return errno == EIO ? IMG_ABSENT : file_errno(op, v, "read the terminal attributes");
	if (tty_get_locks(v->copy, &locked) < 0 || ioctl(v->copy, TIOCGWINSZ, &size) < 0)
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
