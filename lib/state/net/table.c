/* SPDX-License-Identifier: MIT */
/*
 * Addresses, next hops, routes, rules and neighbours. They are kept as the kernel lists them, which is what iproute2's `save`
 * commands write; what those leave out (other tables than main, rules of IPv6) goes into our own file. Most of a message can be sent
 * back as it is; what is the kernel's own to say, and what is only true for a moment, is taken out before.
 */
#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/nexthop.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "lib/state/net/core.h"

#define MAGIC_ADDR 0x47361222u
#define MAGIC_ROUTE 0x45311224u
#define MAGIC_RULE 0x71706986u
#define TEMPORARY IFA_F_TEMPORARY
#define FOREVER UINT32_MAX

/* ------------------------------------------------------------------------------------------------------------- dump */

struct listing {
	struct net_ns *n;
	uint16_t type;
	struct nl_blob *to, *others; /* others: what does not go there; NULL: left out */
	bool (*is_wanted)(const struct nlmsghdr *h, bool *other);
};

static int on_listed(struct op *op, void *arg, const struct nlmsghdr *h)
{
	const struct listing *l = arg;
	bool other = false;

	if (h->nlmsg_type != l->type || (l->is_wanted && !l->is_wanted(h, &other)))
		return 0;
	if (other && !l->others)
		return 0;
	return nl_blob_add(op, other ? l->others : l->to, h, h->nlmsg_len);
}

/* 1: the kernel has none of that. */
static int list(struct op *op, struct netlink *nl, uint16_t ask, const void *head, size_t n, struct listing *l, const char *what)
{
	struct nl_request r = nl_request(ask, 0, head, n);
	int ret = netlink_list(op, nl, &r, on_listed, l);

	if (ret == EOPNOTSUPP || ret == EAFNOSUPPORT || ret == EPROTONOSUPPORT)
		return 1;
	return ret > 0 ? op_errno(op, ret, AT(.kind = "network"), "list the %s", what) : ret;
}

static int begin(struct op *op, struct nl_blob *b, uint32_t magic)
{
	return nl_blob_add(op, b, &magic, sizeof(magic));
}

static bool is_address_wanted(const struct nlmsghdr *h, bool *other)
{
	const struct ifaddrmsg *m = nlmsg_data(h);

	*other = false;
	return h->nlmsg_len >= NLMSG_LENGTH(sizeof(*m)) && (m->ifa_family == AF_INET || m->ifa_family == AF_INET6);
}

static bool is_route_wanted(const struct nlmsghdr *h, bool *other)
{
	const struct rtmsg *m = nlmsg_data(h);
	struct nlattr *a[RTA_MAX + 1];
	uint32_t table;

	if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || !nl_attrs(h, sizeof(*m), a, RTA_MAX) || m->rtm_flags & RTM_F_CLONED ||
	    m->rtm_protocol == RTPROT_REDIRECT)
		return false;
	table = nl_u32(a[RTA_TABLE], m->rtm_table);
	*other = table != RT_TABLE_MAIN;
	/* The kernel fills that one itself, from the addresses. */
	return table != RT_TABLE_LOCAL || m->rtm_protocol != RTPROT_KERNEL;
}

static bool is_neighbour_wanted(const struct nlmsghdr *h, bool *other)
{
	const struct ndmsg *m = nlmsg_data(h);

	*other = false;
	if (h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || (m->ndm_flags & NTF_EXT_LEARNED))
		return false;
	if (m->ndm_family == AF_BRIDGE)
		return m->ndm_state & (NUD_PERMANENT | NUD_NOARP);
	return m->ndm_flags & NTF_PROXY || m->ndm_state & (NUD_PERMANENT | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE);
}

static int dump_routes(struct op *op, struct net_ns *n, struct netlink *nl, struct nl_blob *others)
{
	static const uint8_t families[] = { AF_INET, AF_INET6 };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(families) && r >= 0; i++) {
		struct rtmsg head = { .rtm_family = families[i] };
		struct nl_blob *to = families[i] == AF_INET ? &n->routes : &n->routes6;
		struct listing l = { n, RTM_NEWROUTE, to, others, is_route_wanted };

		r = begin(op, to, MAGIC_ROUTE) ?: list(op, nl, RTM_GETROUTE, &head, sizeof(head), &l, "routes");
	}
	return MIN(r, 0);
}

