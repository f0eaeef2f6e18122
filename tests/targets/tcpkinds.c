// SPDX-License-Identifier: MIT
/* TCP: families of addresses, options, groups, and connections of several tasks that are in the middle of something. */
#include "tcp.h"

#include <linux/filter.h>
#include <net/if.h>
#include <sys/epoll.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

/* ------------------------------------------------------------------------------------------------------ addresses */

static void six(void)
{
	struct tie t = tie(AF_INET6, "::1", 0), half = tie(AF_INET6, "::1", 2500), next;
	int l = listener(AF_INET6, "::1", 5), only = bound(AF_INET6, "::", 0), v6only;

	close(only);
	only = make(AF_INET6, 0);
	set_opt(only, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	struct addr a = address(AF_INET6, "::", 0);
	CHECK(!bind(only, &a.a, a.len) && !listen(only, 2));
	a = name_of(only);
	/* the same port, the other family: allowed only because of V6ONLY */
	int four = bound(AF_INET, "0.0.0.0", ntohs(a.v6.sin6_port));
	CHECK(!listen(four, 2));
	v6only = get_opt(l, IPPROTO_IPV6, IPV6_V6ONLY);
	push(&t.f[0], 3000), push(&t.f[1], 20000);
	fill(&half.f[0]);
	CHECK(!shutdown(half.fd[0], SHUT_WR));
	t_wait();
	CHECK(get_opt(only, IPPROTO_IPV6, IPV6_V6ONLY) == 1 && get_opt(l, IPPROTO_IPV6, IPV6_V6ONLY) == v6only);
	CHECK(state_of(half.fd[0]) == TCP_FIN_WAIT1);
	same_names(&half);
	drain(&half.f[0]), at_end(half.fd[1]);
	finish(&t);
	next = tie_to(l, make(AF_INET6, 0));
	finish(&next);
	next = tie_to(only, make(AF_INET6, 0));
	finish(&next);
	next = tie_to(four, make(AF_INET, 0));
	finish(&next);
}

/* IPv4 as it looks through IPv6 sockets: both ends, one end, and a listener for both. */
static void mapped(void)
{
	struct tie t = tie(AF_INET6, "::ffff:127.0.0.1", 0), mixed, half;
	int l = listener(AF_INET6, "::", 5), c = make(AF_INET, 0), s, m = listener(AF_INET6, "::ffff:127.0.0.1", 5);
	struct addr a = name_of(l), b = address(AF_INET, "127.0.0.1", ntohs(a.v6.sin6_port));

	CHECK(!connect(c, &b.a, b.len) && (s = accept(l, NULL, NULL)) >= 0);
	mixed = tie_of(c, s);
	push(&t.f[0], 3000), push(&t.f[1], 20000), push(&mixed.f[0], 200), push(&mixed.f[1], 100);
	half = tie_to(m, make(AF_INET6, 0));
	push(&half.f[0], 50);
	CHECK(!shutdown(half.fd[0], SHUT_WR));
	await_state(half.fd[0], TCP_FIN_WAIT2);
	t_wait();
	CHECK(state_of(half.fd[0]) == TCP_FIN_WAIT2 && state_of(half.fd[1]) == TCP_CLOSE_WAIT);
	same_names(&half);
	drain(&half.f[0]), at_end(half.fd[1]), push(&half.f[1], 50), drain(&half.f[1]);
	finish(&t), finish(&mixed);
	c = make(AF_INET, 0);
	CHECK(!connect(c, &b.a, b.len) && (s = accept(l, NULL, NULL)) >= 0);
	mixed = tie_of(c, s);
	finish(&mixed);
	t = tie_to(m, make(AF_INET6, 0));
	finish(&t);
}

static void device(void)
{
	int l = make(AF_INET, 0), c = make(AF_INET, 0);
	struct addr a = address(AF_INET, "0.0.0.0", 0);
	char name[IFNAMSIZ] = { 0 };
	socklen_t n = sizeof(name);
	struct tie t;

	CHECK(!setsockopt(l, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) && !setsockopt(c, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	CHECK(!bind(l, &a.a, a.len) && !listen(l, 5));
	t = tie_to(l, c);
	push(&t.f[0], 1000), push(&t.f[1], 1000);
	t_wait();
	CHECK(!getsockopt(l, SOL_SOCKET, SO_BINDTODEVICE, name, &n) && !strcmp(name, "lo"));
	for (int i = 0; i < 2; i++) {
		n = sizeof(name);
		CHECK(!getsockopt(t.fd[i], SOL_SOCKET, SO_BINDTODEVICE, name, &n) && !strcmp(name, "lo"));
	}
	finish(&t);
	t = tie_to(l, make(AF_INET, 0));
	finish(&t);
}

/* ------------------------------------------------------------------------------------------------------- options */

/* Not a state, or changed by being asked for, or a count of what happened. */
static bool leave_out(int level, int name)
{
	static const int sol[] = { SO_ERROR, SO_GET_FILTER, SO_INCOMING_CPU, 55 /* MEMINFO */, 56 /* INCOMING_NAPI_ID */,
				   57 /* COOKIE */, SO_PEERSEC, SO_PEERCRED, 77 /* PEERPIDFD */ };
	static const int tcp[] = { TCP_INFO, TCP_QUICKACK, TCP_TIMESTAMP, TCP_SAVED_SYN, TCP_CC_INFO, TCP_REPAIR_WINDOW,
				   TCP_ZEROCOPY_RECEIVE, TCP_QUEUE_SEQ, TCP_INQ, 39 /* IS_MPTCP */, 41 /* AO_GET_KEYS */ };
	const int *list = level == SOL_SOCKET ? sol : tcp;
	size_t n = level == SOL_SOCKET ? ARRAY_SIZE(sol) : level == IPPROTO_TCP ? ARRAY_SIZE(tcp) : 0;

	for (size_t i = 0; i < n; i++)
		if (list[i] == name)
			return true;
	return level == IPPROTO_IP && (name == IP_MTU || name == IP_PKTOPTIONS ||
					 (name >= IP_MULTICAST_IF && name <= IP_MULTICAST_LOOP) || name >= 64);
}

static bool is_agreed(int name)
{
	return name == TCP_WINDOW_CLAMP || name == TCP_MAXSEG;
}

#define LEVELS 3
#define NAMES 96
static const int levels[LEVELS] = { SOL_SOCKET, IPPROTO_IP, IPPROTO_TCP };

struct options {
	struct option {
		socklen_t n;
		unsigned char v[32];
	} o[LEVELS][NAMES];
};

static void read_options(int fd, struct options *all)
{
	const bool connected = state_of(fd) == TCP_ESTABLISHED; /* then it tells what was agreed */

	memset(all, 0, sizeof(*all));
	for (int i = 0; i < LEVELS; i++)
		for (int name = 1; name < NAMES; name++) {
			struct option *o = &all->o[i][name];

			o->n = sizeof(o->v);
			if (leave_out(levels[i], name) || (connected && levels[i] == IPPROTO_TCP && is_agreed(name)) ||
			    getsockopt(fd, levels[i], name, o->v, &o->n) || o->n > sizeof(o->v))
				memset(o, 0, sizeof(*o));
		}
}

static void same_options(const char *what, int fd, const struct options *before)
{
	static struct options now;
	char bad[300] = "";
	size_t n = 0;

	read_options(fd, &now);
	for (int i = 0; i < LEVELS; i++)
		for (int name = 1; name < NAMES && n < sizeof(bad) - 40; name++)
			if (memcmp(&now.o[i][name], &before->o[i][name], sizeof(struct option)))
				n += snprintf(bad + n, sizeof(bad) - n, " %d/%d: %d, not %d;", levels[i], name, *(int *)now.o[i][name].v,
					      *(const int *)before->o[i][name].v);
	if (n)
		FAIL("%s: options%s", what, bad);
}

struct setting {
	int level, name, value;
};

static void apply(int fd, const struct setting *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (setsockopt(fd, s[i].level, s[i].name, &s[i].value, sizeof(int)) && errno != ENOPROTOOPT)
			FAIL("option %d/%d: %s", s[i].level, s[i].name, strerror(errno));
}

static const struct setting any_socket[] = {
	{ SOL_SOCKET, SO_KEEPALIVE, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 77 }, { IPPROTO_TCP, TCP_KEEPINTVL, 11 },
	{ IPPROTO_TCP, TCP_KEEPCNT, 5 }, { IPPROTO_TCP, TCP_USER_TIMEOUT, 43210 }, { IPPROTO_TCP, TCP_NODELAY, 1 },
	{ IPPROTO_TCP, TCP_SYNCNT, 3 }, { IPPROTO_TCP, TCP_LINGER2, 17 }, { IPPROTO_TCP, TCP_NOTSENT_LOWAT, 54321 },
	{ SOL_SOCKET, SO_SNDBUF, 60000 }, { SOL_SOCKET, SO_RCVLOWAT, 2 }, { SOL_SOCKET, SO_PRIORITY, 4 },
	{ SOL_SOCKET, SO_MARK, 12 }, { SOL_SOCKET, SO_OOBINLINE, 1 }, { IPPROTO_IP, IP_TTL, 33 }, { IPPROTO_IP, IP_TOS, 16 },
	{ IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT }, { IPPROTO_IP, IP_RECVERR, 1 }, { IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1 },
};
static const struct setting listening[] = {
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 4 }, { IPPROTO_TCP, TCP_SAVE_SYN, 1 }, { IPPROTO_TCP, TCP_FASTOPEN, 9 },
	{ SOL_SOCKET, SO_REUSEADDR, 1 }, { SOL_SOCKET, SO_RCVBUF, 70000 }, { IPPROTO_TCP, TCP_MAXSEG, 1000 },
};
static const struct setting alone[] = {
	{ IPPROTO_TCP, TCP_CORK, 1 }, { IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000 }, { IPPROTO_TCP, TCP_MAXSEG, 900 },
	{ SOL_SOCKET, SO_REUSEPORT, 1 }, { IPPROTO_IP, IP_FREEBIND, 1 },
};

static void congestion(int fd, const char *name)
{
	if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name)) && errno != ENOENT && errno != EPERM)
		FAIL("congestion control %s: %s", name, strerror(errno));
}

