// SPDX-License-Identifier: MIT
/* UNIX sockets: pairs, names, listeners, queues with what travels in them, options, and ends that are gone. */
#include "target.h"

#include <grp.h>
#include <linux/filter.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PATH "unix.sock"
#define SIOCUNIXFILE 0x89E0

static struct sockaddr_un address(const char *name, socklen_t *len)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	strcpy(a.sun_path + (*name == '@'), name + (*name == '@'));
	*len = offsetof(struct sockaddr_un, sun_path) + strlen(name) + (*name != '@');
	return a;
}

static char *absolute(const char *name)
{
	char *b = malloc(256), cwd[100];

	CHECK(getcwd(cwd, sizeof(cwd)));
	snprintf(b, 256, "%s/%s", cwd, name);
	CHECK(strlen(b) < 107);
	return b;
}

/* Abstract names are everybody's. */
static char *abstract(const char *what)
{
	char *b = malloc(64);

	snprintf(b, 64, "@ckpt-%d-%s", getpid(), what);
	return b;
}

static int make(int type, const char *name)
{
	int fd = socket(AF_UNIX, type, 0);
	socklen_t len;

	CHECK(fd >= 0);
	if (name) {
		struct sockaddr_un a = address(name, &len);

		if (*name != '@')
			unlink(name);
		CHECK(!bind(fd, (struct sockaddr *)&a, len));
	}
	return fd;
}

static int join(int fd, const char *name)
{
	socklen_t len;
	struct sockaddr_un a = address(name, &len);

	return connect(fd, (struct sockaddr *)&a, len);
}

static bool is_named(int fd, const char *name, bool peer)
{
	struct sockaddr_un got, want = { 0 };
	socklen_t len = sizeof(got), n = sizeof(want.sun_family);

	if (name)
		want = address(name, &n);
	if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&got, &len))
		return false;
	return len == n && !memcmp(got.sun_path, want.sun_path, n - offsetof(struct sockaddr_un, sun_path));
}

static void put(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), MSG_DONTWAIT) == (ssize_t)strlen(text));
}

static void get(int fd, const char *text)
{
	char b[256];
	ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT);

	if (n != (ssize_t)strlen(text) || memcmp(b, text, n))
		FAIL("fd %d: got %zd bytes '%.*s' instead of '%s' (%s)", fd, n, n > 0 ? (int)n : 0, b, text,
		     n < 0 ? strerror(errno) : "");
}

static void none(int fd)
{
	char b;

	CHECK(recv(fd, &b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static int option(int fd, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_SOCKET, name, &v, &n));
	return v;
}

static void set(int fd, int name, int v)
{
	CHECK(!setsockopt(fd, SOL_SOCKET, name, &v, sizeof(v)));
}

/* -------------------------------------------------------------------------------------------------------- pairs */

static void pairs(void)
{
	int st[2], sq[2], dg[2], dup_, nb[2];
	struct stat a, b;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, st) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sq));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, dg));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, nb));
	CHECK((dup_ = dup(st[1])) >= 0);
	put(st[0], "there"), put(st[1], "and back"), put(st[1], " again");
	put(sq[0], "one"), put(sq[0], ""), put(sq[0], "three"), put(sq[1], "x");
	put(dg[0], "first"), put(dg[0], ""), put(dg[0], "second");
	t_wait();
	get(st[1], "there"), get(st[0], "and back again");
	get(sq[1], "one"), get(sq[1], ""), get(sq[1], "three"), get(sq[0], "x");
	get(dg[1], "first"), get(dg[1], ""), get(dg[1], "second");
	none(st[0]), none(sq[1]), none(dg[1]), none(dg[0]), none(nb[0]);
	put(st[0], "more"), get(dup_, "more"), put(dup_, "back"), get(st[0], "back");
	put(dg[1], "d"), get(dg[0], "d");
	CHECK(!fstat(st[1], &a) && !fstat(dup_, &b) && a.st_ino == b.st_ino);
	CHECK(fcntl(nb[0], F_GETFL) & O_NONBLOCK && !(fcntl(st[0], F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(dg[0], F_GETFD) == FD_CLOEXEC && !fcntl(sq[0], F_GETFD));
	CHECK(is_named(st[0], NULL, false) && is_named(st[0], NULL, true));
	close(sq[0]);
	CHECK(recv(sq[1], &a, 1, 0) == 0);
}

/* As full as they get. */
static void full(void)
{
	static char big[65536];
	int st[2], dg[2], n = 0, m = 0, k = 0, more = 0;
	ssize_t r;
	long total = 0, got = 0;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, st));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dg));
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = i * 7;
	while ((r = send(st[0], big, sizeof(big), 0)) > 0)
		total += r;
	while (send(dg[0], big, 1000 + n, 0) > 0)
		n++;
	while (send(dg[1], big, 60000, 0) > 0)
		m++;
	t_wait();
	while ((r = recv(st[1], big, sizeof(big), 0)) > 0)
		got += r;
	CHECK(got == total);
	while ((r = recv(dg[1], big, sizeof(big), 0)) > 0)
		CHECK(r == 1000 + k++);
	CHECK(k == n);
	while ((r = recv(dg[0], big, sizeof(big), 0)) > 0)
		CHECK(r == 60000 && ++more);
	CHECK(more == m && n > 10);
}

/* -------------------------------------------------------------------------------------------- names, listeners */

