/* SPDX-License-Identifier: MIT */
/*
 * Network devices, restore. Each is made under its number and its name, when what it sits on is there; then they get their
 * properties and masters, and come up from below. Pairs are made at once, wherever their ends are.
 */
#include <net/if.h> /* before the kernel's */
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "lib/state/net/core.h"

#define GOING_NS 2000000000ull
#define NEW_IFINDEX 49 /* IFLA_NEW_IFINDEX: newer than the headers of some */
#define FLAGS_SET (IFF_DEBUG | IFF_NOTRAILERS | IFF_NOARP | IFF_DYNAMIC | IFF_MULTICAST | IFF_PORTSEL | IFF_AUTOMEDIA | IFF_ALLMULTI | IFF_PROMISC)

static int failed(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl, int err, const char *what)
{
	const char *why = nl ? netlink_why(nl) : "";

	if (err <= 0)
		return err;
	return op_errno(op, err, AT(.kind = "network device"), "%s network device %s%s%s%s", what, net_link_text(op, n, l->dev->name),
			*why ? " (" : "", why, *why ? ")" : "");
}

static void raw_attrs(const struct net_link *l, struct nlattr **a, struct nlattr **info)
{
	memset(a, 0, (IFLA_MAX + 1) * sizeof(*a));
	if (l->raw)
		nl_attrs(l->raw, sizeof(struct ifinfomsg), a, IFLA_MAX);
	nl_nested(a[IFLA_LINKINFO], info, IFLA_INFO_MAX);
}

static struct nl_request request(uint16_t type, uint16_t flags, uint32_t ifindex)
{
	struct ifinfomsg head = { .ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex };

	return nl_request(type, flags, &head, sizeof(head));
}

/* ---------------------------------------------------------------------------------------------------- making one */

static void put_identity(struct nl_request *r, const struct net_link *l)
{
	nl_put_string(r, IFLA_IFNAME, l->dev->name);
	if (l->dev->has_address && l->dev->address.len && l->dev->type != ND_TYPE__LOOPBACK)
		nl_put(r, IFLA_ADDRESS, l->dev->address.data, l->dev->address.len);
}

static void put_copied(struct nl_request *r, const struct net_link *l)
{
	static const int copied[] = { IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES };
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];

	raw_attrs(l, a, info);
	for (size_t i = 0; i < ARRAY_SIZE(copied); i++)
		if (a[copied[i]] && nl_u32(a[copied[i]], 1) > 1)
			nl_put_attr(r, a[copied[i]]);
}

/* Switches of a bridge: those that are off need not be there at all. */
static void put_switches(struct nl_request *r, const struct nlattr *a)
{
	struct br_boolopt_multi m = { 0 };

	if (nla_len(a) < (int)sizeof(m))
		return;
	memcpy(&m, nla_data(a), sizeof(m));
	m.optmask = m.optval;
	if (m.optval)
		nl_put(r, IFLA_BR_MULTI_BOOLOPT, &m, sizeof(m));
}

/* What the kernel told of it, without what only it can say. */
static void put_raw_data(struct nl_request *r, const struct net_link *l, const struct nlattr *data)
{
	const struct nlattr *a = data ? nla_data(data) : NULL;
	int left = data ? nla_len(data) : 0;

	for (; a && nla_ok(a, left); a = nla_next(a, &left)) {
		unsigned type = (unsigned)nla_type(a);

		if (type < 64 && l->kind->read_only >> type & 1)
			continue;
		if (l->kind->step_by_step && type != IFLA_BOND_MODE)
			continue;
		if (type < 64 && (l->kind->if_set | l->kind->flags) >> type & 1 && !nl_u8(a, 0))
			continue;
		if (l->dev->type == ND_TYPE__BRIDGE && type == IFLA_BR_MULTI_BOOLOPT)
			put_switches(r, a);
		else if (type < 64 && l->kind->flags >> type & 1)
			nl_put(r, (uint16_t)type, NULL, 0);
		else
			nl_put_attr(r, a);
	}
}

