// SPDX-License-Identifier: MIT
/*
 * Any bytes as messages of sock_diag(7), each with its head: of IPv4 and IPv6 sockets, netlink and packet sockets (the first
 * byte chooses). What is taken from them is looked at. With the top bit set the lengths of the heads are put right first.
 */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/sock_diag.h>
#include <stdlib.h>

#include "lib/state/sock/inet/inet.h"
#include "lib/state/sock/link/link.h"
#include "tests/fuzz/fuzz.h"

static volatile uint8_t sink;

static void look(const void *p, size_t n)
{
	for (size_t i = 0; p && i < n; i++)
		sink += ((const uint8_t *)p)[i];
}

static void use_inet(struct op *op, const struct inet_entry *e)
{
	union inet_addr wire;

	if ((e->family != AF_INET && e->family != AF_INET6) || e->local.any.sa_family != e->family)
		abort();
	inet_addr_on_wire(&e->peer, &wire);
	look(inet_addr_text(op, &e->local), 1);
	look(inet_addr_text(op, &wire), 1);
	look(e->ulp, e->ulp ? strlen(e->ulp) + 1 : 0);
}

static void parse(struct op *op, unsigned which, const struct nlmsghdr *h, size_t n)
{
	struct inet_entry e;
	struct netlink_seen nl;
	struct packet_seen p;

	if (which == 0 && inet_diag_parse(op, h, n, &e))
		use_inet(op, &e);
	if (which == 1 && link_netlink_parse(h, n, &nl))
		look(&nl, sizeof(nl));
	if (which == 2 && link_packet_parse(h, n, &p)) {
		look(p.mc, p.n_mc * sizeof(*p.mc));
		look(p.rx, p.rx ? sizeof(*p.rx) : 0);
		look(p.tx, p.tx ? sizeof(*p.tx) : 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct op op = { .arena = arena_new(), .opts = &opts };
	struct nlmsghdr *h;
	size_t n = size ? size - 1 : 0;

	if (!op.arena)
		abort();
	if (n >= sizeof(*h)) {
		h = malloc(n); /* aligned, and to the byte */
		memcpy(h, data + 1, n);
		if (data[0] & 0x80)
			h->nlmsg_len = (uint32_t)n;
		parse(&op, (data[0] & 0x7f) % 3, h, n);
		free(h);
	}
	ckpt_err_free(op.err);
	arena_free(op.arena);
	return 0;
}

/* ------------------------------------------------------------------------------------------------------------ seeds */

struct seed {
	uint8_t *buf;
	size_t n;
};

static void *put(struct seed *s, const void *data, size_t n)
{
	void *at = s->buf + s->n;

	memset(at, 0, (n + 3) & ~3ul);
	memcpy(at, data, n);
	s->n += (n + 3) & ~3ul;
	return at;
}

static void put_attr(struct seed *s, uint16_t type, const void *data, size_t n)
{
	put(s, &(uint16_t[]){ (uint16_t)(4 + n), type }, 4);
	put(s, data, n);
}

static void seed_inet(struct seed *s, int family)
{
	struct inet_diag_msg m = { .idiag_family = (uint8_t)family, .idiag_state = INET_ESTABLISHED, .idiag_inode = 1234 };
	const uint8_t ulp[] = { 8, 0, INET_ULP_INFO_NAME, 0, 't', 'l', 's', 0 }, shut = 3;

	m.id.idiag_sport = htons(80);
	m.id.idiag_src[0] = htonl(0x7f000001);
	put(s, &m, sizeof(m));
	put_attr(s, INET_DIAG_SHUTDOWN, &shut, 1);
	put_attr(s, INET_DIAG_ULP_INFO, ulp, sizeof(ulp));
	put_attr(s, INET_DIAG_MD5SIG, ulp, sizeof(ulp));
}

static void seed_netlink(struct seed *s)
{
	struct netlink_diag_msg m = { .ndiag_family = AF_NETLINK, .ndiag_type = SOCK_RAW, .ndiag_ino = 1234, .ndiag_portid = 99 };
	const uint32_t flags = NDIAG_FLAG_CB_RUNNING;

	put(s, &m, sizeof(m));
	put_attr(s, NETLINK_DIAG_FLAGS, &flags, sizeof(flags));
}

static void seed_packet(struct seed *s)
{
	struct packet_diag_msg m = { .pdiag_family = AF_PACKET, .pdiag_type = SOCK_RAW, .pdiag_num = 3, .pdiag_ino = 1234 };
	struct packet_diag_info info = { .pdi_index = 1, .pdi_version = 2 };
	struct packet_diag_mclist mc[2] = { { .pdmc_index = 1, .pdmc_alen = 6 }, { .pdmc_index = 2, .pdmc_alen = 6 } };
	struct packet_diag_ring ring = { .pdr_block_size = 4096, .pdr_block_nr = 4, .pdr_frame_size = 2048, .pdr_frame_nr = 8 };

	put(s, &m, sizeof(m));
	put_attr(s, PACKET_DIAG_INFO, &info, sizeof(info));
	put_attr(s, PACKET_DIAG_MCLIST, mc, sizeof(mc));
	put_attr(s, PACKET_DIAG_RX_RING, &ring, sizeof(ring));
	put_attr(s, PACKET_DIAG_TX_RING, &ring, sizeof(ring));
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	struct nlmsghdr h = { .nlmsg_type = SOCK_DIAG_BY_FAMILY };
	struct seed s = { buf + 1, 0 };

	if (cap < 1024 || i > 3)
		return 0;
	put(&s, &h, sizeof(h));
	buf[0] = (uint8_t)(0x80 | (i < 2 ? 0 : i - 1));
	if (i < 2)
		seed_inet(&s, i ? AF_INET6 : AF_INET);
	else if (i == 2)
		seed_netlink(&s);
	else
		seed_packet(&s);
	h.nlmsg_len = (uint32_t)s.n;
	memcpy(buf + 1, &h, sizeof(h));
	return 1 + s.n;
}
