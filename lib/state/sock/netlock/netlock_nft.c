/* SPDX-License-Identifier: MIT */
/*
 * The network lock as a table of nftables:
 *
 *	table inet CRIU-<run id> {
 *		set conns4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; elements = { ours . port . peer's . port } }
 *		set conns6 { type ipv6_addr . inet_service . ipv6_addr . inet_service }
 *		chain input {
 *			type filter hook input priority -450; policy accept;
 *			meta mark 0x0000c114 accept
 *			meta nfproto ipv4 meta l4proto tcp ip daddr . tcp dport . ip saddr . tcp sport @conns4 drop
 *			... ipv6
 *		}
 *		chain output { the same, the other way round }
 *	}
 *
 * Its chains come before those of anybody else who may answer a packet, and before connection tracking; what they accept still
 * has to pass the others. A table with an owner goes when the owner's socket is closed, by whatever end the owner comes to.
 */
#include <linux/netlink.h>

#include "lib/state/sock/netlock/netlock_parts.h"

#define PRIORITY (-450)
#define HINT_SKIP "give --network-lock skip if it does not matter that peers see their connections fail meanwhile"

/* What an expression loads, and where from. */
struct part {
	enum nft_payload_bases base;
	uint8_t offset, len;
};

/* A key is (our address, our port, the peer's address, its port), whichever way a packet goes. */
struct family {
	const char *set;
	uint8_t nfproto;
	struct nft_set key;
	struct part from, to, from_port, to_port;
};

static const struct family families[] = {
	{
		.set = "conns4", .nfproto = NFPROTO_IPV4,
		.key = { .key = { { NFT_TYPE_IPADDR, 4 }, { NFT_TYPE_INET_SERVICE, 2 }, { NFT_TYPE_IPADDR, 4 }, { NFT_TYPE_INET_SERVICE, 2 } },
			 .n_fields = 4 },
		.from = { NFT_PAYLOAD_NETWORK_HEADER, 12, 4 }, .to = { NFT_PAYLOAD_NETWORK_HEADER, 16, 4 },
		.from_port = { NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2 }, .to_port = { NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2 },
	},
	{
		.set = "conns6", .nfproto = NFPROTO_IPV6,
		.key = { .key = { { NFT_TYPE_IP6ADDR, 16 }, { NFT_TYPE_INET_SERVICE, 2 }, { NFT_TYPE_IP6ADDR, 16 }, { NFT_TYPE_INET_SERVICE, 2 } },
			 .n_fields = 4 },
		.from = { NFT_PAYLOAD_NETWORK_HEADER, 8, 16 }, .to = { NFT_PAYLOAD_NETWORK_HEADER, 24, 16 },
		.from_port = { NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2 }, .to_port = { NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2 },
	},
};

/* ---------------------------------------------------------------------------------------------- what it is made of */

static void load(struct nft_batch *b, const struct part *parts[4])
{
	uint32_t reg = NFT_REG32_00;

	for (size_t i = 0; i < 4; i++) {
		nft_payload(b, parts[i]->base, parts[i]->offset, parts[i]->len, reg);
		reg += (parts[i]->len + 3) / 4;
	}
}

static void drop_rule(struct nft_batch *b, const char *table, const char *chain, const struct family *f, bool in)
{
	const struct part *from[4] = { &f->to, &f->to_port, &f->from, &f->from_port };
	const struct part *to[4] = { &f->from, &f->from_port, &f->to, &f->to_port };

	nft_rule_begin(b, NFPROTO_INET, table, chain);
	nft_meta(b, NFT_META_NFPROTO, NFT_REG32_00);
	nft_cmp_u8(b, NFT_CMP_EQ, NFT_REG32_00, f->nfproto);
	nft_meta(b, NFT_META_L4PROTO, NFT_REG32_00);
	nft_cmp_u8(b, NFT_CMP_EQ, NFT_REG32_00, IPPROTO_TCP);
	load(b, in ? from : to);
	nft_lookup(b, f->set, NFT_REG32_00);
	nft_verdict(b, NF_DROP);
	nft_rule_end(b);
}

static void chain(struct nft_batch *b, const char *table, const char *name, uint32_t hook)
{
	nft_chain_add(b, &(struct nft_chain){ .family = NFPROTO_INET, .table = table, .name = name, .type = "filter", .hook = hook,
					      .priority = PRIORITY, .policy = NF_ACCEPT });
	nft_rule_begin(b, NFPROTO_INET, table, name);
	nft_meta(b, NFT_META_MARK, NFT_REG32_00);
	nft_cmp_u32(b, NFT_CMP_EQ, NFT_REG32_00, NETLOCK_MARK);
	nft_verdict(b, NF_ACCEPT);
	nft_rule_end(b);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++)
		drop_rule(b, table, name, &families[i], hook == NF_INET_LOCAL_IN);
}

static size_t add_word(uint8_t *key, size_t at, const void *data, size_t len)
{
	memcpy(key + at, data, len);
	return at + ALIGN_UP(len, 4);
}