/* Whatever can be asked for is what it was: of a new socket, a listener, and both ends of a connection. */
static void options(void)
{
	static const char *const names[] = { "the new socket", "the listener", "who connected", "who accepted", "another end",
					     "the other end of it" };
	static struct options before[6];
	int fresh = make(AF_INET, 0), l = bound(AF_INET, "127.0.0.1", 0);
	struct tie t, plain = tie4();
	int fd[6];

	apply(fresh, any_socket, ARRAY_SIZE(any_socket)), apply(fresh, alone, ARRAY_SIZE(alone));
	congestion(fresh, "bbr");
	apply(l, listening, ARRAY_SIZE(listening));
	CHECK(!listen(l, 5));
	congestion(l, "reno");
	set_opt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0);
	t = tie_to(l, make(AF_INET, 0));
	set_opt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, 4);
	apply(t.fd[0], any_socket, ARRAY_SIZE(any_socket));
	congestion(t.fd[0], "reno");
	set_opt(t.fd[1], SOL_SOCKET, SO_DONTROUTE, 1), set_opt(t.fd[1], SOL_SOCKET, SO_RCVBUF, 90000);
	CHECK(!fchown(t.fd[0], 55, 66) && !fchmod(t.fd[0], 0640));
	memcpy(fd, (int[]){ fresh, l, t.fd[0], t.fd[1], plain.fd[0], plain.fd[1] }, sizeof(fd));
	for (int i = 0; i < 6; i++)
		read_options(fd[i], &before[i]);
	t_wait();
	for (int i = 0; i < 6; i++)
		same_options(names[i], fd[i], &before[i]);
	struct stat st;
	CHECK(!fstat(t.fd[0], &st) && st.st_uid == 55 && st.st_gid == 66 && (st.st_mode & 07777) == 0640);
	set_opt(t.fd[0], SOL_SOCKET, SO_RCVLOWAT, 1);
	finish(&t), finish(&plain);
}