static int dump_rules(struct op *op, struct net_ns *n, struct netlink *nl, struct nl_blob *rules6)
{
	struct fib_rule_hdr head = { .family = AF_INET };
	struct listing l = { n, RTM_NEWRULE, &n->rules, NULL, NULL };
	int r = begin(op, &n->rules, MAGIC_RULE) ?: list(op, nl, RTM_GETRULE, &head, sizeof(head), &l, "rules");

	head.family = AF_INET6;
	l.to = rules6;
	return r < 0 ? r : MIN(list(op, nl, RTM_GETRULE, &head, sizeof(head), &l, "rules"), 0);
}

static int dump_neighbours(struct op *op, struct net_ns *n, struct netlink *nl, struct nl_blob *to)
{
	static const struct ndmsg heads[] = { { .ndm_family = AF_INET }, { .ndm_family = AF_INET6 }, { .ndm_family = AF_INET, .ndm_flags = NTF_PROXY },
					      { .ndm_family = AF_INET6, .ndm_flags = NTF_PROXY }, { .ndm_family = AF_BRIDGE } };
	struct listing l = { n, RTM_NEWNEIGH, to, NULL, is_neighbour_wanted };
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(heads) && r >= 0; i++)
		r = list(op, nl, RTM_GETNEIGH, &heads[i], sizeof(heads[i]), &l, "neighbours");
	return MIN(r, 0);
}

static void give(ProtobufCBinaryData *to, protobuf_c_boolean *has, const struct nl_blob *b)
{
	*has = b->n > 0;
	to->data = b->v;
	to->len = b->n;
}

int net_tables_dump(struct op *op, struct net_ns *n, struct netlink *nl)
{
	struct ifaddrmsg all = { .ifa_family = AF_UNSPEC };
	struct nhmsg hops = { .nh_family = AF_UNSPEC };
	struct nl_blob nexthops = { 0 }, routes = { 0 }, rules6 = { 0 }, neighbours = { 0 };
	struct listing addresses = { n, RTM_NEWADDR, &n->addrs, NULL, is_address_wanted }, hop = { n, RTM_NEWNEXTHOP, &nexthops, NULL, NULL };
	int r = begin(op, &n->addrs, MAGIC_ADDR) ?: list(op, nl, RTM_GETADDR, &all, sizeof(all), &addresses, "addresses");

	r = r < 0 ? r : list(op, nl, RTM_GETNEXTHOP, &hops, sizeof(hops), &hop, "next hops");
	r = r < 0 ? r : dump_routes(op, n, nl, &routes);
	r = r < 0 ? r : dump_rules(op, n, nl, &rules6);
	r = r < 0 ? r : dump_neighbours(op, n, nl, &neighbours);
	give(&n->extra->nexthops, &n->extra->has_nexthops, &nexthops);
	give(&n->extra->routes, &n->extra->has_routes, &routes);
	give(&n->extra->rules6, &n->extra->has_rules6, &rules6);
	give(&n->extra->neighbours, &n->extra->has_neighbours, &neighbours);
	return MIN(r, 0);
}

/* ------------------------------------------------------------------------------------------------------------ check */

int net_blob_check(struct op *op, const struct nl_blob *b, uint32_t magic, uint16_t type, size_t head, const char *what)
{
	size_t at = magic ? NET_BLOB_HEAD : 0;
	const struct nlmsghdr *h;

	if (!b->n)
		return 0;
	if (magic && (b->n < NET_BLOB_HEAD || memcmp(b->v, &magic, sizeof(magic))))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "the image of %s does not begin as it should", what);
	while ((h = nl_next(b->v, b->n, &at)))
		if ((type && h->nlmsg_type != type) || h->nlmsg_len < NLMSG_LENGTH(head))
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "the image of %s has a message that is none of them (%u)", what,
				       h->nlmsg_type);
	return at == b->n ? 0 : op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "the image of %s is damaged at byte %zu", what, at);
}