static void connection(int type, const char *name)
{
	int l = make(type, name), c[3], s[2];
	struct stat st;

	CHECK(!listen(l, 7));
	for (int i = 0; i < 3; i++) {
		c[i] = make(type, i == 1 ? abstract(type == SOCK_STREAM ? "cs" : "cq") : NULL);
		if (*name != '@' || i != 1)
			CHECK(!join(c[i], name));
		if (i < 2 && (*name != '@' || i != 1))
			CHECK((s[i] = accept(l, NULL, NULL)) >= 0);
	}
	put(c[0], "to server"), put(s[0], "to client");
	if (*name != '@')
		CHECK(!chmod(name, 0640) && !chown(name, 12, 34));
	t_wait();
	get(s[0], "to server"), get(c[0], "to client");
	CHECK(is_named(s[0], name, false) && is_named(c[0], name, true) && is_named(l, name, false));
	CHECK(is_named(c[0], NULL, false) && is_named(s[0], NULL, true) && option(l, SO_ACCEPTCONN));
	if (*name != '@') {
		CHECK(is_named(s[1], abstract(type == SOCK_STREAM ? "cs" : "cq"), true));
		CHECK(!stat(name, &st) && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0640 && st.st_uid == 12 && st.st_gid == 34);
	}
	put(c[2], "late"); /* not accepted before */
	CHECK((s[0] = accept(l, NULL, NULL)) >= 0);
	get(s[0], "late");
	c[0] = make(type, NULL);
	CHECK(!join(c[0], name) && (s[0] = accept(l, NULL, NULL)) >= 0);
	put(s[0], "new"), get(c[0], "new");
	close(l);
	if (*name != '@')
		unlink(name);
}

static void path(void)
{
	connection(SOCK_STREAM, absolute(PATH));
}

static void seqpath(void)
{
	connection(SOCK_SEQPACKET, absolute(PATH));
}

static void abstractname(void)
{
	connection(SOCK_STREAM, abstract("l"));
}

static void relative(void)
{
	CHECK(!mkdir("sub", 0755) || errno == EEXIST);
	connection(SOCK_STREAM, "sub/" PATH);
}

/* The name counts from a folder that is not the working directory any more; and one that goes up. */
static void elsewhere(void)
{
	int a, b;

	CHECK(!mkdir("one", 0755) && !mkdir("two", 0755) && !chdir("one"));
	a = make(SOCK_DGRAM, "here");
	b = make(SOCK_DGRAM, "../two/there");
	t_wait();
	CHECK(is_named(a, "here", false) && is_named(b, "../two/there", false));
	CHECK(!join(b, absolute("here")));
	put(b, "x"), get(a, "x");
	CHECK(!chdir(".."));
	CHECK(!join(a, absolute("two/there")));
	put(a, "y"), get(b, "y");
}

/* Moved after the bind, as some do to publish it at once. */
static void moved(void)
{
	int l = make(SOCK_STREAM, absolute("tmp.sock")), c = socket(AF_UNIX, SOCK_STREAM, 0), s;

	CHECK(!listen(l, 1) && !rename("tmp.sock", "final.sock"));
	t_wait();
	CHECK(is_named(l, absolute("tmp.sock"), false) && access("tmp.sock", F_OK));
	CHECK(!join(c, absolute("final.sock")) && (s = accept(l, NULL, NULL)) >= 0);
	CHECK(is_named(c, absolute("tmp.sock"), true));
	put(c, "x"), get(s, "x");
}

/* Three generations of one name; the first two are deleted. A connection of the first one lives on without its listener. */
static void replaced(void)
{
	const char *name = absolute(PATH);
	int l[3], c[3], s[3], n;

	for (int i = 0; i < 3; i++) {
		l[i] = make(SOCK_STREAM, name);
		c[i] = make(SOCK_STREAM, NULL);
		CHECK(!listen(l[i], 5) && !join(c[i], name) && (s[i] = accept(l[i], NULL, NULL)) >= 0);
		put(c[i], i ? i == 1 ? "b" : "c" : "a");
	}
	close(l[0]);
	t_wait();
	for (int i = 0; i < 3; i++) {
		get(s[i], i ? i == 1 ? "b" : "c" : "a");
		CHECK(is_named(s[i], name, false) && is_named(c[i], name, true));
	}
	CHECK(option(l[1], SO_ACCEPTCONN) && is_named(l[1], name, false));
	n = make(SOCK_STREAM, NULL);
	CHECK(!join(n, name));
	CHECK(fcntl(l[1], F_SETFL, O_NONBLOCK) == 0 && accept(l[1], NULL, NULL) < 0 && errno == EAGAIN);
	CHECK(accept(l[2], NULL, NULL) >= 0);
}

static void pending(void)
{
	const char *name = absolute(PATH);
	int l = make(SOCK_STREAM, name), c[5], s, before;
	char text[8];

	CHECK(!listen(l, 10));
	for (int i = 0; i < 5; i++)
		c[i] = make(SOCK_STREAM, NULL);
	for (int i = 4; i >= 0; i--) /* against the order of their numbers */
		CHECK(!join(c[i], name));
	CHECK(!shutdown(c[1], SHUT_RD));
	CHECK(!listen(l, 2)); /* less room than what waits */
	before = fcntl(c[0], F_GETFL);
	t_wait();
	for (int i = 4; i >= 0; i--) {
		CHECK((s = accept(l, NULL, NULL)) >= 0);
		snprintf(text, sizeof(text), "n%d", i);
		put(c[i], text), get(s, text);
		CHECK(is_named(c[i], name, true) && is_named(s, name, false));
		if (i != 1)
			put(s, text), get(c[i], text);
	}
	CHECK(fcntl(c[0], F_GETFL) == before);
	CHECK(fcntl(l, F_SETFL, O_NONBLOCK) == 0 && accept(l, NULL, NULL) < 0 && errno == EAGAIN);
	for (int i = 0; i < 3; i++)
		CHECK(!join(s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), name));
	CHECK(join(s = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), name) < 0 && errno == EAGAIN);
}

