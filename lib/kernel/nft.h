/* SPDX-License-Identifier: MIT */
/*
 * nftables by netlink: batches of tables, chains, sets and rules, carried out by the kernel as a whole or not at all. No
 * program is started, and no library but libnl-3 is needed.
 *
 *	struct nft_batch b = NFT_BATCH_INIT;
 *
 *	nft_table_add(&b, NFPROTO_INET, "t", 0);
 *	nft_chain_add(&b, &(struct nft_chain){ .family = NFPROTO_INET, .table = "t", .name = "in", .hook = NF_INET_LOCAL_IN, ... });
 *	nft_rule_begin(&b, NFPROTO_INET, "t", "in");			nft add rule inet t in \
 *	nft_meta(&b, NFT_META_MARK, NFT_REG32_00);				meta mark \
 *	nft_cmp_u32(&b, NFT_CMP_EQ, NFT_REG32_00, 7);				7 \
 *	nft_verdict(&b, NF_DROP);						drop
 *	nft_rule_end(&b);
 *	r = nft_commit(op, nft, &b);
 *
 * What goes wrong while a batch is built (no memory, names too long) is kept in it, and said by nft_commit(): nothing in
 * between has to be checked. Constants (NFT_META_*, NFT_CMP_*, NFT_REG32_*...) are those of linux/netfilter/nf_tables.h.
 */
#ifndef CKPT_KERNEL_NFT_H
#define CKPT_KERNEL_NFT_H

#include <netinet/in.h> /* before the kernel's */
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>

#include "lib/base/op.h"

/* ---- a batch */
struct nft_batch {
	uint8_t *buf;
	size_t len, cap;
	uint32_t n;	 /* messages */
	size_t message;	 /* offset of the one that is being built */
	size_t nest[8];	 /* offsets of the attributes that are open in it */
	unsigned depth;
	const char *table, *set; /* of elements */
	uint8_t family;
	int err;	 /* the first errno */
};
#define NFT_BATCH_INIT { 0 }
void nft_batch_free(struct nft_batch *b);

/* @flags: NFT_TABLE_F_*. A table of that name must not be there. */
void nft_table_add(struct nft_batch *b, uint8_t family, const char *name, uint32_t flags);
/* With everything in it. It must be there. */
void nft_table_del(struct nft_batch *b, uint8_t family, const char *name);

struct nft_chain {
	uint8_t family;
	const char *table, *name;
	const char *type; /* "filter"...; NULL: one that only jumps lead to, and the rest is not looked at */
	uint32_t hook;	  /* NF_INET_* */
	int32_t priority;
	uint32_t policy;  /* NF_ACCEPT, NF_DROP */
};
void nft_chain_add(struct nft_batch *b, const struct nft_chain *chain);

/* The key of a set is one field, or several joined ones, which fill whole registers each. */
enum nft_type { /* what nft(8) prints them as */
	NFT_TYPE_INTEGER = 4, NFT_TYPE_IPADDR = 7, NFT_TYPE_IP6ADDR = 8, NFT_TYPE_ETHERADDR = 9, NFT_TYPE_INET_PROTO = 12,
	NFT_TYPE_INET_SERVICE = 13, NFT_TYPE_MARK = 19, NFT_TYPE_IFNAME = 41,
};
struct nft_field {
	enum nft_type type;
	uint8_t len; /* bytes, without what fills the register */
};
#define NFT_MAX_FIELDS 5

struct nft_set {
	uint8_t family;
	const char *table, *name;
	uint32_t id;	/* of its own within the batch */
	uint32_t flags; /* NFT_SET_* */
	uint32_t size;	/* elements it has room for; 0: any number */
	struct nft_field key[NFT_MAX_FIELDS];
	size_t n_fields;
};
size_t nft_key_len(const struct nft_set *set);
void nft_set_add(struct nft_batch *b, const struct nft_set *set);
/* Any number of elements of one set; what the kernel takes at once is seen to. @len: nft_key_len(). */
void nft_elems_begin(struct nft_batch *b, uint8_t family, const char *table, const char *set);
void nft_elem(struct nft_batch *b, const void *key, size_t len);
void nft_elems_end(struct nft_batch *b);

/* A rule at the end of a chain: expressions between begin and end. */
void nft_rule_begin(struct nft_batch *b, uint8_t family, const char *table, const char *chain);
void nft_rule_end(struct nft_batch *b);
void nft_meta(struct nft_batch *b, enum nft_meta_keys key, uint32_t dreg);
void nft_meta_set(struct nft_batch *b, enum nft_meta_keys key, uint32_t sreg);
void nft_payload(struct nft_batch *b, enum nft_payload_bases base, uint32_t offset, uint32_t len, uint32_t dreg);
void nft_cmp(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, const void *data, size_t len);
void nft_cmp_u8(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, uint8_t value);
void nft_cmp_u32(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, uint32_t value); /* host order */
void nft_lookup(struct nft_batch *b, const char *set, uint32_t sreg);
void nft_immediate(struct nft_batch *b, uint32_t dreg, const void *data, size_t len);
void nft_verdict(struct nft_batch *b, int verdict); /* NF_ACCEPT, NF_DROP, NFT_RETURN... */
void nft_counter(struct nft_batch *b);

/* ---- messages as they are: of what was listed before (lib/state/net/filter.c) */
/* @type: NFT_MSG_NEW*. Attributes between begin and end. */
void nft_raw_begin(struct nft_batch *b, uint8_t type, uint8_t family);
void nft_raw_attr(struct nft_batch *b, uint16_t type, const void *data, size_t len);
void nft_raw_u32(struct nft_batch *b, uint16_t type, uint32_t value); /* host order */
void nft_raw_nest(struct nft_batch *b, uint16_t type);
void nft_raw_unnest(struct nft_batch *b);
void nft_raw_end(struct nft_batch *b);

/* ---- the kernel */
/* A connection. Tables with NFT_TABLE_F_OWNER go with the one that made them. Of the network namespace of the caller. */
struct nft;
/* CKPT_E_KERNEL where the kernel lacks nfnetlink. */
int nft_open(struct op *op, struct nft **ret);
struct nft *nft_close(struct nft *nft);
static inline void nft_close_p(struct nft **nft)
{
	*nft = nft_close(*nft);
}
/*
 * All of @b, or nothing. Positive: the errno with which the kernel refused it, EPERM without CAP_NET_ADMIN, EOPNOTSUPP
 * without nf_tables; negative: recorded with op_fail().
 */
int nft_commit(struct op *op, struct nft *nft, struct nft_batch *b);
/* What the kernel said about the last refusal, or NULL. */
const char *nft_why(const struct nft *nft);
/* The bytes that nft_commit() would send, for somebody else to send; NULL (errno) when building failed. Owned by @b. */
const void *nft_batch_bytes(struct nft_batch *b, size_t *n);

struct nft_table_info {
	const char *name;
	uint32_t flags;
	uint32_t owner; /* port of the netlink socket; 0: none */
	uint32_t n_chains; /* and sets, as the kernel counts what is in it */
};
/* Calls @fn for each table of @family, with what lives until it returns. Codes as those of nft_commit(). */
typedef int (*nft_table_fn)(struct op *op, void *arg, const struct nft_table_info *t);
int nft_tables(struct op *op, struct nft *nft, uint8_t family, nft_table_fn fn, void *arg);

#endif
