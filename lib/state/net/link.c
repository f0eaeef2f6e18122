/* SPDX-License-Identifier: MIT */
/*
 * Network devices, dump and check. The format has a few kinds, and of each its name, address, flags and settings; beside that the
 * kernel's own message about each device is kept, as far as it is about what can be set.
 */
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "lib/state/msg.h"
#include "lib/state/net/core.h"

#define HW_ADDRESS_MAX 32
#define MTU_MAX 0x7fffffffu

struct dumping {
	struct snapshot *s;
	struct net_ns *n;
	struct nl_blob raw;
	struct snap_ns *peers[64]; /* by the number that this namespace knows them under */
};

/* Attributes that are kept, of all devices. */
static bool is_kept(int type)
{
	switch (type) {
	case IFLA_ADDRESS: case IFLA_BROADCAST: case IFLA_IFNAME: case IFLA_MTU: case IFLA_LINK: case IFLA_MASTER: case IFLA_TXQLEN:
	case IFLA_LINKMODE: case IFLA_LINKINFO: case IFLA_IFALIAS: case IFLA_GROUP: case IFLA_NUM_TX_QUEUES: case IFLA_NUM_RX_QUEUES:
	case IFLA_GSO_MAX_SEGS: case IFLA_GSO_MAX_SIZE: case IFLA_PROTO_DOWN: case IFLA_LINK_NETNSID: case IFLA_PROP_LIST:
		return true;
	default:
		return false;
	}
}

/* Of the many IPv6 numbers of a device: how its link-local address comes about, and its token. */
static void keep_ipv6(struct nl_request *r, const struct nlattr *af_spec)
{
	struct nlattr *families[AF_INET6 + 1], *a[IFLA_INET6_MAX + 1], *spec, *inet6;

	nl_nested(af_spec, families, AF_INET6);
	if (!nl_nested(families[AF_INET6], a, IFLA_INET6_MAX))
		return;
	spec = nl_nest(r, IFLA_AF_SPEC);
	inet6 = nl_nest(r, AF_INET6);
	if (a[IFLA_INET6_ADDR_GEN_MODE])
		nl_put_attr(r, a[IFLA_INET6_ADDR_GEN_MODE]);
	nl_unnest(r, inet6);
	nl_unnest(r, spec);
}

static int keep(struct op *op, struct dumping *d, const struct nlmsghdr *h)
{
	struct nl_request r = nl_request(RTM_NEWLINK, 0, nlmsg_data(h), sizeof(struct ifinfomsg));
	struct nlattr *a[IFLA_MAX + 1];
	int ret;

	nl_attrs(h, sizeof(struct ifinfomsg), a, IFLA_MAX);
	for (int i = 0; i <= IFLA_MAX; i++)
		if (a[i] && is_kept(i))
			nl_put_attr(&r, a[i]);
	keep_ipv6(&r, a[IFLA_AF_SPEC]);
	ret = !r.msg || r.full ? op_nomem(op) : nl_blob_add(op, &d->raw, nlmsg_hdr(r.msg), nlmsg_hdr(r.msg)->nlmsg_len);
	nl_request_free(&r);
	return ret;
}

/* ---------------------------------------------------------------------------------- namespaces of other ends */

struct nsid_answer {
	int32_t id;
};

static int on_nsid(struct op *op, void *arg, const struct nlmsghdr *h)
{
	struct nlattr *a[NETNSA_MAX + 1];
	struct nsid_answer *answer = arg;

	(void)op;
	if (h->nlmsg_type == RTM_NEWNSID && nl_attrs(h, sizeof(struct rtgenmsg), a, NETNSA_MAX))
		answer->id = (int32_t)nl_u32(a[NETNSA_NSID], UINT32_MAX);
	return 0;
}

