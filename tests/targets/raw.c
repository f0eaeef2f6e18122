/* SPDX-License-Identifier: MIT */
/* Raw and ICMP sockets. It runs in a network namespace of its own. */
#include "target.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static const struct sockaddr_in lo4 = { .sin_family = AF_INET, .sin_addr.s_addr = 0x0100007f };
static const struct sockaddr_in6 lo6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };

static void lo_up(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
}

static int sock(int family, int type, int protocol)
{
	int fd = socket(family, type, protocol);

	CHECK(fd >= 0);
	return fd;
}

static uint16_t sum(const void *p, size_t n)
{
	const uint16_t *w = p;
	uint32_t s = 0;

	for (size_t i = 0; i < n / 2; i++)
		s += w[i];
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static struct icmphdr echo(uint16_t id, uint16_t n)
{
	struct icmphdr h = { .type = ICMP_ECHO, .un.echo = { htons(id), htons(n) } };

	h.checksum = sum(&h, sizeof(h));
	return h;
}

static bool readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 300) == 1;
}

struct names {
	struct sockaddr_storage own, peer;
	socklen_t n_own, n_peer;
	int err;
};

static struct names names_of(int fd)
{
	struct names n = { .n_own = sizeof(n.own), .n_peer = sizeof(n.peer) };

	CHECK(!getsockname(fd, (void *)&n.own, &n.n_own));
	n.err = getpeername(fd, (void *)&n.peer, &n.n_peer) < 0 ? errno : 0;
	return n;
}

static void same_names(int fd, const struct names *was)
{
	struct names n = names_of(fd);

	CHECK(n.n_own == was->n_own && !memcmp(&n.own, &was->own, n.n_own));
	CHECK(n.err == was->err && (n.err || !memcmp(&n.peer, &was->peer, n.n_peer)));
}

