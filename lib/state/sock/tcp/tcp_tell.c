/* SPDX-License-Identifier: MIT */
/*
 * What the peer of a connection is told when it comes to life, so that nobody waits for a timer: how far we have received, for our
 * last acknowledgements may have been lost in the lock; and the question how far the peer has. Nothing depends on either, and what the
 * program has said meanwhile is not contradicted: it is later.
 */
#include <netinet/tcp.h>

#include "lib/state/sock/tcp/tcp.h"

static void say(const struct inet_sk *sk, struct segment_out *out, uint32_t seq)
{
	const TcpStreamEntry *m = sk->stream;
	struct segment g = { .seq = seq, .ack = m->inq_seq };
	/* What was promised last; never less. */
	uint32_t window = m->rcv_wup + m->rcv_wnd - m->inq_seq;
	socklen_t n = sizeof(g.tsval);

	inet_addr_on_wire(&sk->local, &g.from);
	inet_addr_on_wire(&sk->peer, &g.to);
	g.window = (uint16_t)MIN(window >> (m->opt_mask & TCP_HAS_SCALES ? m->rcv_wscale : 0), (uint32_t)UINT16_MAX);
	g.stamped = m->opt_mask & TCP_HAS_TIMESTAMPS && getsockopt(sk->f->fd, IPPROTO_TCP, TCP_TIMESTAMP, &g.tsval, &n) == 0;
	segment_send(out, &g);
}

void tcp_tell(const struct inet_sk *sk, struct segment_out *out)
{
	const struct tcp_shape *sh = &sk->shape;
	/* Where what was sent ends. */
	uint32_t next = sk->stream->outq_seq - sh->unsent - (sh->fin_out && !sh->fin_sent);

	if (sk->m->state == INET_CLOSE || sk->m->state == INET_SYN_SENT)
		return;
	if (sk->stream->has_rcv_wnd)
		say(sk, out, next);
	/* A number from before the window is one that is answered, and of which nothing is believed. */
	say(sk, out, sh->snd_start - 1);
}
