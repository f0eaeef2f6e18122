/* SPDX-License-Identifier: MIT */
/*
 * Networks: devices, addresses, routes, rules, neighbours, sysctls, packet filters and tracked connections of each network
 * namespace of the tree's own; all by netlink.
 */
#ifndef CKPT_STATE_NET_H
#define CKPT_STATE_NET_H

#include "lib/state/ns/ns.h"

/* ---- dump; host, all tasks frozen */
int net_dump(struct op *op, struct snapshot *s);  /* before the network lock: it is not to be a part of what is dumped */
int net_write(struct op *op, struct snapshot *s);

/* ---- restore */
int net_read(struct op *op, struct snapshot *s); /* and checks */
/* Devices with their addresses, rules and sysctls: before sockets are opened. */
int net_make(struct op *op, struct snapshot *s);
/* The connections of the tree have a lock of their own now (lib/state/sock/netlock): net_make() held back all of TCP. Any number of times. */
void net_open(struct snapshot *s);

/* Dump and restore; never fails. */
void net_done(struct op *op, struct snapshot *s, bool success);

#endif