static struct nl_blob as_blob(const ProtobufCBinaryData *d)
{
	return (struct nl_blob){ .v = d->data, .n = d->data ? d->len : 0 };
}

int net_tables_check(struct op *op, const struct net_ns *n)
{
	int r = net_blob_check(op, &n->addrs, MAGIC_ADDR, RTM_NEWADDR, sizeof(struct ifaddrmsg), "addresses");

	r = r ?: net_blob_check(op, &n->routes, MAGIC_ROUTE, RTM_NEWROUTE, sizeof(struct rtmsg), "routes");
	r = r ?: net_blob_check(op, &n->routes6, MAGIC_ROUTE, RTM_NEWROUTE, sizeof(struct rtmsg), "routes of IPv6");
	r = r ?: net_blob_check(op, &n->rules, MAGIC_RULE, RTM_NEWRULE, sizeof(struct fib_rule_hdr), "routing rules");
	if (!r && n->extra) {
		struct nl_blob hops = as_blob(&n->extra->nexthops), routes = as_blob(&n->extra->routes), rules6 = as_blob(&n->extra->rules6),
			       neighbours = as_blob(&n->extra->neighbours);

		r = net_blob_check(op, &hops, 0, RTM_NEWNEXTHOP, sizeof(struct nhmsg), "next hops");
		r = r ?: net_blob_check(op, &routes, 0, RTM_NEWROUTE, sizeof(struct rtmsg), "routes of other tables");
		r = r ?: net_blob_check(op, &rules6, 0, RTM_NEWRULE, sizeof(struct fib_rule_hdr), "routing rules of IPv6");
		r = r ?: net_blob_check(op, &neighbours, 0, RTM_NEWNEIGH, sizeof(struct ndmsg), "neighbours");
	}
	return r;
}

/* -------------------------------------------------------------------------------------------------------- addresses */

/* Tells one address of a device from another. */
struct address {
	uint8_t family, prefixlen;
	uint32_t index;
	uint8_t bytes[16];
};

static bool address_of(const struct nlmsghdr *h, struct address *ret)
{
	const struct ifaddrmsg *m = nlmsg_data(h);
	struct nlattr *a[IFA_MAX + 1], *local;

	nl_attrs(h, sizeof(*m), a, IFA_MAX);
	local = a[IFA_LOCAL] ?: a[IFA_ADDRESS];
	if (!local || nla_len(local) > 16)
		return false;
	*ret = (struct address){ .family = m->ifa_family, .prefixlen = m->ifa_prefixlen, .index = m->ifa_index };
	memcpy(ret->bytes, nla_data(local), (size_t)nla_len(local));
	return true;
}

static const char *address_text(struct op *op, const struct net_ns *n, const struct address *a)
{
	char text[INET6_ADDRSTRLEN] = "?";
	const struct net_link *l = net_link_find(n, a->index);

	inet_ntop(a->family, a->bytes, text, sizeof(text));
	return arena_printf(op->arena, "%s/%u of %s", text, a->prefixlen, net_link_text(op, n, l ? l->dev->name : "?")) ?: "?";
}

static struct nl_request address_request(uint16_t type, uint16_t flags, const struct nlmsghdr *h, uint32_t ifa_flags)
{
	struct ifaddrmsg head = *(const struct ifaddrmsg *)nlmsg_data(h);
	struct nlattr *a[IFA_MAX + 1];
	struct nl_request r;

	nl_attrs(h, sizeof(head), a, IFA_MAX);
	head.ifa_flags = (uint8_t)ifa_flags;
	r = nl_request(type, flags, &head, sizeof(head));
	for (int i = 0; i <= IFA_MAX; i++)
		if (a[i] && i != IFA_FLAGS && i != IFA_TARGET_NETNSID && i != IFA_MULTICAST && i != IFA_ANYCAST)
			nl_put_attr(&r, a[i]);
	nl_put_u32(&r, IFA_FLAGS, ifa_flags);
	return r;
}