/* Another program's tests look for a blocked connect: it goes on after the checkpoint. */
static void *connect_late(void *arg)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	CHECK(!join(fd, arg));
	put(fd, "blocked");
	return NULL;
}

static void connecting(void)
{
	char *name = absolute(PATH);
	int l = make(SOCK_STREAM, name), c = make(SOCK_STREAM, NULL), s;
	pthread_t t;

	CHECK(!listen(l, 0) && !join(c, name));
	CHECK(!pthread_create(&t, NULL, connect_late, name));
	t_sleep_ms(100);
	t_wait();
	CHECK((s = accept(l, NULL, NULL)) >= 0);
	put(c, "first"), get(s, "first");
	CHECK((s = accept(l, NULL, NULL)) >= 0);
	pthread_join(t, NULL);
	get(s, "blocked");
}

/* ------------------------------------------------------------------------------------------------------ datagrams */

static void from(int fd, const char *text, const char *name)
{
	struct sockaddr_un got, want;
	socklen_t len = sizeof(got), n = 0;
	char b[64];
	ssize_t r = recvfrom(fd, b, sizeof(b), MSG_DONTWAIT, (struct sockaddr *)&got, &len);

	if (r != (ssize_t)strlen(text) || memcmp(b, text, r))
		FAIL("'%.*s' instead of '%s'", r > 0 ? (int)r : 0, b, text);
	if (name)
		want = address(name, &n);
	if (len != n || (n && memcmp(want.sun_path, got.sun_path, n - 2)))
		FAIL("'%s' came from %s, not from %s", text, len > 2 ? got.sun_path + !got.sun_path[0] : "-", name ? name : "-");
}

static void dgrams(void)
{
	const char *srv = absolute("srv"), *one = absolute("one"), *two = abstract("two"), *gone = absolute("gone");
	int s = make(SOCK_DGRAM, srv), a = make(SOCK_DGRAM, one), b = make(SOCK_DGRAM, two), c = make(SOCK_DGRAM, NULL);
	int g = make(SOCK_DGRAM, gone), x = make(SOCK_DGRAM, abstract("x")), y = make(SOCK_DGRAM, abstract("y"));
	int p[2], t[2], f = make(SOCK_DGRAM, absolute("free"));

	CHECK(!join(a, srv) && !join(b, srv) && !join(c, srv) && !join(g, srv) && !join(x, abstract("y")) && !join(y, abstract("x")));
	put(a, "from one"), put(b, "from two"), put(c, "unnamed"), put(g, "from the grave"), put(a, "again");
	close(g);
	unlink(gone);
	for (int i = 0; i < 20; i++)
		put(x, "many");
	/* an end of a pair that is connected elsewhere now; its old partner still sends to it, in vain */
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, p) && !join(p[1], absolute("free")));
	/* a chain: nobody but its peer may connect to a connected socket */
	t[0] = make(SOCK_DGRAM, abstract("t0"));
	t[1] = make(SOCK_DGRAM, abstract("t1"));
	CHECK(!join(t[0], abstract("t1")) && !join(t[1], srv));
	t_wait();
	from(s, "from one", one), from(s, "from two", two), from(s, "unnamed", NULL), from(s, "from the grave", gone);
	from(s, "again", one), none(s);
	for (int i = 0; i < 20; i++)
		from(y, "many", abstract("x"));
	put(a, "1"), from(s, "1", one), put(b, "2"), from(s, "2", two), put(y, "3"), from(x, "3", abstract("y"));
	CHECK(is_named(a, srv, true) && is_named(p[1], absolute("free"), true));
	put(p[1], "pair"), from(f, "pair", NULL);
	CHECK(send(p[0], "no", 2, MSG_DONTWAIT) < 0 && errno == EPERM);
	CHECK(is_named(t[0], abstract("t1"), true) && is_named(t[1], srv, true));
	CHECK(send(t[0], "no", 2, MSG_DONTWAIT) < 0 && errno == EPERM);
	put(t[1], "chain"), from(s, "chain", abstract("t1"));
	CHECK(is_named(c, srv, true) && is_named(c, NULL, false));
}

/* ------------------------------------------------------------------------------------------- ends that are gone */

static int events(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP };

	poll(&p, 1, 0);
	return p.revents;
}