/* Connected without a port, as one does: an answer from elsewhere is not seen. */
static void icmp(void)
{
	int fd = sock(AF_INET, SOCK_RAW, IPPROTO_ICMP), all = sock(AF_INET, SOCK_RAW, IPPROTO_ICMP), elsewhere;
	uint32_t only_replies = ~(1u << ICMP_ECHOREPLY);
	struct sockaddr_in other = lo4;
	uint8_t buf[128];
	struct names names;

	elsewhere = sock(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	other.sin_addr.s_addr = htonl(0x7f000002);
	CHECK(!setsockopt(fd, SOL_RAW, 1 /* ICMP_FILTER */, &only_replies, sizeof(only_replies)));
	CHECK(!connect(fd, (void *)&lo4, sizeof(lo4)) && !bind(elsewhere, (void *)&other, sizeof(other)));
	CHECK(!setsockopt(all, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
	names = names_of(fd);
	t_wait();
	same_names(fd, &names);
	CHECK(send(fd, &(struct icmphdr[]){ echo(7, 8) }, sizeof(struct icmphdr), 0) == sizeof(struct icmphdr));
	CHECK(readable(fd) && recv(fd, buf, sizeof(buf), 0) == 28 && buf[20] == ICMP_ECHOREPLY && buf[25] == 7);
	CHECK(recv(fd, buf, sizeof(buf), MSG_DONTWAIT) < 0);	       /* the request is filtered */
	CHECK(recv(all, buf, sizeof(buf), MSG_DONTWAIT) == 28 && buf[20] == ICMP_ECHO);
	CHECK(recv(elsewhere, buf, sizeof(buf), MSG_DONTWAIT) < 0); /* bound to another address */
	CHECK(sendto(all, &(struct icmphdr[]){ echo(7, 9) }, sizeof(struct icmphdr), 0, (void *)&other, sizeof(other)) == 8);
	CHECK(readable(elsewhere) && recv(fd, buf, sizeof(buf), MSG_DONTWAIT) < 0); /* not its peer */
}

static void icmp6(void)
{
	int fd = sock(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
	struct icmp6_hdr h = { .icmp6_type = ICMP6_ECHO_REQUEST };
	struct icmp6_filter f;
	uint8_t buf[128];
	struct names names;

	ICMP6_FILTER_SETBLOCKALL(&f);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &f);
	CHECK(!setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &f, sizeof(f)) && !bind(fd, (void *)&lo6, sizeof(lo6)));
	CHECK(!connect(fd, (void *)&lo6, sizeof(lo6)));
	names = names_of(fd);
	t_wait();
	same_names(fd, &names);
	h.icmp6_id = htons(5);
	CHECK(send(fd, &h, sizeof(h), 0) == sizeof(h));
	CHECK(readable(fd) && recv(fd, buf, sizeof(buf), 0) == sizeof(h) && buf[0] == ICMP6_ECHO_REPLY && buf[5] == 5);
}

/* One that only sends whole packets, and one that receives them. */
static void whole(void)
{
	int out = sock(AF_INET, SOCK_RAW, IPPROTO_RAW), in = sock(AF_INET, SOCK_RAW, 89);
	struct {
		struct iphdr ip;
		char text[8];
	} p = { { .version = 4, .ihl = 5, .ttl = 9, .protocol = 89 }, "ospf" };
	uint8_t buf[128];

	p.ip.daddr = lo4.sin_addr.s_addr;
	p.ip.saddr = htonl(0x7f000003);
	t_wait();
	CHECK(sendto(out, &p, sizeof(p), 0, (void *)&lo4, sizeof(lo4)) == sizeof(p));
	CHECK(readable(in) && recv(in, buf, sizeof(buf), 0) == sizeof(p) && !memcmp(buf + 20, "ospf", 5) && buf[15] == 3);
}

static short events(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };

	CHECK(poll(&p, 1, 0) >= 0);
	return p.revents;
}

static void shut(void)
{
	int fd = sock(AF_INET, SOCK_RAW, 89), both = sock(AF_INET, SOCK_DGRAM, 0), one = sock(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = lo4;
	socklen_t n = sizeof(a);
	char c;

	CHECK(!bind(one, (void *)&a, sizeof(a)) && !getsockname(one, (void *)&a, &n) && !connect(one, (void *)&a, n));
	CHECK(!connect(fd, (void *)&lo4, sizeof(lo4)) && !shutdown(fd, SHUT_RD) && !shutdown(one, SHUT_WR));
	shutdown(both, SHUT_RDWR);
	t_wait();
	CHECK(events(fd) == POLLRDHUP && events(both) == (POLLRDHUP | POLLHUP));
	CHECK(recv(one, &c, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(send(one, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

static void allow_ping(void)
{
	int fd = open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0 && write(fd, "0 10", 4) == 4);
	close(fd);
}

static void ping4(void)
{
	int bound, connected, none;
	struct sockaddr_in a = lo4;
	uint8_t buf[128];
	struct names names, names2;

	allow_ping();
	bound = sock(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	connected = sock(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	none = sock(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	a.sin_port = htons(4711);
	CHECK(!bind(bound, (void *)&a, sizeof(a)) && !connect(connected, (void *)&lo4, sizeof(lo4)));
	names = names_of(bound);
	names2 = names_of(connected);
	t_wait();
	same_names(bound, &names);
	same_names(connected, &names2);
	CHECK(sendto(bound, &(struct icmphdr[]){ echo(1, 2) }, 8, 0, (void *)&lo4, sizeof(lo4)) == 8);
	CHECK(readable(bound) && recv(bound, buf, sizeof(buf), 0) == 8 && ntohs(*(uint16_t *)(buf + 4)) == 4711);
	CHECK(send(connected, &(struct icmphdr[]){ echo(1, 3) }, 8, 0) == 8);
	CHECK(readable(connected) && recv(connected, buf, sizeof(buf), 0) == 8);
	CHECK(send(none, &(struct icmphdr[]){ echo(1, 3) }, 8, 0) < 0 && errno == EDESTADDRREQ);
}

static void ping6(void)
{
	struct icmp6_hdr h = { .icmp6_type = ICMP6_ECHO_REQUEST };
	struct sockaddr_in6 a = lo6;
	uint8_t buf[128];
	struct names names;
	int fd;

	allow_ping();
	fd = sock(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
	a.sin6_port = htons(815);
	CHECK(!bind(fd, (void *)&a, sizeof(a)) && !connect(fd, (void *)&lo6, sizeof(lo6)));
	names = names_of(fd);
	t_wait();
	same_names(fd, &names);
	CHECK(send(fd, &h, sizeof(h), 0) == sizeof(h));
	CHECK(readable(fd) && recv(fd, buf, sizeof(buf), 0) == 8 && ntohs(*(uint16_t *)(buf + 4)) == 815);
}

/* Lost, with a warning. */
static void queued(void)
{
	int fd = sock(AF_INET, SOCK_RAW, IPPROTO_ICMP);

	CHECK(!connect(fd, (void *)&lo4, sizeof(lo4)));
	CHECK(send(fd, &(struct icmphdr[]){ echo(7, 8) }, sizeof(struct icmphdr), 0) == sizeof(struct icmphdr) && readable(fd));
	t_wait();
	CHECK(send(fd, &(struct icmphdr[]){ echo(7, 9) }, sizeof(struct icmphdr), 0) == sizeof(struct icmphdr) && readable(fd));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "icmp", icmp }, { "icmp6", icmp6 }, { "whole", whole }, { "shut", shut }, { "ping4", ping4 }, { "ping6", ping6 },
		{ "queued", queued },
	};
	const char *variant = t_init(argc, argv);

	lo_up();
	T_RUN(variants, variant);
}
