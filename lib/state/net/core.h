/* SPDX-License-Identifier: MIT */
/*
 * What the parts of networks share:
 *   net.c      the walk over the namespaces; images
 *   sysctl.c   settings of a namespace and of each device
 *   link.c     devices: dump;  link_make.c: restore;  link_kind.c: what is known of each kind
 *   table.c    addresses, routes, rules, neighbours, next hops
 *   filter.c   nftables;  iptables.c: legacy iptables;  track.c: connections that the packet filter tracks
 * Everything but net.c runs in the namespace (lib/kernel/errand.h).
 */
#ifndef CKPT_STATE_NET_CORE_H
#define CKPT_STATE_NET_CORE_H

#include <net/if.h>

#include "lib/kernel/netlink.h"
#include "lib/kernel/uapi.h"
#include "lib/state/net/net.h"

struct link_kind;

/* A network device. */
struct net_link {
	NetDeviceEntry *dev;
	const struct link_kind *kind; /* NULL: it comes from outside (EXTLINK) */
	const struct nlmsghdr *raw;   /* RTM_NEWLINK, as the dump saw it; NULL: the checkpoint has none */
	bool outside;		      /* what it is linked to is not in the tree */
	const struct net_ns *peer_ns; /* else: is in here; NULL: it is linked to nothing */
	bool made, up;
};

/* Restore: what was made, or taken, of the host's. */
struct net_outer {
	const char *name;      /* in the host's namespace */
	const char *bridge;    /* NULL: none */
	uint32_t ifindex;      /* there */
	const struct net_link *borrowed; /* it was moved into @in as this one, and has to go back; NULL: we made it */
	struct net_ns *in;
};

struct net_ns {
	struct snap_ns *ns;
	NetnsEntry *entry;
	NetExtra *extra; /* NULL: the checkpoint has none */
	ARRAY(struct net_link) links;
	struct nl_blob addrs, routes, routes6, rules, tracked, expected; /* as in the images: the magic, then messages */
	struct nl_blob nft_text, ipt_text, ipt6_text;
	struct nft *hold; /* restore: while it is open, no TCP gets in or out; NULL: none */
};

struct net_state {
	ARRAY(struct net_ns *) v; /* those that are the tree's own */
	ARRAY(struct net_outer) outers;
	int host_fd; /* restore: the namespace that we are in; -1 */
	struct netlink *host; /* spoken to it */
	int watch;	      /* tells of devices that go there; -1 */
};

/* "eth0 of network namespace 9", for messages; in the arena. */
const char *net_link_text(struct op *op, const struct net_ns *n, const char *name);
struct net_link *net_link_find(const struct net_ns *n, uint32_t ifindex);
/* What --external says as "@what[@name]:VALUE"; NULL: nothing. @what "veth": or --veth-pair. */
const char *net_external(struct op *op, const char *what, const char *name);
/* A blob's messages behind its magic. */
#define NET_BLOB_HEAD 4

/* ---- sysctl.c */
int net_settings_dump(struct op *op, struct net_ns *n); /* of the namespace */
int net_device_conf_dump(struct op *op, NetDeviceEntry *dev);
int net_settings_check(struct op *op, const struct net_ns *n);
int net_settings_apply(struct op *op, const struct net_ns *n);
int net_device_conf_apply(struct op *op, const struct net_ns *n, const NetDeviceEntry *dev);

/* ---- link_kind.c */
struct link_kind {
	const char *name;    /* as IFLA_INFO_KIND; NULL: the loopback */
	uint32_t type;	     /* ND_TYPE__*; ND_TYPE__EXTLINK: the format has none */
	bool stacked;	     /* sits on another device (IFLA_LINK) */
	bool step_by_step;   /* made with nothing but its mode; every property is then set alone */
	uint64_t flags;	     /* bits of IFLA_INFO_DATA: told as a byte, taken as a flag that is there or not */
	uint64_t if_set;     /* bits: left out where they are zero; some kernels take them for wanted, or cannot have them */
	uint64_t read_only;  /* bits of IFLA_INFO_DATA that are told, and cannot be set */
};
const struct link_kind *link_kind_by_name(const char *name);
const struct link_kind *link_kind_by_type(uint32_t type);
/* Made by the kernel in each namespace, whether one wants it or not (sit0...). */
bool link_is_fallback(const char *name);
/* What the format has for devices of a kind, from the kernel's attributes, and back. */
int link_tun_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev);
int link_macvlan_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev);
int link_sit_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev);
void link_macvlan_put(struct nl_request *r, const MacvlanLinkEntry *m);
void link_sit_put(struct nl_request *r, const SitEntry *m);

/* ---- link.c, link_make.c */
int net_links_dump(struct op *op, struct snapshot *s, struct net_ns *n, struct netlink *nl);
int net_links_read(struct op *op, struct snapshot *s, struct net_ns *n); /* after n->links has their entries */
/* Those that can be made by now; *@n_made more of them. */
int net_links_make(struct op *op, struct snapshot *s, struct net_ns *n, struct netlink *nl, size_t *n_made);
int net_links_dress(struct op *op, struct net_ns *n, struct netlink *nl);  /* properties; masters; up */
int net_links_finish(struct op *op, struct net_ns *n, struct netlink *nl); /* when the addresses are there */
/* What of ours is in the host's namespace: up, when everything was made; gone, after a failure. */
int net_outers_up(struct op *op, struct net_state *st);
void net_outers_undo(struct op *op, struct net_state *st);

/* ---- table.c */
int net_tables_dump(struct op *op, struct net_ns *n, struct netlink *nl);
int net_tables_check(struct op *op, const struct net_ns *n);
int net_tables_make(struct op *op, struct net_ns *n, struct netlink *nl);
/* One field of an extra, from a list of messages that are fit to be sent again. */
int net_blob_check(struct op *op, const struct nl_blob *b, uint32_t magic, uint16_t type, size_t head, const char *what);

/* ---- filter.c, iptables.c, track.c */
int net_filter_dump(struct op *op, struct snapshot *s, struct net_ns *n);
int net_filter_check(struct op *op, const struct net_ns *n);
int net_filter_make(struct op *op, const struct snapshot *s, struct net_ns *n);
int net_iptables_dump(struct op *op, struct snapshot *s, struct net_ns *n);
int net_iptables_check(struct op *op, const struct net_ns *n);
int net_iptables_make(struct op *op, struct net_ns *n);
int net_track_dump(struct op *op, struct net_ns *n);
int net_track_check(struct op *op, const struct net_ns *n);
int net_track_make(struct op *op, struct net_ns *n);

#endif