static void halves(void)
{
	const char *name = absolute(PATH);
	int a[2], b[2], c[2], d[2], e[2], l = make(SOCK_STREAM, name), cl = make(SOCK_STREAM, NULL), ac, before[8], g, h;
	int fds[8];
	char buf[8];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, a) && !socketpair(AF_UNIX, SOCK_STREAM, 0, b));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, c) && !socketpair(AF_UNIX, SOCK_STREAM, 0, d));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, e));
	put(a[0], "last words"), close(a[0]);	 /* the end comes after what is queued */
	put(b[0], "last"), put(b[1], "unread"), close(b[0]); /* it had not read everything */
	CHECK(!shutdown(c[0], SHUT_WR));
	put(c[1], "still"); /* the other direction is open */
	CHECK(!shutdown(d[0], SHUT_RDWR));
	put(e[0], "bye"), close(e[0]);
	CHECK(!listen(l, 5) && !join(cl, name) && (ac = accept(l, NULL, NULL)) >= 0);
	put(cl, "gone"), close(cl);
	/* a client whose listener went away before it was accepted */
	g = make(SOCK_STREAM, absolute("away"));
	h = make(SOCK_STREAM, NULL);
	CHECK(!listen(g, 5) && !join(h, absolute("away")));
	close(g);
	memcpy(fds, (int[]){ a[1], b[1], c[0], c[1], d[0], d[1], ac, h }, sizeof(fds));
	for (int i = 0; i < 8; i++)
		before[i] = events(fds[i]);
	t_wait();
	for (int i = 0; i < 8; i++)
		if (events(fds[i]) != before[i])
			FAIL("socket %d: poll says %x, not %x", i, events(fds[i]), before[i]);
	get(a[1], "last words"), get(a[1], "");
	CHECK(send(a[1], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(option(b[1], SO_ERROR) == ECONNRESET && option(b[1], SO_ERROR) == 0);
	get(b[1], "last"), get(b[1], "");
	get(c[0], "still"), get(c[1], "");
	put(c[1], "on"), get(c[0], "on");
	CHECK(send(c[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(send(d[1], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE && recv(d[1], buf, 1, 0) == 0);
	get(e[1], "bye");
	CHECK(send(e[1], "x", 1, MSG_DONTWAIT) < 0 && errno == ECONNREFUSED);
	get(ac, "gone"), get(ac, "");
	CHECK(is_named(ac, name, false));
	CHECK(option(h, SO_ERROR) == ECONNRESET && is_named(h, absolute("away"), true));
}

/* -------------------------------------------------------------------------------------------- what travels along */

static void send_with(int fd, const char *text, const int *fds, int n, const struct ucred *cred)
{
	union {
		struct cmsghdr c;
		char space[CMSG_SPACE(sizeof(int) * 16) + CMSG_SPACE(sizeof(struct ucred))];
	} control = { 0 };
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	size_t len = 0;

	if (n) {
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int)) };
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
		len += CMSG_SPACE(n * sizeof(int));
		c = (struct cmsghdr *)(control.space + len);
	}
	if (cred) {
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_CREDENTIALS, .cmsg_len = CMSG_LEN(sizeof(*cred)) };
		memcpy(CMSG_DATA(c), cred, sizeof(*cred));
		len += CMSG_SPACE(sizeof(*cred));
	}
	m.msg_controllen = len;
	CHECK(sendmsg(fd, &m, MSG_DONTWAIT) == (ssize_t)strlen(text));
}

struct got {
	char text[64];
	ssize_t n;
	int fds[16], n_fds;
	struct ucred cred;
	bool has_cred;
};

static struct got receive(int fd, size_t most)
{
	union {
		struct cmsghdr c;
		char space[CMSG_SPACE(sizeof(int) * 16) + CMSG_SPACE(sizeof(struct ucred))];
	} control = { 0 };
	struct got g = { .n = 0 };
	struct iovec iov = { g.text, most };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };

	CHECK((g.n = recvmsg(fd, &m, MSG_DONTWAIT)) >= 0 && !(m.msg_flags & MSG_CTRUNC));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_type == SCM_RIGHTS) {
			g.n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(g.fds, CMSG_DATA(c), g.n_fds * sizeof(int));
		}
		if (c->cmsg_type == SCM_CREDENTIALS) {
			memcpy(&g.cred, CMSG_DATA(c), sizeof(g.cred));
			g.has_cred = true;
		}
	}
	return g;
}

static void rights(void)
{
	int s[2], q[2], in[2], in2[2], p[2], file, deleted, kept, loop[2];
	struct got g;
	char b[16];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, q) && !pipe(p));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, in) && !socketpair(AF_UNIX, SOCK_STREAM, 0, in2));
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, loop));
	CHECK((file = open("carried", O_CREAT | O_RDWR, 0600)) >= 0 && write(file, "carried", 7) == 7);
	CHECK((deleted = open("deleted", O_CREAT | O_RDWR, 0600)) >= 0 && write(deleted, "ghost", 5) == 5 && !unlink("deleted"));
	CHECK(lseek(deleted, 2, SEEK_SET) == 2);
	kept = dup(file); /* this one a task has, too */
	/* a stream: descriptors belong to one place in it */
	put(s[0], "before ");
	send_with(s[0], "with", (int[]){ file, deleted }, 2, NULL);
	put(s[0], " after");
	send_with(s[0], "!", (int[]){ p[0] }, 1, NULL);
	/* a socket in a socket in a socket, each with something queued */
	put(in2[0], "innermost");
	send_with(in[0], "inner", (int[]){ in2[1], file }, 2, NULL);
	send_with(q[0], "outer", (int[]){ in[1] }, 1, NULL);
	/* and one in its own queue, which nobody else has */
	put(loop[0], "me");
	send_with(loop[0], "loop", (int[]){ loop[1] }, 1, NULL);
	CHECK(write(p[1], "piped", 5) == 5);
	close(file), close(deleted), close(in[0]), close(in[1]), close(in2[1]), close(p[0]), close(p[1]);
	t_wait();
	g = receive(s[1], 7);
	CHECK(g.n == 7 && !memcmp(g.text, "before ", 7) && !g.n_fds);
	g = receive(s[1], 64);
	CHECK(g.n == 4 && !memcmp(g.text, "with", 4) && g.n_fds == 2);
	CHECK(pread(g.fds[0], b, 16, 0) == 7 && !memcmp(b, "carried", 7) && read(g.fds[1], b, 16) == 3 && !memcmp(b, "ost", 3));
	CHECK(lseek(g.fds[0], 3, SEEK_SET) == 3 && lseek(kept, 0, SEEK_CUR) == 3); /* one description */
	g = receive(s[1], 64);
	CHECK(g.n == 7 && !memcmp(g.text, " after!", 7) && g.n_fds == 1);
	CHECK(read(g.fds[0], b, 16) == 5 && !memcmp(b, "piped", 5) && read(g.fds[0], b, 16) == 0);
	g = receive(q[1], 64);
	CHECK(g.n == 5 && !memcmp(g.text, "outer", 5) && g.n_fds == 1);
	g = receive(g.fds[0], 64);
	CHECK(g.n == 5 && !memcmp(g.text, "inner", 5) && g.n_fds == 2 && lseek(g.fds[1], 0, SEEK_CUR) == 3);
	get(g.fds[0], "innermost");
	put(g.fds[0], "out"), get(in2[0], "out");
	get(loop[1], "me");
	g = receive(loop[1], 64);
	CHECK(g.n == 4 && g.n_fds == 1);
	put(loop[0], "same"), get(g.fds[0], "same");
	none(s[1]), none(q[1]);
	CHECK(option(s[1], SO_PEEK_OFF) == -1 && !option(s[1], SO_PASSCRED));
}