static void linger(void)
{
	struct linger off = { 0, 0 }, now = { 1, 0 }, later = { 1, 3 }, v;
	struct tie t = tie4(), u = tie4(), w = tie4();
	socklen_t n = sizeof(v);
	char b;

	CHECK(!setsockopt(t.fd[0], SOL_SOCKET, SO_LINGER, &now, sizeof(now)));
	CHECK(!setsockopt(u.fd[0], SOL_SOCKET, SO_LINGER, &later, sizeof(later)));
	CHECK(!setsockopt(w.fd[0], SOL_SOCKET, SO_LINGER, &off, sizeof(off)));
	push(&u.f[0], 10);
	t_wait();
	CHECK(!getsockopt(t.fd[0], SOL_SOCKET, SO_LINGER, &v, &n) && v.l_onoff == 1 && v.l_linger == 0);
	n = sizeof(v);
	CHECK(!getsockopt(u.fd[0], SOL_SOCKET, SO_LINGER, &v, &n) && v.l_onoff == 1 && v.l_linger == 3);
	n = sizeof(v);
	CHECK(!getsockopt(w.fd[0], SOL_SOCKET, SO_LINGER, &v, &n) && v.l_onoff == 0);
	speak(&t, 100);
	close(t.fd[0]); /* a reset is what it asked for */
	await_event(t.fd[1], POLLIN);
	CHECK(recv(t.fd[1], &b, 1, 0) < 0 && errno == ECONNRESET);
	finish(&u), finish(&w);
}

