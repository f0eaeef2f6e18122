/* SPDX-License-Identifier: MIT */
/*
 * Connections that the packet filter tracks, and those that it expects: what the kernel lists is sent back, one by one. The
 * segments that a restored connection sends and receives need not fit into the windows that were noted (the "liberal" flag).
 */
#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

#include "lib/state/net/core.h"

#define CT(type) (NFNL_SUBSYS_CTNETLINK << 8 | (type))
#define EXP(type) (NFNL_SUBSYS_CTNETLINK_EXP << 8 | (type))
#define HEAD sizeof(struct nfgenmsg)

static int on_entry(struct op *op, void *arg, const struct nlmsghdr *h)
{
	struct nlattr *a[CTA_MAX + 1];

	if (h->nlmsg_type == CT(IPCTNL_MSG_CT_NEW)) {
		nl_attrs(h, HEAD, a, CTA_MAX);
		if (a[CTA_STATUS] && ntohl(nl_u32(a[CTA_STATUS], 0)) & IPS_DYING)
			return 0;
	} else if (h->nlmsg_type != EXP(IPCTNL_MSG_EXP_NEW)) {
		return 0;
	}
	return nl_blob_add(op, arg, h, h->nlmsg_len);
}

int net_track_dump(struct op *op, struct net_ns *n)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	struct nfgenmsg head = { .version = NFNETLINK_V0 };
	struct nl_request r;
	int ret = netlink_open(op, NETLINK_NETFILTER, &nl);

	if (ret == CKPT_E_KERNEL) {
		op_forget(op);
		return 0;
	}
	if (ret)
		return ret;
	r = nl_request(CT(IPCTNL_MSG_CT_GET), 0, &head, sizeof(head));
	ret = netlink_list(op, nl, &r, on_entry, &n->tracked);
	if (ret < 0)
		return ret;
	r = nl_request(EXP(IPCTNL_MSG_EXP_GET), 0, &head, sizeof(head));
	ret = netlink_list(op, nl, &r, on_entry, &n->expected);
	return MIN(ret, 0); /* without the module there are none */
}

int net_track_check(struct op *op, const struct net_ns *n)
{
	int r = net_blob_check(op, &n->tracked, 0, CT(IPCTNL_MSG_CT_NEW), HEAD, "tracked connections");

	return r ?: net_blob_check(op, &n->expected, 0, EXP(IPCTNL_MSG_EXP_NEW), HEAD, "expected connections");
}

/* ---------------------------------------------------------------------------------------------------- restore */

static void put_tcp(struct nl_request *r, const struct nlattr *protoinfo)
{
	struct nlattr *info[CTA_PROTOINFO_MAX + 1], *tcp[CTA_PROTOINFO_TCP_MAX + 1], *outer, *nest;

	nl_nested(protoinfo, info, CTA_PROTOINFO_MAX);
	if (!nl_nested(info[CTA_PROTOINFO_TCP], tcp, CTA_PROTOINFO_TCP_MAX)) {
		if (protoinfo)
			nl_put_attr(r, protoinfo);
		return;
	}
	outer = nl_nest(r, CTA_PROTOINFO);
	nest = nl_nest(r, CTA_PROTOINFO_TCP);
	for (int i = 1; i <= CTA_PROTOINFO_TCP_MAX; i++) {
		struct nf_ct_tcp_flags flags = { 0 };

		if (!tcp[i])
			continue;
		if ((i == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL || i == CTA_PROTOINFO_TCP_FLAGS_REPLY) && nla_len(tcp[i]) >= (int)sizeof(flags)) {
			memcpy(&flags, nla_data(tcp[i]), sizeof(flags));
			flags.flags |= IP_CT_TCP_FLAG_BE_LIBERAL;
			flags.mask |= flags.flags;
			nl_put(r, (uint16_t)i, &flags, sizeof(flags));
		} else {
			nl_put_attr(r, tcp[i]);
		}
	}
	nl_unnest(r, nest);
	nl_unnest(r, outer);
}