/* A process of ours that is no more by the time of the checkpoint, with other ids; returns its PID. */
static pid_t by_another(void (*fn)(void *), void *arg)
{
	pid_t pid = fork();

	if (!pid) {
		CHECK(!setgroups(2, (gid_t[]){ 7, 8 }) && !setresgid(2000, 2000, 2000) && !setresuid(1000, 1000, 1000));
		fn(arg);
		_exit(0);
	}
	CHECK(pid > 0 && waitpid(pid, NULL, 0) == pid);
	return pid;
}

static void send_cred(void *arg)
{
	put(*(int *)arg, "another");
}

static void is_from(struct got g, const char *text, pid_t pid, uid_t uid)
{
	if (!g.has_cred || g.cred.pid != pid || g.cred.uid != uid || g.n != (ssize_t)strlen(text) || memcmp(g.text, text, g.n))
		FAIL("'%.*s' of process %d, user %d instead of '%s' of %d, %d", (int)g.n, g.text, g.cred.pid, (int)g.cred.uid,
		     text, pid, (int)uid);
}

static void creds(void)
{
	int d[2], s[2], late[2];
	struct ucred mine = { getpid(), 0, 0 };
	pid_t other, other2;

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, d) && !socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, late));
	set(d[1], SO_PASSCRED, 1), set(s[1], SO_PASSCRED, 1);
	put(d[0], "mine");
	other = by_another(send_cred, &d[0]);
	put(s[0], "abc"), put(s[0], "def");
	other2 = by_another(send_cred, &s[0]);
	put(s[0], "ghi");
	put(late[0], "plain"); /* without, in a socket that asks for them only now */
	send_with(late[0], "told", NULL, 0, &mine);
	t_wait();
	CHECK(option(d[1], SO_PASSCRED) && option(s[1], SO_PASSCRED) && !option(late[1], SO_PASSCRED) && !option(d[0], SO_PASSCRED));
	is_from(receive(d[1], 64), "mine", getpid(), 0);
	is_from(receive(d[1], 64), "another", other, 1000);
	is_from(receive(s[1], 64), "abcdef", getpid(), 0);
	is_from(receive(s[1], 64), "another", other2, 1000);
	is_from(receive(s[1], 64), "ghi", getpid(), 0);
	set(late[1], SO_PASSCRED, 1);
	is_from(receive(late[1], 64), "plain", 0, 65534);
	is_from(receive(late[1], 64), "told", getpid(), 0);
	CHECK(is_named(d[1], NULL, false)); /* passing credentials binds a socket only when it sends */
}

static int handed[8];

static void make_pair(void *arg)
{
	int s[2];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	send_with(*(int *)arg, "x", s, 2, NULL);
}

static void do_connect(void *arg)
{
	CHECK(!join(*(int *)arg, absolute(PATH)));
}

static void do_listen(void *arg)
{
	CHECK(!listen(*(int *)arg, 5));
}

static void is_peer(int fd, pid_t pid, uid_t uid, gid_t gid, bool groups)
{
	struct ucred c;
	socklen_t n = sizeof(c), ng = sizeof(gid_t[16]);
	gid_t g[16];

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n));
	if (c.pid != pid || c.uid != uid || c.gid != gid)
		FAIL("fd %d: the peer is %d, %d, %d, not %d, %d, %d", fd, c.pid, (int)c.uid, (int)c.gid, pid, (int)uid, (int)gid);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, g, &ng));
	CHECK(!groups || (ng == 2 * sizeof(gid_t) && g[0] == 7 && g[1] == 8));
}