/* A window without a scale, small segments: what is agreed on at the beginning and only then. */
static void tiny(void)
{
	struct tie t;
	int l = listener(AF_INET, "127.0.0.1", 1), c = make(AF_INET, 0);
	struct tcp_info i = { 0 }, j = { 0 };
	socklen_t n = sizeof(i);

	set_opt(c, SOL_SOCKET, SO_RCVBUF, 1), set_opt(l, SOL_SOCKET, SO_RCVBUF, 1), set_opt(c, SOL_SOCKET, SO_SNDBUF, 1);
	set_opt(c, IPPROTO_TCP, TCP_MAXSEG, 536);
	t = tie_to(l, c);
	push(&t.f[0], 700), push(&t.f[1], 300);
	CHECK(!getsockopt(t.fd[0], IPPROTO_TCP, TCP_INFO, &i, &n));
	t_wait();
	n = sizeof(j);
	CHECK(!getsockopt(t.fd[0], IPPROTO_TCP, TCP_INFO, &j, &n));
	CHECK(i.tcpi_options == j.tcpi_options && i.tcpi_snd_wscale == j.tcpi_snd_wscale && i.tcpi_rcv_wscale == j.tcpi_rcv_wscale);
	CHECK(j.tcpi_snd_mss <= 536);
	finish(&t);
}

/* ----------------------------------------------------------------------------------------------- groups and crowds */

static void reuseport(void)
{
	int l[3], port = 0, c[60], s, seen[3] = { 0 }, total = 0, odd;
	struct addr a;

	for (int i = 0; i < 3; i++) {
		l[i] = make(AF_INET, SOCK_NONBLOCK);
		set_opt(l[i], SOL_SOCKET, SO_REUSEPORT, 1);
		a = address(AF_INET, "127.0.0.1", port);
		CHECK(!bind(l[i], &a.a, a.len) && !listen(l[i], 100));
		a = name_of(l[i]);
		port = ntohs(a.v4.sin_port);
	}
	odd = make(AF_INET, 0);
	t_wait();
	CHECK(bind(odd, &a.a, a.len) < 0 && errno == EADDRINUSE);
	for (int i = 0; i < 3; i++)
		CHECK(get_opt(l[i], SOL_SOCKET, SO_REUSEPORT) == 1 && get_opt(l[i], SOL_SOCKET, SO_ACCEPTCONN) == 1);
	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		c[i] = make(AF_INET, 0);
		CHECK(!connect(c[i], &a.a, a.len));
	}
	for (int i = 0; i < 3; i++)
		while ((s = accept(l[i], NULL, NULL)) >= 0) {
			seen[i]++, total++;
			close(s);
		}
	if (total != ARRAY_SIZE(c) || !seen[0] || !seen[1] || !seen[2])
		FAIL("%d connections: %d, %d, %d", total, seen[0], seen[1], seen[2]);
	set_opt(odd, SOL_SOCKET, SO_REUSEPORT, 1);
	CHECK(!bind(odd, &a.a, a.len) && !listen(odd, 1)); /* the group takes others */
}