static int make_address(struct op *op, struct net_ns *n, struct netlink *nl, const struct nlmsghdr *h)
{
	const struct ifaddrmsg *m = nlmsg_data(h);
	struct nlattr *a[IFA_MAX + 1];
	struct nl_request r;
	struct address key;
	uint32_t flags;
	bool sure;
	int ret;

	nl_attrs(h, sizeof(*m), a, IFA_MAX);
	flags = nl_u32(a[IFA_FLAGS], m->ifa_flags);
	if (!address_of(h, &key))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "an address in ifaddr-%u.img is damaged", n->ns->id);
	if (m->ifa_family == AF_INET) {
		r = address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, h, flags & ~(uint32_t)IFA_F_SECONDARY);
		ret = netlink_do(op, nl, &r);
		ret = ret == EEXIST ? 0 : ret;
	} else if (flags & TEMPORARY) {
		return 0; /* the kernel makes its own, from a prefix that routers tell */
	} else {
		/* Nobody else took it meanwhile: sockets are to be bound to it at once. */
		sure = !(flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED));
		r = address_request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, h, flags | (sure ? IFA_F_NODAD : 0));
		ret = netlink_do(op, nl, &r);
		if (ret == EEXIST)
			return 0;
		if (!ret && sure && !(flags & IFA_F_NODAD)) {
			r = address_request(RTM_NEWADDR, NLM_F_REPLACE, h, flags);
			ret = netlink_do(op, nl, &r);
		}
	}
	if (ret > 0)
		return op_errno(op, ret, AT(.kind = "network"), "add address %s%s%s", address_text(op, n, &key), *netlink_why(nl) ? ": " : "",
				netlink_why(nl));
	return ret;
}

static bool is_saved(const struct net_ns *n, const struct address *key)
{
	const struct nlmsghdr *h;
	struct address other;

	for (size_t at = NET_BLOB_HEAD; (h = nl_next(n->addrs.v, n->addrs.n, &at));)
		if (address_of(h, &other) && !memcmp(&other, key, sizeof(other)))
			return true;
	return false;
}

/* Those that came by themselves, with the loopback. */
static int remove_others(struct op *op, struct net_ns *n, struct netlink *nl)
{
	struct ifaddrmsg all = { .ifa_family = AF_UNSPEC };
	struct nl_blob now = { 0 };
	struct listing l = { n, RTM_NEWADDR, &now, NULL, is_address_wanted };
	const struct nlmsghdr *h;
	int r = list(op, nl, RTM_GETADDR, &all, sizeof(all), &l, "addresses");

	for (size_t at = 0; r >= 0 && (h = nl_next(now.v, now.n, &at));) {
		struct nl_request request;
		struct address key;

		if (!address_of(h, &key) || is_saved(n, &key) || !net_link_find(n, key.index))
			continue;
		request = address_request(RTM_DELADDR, 0, h, 0);
		r = MIN(netlink_do(op, nl, &request), 0);
	}
	return MIN(r, 0);
}

static int make_addresses(struct op *op, struct net_ns *n, struct netlink *nl)
{
	const struct nlmsghdr *h;
	int r = 0;

	for (size_t at = NET_BLOB_HEAD; !r && (h = nl_next(n->addrs.v, n->addrs.n, &at));)
		r = make_address(op, n, nl, h);
	return r || !n->addrs.n ? r : remove_others(op, n, nl);
}

/* ------------------------------------------------------------------------------------------------ routes, next hops */

/* Messages that may need one another, in an order that is not known: again and again, until none is left. */
struct pending {
	ARRAY(const struct nlmsghdr *) v;
	struct nl_request (*build)(const struct nlmsghdr *h);
	const char *what;
};

static int collect(struct op *op, struct pending *p, const void *bytes, size_t n, size_t at)
{
	const struct nlmsghdr *h, **slot;

	while ((h = nl_next(bytes, n, &at))) {
		slot = ARRAY_ADD(op->arena, &p->v);
		if (!slot)
			return op_nomem(op);
		*slot = h;
	}
	return 0;
}