static void element(struct nft_batch *b, const struct netlock_tuple *t)
{
	uint16_t local_port = htons(t->local_port), peer_port = htons(t->peer_port);
	size_t len = t->family == AF_INET ? sizeof(t->local.v4) : sizeof(t->local.v6), at = 0;
	uint8_t key[2 * sizeof(struct in6_addr) + 2 * 4] = { 0 };

	at = add_word(key, at, &t->local, len);
	at = add_word(key, at, &local_port, sizeof(local_port));
	at = add_word(key, at, &t->peer, len);
	at = add_word(key, at, &peer_port, sizeof(peer_port));
	nft_elem(b, key, at);
}

static void fill(struct nft_batch *b, const char *table, const struct family *f, const struct netlock_tuple *v, size_t n)
{
	int family = f->nfproto == NFPROTO_IPV4 ? AF_INET : AF_INET6;
	size_t ours = 0;

	for (size_t i = 0; i < n; i++)
		ours += v[i].family == family;
	if (!ours)
		return;
	nft_elems_begin(b, NFPROTO_INET, table, f->set);
	for (size_t i = 0; i < n; i++)
		if (v[i].family == family)
			element(b, &v[i]);
	nft_elems_end(b);
}

static void build(struct nft_batch *b, const char *table, const struct netlock_tuple *v, size_t n, uint32_t flags)
{
	nft_table_add(b, NFPROTO_INET, table, flags);
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		struct nft_set set = families[i].key;

		set.family = NFPROTO_INET;
		set.table = table;
		set.name = families[i].set;
		set.id = (uint32_t)i + 1;
		nft_set_add(b, &set);
		fill(b, table, &families[i], v, n);
	}
	chain(b, table, "input", NF_INET_LOCAL_IN);
	chain(b, table, "output", NF_INET_LOCAL_OUT);
}

/* ----------------------------------------------------------------------------------------------------- the kernel */

int netlock_nft_refused(struct op *op, const struct nft *nft, int err, const char *table, const char *what)
{
	const char *why = nft_why(nft);

	if (err == EPERM)
		return op_fail(op, CKPT_E_PERM, AT(.kind = "network lock", .hint = "run it with CAP_NET_ADMIN; or " HINT_SKIP),
			       "%s the lock of TCP connections needs CAP_NET_ADMIN", what);
	if (err == EOPNOTSUPP || err == EPROTONOSUPPORT || err == ENOENT || err == EAFNOSUPPORT)
		return op_fail(op, CKPT_E_KERNEL,
			       AT(.kind = "network lock", .hint = "the kernel needs CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET; or give "
								  "--network-lock iptables; or " HINT_SKIP),
			       "the kernel has no nftables to lock TCP connections with (%s)", strerror(err));
	if (err == EEXIST)
		return op_fail(op, CKPT_E_EXISTS, AT(.kind = "network lock", .hint = "ckpt unlock removes it"),
			       "there is an nftables table inet %s already", table);
	return op_errno(op, err, AT(.kind = "network lock"), "%s nftables table inet %s%s%s", what, table, why ? ": " : "", why ?: "");
}

int netlock_nft_make(struct op *op, struct nft *nft, const char *table, const struct netlock_tuple *v, size_t n, uint32_t flags,
		     bool replace)
{
	_cleanup_(nft_batch_free) struct nft_batch b = NFT_BATCH_INIT;
	int r;

	if (replace)
		nft_table_del(&b, NFPROTO_INET, table);
	build(&b, table, v, n, flags);
	r = nft_commit(op, nft, &b);
	return r > 0 ? netlock_nft_refused(op, nft, r, table, "making") : r;
}

int netlock_nft_remove(struct op *op, struct nft *nft, const char *table)
{
	_cleanup_(nft_batch_free) struct nft_batch b = NFT_BATCH_INIT;
	int r;

	nft_table_del(&b, NFPROTO_INET, table);
	r = nft_commit(op, nft, &b);
	if (r == ENOENT)
		return 1;
	return r > 0 ? netlock_nft_refused(op, nft, r, table, "removing") : r;
}

struct search {
	const char *table;
	bool found, owned;
};

static int on_table(struct op *op, void *arg, const struct nft_table_info *t)
{
	struct search *s = arg;

	(void)op;
	if (!strcmp(t->name, s->table)) {
		s->found = true;
		s->owned = t->flags & NFT_TABLE_F_OWNER && t->owner;
	}
	return 0;
}

int netlock_nft_find(struct op *op, struct nft *nft, const char *table, bool *owned)
{
	struct search s = { .table = table };
	int r = nft_tables(op, nft, NFPROTO_INET, on_table, &s);

	*owned = s.owned;
	if (r > 0)
		return netlock_nft_refused(op, nft, r, table, "looking for");
	return r ?: !s.found;
}

int netlock_nft_removal(struct op *op, struct nft_batch *b, const char *table)
{
	size_t n;

	nft_table_del(b, NFPROTO_INET, table);
	return nft_batch_bytes(b, &n) ? 0 : op_errno(op, errno, AT(.kind = "network lock"), "prepare rules for the packet filter");
}