#define MANY 200
static void many(void)
{
	static struct tie t[MANY];
	int l = listener(AF_INET, "127.0.0.1", 10), l6 = listener(AF_INET6, "::1", 10);

	for (int i = 0; i < MANY; i++) {
		t[i] = tie_to(i % 3 ? l : l6, make(i % 3 ? AF_INET : AF_INET6, 0));
		push(&t[i].f[i % 2], i);
		if (i % 7 == 0) {
			CHECK(!shutdown(t[i].fd[0], SHUT_WR));
			await_state(t[i].fd[0], TCP_FIN_WAIT2);
		}
	}
	t_wait();
	for (int i = 0; i < MANY; i++) {
		if (i % 7 == 0) {
			CHECK(state_of(t[i].fd[0]) == TCP_FIN_WAIT2);
			drain(&t[i].f[0]), drain(&t[i].f[1]), at_end(t[i].fd[1]);
			push(&t[i].f[1], 10), drain(&t[i].f[1]);
		} else {
			finish(&t[i]);
		}
	}
}

/* Connections that no task has: they are on their way in a queue. */
static void queued(void)
{
	union {
		struct cmsghdr c;
		char space[CMSG_SPACE(2 * sizeof(int))];
	} control = { .c = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(2 * sizeof(int)) } };
	struct iovec iov = { "x", 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	struct tie t = tie4();
	int p[2];
	char b;

	push(&t.f[0], 100), push(&t.f[1], 200);
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, p));
	memcpy(CMSG_DATA(&control.c), t.fd, sizeof(t.fd));
	CHECK(sendmsg(p[0], &m, 0) == 1);
	close(t.fd[0]), close(t.fd[1]);
	t_wait();
	iov.iov_base = &b;
	m.msg_controllen = sizeof(control);
	CHECK(recvmsg(p[1], &m, 0) == 1 && m.msg_controllen == sizeof(control));
	memcpy(t.fd, CMSG_DATA(&control.c), sizeof(t.fd));
	for (int i = 0; i < 2; i++)
		t.f[i].from = t.fd[i], t.f[i].to = t.fd[1 - i];
	finish(&t);
}

static void epolled(void)
{
	struct tie t = tie4(), quiet = tie4();
	int l = listener(AF_INET, "127.0.0.1", 5), e = epoll_create1(0), c = make(AF_INET, 0);
	struct addr a = name_of(l);
	struct epoll_event v[4];

	v[0] = (struct epoll_event){ EPOLLIN, { .u64 = 1 } };
	CHECK(!epoll_ctl(e, EPOLL_CTL_ADD, l, v));
	v[0] = (struct epoll_event){ EPOLLIN | EPOLLRDHUP, { .u64 = 2 } };
	CHECK(!epoll_ctl(e, EPOLL_CTL_ADD, t.fd[1], v));
	v[0] = (struct epoll_event){ EPOLLIN | EPOLLET, { .u64 = 3 } };
	CHECK(!epoll_ctl(e, EPOLL_CTL_ADD, quiet.fd[0], v));
	push(&t.f[0], 10);
	await_queue(t.fd[1], 10);
	t_wait();
	CHECK(epoll_wait(e, v, 4, 1000) == 1 && v[0].data.u64 == 2 && v[0].events == EPOLLIN);
	drain(&t.f[0]);
	CHECK(epoll_wait(e, v, 4, 0) == 0);
	push(&quiet.f[1], 1);
	CHECK(epoll_wait(e, v, 4, 1000) == 1 && v[0].data.u64 == 3);
	drain(&quiet.f[1]);
	CHECK(!connect(c, &a.a, a.len));
	CHECK(epoll_wait(e, v, 4, 1000) == 1 && v[0].data.u64 == 1);
	finish(&t), finish(&quiet);
}

/* ---------------------------------------------------------------------------------------- in the middle of a call */

struct caller {
	pthread_t thread;
	struct tie *t;
	int l, fd, done;
};

static void *in_recv(void *arg)
{
	struct caller *c = arg;
	char b[5];

	/* nothing is there yet: what has come already is given to whoever is interrupted, MSG_WAITALL or not */
	CHECK(recv(c->t->fd[1], b, 5, MSG_WAITALL) == 5);
	for (int i = 0; i < 5; i++)
		CHECK(b[i] == byte_at(c->t->f[0].seed, i));
	c->t->f[0].got = 5;
	return NULL;
}

/* A send that has taken something may say so when it is interrupted. */
static void *in_send(void *arg)
{
	struct caller *c = arg;
	struct flow *f = &c->t->f[0];
	char b[BLOCK];

	for (uint64_t end = 12 << 20; f->sent < end;) {
		size_t n = end - f->sent < sizeof(b) ? end - f->sent : sizeof(b);
		ssize_t r;

		for (size_t i = 0; i < n; i++)
			b[i] = byte_at(f->seed, f->sent + i);
		r = send(f->from, b, n, MSG_NOSIGNAL);
		CHECK(r > 0);
		__atomic_store_n(&f->sent, f->sent + r, __ATOMIC_RELEASE);
	}
	c->done = 1;
	return NULL;
}

