/* SPDX-License-Identifier: MIT */
/* Options of network sockets: as many as can be set are, and all that can be read must be the same afterwards. */
#include "target.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

struct want {
	int level, name, value;
};

static const int levels[] = { SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, SOL_RAW,
			      IPPROTO_ICMPV6 };
#define NAMES 128

struct value {
	socklen_t len;
	bool there;
	uint8_t bytes[512];
};

/* What is another one for each socket, or each moment; what takes something away; what is of TCP_REPAIR. */
static bool is_left_out(int level, int name)
{
	if (level == SOL_SOCKET)
		return name == SO_ERROR || name == 55 /* SO_MEMINFO */ || name == SO_INCOMING_NAPI_ID || name == SO_COOKIE ||
		       name == SO_PEERCRED || name == 71 /* SO_NETNS_COOKIE */;
	if (level == IPPROTO_IP || level == IPPROTO_IPV6) /* what the route allows just now */
		return level == IPPROTO_IP ? name == IP_MTU : name == IPV6_MTU || name == 61 /* IPV6_PATHMTU */;
	if (level == IPPROTO_TCP)
		return name == TCP_INFO || name == TCP_TIMESTAMP || name == TCP_CC_INFO || name == TCP_ZEROCOPY_RECEIVE ||
		       name == TCP_REPAIR || name == TCP_REPAIR_QUEUE || name == TCP_QUEUE_SEQ || name == TCP_REPAIR_OPTIONS ||
		       name == TCP_REPAIR_WINDOW;
	return false;
}

static void read_all(int fd, struct value (*v)[NAMES])
{
	for (size_t l = 0; l < ARRAY_SIZE(levels); l++)
		for (int name = 0; name < NAMES; name++) {
			struct value *x = &v[l][name];

			x->len = sizeof(x->bytes);
			x->there = !is_left_out(levels[l], name) && getsockopt(fd, levels[l], name, x->bytes, &x->len) == 0;
		}
}

static void compare(const char *which, struct value (*a)[NAMES], struct value (*b)[NAMES])
{
	for (size_t l = 0; l < ARRAY_SIZE(levels); l++)
		for (int name = 0; name < NAMES; name++) {
			const struct value *x = &a[l][name], *y = &b[l][name];
			int p, q;

			memcpy(&p, x->bytes, sizeof(p));
			memcpy(&q, y->bytes, sizeof(q));
			if (x->there != y->there || (x->there && (x->len != y->len || memcmp(x->bytes, y->bytes, x->len))))
				FAIL("%s: level %d option %d: %d (%u bytes) became %d (%u bytes)", which, levels[l], name, p,
				     x->len, q, y->len);
		}
}

static void set(int fd, int level, int name, int value)
{
	int now = value + 1;
	socklen_t n = sizeof(now);

	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		FAIL("cannot set level %d option %d to %d: %s", level, name, value, strerror(errno));
	CHECK(getsockopt(fd, level, name, &now, &n) == 0);
}

