/* SPDX-License-Identifier: MIT */
/*
 * One TCP connection in repair mode: where it is, what was agreed with its peer, what is queued. In that mode connect() sends
 * nothing, and what is written goes where TCP_REPAIR_QUEUE says: to what was received, or to what was sent and is not
 * acknowledged yet.
 */
#include <netinet/tcp.h>
#include <netinet/ip.h>

#include "lib/state/file/core.h"
#include "lib/state/sock/tcp/tcp.h"

#define BUFFER_SPARE (256u << 10)
#define CHUNK (64u << 10)
#define WINDOW_UNSCALED 65535
#define MSS_OPTION_MIN 88 /* what TCP_MAXSEG takes */
#define MSS_OPTION_MAX 32767u
#define MSS_DEFAULT 536u
#define MSS_HUGE 9216u /* larger than on any network */

static int tcp_set(int fd, int name, int value)
{
	return setsockopt(fd, IPPROTO_TCP, name, &value, sizeof(value));
}

/* Whoever asks for a buffer gets twice that. */
static int grow(int fd, int name, int force_name, uint64_t want)
{
	int half = (int)(MIN(want, (uint64_t)INT32_MAX - 1) / 2);

	if (sock_get_int(fd, name) / 2 >= half)
		return 0;
	return setsockopt(fd, SOL_SOCKET, force_name, &half, sizeof(half));
}

/* As much as they take in memory, which is known only roughly; they get their size again when they are full. */
static int make_room(struct op *op, const struct inet_sk *sk)
{
	const TcpStreamEntry *m = sk->stream;
	uint64_t in = m->inq_len ? 2ull * m->inq_len + BUFFER_SPARE : 0, out = m->outq_len ? 2ull * m->outq_len + BUFFER_SPARE : 0;

	if (grow(sk->f->fd, SO_RCVBUF, SO_RCVBUFFORCE, MAX(in, (uint64_t)sk->m->opts->so_rcvbuf)) < 0 ||
	    (out && grow(sk->f->fd, SO_SNDBUF, SO_SNDBUFFORCE, out) < 0))
		return inet_sys(op, sk, "make room for its queues");
	return 0;
}

static int set_numbers(struct op *op, const struct inet_sk *sk)
{
	int fd = sk->f->fd;

	if (tcp_set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE) < 0 || tcp_set(fd, TCP_QUEUE_SEQ, (int)sk->shape.snd_start) < 0 ||
	    tcp_set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE) < 0 || tcp_set(fd, TCP_QUEUE_SEQ, (int)sk->shape.rcv_start) < 0)
		return inet_sys(op, sk, "set its sequence numbers");
	return 0;
}

/*
 * No segment is larger than half of the largest window, or it would wait for a timer. The huge ones of connections within a host
 * stay far below: where the other end is restored, too, it has forgotten how large they are, and tells of smaller windows.
 */
static uint32_t segment_limit(const TcpStreamEntry *m)
{
	if (!m->has_max_window)
		return UINT32_MAX;
	return MAX(m->max_window / (m->mss_clamp > MSS_HUGE ? 16 : 2), MSS_DEFAULT);
}

/*
 * What connect() makes of a new connection, and nothing corrects later: how large its segments are, where there is no other way
 * (settle_mss()), and that windows are not scaled.
 */
static int set_limits(struct op *op, const struct inet_sk *sk)
{
	const TcpStreamEntry *m = sk->stream;
	uint32_t mss = MIN(MIN(m->mss_clamp, segment_limit(m)), MSS_OPTION_MAX);

	if (sk->m->family == AF_INET6 && mss >= MSS_OPTION_MIN && tcp_set(sk->f->fd, TCP_MAXSEG, (int)mss) < 0)
		return inet_sys(op, sk, "limit its segments");
	if (!(m->opt_mask & TCP_HAS_SCALES) && tcp_set(sk->f->fd, TCP_WINDOW_CLAMP, WINDOW_UNSCALED) < 0)
		return inet_sys(op, sk, "limit its window");
	return 0;
}

int tcp_prepare(struct op *op, const struct inet_sk *sk)
{
	int r = set_numbers(op, sk);

	if (r || sk->m->state == INET_SYN_SENT)
		return r;
	return make_room(op, sk) ?: set_limits(op, sk);
}

/* -------------------------------------------------------------------------------------------------- what was agreed */

static int set_agreed(struct op *op, const struct inet_sk *sk)
{
	const TcpStreamEntry *m = sk->stream;
	struct tcp_repair_opt opts[4];
	size_t n = 0;

	opts[n++] = (struct tcp_repair_opt){ TCPOPT_MAXSEG, m->mss_clamp };
	if (m->opt_mask & TCP_HAS_SCALES)
		opts[n++] = (struct tcp_repair_opt){ TCPOPT_WINDOW, m->snd_wscale | m->rcv_wscale << 16 };
	if (m->opt_mask & TCP_HAS_SACK)
		opts[n++] = (struct tcp_repair_opt){ TCPOPT_SACK_PERMITTED, 0 };
	if (m->opt_mask & TCP_HAS_TIMESTAMPS)
		opts[n++] = (struct tcp_repair_opt){ TCPOPT_TIMESTAMP, 0 };
	if (setsockopt(sk->f->fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, opts, (socklen_t)(n * sizeof(*opts))) < 0)
		return inet_sys(op, sk, "set what was agreed with its peer");
	if (m->opt_mask & TCP_HAS_TIMESTAMPS && tcp_set(sk->f->fd, TCP_TIMESTAMP, (int)m->timestamp) < 0)
		return inet_sys(op, sk, "set its timestamps");
	return 0;
}

