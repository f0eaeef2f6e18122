/* SPDX-License-Identifier: MIT */
/*
 * IPv4 and IPv6 sockets, shared by their files:
 *   inet.c          the kind; dump of a single socket
 *   inet_addr.c     addresses, in images and in messages
 *   inet_opts.c     options of IP, IPv6, TCP and UDP, both halves
 *   inet_read.c     restore: reads and checks the images
 *   inet_make.c     restore: makes them
 */
#ifndef CKPT_STATE_SOCK_INET_H
#define CKPT_STATE_SOCK_INET_H

#include <netinet/in.h>

#include "lib/state/msg.h"
#include "lib/state/sock/sock.h"

/* States of TCP, which others borrow (UDP: ESTABLISHED is connected, CLOSE is not). */
enum inet_tcp_state {
	INET_ESTABLISHED = 1, INET_SYN_SENT, INET_SYN_RECV, INET_FIN_WAIT1, INET_FIN_WAIT2, INET_TIME_WAIT, INET_CLOSE,
	INET_CLOSE_WAIT, INET_LAST_ACK, INET_LISTEN, INET_CLOSING
};

union inet_addr {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* Dump: a socket of the tree. */
struct inet_seen {
	struct fd_view view; /* copy: -1; strings live on */
	struct snap_file *file;
	InetSkEntry *msg;
	InetSkExtra *extra;
	bool noted; /* extra holds something */
	union inet_addr local, peer;
	bool connected; /* it has a peer (TCP: also one that it had) */
	TcpStreamEntry *stream; /* of a TCP connection */
	const void *inq, *outq;
};

/* Restore: a socket. */
struct inet_sk {
	struct snap_file *f;
	const InetSkEntry *m;
	const InetSkExtra *x; /* NULL: none */
	union inet_addr local, peer;
	bool given; /* by --inherit-fd */
	const TcpStreamEntry *stream; /* of a TCP connection that is to be one again */
	const void *inq, *outq;
};

struct inet_fresh; /* options of a new socket of its family, type and protocol, to compare with */

struct inet_state {
	/* dump */
	ARRAY(struct inet_seen *) all_seen;
	struct file_index fresh; /* (family, type << 16 | protocol) -> struct inet_fresh */
	/* restore */
	bool made;
	ARRAY(struct inet_sk *) socks;
	struct file_index ids; /* file id -> struct inet_sk */
};

/* NULL when out of memory (recorded). */
struct inet_state *inet_state(struct op *op, struct snapshot *s);

/* ---- inet_addr.c */
socklen_t inet_addr_len(const union inet_addr *a);
uint16_t inet_addr_port(const union inet_addr *a); /* host order */
bool inet_addr_is_any(const union inet_addr *a);   /* the address, whatever the port */
/* "1.2.3.4:80", "[::1]:80", "[::]:*" (port 0), in the arena; a constant when out of memory */
const char *inet_addr_text(struct op *op, const union inet_addr *a);
/* To the words of the images: 1 or 4. */
int inet_addr_put(struct op *op, const union inet_addr *a, size_t *n, uint32_t **words, uint32_t *port);
/* From them; false: they are no address of @family. */
bool inet_addr_get(int family, size_t n, const uint32_t *words, uint32_t port, union inet_addr *ret);
/* What goes over the wire: a v4-mapped address becomes the IPv4 one. */
void inet_addr_on_wire(const union inet_addr *a, union inet_addr *ret);

/* ---- inet_opts.c */
int inet_options_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct inet_seen *u);
enum inet_when {
	INET_BEFORE_BIND, /* what decides where it may be bound, and to what */
	INET_LAST,	  /* all others; bound, listening, connected, its queues filled */
};
int inet_options_apply(struct op *op, const struct inet_sk *sk, enum inet_when when);

/* ---- restore */
int inet_read(struct op *op, struct snapshot *s);
int inet_open(struct op *op, struct snapshot *s, struct snap_file *f);
/* "TCP socket 1234 (file id 7)" */
const char *inet_what(struct op *op, const struct inet_sk *sk);
int inet_sys(struct op *op, const struct inet_sk *sk, const char *what);

/* "TCP socket", "UDPv6 socket"... of an entry, for messages. */
const char *inet_kind_name(uint32_t family, uint32_t type, uint32_t proto);
bool inet_is_tcp(uint32_t type, uint32_t proto); /* MPTCP is not */

#endif
