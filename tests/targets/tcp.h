/* SPDX-License-Identifier: MIT */
/*
 * What the targets with TCP connections have in common: a connection with both ends, of which every byte is known by its
 * place in the stream, so that one that is lost, doubled or moved shows.
 */
#ifndef CKPT_TARGET_TCP_H
#define CKPT_TARGET_TCP_H

#include "target.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>

#define PATIENCE_MS 20000
#define BLOCK 32768

struct addr {
	union {
		struct sockaddr a;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	};
	socklen_t len;
};

/* One direction of a connection. */
struct flow {
	int from, to;
	unsigned seed;
	uint64_t sent, got;
};

struct tie {
	int fd[2]; /* who connected, who accepted */
	struct flow f[2]; /* f[i]: what fd[i] sends */
	struct addr name[2], peer[2];
};

/* IPv4 for AF_INET. With AF_INET6: @text as it is, which may be a mapped address. */
__attribute__((unused)) static struct addr address(int family, const char *text, int port)
{
	struct addr a = { .len = family == AF_INET ? sizeof(a.v4) : sizeof(a.v6) };

	a.a.sa_family = family;
	if (family == AF_INET) {
		a.v4.sin_port = htons(port);
		CHECK(inet_pton(AF_INET, text, &a.v4.sin_addr) == 1);
	} else {
		a.v6.sin6_port = htons(port);
		CHECK(inet_pton(AF_INET6, text, &a.v6.sin6_addr) == 1);
	}
	return a;
}

__attribute__((unused)) static bool same_addr(const struct addr *a, const struct addr *b)
{
	return a->len == b->len && !memcmp(&a->a, &b->a, a->len);
}

__attribute__((unused)) static struct addr name_of(int fd)
{
	struct addr a;

	memset(&a, 0, sizeof(a));
	a.len = sizeof(a.v6);
	CHECK(!getsockname(fd, &a.a, &a.len));
	return a;
}

__attribute__((unused)) static struct addr peer_of(int fd)
{
	struct addr a;

	memset(&a, 0, sizeof(a));
	a.len = sizeof(a.v6);
	CHECK(!getpeername(fd, &a.a, &a.len));
	return a;
}

__attribute__((unused)) static int get_opt(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, level, name, &v, &n));
	return v;
}

__attribute__((unused)) static void set_opt(int fd, int level, int name, int v)
{
	CHECK(!setsockopt(fd, level, name, &v, sizeof(v)));
}

__attribute__((unused)) static int state_of(int fd)
{
	struct tcp_info i = { 0 };
	socklen_t n = sizeof(i);

	CHECK(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n));
	return i.tcpi_state;
}

__attribute__((unused)) static void await_state(int fd, int state)
{
	for (int i = 0; i < PATIENCE_MS / 5 && state_of(fd) != state; i++)
		t_sleep_ms(5);
	if (state_of(fd) != state)
		FAIL("fd %d is in state %d, not %d", fd, state_of(fd), state);
}

__attribute__((unused)) static int queue_of(int fd, int which)
{
	int v = -1;

	CHECK(!ioctl(fd, which, &v));
	return v;
}

__attribute__((unused)) static void await_queue(int fd, int n)
{
	for (int i = 0; i < PATIENCE_MS / 5 && queue_of(fd, SIOCINQ) != n; i++)
		t_sleep_ms(5);
	if (queue_of(fd, SIOCINQ) != n)
		FAIL("fd %d has %d bytes to read, not %d", fd, queue_of(fd, SIOCINQ), n);
}

__attribute__((unused)) static int events_of(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP | POLLPRI };

	poll(&p, 1, 0);
	return p.revents;
}

__attribute__((unused)) static void await_event(int fd, int event)
{
	struct pollfd p = { .fd = fd, .events = event };

	if (poll(&p, 1, PATIENCE_MS) != 1 || !(p.revents & event))
		FAIL("fd %d: waited in vain for event %x, there is %x; state %d", fd, event, p.revents, state_of(fd));
}

/* --------------------------------------------------------------------------------------------------- what is sent */

static inline char byte_at(unsigned seed, uint64_t place)
{
	return (place * 0x9e3779b97f4a7c15ull >> 53) + seed * 37;
}

/* As much as goes in without waiting, at most @n; returns how much. */
__attribute__((unused)) static size_t send_some(struct flow *f, size_t n)
{
	char b[BLOCK];
	size_t part = n < sizeof(b) ? n : sizeof(b);
	ssize_t r;

	for (size_t i = 0; i < part; i++)
		b[i] = byte_at(f->seed, f->sent + i);
	r = send(f->from, b, part, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r < 0 && errno != EAGAIN)
		FAIL("fd %d: send after %llu bytes: %s", f->from, (unsigned long long)f->sent, strerror(errno));
	f->sent += r > 0 ? r : 0;
	return r > 0 ? r : 0;
}

__attribute__((unused)) static void push(struct flow *f, size_t n)
{
	for (uint64_t end = f->sent + n; f->sent < end;) {
		await_event(f->from, POLLOUT);
		send_some(f, end - f->sent);
	}
}

/* Until nothing goes in any more, and does not a while later either. */
__attribute__((unused)) static void fill(struct flow *f)
{
	for (int idle = 0; idle < 5;) {
		if (send_some(f, BLOCK)) {
			idle = 0;
			continue;
		}
		idle++;
		t_sleep_ms(20);
	}
}