static const struct want on_all[] = {
	{ SOL_SOCKET, SO_PRIORITY, 5 }, { SOL_SOCKET, SO_MARK, 7 }, { SOL_SOCKET, SO_RCVLOWAT, 3 },
	{ SOL_SOCKET, SO_SNDBUF, 50000 },
	{ SOL_SOCKET, SO_RCVBUF, 60000 }, { SOL_SOCKET, SO_TIMESTAMPNS, 1 }, { SOL_SOCKET, SO_RXQ_OVFL, 1 },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE, 1 }, { SOL_SOCKET, SO_BUSY_POLL, 11 }, { SOL_SOCKET, 69 /* PREFER_BUSY_POLL */, 1 },
	{ SOL_SOCKET, SO_DONTROUTE, 1 }, { SOL_SOCKET, SO_BROADCAST, 1 }, { SOL_SOCKET, SO_OOBINLINE, 1 },
	{ SOL_SOCKET, SO_NOFCS, 1 },
	{ SOL_SOCKET, 49 /* SO_INCOMING_CPU */, 0 },
};
static const struct want on_ip[] = {
	{ IPPROTO_IP, IP_TOS, 0x28 }, { IPPROTO_IP, IP_TTL, 33 }, { IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO },
	{ IPPROTO_IP, IP_RECVERR, 1 }, { IPPROTO_IP, IP_RECVTOS, 1 }, { IPPROTO_IP, IP_RECVTTL, 1 }, { IPPROTO_IP, IP_PKTINFO, 1 },
	{ IPPROTO_IP, IP_RECVOPTS, 1 }, { IPPROTO_IP, IP_RETOPTS, 1 }, { IPPROTO_IP, IP_RECVORIGDSTADDR, 1 },
	{ IPPROTO_IP, IP_MINTTL, 9 }, { IPPROTO_IP, IP_MULTICAST_ALL, 0 }, { IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1 },
	{ IPPROTO_IP, IP_FREEBIND, 1 }, { IPPROTO_IP, IP_TRANSPARENT, 1 },
	{ IPPROTO_IP, 26 /* IP_RECVERR_RFC4884 */, 1 }, { IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */, (50000 << 16) | 40000 },
	{ IPPROTO_IP, IP_PASSSEC, 1 },
};
/* Not on streams. */
static const struct want on_datagrams[] = {
	{ IPPROTO_IP, IP_MULTICAST_TTL, 5 }, { IPPROTO_IP, IP_MULTICAST_LOOP, 0 }, { IPPROTO_IP, IP_RECVFRAGSIZE, 1 },
};
static const struct want on_datagrams6[] = {
	{ IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 6 }, { IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0 },
};
static const struct want on_ip6[] = {
	{ IPPROTO_IPV6, IPV6_TCLASS, 0x48 }, { IPPROTO_IPV6, IPV6_UNICAST_HOPS, 44 },
	{ IPPROTO_IPV6, IPV6_MULTICAST_ALL, 0 }, { IPPROTO_IPV6, IPV6_RECVPKTINFO, 1 },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1 }, { IPPROTO_IPV6, IPV6_RECVTCLASS, 1 }, { IPPROTO_IPV6, IPV6_RECVRTHDR, 1 },
	{ IPPROTO_IPV6, IPV6_RECVHOPOPTS, 1 }, { IPPROTO_IPV6, IPV6_RECVDSTOPTS, 1 }, { IPPROTO_IPV6, IPV6_RECVPATHMTU, 1 },
	{ IPPROTO_IPV6, IPV6_2292PKTINFO, 1 }, { IPPROTO_IPV6, IPV6_2292HOPLIMIT, 1 }, { IPPROTO_IPV6, IPV6_2292RTHDR, 1 },
	{ IPPROTO_IPV6, IPV6_2292HOPOPTS, 1 }, { IPPROTO_IPV6, IPV6_2292DSTOPTS, 1 }, { IPPROTO_IPV6, IPV6_RECVERR, 1 },
	{ IPPROTO_IPV6, IPV6_RECVERR_RFC4884, 1 }, { IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO },
	{ IPPROTO_IPV6, IPV6_DONTFRAG, 1 },
	{ IPPROTO_IPV6, 11 /* IPV6_FLOWINFO */, 1 }, { IPPROTO_IPV6, 33 /* IPV6_FLOWINFO_SEND */, 1 },
	{ IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0 },
	{ IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, 2 /* PUBLIC */ }, { IPPROTO_IPV6, IPV6_MINHOPCOUNT, 8 },
	{ IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1 },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT, 1 }, { IPPROTO_IPV6, IPV6_FREEBIND, 1 }, { IPPROTO_IPV6, IPV6_RECVFRAGSIZE, 1 },
	{ IPPROTO_IPV6, IPV6_ROUTER_ALERT_ISOLATE, 1 },
};
static const struct want on_tcp[] = {
	{ IPPROTO_TCP, TCP_NODELAY, 1 }, { IPPROTO_TCP, TCP_CORK, 1 }, { IPPROTO_TCP, TCP_KEEPCNT, 4 },
	{ IPPROTO_TCP, TCP_KEEPIDLE, 55 },
	{ IPPROTO_TCP, TCP_KEEPINTVL, 7 }, { IPPROTO_TCP, TCP_SYNCNT, 3 }, { IPPROTO_TCP, TCP_LINGER2, 17 },
	{ IPPROTO_TCP, TCP_DEFER_ACCEPT, 5 },
	{ IPPROTO_TCP, TCP_WINDOW_CLAMP, 40000 }, { IPPROTO_TCP, TCP_QUICKACK, 0 }, { IPPROTO_TCP, TCP_MAXSEG, 900 },
	{ IPPROTO_TCP, TCP_USER_TIMEOUT, 12345 }, { IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1 }, { IPPROTO_TCP, TCP_SAVE_SYN, 1 },
	{ IPPROTO_TCP, TCP_NOTSENT_LOWAT, 9999 }, { IPPROTO_TCP, TCP_INQ, 1 }, { IPPROTO_TCP, TCP_TX_DELAY, 50 },
	{ IPPROTO_TCP, TCP_FASTOPEN, 6 },
	{ IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1 }, { IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */, 33000 },
	{ IPPROTO_TCP, 45 /* RTO_MIN_US */, 150000 },
	{ IPPROTO_TCP, 46 /* DELACK_MAX_US */, 100000 }, { SOL_SOCKET, SO_ZEROCOPY, 1 },
	{ SOL_SOCKET, SO_KEEPALIVE, 1 }, { SOL_SOCKET, 74 /* SO_TXREHASH */, 0 },
};
static const struct want on_udp[] = {
	{ IPPROTO_UDP, UDP_SEGMENT, 1200 }, { IPPROTO_UDP, UDP_GRO, 1 }, { IPPROTO_UDP, UDP_CORK, 1 },
	{ SOL_SOCKET, SO_ZEROCOPY, 1 },
	{ IPPROTO_UDP, UDP_NO_CHECK6_TX, 1 }, { IPPROTO_UDP, UDP_NO_CHECK6_RX, 1 }, { IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP },
	{ SOL_SOCKET, SO_PEEK_OFF, 0 }, { SOL_SOCKET, SO_NO_CHECK, 1 },
};