/* Where a translated connection was translated to: it shows in where its answers come from or go to. */
static void put_nat(struct nl_request *r, uint16_t type, const struct nlattr *reply, bool source)
{
	struct nlattr *tuple[CTA_TUPLE_MAX + 1], *ip[CTA_IP_MAX + 1], *proto[CTA_PROTO_MAX + 1], *address, *port, *nest, *range;
	uint16_t v6;

	nl_nested(reply, tuple, CTA_TUPLE_MAX);
	nl_nested(tuple[CTA_TUPLE_IP], ip, CTA_IP_MAX);
	nl_nested(tuple[CTA_TUPLE_PROTO], proto, CTA_PROTO_MAX);
	address = ip[source ? CTA_IP_V4_DST : CTA_IP_V4_SRC];
	v6 = !address;
	if (v6)
		address = ip[source ? CTA_IP_V6_DST : CTA_IP_V6_SRC];
	port = proto[source ? CTA_PROTO_DST_PORT : CTA_PROTO_SRC_PORT];
	if (!address)
		return;
	nest = nl_nest(r, type);
	nl_put(r, v6 ? CTA_NAT_V6_MINIP : CTA_NAT_V4_MINIP, nla_data(address), (size_t)nla_len(address));
	if (port) {
		range = nl_nest(r, CTA_NAT_PROTO);
		nl_put(r, CTA_PROTONAT_PORT_MIN, nla_data(port), (size_t)nla_len(port));
		nl_put(r, CTA_PROTONAT_PORT_MAX, nla_data(port), (size_t)nla_len(port));
		nl_unnest(r, range);
	}
	nl_unnest(r, nest);
}

static bool is_kept(int type)
{
	switch (type) {
	case CTA_TUPLE_ORIG: case CTA_TUPLE_REPLY: case CTA_TUPLE_MASTER: case CTA_STATUS: case CTA_HELP: case CTA_TIMEOUT: case CTA_MARK:
	case CTA_ZONE: case CTA_LABELS: case CTA_NAT_SEQ_ADJ_ORIG: case CTA_NAT_SEQ_ADJ_REPLY: case CTA_SYNPROXY:
		return true;
	default:
		return false;
	}
}

static struct nl_request connection(const struct nlmsghdr *h)
{
	struct nfgenmsg head = *(const struct nfgenmsg *)nlmsg_data(h);
	struct nlattr *a[CTA_MAX + 1];
	struct nl_request r;
	uint32_t status;

	nl_attrs(h, HEAD, a, CTA_MAX);
	status = ntohl(nl_u32(a[CTA_STATUS], 0));
	r = nl_request(CT(IPCTNL_MSG_CT_NEW), NLM_F_CREATE, &head, sizeof(head));
	for (int i = 0; i <= CTA_MAX; i++)
		if (a[i] && is_kept(i))
			nl_put_attr(&r, a[i]);
	put_tcp(&r, a[CTA_PROTOINFO]);
	if (status & IPS_SRC_NAT)
		put_nat(&r, CTA_NAT_SRC, a[CTA_TUPLE_REPLY], true);
	if (status & IPS_DST_NAT)
		put_nat(&r, CTA_NAT_DST, a[CTA_TUPLE_REPLY], false);
	return r;
}

static int make_all(struct op *op, struct netlink *nl, const struct nl_blob *b, bool expected)
{
	const struct nlmsghdr *h;
	size_t lost = 0, n = 0;
	int err = 0;

	for (size_t at = 0; (h = nl_next(b->v, b->n, &at)); n++) {
		struct nl_request r = { 0 };
		int ret;

		if (!expected)
			r = connection(h);
		ret = expected ? netlink_send(op, nl, h, NLM_F_CREATE) : netlink_do(op, nl, &r);
		if (ret < 0)
			return ret;
		if (ret && ret != EEXIST) {
			err = ret;
			lost++;
		}
	}
	if (lost)
		log_warn(op, "%zu of %zu %s connections of the packet filter were not taken: %s", lost, n, expected ? "expected" : "tracked",
			 strerror(err));
	return 0;
}

int net_track_make(struct op *op, struct net_ns *n)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	int r;

	if (!n->tracked.n && !n->expected.n)
		return 0;
	r = netlink_open(op, NETLINK_NETFILTER, &nl);
	r = r ?: make_all(op, nl, &n->tracked, false);
	return r ?: make_all(op, nl, &n->expected, true);
}
