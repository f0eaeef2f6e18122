/* SPDX-License-Identifier: MIT */
/* What waits in UDP sockets to be received. It runs in a network namespace of its own. */
#include "target.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define LONG 60000

union addr {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static uint8_t long_text[LONG];

static socklen_t len_of(const union addr *a)
{
	return a->any.sa_family == AF_INET6 ? sizeof(a->v6) : sizeof(a->v4);
}

static union addr addr(const char *text, uint16_t port)
{
	union addr a = { .v4 = { .sin_family = AF_INET, .sin_port = htons(port) } };

	if (inet_pton(AF_INET, text, &a.v4.sin_addr) == 1)
		return a;
	a = (union addr){ .v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) } };
	CHECK(inet_pton(AF_INET6, text, &a.v6.sin6_addr) == 1);
	return a;
}

static void setup(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
	t_fill(long_text, sizeof(long_text), 77);
}

static void set(int fd, int level, int name, int value)
{
	CHECK(!setsockopt(fd, level, name, &value, sizeof(value)));
}

static int get(int fd, int level, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);

	CHECK(!getsockopt(fd, level, name, &value, &n));
	return value;
}

static int bound_as(int protocol, const char *text, uint16_t port, bool shared)
{
	union addr a = addr(text, port);
	int fd = socket(a.any.sa_family, SOCK_DGRAM, protocol);

	CHECK(fd >= 0);
	if (shared)
		set(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	CHECK(!bind(fd, &a.any, len_of(&a)));
	return fd;
}

static int bound(const char *text, uint16_t port)
{
	return bound_as(0, text, port, false);
}

static void send_to(int fd, const char *text, uint16_t port, const void *data, size_t n)
{
	union addr a = addr(text, port);

	CHECK(sendto(fd, data, n, 0, &a.any, len_of(&a)) == (ssize_t)n);
}

static void expect(int fd, const char *from, uint16_t port, const void *data, size_t n)
{
	union addr want = addr(from, port), got;
	socklen_t len = sizeof(got);
	static uint8_t buf[1 << 16];
	ssize_t r = recvfrom(fd, buf, sizeof(buf), MSG_DONTWAIT, &got.any, &len);

	if (r != (ssize_t)n || memcmp(buf, data, n))
		FAIL("received %zd bytes (%.*s), not %zu (%s)", r, r > 0 ? (int)r : 0, buf, n,
		     n < 64 ? (const char *)data : "long");
	CHECK(len == len_of(&want) && !memcmp(&got, &want, len));
}

static void expect_none(int fd)
{
	char c;

	CHECK(recv(fd, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

/* Works on, and what was set for the moment is not. */
static void go_on(int fd, int sender, const char *to, uint16_t port, const char *from, uint16_t from_port)
{
	expect_none(fd);
	send_to(sender, to, port, "more", 4);
	expect(fd, from, from_port, "more", 4);
	CHECK(get(fd, SOL_SOCKET, SO_PEEK_OFF) == -1);
	if (addr(to, 0).any.sa_family == AF_INET)
		CHECK(!get(fd, IPPROTO_IP, IP_PKTINFO) && !get(fd, IPPROTO_IP, IP_RECVTOS) && !get(fd, IPPROTO_IP, IP_RECVTTL));
}

/* Bound to any address, with senders that are not to be seen any more. */
static void queue4(void)
{
	int fd = bound("0.0.0.0", 7101), a = bound("127.0.0.1", 7102), b = bound("127.0.0.5", 7103);

	send_to(a, "127.0.0.1", 7101, "one", 3);
	send_to(b, "127.0.0.9", 7101, "two", 3);
	send_to(a, "127.0.0.1", 7101, "", 0);
	send_to(b, "127.0.0.1", 7101, long_text, LONG);
	send_to(a, "127.0.0.1", 7101, "last", 4);
	close(b);
	t_wait();
	expect(fd, "127.0.0.1", 7102, "one", 3);
	expect(fd, "127.0.0.5", 7103, "two", 3);
	expect(fd, "127.0.0.1", 7102, "", 0);
	expect(fd, "127.0.0.5", 7103, long_text, LONG);
	expect(fd, "127.0.0.1", 7102, "last", 4);
	go_on(fd, a, "127.0.0.1", 7101, "127.0.0.1", 7102);
}

static void queue6(void)
{
	int fd = bound("::", 7111), a = bound("::1", 7112), four = bound("127.0.0.5", 7113);

	send_to(a, "::1", 7111, "six", 3);
	send_to(four, "127.0.0.1", 7111, "four", 4);
	send_to(a, "::1", 7111, long_text, 40000);
	t_wait();
	expect(fd, "::1", 7112, "six", 3);
	expect(fd, "::ffff:127.0.0.5", 7113, "four", 4);
	expect(fd, "::1", 7112, long_text, 40000);
	go_on(fd, a, "::1", 7111, "::1", 7112);
	CHECK(!get(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO) && !get(fd, IPPROTO_IPV6, IPV6_RECVTCLASS));
}

/* Also what came before it was connected, from somebody else; and small buffers, full. */
static void connected(void)
{
	int fd = bound("127.0.0.1", 7121), peer = bound("127.0.0.2", 7122), other = bound("127.0.0.3", 7123), n = 0;
	union addr a = addr("127.0.0.2", 7122);

	set(fd, SOL_SOCKET, SO_RCVBUF, 5000);
	send_to(other, "127.0.0.1", 7121, "before", 6);
	CHECK(!connect(fd, &a.any, len_of(&a)));
	for (int k = 0; k < 100; k++)
		send_to(peer, "127.0.0.1", 7121, &(int){ k }, sizeof(k));
	/* How many fit. */
	set(fd, SOL_SOCKET, SO_PEEK_OFF, 0);
	for (char buf[16]; recv(fd, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT) > 0; n++)
		;
	set(fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	CHECK(n > 2 && n < 100);
	t_wait();
	expect(fd, "127.0.0.3", 7123, "before", 6);
	for (int k = 0; k < n - 1; k++)
		expect(fd, "127.0.0.2", 7122, &k, sizeof(k));
	CHECK(get(fd, SOL_SOCKET, SO_RCVBUF) == 10000);
	send_to(other, "127.0.0.1", 7121, "no", 2);
	go_on(fd, peer, "127.0.0.1", 7121, "127.0.0.2", 7122);
}

/* Several sockets of one port: each has its own again. */
static void shared(void)
{
	int fds[4], senders[16], of[16];
	char text[16];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = bound_as(0, "0.0.0.0", 7131, true);
	for (size_t i = 0; i < ARRAY_SIZE(senders); i++) {
		senders[i] = bound("127.0.0.1", 7140 + i);
		snprintf(text, sizeof(text), "from %zu", i);
		send_to(senders[i], "127.0.0.1", 7131, text, strlen(text));
		of[i] = -1;
		for (size_t k = 0; k < ARRAY_SIZE(fds); k++) {
			struct pollfd p = { .fd = fds[k], .events = POLLIN };
			char got[16] = "";

			set(fds[k], SOL_SOCKET, SO_PEEK_OFF, 0);
			while (poll(&p, 1, 0) == 1 && recv(fds[k], got, sizeof(got), MSG_PEEK | MSG_DONTWAIT) > 0)
				if (!strncmp(got, text, strlen(text)))
					of[i] = (int)k;
			set(fds[k], SOL_SOCKET, SO_PEEK_OFF, -1);
		}
		CHECK(of[i] >= 0);
	}
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(senders); i++) {
		snprintf(text, sizeof(text), "from %zu", i);
		expect(fds[of[i]], "127.0.0.1", 7140 + i, text, strlen(text));
	}
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		union addr a;
		socklen_t n = sizeof(a);

		expect_none(fds[i]);
		CHECK(getpeername(fds[i], &a.any, &n) < 0 && !getsockname(fds[i], &a.any, &n) && !a.v4.sin_addr.s_addr);
	}
}

static void device(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0), a = bound("127.0.0.1", 7152);
	union addr any = addr("0.0.0.0", 7151);
	char name[IFNAMSIZ] = "";
	socklen_t n = sizeof(name);

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2) && !bind(fd, &any.any, len_of(&any)));
	send_to(a, "127.0.0.1", 7151, "one", 3);
	t_wait();
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &n) && !strcmp(name, "lo"));
	expect(fd, "127.0.0.1", 7152, "one", 3);
	go_on(fd, a, "127.0.0.1", 7151, "127.0.0.1", 7152);
}

