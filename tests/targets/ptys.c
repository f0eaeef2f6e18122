// SPDX-License-Identifier: MIT
/*
 * Pseudo terminals whose two ends are in the tree: attributes, modes, bytes on their way in both directions, the
 * controlling terminal; masters whose slave is closed, slaves whose master is.
 */
#include "target.h"

#include <asm/termbits.h>
#include <linux/tty.h>
#include <poll.h>
#include <sys/ioctl.h>

/* <termios.h> has no place for speeds beside <asm/termbits.h>. */
static pid_t session_of(int fd)
{
	pid_t sid = -1;

	return ioctl(fd, TIOCGSID, &sid) < 0 ? -1 : sid;
}

static volatile sig_atomic_t unwanted;

static void count(int sig)
{
	unwanted = sig;
}

/* Nothing that is done to the terminal may be heard of. */
static void watch(void)
{
	static const int signals[] = { SIGHUP, SIGCONT, SIGWINCH, SIGTTIN, SIGTTOU, SIGTSTP, SIGINT, SIGIO };

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		signal(signals[i], count);
}

/* A master with a number that is not taken as soon as it is free: several of these programs run at once. */
static int new_master(int flags)
{
	static int offset;
	int want = 40 + (getpid() * 7 + offset++) % 900, held[1000], n = 0, number = -1, fd;

	for (;;) {
		CHECK((fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | flags)) >= 0);
		CHECK(!ioctl(fd, TIOCGPTN, &number));
		if (number >= want || n == 1000)
			break;
		held[n++] = fd;
	}
	if (n) {
		CHECK(dup2(fd, held[0]) == held[0]);
		close(fd);
		fd = held[0];
	}
	for (int i = 1; i < n; i++)
		close(held[i]);
	return fd;
}

static int number_of(int master)
{
	int n = -1;

	CHECK(!ioctl(master, TIOCGPTN, &n));
	return n;
}

static int open_slave(int master, int flags)
{
	char path[32];
	int off = 0, fd;

	CHECK(!ioctl(master, TIOCSPTLCK, &off));
	snprintf(path, sizeof(path), "/dev/pts/%d", number_of(master));
	CHECK((fd = open(path, O_RDWR | flags)) >= 0);
	return fd;
}

static void set_raw(int fd)
{
	struct termios2 t;

	CHECK(!ioctl(fd, TCGETS2, &t));
	t.c_iflag = 0;
	t.c_oflag = 0;
	t.c_lflag = 0;
	t.c_cc[VMIN] = 1;
	t.c_cc[VTIME] = 0;
	CHECK(!ioctl(fd, TCSETS2, &t));
}

static void put(int fd, const char *text)
{
	CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* What comes, byte by byte, is @text and nothing else. */
static void expect(int fd, const char *text, size_t n)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[32768];
	size_t have = 0;

	while (have < n) {
		ssize_t r;

		CHECK(poll(&p, 1, 2000) == 1 && (p.revents & POLLIN));
		r = read(fd, buf + have, n - have);
		CHECK(r > 0);
		have += (size_t)r;
	}
	if (memcmp(buf, text, n))
		FAIL("fd %d: other bytes than were written: \"%.*s\"", fd, (int)(n < 100 ? n : 100), buf);
}

/* One read gives exactly this. */
static void expect_read(int fd, const char *text)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[4096];
	ssize_t r;

	CHECK(poll(&p, 1, 2000) == 1 && (p.revents & POLLIN));
	r = read(fd, buf, sizeof(buf));
	if (r != (ssize_t)strlen(text) || memcmp(buf, text, (size_t)r))
		FAIL("a read gave %zd bytes \"%.*s\" instead of \"%s\"", r, (int)(r > 0 ? r : 0), buf, text);
}

static void expect_nothing(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (poll(&p, 1, 50) != 0)
		FAIL("fd %d: something is there (poll 0x%x)", fd, p.revents);
}