static void peercred(void)
{
	int s[2], hand[2], l = make(SOCK_STREAM, absolute(PATH)), c[2], a[2], l2 = make(SOCK_SEQPACKET, abstract("l2"));
	pid_t maker, client, lister;
	struct got g;

	CHECK(!chmod(PATH, 0777) && !listen(l, 5));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s) && !socketpair(AF_UNIX, SOCK_STREAM, 0, hand));
	maker = by_another(make_pair, &hand[0]);
	g = receive(hand[1], 1);
	CHECK(g.n_fds == 2);
	memcpy(handed, g.fds, sizeof(g.fds[0]) * 2);
	CHECK(chmod(".", 0755) == 0);
	c[0] = make(SOCK_STREAM, NULL);
	c[1] = make(SOCK_STREAM, NULL);
	client = by_another(do_connect, &c[0]);
	CHECK((a[0] = accept(l, NULL, NULL)) >= 0);
	CHECK(!join(c[1], absolute(PATH)) && (a[1] = accept(l, NULL, NULL)) >= 0);
	CHECK(!chmod(PATH, 0600)); /* whoever connected would not get in any more */
	lister = by_another(do_listen, &l2);
	t_wait();
	is_peer(s[0], getpid(), 0, 0, false), is_peer(s[1], getpid(), 0, 0, false);
	is_peer(handed[0], maker, 1000, 2000, true), is_peer(handed[1], maker, 1000, 2000, true);
	is_peer(c[0], getpid(), 0, 0, false), is_peer(c[1], getpid(), 0, 0, false);
	is_peer(a[0], client, 1000, 2000, true), is_peer(a[1], getpid(), 0, 0, false);
	is_peer(l, getpid(), 0, 0, false), is_peer(l2, lister, 1000, 2000, true);
	c[0] = make(SOCK_SEQPACKET, NULL);
	CHECK(!join(c[0], abstract("l2")));
	is_peer(c[0], lister, 1000, 2000, true);
}

/* --------------------------------------------------------------------------------------------------------- options */

static void options(void)
{
	static const struct {
		int name, value;
	} want[] = {
		{ SO_REUSEADDR, 1 }, { SO_REUSEPORT, 0 }, { SO_PRIORITY, 5 }, { SO_RCVLOWAT, 3 }, { SO_MARK, 77 }, { SO_PASSCRED, 1 },
		{ SO_PASSSEC, 1 }, { SO_DONTROUTE, 1 }, { SO_NO_CHECK, 1 }, { SO_BROADCAST, 1 }, { SO_KEEPALIVE, 1 },
		{ SO_OOBINLINE, 1 }, { SO_TIMESTAMP, 1 }, { SO_RXQ_OVFL, 1 }, { SO_PEEK_OFF, 2 }, { SO_SELECT_ERR_QUEUE, 1 },
		{ 76 /* SO_PASSPIDFD */, 1 }, { 83 /* SO_PASSRIGHTS */, 0 },
	};
	struct sock_filter code[] = { { 0x06, 0, 0, 2 } }, got[4]; /* two bytes of a datagram pass */
	struct sock_fprog prog = { 1, code };
	struct timeval snd = { 3, 250000 }, rcv = { 5, 0 }, tv;
	struct linger l = { 1, 9 }, l2;
	int s[2], small[2], fresh = make(SOCK_STREAM, NULL), before[32], n_small;
	socklen_t n;
	char b[8];

	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, s) && !socketpair(AF_UNIX, SOCK_DGRAM, 0, small));
	put(s[1], "longer than the filter lets through"); /* queued before */
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		int v = want[i].value;

		setsockopt(s[0], SOL_SOCKET, want[i].name, &v, sizeof(v)); /* older kernels lack some */
		n = sizeof(before[i]);
		before[i] = -99;
		getsockopt(s[0], SOL_SOCKET, want[i].name, &before[i], &n);
	}
	CHECK(!setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &snd, sizeof(snd)) && !setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &rcv, sizeof(rcv)));
	CHECK(!setsockopt(s[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l)) && !setsockopt(s[0], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
	set(s[0], SO_LOCK_FILTER, 1);
	set(s[0], SO_SNDBUF, 40000), set(s[0], SO_RCVBUF, 50000);
	put(small[0], "a packet that is longer than the buffer will be");
	set(small[0], SO_SNDBUF, 1);
	n_small = option(small[0], SO_SNDBUF);
	CHECK(!fchown(s[0], 55, 66) && !fchmod(s[0], 0640));
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		int v = -99;

		n = sizeof(v);
		getsockopt(s[0], SOL_SOCKET, want[i].name, &v, &n);
		if (v != before[i])
			FAIL("option %d is %d, not %d", want[i].name, v, before[i]);
	}
	n = sizeof(tv);
	CHECK(!getsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &tv, &n) && tv.tv_sec == 3 && tv.tv_usec / 10000 == 25);
	CHECK(!getsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &tv, &n) && tv.tv_sec == 5 && !tv.tv_usec);
	n = sizeof(l2);
	CHECK(!getsockopt(s[0], SOL_SOCKET, SO_LINGER, &l2, &n) && l2.l_onoff == 1 && l2.l_linger == 9);
	n = ARRAY_SIZE(got);
	CHECK(!getsockopt(s[0], SOL_SOCKET, SO_GET_FILTER, got, &n) && n == 1 && !memcmp(got, code, sizeof(code)));
	CHECK(option(s[0], SO_LOCK_FILTER) == 1 && option(s[0], SO_SNDBUF) == 80000 && option(s[0], SO_RCVBUF) == 100000);
	CHECK(option(small[0], SO_SNDBUF) == n_small && option(s[0], 72 /* SO_BUF_LOCK */) == 3 && option(fresh, 72) == 0);
	get(s[0], "longer than the filter lets through");
	put(s[1], "four");
	CHECK(recv(s[0], b, sizeof(b), MSG_DONTWAIT) == 2);
	get(small[1], "a packet that is longer than the buffer will be");
	struct stat st;
	CHECK(!fstat(s[0], &st) && st.st_uid == 55 && st.st_gid == 66 && (st.st_mode & 07777) == 0640);
}

