/* SPDX-License-Identifier: MIT */
/* Reading of what the images say of IPv4 and IPv6 sockets. What contradicts itself ends here; the rest believes it. */
#include <net/if.h>

#include "lib/state/ns/ns.h"
#include "lib/kernel/uapi.h"
#include "lib/state/sock/tcp/pending.h"
#include "lib/state/sock/tcp/tcp.h"

const char *inet_what(struct op *op, const struct inet_sk *sk)
{
	const char *name = inet_kind_name(sk->m->family, sk->m->type, sk->m->proto);
	const char *text = arena_printf(op->arena, "%s %s (file id %u)", name, inet_addr_text(op, &sk->local), sk->m->id);

	return text ? text : name;
}

int inet_sys(struct op *op, const struct inet_sk *sk, const char *what)
{
	return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot %s", inet_what(op, sk), what);
}

static const char *wrong_with(const InetSkEntry *m)
{
	if (m->family != AF_INET && m->family != AF_INET6)
		return "its family is unknown";
	if (m->type != SOCK_STREAM && m->type != SOCK_DGRAM && m->type != SOCK_RAW)
		return "its type is unknown";
	if (m->type == SOCK_DGRAM && m->proto != IPPROTO_UDP && m->proto != IPPROTO_UDPLITE && m->proto != IPPROTO_ICMP &&
	    m->proto != IPPROTO_ICMPV6 && m->proto != 0)
		return "its protocol is unknown";
	if (m->state < INET_ESTABLISHED || m->state > INET_CLOSING || m->state == INET_SYN_RECV || m->state == INET_TIME_WAIT)
		return "its state is unknown";
	if (m->state == INET_LISTEN && m->type != SOCK_STREAM)
		return "only a stream listens";
	if (m->has_shutdown && (unsigned)m->shutdown > SK_SHUTDOWN__BOTH)
		return "its shutdown state is unknown";
	if (m->opts->so_sndbuf > INT32_MAX || m->opts->so_rcvbuf > INT32_MAX || m->backlog > INT32_MAX)
		return "its buffers or backlog are too large";
	if (m->opts->so_bound_dev && strlen(m->opts->so_bound_dev) >= IFNAMSIZ)
		return "the name of its device is too long";
	return NULL;
}

static int check_stream(struct op *op, const struct inet_sk *sk)
{
	const InetSkEntry *m = sk->m;

	if (m->type != SOCK_STREAM || tcp_is_connected(m))
		return 0;
	if (m->state != INET_LISTEN && m->state != INET_CLOSE)
		return image_bad(op, "files.img: socket id %u: a connection to nobody", sk->f->id);
	if (m->dst_port || (m->proto != IPPROTO_MPTCP && !inet_is_tcp(m->type, m->proto)))
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "socket"), "%s: %s of protocol %u are not supported", inet_what(op, sk),
			       m->dst_port ? "connections" : "sockets", m->proto);
	return 0;
}

static int check_supported(struct op *op, const struct inet_sk *sk)
{
	const InetSkEntry *m = sk->m;

	if (tcp_is_connected(m) && m->state == INET_LISTEN)
		return image_bad(op, "files.img: socket id %u listens, and has a peer", sk->f->id);
	return check_stream(op, sk);
}

/* An address that is only that of a link is one with the link. */
int inet_set_scope(struct op *op, struct inet_sk *sk)
{
	union inet_addr *const both[] = { &sk->local, &sk->peer };
	const char *device = sk->m->ifname;
	unsigned index;

	if (!device || !*device || sk->m->family != AF_INET6)
		return 0;
	if (strlen(device) >= IFNAMSIZ)
		return image_bad(op, "files.img: socket id %u: the name of its device is too long", sk->f->id);
	index = if_nametoindex(device);
	if (!index)
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "socket", .hint = "the device must be there, with the address"),
			       "%s: its address is that of device %s, which is not there", inet_what(op, sk), device);
	for (size_t i = 0; i < ARRAY_SIZE(both); i++)
		if (IN6_IS_ADDR_LINKLOCAL(&both[i]->v6.sin6_addr) || IN6_IS_ADDR_MC_LINKLOCAL(&both[i]->v6.sin6_addr))
			both[i]->v6.sin6_scope_id = index;
	return 0;
}

static int add_socket(struct op *op, const struct snapshot *s, struct inet_state *is, struct snap_file *f)
{
	struct inet_sk *sk = op_new(op, struct inet_sk), **slot;
	const InetSkEntry *m = f->msg->isk;
	const char *wrong = wrong_with(m);
	char key[32];

	if (wrong)
		return image_bad(op, "files.img: socket id %u: %s", f->id, wrong);
	slot = sk ? ARRAY_ADD(op->arena, &is->socks) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = sk;
	sk->of = is;
	sk->f = f;
	sk->m = m;
	if (!inet_addr_get((int)m->family, m->n_src_addr, m->src_addr, m->src_port, &sk->local) ||
	    !inet_addr_get((int)m->family, m->n_dst_addr, m->dst_addr, m->dst_port, &sk->peer))
		return image_bad(op, "files.img: socket id %u: its addresses are none of its family", f->id);
	snprintf(key, sizeof(key), "socket:[%u]", m->ino);
	sk->given = inherit_find(op, key) >= 0;
	/* Devices of a network namespace of the tree's own are not there yet (inet_make.c). */
	if (!ns_own(s, NS_NET)) {
		int r = inet_set_scope(op, sk);

		if (r)
			return r;
	}
	return check_supported(op, sk) ?: index_add(op, &is->ids, KEY(f->id), sk);
}

static int add_extra(struct op *op, struct inet_state *is, const InetSkExtra *x)
{
	struct inet_sk *sk = index_find(&is->ids, KEY(x->id));

	if (!sk || sk->x)
		return image_bad(op, "ckpt-extra: file id %u is no network socket, or is there twice", x->id);
	sk->x = x;
	return multicast_read(op, sk) ?: datagrams_read(op, sk);
}

int inet_read(struct op *op, struct snapshot *s)
{
	struct inet_state *is = inet_state(op, s);
	int r = is ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; !r && i < s->files.n; i++)
		if (s->files.v[i]->msg->type == FD_TYPES__INETSK)
			r = add_socket(op, s, is, s->files.v[i]);
	for (size_t i = 0; !r && i < is->socks.n; i++)
		if (tcp_is_connected(is->socks.v[i]->m) && !is->socks.v[i]->given)
			r = tcp_read(op, s, is->socks.v[i]);
	for (size_t i = 0; !r && s->extra && i < s->extra->n_inet_sockets; i++)
		r = add_extra(op, is, s->extra->inet_sockets[i]);
	for (size_t i = 0; !r && i < is->socks.n; i++)
		r = pending_read(op, is->socks.v[i]);
	return r;
}