static const char *message_text(struct op *op, const struct net_ns *n, const struct pending *p, const struct nlmsghdr *h)
{
	const struct rtmsg *m = nlmsg_data(h);
	char to[INET6_ADDRSTRLEN] = "default";
	struct nlattr *a[RTA_MAX + 1];
	const struct net_link *l;

	if (h->nlmsg_type != RTM_NEWROUTE)
		return p->what;
	nl_attrs(h, sizeof(*m), a, RTA_MAX);
	if (a[RTA_DST] && nla_len(a[RTA_DST]) >= (m->rtm_family == AF_INET ? 4 : 16))
		inet_ntop(m->rtm_family, nla_data(a[RTA_DST]), to, sizeof(to));
	l = net_link_find(n, nl_u32(a[RTA_OIF], 0));
	return arena_printf(op->arena, "route to %s/%u by %s in table %u", to, m->rtm_dst_len, l ? l->dev->name : "several",
			    nl_u32(a[RTA_TABLE], m->rtm_table)) ?: p->what;
}

static int make_pending(struct op *op, struct net_ns *n, struct netlink *nl, struct pending *p)
{
	int err = 0;

	while (p->v.n) {
		size_t left = 0;

		for (size_t i = 0; i < p->v.n; i++) {
			struct nl_request r = p->build(p->v.v[i]);
			int ret = netlink_do(op, nl, &r);

			if (ret < 0)
				return ret;
			if (!ret || ret == EEXIST)
				continue;
			err = ret;
			p->v.v[left++] = p->v.v[i];
		}
		if (left == p->v.n)
			return op_errno(op, err, AT(.kind = "network"), "add %s%s%s", message_text(op, n, p, p->v.v[0]),
					*netlink_why(nl) ? ": " : "", netlink_why(nl));
		p->v.n = left;
	}
	return 0;
}

static void clear_hops(struct nlattr *multipath)
{
	uint8_t *v = nla_data(multipath);
	size_t left = (size_t)nla_len(multipath);

	while (left >= sizeof(struct rtnexthop)) {
		struct rtnexthop *hop = (struct rtnexthop *)(void *)v;
		size_t step = NLMSG_ALIGN(hop->rtnh_len);

		hop->rtnh_flags &= RTNH_F_ONLINK | RTNH_F_PERVASIVE;
		if (hop->rtnh_len < sizeof(*hop) || step > left)
			break;
		v += step;
		left -= step;
	}
}

static bool is_route_attr(int type, bool by_id)
{
	switch (type) {
	case RTA_CACHEINFO: case RTA_TABLE: case RTA_SESSION: case RTA_MP_ALGO: case RTA_PROTOINFO: case RTA_PAD: case RTA_UID:
	case RTA_MFC_STATS:
		return false;
	case RTA_OIF: case RTA_GATEWAY: case RTA_MULTIPATH: case RTA_VIA: case RTA_ENCAP: case RTA_ENCAP_TYPE:
		return !by_id; /* told beside it, and not taken */
	default:
		return true;
	}
}

static struct nl_request route(const struct nlmsghdr *h)
{
	struct rtmsg head = *(const struct rtmsg *)nlmsg_data(h);
	struct nlattr *a[RTA_MAX + 1];
	const struct rta_cacheinfo *cache;
	struct nl_request r;

	nl_attrs(h, sizeof(head), a, RTA_MAX);
	head.rtm_flags &= RTNH_F_ONLINK | RTNH_F_PERVASIVE;
	r = nl_request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, &head, sizeof(head));
	for (int i = 0; i <= RTA_MAX; i++)
		if (a[i] && is_route_attr(i, a[RTA_NH_ID]))
			nl_put_attr(&r, a[i]);
	nl_put_u32(&r, RTA_TABLE, nl_u32(a[RTA_TABLE], head.rtm_table));
	cache = a[RTA_CACHEINFO] && nla_len(a[RTA_CACHEINFO]) >= (int)sizeof(*cache) ? nla_data(a[RTA_CACHEINFO]) : NULL;
	if (head.rtm_family == AF_INET6 && cache && cache->rta_expires > 0)
		nl_put_u32(&r, RTA_EXPIRES, (uint32_t)cache->rta_expires / 100);
	/* In our copy. */
	if (r.msg && !r.full) {
		nl_attrs(nlmsg_hdr(r.msg), sizeof(head), a, RTA_MAX);
		if (a[RTA_MULTIPATH])
			clear_hops(a[RTA_MULTIPATH]);
	}
	return r;
}