/* Looking at so many takes a while: for an engine that is killed meanwhile. */
#define QUEUES 150
static void queues(void)
{
	int s[QUEUES][2], in[2], holder[2];
	struct got g;

	for (int i = 0; i < QUEUES; i++) {
		CHECK(!socketpair(AF_UNIX, i % 3 ? i % 3 == 1 ? SOCK_STREAM : SOCK_DGRAM : SOCK_SEQPACKET, 0, s[i]));
		put(s[i][0], "first"), put(s[i][0], "second");
		for (int j = 0; i % 3 != 1 && j < 60; j++)
			put(s[i][0], "more");
		if (i % 5 == 0)
			set(s[i][1], SO_PASSCRED, 1);
		if (i % 7 == 0)
			set(s[i][1], SO_PEEK_OFF, 1);
	}
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, holder));
	for (int i = 0; i < 8; i++) {
		CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, in));
		put(in[0], "in"), put(in[0], "flight");
		send_with(holder[0], "x", in, 2, NULL);
		close(in[0]), close(in[1]);
	}
	t_wait();
	for (int i = 0; i < QUEUES; i++) {
		CHECK(option(s[i][1], SO_PASSCRED) == (i % 5 == 0) && option(s[i][1], SO_PEEK_OFF) == (i % 7 ? -1 : 1));
		if (i % 3 == 1) {
			get(s[i][1], "firstsecond");
			continue;
		}
		set(s[i][1], SO_PASSCRED, 0);
		get(s[i][1], "first"), get(s[i][1], "second");
		for (int j = 0; j < 60; j++)
			get(s[i][1], "more");
		none(s[i][1]);
	}
	for (int i = 0; i < 8; i++) {
		g = receive(holder[1], 1);
		CHECK(g.n_fds == 2 && !option(g.fds[1], SO_PASSCRED) && option(g.fds[1], SO_PEEK_OFF) == -1);
		get(g.fds[1], "in"), get(g.fds[1], "flight");
	}
}

/* ------------------------------------------------------------------------------------------------- several tasks */

static int talk[2]; /* the parent has [0], the child [1] */

/* Does what it is told, after the checkpoint, too. */
static void child_main(int l, int hand)
{
	const char *name = absolute("child");
	int srv = make(SOCK_DGRAM, name), cl = make(SOCK_STREAM, NULL), ac;
	struct got g;
	char c;

	CHECK(!join(cl, absolute(PATH)));
	put(cl, "from child");
	put(hand, "queued by child");
	put(talk[1], "r");
	while (recv(talk[1], &c, 1, 0) == 1) {
		if (c == 'q')
			break;
		if (c == 'a') { /* the listener is shared */
			CHECK((ac = accept(l, NULL, NULL)) >= 0);
			get(ac, "to child");
			put(ac, "accepted"), close(ac);
		} else if (c == 'd') { /* what the parent sent before */
			get(srv, "to a name"), none(srv);
		} else if (c == 'c') {
			get(cl, "to client"), put(cl, "alive");
			is_peer(cl, getppid(), 0, 0, false);
		} else if (c == 'f') {
			g = receive(hand, 64);
			CHECK(g.n_fds == 1 && g.n == 1);
			put(g.fds[0], "through what was in flight");
		}
		put(talk[1], "k");
	}
	close(talk[1]);
	CHECK(recv(cl, &c, 1, 0) == 0);
	_exit(0);
}

static void tell(const char *what)
{
	struct pollfd p = { .fd = talk[0], .events = POLLIN };
	char c;

	put(talk[0], what);
	CHECK(poll(&p, 1, 5000) == 1 && recv(talk[0], &c, 1, 0) == 1 && c == 'k');
}

static void family(void)
{
	const char *name = absolute(PATH);
	int l = make(SOCK_STREAM, name), hand[2], ac, cl, dg = make(SOCK_DGRAM, NULL), in[2], status;
	pid_t pid;
	char c;

	CHECK(!listen(l, 5) && !socketpair(AF_UNIX, SOCK_SEQPACKET, 0, talk) && !socketpair(AF_UNIX, SOCK_DGRAM, 0, hand));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, in));
	set(hand[0], SO_PASSCRED, 1);
	pid = fork();
	CHECK(pid >= 0);
	if (!pid) {
		close(hand[0]), close(talk[0]), close(in[0]), close(in[1]);
		child_main(l, hand[1]);
	}
	close(hand[1]), close(talk[1]);
	CHECK(recv(talk[0], &c, 1, 0) == 1 && (ac = accept(l, NULL, NULL)) >= 0);
	CHECK(!join(dg, absolute("child")));
	put(dg, "to a name");
	send_with(hand[0], "f", &in[1], 1, NULL);
	close(in[1]);
	t_wait();
	is_from(receive(hand[0], 64), "queued by child", pid, 0);
	is_peer(ac, pid, 0, 0, false), is_peer(talk[0], getpid(), 0, 0, false);
	get(ac, "from child"), put(ac, "to client"), tell("c"), get(ac, "alive");
	tell("d"), tell("f"), get(in[0], "through what was in flight");
	CHECK(!join(cl = make(SOCK_STREAM, NULL), name));
	put(cl, "to child"), tell("a"), get(cl, "accepted");
	put(talk[0], "q");
	close(ac);
	CHECK(waitpid(pid, &status, 0) == pid && !status);
}