#define SET_ALL(fd, list)                                              \
	for (size_t i_ = 0; i_ < ARRAY_SIZE(list); i_++)               \
		set(fd, (list)[i_].level, (list)[i_].name, (list)[i_].value)

static void set_bytes(int fd, int level, int name, const void *value, socklen_t n)
{
	if (setsockopt(fd, level, name, value, n) < 0)
		FAIL("cannot set level %d option %d: %s", level, name, strerror(errno));
}

static void options_of_all(int fd)
{
	uint64_t rate = 123456;
	struct timeval tv = { 4, 500000 };
	struct linger l = { 1, 21 };
	int timestamping[2] = { SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE, 0 };
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0xffff) };
	struct sock_fprog prog = { 1, code };

	SET_ALL(fd, on_all);
	set_bytes(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate));
	set_bytes(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	set_bytes(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	set_bytes(fd, SOL_SOCKET, SO_TIMESTAMPING, timestamping, sizeof(timestamping));
	set_bytes(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2);
	set_bytes(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog));
	set(fd, SOL_SOCKET, SO_LOCK_FILTER, 1);
}

static void options_of_ip6(int fd, int type)
{
	uint8_t padding[8] = { 0, 0, 1, 4 }; /* an extension header: one option, of padding */
	uint32_t lo = htonl(if_nametoindex("lo"));

	SET_ALL(fd, on_ip6);
	set_bytes(fd, IPPROTO_IPV6, IPV6_UNICAST_IF, &lo, sizeof(lo));
	if (type != SOCK_STREAM)
		set(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, (int)ntohl(lo));
	set_bytes(fd, IPPROTO_IPV6, IPV6_HOPOPTS, padding, sizeof(padding));
	set_bytes(fd, IPPROTO_IPV6, IPV6_DSTOPTS, padding, sizeof(padding));
	set_bytes(fd, IPPROTO_IPV6, IPV6_RTHDRDSTOPTS, padding, sizeof(padding));
}