static void raw(void)
{
	struct termios2 before, after;
	struct winsize size = { 33, 101, 5, 7 }, now;
	struct stat st, st2;
	int m, s, s2, number;

	watch();
	m = new_master(O_NONBLOCK);
	s = open_slave(m, O_NOCTTY);
	s2 = open_slave(m, O_NOCTTY | O_NONBLOCK | O_APPEND);
	number = number_of(m);
	set_raw(s);
	CHECK(!ioctl(s, TIOCSWINSZ, &size));
	CHECK(!fchmod(s, 0622) && !fchown(s, 12, 34) && !fstat(s, &st));
	CHECK(!ioctl(s, TCGETS2, &before));
	put(m, "in\x03put\r\n\x04");
	put(s, "output\n");
	t_wait();
	CHECK(number_of(m) == number);
	CHECK(!ioctl(s, TCGETS2, &after) && !memcmp(&before, &after, sizeof(after)));
	CHECK(!ioctl(m, TIOCGWINSZ, &now) && !memcmp(&size, &now, sizeof(now)));
	CHECK(!fstat(s, &st2) && st.st_rdev == st2.st_rdev && st.st_mode == st2.st_mode && st.st_uid == st2.st_uid && st.st_gid == st2.st_gid);
	CHECK(fcntl(s2, F_GETFL) & O_NONBLOCK && fcntl(m, F_GETFL) & O_NONBLOCK && !(fcntl(s, F_GETFL) & O_NONBLOCK));
	expect(s2, "in\x03put\r\n\x04", 9);
	expect(m, "output\n", 7);
	expect_nothing(s);
	expect_nothing(m);
	put(m, "more");
	expect(s, "more", 4);
	CHECK(!unwanted);
}

/* Lines, some of them odd: an end of file, a newline that is none, another end of line, one that is not finished. */
static void canon(void)
{
	struct termios2 t;
	int m, s;

	watch();
	m = new_master(0);
	s = open_slave(m, O_NOCTTY);
	CHECK(!ioctl(s, TCGETS2, &t));
	t.c_lflag |= ICANON | ECHO | ISIG | IEXTEN;
	t.c_iflag |= ICRNL | IXON;
	t.c_cc[VEOL] = ';';
	CHECK(!ioctl(s, TCSETS2, &t));
	put(m, "one\r");
	put(m, "two\x04");
	put(m, "\x04");
	put(m, "a\x16\nb\x16\x03;");
	put(m, "rubx\x7f" "and\x16\x04 not finished");
	/* echo */
	expect(m, "one\r\ntwo", 8);
	t_wait();
	expect_read(s, "one\n");
	expect_read(s, "two");
	expect_read(s, "");
	expect_read(s, "a\nb\x03;");
	expect_nothing(s);
	/* editing goes on where it was */
	put(m, "\x7f\x7f\n");
	expect_read(s, "ruband\x04 not finish\n");
	if (unwanted)
		FAIL("signal %d", (int)unwanted);
}

static void modes(void)
{
	struct termios2 t, now, locked = { 0 }, locked_now = { 0 };
	int m, s, one = 1, v = 0;
	char b[8];

	watch();
	m = new_master(0);
	s = open_slave(m, O_NOCTTY);
	set_raw(s);
	CHECK(!ioctl(s, TCGETS2, &t));
	t.c_cflag = (t.c_cflag & ~(unsigned)CBAUD) | BOTHER | CLOCAL | HUPCL;
	t.c_ispeed = t.c_ospeed = 12345;
	t.c_cc[VINTR] = 'x';
	t.c_cc[VMIN] = 3;
	t.c_cc[VTIME] = 2;
	CHECK(!ioctl(s, TCSETS2, &t));
	locked.c_lflag = ICANON | ECHO;
	locked.c_cc[VINTR] = 1;
	CHECK(!ioctl(s, TIOCSLCKTRMIOS, &locked));
	CHECK(!ioctl(m, TIOCPKT, &one));
	CHECK(!ioctl(s, TIOCEXCL));
	put(m, "ab"); /* less than VMIN */
	put(s, "data");
	CHECK(!ioctl(m, TIOCSPTLCK, &one));
	CHECK(!ioctl(s, TCGETS2, &t));
	t_wait();
	CHECK(!ioctl(s, TCGETS2, &now) && !memcmp(&now, &t, sizeof(t)) && now.c_ospeed == 12345);
	CHECK(!ioctl(s, TIOCGLCKTRMIOS, &locked_now) && !memcmp(&locked, &locked_now, sizeof(locked)));
	CHECK(!ioctl(m, TIOCGPKT, &v) && v == 1);
	CHECK(!ioctl(m, TIOCGPTLCK, &v) && v == 1);
	CHECK(!ioctl(s, TIOCGEXCL, &v) && v == 1);
	CHECK(!ioctl(m, TIOCGEXCL, &v) && v == 0);
	CHECK(read(m, b, sizeof(b)) == 5 && !memcmp(b, "\0data", 5));
	put(m, "c");
	expect(s, "abc", 3);
	CHECK(!unwanted);
}

