/* SPDX-License-Identifier: MIT */
/* Makes TCP segments, and sends them by raw sockets, with the addresses that they have. */
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>

#include "lib/state/sock/inet/checksum.h"
#include "lib/state/sock/netlock/netlock.h"
#include "lib/state/sock/tcp/segment.h"

#define STAMP_LEN 12 /* two times no operation, then the option, which is aligned that way */
#define HOPS 64

static size_t build_tcp(const struct segment *g, uint8_t *at)
{
	size_t n = sizeof(struct tcphdr) + (g->stamped ? STAMP_LEN : 0);
	struct tcphdr h = {
		.th_sport = htons(inet_addr_port(&g->from)),
		.th_dport = htons(inet_addr_port(&g->to)),
		.th_seq = htonl(g->seq),
		.th_ack = htonl(g->ack),
		.th_off = (uint8_t)(n / 4) & 0xf,
		.th_flags = TH_ACK | (g->fin ? TH_FIN : 0),
		.th_win = htons(g->window),
	};

	memcpy(at, &h, sizeof(h));
	if (g->stamped) {
		const uint32_t option[3] = { htonl((uint32_t)(TCPOPT_NOP << 24 | TCPOPT_NOP << 16 | TCPOPT_TIMESTAMP << 8 | TCPOLEN_TIMESTAMP)),
					     htonl(g->tsval), 0 };

		memcpy(at + sizeof(h), option, sizeof(option));
	}
	return n;
}

/* @pseudo: the sum of the addresses. */
static void seal(uint64_t pseudo, uint8_t *tcp, size_t n)
{
	uint16_t sum = checksum_fold(checksum_add(pseudo + IPPROTO_TCP + (uint32_t)n, tcp, n));

	memcpy(tcp + offsetof(struct tcphdr, th_sum), &sum, sizeof(sum));
}

static size_t build_v4(const struct segment *g, uint8_t *buf)
{
	size_t n = build_tcp(g, buf + sizeof(struct iphdr));
	struct iphdr h = {
		.version = 4,
		.ihl = sizeof(h) / 4,
		.tot_len = htons((uint16_t)(sizeof(h) + n)),
		.frag_off = htons(IP_DF),
		.ttl = HOPS,
		.protocol = IPPROTO_TCP,
		.saddr = g->from.v4.sin_addr.s_addr,
		.daddr = g->to.v4.sin_addr.s_addr,
	};

	seal(checksum_add(0, &h.saddr, 2 * sizeof(h.saddr)), buf + sizeof(h), n);
	h.check = checksum_fold(checksum_add(0, &h, sizeof(h)));
	memcpy(buf, &h, sizeof(h));
	return sizeof(h) + n;
}

static size_t build_v6(const struct segment *g, uint8_t *buf)
{
	size_t n = build_tcp(g, buf + sizeof(struct ip6_hdr));
	struct ip6_hdr h = {
		.ip6_flow = htonl(6u << 28),
		.ip6_plen = htons((uint16_t)n),
		.ip6_nxt = IPPROTO_TCP,
		.ip6_hlim = HOPS,
		.ip6_src = g->from.v6.sin6_addr,
		.ip6_dst = g->to.v6.sin6_addr,
	};

	seal(checksum_add(0, &h.ip6_src, 2 * sizeof(h.ip6_src)), buf + sizeof(h), n);
	memcpy(buf, &h, sizeof(h));
	return sizeof(h) + n;
}

size_t segment_build(const struct segment *g, uint8_t buf[SEGMENT_MAX])
{
	if (g->from.any.sa_family != g->to.any.sa_family)
		return 0;
	return g->to.any.sa_family == AF_INET6 ? build_v6(g, buf) : build_v4(g, buf);
}

/* Of this protocol it takes packets with their headers, and gets none. */
static int open_raw(int family)
{
	_cleanup_close_ int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);
	const int mark = NETLOCK_MARK;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return -1;
	return TAKE_FD(fd);
}

int segment_send(struct segment_out *out, const struct segment *g)
{
	int *fd = g->to.any.sa_family == AF_INET6 ? &out->v6 : &out->v4;
	union inet_addr to = g->to;
	uint8_t buf[SEGMENT_MAX];
	size_t n = segment_build(g, buf);

	errno = EAFNOSUPPORT;
	if (!n)
		return -1;
	if (*fd < 0)
		*fd = open_raw(to.any.sa_family);
	if (to.any.sa_family == AF_INET6)
		to.v6.sin6_port = 0; /* the protocol, there */
	if (*fd < 0 || sendto(*fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL, &to.any, inet_addr_len(&to)) < 0)
		return -1;
	return 0;
}

void segment_close(struct segment_out *out)
{
	close_fd_p(&out->v4);
	close_fd_p(&out->v6);
	out->v4 = out->v6 = -1;
}
