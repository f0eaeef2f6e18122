// SPDX-License-Identifier: MIT
/*
 * Any bytes as the images of a network namespace: a byte says which of the lists of netlink messages the rest is, and all of them are
 * checked as before a restore. What passes is walked through once more, as the restore does.
 */
#include "lib/state/net/core.h"
#include "tests/fuzz/fuzz.h"

enum { AS_ADDRS, AS_ROUTES, AS_ROUTES6, AS_RULES, AS_TRACKED, AS_EXPECTED, AS_IPT_TEXT, AS_LINKS, AS_HOPS, AS_OTHER_ROUTES, AS_RULES6,
       AS_NEIGHBOURS, AS_NFTABLES, AS_IPTABLES, AS_N };

static void give(ProtobufCBinaryData *to, protobuf_c_boolean *has, uint8_t *v, size_t n)
{
	*has = 1;
	to->data = v;
	to->len = n;
}

static void put(struct net_ns *n, NetExtra *x, IptablesEntry *ipt, unsigned as, uint8_t *v, size_t len)
{
	struct nl_blob b = { .v = v, .n = len };

	switch (as) {
	case AS_ADDRS: n->addrs = b; break;
	case AS_ROUTES: n->routes = b; break;
	case AS_ROUTES6: n->routes6 = b; break;
	case AS_RULES: n->rules = b; break;
	case AS_TRACKED: n->tracked = b; break;
	case AS_EXPECTED: n->expected = b; break;
	case AS_IPT_TEXT: n->ipt_text = b; break;
	case AS_LINKS: give(&x->links, &x->has_links, v, len); break;
	case AS_HOPS: give(&x->nexthops, &x->has_nexthops, v, len); break;
	case AS_OTHER_ROUTES: give(&x->routes, &x->has_routes, v, len); break;
	case AS_RULES6: give(&x->rules6, &x->has_rules6, v, len); break;
	case AS_NEIGHBOURS: give(&x->neighbours, &x->has_neighbours, v, len); break;
	case AS_NFTABLES: give(&x->nftables, &x->has_nftables, v, len); break;
	default: /* AS_IPTABLES */
		ipt->entries.data = v;
		ipt->entries.len = len;
		ipt->num_entries = len ? v[0] : 0;
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t hooks[5] = { 0 };
	struct ckpt_opts opts = CKPT_OPTS_INIT;
	struct ckpt_stats stats = { .sz = sizeof(stats) };
	struct op op = { .arena = arena_new(), .opts = &opts, .stats = &stats };
	struct snap_ns ns = { .kind = NS_NET, .id = 10, .fd = -1 };
	NetnsEntry entry = NETNS_ENTRY__INIT;
	NetDeviceEntry dev = NET_DEVICE_ENTRY__INIT;
	NetExtra extra = NET_EXTRA__INIT;
	IptablesEntry ipt = IPTABLES_ENTRY__INIT, *ipts[1] = { &ipt };
	struct net_link link = { .dev = &dev };
	struct net_ns n = { .ns = &ns, .entry = &entry, .extra = &extra, .links = { &link, 1, 1 } };
	struct net_ns *all[1] = { &n };
	struct net_state st = { .v = { all, 1, 1 }, .host_fd = -1, .watch = -1 };
	struct snapshot s = { .net = &st };
	uint8_t *copy;
	unsigned as;

	if (!size)
		goto out;
	as = data[0] % AS_N;
	copy = arena_alloc(op.arena, size);
	if (!copy)
		abort();
	memcpy(copy, data + 1, size - 1);
	dev.ifindex = 1;
	dev.type = ND_TYPE__LOOPBACK;
	dev.name = (char *)(uintptr_t) "lo";
	ipt.family = 2;
	ipt.name = (char *)(uintptr_t) "filter";
	ipt.hook_entry = ipt.underflow = hooks;
	ipt.n_hook_entry = ipt.n_underflow = 5;
	if (as == AS_IPTABLES) {
		extra.iptables = ipts;
		extra.n_iptables = 1;
	}
	put(&n, &extra, &ipt, as, copy, size - 1);
	(void)(net_links_read(&op, &s, &n) ?: net_settings_check(&op, &n) ?: net_tables_check(&op, &n) ?: net_iptables_check(&op, &n) ?:
	       net_filter_check(&op, &n) ?: net_track_check(&op, &n));
out:
	op_forget(&op);
	arena_free(op.arena);
	return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const uint16_t types[AS_N] = { 20, 24, 24, 32, 0x100, 0x200, 0, 16, 104, 24, 32, 28, 0xa00, 0 };
	static const uint32_t magics[AS_N] = { 0x47361222, 0x45311224, 0x45311224, 0x71706986 };
	size_t at = 1;

	if (i >= AS_N || cap < 512)
		return 0;
	memset(buf, 0, 512);
	buf[0] = (uint8_t)i;
	if (i == AS_IPT_TEXT)
		return 1 + (size_t)snprintf((char *)buf + 1, cap - 1, "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
	if (magics[i]) {
		memcpy(buf + at, &magics[i], 4);
		at += 4;
	}
	for (int k = 0; k < 2; k++) { /* with one attribute each */
		struct nlmsghdr h = { .nlmsg_len = 64, .nlmsg_type = types[i] };
		struct nlattr a = { .nla_len = 12, .nla_type = 1 };

		memcpy(buf + at, &h, sizeof(h));
		memcpy(buf + at + sizeof(h) + (i == AS_LINKS ? 16 : i == AS_NFTABLES || i == AS_TRACKED ? 4 : 12), &a, sizeof(a));
		at += 64;
	}
	return at;
}