static void stopped(void)
{
	int m, s;

	watch();
	m = new_master(0);
	s = open_slave(m, O_NOCTTY | O_NONBLOCK);
	put(s, "before");
	put(m, "\x13");
	t_sleep_ms(20);
	CHECK(write(s, "x", 1) < 0 && errno == EAGAIN);
	t_wait();
	CHECK(write(s, "x", 1) < 0 && errno == EAGAIN);
	expect(m, "before", 6);
	put(m, "\x11");
	t_sleep_ms(20);
	put(s, "after");
	expect(m, "after", 5);
	CHECK(!unwanted);
}

/* More than the line discipline takes. */
static void full(void)
{
	static char in[32768], out[32768];
	size_t n_in = 0, n_out = 0;
	int m, s;
	ssize_t r;

	m = new_master(O_NONBLOCK);
	s = open_slave(m, O_NOCTTY | O_NONBLOCK);
	set_raw(s);
	t_fill(in, sizeof(in), 1);
	t_fill(out, sizeof(out), 2);
	for (int i = 0; i < 50; i++) {
		while (n_in < sizeof(in) && (r = write(m, in + n_in, 100)) > 0)
			n_in += (size_t)r;
		while (n_out < sizeof(out) && (r = write(s, out + n_out, 100)) > 0)
			n_out += (size_t)r;
		t_sleep_ms(2);
	}
	CHECK(n_in > 8000 && n_out > 8000);
	t_wait();
	expect(s, in, n_in);
	expect(m, out, n_out);
	expect_nothing(s);
	expect_nothing(m);
}

static void hung(bool same_name)
{
	struct termios2 t;
	char path[64], link[64];
	int m, s, fd, n;
	char c;

	watch();
	m = new_master(0);
	n = number_of(m);
	s = open_slave(m, O_NOCTTY);
	close(m);
	CHECK(ioctl(s, TCGETS2, &t) < 0 && errno == EIO);
	t_wait();
	CHECK(ioctl(s, TCGETS2, &t) < 0 && errno == EIO);
	CHECK(read(s, &c, 1) == 0);
	CHECK(write(s, &c, 1) < 0 && errno == EIO);
	CHECK(!unwanted);
	if (!same_name)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s);
	CHECK(readlink(path, link, sizeof(link)) > 0);
	snprintf(path, sizeof(path), "/dev/pts/%d", n);
	CHECK(!strncmp(link, path, strlen(path)));
	CHECK((fd = open(path, O_RDWR | O_NOCTTY)) < 0);
}

static void hungup(void)
{
	hung(true);
}

/* Its number is somebody else's meanwhile. */
static void hungother(void)
{
	hung(false);
}

/* What it wrote before it ended is still to be read, as with script(1). */
static void closed(void)
{
	int m = new_master(0), s = open_slave(m, O_NOCTTY), fd;
	char c;

	set_raw(s);
	CHECK(!fchmod(s, 0600));
	put(s, "last words");
	put(m, "unread");
	close(s);
	t_wait();
	expect(m, "last words", 10);
	CHECK(read(m, &c, 1) < 0 && errno == EIO);
	fd = open_slave(m, O_NOCTTY | O_NONBLOCK);
	set_raw(fd);
	CHECK(read(fd, &c, 1) == 1 && c == 'u');
}

/* Nobody has opened the slave yet; a reader waits instead of getting EIO. */
static void unopened(void)
{
	int m = new_master(O_NONBLOCK), one = 0, s;
	struct winsize size = { 10, 20, 0, 0 }, now;
	char c;

	CHECK(!ioctl(m, TIOCSWINSZ, &size));
	CHECK(!ioctl(m, TIOCGPTLCK, &one) && one == 1);
	t_wait();
	CHECK(read(m, &c, 1) < 0 && errno == EAGAIN);
	CHECK(!ioctl(m, TIOCGPTLCK, &one) && one == 1);
	s = open_slave(m, O_NOCTTY);
	CHECK(!ioctl(s, TIOCGWINSZ, &now) && !memcmp(&size, &now, sizeof(now)));
	set_raw(s);
	put(s, "hello");
	expect(m, "hello", 5);
}