static void put_data(struct nl_request *r, const struct net_link *l)
{
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1], *nest = nl_nest(r, IFLA_INFO_DATA);

	raw_attrs(l, a, info);
	if (info[IFLA_INFO_DATA])
		put_raw_data(r, l, info[IFLA_INFO_DATA]);
	else if (l->dev->type == ND_TYPE__MACVLAN)
		link_macvlan_put(r, l->dev->macvlan);
	else if (l->dev->type == ND_TYPE__SIT)
		link_sit_put(r, l->dev->sit);
	nl_unnest(r, nest);
}

static void put_kind(struct nl_request *r, const struct net_link *l)
{
	struct nlattr *nest = nl_nest(r, IFLA_LINKINFO);

	nl_put_string(r, IFLA_INFO_KIND, l->kind->name);
	put_data(r, l);
	nl_unnest(r, nest);
}

/* As this namespace calls the one where a device's lower one is; -1: not at all. */
static int32_t nsid_of(const struct net_ns *n, const struct net_ns *peer)
{
	for (size_t i = 0; i < n->entry->n_nsids; i++)
		if (n->entry->nsids[i]->target_ns_id == peer->ns->id)
			return n->entry->nsids[i]->netnsid_value;
	return -1;
}

static int host_index(struct op *op, const char *name, const char *hint, uint32_t *index, struct netlink *host);

static int make_plain(struct op *op, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	struct nl_request r = request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, l->dev->ifindex);

	put_identity(&r, l);
	put_copied(&r, l);
	put_kind(&r, l);
	if (l->kind->stacked) {
		nl_put_u32(&r, IFLA_LINK, l->dev->peer_ifindex);
		if (l->peer_ns != n)
			nl_put_u32(&r, IFLA_LINK_NETNSID, (uint32_t)nsid_of(n, l->peer_ns));
	}
	return failed(op, n, l, nl, netlink_do(op, nl, &r), "make");
}

/* On a device of the host's, which only the host's side can name. */
static int make_on_host(struct op *op, struct net_state *st, struct net_ns *n, struct net_link *l)
{
	const char *master = net_external(op, "macvlan", l->dev->name);
	struct nl_request r;
	uint32_t index;
	int ret = host_index(op, master, "it is named by --external macvlan[...]", &index, st->host);

	if (ret)
		return ret;
	r = request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, l->dev->ifindex);
	put_identity(&r, l);
	put_copied(&r, l);
	put_kind(&r, l);
	nl_put_u32(&r, IFLA_LINK, index);
	nl_put_u32(&r, IFLA_NET_NS_FD, (uint32_t)n->ns->fd);
	return failed(op, n, l, st->host, netlink_do(op, st->host, &r), "make");
}

static int make_tun(struct op *op, struct net_ns *n, struct net_link *l)
{
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	const TunLinkEntry *m = l->dev->tun;
	struct ifreq ifr = { .ifr_flags = (short)(m->flags & (IFF_TUN | IFF_TAP | IFF_MULTI_QUEUE | IFF_NO_PI | IFF_VNET_HDR)) };
	int index = (int)l->dev->ifindex;

	memcpy(ifr.ifr_name, l->dev->name, strlen(l->dev->name));
	/* One that was to end with its last descriptor stays until that one is open again (lib/state/file/tun.c). */
	if (fd < 0 || ioctl(fd, TUNSETIFINDEX, &index) < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETPERSIST, 1L) < 0 ||
	    (m->owner != -1 && ioctl(fd, TUNSETOWNER, (unsigned long)(uint32_t)m->owner) < 0) ||
	    (m->group != -1 && ioctl(fd, TUNSETGROUP, (unsigned long)(uint32_t)m->group) < 0))
		return failed(op, n, l, NULL, errno, "make");
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- pairs */

