/* SPDX-License-Identifier: MIT */
/*
 * Datagrams that wait in a socket to be received: UDP and UDP-Lite. They are looked at one by one with MSG_PEEK, which needs
 * options of the socket for the moment: SO_PEEK_OFF, to get beyond the first, and those that tell where a datagram was sent.
 * They are put back at once; the guardian does it if we are killed in between. Restore: datagrams_fill.c.
 * Raw and ICMP sockets show their first datagram only: what waits there is lost, as packets may be.
 */
#include <netinet/udp.h>
#include <poll.h>

#include "lib/inject/guardian.h"
#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet/inet.h"

#define BUFFER (1u << 17) /* more than there can be in one */

static const struct guardian_option wanted[] = {
	{ IPPROTO_IP, IP_PKTINFO, 1 },		 { IPPROTO_IP, IP_RECVTOS, 1 },		  { IPPROTO_IP, IP_RECVTTL, 1 },
	{ IPPROTO_IPV6, IPV6_RECVPKTINFO, 1 }, { IPPROTO_IPV6, IPV6_RECVTCLASS, 1 }, { IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1 },
};

struct walk {
	struct op *op;
	struct snapshot *s;
	struct inet_seen *u;
	int fd;
	struct guardian_option old[ARRAY_SIZE(wanted) + 1]; /* the last: SO_PEEK_OFF */
	size_t n_old, room;
	size_t off;
	uint8_t *buf;
	DatagramEntry *d; /* the one that was seen last */
	size_t piece;	  /* > 0: it is several of this length, put together by the kernel */
};

/* ------------------------------------------------------------------------------------------ options, meanwhile */

static int begin(struct walk *w)
{
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		struct guardian_option o = wanted[i];
		socklen_t n = sizeof(o.value);

		if (getsockopt(w->fd, o.level, o.name, &o.value, &n) == 0 && !o.value)
			w->old[w->n_old++] = o;
	}
	w->old[w->n_old++] = (struct guardian_option){ SOL_SOCKET, SO_PEEK_OFF, sock_get_int(w->fd, SO_PEEK_OFF) };
	if (w->s->guardian && guardian_promise(w->s->guardian, w->fd, w->old, w->n_old) < 0) {
		w->n_old = 0;
		return file_errno(w->op, &w->u->view, "prepare for looking at its queue");
	}
	for (size_t i = 0; i + 1 < w->n_old; i++)
		if (setsockopt(w->fd, w->old[i].level, w->old[i].name, &(int){ 1 }, sizeof(int)) < 0)
			return file_errno(w->op, &w->u->view, "look at its queue");
	return 0;
}

static int end(struct walk *w)
{
	int r = 0;

	for (size_t i = 0; i < w->n_old; i++)
		if (setsockopt(w->fd, w->old[i].level, w->old[i].name, &w->old[i].value, sizeof(w->old[i].value)) < 0)
			r = file_errno(w->op, &w->u->view, "put back the options that were changed to look at its queue");
	if (w->n_old && w->s->guardian)
		guardian_retract(w->s->guardian);
	return r;
}

/* ------------------------------------------------------------------------------------------------ one datagram */

static int put_bytes(struct op *op, const void *p, size_t n, ProtobufCBinaryData *ret)
{
	*ret = (ProtobufCBinaryData){ n, arena_memdup(op->arena, p, n ? n : 1) };
	return ret->data ? 0 : op_nomem(op);
}

static int put_destination(struct op *op, DatagramEntry *d, const void *addr, size_t n, uint32_t ifindex)
{
	d->has_to = 1;
	msg_set(d, ifindex, ifindex);
	return put_bytes(op, addr, n, &d->to);
}

static int take_cmsg(struct walk *w, const struct cmsghdr *c)
{
	size_t len = c->cmsg_len - CMSG_LEN(0);
	const void *data = CMSG_DATA(c);
	struct in6_pktinfo six;
	struct in_pktinfo four;
	int value = 0;

	memcpy(&value, data, MIN(len, sizeof(value)));
	if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO && len >= sizeof(four)) {
		memcpy(&four, data, sizeof(four));
		if (w->u->msg->family == AF_INET)
			return put_destination(w->op, w->d, &four.ipi_addr, sizeof(four.ipi_addr), (uint32_t)four.ipi_ifindex);
	} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO && len >= sizeof(six)) {
		memcpy(&six, data, sizeof(six));
		return put_destination(w->op, w->d, &six.ipi6_addr, sizeof(six.ipi6_addr), six.ipi6_ifindex);
	} else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
		   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS)) {
		msg_set(w->d, tos, (uint32_t)value & 0xff);
	} else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TTL) ||
		   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_HOPLIMIT)) {
		msg_set(w->d, ttl, (uint32_t)value & 0xff);
	} else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO && value > 0) {
		w->piece = (size_t)value;
	}
	return 0;
}