static void lite(void)
{
	int fd = bound_as(IPPROTO_UDPLITE, "127.0.0.1", 7161, false), a = bound_as(IPPROTO_UDPLITE, "127.0.0.1", 7162, false);

	send_to(a, "127.0.0.1", 7161, "light", 5);
	send_to(a, "127.0.0.1", 7161, long_text, 3001);
	t_wait();
	expect(fd, "127.0.0.1", 7162, "light", 5);
	expect(fd, "127.0.0.1", 7162, long_text, 3001);
	go_on(fd, a, "127.0.0.1", 7161, "127.0.0.1", 7162);
}

/* Where it was sent, how many hops it had, and what the sender set. */
static void info(void)
{
	int fd = bound("0.0.0.0", 7171), a = bound("127.0.0.1", 7172);
	struct in_pktinfo at = { 0 };
	char buf[8], control[256];
	struct iovec iov = { buf, sizeof(buf) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int tos = -1, ttl = -1;

	set(fd, IPPROTO_IP, IP_PKTINFO, 1);
	set(fd, IPPROTO_IP, IP_RECVTOS, 1);
	set(fd, IPPROTO_IP, IP_RECVTTL, 1);
	set(a, IPPROTO_IP, IP_TOS, 0x28);
	set(a, IPPROTO_IP, IP_TTL, 31);
	send_to(a, "127.0.0.7", 7171, "one", 3);
	t_wait();
	CHECK(recvmsg(fd, &m, MSG_DONTWAIT) == 3);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_type == IP_PKTINFO)
			memcpy(&at, CMSG_DATA(c), sizeof(at));
		else if (c->cmsg_type == IP_TOS)
			tos = *(uint8_t *)CMSG_DATA(c);
		else if (c->cmsg_type == IP_TTL)
			memcpy(&ttl, CMSG_DATA(c), sizeof(ttl));
	}
	CHECK(at.ipi_addr.s_addr == htonl(0x7f000007) && at.ipi_ifindex == (int)if_nametoindex("lo"));
	if (tos != 0x28 || ttl != 31)
		FAIL("TOS %d, TTL %d", tos, ttl);
}