static void put_peer(struct nl_request *r, uint32_t ifindex, const char *name, const struct net_link *peer, int netns)
{
	struct ifinfomsg head = { .ifi_family = AF_UNSPEC, .ifi_index = (int)ifindex };
	struct nlattr *info = nl_nest(r, IFLA_LINKINFO), *data, *nest;

	nl_put_string(r, IFLA_INFO_KIND, "veth");
	data = nl_nest(r, IFLA_INFO_DATA);
	nest = nl_nest(r, VETH_INFO_PEER);
	if (r->msg && nlmsg_append(r->msg, &head, sizeof(head), NLMSG_ALIGNTO) < 0)
		r->full = true;
	if (peer)
		put_identity(r, peer);
	else
		nl_put_string(r, IFLA_IFNAME, name);
	if (netns >= 0)
		nl_put_u32(r, IFLA_NET_NS_FD, (uint32_t)netns);
	nl_unnest(r, nest);
	nl_unnest(r, data);
	nl_unnest(r, info);
}

static struct net_outer *outer(struct op *op, struct net_state *st, struct net_ns *n, const char *name)
{
	struct net_outer *o = ARRAY_ADD(op->arena, &st->outers);

	if (o)
		*o = (struct net_outer){ .name = name, .in = n };
	else
		op_nomem(op);
	return o;
}

static bool tells_of_end(const char *bytes, size_t n, const char *name)
{
	struct nlattr *a[IFLA_MAX + 1];
	const struct nlmsghdr *h;

	for (size_t at = 0; (h = nl_next(bytes, n, &at));)
		if (h->nlmsg_type == RTM_DELLINK && nl_attrs(h, sizeof(struct ifinfomsg), a, IFLA_MAX) && nl_text(a[IFLA_IFNAME]) &&
		    !strcmp(nl_text(a[IFLA_IFNAME]), name))
			return true;
	return false;
}

/* A program that was checkpointed just now has ended, but the kernel takes its network apart a little later. */
static bool goes_away(int watch, const char *name, uint64_t until)
{
	struct pollfd p = { .fd = watch, .events = POLLIN };
	_Alignas(struct nlmsghdr) char bytes[16384];

	for (uint64_t now = now_ns(); now < until; now = now_ns()) {
		ssize_t n;

		if (poll(&p, 1, (int)((until - now) / 1000000) + 1) <= 0)
			continue;
		n = recv(watch, bytes, sizeof(bytes), 0);
		if ((n < 0 && errno == ENOBUFS) || (n > 0 && tells_of_end(bytes, (size_t)n, name)))
			return true;
	}
	return false;
}

/* The other end is to be outside: "NAME" or "NAME@BRIDGE". */
static int make_outer_pair(struct op *op, struct net_state *st, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	const char *given = net_external(op, "veth", l->dev->name), *at = strchr(given, '@');
	char *name = arena_strndup(op->arena, given, at ? (size_t)(at - given) : strlen(given));
	uint64_t until = now_ns() + GOING_NS;
	struct nl_request r;
	struct net_outer *o;
	int ret;

	if (!name)
		return op_nomem(op);
	if (!*name || strlen(name) >= IFNAMSIZ)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device"), "'%s' is no name for a network device", name);
	do {
		r = request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, l->dev->ifindex);
		put_identity(&r, l);
		put_copied(&r, l);
		put_peer(&r, 0, name, NULL, st->host_fd);
		ret = netlink_do(op, nl, &r);
	} while (ret == EEXIST && goes_away(st->watch, name, until));
	if (ret == EEXIST)
		return op_fail(op, CKPT_E_EXISTS, AT(.kind = "network device", .hint = "give another name, or remove the one that is there"),
			       "network device %s cannot be made with its other end %s: one of them is there already",
			       net_link_text(op, n, l->dev->name), name);
	ret = failed(op, n, l, nl, ret, "make");
	o = ret ? NULL : outer(op, st, n, name);
	if (o && at)
		o->bridge = at + 1;
	return ret ?: o ? host_index(op, name, NULL, &o->ifindex, st->host) : CKPT_E_NOMEM;
}

static int make_pair(struct op *op, struct net_state *st, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	struct net_link *peer = l->outside ? NULL : net_link_find(l->peer_ns, l->dev->peer_ifindex);
	struct nl_request r;
	int ret;

	if (!peer)
		return make_outer_pair(op, st, n, l, nl);
	r = request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, l->dev->ifindex);
	put_identity(&r, l);
	put_copied(&r, l);
	put_peer(&r, peer->dev->ifindex, NULL, peer, l->peer_ns == n ? -1 : l->peer_ns->ns->fd);
	ret = failed(op, n, l, nl, netlink_do(op, nl, &r), "make");
	peer->made = !ret;
	return ret;
}