static int note(struct walk *w, const uint8_t *data, size_t n)
{
	InetSkExtra *x = w->u->extra;
	DatagramEntry *d;
	int r = 0;

	if (x->n_queue == w->room) {
		DatagramEntry **more;

		w->room = w->room ? 2 * w->room : 16;
		more = op_alloc(w->op, w->room * sizeof(*more));
		if (!more)
			return CKPT_E_NOMEM;
		if (x->n_queue)
			memcpy(more, x->queue, x->n_queue * sizeof(*more));
		x->queue = more;
	}
	d = op_new(w->op, DatagramEntry);
	if (!d)
		return CKPT_E_NOMEM;
	*d = *w->d;
	r = put_bytes(w->op, data, n, &d->data);
	x->queue[x->n_queue++] = d;
	w->u->noted = true;
	return r;
}

/* 1: there is no further one. */
static int look(struct walk *w)
{
	union inet_addr from;
	union {
		struct cmsghdr head;
		char space[512];
	} control;
	struct iovec iov = { w->buf, BUFFER };
	struct msghdr m = { .msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1,
			    .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n;
	int r = 0;

	if (setsockopt(w->fd, SOL_SOCKET, SO_PEEK_OFF, &(int){ (int)w->off }, sizeof(int)) < 0)
		return file_errno(w->op, &w->u->view, "look at its queue");
	do
		n = recvmsg(w->fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC);
	while (n < 0 && errno == EINTR);
	/* An error that came in just now: there it was not, when it was asked about. */
	if (n < 0 || (n == 0 && !m.msg_namelen))
		return 1;
	w->d = msg_new(w->op, DatagramEntry, datagram_entry);
	w->piece = 0;
	if (!w->d)
		return CKPT_E_NOMEM;
	w->d->has_from = 1;
	r = put_bytes(w->op, &from, m.msg_namelen, &w->d->from);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); !r && c; c = CMSG_NXTHDR(&m, c))
		r = take_cmsg(w, c);
	w->off += (size_t)n;
	for (size_t at = 0, len = w->piece ? w->piece : (size_t)n; !r && (at < (size_t)n || (!n && !at)); at += len) {
		r = note(w, w->buf + at, MIN(len, (size_t)n - at));
		if (!n)
			break;
	}
	return r;
}

static int walk(struct walk *w)
{
	int r, r2;

	w->buf = op_alloc(w->op, BUFFER);
	if (!w->buf)
		return CKPT_E_NOMEM;
	r = begin(w);
	while (!r)
		r = look(w);
	r2 = end(w);
	return r < 0 ? r : r2;
}

/* Memory that what waits in it takes. */
static bool has_queued(int fd)
{
	uint32_t info[9] = { 0 };
	socklen_t n = sizeof(info);

	return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) == 0 && info[0] > 0;
}

int datagrams_dump(struct op *op, struct snapshot *s, int fd, struct inet_seen *u)
{
	const char *kind = inet_kind_name(u->msg->family, u->msg->type, u->msg->proto);
	struct walk w = { .op = op, .s = s, .u = u, .fd = fd };
	struct pollfd p = { .fd = fd, .events = POLLIN };

	if (u->msg->type == SOCK_STREAM || poll(&p, 1, 0) < 1)
		return 0;
	/* Whoever receives is told of it first, and it is gone then. */
	if (p.revents & POLLERR) {
		log_warn(op, "pid %d: fd %d: %s: an error that waits to be reported, and what waits behind it, is lost",
			 u->view.pid, u->view.fd, kind);
		return 0;
	}
	if (!has_queued(fd))
		return 0;
	if (u->msg->type == SOCK_DGRAM && (u->msg->proto == IPPROTO_UDP || u->msg->proto == IPPROTO_UDPLITE))
		return walk(&w);
	log_warn(op, "pid %d: fd %d: %s: what waits in it to be received is lost: the kernel shows it to nobody", u->view.pid,
		 u->view.fd, kind);
	return 0;
}