__attribute__((unused)) static void pull(struct flow *f, size_t n)
{
	char b[BLOCK];
	ssize_t r;

	for (uint64_t end = f->got + n; f->got < end; f->got += r) {
		await_event(f->to, POLLIN);
		r = recv(f->to, b, end - f->got < sizeof(b) ? end - f->got : sizeof(b), MSG_DONTWAIT);
		if (r <= 0)
			FAIL("fd %d: recv after %llu bytes of %llu: %s", f->to, (unsigned long long)f->got, (unsigned long long)end,
			     r ? strerror(errno) : "the end");
		for (ssize_t i = 0; i < r; i++)
			if (b[i] != byte_at(f->seed, f->got + i))
				FAIL("fd %d: byte %llu of the stream is wrong", f->to, (unsigned long long)f->got + i);
	}
}

__attribute__((unused)) static void drain(struct flow *f)
{
	pull(f, f->sent - f->got);
}

__attribute__((unused)) static void nothing(int fd)
{
	char b;

	CHECK(recv(fd, &b, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

__attribute__((unused)) static void at_end(int fd)
{
	char b;

	await_event(fd, POLLIN);
	CHECK(recv(fd, &b, 1, MSG_DONTWAIT) == 0);
}

__attribute__((unused)) static void no_more_sending(int fd)
{
	CHECK(send(fd, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EPIPE);
}

/* ----------------------------------------------------------------------------------------------------- connections */

__attribute__((unused)) static int make(int family, int type)
{
	int fd = socket(family, SOCK_STREAM | type, 0);

	if (fd < 0 && family == AF_INET6)
		SKIP("no IPv6 here");
	CHECK(fd >= 0);
	return fd;
}

__attribute__((unused)) static int bound(int family, const char *text, int port)
{
	int fd = make(family, 0);
	struct addr a = address(family, text, port);

	if (bind(fd, &a.a, a.len)) {
		if (family == AF_INET6 && errno == EADDRNOTAVAIL)
			SKIP("no IPv6 address %s here", text);
		FAIL("bind to %s: %s", text, strerror(errno));
	}
	return fd;
}

/* A listener at a port that the kernel gives. */
__attribute__((unused)) static int listener(int family, const char *text, int backlog)
{
	int fd = bound(family, text, 0);

	CHECK(!listen(fd, backlog));
	return fd;
}

__attribute__((unused)) static struct tie tie_of(int c, int s)
{
	static unsigned seed;
	struct tie t = { .fd = { c, s } };

	for (int i = 0; i < 2; i++) {
		t.f[i] = (struct flow){ t.fd[i], t.fd[1 - i], ++seed, 0, 0 };
		t.name[i] = name_of(t.fd[i]);
		t.peer[i] = peer_of(t.fd[i]);
	}
	return t;
}

/* Connects @c to the listener @l, to its own address; nobody else must be waiting there. */
__attribute__((unused)) static struct tie tie_to(int l, int c)
{
	struct addr a = name_of(l);
	int s;

	CHECK(!connect(c, &a.a, a.len) && (s = accept(l, NULL, NULL)) >= 0);
	return tie_of(c, s);
}

/* A connection whose listener is gone. @rcvbuf: of both ends, if not 0. */
__attribute__((unused)) static struct tie tie(int family, const char *text, int rcvbuf)
{
	int l = listener(family, text, 1), c = make(family, 0);
	struct tie t;

	if (rcvbuf)
		set_opt(l, SOL_SOCKET, SO_RCVBUF, rcvbuf), set_opt(c, SOL_SOCKET, SO_RCVBUF, rcvbuf);
	t = tie_to(l, c);
	close(l);
	return t;
}

__attribute__((unused)) static struct tie tie4(void)
{
	return tie(AF_INET, "127.0.0.1", 0);
}

__attribute__((unused)) static void same_names(const struct tie *t)
{
	for (int i = 0; i < 2; i++) {
		struct addr n = name_of(t->fd[i]), p = peer_of(t->fd[i]);

		CHECK(same_addr(&n, &t->name[i]) && same_addr(&p, &t->peer[i]));
	}
}

/* So much goes each way, in both at once, and arrives after what was on its way. */
__attribute__((unused)) static void speak(struct tie *t, size_t n)
{
	uint64_t end[2] = { t->f[0].sent + n, t->f[1].sent + n };
	uint64_t limit = t_now_ns(CLOCK_MONOTONIC) + PATIENCE_MS * 1000000ull;

	while (t->f[0].got < end[0] || t->f[1].got < end[1]) {
		for (int i = 0; i < 2; i++) {
			struct flow *f = &t->f[i];
			int there = queue_of(f->to, SIOCINQ);

			if (f->sent < end[i])
				send_some(f, end[i] - f->sent);
			if (there)
				pull(f, there);
			else
				sched_yield();
		}
		if (t_now_ns(CLOCK_MONOTONIC) > limit)
			FAIL("%llu and %llu bytes of %llu and %llu arrived", (unsigned long long)t->f[0].got, (unsigned long long)t->f[1].got,
			     (unsigned long long)end[0], (unsigned long long)end[1]);
	}
	nothing(t->fd[0]), nothing(t->fd[1]);
}

/* What was on its way, more, and an orderly end. */
__attribute__((unused)) static void finish(struct tie *t)
{
	same_names(t);
	drain(&t->f[0]), drain(&t->f[1]);
	speak(t, 20000);
	CHECK(!shutdown(t->fd[0], SHUT_WR));
	at_end(t->fd[1]);
	push(&t->f[1], 3000), drain(&t->f[1]);
	close(t->fd[1]);
	at_end(t->fd[0]);
	close(t->fd[0]);
}

#endif