static bool is_same_route(const struct nlmsghdr *a, const struct nlmsghdr *b)
{
	struct nl_request x = route(a), y = route(b);
	bool same = x.msg && y.msg && nlmsg_hdr(x.msg)->nlmsg_len == nlmsg_hdr(y.msg)->nlmsg_len &&
		    !memcmp(nlmsg_data(nlmsg_hdr(x.msg)), nlmsg_data(nlmsg_hdr(y.msg)), nlmsg_hdr(x.msg)->nlmsg_len - NLMSG_HDRLEN);

	nl_request_free(&x);
	nl_request_free(&y);
	return same;
}

/* Those that came by themselves, with addresses, and had been removed before. */
static int remove_other_routes(struct op *op, struct net_ns *n, struct netlink *nl, uint8_t family, const struct nl_blob *saved)
{
	struct rtmsg head = { .rtm_family = family };
	struct nl_blob now = { 0 };
	struct listing l = { n, RTM_NEWROUTE, &now, NULL, is_route_wanted };
	const struct nlmsghdr *h, *s;
	int r = saved->n ? list(op, nl, RTM_GETROUTE, &head, sizeof(head), &l, "routes") : 0;

	for (size_t at = 0; r >= 0 && (h = nl_next(now.v, now.n, &at));) {
		const struct rtmsg *m = nlmsg_data(h);
		struct nl_request request;
		bool found = m->rtm_protocol != RTPROT_KERNEL;

		for (size_t i = NET_BLOB_HEAD; !found && (s = nl_next(saved->v, saved->n, &i));)
			found = is_same_route(h, s);
		if (found)
			continue;
		request = route(h);
		if (request.msg)
			nlmsg_hdr(request.msg)->nlmsg_type = RTM_DELROUTE;
		r = MIN(netlink_do(op, nl, &request), 0);
	}
	return MIN(r, 0);
}

static struct nl_request nexthop(const struct nlmsghdr *h)
{
	struct nhmsg head = *(const struct nhmsg *)nlmsg_data(h);
	static const int kept[] = { NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, NHA_BLACKHOLE, NHA_OIF, NHA_GATEWAY, NHA_ENCAP_TYPE, NHA_ENCAP, NHA_FDB,
				    NHA_RES_GROUP };
	struct nlattr *a[NHA_MAX + 1];
	struct nl_request r;

	nl_attrs(h, sizeof(head), a, NHA_MAX);
	head.nh_flags &= RTNH_F_ONLINK;
	head.nh_scope = 0; /* told, not taken */
	r = nl_request(RTM_NEWNEXTHOP, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof(head));
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
		if (a[kept[i]])
			nl_put_attr(&r, a[kept[i]]);
	return r;
}

static int make_routes(struct op *op, struct net_ns *n, struct netlink *nl)
{
	struct pending hops = { .build = nexthop, .what = "a next hop" }, routes = { .build = route, .what = "a route" };
	int r = n->extra ? collect(op, &hops, n->extra->nexthops.data, n->extra->nexthops.len, 0) : 0;

	r = r ?: make_pending(op, n, nl, &hops);
	r = r ?: collect(op, &routes, n->routes.v, n->routes.n, NET_BLOB_HEAD);
	r = r ?: collect(op, &routes, n->routes6.v, n->routes6.n, NET_BLOB_HEAD);
	if (!r && n->extra)
		r = collect(op, &routes, n->extra->routes.data, n->extra->routes.len, 0);
	r = r ?: make_pending(op, n, nl, &routes);
	return r ?: remove_other_routes(op, n, nl, AF_INET, &n->routes) ?: remove_other_routes(op, n, nl, AF_INET6, &n->routes6);
}

