/* SPDX-License-Identifier: MIT */
/*
 * State and queues of one TCP connection, read in repair mode (TCP_REPAIR), in which the kernel tells them and a close is silent.
 *
 * Numbers of the kernel count the FINs: rcv_nxt one that was received, write_seq and what is not acknowledged one that was
 * sent or waits behind the data. SIOCINQ does not (measured). The image wants lengths without, numbers with them.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>

#include "lib/inject/guardian.h"
#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet/inet.h"

#define OPTIONS_KEPT (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE)
/* The first segment of the send queue may begin with bytes that were acknowledged already. */
#define SLACK (128u << 10)
#define QUEUE_LIMIT (1u << 30)
#define TRIES 20

/* What must not change while the rest is read. */
struct numbers {
	uint32_t rcv_nxt, write_seq;
	int inq, outq, unsent;
};

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value));
}

int tcp_repair_on(int fd)
{
	return set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
}

/* The kernel has forgotten what SO_REUSEADDR was. No probe is sent: nothing has happened, as far as the peer is concerned. */
int tcp_repair_off(int fd, bool reuse)
{
	int r = set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);

	return set(fd, SOL_SOCKET, SO_REUSEADDR, reuse) ?: r;
}

static int failed(struct op *op, const char *what, const char *how)
{
	return op_errno(op, errno, AT(.kind = "TCP socket"), "%s: cannot %s", what, how);
}

static int sequence(int fd, int queue, uint32_t *ret)
{
	socklen_t n = sizeof(*ret);

	return set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue) ?: getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, ret, &n);
}

/* In between it may look as if the send queue were sent, if it is chosen: it never is for longer than a call or two. */
static int read_numbers(int fd, struct numbers *n)
{
	int r = sequence(fd, TCP_RECV_QUEUE, &n->rcv_nxt) ?: sequence(fd, TCP_SEND_QUEUE, &n->write_seq);

	r = set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE) ?: r;
	r = r ?: ioctl(fd, SIOCINQ, &n->inq) ?: ioctl(fd, SIOCOUTQ, &n->outq);
	return r ?: ioctl(fd, SIOCOUTQNSD, &n->unsent);
}

static bool fin_sent(int state)
{
	return state == INET_FIN_WAIT1 || state == INET_CLOSING || state == INET_LAST_ACK;
}

/* -------------------------------------------------------------------------------------------------------- state */

static int read_info(int fd, struct tcp_info *info)
{
	socklen_t n = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &n);
}

static int read_state(struct op *op, int fd, const char *what, const struct tcp_info *info, TcpStreamEntry *m)
{
	struct tcp_repair_window w;
	socklen_t n = sizeof(w), len = sizeof(m->timestamp);

	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &n) < 0)
		return failed(op, what, "read its window");
	m->opt_mask = info->tcpi_options & OPTIONS_KEPT;
	m->snd_wscale = info->tcpi_snd_wscale;
	msg_set(m, rcv_wscale, info->tcpi_rcv_wscale);
	if (getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &m->timestamp, &len) < 0)
		return failed(op, what, "read its timestamp");
	m->has_timestamp = true;
	len = sizeof(m->mss_clamp);
	if (getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &m->mss_clamp, &len) < 0)
		return failed(op, what, "read its segment size");
	msg_set(m, snd_wl1, w.snd_wl1);
	msg_set(m, snd_wnd, w.snd_wnd);
	msg_set(m, max_window, w.max_window);
	msg_set(m, rcv_wnd, w.rcv_wnd);
	msg_set(m, rcv_wup, w.rcv_wup);
	return 0;
}

/* ------------------------------------------------------------------------------------------------------- queues */

static ssize_t peek(int fd, int queue, void *buf, size_t n)
{
	ssize_t got;

	if (set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue) < 0)
		return -1;
	do
		got = recv(fd, buf, n, MSG_PEEK | MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	return set(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_NO_QUEUE) < 0 ? -1 : got;
}

/* Where the program looks ahead from a place of its own (SO_PEEK_OFF), that is put aside. */
static ssize_t peek_received(const struct guardian *g, int fd, void *buf, size_t n)
{
	struct guardian_option old = { SOL_SOCKET, SO_PEEK_OFF, -1 };
	socklen_t len = sizeof(old.value);
	ssize_t got;

	if (getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &old.value, &len) < 0 || old.value < 0)
		return peek(fd, TCP_RECV_QUEUE, buf, n);
	if (g && guardian_promise(g, fd, &old, 1) < 0)
		return -1;
	got = set(fd, SOL_SOCKET, SO_PEEK_OFF, -1) < 0 ? -1 : peek(fd, TCP_RECV_QUEUE, buf, n);
	if (set(fd, SOL_SOCKET, SO_PEEK_OFF, old.value) < 0)
		got = -1;
	if (g)
		guardian_retract(g);
	return got;
}

