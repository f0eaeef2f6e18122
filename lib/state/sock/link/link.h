/* SPDX-License-Identifier: MIT */
/* Netlink and packet sockets: what their files share. */
#ifndef CKPT_STATE_SOCK_LINK_H
#define CKPT_STATE_SOCK_LINK_H

#include <linux/packet_diag.h>

#include "lib/state/msg.h"
#include "lib/state/sock/sock.h"

/* ---- link_diag.c: what sock_diag(7) tells of all sockets of these families in our network namespace */
struct netlink_seen {
	uint32_t ino, portid, dst_portid, dst_group, flags; /* flags: NDIAG_FLAG_* */
	uint8_t state;
};

struct packet_seen {
	uint32_t ino;
	uint8_t type;
	uint16_t protocol; /* host order */
	struct packet_diag_info info;
	const struct packet_diag_mclist *mc;
	size_t n_mc;
	const struct packet_diag_ring *rx, *tx; /* NULL: none */
	bool has_fanout;
};

/* The mapping of a socket, whose id is put down in the end. */
struct ring_area {
	pid_t pid;
	uint32_t ino;
	VmaEntry *e;
};

/*
 * One message of a listing, with its head, of @n bytes. False: it is none, or is damaged. What @ret points to is in the message, whose
 * attributes are as the kernel aligns them.
 */
struct nlmsghdr;
bool link_netlink_parse(const struct nlmsghdr *h, size_t n, struct netlink_seen *ret);
bool link_packet_parse(const struct nlmsghdr *h, size_t n, struct packet_seen *ret);

/* Dump and check: one listing of each an operation. */
struct link_state {
	bool netlink_listed, packet_listed;
	struct file_index netlink, packet; /* inode -> what was seen */
	struct file_index packet_files;	   /* inode -> snap_file */
	struct sock_fresh *fresh[2];	   /* options of new netlink and packet sockets */
	ARRAY(struct ring_area) areas;
	bool packets_made; /* restore */
};

/* Never NULL unless out of memory (recorded). */
struct link_state *link_state(struct op *op, struct snapshot *s);
/* *ret NULL: not listed, which is so for netlink sockets that have neither an address nor groups yet. */
int link_netlink_seen(struct op *op, struct link_state *ls, uint32_t ino, const struct netlink_seen **ret);
int link_packet_seen(struct op *op, struct link_state *ls, uint32_t ino, const struct packet_seen **ret);

/* ---- link.c */
/* For .check: a copy of the socket of a running task. -1: it went away. */
int link_copy(const struct fd_view *v);
/* Something waits to be read: POLLIN, POLLERR. */
short link_events(int fd);
int link_own(int fd, bool has_mode, uint32_t mode, uint32_t uid, uint32_t gid);

/* ---- netlink_hidden.c: what the kernel keeps for a netlink socket, and does not show on it */
/* Refuses what would be lost silently; warns where that cannot be told. */
int netlink_check_hidden(struct op *op, const struct fd_view *v, int protocol, uint32_t portid, uint32_t groups);

/* ---- packet_ring.c */
/* The rings of @seen go to the message. */
int packet_rings_dump(struct op *op, const struct packet_seen *seen, PacketSockEntry *m);
/* Which sockets the mappings are of. */
int packet_rings_complete(struct op *op, struct snapshot *s);
const char *packet_ring_wrong(const PacketRing *m); /* NULL: nothing */
/* After the version, and what cannot be changed any more. Failures are recorded. */
int packet_rings_make(struct op *op, const struct snap_file *f);
/* The rings are given up, and made anew. */
int packet_rings_remake(struct op *op, const struct snap_file *f);

/* ---- packet_frames.c: what is in the rings */
int packet_frames_dump(struct op *op, const struct fd_view *v, const PacketSockEntry *m, PacketSkExtra *x);
const char *packet_frames_wrong(const PacketSockEntry *m, const PacketSkExtra *x); /* NULL: nothing; the rings are not wrong */
/* While the socket is bound to nothing, and no other packet socket of the tree to anything. */
int packet_frames_restore(struct op *op, struct snap_file *f);

#endif