/* Workers that wait in accept() on one listener. */
static void prefork(void)
{
	const char *name = abstract("pre");
	int l = make(SOCK_STREAM, name), c, s, status;
	pid_t pid[3];
	char b[8];

	CHECK(!listen(l, 5));
	for (int i = 0; i < 3; i++) {
		pid[i] = fork();
		if (!pid[i]) {
			for (;;) {
				CHECK((s = accept(l, NULL, NULL)) >= 0 && recv(s, b, 1, 0) == 1);
				put(s, "done");
				if (b[0] == 'q')
					_exit(0);
				close(s);
			}
		}
	}
	t_sleep_ms(50);
	t_wait();
	for (int i = 0; i < 8; i++) {
		CHECK(!join(c = make(SOCK_STREAM, NULL), name));
		put(c, i < 5 ? "x" : "q");
		CHECK(recv(c, b, 4, MSG_WAITALL) == 4 && !memcmp(b, "done", 4));
		close(c);
	}
	for (int i = 0; i < 3; i++)
		CHECK(waitpid(pid[i], &status, 0) == pid[i] && !status);
}

/* ------------------------------------------------------------------------------------------------------- outside */

/* The other end belongs to a child in a session of its own... which a single-process dump does not take. */
static int listener_outside(const char *name)
{
	int l = make(SOCK_DGRAM, name);

	return l;
}

/* Fails on purpose where it cannot be dumped: data on a connection that nobody has accepted. */
static void unaccepted(void)
{
	const char *name = absolute(PATH);
	int l = make(SOCK_STREAM, name), c = make(SOCK_STREAM, NULL), s;

	CHECK(!listen(l, 5) && !join(c, name));
	put(c, "early");
	t_wait();
	CHECK((s = accept(l, NULL, NULL)) >= 0);
	get(s, "early");
}

/* Whoever looks at the queue takes the error away, which comes before the message. */
static void reset(void)
{
	int s[2];

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, s));
	put(s[0], "last"), put(s[1], "unread"), close(s[0]);
	t_wait();
	CHECK(option(s[1], SO_ERROR) == ECONNRESET);
	get(s[1], "last");
}

static void closedclient(void)
{
	const char *name = absolute(PATH);
	int l = make(SOCK_STREAM, name), c = make(SOCK_STREAM, NULL), s;

	CHECK(!listen(l, 5) && !join(c, name));
	put(c, "early"), close(c);
	t_wait();
	CHECK((s = accept(l, NULL, NULL)) >= 0);
	get(s, "early"), get(s, "");
}

static void urgent(void)
{
	int s[2];
	char b;

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s));
	if (send(s[0], "ab!", 3, MSG_OOB) != 3)
		SKIP("no urgent data on UNIX sockets");
	t_wait();
	CHECK(recv(s[1], &b, 1, MSG_OOB) == 1 && b == '!');
}

/* Held by a process that is not dumped: an orphan. */
static void outside_of(int type, bool listening)
{
	const char *name = abstract("out");
	int s = make(type, NULL), ready[2];
	char b;

	CHECK(!pipe(ready));
	if (!fork()) {
		if (!fork()) {
			int l = listening ? make(type, name) : listener_outside(name);
			int a;

			if (listening)
				CHECK(!listen(l, 5));
			CHECK(write(ready[1], "", 1) == 1);
			close(ready[0]), close(ready[1]), close(s);
			setsid();
			a = listening ? accept(l, NULL, NULL) : l;
			alarm(100);
			while (recv(a, &b, 1, 0) == 1 && b != 'q')
				;
			_exit(0);
		}
		_exit(0);
	}
	CHECK(wait(NULL) > 0 && read(ready[0], &b, 1) == 1 && !join(s, name));
	close(ready[0]), close(ready[1]);
	put(s, "a");
	t_wait();
	CHECK(is_named(s, name, true));
	put(s, "q");
}

static void outsidestream(void)
{
	outside_of(SOCK_STREAM, true);
}

static void outsidedgram(void)
{
	outside_of(SOCK_DGRAM, false);
}

/* For tests/e2e/unix.py, which has the other end: of a stream, or of datagrams. */
static void to_outside(int type)
{
	int s = make(type, NULL);

	CHECK(!join(s, absolute("outer.sock")));
	put(s, "before");
	t_wait();
	put(s, "after");
	if (type == SOCK_STREAM)
		get(s, "answer");
}

static void client(void)
{
	to_outside(SOCK_STREAM);
}

static void logger(void)
{
	to_outside(SOCK_DGRAM);
}

static const struct t_variant variants[] = {
	{ "pairs", pairs }, { "full", full }, { "path", path }, { "seqpath", seqpath }, { "abstract", abstractname },
	{ "relative", relative }, { "elsewhere", elsewhere }, { "moved", moved }, { "replaced", replaced }, { "pending", pending },
	{ "connecting", connecting }, { "dgrams", dgrams }, { "halves", halves }, { "rights", rights }, { "creds", creds },
	{ "peercred", peercred }, { "options", options }, { "queues", queues }, { "family", family }, { "prefork", prefork }, { "client", client }, { "logger", logger },
	{ "unaccepted", unaccepted }, { "reset", reset }, { "closedclient", closedclient },
	{ "urgent", urgent }, { "outsidestream", outsidestream }, { "outsidedgram", outsidedgram },
};

int main(int argc, char **argv)
{
	const char *name = t_init(argc, argv);

	T_RUN(variants, name);
}