/* ------------------------------------------------------------------------------------------------ from the host */

struct found {
	uint32_t index, master;
};

static int on_found(struct op *op, void *arg, const struct nlmsghdr *h)
{
	struct found *f = arg;

	(void)op;
	if (h->nlmsg_type == RTM_NEWLINK && h->nlmsg_len >= NLMSG_LENGTH(sizeof(struct ifinfomsg)))
		f->index = (uint32_t)((const struct ifinfomsg *)nlmsg_data(h))->ifi_index;
	return 0;
}

static int host_index(struct op *op, const char *name, const char *hint, uint32_t *index, struct netlink *host)
{
	struct nl_request r = request(RTM_GETLINK, 0, 0);
	struct found f = { 0 };
	int ret;

	if (strlen(name) >= IFNAMSIZ)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device", .hint = hint), "'%s' is no name of a network device", name);
	nl_put_string(&r, IFLA_IFNAME, name);
	ret = netlink_ask(op, host, &r, on_found, &f);
	if (ret < 0)
		return ret;
	if (ret || !f.index)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device", .hint = hint), "there is no network device %s", name);
	*index = f.index;
	return 0;
}

static int move(struct op *op, struct netlink *from, uint32_t index, int netns, const char *name, uint32_t new_index)
{
	struct nl_request r = request(RTM_NEWLINK, 0, index);

	nl_put_u32(&r, IFLA_NET_NS_FD, (uint32_t)netns);
	nl_put_string(&r, IFLA_IFNAME, name);
	nl_put_u32(&r, NEW_IFINDEX, new_index);
	return netlink_do(op, from, &r);
}

/* A device that takes the place of the one in the checkpoint. */
static int borrow(struct op *op, struct net_state *st, struct net_ns *n, struct net_link *l)
{
	const char *name = net_external(op, "netdev", l->dev->name);
	struct net_outer *o;
	uint32_t index;
	int r = host_index(op, name, "it is named by --external netdev[...]", &index, st->host);

	r = r ?: failed(op, n, l, st->host, move(op, st->host, index, n->ns->fd, l->dev->name, l->dev->ifindex), "move a device in as");
	if (r)
		return r;
	o = outer(op, st, n, name);
	if (!o)
		return CKPT_E_NOMEM;
	o->borrowed = l;
	o->ifindex = index;
	return 0;
}

int net_outers_up(struct op *op, struct net_state *st)
{
	for (size_t i = 0; i < st->outers.n; i++) {
		const struct net_outer *o = &st->outers.v[i];
		struct ifinfomsg up = { .ifi_index = (int)o->ifindex, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
		struct nl_request r;
		uint32_t bridge;
		int ret = 0;

		if (o->borrowed)
			continue;
		if (o->bridge)
			ret = host_index(op, o->bridge, "it is named by --external veth[...]:NAME@BRIDGE", &bridge, st->host);
		if (ret)
			return ret;
		r = nl_request(RTM_NEWLINK, 0, &up, sizeof(up));
		if (o->bridge)
			nl_put_u32(&r, IFLA_MASTER, bridge);
		ret = netlink_do(op, st->host, &r);
		if (ret > 0)
			return op_errno(op, ret, AT(.kind = "network device"), "set network device %s up%s%s", o->name,
					o->bridge ? " in bridge " : "", o->bridge ?: "");
		if (ret)
			return ret;
	}
	return 0;
}

struct undoing {
	struct net_outer *o;
	int host_fd;
};

static int give_back(struct op *op, void *arg)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	const struct undoing *u = arg;
	int r = netlink_open(op, NETLINK_ROUTE, &nl);

	return r ?: move(op, nl, u->o->borrowed->dev->ifindex, u->host_fd, u->o->name, u->o->ifindex);
}