static void *in_accept(void *arg)
{
	struct caller *c = arg;

	CHECK((c->fd = accept(c->l, NULL, NULL)) >= 0);
	return NULL;
}

static void *in_connect(void *arg)
{
	struct caller *c = arg;
	struct addr a = name_of(c->l);

	c->fd = make(AF_INET, 0);
	CHECK(!connect(c->fd, &a.a, a.len));
	return NULL;
}

static void blocked(void)
{
	struct tie r = tie4(), s = tie4(), t;
	struct caller receiver = { .t = &r }, sender = { .t = &s };
	struct caller acceptor = { .l = listener(AF_INET, "127.0.0.1", 2) }, connector = { .l = listener(AF_INET, "127.0.0.1", 2) };
	struct sock_filter code = { 0x06, 0, 0, 0 };
	struct sock_fprog prog = { 1, &code };
	struct addr a = name_of(acceptor.l);
	int c = make(AF_INET, 0), zero = 0;

	CHECK(!setsockopt(connector.l, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog))); /* does not answer */
	CHECK(!pthread_create(&receiver.thread, NULL, in_recv, &receiver) && !pthread_create(&sender.thread, NULL, in_send, &sender));
	CHECK(!pthread_create(&acceptor.thread, NULL, in_accept, &acceptor));
	CHECK(!pthread_create(&connector.thread, NULL, in_connect, &connector));
	for (uint64_t was = 0; !s.f[0].sent || was != __atomic_load_n(&s.f[0].sent, __ATOMIC_ACQUIRE); t_sleep_ms(200))
		was = s.f[0].sent;
	CHECK(!sender.done);
	t_wait();
	CHECK(!sender.done);
	push(&r.f[0], 5);
	CHECK(!pthread_join(receiver.thread, NULL));
	CHECK(!connect(c, &a.a, a.len) && !pthread_join(acceptor.thread, NULL));
	t = tie_of(c, acceptor.fd);
	finish(&t), finish(&r);
	pull(&s.f[0], 12 << 20);
	CHECK(!pthread_join(sender.thread, NULL));
	finish(&s);
	CHECK(!setsockopt(connector.l, SOL_SOCKET, SO_DETACH_FILTER, &zero, sizeof(zero)));
	CHECK((c = accept(connector.l, NULL, NULL)) >= 0 && !pthread_join(connector.thread, NULL));
	t = tie_of(connector.fd, c);
	finish(&t);
}

/* ------------------------------------------------------------------------------------------------- several tasks */

/* Answers every number with the next one, until the end. */
static void answer(int fd)
{
	uint32_t n, want = 0;
	ssize_t r;

	while ((r = recv(fd, &n, sizeof(n), MSG_WAITALL)) == sizeof(n)) {
		CHECK(n == want);
		want += 2, n++;
		CHECK(send(fd, &n, sizeof(n), MSG_NOSIGNAL) == sizeof(n));
	}
	CHECK(r == 0);
	_exit(0);
}

static void ask(int fd, uint32_t *n)
{
	uint32_t got;

	CHECK(send(fd, n, sizeof(*n), MSG_NOSIGNAL) == sizeof(*n) && recv(fd, &got, sizeof(got), MSG_WAITALL) == sizeof(got));
	if (got != *n + 1)
		FAIL("the answer to %u is %u", *n, got);
	*n += 2;
}

/* Talks with hardly a pause until the other end of @stop is closed; says how often. */
static void talk(int fd, int stop, uint32_t *count)
{
	struct pollfd p = { .fd = stop, .events = POLLIN };
	uint32_t n = 0;

	while (!poll(&p, 1, n % 16 ? 0 : 1)) {
		ask(fd, &n);
		__atomic_store_n(count, n, __ATOMIC_RELEASE);
	}
	close(fd);
	_exit(0);
}

static pid_t child(void)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	return pid;
}