static int note_nsid(struct op *op, struct dumping *d, struct snap_ns *ns, int32_t value)
{
	NetnsEntry *e = d->n->entry;
	NetnsId *m = msg_new(op, NetnsId, netns_id), **v = op_alloc(op, (e->n_nsids + 1) * sizeof(*v));

	if (!m || !v)
		return CKPT_E_NOMEM;
	m->target_ns_id = ns->id;
	m->netnsid_value = value;
	if (e->n_nsids)
		memcpy(v, e->nsids, e->n_nsids * sizeof(*v));
	v[e->n_nsids++] = m;
	e->nsids = v;
	if (value >= 0 && (size_t)value < ARRAY_SIZE(d->peers))
		d->peers[value] = ns;
	return 0;
}

/* Which of the tree's namespaces this one knows, and as what. */
static int dump_nsids(struct op *op, struct dumping *d, struct netlink *nl)
{
	for (size_t i = 0; i < d->s->ns->v.n; i++) {
		struct snap_ns *ns = d->s->ns->v.v[i];
		struct nsid_answer answer = { -1 };
		struct rtgenmsg head = { .rtgen_family = AF_UNSPEC };
		struct nl_request r;
		int ret;

		if (ns->kind != NS_NET || ns->ours || ns->fd < 0)
			continue;
		r = nl_request(RTM_GETNSID, 0, &head, sizeof(head));
		nl_put_u32(&r, NETNSA_FD, (uint32_t)ns->fd);
		ret = netlink_ask(op, nl, &r, on_nsid, &answer);
		if (ret < 0)
			return ret;
		ret = answer.id >= 0 ? note_nsid(op, d, ns, answer.id) : 0;
		if (ret)
			return ret;
	}
	return 0;
}

/* --------------------------------------------------------------------------------------------------- one device */

static int refuse(struct op *op, const struct net_ns *n, const char *name, const char *kind)
{
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = n->ns->host, .kind = "network device",
			  .hint = arena_printf(op->arena,
					       "give --external 'netdev[%s]': it is left out, and at the restore --external 'netdev[%s]:NAME' "
					       "names one that takes its place",
					       name, name)),
		       "network device %s is %s%s, which is not supported", net_link_text(op, n, name), kind ? "of kind " : "hardware",
		       kind ?: "");
}

/* What a device is linked to: the other end of a pair, or the one it sits on. */
static void note_link(struct dumping *d, struct net_link *l, struct nlattr **a)
{
	NetDeviceEntry *dev = l->dev;
	uint32_t at = nl_u32(a[IFLA_LINK], 0);
	const struct snap_ns *peer = d->n->ns;

	if (!at || (l->kind && l->kind->type != ND_TYPE__VETH && !l->kind->stacked && !a[IFLA_LINK_NETNSID]))
		return;
	if (a[IFLA_LINK_NETNSID]) {
		uint32_t id = nl_u32(a[IFLA_LINK_NETNSID], UINT32_MAX);

		peer = id < ARRAY_SIZE(d->peers) ? d->peers[id] : NULL;
	}
	msg_set(dev, peer_ifindex, at);
	if (peer)
		msg_set(dev, peer_nsid, peer->id);
}

static int fill_kind(struct op *op, struct net_link *l, struct nlattr *data)
{
	switch (l->dev->type) {
	case ND_TYPE__TUN:
		return link_tun_entry(op, data, l->dev);
	case ND_TYPE__MACVLAN:
		return link_macvlan_entry(op, data, l->dev);
	case ND_TYPE__SIT:
		return link_sit_entry(op, data, l->dev);
	default:
		return 0;
	}
}

static int fill_address(struct op *op, NetDeviceEntry *dev, const struct nlattr *a)
{
	if (!a || !nla_len(a) || dev->type == ND_TYPE__LOOPBACK)
		return 0;
	dev->has_address = 1;
	dev->address.len = (size_t)nla_len(a);
	dev->address.data = arena_memdup(op->arena, nla_data(a), dev->address.len);
	return dev->address.data ? 0 : op_nomem(op);
}

