/* SPDX-License-Identifier: MIT */
/*
 * Bytes on their way through a pseudo terminal. The kernel lets nobody look at them: they are read, and put back with
 * TIOCSTI, which hands a byte to the line discipline of the end that is to read it. What the discipline has done already
 * (echo, signals, editing, conversion) must not be done twice, so while bytes come back everything of that kind is off;
 * ends of lines are made anew, and what only looks like one is quoted (VLNEXT).
 *
 * Beyond 4095 bytes the discipline has not seen them: those are written again at the other end, as they were.
 *
 * Runs in the keeper, too: system calls and plain computation only.
 */
#include <poll.h>
#include <time.h>

#include "lib/state/file/tty/tty.h"

#define K_ICANON 0000002u
#define K_IEXTEN 0100000u
#define K_IXON 0002000u
#define K_OPOST 0000001u
enum { C_VINTR, C_VQUIT, C_VERASE, C_VKILL, C_VEOF, C_VTIME, C_VMIN, C_VSWTC, C_VSTART, C_VSTOP, C_VSUSP, C_VEOL, C_VREPRINT,
       C_VDISCARD, C_VWERASE, C_VLNEXT, C_VEOL2 };
enum { K_TCOOFF, K_TCOON };
#define PATIENCE_MS 1000
#define PIECE 256u

static bool lines(const struct termios2 *t)
{
	return (t->c_lflag & K_ICANON) && !(t->c_lflag & TTY_EXTPROC);
}

static short polled(int fd, short events, int timeout)
{
	struct pollfd p = { .fd = fd, .events = events };

	while (poll(&p, 1, timeout) < 0)
		if (errno != EINTR)
			return 0;
	return p.revents;
}

/*
 * Nothing is done to bytes but to keep lines apart. IXON stays: taking it away would let stopped output go on; its
 * characters are none.
 */
static void quiet(const struct termios2 *t, struct termios2 *q)
{
	*q = *t;
	q->c_iflag &= K_IXON;
	q->c_lflag &= K_ICANON | TTY_EXTPROC;
	q->c_oflag = 0;
	memset(q->c_cc, 0, sizeof(q->c_cc));
	q->c_cc[C_VMIN] = 1;
}

/* No lines: a read gives what is there. */
static void quiet_raw(const struct termios2 *t, struct termios2 *q)
{
	quiet(t, q);
	q->c_lflag &= TTY_EXTPROC;
	q->c_cc[C_VMIN] = 0;
}

/* ------------------------------------------------------------------------------------------------- taking out */

static int append(struct tty_queue *q, ssize_t n)
{
	if (n > 0)
		q->n += (uint32_t)n;
	return q->n < TTY_QUEUE_MAX ? 0 : EFBIG;
}

static int take_output(int master, struct tty_queue *q)
{
	while (polled(master, POLLIN, 0) & POLLIN) {
		ssize_t n = read(master, q->bytes + q->n, TTY_QUEUE_MAX - q->n);

		if (n < 0 && errno != EINTR)
			return errno;
		if (n == 0)
			return 0;
		if (append(q, n))
			return EFBIG;
	}
	return 0;
}

/* Whole lines, as a reader would get them. */
static int take_lines(int slave, const struct termios2 *t, struct tty_queue *q)
{
	while (polled(slave, POLLIN, 0) & POLLIN) {
		/* One byte is left for the end-of-file character. */
		ssize_t n = read(slave, q->bytes + q->n, TTY_QUEUE_MAX - 1 - q->n);
		uint8_t last;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		append(q, n);
		last = n ? q->bytes[q->n - 1] : 0;
		if (n && (last == '\n' || (last && (last == t->c_cc[C_VEOL] || last == t->c_cc[C_VEOL2])))) {
			q->marks[q->n - 1] = TTY_END;
		} else {
			q->bytes[q->n] = t->c_cc[C_VEOF] ? t->c_cc[C_VEOF] : 4;
			q->marks[q->n++] = TTY_EOF;
		}
		if (q->n >= TTY_QUEUE_MAX - 1)
			return EFBIG;
	}
	return 0;
}

