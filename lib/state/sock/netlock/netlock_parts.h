/* SPDX-License-Identifier: MIT */
/* What the parts of the network lock share. */
#ifndef CKPT_STATE_NETLOCK_PARTS_H
#define CKPT_STATE_NETLOCK_PARTS_H

#include "lib/kernel/nft.h"
#include "lib/state/sock/netlock/netlock.h"

#define NETLOCK_TABLE_PREFIX "CRIU-"

/* Name of the lock of a checkpoint. */
int netlock_table(struct op *op, const struct snapshot *s, const char **ret);

/* ---- netlock_nft.c: a table of its own. Failures are recorded, with what to do about them. */
/* @flags: NFT_TABLE_F_OWNER: it goes with @nft. @replace: in the place of the one of that name, without a gap. */
int netlock_nft_make(struct op *op, struct nft *nft, const char *table, const struct netlock_tuple *v, size_t n, uint32_t flags,
		     bool replace);
/* 1: there is none. */
int netlock_nft_remove(struct op *op, struct nft *nft, const char *table);
/* 1: there is none. *@owned: somebody's that still runs. */
int netlock_nft_find(struct op *op, struct nft *nft, const char *table, bool *owned);
/* The failure of what nft_commit() or nft_tables() said with @err. */
int netlock_nft_refused(struct op *op, const struct nft *nft, int err, const char *table, const char *what);
/* For somebody else to send: what removes it. */
int netlock_nft_removal(struct op *op, struct nft_batch *b, const char *table);

/* ---- netlock_ipt.c: rules in the tables of iptables, two for each connection; the programs of iptables do it */
/* Text for iptables-restore (AF_INET) or ip6tables-restore: adds, or removes, those of that family; NULL: there are none. */
char *netlock_ipt_text(struct op *op, int family, bool add, const struct netlock_tuple *v, size_t n);
/* Their path, in the arena; refuses where it is not there. */
int netlock_ipt_program(struct op *op, int family, char **path);
int netlock_ipt_add(struct op *op, const struct netlock_tuple *v, size_t n);
/* What is left of them where some are gone already. Returns for how many connections they were not there, or are there still. */
size_t netlock_ipt_remove(struct op *op, const struct netlock_tuple *v, size_t n);

#endif