/* ----------------------------------------------------------------------------------------------- rules, neighbours */

static bool is_same(const struct nlmsghdr *a, const struct nlmsghdr *b)
{
	return a->nlmsg_len == b->nlmsg_len && !memcmp(nlmsg_data(a), nlmsg_data(b), a->nlmsg_len - NLMSG_HDRLEN);
}

static bool has_rule(const void *bytes, size_t n, size_t at, const struct nlmsghdr *rule)
{
	const struct nlmsghdr *h;

	while ((h = nl_next(bytes, n, &at)))
		if (is_same(h, rule))
			return true;
	return false;
}

/* There are some from the beginning; those that are wanted stay. */
static int make_rules(struct op *op, struct net_ns *n, struct netlink *nl, uint8_t family, const void *bytes, size_t len, size_t at)
{
	struct fib_rule_hdr head = { .family = family };
	struct nl_blob now = { 0 };
	struct listing l = { n, RTM_NEWRULE, &now, NULL, NULL };
	const struct nlmsghdr *h;
	size_t i;
	int r = list(op, nl, RTM_GETRULE, &head, sizeof(head), &l, "rules");

	for (i = 0; r >= 0 && (h = nl_next(now.v, now.n, &i));) {
		struct nlmsghdr *removal = (struct nlmsghdr *)(uintptr_t)h;

		if (has_rule(bytes, len, at, h))
			continue;
		removal->nlmsg_type = RTM_DELRULE;
		r = netlink_send(op, nl, removal, 0);
		removal->nlmsg_type = RTM_NEWRULE;
		r = r > 0 ? op_errno(op, r, AT(.kind = "network"), "remove a routing rule") : r;
	}
	for (i = at; r >= 0 && (h = nl_next(bytes, len, &i));) {
		if (has_rule(now.v, now.n, 0, h))
			continue;
		r = netlink_send(op, nl, h, NLM_F_CREATE | NLM_F_EXCL);
		if (r > 0 && r != EEXIST)
			r = op_errno(op, r, AT(.kind = "network"), "add a routing rule%s%s", *netlink_why(nl) ? ": " : "", netlink_why(nl));
	}
	return MIN(r, 0);
}

static int make_neighbours(struct op *op, struct net_ns *n, struct netlink *nl)
{
	const struct nlmsghdr *h;

	for (size_t at = 0; n->extra && (h = nl_next(n->extra->neighbours.data, n->extra->neighbours.len, &at));) {
		struct ndmsg head = *(const struct ndmsg *)nlmsg_data(h);
		struct nlattr *a[NDA_MAX + 1];
		struct nl_request request;
		int r;

		nl_attrs(h, sizeof(head), a, NDA_MAX);
		if (head.ndm_family != AF_BRIDGE && !(head.ndm_state & NUD_PERMANENT))
			head.ndm_state = NUD_STALE; /* to be asked for again before long */
		request = nl_request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &head, sizeof(head));
		for (int i = 0; i <= NDA_MAX; i++)
			if (a[i] && i != NDA_CACHEINFO && i != NDA_PROBES && i != NDA_MASTER && i != NDA_FLAGS_EXT)
				nl_put_attr(&request, a[i]);
		r = netlink_do(op, nl, &request);
		if (r < 0)
			return r;
		if (r && r != EEXIST)
			log_debug(op, "an entry of the neighbours is left out: %s", strerror(r));
	}
	return 0;
}

int net_tables_make(struct op *op, struct net_ns *n, struct netlink *nl)
{
	int r = make_addresses(op, n, nl) ?: make_routes(op, n, nl);

	if (!r && n->rules.n)
		r = make_rules(op, n, nl, AF_INET, n->rules.v, n->rules.n, NET_BLOB_HEAD);
	if (!r && n->extra && n->extra->has_rules6)
		r = make_rules(op, n, nl, AF_INET6, n->extra->rules6.data, n->extra->rules6.len, 0);
	return r ?: make_neighbours(op, n, nl);
}