/* Several that the kernel has put together. */
static void gro(void)
{
	int fd = bound("127.0.0.1", 7181), a = bound("127.0.0.1", 7182);

	set(fd, IPPROTO_UDP, UDP_GRO, 1);
	set(a, IPPROTO_UDP, UDP_SEGMENT, 1000);
	send_to(a, "127.0.0.1", 7181, long_text, 4500);
	t_wait();
	/* In one piece, if nothing happened to it. */
	for (size_t at = 0; at < 4500;) {
		static uint8_t buf[1 << 16];
		ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

		CHECK(n == 4500 || n == (at == 4000 ? 500 : 1000));
		CHECK(!memcmp(buf, long_text + at, (size_t)n));
		at += (size_t)n;
	}
}

/* Nobody listens there: that is told at the next call. It is lost, with a warning. */
static void error(void)
{
	int fd = bound("127.0.0.1", 7191), a = bound("127.0.0.1", 7192);
	union addr peer = addr("127.0.0.1", 7193);
	struct pollfd p = { .fd = fd, .events = POLLIN };

	send_to(a, "127.0.0.1", 7191, "one", 3);
	set(fd, IPPROTO_IP, IP_RECVERR, 1);
	CHECK(!connect(fd, &peer.any, len_of(&peer)) && send(fd, "x", 1, 0) == 1);
	CHECK(poll(&p, 1, 500) == 1 && p.revents & POLLERR);
	t_wait();
	CHECK(get(fd, IPPROTO_IP, IP_RECVERR) == 1 && !getpeername(fd, &peer.any, &(socklen_t){ sizeof(peer) }));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "queue4", queue4 }, { "queue6", queue6 }, { "connected", connected }, { "shared", shared }, { "device", device },
		{ "lite", lite }, { "info", info }, { "gro", gro }, { "error", error },
	};
	const char *variant = t_init(argc, argv);

	setup();
	T_RUN(variants, variant);
}
