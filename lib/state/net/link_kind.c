/* SPDX-License-Identifier: MIT */
/*
 * Kinds of network devices. What the kernel tells of one (IFLA_INFO_DATA) is what it takes to make one, with few exceptions;
 * so a kind is a row.
 */
#include <net/if.h> /* before the kernel's */
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/if_tunnel.h>

#include "lib/state/msg.h"
#include "lib/state/net/core.h"

#define BIT(n) (1ull << (n))
#define BR_FDB_N_LEARNED 48 /* newer than the headers */
#define MACVLAN_MACADDR_COUNT 6
#define MACVLAN_BC_QUEUE_LEN_USED 8

static const struct link_kind kinds[] = {
	{ NULL, ND_TYPE__LOOPBACK, false, false, 0, 0, 0 },
	{ "veth", ND_TYPE__VETH, false, false, 0, 0, 0 },
	{ "tun", ND_TYPE__TUN, false, false, 0, 0, 0 },
	{ "bridge", ND_TYPE__BRIDGE, false, false, 0, BIT(IFLA_BR_VLAN_FILTERING),
	  BIT(IFLA_BR_ROOT_ID) | BIT(IFLA_BR_BRIDGE_ID) | BIT(IFLA_BR_ROOT_PORT) | BIT(IFLA_BR_ROOT_PATH_COST) |
		  BIT(IFLA_BR_TOPOLOGY_CHANGE) | BIT(IFLA_BR_TOPOLOGY_CHANGE_DETECTED) | BIT(IFLA_BR_HELLO_TIMER) | BIT(IFLA_BR_TCN_TIMER) |
		  BIT(IFLA_BR_TOPOLOGY_CHANGE_TIMER) | BIT(IFLA_BR_GC_TIMER) | BIT(BR_FDB_N_LEARNED) },
	{ "macvlan", ND_TYPE__MACVLAN, true, false, 0, 0, BIT(MACVLAN_MACADDR_COUNT) | BIT(MACVLAN_BC_QUEUE_LEN_USED) },
	{ "sit", ND_TYPE__SIT, false, false, 0, 0, 0 },
	{ "dummy", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "ifb", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "vlan", ND_TYPE__EXTLINK, true, false, 0, 0, 0 },
	{ "ipvlan", ND_TYPE__EXTLINK, true, false, 0, 0, 0 },
	{ "vxlan", ND_TYPE__EXTLINK, false, false, BIT(IFLA_VXLAN_TTL_INHERIT), BIT(IFLA_VXLAN_REMCSUM_TX) | BIT(IFLA_VXLAN_REMCSUM_RX), 0 },
	{ "geneve", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "gre", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "gretap", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "ip6gre", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "ip6gretap", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "ipip", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "ip6tnl", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "vti", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "vti6", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "vrf", ND_TYPE__EXTLINK, false, false, 0, 0, 0 },
	{ "bond", ND_TYPE__EXTLINK, false, true, 0, 0, BIT(IFLA_BOND_ACTIVE_SLAVE) | BIT(IFLA_BOND_AD_INFO) },
};

const struct link_kind *link_kind_by_name(const char *name)
{
	for (size_t i = 1; i < ARRAY_SIZE(kinds); i++)
		if (!strcmp(kinds[i].name, name))
			return &kinds[i];
	return NULL;
}

const struct link_kind *link_kind_by_type(uint32_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].type == type && type != ND_TYPE__EXTLINK)
			return &kinds[i];
	return NULL;
}

bool link_is_fallback(const char *name)
{
	static const char *const names[] = { "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

/* ---------------------------------------------------------------------------------- what the format has of a kind */

int link_tun_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev)
{
	TunLinkEntry *m = msg_new(op, TunLinkEntry, tun_link_entry);
	struct nlattr *a[IFLA_TUN_MAX + 1];

	if (!m)
		return CKPT_E_NOMEM;
	nl_nested(data, a, IFLA_TUN_MAX);
	m->flags = nl_u8(a[IFLA_TUN_TYPE], IFF_TUN);
	m->flags |= nl_u8(a[IFLA_TUN_PI], 0) ? 0 : IFF_NO_PI;
	m->flags |= nl_u8(a[IFLA_TUN_VNET_HDR], 0) ? IFF_VNET_HDR : 0;
	m->flags |= nl_u8(a[IFLA_TUN_PERSIST], 0) ? IFF_PERSIST : 0;
	m->flags |= nl_u8(a[IFLA_TUN_MULTI_QUEUE], 0) ? IFF_MULTI_QUEUE : 0;
	m->owner = (int32_t)nl_u32(a[IFLA_TUN_OWNER], UINT32_MAX);
	m->group = (int32_t)nl_u32(a[IFLA_TUN_GROUP], UINT32_MAX);
	m->vnethdr = 10; /* only a descriptor tells these: those that are open keep their own */
	m->sndbuf = INT32_MAX;
	dev->tun = m;
	return 0;
}

int link_macvlan_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev)
{
	MacvlanLinkEntry *m = msg_new(op, MacvlanLinkEntry, macvlan_link_entry);
	struct nlattr *a[IFLA_MACVLAN_FLAGS + 1];

	if (!m)
		return CKPT_E_NOMEM;
	nl_nested(data, a, IFLA_MACVLAN_FLAGS);
	m->mode = nl_u32(a[IFLA_MACVLAN_MODE], MACVLAN_MODE_VEPA);
	if (a[IFLA_MACVLAN_FLAGS])
		msg_set(m, flags, nl_u16(a[IFLA_MACVLAN_FLAGS], 0));
	dev->macvlan = m;
	return 0;
}