static int fill(struct op *op, struct dumping *d, struct net_link *l, const struct ifinfomsg *ifi, struct nlattr **a)
{
	NetDeviceEntry *dev = l->dev;
	struct nlattr *info[IFLA_INFO_MAX + 1];
	int r;

	dev->ifindex = (uint32_t)ifi->ifi_index;
	dev->flags = ifi->ifi_flags;
	dev->mtu = nl_u32(a[IFLA_MTU], 0);
	dev->name = arena_strdup(op->arena, nl_text(a[IFLA_IFNAME]));
	if (!dev->name)
		return op_nomem(op);
	if (a[IFLA_MASTER])
		msg_set(dev, master, nl_u32(a[IFLA_MASTER], 0));
	note_link(d, l, a);
	nl_nested(a[IFLA_LINKINFO], info, IFLA_INFO_MAX);
	r = fill_address(op, dev, a[IFLA_ADDRESS]) ?: fill_kind(op, l, info[IFLA_INFO_DATA]);
	return r ?: net_device_conf_dump(op, dev);
}

static int on_link(struct op *op, void *arg, const struct nlmsghdr *h)
{
	const struct ifinfomsg *ifi = nlmsg_data(h);
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
	struct dumping *d = arg;
	struct net_link *l;
	const char *name, *kind;
	bool outside;

	if (h->nlmsg_type != RTM_NEWLINK || !nl_attrs(h, sizeof(*ifi), a, IFLA_MAX) || !(name = nl_text(a[IFLA_IFNAME])) ||
	    link_is_fallback(name))
		return 0;
	nl_nested(a[IFLA_LINKINFO], info, IFLA_INFO_MAX);
	kind = nl_text(info[IFLA_INFO_KIND]);
	outside = net_external(op, "netdev", name);
	l = ARRAY_ADD(op->arena, &d->n->links);
	if (!l || !(l->dev = msg_new(op, NetDeviceEntry, net_device_entry)))
		return op_nomem(op);
	if (!outside)
		l->kind = ifi->ifi_flags & IFF_LOOPBACK ? link_kind_by_type(ND_TYPE__LOOPBACK) : kind ? link_kind_by_name(kind) : NULL;
	if (!l->kind && !outside)
		return refuse(op, d->n, name, kind);
	l->dev->type = l->kind ? l->kind->type : ND_TYPE__EXTLINK;
	return fill(op, d, l, ifi, a) ?: keep(op, d, h);
}

/* -------------------------------------------------------------------------------------------------- all of them */

static int on_qdisc(struct op *op, void *arg, const struct nlmsghdr *h)
{
	static const char *const usual[] = { "noqueue", "pfifo_fast", "fq_codel", "mq", "fq", "noop" };
	const struct tcmsg *tc = nlmsg_data(h);
	const struct net_ns *n = ((struct dumping *)arg)->n;
	const struct net_link *l;
	struct nlattr *a[TCA_MAX + 1];
	const char *kind;

	if (h->nlmsg_type != RTM_NEWQDISC || !nl_attrs(h, sizeof(*tc), a, TCA_MAX) || !(kind = nl_text(a[TCA_KIND])))
		return 0;
	l = net_link_find(n, (uint32_t)tc->tcm_ifindex);
	for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
		if (!strcmp(kind, usual[i]) && !tc->tcm_handle)
			return 0;
	if (l && tc->tcm_handle && (tc->tcm_parent == TC_H_ROOT || tc->tcm_parent == TC_H_INGRESS || tc->tcm_parent == TC_H_CLSACT))
		log_warn(op, "network device %s has a queueing discipline (%s), which is not saved: set it again after the restore (tc)",
			 net_link_text(op, n, l->dev->name), kind);
	return 0;
}

/* Devices that the format has no type for go into our own file. */
static int sort_out(struct op *op, struct snapshot *s, struct net_ns *n)
{
	NetExtra *x = n->extra;

	x->devices = op_alloc(op, n->links.n * sizeof(*x->devices) + 1);
	if (!x->devices)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n->links.n; i++)
		if (n->links.v[i].kind && n->links.v[i].kind->type == ND_TYPE__EXTLINK)
			x->devices[x->n_devices++] = n->links.v[i].dev;
	return x->n_devices ? snapshot_mark(op, s, IMG_OWN_NET_DEVICES) : 0;
}