/* The terminal's session is ours; /dev/tty leads to it; the keyboard's signals reach us. */
static void ctty(void)
{
	int m, s, tty, fresh;
	pid_t sid = getsid(0), v;

	watch();
	CHECK(sid == getpid());
	m = new_master(0);
	s = open_slave(m, 0);
	CHECK(session_of(s) == sid);
	CHECK((tty = open("/dev/tty", O_RDWR | O_NONBLOCK)) >= 0);
	put(m, "a line\n");
	t_wait();
	CHECK(session_of(s) == sid && tcgetpgrp(s) == getpgrp());
	CHECK(!ioctl(m, TIOCGSID, &v) && v == sid);
	CHECK((fresh = open("/dev/tty", O_RDWR)) >= 0);
	CHECK(session_of(tty) == sid && fcntl(tty, F_GETFL) & O_NONBLOCK);
	expect_read(tty, "a line\n");
	CHECK(!unwanted);
	put(m, "\x03");
	for (int i = 0; i < 100 && unwanted != SIGINT; i++)
		t_sleep_ms(10);
	CHECK(unwanted == SIGINT);
	unwanted = 0;
	close(m);
	for (int i = 0; i < 100 && !unwanted; i++)
		t_sleep_ms(10);
	CHECK(unwanted == SIGHUP || unwanted == SIGCONT);
}

/* Only /dev/tty is left of the terminal, and the master. */
static void devtty(void)
{
	int m, s, tty;

	watch();
	m = new_master(0);
	s = open_slave(m, 0);
	CHECK((tty = open("/dev/tty", O_RDWR | O_CLOEXEC)) >= 0);
	CHECK(!fcntl(tty, F_SETFL, O_ASYNC));
	close(s);
	t_wait();
	CHECK(fcntl(tty, F_GETFL) & O_ASYNC && fcntl(tty, F_GETFD) == FD_CLOEXEC);
	CHECK(!fcntl(tty, F_SETFL, 0));
	CHECK(session_of(tty) == getpid() && tcgetpgrp(tty) == getpgrp());
	put(m, "a line\n");
	expect_read(tty, "a line\n");
	CHECK(!unwanted);
}

/* SIGIO is asked for; it must not come for what comes back. */
static void async(void)
{
	int m, s;

	watch();
	m = new_master(0);
	s = open_slave(m, O_NOCTTY);
	set_raw(s);
	put(m, "in");
	put(s, "out");
	t_sleep_ms(20);
	CHECK(!fcntl(s, F_SETOWN, getpid()) && !fcntl(m, F_SETOWN, getpid()));
	CHECK(!fcntl(s, F_SETFL, O_RDWR | O_ASYNC) && !fcntl(m, F_SETFL, O_RDWR | O_ASYNC));
	t_wait();
	CHECK(!unwanted);
	CHECK(fcntl(s, F_GETFL) & O_ASYNC && fcntl(m, F_GETFL) & O_ASYNC);
	expect(s, "in", 2);
	expect(m, "out", 3);
	unwanted = 0;
	put(m, "x");
	for (int i = 0; i < 100 && unwanted != SIGIO; i++)
		t_sleep_ms(10);
	CHECK(unwanted == SIGIO);
}

/* Several terminals, the later one with the lower number. */
static void several(void)
{
	int m1 = new_master(0), m2, s1, s2, n1 = number_of(m1), n2;

	CHECK((m2 = open("/dev/ptmx", O_RDWR | O_NOCTTY)) >= 0);
	n2 = number_of(m2);
	s1 = open_slave(m1, O_NOCTTY);
	s2 = open_slave(m2, O_NOCTTY);
	CHECK(fcntl(s1, F_DUPFD, 60) == 60);
	t_wait();
	CHECK(number_of(m1) == n1 && number_of(m2) == n2);
	set_raw(s1);
	set_raw(s2);
	put(m1, "first");
	put(m2, "second");
	expect(60, "first", 5);
	expect(s2, "second", 6);
}

/* ------------------------------------------------------------------------------------------------ several tasks */