/* Positive: it has changed meanwhile. */
static int read_received(struct op *op, const struct guardian *g, int fd, const char *what, uint32_t n, const void **ret)
{
	void *buf;
	ssize_t got;

	*ret = "";
	if (!n)
		return 0;
	buf = op_alloc(op, n);
	if (!buf)
		return CKPT_E_NOMEM;
	got = peek_received(g, fd, buf, n);
	if (got < 0 && errno != EAGAIN)
		return failed(op, what, "look at what it has received");
	*ret = buf;
	return got != (ssize_t)n;
}

/* The kernel gives the whole queue, or nothing: the last @n bytes of that are what is not acknowledged. */
static int read_outgoing(struct op *op, int fd, const char *what, uint32_t n, const void **ret)
{
	_cleanup_free_ char *small = NULL;
	size_t room = (size_t)n + SLACK;
	char *buf;
	ssize_t got;

	*ret = "";
	if (!n)
		return 0;
	/* Not copied twice where it is much; where it is little, the slack would be. */
	buf = n < SLACK ? small = malloc(room) : op_alloc(op, room);
	if (!buf)
		return op_nomem(op);
	got = peek(fd, TCP_SEND_QUEUE, buf, room);
	if (got < 0 && errno != EFAULT)
		return failed(op, what, "look at what it has not sent");
	if (got < (ssize_t)n)
		return 1;
	*ret = small ? arena_memdup(op->arena, buf + got - n, n) : buf + got - n;
	return *ret ? 0 : op_nomem(op);
}

static int read_queues(struct op *op, const struct guardian *g, int fd, const char *what, TcpStreamEntry *m, const void **inq,
		       const void **outq)
{
	if (m->inq_len > QUEUE_LIMIT || m->outq_len > QUEUE_LIMIT)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "TCP socket"), "%s: what is queued in it is too long", what);
	return read_received(op, g, fd, what, m->inq_len, inq) ?: read_outgoing(op, fd, what, m->outq_len, outq);
}

static void take_numbers(int state, const struct numbers *n, TcpStreamEntry *m)
{
	int fin = fin_sent(state);

	m->inq_seq = n->rcv_nxt;
	m->outq_seq = n->write_seq;
	m->inq_len = (uint32_t)MAX(n->inq, 0);
	/* What a closed one has not sent never will be. */
	m->outq_len = state == INET_CLOSE ? 0 : (uint32_t)MAX(n->outq - fin, 0);
	msg_set(m, unsq_len, state == INET_CLOSE ? 0 : MIN((uint32_t)MAX(n->unsent - fin, 0), m->outq_len));
}

/* What goes with the SYN (Fast Open) is counted nowhere. */
static int check_syn(struct op *op, int fd, const char *what)
{
	char byte;

	if (peek(fd, TCP_SEND_QUEUE, &byte, sizeof(byte)) == 0)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "TCP socket", .hint = "wait until it is connected"),
		       "%s: data is on its way with the SYN (TCP Fast Open)", what);
}

/* Once. Positive: it has changed meanwhile. */
static int read_once(struct op *op, const struct guardian *g, int fd, const char *what, TcpStreamEntry *m, const void **inq,
		     const void **outq)
{
	struct numbers before, after;
	struct tcp_info info;
	int r;

	if (read_info(fd, &info) < 0 || read_numbers(fd, &before) < 0)
		return failed(op, what, "read its state");
	take_numbers(info.tcpi_state, &before, m);
	r = info.tcpi_state == INET_SYN_SENT ? check_syn(op, fd, what) : 0;
	r = r ?: read_state(op, fd, what, &info, m) ?: read_queues(op, g, fd, what, m, inq, outq);
	if (r)
		return r;
	if (read_numbers(fd, &after) < 0)
		return failed(op, what, "read its state");
	return memcmp(&before, &after, sizeof(before)) != 0;
}

int tcp_stream_read(struct op *op, const struct guardian *g, int fd, const char *what, TcpStreamEntry **ret, const void **inq,
		    const void **outq)
{
	TcpStreamEntry *m = msg_new(op, TcpStreamEntry, tcp_stream_entry);
	int r = m ? 1 : CKPT_E_NOMEM;

	/* Nothing comes any more where the packets are held; elsewhere it may. */
	for (int i = 0; r > 0 && i < TRIES; i++)
		r = read_once(op, g, fd, what, m, inq, outq);
	*ret = m;
	if (r <= 0)
		return r;
	return op_fail(op, CKPT_E_BUSY, AT(.kind = "TCP socket", .hint = "without --network-lock skip nothing comes meanwhile"),
		       "%s: what it has received changes while it is looked at", what);
}