int net_links_dump(struct op *op, struct snapshot *s, struct net_ns *n, struct netlink *nl)
{
	struct dumping d = { .s = s, .n = n };
	struct ifinfomsg all = { .ifi_family = AF_UNSPEC };
	struct tcmsg tc = { .tcm_family = AF_UNSPEC };
	struct nl_request links = nl_request(RTM_GETLINK, 0, &all, sizeof(all)), qdiscs;
	int r = dump_nsids(op, &d, nl);

	r = r ?: netlink_list(op, nl, &links, on_link, &d);
	nl_request_free(&links);
	if (r > 0)
		return op_errno(op, r, AT(.kind = "network device"), "list the network devices");
	r = r ?: sort_out(op, s, n);
	n->extra->has_links = 1;
	n->extra->links.data = d.raw.v;
	n->extra->links.len = d.raw.n;
	if (r)
		return r;
	qdiscs = nl_request(RTM_GETQDISC, 0, &tc, sizeof(tc));
	r = netlink_list(op, nl, &qdiscs, on_qdisc, &d);
	return MIN(r, 0);
}

/* ------------------------------------------------------------------------------------------------ read and check */

struct net_link *net_link_find(const struct net_ns *n, uint32_t ifindex)
{
	for (size_t i = 0; i < n->links.n; i++)
		if (n->links.v[i].dev->ifindex == ifindex)
			return &n->links.v[i];
	return NULL;
}

static int bad(struct op *op, const struct net_ns *n, const NetDeviceEntry *dev, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "network device"), "netdev-%u.img: device %u (%.32s): %s", n->ns->id, dev->ifindex, dev->name,
		       what);
}

static bool is_name(const char *name)
{
	size_t len = strlen(name);

	return len && len < IFNAMSIZ && strcmp(name, ".") && strcmp(name, "..") && !strpbrk(name, "/ \t\n:");
}

static int check_entry(struct op *op, const struct net_ns *n, const struct net_link *l)
{
	const NetDeviceEntry *dev = l->dev;

	if (!is_name(dev->name))
		return bad(op, n, dev, "its name is none");
	if (!dev->ifindex || dev->ifindex > INT32_MAX || dev->mtu > MTU_MAX)
		return bad(op, n, dev, "its numbers make no sense");
	if (dev->has_address && dev->address.len > HW_ADDRESS_MAX)
		return bad(op, n, dev, "its address is too long");
	if ((dev->type == ND_TYPE__TUN && !dev->tun) || (dev->type == ND_TYPE__MACVLAN && !dev->macvlan) ||
	    (dev->type == ND_TYPE__SIT && !dev->sit))
		return bad(op, n, dev, "what its kind needs is missing");
	if (!l->kind && dev->type != ND_TYPE__EXTLINK)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "network device"),
			       "network device %s is of a type (%d) that is not supported", net_link_text(op, n, dev->name), dev->type);
	for (const struct net_link *o = n->links.v; o < l; o++)
		if (o->dev->ifindex == dev->ifindex || !strcmp(o->dev->name, dev->name))
			return bad(op, n, dev, "there is another one of that name or number");
	return 0;
}

/* The kernel's message of each device, where there are any. */
static int find_raw(struct op *op, struct net_ns *n)
{
	const ProtobufCBinaryData *b = &n->extra->links;
	const struct nlmsghdr *h;
	size_t at = 0;

	while ((h = nl_next(b->data, b->len, &at))) {
		const struct ifinfomsg *ifi = nlmsg_data(h);
		struct net_link *l;

		if (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < NLMSG_LENGTH(sizeof(*ifi)))
			break;
		l = net_link_find(n, (uint32_t)ifi->ifi_index);
		if (l)
			l->raw = h;
	}
	return at == b->len ? 0 : op_fail(op, CKPT_E_IMAGE, AT(.kind = "network device"), "ckpt-extra: devices of network %u are damaged", n->ns->id);
}