static void ended(pid_t pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* Four pairs of processes that never stop asking and answering. */
static void busy(void)
{
	uint32_t *count = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), before;
	int stop[2];
	pid_t pid[8];

	CHECK(count != MAP_FAILED && !pipe(stop));
	for (int i = 0; i < 4; i++) {
		struct tie t = i % 2 ? tie(AF_INET6, "::1", 0) : tie4();

		if (!(pid[2 * i] = child())) {
			close(stop[1]), close(t.fd[0]);
			answer(t.fd[1]);
		}
		close(t.fd[1]);
		if (!(pid[2 * i + 1] = child())) {
			close(stop[1]);
			talk(t.fd[0], stop[0], &count[i]);
		}
		close(t.fd[0]);
	}
	t_await((volatile int *)&count[3]);
	t_wait();
	for (int i = 0; i < 4; i++) {
		before = __atomic_load_n(&count[i], __ATOMIC_ACQUIRE);
		for (int k = 0; k < PATIENCE_MS && __atomic_load_n(&count[i], __ATOMIC_ACQUIRE) < before + 100; k++)
			t_sleep_ms(1);
		CHECK(count[i] >= before + 100);
	}
	close(stop[1]);
	for (int i = 0; i < 8; i++)
		ended(pid[i]);
}

/* Workers that wait in accept() on one listener, and one that has a connection together with its parent. */
static void prefork(void)
{
	int l = listener(AF_INET, "127.0.0.1", 10), s, c;
	struct addr a = name_of(l);
	struct tie t = tie4();
	pid_t pid[4];
	uint32_t n;

	for (int i = 0; i < 3; i++)
		if (!(pid[i] = child())) {
			CHECK((s = accept(l, NULL, NULL)) >= 0);
			answer(s);
		}
	if (!(pid[3] = child())) {
		close(t.fd[0]);
		answer(t.fd[1]);
	}
	t_wait();
	for (int i = 0; i < 3; i++) {
		n = 0;
		CHECK((c = make(AF_INET, 0)) >= 0 && !connect(c, &a.a, a.len));
		ask(c, &n), ask(c, &n);
		close(c);
	}
	for (int i = 0; i < 3; i++)
		ended(pid[i]);
	n = 0;
	ask(t.fd[0], &n);
	CHECK(!shutdown(t.fd[0], SHUT_WR));
	ended(pid[3]);
	nothing(t.fd[0]); /* its end is still open: we have it, too */
	CHECK(!close(t.fd[1]));
	at_end(t.fd[0]);
}

/* ------------------------------------------------------------------------------------------------------------ MPTCP */

static int mptcp_listener(void)
{
	int l = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	struct addr a = address(AF_INET, "127.0.0.1", 0);

	if (l < 0)
		SKIP("no MPTCP here: %s", strerror(errno));
	CHECK(!bind(l, &a.a, a.len) && !listen(l, 5));
	return l;
}

static void mptcp(void)
{
	int l = mptcp_listener(), fresh = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), c, s;
	struct addr a = name_of(l), b;
	struct tie t;

	t_wait();
	b = name_of(l);
	CHECK(get_opt(l, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP && get_opt(fresh, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP);
	CHECK(same_addr(&a, &b));
	t = tie_to(l, make(AF_INET, 0)); /* a plain one */
	finish(&t);
	c = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
	CHECK(c >= 0 && !connect(c, &a.a, a.len) && (s = accept(l, NULL, NULL)) >= 0);
	CHECK(send(c, "x", 1, 0) == 1 && recv(s, &a, 1, 0) == 1);
	CHECK(!connect(fresh, &b.a, b.len));
}

static void mptcpconn(void)
{
	int l = mptcp_listener(), c = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), s;
	struct addr a = name_of(l);
	char b;

	CHECK(c >= 0 && !connect(c, &a.a, a.len) && (s = accept(l, NULL, NULL)) >= 0);
	CHECK(send(c, "x", 1, 0) == 1 && recv(s, &b, 1, 0) == 1);
	t_wait();
	CHECK(send(c, "x", 1, 0) == 1 && recv(s, &b, 1, 0) == 1);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "six", six }, { "mapped", mapped }, { "device", device }, { "options", options }, { "linger", linger },
		{ "tiny", tiny }, { "reuseport", reuseport }, { "many", many }, { "queued", queued }, { "epolled", epolled },
		{ "blocked", blocked }, { "busy", busy }, { "prefork", prefork }, { "mptcp", mptcp }, { "mptcpconn", mptcpconn },
	};

	T_RUN(variants, t_init(argc, argv));
}