static int take_input(int slave, const struct termios2 *t, struct tty_queue *q)
{
	struct termios2 raw;
	int err = lines(t) ? take_lines(slave, t, q) : 0;

	quiet_raw(t, &raw);
	if (err || tty_set(slave, &raw) < 0)
		return err ? err : errno;
	for (;;) {
		ssize_t n = read(slave, q->bytes + q->n, TTY_QUEUE_MAX - q->n);

		if (n < 0 && errno != EINTR)
			return errno;
		if (n == 0)
			return 0;
		if (append(q, n))
			return EFBIG;
	}
}

/* ------------------------------------------------------------------------------------------------ putting back */

static int put_byte(int fd, uint8_t c)
{
	return ioctl(fd, TIOCSTI, &c) < 0 ? errno : 0;
}

static int write_all(int fd, const uint8_t *p, size_t n)
{
	const struct timespec ms = { 0, 1000000 };

	for (int i = 0; n && i < PATIENCE_MS;) {
		ssize_t w = write(fd, p, MIN(n, PIECE));

		if (w < 0 && errno != EINTR && errno != EAGAIN)
			return errno;
		if (w > 0) {
			p += w;
			n -= (size_t)w;
		} else {
			nanosleep(&ms, NULL);
			i++;
		}
	}
	return n ? EAGAIN : 0;
}

/*
 * What the discipline has not seen is written at the other end, where there is room for it: it came from there. In pieces
 * of which the kernel's buffers hold the most; poll(2) would say too early that they are full.
 */
static int put_rest(int fd, const struct tty_queue *q)
{
	int flags, err;

	if (q->n <= TTY_PROCESSED_MAX)
		return 0;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return errno;
	err = write_all(fd, q->bytes + TTY_PROCESSED_MAX, q->n - TTY_PROCESSED_MAX);
	fcntl(fd, F_SETFL, flags);
	return err;
}

/* A character for @what that ends no line by itself. */
static uint8_t pick(const struct termios2 *t, uint8_t from)
{
	while (from == '\n' || from == t->c_cc[C_VEOL] || from == t->c_cc[C_VEOL2])
		from++;
	return from;
}

static int put_lines(int slave, const struct termios2 *t, const struct tty_queue *q)
{
	struct termios2 cooked;
	uint8_t next = pick(t, 1), eof = pick(t, next + 1);
	int err;

	quiet(t, &cooked);
	cooked.c_lflag |= K_ICANON | K_IEXTEN;
	cooked.c_cc[C_VLNEXT] = next;
	cooked.c_cc[C_VEOF] = eof;
	cooked.c_cc[C_VEOL] = t->c_cc[C_VEOL];
	cooked.c_cc[C_VEOL2] = t->c_cc[C_VEOL2];
	err = tty_set(slave, &cooked) < 0 ? errno : 0;
	for (uint32_t i = 0; i < q->n && i < TTY_PROCESSED_MAX && !err; i++) {
		uint8_t c = q->bytes[i];
		bool special = c && (c == next || c == eof || c == '\n' || c == t->c_cc[C_VEOL] || c == t->c_cc[C_VEOL2]);

		if (q->marks[i] == TTY_PLAIN && special)
			err = put_byte(slave, next);
		err = err ? err : put_byte(slave, q->marks[i] == TTY_EOF ? eof : c);
	}
	return err;
}

static int put_raw(int slave, const struct termios2 *t, const struct tty_queue *q)
{
	struct termios2 raw;
	int err;

	quiet_raw(t, &raw);
	err = tty_set(slave, &raw) < 0 ? errno : 0;
	for (uint32_t i = 0; i < q->n && i < TTY_PROCESSED_MAX && !err; i++)
		err = put_byte(slave, q->bytes[i]);
	return err;
}

static int put_output(int master, int slave, const struct termios2 *t, const struct tty_queue *q)
{
	struct termios2 raw;
	int err = 0;

	for (uint32_t i = 0; i < q->n && i < TTY_PROCESSED_MAX && !err; i++)
		err = put_byte(master, q->bytes[i]);
	if (err || q->n <= TTY_PROCESSED_MAX)
		return err;
	if (slave < 0)
		return EPIPE;
	/* Stopped output takes nothing; taking IXON away, and TCOON, let it go on. */
	quiet_raw(t, &raw);
	raw.c_iflag = 0;
	if (ioctl(slave, TCXONC, K_TCOON) < 0 || tty_set(slave, &raw) < 0)
		return errno;
	return put_rest(slave, q);
}

