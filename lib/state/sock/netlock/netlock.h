/* SPDX-License-Identifier: MIT */
/*
 * The network lock: while the owner of a connection is away, no packet of it passes in either direction, so that no peer
 * hears from a kernel that does not know the connection (any more, or yet). What carries this mark passes all the same:
 * segments that a restore makes itself. Nobody else's packets, rules or tables are touched.
 * netlock.c has the life of a lock, netlock_nft.c and netlock_ipt.c the two ways to make one.
 */
#ifndef CKPT_STATE_NETLOCK_H
#define CKPT_STATE_NETLOCK_H

#include <netinet/in.h>

#include "lib/base/op.h"
#include "lib/state/snapshot.h"

#define NETLOCK_MARK 0xC114u /* SO_MARK of what passes; the field's number */

/* inventory_entry.network_lock_method; no field: NETLOCK_IPTABLES */
enum netlock_method { NETLOCK_IPTABLES = 0, NETLOCK_NFTABLES = 1, NETLOCK_SKIP = 2 };

/* A connection as it is on the wire: of a socket with IPv4-mapped addresses, AF_INET. */
struct netlock_tuple {
	int family; /* AF_INET, AF_INET6 */
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} local, peer;
	uint16_t local_port, peer_port; /* host order */
};

struct netlock;

/*
 * Dump: from now on no packet of these connections passes, until netlock_release(). Before netlock_keep() the lock vanishes
 * with us, however we end. By the method that the options say, which is noted in s->inventory. @n == 0: nothing, *@ret is NULL.
 */
int netlock_take(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n, struct netlock **ret);
/* It outlives us (unless the guardian finds the tree alive). NULL-safe. */
int netlock_keep(struct op *op, struct netlock *l);
/* Removes it. NULL-safe; never fails (warns). */
void netlock_release(struct op *op, struct netlock **l);

/*
 * Restore: takes the lock of the dump over, or makes one that vanishes with us where it is not there (another host, a reboot).
 * @n == 0: makes none, but what the dump left is still to be removed.
 */
int netlock_adopt(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n, struct netlock **ret);
/* Success: it is gone. Else that of the dump stays exactly as it was, ours goes. NULL-safe; never fails (warns). */
void netlock_done(struct op *op, struct netlock **l, bool success);

/*
 * Without a dump or a restore. Makes one that stays, for a restore to take over; 1: it is there already.
 */
int netlock_install(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n);
/* That of the checkpoint, by the method of its inventory; 1: there is none. Refused while a dump or restore owns it. */
int netlock_remove(struct op *op, struct snapshot *s, const struct netlock_tuple *v, size_t n);
/* Of nftables, by the id in its name. */
int netlock_remove_id(struct op *op, const char *id);
/* Calls @fn for each of nftables, in our network namespace; @owned: by a dump or restore that is at work. */
typedef int (*netlock_fn)(struct op *op, void *arg, const char *id, bool owned);
int netlock_list(struct op *op, netlock_fn fn, void *arg);

#endif