void link_macvlan_put(struct nl_request *r, const MacvlanLinkEntry *m)
{
	uint16_t flags = (uint16_t)m->flags;

	nl_put_u32(r, IFLA_MACVLAN_MODE, m->mode);
	if (m->has_flags)
		nl_put(r, IFLA_MACVLAN_FLAGS, &flags, sizeof(flags));
}

/* An address in words. */
static int words(struct op *op, const struct nlattr *a, size_t *n, uint32_t **v)
{
	size_t len = a ? (size_t)nla_len(a) / 4 : 0;

	*v = len ? op_alloc(op, len * 4) : NULL;
	if (len && !*v)
		return CKPT_E_NOMEM;
	if (len)
		memcpy(*v, nla_data(a), len * 4);
	*n = len;
	return 0;
}

int link_sit_entry(struct op *op, struct nlattr *data, NetDeviceEntry *dev)
{
	SitEntry *m = msg_new(op, SitEntry, sit_entry);
	struct nlattr *a[IFLA_IPTUN_MAX + 1];
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	nl_nested(data, a, IFLA_IPTUN_MAX);
	msg_set(m, link, nl_u32(a[IFLA_IPTUN_LINK], 0));
	msg_set(m, ttl, nl_u8(a[IFLA_IPTUN_TTL], 0));
	msg_set(m, tos, nl_u8(a[IFLA_IPTUN_TOS], 0));
	msg_set(m, pmtudisc, nl_u8(a[IFLA_IPTUN_PMTUDISC], 0));
	msg_set(m, proto, nl_u8(a[IFLA_IPTUN_PROTO], 0));
	msg_set(m, flags, nl_u16(a[IFLA_IPTUN_FLAGS], 0));
	if (nl_u16(a[IFLA_IPTUN_ENCAP_TYPE], 0)) {
		msg_set(m, encap_type, nl_u16(a[IFLA_IPTUN_ENCAP_TYPE], 0));
		msg_set(m, encap_flags, nl_u16(a[IFLA_IPTUN_ENCAP_FLAGS], 0));
		msg_set(m, encap_sport, nl_u16(a[IFLA_IPTUN_ENCAP_SPORT], 0));
		msg_set(m, encap_dport, nl_u16(a[IFLA_IPTUN_ENCAP_DPORT], 0));
	}
	r = words(op, a[IFLA_IPTUN_LOCAL], &m->n_local, &m->local);
	r = r ?: words(op, a[IFLA_IPTUN_REMOTE], &m->n_remote, &m->remote);
	if (!r && nl_u16(a[IFLA_IPTUN_6RD_PREFIXLEN], 0)) {
		msg_set(m, rd_prefixlen, nl_u16(a[IFLA_IPTUN_6RD_PREFIXLEN], 0));
		msg_set(m, relay_prefixlen, nl_u16(a[IFLA_IPTUN_6RD_RELAY_PREFIXLEN], 0));
		r = words(op, a[IFLA_IPTUN_6RD_PREFIX], &m->n_rd_prefix, &m->rd_prefix);
		r = r ?: words(op, a[IFLA_IPTUN_6RD_RELAY_PREFIX], &m->n_relay_prefix, &m->relay_prefix);
	}
	dev->sit = m;
	return r;
}

static void put_u16(struct nl_request *r, uint16_t type, uint32_t value)
{
	uint16_t v = (uint16_t)value;

	nl_put(r, type, &v, sizeof(v));
}

void link_sit_put(struct nl_request *r, const SitEntry *m)
{
	nl_put_u32(r, IFLA_IPTUN_LINK, m->link);
	nl_put(r, IFLA_IPTUN_LOCAL, m->local, m->n_local * 4);
	nl_put(r, IFLA_IPTUN_REMOTE, m->remote, m->n_remote * 4);
	nl_put_u8(r, IFLA_IPTUN_TTL, (uint8_t)m->ttl);
	nl_put_u8(r, IFLA_IPTUN_TOS, (uint8_t)m->tos);
	nl_put_u8(r, IFLA_IPTUN_PMTUDISC, !!m->pmtudisc);
	if (m->has_proto)
		nl_put_u8(r, IFLA_IPTUN_PROTO, (uint8_t)m->proto);
	put_u16(r, IFLA_IPTUN_FLAGS, m->flags);
	if (m->has_encap_type) {
		put_u16(r, IFLA_IPTUN_ENCAP_TYPE, m->encap_type);
		put_u16(r, IFLA_IPTUN_ENCAP_FLAGS, m->encap_flags);
		put_u16(r, IFLA_IPTUN_ENCAP_SPORT, m->encap_sport);
		put_u16(r, IFLA_IPTUN_ENCAP_DPORT, m->encap_dport);
	}
	if (!m->has_rd_prefixlen)
		return;
	nl_put(r, IFLA_IPTUN_6RD_PREFIX, m->rd_prefix, m->n_rd_prefix * 4);
	put_u16(r, IFLA_IPTUN_6RD_PREFIXLEN, m->rd_prefixlen);
	nl_put(r, IFLA_IPTUN_6RD_RELAY_PREFIX, m->relay_prefix, m->n_relay_prefix * 4);
	put_u16(r, IFLA_IPTUN_6RD_RELAY_PREFIXLEN, m->relay_prefixlen);
}