/* As a user does it; where that has no effect, as a program does it. */
static void stop_output(int slave, const struct termios2 *t)
{
	if ((t->c_iflag & K_IXON) && t->c_cc[C_VSTOP])
		put_byte(slave, t->c_cc[C_VSTOP]);
	if (polled(slave, POLLOUT, 0) & POLLOUT)
		ioctl(slave, TCXONC, K_TCOOFF);
}

int tty_queues_put(int master, int slave, const struct termios2 *final, const struct tty_queue *input,
		   const struct tty_queue *output, bool stopped, const char **step)
{
	int err;

	*step = "put output back";
	err = put_output(master, slave, final, output);
	if (slave < 0)
		return err;
	if (input->n && !err) {
		*step = "put input back";
		err = lines(final) ? put_lines(slave, final, input) : put_raw(slave, final, input);
	}
	/* Whatever happened, this is what it has to have. */
	if (tty_set(slave, final) < 0 && !err) {
		*step = "set attributes";
		err = errno;
	}
	if (!err) {
		*step = "put input back";
		err = put_rest(master, input);
	}
	if (stopped)
		stop_output(slave, final);
	return err;
}

/* -------------------------------------------------------------------------------------------------- a look (dump) */

static void failed(struct tty_job *j, const char *step, int err)
{
	if (j->err || !err)
		return;
	j->err = err;
	j->step = step;
}

static void look(struct tty_job *j, int slave, const struct termios2 *t)
{
	struct termios2 q;
	const char *step;
	int err;

	if (slave >= 0) {
		quiet(t, &q);
		failed(j, "set attributes", tty_set(slave, &q) < 0 ? errno : 0);
	}
	if (!j->err)
		failed(j, "read output", take_output(j->master, &j->output));
	if (!j->err && slave >= 0)
		failed(j, "read input", take_input(slave, t, &j->input));
	/* Room for output may have let echoed characters follow. */
	if (!j->err)
		failed(j, "read output", take_output(j->master, &j->output));
	j->stopped = slave >= 0 && !j->slave_closed && !(polled(slave, POLLOUT, 0) & POLLOUT);
	err = tty_queues_put(j->master, slave, t, &j->input, &j->output, j->stopped, &step);
	failed(j, step, err);
}

static void set_async(const struct tty_job *j, bool on)
{
	for (size_t i = 0; i < j->n_async; i++) {
		int flags = fcntl(j->async[i], F_GETFL);

		if (flags >= 0)
			fcntl(j->async[i], F_SETFL, on ? flags | O_ASYNC : flags & ~O_ASYNC);
	}
}

/*
 * A slave of our own, for those of the tree may be open for reading or writing only; none if it was never open, which would
 * not be so any more.
 */
static int open_slave(const struct tty_job *j)
{
	int off = 0, locked = 0, slave;

	if (!j->has_slave && !j->slave_closed)
		return -1;
	ioctl(j->master, TIOCGPTLCK, &locked);
	ioctl(j->master, TIOCSPTLCK, &off);
	slave = ioctl(j->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	ioctl(j->master, TIOCSPTLCK, &locked);
	return slave;
}

void tty_job_run(struct tty_job *j)
{
	int packets = 0, off = 0, slave;
	struct termios2 t, locks;
	const struct termios2 none = { 0 };

	if (ioctl(j->master, TIOCGPKT, &packets) == 0 && packets && (polled(j->master, POLLPRI, 0) & POLLPRI)) {
		failed(j, "packet mode", EBUSY);
		return;
	}
	if (tty_get(j->master, &t) < 0 || tty_get_locks(j->master, &locks) < 0) {
		failed(j, "read attributes", errno);
		return;
	}
	slave = open_slave(j);
	if (slave < 0 && (j->has_slave || j->slave_closed)) {
		failed(j, "open the slave", errno);
		return;
	}
	set_async(j, false);
	if (packets)
		ioctl(j->master, TIOCPKT, &off);
	if (memcmp(&locks, &none, sizeof(locks)))
		tty_set_locks(j->master, &none);
	look(j, slave, &t);
	if (memcmp(&locks, &none, sizeof(locks)))
		tty_set_locks(j->master, &locks);
	if (packets)
		ioctl(j->master, TIOCPKT, &packets);
	set_async(j, true);
	if (slave >= 0)
		close(slave);
}