static void options_of_ip(int fd, int type)
{
	uint32_t lo = htonl(if_nametoindex("lo")), address = htonl(INADDR_LOOPBACK);
	uint8_t record_route[8] = { 1, 7, 7, 4, 0, 0, 0, 0 };

	SET_ALL(fd, on_ip);
	set_bytes(fd, IPPROTO_IP, IP_UNICAST_IF, &lo, sizeof(lo));
	set_bytes(fd, IPPROTO_IP, IP_OPTIONS, record_route, sizeof(record_route));
	if (type != SOCK_STREAM)
		set_bytes(fd, IPPROTO_IP, IP_MULTICAST_IF, &address, sizeof(address));
}

static void check(int family, int type, int protocol, void (*more)(int fd))
{
	static struct value before[ARRAY_SIZE(levels)][NAMES], after[ARRAY_SIZE(levels)][NAMES];
	static struct value plain[ARRAY_SIZE(levels)][NAMES], plain_after[ARRAY_SIZE(levels)][NAMES];
	int fd = socket(family, type, protocol), untouched = socket(family, type, protocol);

	CHECK(fd >= 0 && untouched >= 0);
	if (family == AF_INET6)
		options_of_ip6(fd, type);
	if (family == AF_INET || type != SOCK_RAW)
		options_of_ip(fd, type);
	if (type != SOCK_STREAM && (family == AF_INET || type != SOCK_RAW))
		SET_ALL(fd, on_datagrams);
	if (type != SOCK_STREAM && family == AF_INET6)
		SET_ALL(fd, on_datagrams6);
	more(fd);
	options_of_all(fd);
	read_all(fd, before);
	read_all(untouched, plain);
	t_wait();
	read_all(fd, after);
	compare("set", before, after);
	read_all(untouched, plain_after);
	compare("untouched", plain, plain_after);
}

static void tcp_options(int fd)
{
	uint32_t key[4] = { 1, 2, 3, 4 };

	SET_ALL(fd, on_tcp);
	set_bytes(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	set_bytes(fd, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, sizeof(key));
}

static void udp_options(int fd)
{
	SET_ALL(fd, on_udp);
}

static void lite_options(int fd)
{
	set(fd, IPPROTO_UDPLITE, 10 /* UDPLITE_SEND_CSCOV */, 20);
	set(fd, IPPROTO_UDPLITE, 11 /* UDPLITE_RECV_CSCOV */, 12);
}

static void raw_options(int fd)
{
	uint32_t f = ~1u; /* only echo replies */

	set(fd, IPPROTO_IP, IP_HDRINCL, 1);
	set(fd, IPPROTO_IP, IP_NODEFRAG, 1);
	set(fd, IPPROTO_IP, IP_CHECKSUM, 1);
	set(fd, IPPROTO_IP, IP_ROUTER_ALERT, 1);
	set_bytes(fd, SOL_RAW, 1 /* ICMP_FILTER */, &f, sizeof(f));
}

static void raw6_options(int fd)
{
	struct icmp6_filter f;

	ICMP6_FILTER_SETBLOCKALL(&f);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &f);
	set_bytes(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &f, sizeof(f));
	set(fd, IPPROTO_IPV6, 36 /* IPV6_HDRINCL */, 1);
}

static void raw6_other_options(int fd)
{
	set(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 12);
}

static void tcp4(void)
{
	check(AF_INET, SOCK_STREAM, 0, tcp_options);
}

static void tcp6(void)
{
	check(AF_INET6, SOCK_STREAM, 0, tcp_options);
}

static void udp4(void)
{
	check(AF_INET, SOCK_DGRAM, 0, udp_options);
}

static void udp6(void)
{
	check(AF_INET6, SOCK_DGRAM, 0, udp_options);
}

static void lite4(void)
{
	check(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE, lite_options);
}

static void lite6(void)
{
	check(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE, lite_options);
}

static void raw4(void)
{
	check(AF_INET, SOCK_RAW, IPPROTO_ICMP, raw_options);
}

static void raw6(void)
{
	check(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6, raw6_options);
}

