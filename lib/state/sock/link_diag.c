/* SPDX-License-Identifier: MIT */
/* sock_diag(7) of netlink and packet sockets. All tasks of the tree are stopped, so one listing of each serves for all. */
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/sock_diag.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "lib/state/sock/link.h"

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

static int on_netlink(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[NETLINK_DIAG_MAX + 1];
	struct listing *l = arg;
	struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct netlink_diag_msg *m = nlmsg_data(h);
	const uint32_t *flags;
	struct netlink_seen d;

	if (l->ret || nlmsg_datalen(h) < (int)sizeof(*m) || nlmsg_parse(h, sizeof(*m), attrs, NETLINK_DIAG_MAX, NULL) < 0)
		return NL_OK;
	flags = attr_data(attrs, NETLINK_DIAG_FLAGS, sizeof(*flags));
	d = (struct netlink_seen){
		.ino = m->ndiag_ino, .portid = m->ndiag_portid, .dst_portid = m->ndiag_dst_portid, .dst_group = m->ndiag_dst_group,
		.state = m->ndiag_state, .flags = flags ? *flags : 0,
	};
	l->ret = keep(l, &l->ls->netlink, d.ino, &d, sizeof(d));
	return NL_OK;
}

/* A copy in the arena: the message goes. */
static const void *kept_attr(struct listing *l, struct nlattr *const *attrs, int type, size_t size)
{
	const void *data = attr_data(attrs, type, size), *copy;

	if (!data)
		return NULL;
	copy = arena_memdup(l->op->arena, data, (size_t)nla_len(attrs[type]));
	if (!copy)
		l->ret = op_nomem(l->op);
	return copy;
}

static int on_packet(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[PACKET_DIAG_MAX + 1];
	struct listing *l = arg;
	struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct packet_diag_msg *m = nlmsg_data(h);
	const struct packet_diag_info *info;
	struct packet_seen d;

	if (l->ret || nlmsg_datalen(h) < (int)sizeof(*m) || nlmsg_parse(h, sizeof(*m), attrs, PACKET_DIAG_MAX, NULL) < 0)
		return NL_OK;
	info = attr_data(attrs, PACKET_DIAG_INFO, sizeof(*info));
	if (!info)
		return NL_OK;
	d = (struct packet_seen){ .ino = m->pdiag_ino, .type = m->pdiag_type, .protocol = m->pdiag_num, .info = *info };
	d.mc = kept_attr(l, attrs, PACKET_DIAG_MCLIST, sizeof(*d.mc));
	d.n_mc = d.mc ? (size_t)nla_len(attrs[PACKET_DIAG_MCLIST]) / sizeof(*d.mc) : 0;
	d.rx = kept_attr(l, attrs, PACKET_DIAG_RX_RING, sizeof(*d.rx));
	d.tx = kept_attr(l, attrs, PACKET_DIAG_TX_RING, sizeof(*d.tx));
	d.has_fanout = attrs[PACKET_DIAG_FANOUT] != NULL;
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
	struct netlink_diag_req req = { .sdiag_family = AF_NETLINK, .sdiag_protocol = NDIAG_PROTO_ALL, .ndiag_show = NDIAG_SHOW_FLAGS };
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