/* Both ends of a pair go at once; what was borrowed would be lost with the namespace, if it is a virtual one. */
void net_outers_undo(struct op *op, struct net_state *st)
{
	for (size_t i = 0; i < st->outers.n; i++) {
		struct net_outer *o = &st->outers.v[i];
		struct undoing u = { o, st->host_fd };
		struct errand_where there = ERRAND_HERE;
		struct nl_request r;
		int ret;

		if (o->borrowed) {
			there.net = o->in->ns->fd;
			ret = there.net >= 0 ? errand_run(op, &there, give_back, &u) : EBADF;
		} else {
			r = request(RTM_DELLINK, 0, o->ifindex);
			ret = o->ifindex ? netlink_do(op, st->host, &r) : 0;
		}
		if (ret)
			log_warn(op, "network device %s could not be %s", o->name, o->borrowed ? "given back" : "removed");
	}
	st->outers.n = 0;
}

/* ---------------------------------------------------------------------------------------------------- all of them */

static bool is_ready(const struct net_link *l)
{
	const struct net_link *lower;

	if (!l->kind || !l->kind->stacked || l->outside)
		return true;
	lower = net_link_find(l->peer_ns, l->dev->peer_ifindex);
	return lower && lower->made;
}

static int make_one(struct op *op, struct net_state *st, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	int r;

	if (net_external(op, "netdev", l->dev->name))
		r = borrow(op, st, n, l);
	else if (l->dev->type == ND_TYPE__LOOPBACK)
		r = l->dev->ifindex == 1 ? 0 : op_fail(op, CKPT_E_IMAGE, AT(.kind = "network device"), "the loopback has number %u", l->dev->ifindex);
	else if (l->dev->type == ND_TYPE__VETH)
		r = make_pair(op, st, n, l, nl);
	else if (l->dev->type == ND_TYPE__TUN)
		r = make_tun(op, n, l);
	else if (l->outside)
		r = make_on_host(op, st, n, l);
	else
		r = make_plain(op, n, l, nl);
	l->made = !r;
	return r;
}

int net_links_make(struct op *op, struct snapshot *s, struct net_ns *n, struct netlink *nl, size_t *n_made)
{
	size_t last;

	do {
		last = *n_made;
		for (size_t i = 0; i < n->links.n; i++) {
			struct net_link *l = &n->links.v[i];
			int r;

			if (l->made || !is_ready(l))
				continue;
			r = make_one(op, s->net, n, l, nl);
			if (r)
				return r;
			++*n_made;
		}
	} while (*n_made > last);
	return 0;
}

/* ------------------------------------------------------------------------------------------------------ properties */

/* One that cannot be set is worth a warning, no more. */
static void set_one(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl, struct nl_request *r, const char *what)
{
	int ret = netlink_do(op, nl, r);

	if (ret)
		log_warn(op, "network device %s: %s cannot be set: %s", net_link_text(op, n, l->dev->name), what,
			 ret > 0 ? strerror(ret) : ckpt_code_name(ret));
	if (ret < 0)
		op_forget(op);
}

static void set_attr(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl, const struct nlattr *a, const char *what)
{
	struct nl_request r;

	if (!a)
		return;
	r = request(RTM_NEWLINK, 0, l->dev->ifindex);
	nl_put_attr(&r, a);
	set_one(op, n, l, nl, &r, what);
}

static void set_altnames(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl, const struct nlattr *list)
{
	struct nl_request r;

	if (!list)
		return;
	r = request(RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND, l->dev->ifindex);
	nl_put(&r, IFLA_PROP_LIST | NLA_F_NESTED, nla_data(list), (size_t)nla_len(list));
	set_one(op, n, l, nl, &r, "its other names");
}