static void raw6other(void)
{
	check(AF_INET6, SOCK_RAW, 89, raw6_other_options);
}

static void leave_out(struct value (*a)[NAMES], struct value (*b)[NAMES], int level, int name)
{
	for (size_t l = 0; l < ARRAY_SIZE(levels); l++)
		if (levels[l] == level)
			a[l][name].there = b[l][name].there = false;
}

/* On both ends of a connection, what can be set there. */
static void connection(int family)
{
	static struct value before[ARRAY_SIZE(levels)][NAMES], after[ARRAY_SIZE(levels)][NAMES];
	static const struct want late[] = {
		{ SOL_SOCKET, SO_PRIORITY, 5 }, { SOL_SOCKET, SO_RCVLOWAT, 3 }, { SOL_SOCKET, SO_TIMESTAMPNS, 1 },
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_IP, IP_TTL, 33 }, { IPPROTO_IP, IP_RECVTOS, 1 }, { IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO },
		{ IPPROTO_TCP, TCP_NODELAY, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, 55 }, { IPPROTO_TCP, TCP_USER_TIMEOUT, 12345 },
		{ IPPROTO_TCP, TCP_LINGER2, 17 }, { IPPROTO_TCP, TCP_NOTSENT_LOWAT, 9999 }, { IPPROTO_TCP, TCP_INQ, 1 },
		{ IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */, 33000 }, { IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, 1 },
	};
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0), server;
	socklen_t n = family == AF_INET6 ? sizeof(a) : sizeof(four);
	char buf[8];

	memcpy(&a, family == AF_INET6 ? (void *)&a : &four, n);
	set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
	CHECK(!bind(listener, (void *)&a, n) && !listen(listener, 3) && !getsockname(listener, (void *)&a, &n));
	CHECK(!connect(client, (void *)&a, n) && (server = accept(listener, NULL, NULL)) >= 0);
	SET_ALL(client, late);
	set_bytes(client, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	if (family == AF_INET6)
		set(client, IPPROTO_IPV6, IPV6_TCLASS, 0x48);
	else
		set(client, IPPROTO_IP, IP_TOS, 0x48);
	read_all(client, before);
	t_wait();
	read_all(client, after);
	leave_out(before, after, IPPROTO_TCP, TCP_QUICKACK); /* follows from what comes in and goes out */
	leave_out(before, after, IPPROTO_TCP, TCP_MAXSEG);   /* what the route allows just now */
	leave_out(before, after, IPPROTO_TCP, TCP_WINDOW_CLAMP); /* what was agreed on; it may be less later */
	leave_out(before, after, SOL_SOCKET, 49 /* SO_INCOMING_CPU */);
	leave_out(before, after, IPPROTO_IPV6, IPV6_V6ONLY); /* bind() to an address of IPv6 alone sets it */
	compare("connection", before, after);
	CHECK(write(client, "hello", 5) == 5 && read(server, buf, 5) == 5 && !memcmp(buf, "hello", 5));
	CHECK(write(server, "hello", 5) == 5 && read(client, buf, 5) == 5);
}

static void connected4(void)
{
	connection(AF_INET);
}

static void connected6(void)
{
	connection(AF_INET6);
}

/* A datagram that is not complete. */
static void corked(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(9) };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(!connect(fd, (void *)&a, sizeof(a)));
	set(fd, IPPROTO_UDP, UDP_CORK, 1);
	CHECK(send(fd, "half", 4, 0) == 4);
	t_wait();
	CHECK(send(fd, "half", 4, 0) == 4);
}

/* Taken by the kernel's tunnels. */
static void tunnel(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	set(fd, IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_L2TPINUDP);
	t_wait();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "tcp4", tcp4 }, { "tcp6", tcp6 }, { "udp4", udp4 }, { "udp6", udp6 }, { "lite4", lite4 }, { "lite6", lite6 },
		{ "raw4", raw4 }, { "raw6", raw6 }, { "raw6other", raw6other }, { "connected4", connected4 },
		{ "connected6", connected6 }, { "corked", corked }, { "tunnel", tunnel },
	};

	T_RUN(variants, t_init(argc, argv));
}
