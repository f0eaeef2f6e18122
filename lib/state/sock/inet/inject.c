/* SPDX-License-Identifier: MIT */
/* Makes datagrams of UDP and UDP-Lite, and sends them by raw sockets. */
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>

#include "lib/state/sock/inet/checksum.h"
#include "lib/state/sock/inet/inject.h"
#include "lib/state/sock/netlock/netlock.h"

/* @pseudo: the sum of the addresses. A length of 0 says to UDP-Lite that all of it is covered. */
static void build_udp(const struct inject *d, uint64_t pseudo, uint8_t *at)
{
	size_t n = sizeof(struct udphdr) + d->n;
	struct udphdr h = {
		.uh_sport = htons(inet_addr_port(&d->from)),
		.uh_dport = htons(inet_addr_port(&d->to)),
		.uh_ulen = htons(d->proto == IPPROTO_UDPLITE ? 0 : (uint16_t)n),
	};

	memcpy(at, &h, sizeof(h));
	if (d->n)
		memcpy(at + sizeof(h), d->data, d->n);
	h.uh_sum = checksum_fold(checksum_add(pseudo + d->proto + n, at, n));
	h.uh_sum = h.uh_sum ? h.uh_sum : 0xffff; /* 0 would say that there is none */
	memcpy(at, &h, sizeof(h));
}

static size_t build_v4(const struct inject *d, uint8_t *buf)
{
	size_t n = sizeof(struct iphdr) + sizeof(struct udphdr) + d->n;
	struct iphdr h = {
		.version = 4,
		.ihl = sizeof(h) / 4,
		.tos = d->tos,
		.tot_len = htons((uint16_t)n),
		.frag_off = htons(IP_DF),
		.ttl = d->ttl,
		.protocol = d->proto,
		.saddr = d->from.v4.sin_addr.s_addr,
		.daddr = d->to.v4.sin_addr.s_addr,
	};

	if (n > UINT16_MAX)
		return 0;
	build_udp(d, checksum_add(0, &h.saddr, 2 * sizeof(h.saddr)), buf + sizeof(h));
	h.check = checksum_fold(checksum_add(0, &h, sizeof(h)));
	memcpy(buf, &h, sizeof(h));
	return n;
}

static size_t build_v6(const struct inject *d, uint8_t *buf)
{
	size_t n = sizeof(struct udphdr) + d->n;
	struct ip6_hdr h = {
		.ip6_flow = htonl(6u << 28 | (uint32_t)d->tos << 20),
		.ip6_plen = htons((uint16_t)n),
		.ip6_nxt = d->proto,
		.ip6_hlim = d->ttl,
		.ip6_src = d->from.v6.sin6_addr,
		.ip6_dst = d->to.v6.sin6_addr,
	};

	if (sizeof(h) + n > INJECT_MAX)
		return 0;
	build_udp(d, checksum_add(0, &h.ip6_src, 2 * sizeof(h.ip6_src)), buf + sizeof(h));
	memcpy(buf, &h, sizeof(h));
	return sizeof(h) + n;
}

size_t inject_build(const struct inject *d, uint8_t buf[INJECT_MAX])
{
	if (d->from.any.sa_family != d->to.any.sa_family || d->n > UINT16_MAX)
		return 0;
	return d->to.any.sa_family == AF_INET6 ? build_v6(d, buf) : build_v4(d, buf);
}

/* Of this protocol it takes packets with their headers, and gets none. */
static int open_raw(int family)
{
	_cleanup_close_ int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	const int mark = NETLOCK_MARK, room = 1 << 20;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
	return TAKE_FD(fd);
}

int inject_send(struct inject_out *out, const struct inject *d)
{
	int *fd = d->to.any.sa_family == AF_INET6 ? &out->v6 : &out->v4;
	union inet_addr to = d->to;
	size_t n = inject_build(d, out->buf);

	errno = EMSGSIZE;
	if (!n)
		return -1;
	if (*fd < 0)
		*fd = open_raw(to.any.sa_family);
	if (to.any.sa_family == AF_INET6)
		to.v6.sin6_port = 0; /* the protocol, there */
	if (*fd < 0 || sendto(*fd, out->buf, n, MSG_NOSIGNAL, &to.any, inet_addr_len(&to)) < 0)
		return -1;
	return 0;
}

void inject_close(struct inject_out *out)
{
	close_fd_p(&out->v4);
	close_fd_p(&out->v6);
	out->v4 = out->v6 = -1;
}