/* A child that waits for a byte, then checks, and says what it found. */
struct job {
	pid_t pid;
	int ask, answer;
};

static void job_start(struct job *j, void (*run)(int ask, int answer, void *arg), void *arg)
{
	int a[2], b[2];

	CHECK(!pipe2(a, O_CLOEXEC) && !pipe2(b, O_CLOEXEC));
	CHECK((j->pid = fork()) >= 0);
	if (!j->pid) {
		close(a[1]);
		close(b[0]);
		run(a[0], b[1], arg);
		_exit(0);
	}
	close(a[0]);
	close(b[1]);
	j->ask = a[1];
	j->answer = b[0];
}

static void job_ask(const struct job *j, const char *who)
{
	char text[256] = "";
	ssize_t n;

	CHECK(write(j->ask, "x", 1) == 1);
	n = read(j->answer, text, sizeof(text) - 1);
	if (n != 2 || memcmp(text, "ok", 2))
		FAIL("%s: %s", who, n > 0 ? text : "says nothing");
}

#define SAY_IF(cond)                                                                      \
	do {                                                                              \
		if (!(cond)) {                                                            \
			dprintf(answer, "line %d: %s (errno %d)", __LINE__, #cond, errno); \
			_exit(1);                                                         \
		}                                                                         \
	} while (0)

static void asked(int ask)
{
	char c;

	while (read(ask, &c, 1) < 0 && errno == EINTR)
		;
}

struct session {
	int master, slave;
	bool keep; /* the leader keeps its descriptor of the terminal */
	int ready[2];
};

static pid_t foreground_of(int fd)
{
	pid_t pgrp = -1;

	return ioctl(fd, TIOCGPGRP, &pgrp) < 0 ? -1 : pgrp;
}

/* In the foreground: gets what is typed, and ^C. */
static void front(int ask, int answer, void *arg)
{
	struct session *s = arg;
	pid_t sid = getsid(0);
	char b[64];
	int tty;

	setpgid(0, 0);
	while (foreground_of(s->slave) != getpid())
		t_sleep_ms(1);
	tty = open("/dev/tty", O_RDWR);
	SAY_IF(tty >= 0 && write(s->ready[1], "f", 1) == 1);
	asked(ask);
	SAY_IF(!unwanted && getsid(0) == sid && getpgrp() == getpid());
	SAY_IF(session_of(s->slave) == sid && session_of(tty) == sid && foreground_of(tty) == getpid());
	SAY_IF(read(tty, b, sizeof(b)) == 5 && !memcmp(b, "line\n", 5));
	SAY_IF(write(answer, "ok", 2) == 2);
	asked(ask);
	SAY_IF(unwanted == SIGINT);
	SAY_IF(write(answer, "ok", 2) == 2);
}

/* In the background: no signal from the terminal but SIGTTIN, which it ignores: EIO. */
static void back(int ask, int answer, void *arg)
{
	struct session *s = arg;
	char c;

	setpgid(0, 0);
	signal(SIGTTIN, SIG_IGN);
	SAY_IF(write(s->ready[1], "b", 1) == 1);
	asked(ask);
	SAY_IF(!unwanted && session_of(s->slave) == getsid(0) && foreground_of(s->slave) != getpgrp());
	SAY_IF(read(s->slave, &c, 1) < 0 && errno == EIO);
	SAY_IF(write(answer, "ok", 2) == 2);
	asked(ask);
	SAY_IF(!unwanted);
	SAY_IF(write(answer, "ok", 2) == 2);
}

static void leader(int ask, int answer, void *arg)
{
	struct session *s = arg;
	struct job f, b;
	int tty;

	close(s->master);
	SAY_IF(setsid() == getpid());
	SAY_IF(!ioctl(s->slave, TIOCSCTTY, 0));
	signal(SIGTTOU, SIG_IGN);
	job_start(&f, front, s);
	job_start(&b, back, s);
	setpgid(f.pid, f.pid);
	SAY_IF(!ioctl(s->slave, TIOCSPGRP, &f.pid));
	if (!s->keep)
		close(s->slave);
	asked(ask);
	SAY_IF(!unwanted && (tty = open("/dev/tty", O_RDWR)) >= 0);
	SAY_IF(session_of(tty) == getpid() && foreground_of(tty) == f.pid);
	job_ask(&b, "background");
	job_ask(&f, "foreground");
	SAY_IF(write(answer, "ok", 2) == 2);
	asked(ask);
	job_ask(&f, "foreground");
	job_ask(&b, "background");
	SAY_IF(!unwanted);
	/* The end of the session is not the point. */
	kill(f.pid, SIGKILL);
	kill(b.pid, SIGKILL);
	SAY_IF(write(answer, "ok", 2) == 2);
}

static void session_start(struct session *s, struct job *j, bool keep)
{
	char c[2];

	s->keep = keep;
	s->master = new_master(O_CLOEXEC);
	s->slave = open_slave(s->master, O_NOCTTY);
	CHECK(!pipe(s->ready));
	job_start(j, leader, s);
	close(s->slave);
	close(s->ready[1]);
	CHECK(read(s->ready[0], c, 1) == 1 && read(s->ready[0], c, 1) == 1);
}

static void session_check(struct session *s, struct job *j)
{
	put(s->master, "line\n");
	job_ask(j, "leader");
	put(s->master, "\x03");
	t_sleep_ms(50);
	job_ask(j, "leader");
}

/* A shell with one job in the foreground and one in the background, on a terminal of ours. */
static void jobs(void)
{
	struct session s;
	struct job j;

	watch();
	session_start(&s, &j, true);
	t_wait();
	session_check(&s, &j);
	CHECK(!unwanted);
}

/* Gives the terminal up, and has a child that has it. */
static void without(int ask, int answer, void *arg)
{
	struct session *s = arg;
	struct job j;

	job_start(&j, front, s);
	setpgid(j.pid, j.pid);
	SAY_IF(!ioctl(s->slave, TIOCSPGRP, &j.pid));
	SAY_IF(!ioctl(s->slave, TIOCNOTTY));
	asked(ask);
	SAY_IF(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
	SAY_IF(session_of(s->slave) < 0 && getsid(0) == getppid());
	job_ask(&j, "foreground");
	SAY_IF(!unwanted && write(answer, "ok", 2) == 2);
	kill(j.pid, SIGKILL);
}

static void notty(void)
{
	struct session s;
	struct job j;
	char c;

	watch();
	signal(SIGTTOU, SIG_IGN);
	s.master = new_master(O_CLOEXEC);
	s.slave = open_slave(s.master, 0);
	CHECK(!pipe(s.ready));
	job_start(&j, without, &s);
	CHECK(read(s.ready[0], &c, 1) == 1);
	t_sleep_ms(20);
	t_wait();
	put(s.master, "line\n");
	job_ask(&j, "without a terminal");
	CHECK(!unwanted && session_of(s.slave) == getpid());
}

/* Two, as under a terminal multiplexer; their leaders have no descriptor of the terminal any more. */
static void sessions(void)
{
	struct session s[2];
	struct job j[2];

	watch();
	session_start(&s[0], &j[0], false);
	session_start(&s[1], &j[1], false);
	t_wait();
	session_check(&s[1], &j[1]);
	session_check(&s[0], &j[0]);
	CHECK(!unwanted);
}

/* The slave is open for writing in one place and for reading in another. */
static void oneway(void)
{
	int m = new_master(0), s = open_slave(m, O_NOCTTY), w, r;
	char path[32];

	set_raw(s);
	snprintf(path, sizeof(path), "/dev/pts/%d", number_of(m));
	CHECK((w = open(path, O_WRONLY | O_NOCTTY | O_APPEND)) >= 0);
	CHECK((r = open(path, O_RDONLY | O_NOCTTY)) >= 0);
	close(s);
	put(m, "input");
	put(w, "output");
	t_wait();
	expect(r, "input", 5);
	expect(m, "output", 6);
	CHECK(write(r, "x", 1) < 0 && errno == EBADF && read(w, path, 1) < 0 && errno == EBADF);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "raw", raw },	      { "canon", canon },   { "modes", modes },	      { "stopped", stopped },
		{ "full", full },     { "hungup", hungup }, { "hungother", hungother }, { "closed", closed },     { "unopened", unopened },
		{ "ctty", ctty },     { "devtty", devtty }, { "async", async },	      { "several", several },
		{ "jobs", jobs },     { "sessions", sessions }, { "oneway", oneway },
		{ "notty", notty },
	};

	T_RUN(variants, t_init(argc, argv));
}
