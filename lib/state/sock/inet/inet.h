/* SPDX-License-Identifier: MIT */
/*
 * IPv4 and IPv6 sockets, shared by their files:
 *   inet.c          the kind; dump of a single socket
 *   inet_diag.c     what sock_diag(7) tells: one listing a family and protocol
 *   inet_addr.c     addresses, in images and in messages
 *   tcp_dump.c      dump of connections: who may be saved, held back, read, and let go again
 *   tcp_stream.c    state and queues of one connection
 *   inet_proc.c     what only /proc/net tells
 *   multicast.c     groups that a socket is a member of
 *   datagrams.c     what waits in UDP sockets to be received: dump; datagrams_fill.c: restore, by inject.c
 *   inet_opts.c     options of IP, IPv6, TCP and UDP, both halves
 *   inet_read.c     restore: reads and checks the images
 *   inet_make.c     restore: makes them
 *   inet_who.c      restore: who has the address that is to be had
 *   tcp.h           restore of TCP connections, and its files
 */
#ifndef CKPT_STATE_SOCK_INET_H
#define CKPT_STATE_SOCK_INET_H

#include <netinet/in.h>

#include "lib/kernel/proc/read.h"
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

/* What sock_diag(7) tells of a socket of our network namespace. */
struct inet_entry {
	uint8_t family, state; /* as TCP's */
	uint8_t shutdown;      /* 1: no more reading, 2: no more writing, 3 */
	bool keyed;	       /* its segments are signed (TCP-MD5) */
	uint32_t ino;	       /* 0: nobody has a descriptor of it: not accepted yet, or closed */
	uint32_t ifindex;      /* it is bound to; 0: none */
	uint32_t uid;
	uint32_t rqueue, wqueue; /* bytes; of a listener: connections that wait to be accepted, and their limit */
	union inet_addr local, peer;
	const char *ulp; /* what is layered upon it ("tls"); NULL: nothing */
};

/* All of a family and protocol, as they were when they were first asked for: once an operation, with the tree stopped. */
struct inet_listing {
	bool listed;
	ARRAY(struct inet_entry *) all;
	struct file_index inodes; /* inode -> struct inet_entry; those that have one */
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
	const struct inet_entry *entry; /* NULL: not listed */
	size_t waiting; /* at a listener: connections that are to be saved with it */
	TcpStreamEntry *stream; /* of a TCP connection */
	const void *inq, *outq;
};

/* Restore: the ends of a TCP connection, and where its queues begin. */
struct tcp_shape {
	uint32_t rcv_start, snd_start; /* sequence numbers of the first bytes */
	uint32_t sent, unsent;	       /* bytes of the send queue */
	bool fin_in;		       /* the peer has ended it */
	bool fin_out;		       /* we have: */
	bool fin_sent, fin_acked;
};

/* Restore: a socket. */
struct inet_sk {
	struct inet_state *of;
	struct snap_file *f;
	const InetSkEntry *m;
	const InetSkExtra *x; /* NULL: none */
	union inet_addr local, peer;
	bool given; /* by --inherit-fd */
	const TcpStreamEntry *stream; /* of a TCP connection that is to be one again */
	const void *inq, *outq;
	struct tcp_shape shape;
	bool closed_instead; /* a connection that --tcp-close makes an unconnected socket */
};

struct inet_fresh; /* options of a new socket of its family, type and protocol, to compare with */

struct inet_state {
	/* dump */
	ARRAY(struct inet_seen *) all_seen;
	struct file_index fresh; /* (family, type << 16 | protocol) -> struct inet_fresh */
	struct file_index listings; /* (family, protocol) -> struct inet_listing */
	struct pending_state *pending; /* pending.c; NULL: nothing waits to be accepted */
	struct netlock *lock;
	bool unlisted_read;
	struct file_index unlisted; /* inode -> struct proc_socket of raw and ICMP sockets */
	bool groups_listed;
	struct proc_groups groups, groups6; /* multicast groups of all devices */
	/* restore */
	bool made;
	struct netlock *held; /* while connections are made */
	ARRAY(struct inet_sk *) socks;
	struct file_index ids; /* file id -> struct inet_sk */
};

/* NULL when out of memory (recorded). */
struct inet_state *inet_state(struct op *op, struct snapshot *s);