/* What it is, of a kind that the format has no type for. */
static int find_kind(struct op *op, const struct net_ns *n, struct net_link *l)
{
	struct nlattr *a[IFLA_MAX + 1], *info[IFLA_INFO_MAX + 1];
	const char *name;

	if (!l->raw)
		return bad(op, n, l->dev, "its kind is missing");
	nl_attrs(l->raw, sizeof(struct ifinfomsg), a, IFLA_MAX);
	nl_nested(a[IFLA_LINKINFO], info, IFLA_INFO_MAX);
	name = nl_text(info[IFLA_INFO_KIND]);
	l->kind = name ? link_kind_by_name(name) : NULL;
	return l->kind && l->kind->type == ND_TYPE__EXTLINK ? 0 : bad(op, n, l->dev, "its kind is not known");
}

static const struct net_ns *ns_by_id(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->net->v.n; i++)
		if (s->net->v.v[i]->ns->id == id)
			return s->net->v.v[i];
	return NULL;
}

static bool points_back(const struct net_ns *n, const struct net_link *l)
{
	const struct net_link *o = net_link_find(n, l->dev->peer_ifindex);

	return o && o->dev->type == l->dev->type && o->dev->has_peer_ifindex && o->dev->peer_ifindex == l->dev->ifindex;
}

/* Where the device is that this one is linked to. */
static int find_peer(struct op *op, struct snapshot *s, struct net_ns *n, struct net_link *l)
{
	const NetDeviceEntry *dev = l->dev;

	if (!dev->has_peer_ifindex) {
		l->outside = l->kind && (l->kind->stacked || dev->type == ND_TYPE__VETH);
		return 0;
	}
	if (dev->has_peer_nsid)
		l->peer_ns = ns_by_id(s, dev->peer_nsid);
	else if (dev->type == ND_TYPE__VETH && points_back(n, l) && !net_external(op, "veth", dev->name))
		l->peer_ns = n;
	l->outside = !l->peer_ns;
	if (l->peer_ns && !net_link_find(l->peer_ns, dev->peer_ifindex))
		return bad(op, n, dev, "the device it is linked to is missing");
	return 0;
}

/* Everything that comes from outside has to be given, and named once. */
static int check_outside(struct op *op, const struct net_ns *n, const struct net_link *l)
{
	const char *name = l->dev->name, *hint;

	if (net_external(op, "netdev", name) || (!l->outside && l->kind))
		return 0;
	if (!l->kind) {
		hint = arena_printf(op->arena, "give --external 'netdev[%s]:NAME', a device that is to be moved there", name);
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device", .hint = hint),
			       "network device %s is not in the checkpoint, and none is given in its place", net_link_text(op, n, name));
	}
	if (l->dev->type == ND_TYPE__VETH && !net_external(op, "veth", name)) {
		hint = arena_printf(op->arena, "give --external 'veth[%s]:NAME' or 'veth[%s]:NAME@BRIDGE'; or 'netdev[%s]:NAME', a device that is "
				    "to be moved there", name, name, name);
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device", .hint = hint),
			       "the other end of network device %s was outside of the tree, and no name is given for it",
			       net_link_text(op, n, name));
	}
	if (l->dev->type == ND_TYPE__VETH || (l->kind->stacked && net_external(op, "macvlan", name)))
		return 0;
	hint = arena_printf(op->arena, "give --external '%s[%s]:NAME'", l->kind->stacked ? "macvlan" : "netdev", name);
	return op_fail(op, CKPT_E_INVAL, AT(.kind = "network device", .hint = hint),
		       "network device %s (%s) sat on a device outside of the tree, and none is given in its place",
		       net_link_text(op, n, name), l->kind->name);
}

int net_links_read(struct op *op, struct snapshot *s, struct net_ns *n)
{
	int r = n->extra ? find_raw(op, n) : 0;

	for (size_t i = 0; i < n->links.n && !r; i++) {
		struct net_link *l = &n->links.v[i];

		l->kind = link_kind_by_type(l->dev->type);
		for (size_t j = 0; n->extra && j < n->extra->n_devices && !r; j++)
			if (n->extra->devices[j] == l->dev)
				r = find_kind(op, n, l);
		r = r ?: check_entry(op, n, l);
	}
	for (size_t i = 0; i < n->links.n && !r; i++)
		r = find_peer(op, s, n, &n->links.v[i]) ?: check_outside(op, n, &n->links.v[i]);
	return r;
}