static int put_windows(struct op *op, const struct inet_sk *sk, const struct tcp_repair_window *w)
{
	/* Without, the peer tells when it is asked, in the end. */
	if (!sk->stream->has_snd_wnd || setsockopt(sk->f->fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, w, sizeof(*w)) == 0)
		return 0;
	return inet_sys(op, sk, "set its windows");
}

static struct tcp_repair_window windows(const TcpStreamEntry *m, bool closed, bool before_fin)
{
	return (struct tcp_repair_window){
		.snd_wl1 = m->snd_wl1,
		.snd_wnd = closed ? 0 : m->snd_wnd,
		.max_window = m->max_window,
		.rcv_wnd = m->rcv_wnd + before_fin,
		.rcv_wup = m->rcv_wup - before_fin,
	};
}

int tcp_windows(struct op *op, const struct inet_sk *sk, bool closed, bool before_fin)
{
	struct tcp_repair_window w = windows(sk->stream, closed, before_fin);

	return put_windows(op, sk, &w);
}

/*
 * Segments are as large as connect() thought, which did not know what the peer takes: 536 bytes, for ever. IPv4 thinks again when
 * its options are set, be they none, and limits them to half of the largest window; for IPv6 the limit was set before, and goes here.
 */
static int settle_mss(struct op *op, const struct inet_sk *sk)
{
	struct tcp_repair_window w = windows(sk->stream, true, sk->shape.fin_in);
	int r;

	if (sk->m->family == AF_INET6)
		return tcp_set(sk->f->fd, TCP_MAXSEG, 0) < 0 ? inet_sys(op, sk, "settle the size of its segments") : 0;
	w.max_window = MIN(w.max_window, 2ull * segment_limit(sk->stream));
	r = put_windows(op, sk, &w);
	if (!r && setsockopt(sk->f->fd, IPPROTO_IP, IP_OPTIONS, NULL, 0) < 0)
		r = inet_sys(op, sk, "settle the size of its segments");
	return r;
}

int tcp_connect(struct op *op, const struct inet_sk *sk)
{
	if (connect(sk->f->fd, &sk->peer.any, inet_addr_len(&sk->peer)) < 0)
		return inet_cannot_connect(op, sk, errno);
	return set_agreed(op, sk);
}

/* ---------------------------------------------------------------------------------------------------------- queues */

/* The kernel takes what it finds memory for in one piece; a full buffer is made larger. */
static int put_bytes(struct op *op, const struct inet_sk *sk, const uint8_t *p, uint32_t n, bool out)
{
	int fd = sk->f->fd;
	int name = out ? SO_SNDBUF : SO_RCVBUF, force_name = out ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;

	while (n) {
		ssize_t done = send(fd, p, MIN(n, CHUNK), MSG_DONTWAIT | MSG_NOSIGNAL);
		int before = sock_get_int(fd, name), eno = errno;

		if (done > 0) {
			p += done;
			n -= (uint32_t)done;
			continue;
		}
		errno = eno;
		if (done < 0 && errno == EINTR)
			continue;
		if ((done < 0 && errno != EAGAIN && errno != ENOMEM) || grow(fd, name, force_name, 2ull * (uint64_t)before) < 0)
			return inet_sys(op, sk, out ? "fill its send queue" : "fill its receive queue");
		if (sock_get_int(fd, name) <= before) {
			errno = ENOBUFS;
			return inet_sys(op, sk, out ? "fill its send queue" : "fill its receive queue");
		}
	}
	return 0;
}

static int put_queue(struct op *op, const struct inet_sk *sk, int queue, const void *p, uint32_t n)
{
	if (!n)
		return 0;
	if (tcp_set(sk->f->fd, TCP_REPAIR_QUEUE, queue) < 0)
		return inet_sys(op, sk, "choose a queue");
	return put_bytes(op, sk, p, n, queue == TCP_SEND_QUEUE);
}

/*
 * What was not sent yet is written as ever, to a peer that takes nothing: it stays in the queue, and goes with the first push
 * after the windows are set. All that may fail fails here, before there are any tasks.
 */
static int put_unsent(struct op *op, const struct inet_sk *sk)
{
	const uint8_t *p = (const uint8_t *)sk->outq + sk->shape.sent;
	int r;

	if (tcp_set(sk->f->fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP) < 0)
		return inet_sys(op, sk, "fill its send queue");
	r = put_bytes(op, sk, p, sk->shape.unsent, true);
	if (!r && tcp_set(sk->f->fd, TCP_REPAIR, TCP_REPAIR_ON) < 0)
		r = inet_sys(op, sk, "fill its send queue");
	return r;
}

int tcp_fill(struct op *op, const struct inet_sk *sk)
{
	const TcpStreamEntry *m = sk->stream;
	int r = put_queue(op, sk, TCP_RECV_QUEUE, sk->inq, m->inq_len);

	r = r ?: settle_mss(op, sk) ?: tcp_windows(op, sk, sk->shape.unsent, sk->shape.fin_in);
	r = r ?: put_queue(op, sk, TCP_SEND_QUEUE, sk->outq, sk->shape.sent);
	return r ?: sk->shape.unsent ? put_unsent(op, sk) : 0;
}