/* ---- inet_diag.c */
/* Parses one message of a listing, with its head, of @n bytes. False: it is none, or is damaged. @ret's strings are in the arena. */
struct nlmsghdr;
bool inet_diag_parse(struct op *op, const struct nlmsghdr *h, size_t n, struct inet_entry *ret);
/* @proto: TCP, MPTCP, UDP, UDPLITE. Lists them at the first call; of kinds that the kernel does not list, nothing. */
int inet_listing(struct op *op, struct inet_state *is, int family, uint32_t proto, const struct inet_listing **ret);
/* *@ret is NULL: it is not listed, as sockets without a port are not. */
int inet_entry_of(struct op *op, struct inet_state *is, int family, uint32_t proto, uint32_t ino, const struct inet_entry **ret);

/* ---- inet_proc.c; after inet_entry_of() */
int inet_read_portless_peer(struct op *op, struct inet_state *is, struct inet_seen *u);

/* ---- multicast.c */
int multicast_dump(struct op *op, struct inet_state *is, int fd, struct inet_seen *u);
int multicast_read(struct op *op, const struct inet_sk *sk);
int multicast_join(struct op *op, const struct inet_sk *sk);

/* ---- datagrams.c, datagrams_fill.c: what waits in UDP and UDP-Lite sockets to be received */
int datagrams_dump(struct op *op, struct snapshot *s, int fd, struct inet_seen *u);
int datagrams_read(struct op *op, const struct inet_sk *sk);
/* Before it is bound; when it is, and not connected yet. */
int datagrams_hold(struct op *op, const struct inet_sk *sk);
int datagrams_fill(struct op *op, const struct inet_sk *sk);

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

/* ---- dump: tcp_dump.c. As the members of struct file_kind. */
/* What of a TCP socket cannot be saved is refused. @u was read; @v has a copy. */
int tcp_examine(struct op *op, const struct fd_view *v, const struct inet_seen *u);
/* @n: how many connections there are, where that is known. */
int tcp_permit(struct op *op, const struct fd_view *v, const struct inet_seen *u, size_t n);
bool tcp_is_connection(const struct inet_seen *u);
int tcp_complete(struct op *op, struct snapshot *s);
int tcp_write(struct op *op, struct snapshot *s);
int tcp_keep(struct op *op, struct snapshot *s);
void tcp_dump_end(struct op *op, struct snapshot *s);
void tcp_let_go(struct op *op, struct snapshot *s);

/* ---- tcp_stream.c */
struct guardian;
int tcp_repair_on(int fd); /* -1 (errno) */
/* @reuse: its SO_REUSEADDR before. Nothing is sent. */
int tcp_repair_off(int fd, bool reuse);
/*
 * Of @fd, which is in repair mode; @what names it in messages. A TCP socket that does not listen and had a peer; in state CLOSE
 * without what it has not sent. What is queued is in the arena. @g may be NULL.
 */
int tcp_stream_read(struct op *op, const struct guardian *g, int fd, const char *what, TcpStreamEntry **ret, const void **inq,
		    const void **outq);

/* ---- inet_opts.c */
/* Refuses what options show that could not be restored. */
int inet_options_check(struct op *op, const struct fd_view *v, const InetSkEntry *m);
int inet_options_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct inet_seen *u);
enum inet_when {
	INET_BEFORE_BIND, /* what decides where it may be bound, and to what */
	INET_LAST,	  /* all others; bound, listening, connected, its queues filled */
};
int inet_options_apply(struct op *op, const struct inet_sk *sk, enum inet_when when);

/* ---- restore */
int inet_read(struct op *op, struct snapshot *s);
/* An address that is only that of a link is one with the link: in the network namespace that has it. */
int inet_set_scope(struct op *op, struct inet_sk *sk);
int inet_open(struct op *op, struct snapshot *s, struct snap_file *f);
/* "TCP socket 1234 (file id 7)" */
const char *inet_what(struct op *op, const struct inet_sk *sk);
int inet_sys(struct op *op, const struct inet_sk *sk, const char *what);
int inet_settle(struct op *op, struct snapshot *s);
int inet_open_up(struct op *op, struct snapshot *s);
void inet_restore_done(struct op *op, struct snapshot *s, bool success);
/* To its local address. */
int inet_bind(struct op *op, const struct inet_sk *sk);
/* ---- inet_who.c: what @eno of bind() and connect() means for @sk, and who is in the way */
int inet_cannot_bind(struct op *op, const struct inet_sk *sk, int eno);
int inet_cannot_connect(struct op *op, const struct inet_sk *sk, int eno);

/* "TCP socket", "UDPv6 socket"... of an entry, for messages. */
const char *inet_kind_name(uint32_t family, uint32_t type, uint32_t proto);
bool inet_is_tcp(uint32_t type, uint32_t proto); /* MPTCP is not */

#endif
