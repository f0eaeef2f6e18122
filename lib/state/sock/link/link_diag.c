/* SPDX-License-Identifier: MIT */
/* sock_diag(7) of netlink and packet sockets. All tasks of the tree are stopped, so one listing of each serves for all. */
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/sock_diag.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "lib/state/sock/link/link.h"

struct listing {
	struct op *op;
	struct link_state *ls;
	int ret;
};

static void nl_free_p(struct nl_sock **sk)
{
	nl_socket_free(*sk);
}

static const void *attr_data(struct nlattr *const *attrs, int type, size_t size)
{
	return attrs[type] && (size_t)nla_len(attrs[type]) >= size ? nla_data(attrs[type]) : NULL;
}

/* Socket inodes are never used twice at one time, but a listing may tell of one twice. */
static int keep(struct listing *l, struct file_index *idx, uint32_t ino, const void *seen, size_t size)
{
	void *copy;

	if (index_find(idx, KEY(ino)))
		return 0;
	copy = arena_memdup(l->op->arena, seen, size);
	return copy ? index_add(l->op, idx, KEY(ino), copy) : op_nomem(l->op);
}

/* A message of a listing, with its head and at least @m_len bytes of its own. */
static bool parse(const struct nlmsghdr *h, size_t n, size_t m_len, struct nlattr **attrs, int max)
{
	return n >= NLMSG_HDRLEN + m_len && h->nlmsg_len >= NLMSG_HDRLEN + m_len && h->nlmsg_len <= n &&
	       nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, (int)m_len, attrs, max, NULL) >= 0;
}

bool link_netlink_parse(const struct nlmsghdr *h, size_t n, struct netlink_seen *ret)
{
	struct nlattr *attrs[NETLINK_DIAG_MAX + 1];
	const struct netlink_diag_msg *m = nlmsg_data(h);
	const uint32_t *flags;

	if (!parse(h, n, sizeof(*m), attrs, NETLINK_DIAG_MAX))
		return false;
	flags = attr_data(attrs, NETLINK_DIAG_FLAGS, sizeof(*flags));
	*ret = (struct netlink_seen){
		.ino = m->ndiag_ino, .portid = m->ndiag_portid, .dst_portid = m->ndiag_dst_portid, .dst_group = m->ndiag_dst_group,
		.state = m->ndiag_state, .flags = flags ? *flags : 0,
	};
	return true;
}

bool link_packet_parse(const struct nlmsghdr *h, size_t n, struct packet_seen *ret)
{
	struct nlattr *attrs[PACKET_DIAG_MAX + 1];
	const struct packet_diag_msg *m = nlmsg_data(h);
	const struct packet_diag_info *info;

	if (!parse(h, n, sizeof(*m), attrs, PACKET_DIAG_MAX) || !(info = attr_data(attrs, PACKET_DIAG_INFO, sizeof(*info))))
		return false;
	*ret = (struct packet_seen){ .ino = m->pdiag_ino, .type = m->pdiag_type, .protocol = m->pdiag_num, .info = *info };
	ret->mc = attr_data(attrs, PACKET_DIAG_MCLIST, sizeof(*ret->mc));
	ret->n_mc = ret->mc ? (size_t)nla_len(attrs[PACKET_DIAG_MCLIST]) / sizeof(*ret->mc) : 0;
	ret->rx = attr_data(attrs, PACKET_DIAG_RX_RING, sizeof(*ret->rx));
	ret->tx = attr_data(attrs, PACKET_DIAG_TX_RING, sizeof(*ret->tx));
	ret->has_fanout = attrs[PACKET_DIAG_FANOUT] != NULL;
	return true;
}

static int on_netlink(struct nl_msg *msg, void *arg)
{
	struct listing *l = arg;
	struct netlink_seen d;

	if (!l->ret && link_netlink_parse(nlmsg_hdr(msg), nlmsg_hdr(msg)->nlmsg_len, &d))
		l->ret = keep(l, &l->ls->netlink, d.ino, &d, sizeof(d));
	return NL_OK;
}

/* A copy in the arena: the message goes. */
static const void *kept(struct listing *l, const void *data, size_t size)
{
	const void *copy = data ? arena_memdup(l->op->arena, data, size) : NULL;

	if (data && !copy)
		l->ret = op_nomem(l->op);
	return copy;
}

static int on_packet(struct nl_msg *msg, void *arg)
{
	struct listing *l = arg;
	struct packet_seen d;

	if (l->ret || !link_packet_parse(nlmsg_hdr(msg), nlmsg_hdr(msg)->nlmsg_len, &d))
		return NL_OK;
	d.mc = kept(l, d.mc, d.n_mc * sizeof(*d.mc));
	d.rx = kept(l, d.rx, sizeof(*d.rx));
	d.tx = kept(l, d.tx, sizeof(*d.tx));
	l->ret = l->ret ?: keep(l, &l->ls->packet, d.ino, &d, sizeof(d));
	return NL_OK;
}

struct question {
	const char *kind, *hint;
	void *req;
	size_t len;
	nl_recvmsg_msg_cb_t on_socket;
};

static int list(struct op *op, struct link_state *ls, const struct question *q)
{
	_cleanup_(nl_free_p) struct nl_sock *sk = nl_socket_alloc();
	struct listing l = { .op = op, .ls = ls };
	int r;

	if (!sk)
		return op_nomem(op);
	nl_socket_disable_auto_ack(sk);
	r = nl_connect(sk, NETLINK_SOCK_DIAG);
	if (r >= 0) {
		nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, q->on_socket, &l);
		r = nl_send_simple(sk, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, q->req, q->len);
	}
	if (r >= 0)
		r = nl_recvmsgs_default(sk);
	if (r < 0)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = q->kind, .hint = q->hint), "the kernel does not list its %ss: %s", q->kind,
			       nl_geterror(r));
	return l.ret;
}

int link_netlink_seen(struct op *op, struct link_state *ls, uint32_t ino, const struct netlink_seen **ret)
{
	struct netlink_diag_req req = {
		.sdiag_family = AF_NETLINK, .sdiag_protocol = NDIAG_PROTO_ALL, .ndiag_show = NDIAG_SHOW_FLAGS,
	};
	const struct question q = { "netlink socket", "the kernel needs CONFIG_NETLINK_DIAG", &req, sizeof(req), on_netlink };
	int r = ls->netlink_listed ? 0 : list(op, ls, &q);

	ls->netlink_listed = true;
	*ret = r ? NULL : index_find(&ls->netlink, KEY(ino));
	return r;
}

int link_packet_seen(struct op *op, struct link_state *ls, uint32_t ino, const struct packet_seen **ret)
{
	struct packet_diag_req req = {
		.sdiag_family = AF_PACKET,
		.pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT,
	};
	const struct question q = { "packet socket", "the kernel needs CONFIG_PACKET_DIAG", &req, sizeof(req), on_packet };
	int r = ls->packet_listed ? 0 : list(op, ls, &q);

	ls->packet_listed = true;
	*ret = r ? NULL : index_find(&ls->packet, KEY(ino));
	return r;
}