/* Bonds take their properties one by one, and some only in some modes. */
static void set_steps(struct op *op, const struct net_link *l, struct netlink *nl, const struct nlattr *data)
{
	const struct nlattr *a = data ? nla_data(data) : NULL;
	int left = data ? nla_len(data) : 0;

	for (; a && nla_ok(a, left); a = nla_next(a, &left)) {
		struct nl_request r;
		struct nlattr *info, *nest;
		unsigned type = (unsigned)nla_type(a);

		if ((type < 64 && l->kind->read_only >> type & 1) || type == IFLA_BOND_MODE)
			continue;
		r = request(RTM_NEWLINK, 0, l->dev->ifindex);
		info = nl_nest(&r, IFLA_LINKINFO);
		nl_put_string(&r, IFLA_INFO_KIND, l->kind->name);
		nest = nl_nest(&r, IFLA_INFO_DATA);
		nl_put_attr(&r, a);
		nl_unnest(&r, nest);
		nl_unnest(&r, info);
		if (netlink_do(op, nl, &r) != 0)
			op_forget(op);
	}
}

static void set_gen_mode(struct op *op, const struct net_link *l, struct netlink *nl, uint8_t mode)
{
	struct nl_request r = request(RTM_SETLINK, 0, l->dev->ifindex);
	struct nlattr *spec = nl_nest(&r, IFLA_AF_SPEC), *inet6 = nl_nest(&r, AF_INET6);

	nl_put_u8(&r, IFLA_INET6_ADDR_GEN_MODE, mode);
	nl_unnest(&r, inet6);
	nl_unnest(&r, spec);
	if (netlink_do(op, nl, &r) < 0) /* refused where IPv6 is off */
		op_forget(op);
}

static int set_mtu(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl)
{
	struct nl_request r = request(RTM_NEWLINK, 0, l->dev->ifindex);

	if (l->dev->mtu)
		nl_put_u32(&r, IFLA_MTU, l->dev->mtu);
	/* Made by other means than a message with the address in it. */
	if ((l->dev->type == ND_TYPE__TUN || !l->kind) && l->dev->has_address && l->dev->address.len)
		nl_put(&r, IFLA_ADDRESS, l->dev->address.data, l->dev->address.len);
	return failed(op, n, l, nl, netlink_do(op, nl, &r), "set the MTU of");
}

static int dress(struct op *op, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
	int r = set_mtu(op, n, l, nl);

	raw_attrs(l, a, info);
	if (!r && l->kind && l->kind->step_by_step)
		set_steps(op, l, nl, info[IFLA_INFO_DATA]);
	if (!r && l->dev->type != ND_TYPE__LOOPBACK) {
		set_attr(op, n, l, nl, a[IFLA_TXQLEN], "the length of its queue");
		set_attr(op, n, l, nl, nl_u32(a[IFLA_GROUP], 0) ? a[IFLA_GROUP] : NULL, "its group");
		set_attr(op, n, l, nl, nl_u8(a[IFLA_LINKMODE], 0) ? a[IFLA_LINKMODE] : NULL, "its mode");
		set_attr(op, n, l, nl, a[IFLA_IFALIAS], "its alias");
		set_altnames(op, n, l, nl, a[IFLA_PROP_LIST]);
		set_gen_mode(op, l, nl, IN6_ADDR_GEN_MODE_NONE);
	}
	return r ?: net_device_conf_apply(op, n, l->dev);
}

/* Of a bridge's port, what can be set of what is told. */
static const uint16_t port_attrs[] = {
	IFLA_BRPORT_COST, IFLA_BRPORT_PRIORITY, IFLA_BRPORT_MODE, IFLA_BRPORT_GUARD, IFLA_BRPORT_PROTECT, IFLA_BRPORT_FAST_LEAVE, IFLA_BRPORT_LEARNING,
	IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_PROXYARP, IFLA_BRPORT_PROXYARP_WIFI, IFLA_BRPORT_MULTICAST_ROUTER, IFLA_BRPORT_MCAST_FLOOD,
	IFLA_BRPORT_MCAST_TO_UCAST, IFLA_BRPORT_VLAN_TUNNEL, IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_GROUP_FWD_MASK, IFLA_BRPORT_NEIGH_SUPPRESS,
	IFLA_BRPORT_ISOLATED,
};

static void set_port(struct op *op, const struct net_ns *n, const struct net_link *l, struct netlink *nl)
{
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1], *port[IFLA_BRPORT_MAX + 1], *nest, *data;
	struct nl_request r;
	const char *kind;

	raw_attrs(l, a, info);
	kind = nl_text(info[IFLA_INFO_SLAVE_KIND]);
	if (!kind || strcmp(kind, "bridge") || !nl_nested(info[IFLA_INFO_SLAVE_DATA], port, IFLA_BRPORT_MAX))
		return;
	r = request(RTM_NEWLINK, 0, l->dev->ifindex);
	nest = nl_nest(&r, IFLA_LINKINFO);
	nl_put_string(&r, IFLA_INFO_SLAVE_KIND, kind);
	data = nl_nest(&r, IFLA_INFO_SLAVE_DATA);
	for (size_t i = 0; i < ARRAY_SIZE(port_attrs); i++)
		if (port[port_attrs[i]])
			nl_put_attr(&r, port[port_attrs[i]]);
	nl_unnest(&r, data);
	nl_unnest(&r, nest);
	set_one(op, n, l, nl, &r, "what it is as a port of its bridge");
}

static int enslave(struct op *op, struct net_ns *n, struct net_link *l, struct netlink *nl)
{
	struct nl_request r;
	int ret;

	if (!l->dev->has_master || !l->dev->master)
		return 0;
	r = request(RTM_NEWLINK, 0, l->dev->ifindex);
	nl_put_u32(&r, IFLA_MASTER, l->dev->master);
	ret = failed(op, n, l, nl, netlink_do(op, nl, &r), "set the master of");
	if (!ret)
		set_port(op, n, l, nl);
	return ret;
}

/* What it sits on comes before it. @depth: two could sit on one another. */
static int bring_up(struct op *op, struct net_ns *n, struct net_link *l, struct netlink *nl, unsigned depth)
{
	struct ifinfomsg head = { .ifi_index = (int)l->dev->ifindex, .ifi_flags = l->dev->flags & (FLAGS_SET | IFF_UP),
				  .ifi_change = FLAGS_SET | IFF_UP };
	struct net_link *lower = l->kind && l->kind->stacked && l->peer_ns == n ? net_link_find(n, l->dev->peer_ifindex) : NULL;
	struct nl_request r;
	int ret = 0;

	if (l->up)
		return 0;
	if (lower && depth < n->links.n)
		ret = bring_up(op, n, lower, nl, depth + 1);
	if (ret)
		return ret;
	l->up = true;
	r = nl_request(RTM_NEWLINK, 0, &head, sizeof(head));
	return failed(op, n, l, nl, netlink_do(op, nl, &r), "set the flags of");
}

int net_links_dress(struct op *op, struct net_ns *n, struct netlink *nl)
{
	int r = 0;

	for (size_t i = 0; i < n->links.n && !r; i++)
		r = n->links.v[i].made ? dress(op, n, &n->links.v[i], nl)
				       : op_fail(op, CKPT_E_IMAGE, AT(.kind = "network device"),
						 "network device %s sits on one that cannot be made", net_link_text(op, n, n->links.v[i].dev->name));
	for (size_t i = 0; i < n->links.n && !r; i++)
		r = enslave(op, n, &n->links.v[i], nl);
	for (size_t i = 0; i < n->links.n && !r; i++)
		r = bring_up(op, n, &n->links.v[i], nl, 0);
	return r;
}

int net_links_finish(struct op *op, struct net_ns *n, struct netlink *nl)
{
	for (size_t i = 0; i < n->links.n; i++) {
		struct net_link *l = &n->links.v[i];
		struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1], *families[AF_INET6 + 1], *inet6[IFLA_INET6_MAX + 1];

		raw_attrs(l, a, info);
		nl_nested(a[IFLA_AF_SPEC], families, AF_INET6);
		nl_nested(families[AF_INET6], inet6, IFLA_INET6_MAX);
		if (l->dev->type != ND_TYPE__LOOPBACK)
			set_gen_mode(op, l, nl, nl_u8(inet6[IFLA_INET6_ADDR_GEN_MODE], IN6_ADDR_GEN_MODE_EUI64));
	}
	return 0;
}
