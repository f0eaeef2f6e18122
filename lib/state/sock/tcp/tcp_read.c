/* SPDX-License-Identifier: MIT */
/* Reading of what the images say of TCP connections. The kernel would take most lies, and the peer would notice them. */
#include "lib/state/sock/tcp/tcp.h"

#define QUEUE_MAX (1u << 30) /* as much as a window may be */
#define SCALE_MAX 14
#define MSS_MAX 65535u
/* TCPI_OPT_*: what follows belongs to no setting that can be made again */
#define OPTIONS_KNOWN 0xffu

bool tcp_is_connected(const InetSkEntry *m)
{
	return inet_is_tcp(m->type, m->proto) && m->dst_port;
}

static bool one_of(uint32_t state, unsigned states)
{
	return state < 32 && states >> state & 1;
}

#define STATE(s) (1u << INET_##s)
#define MADE (STATE(ESTABLISHED) | STATE(SYN_SENT) | STATE(FIN_WAIT1) | STATE(FIN_WAIT2) | STATE(CLOSE) | STATE(CLOSE_WAIT) | \
	      STATE(LAST_ACK) | STATE(CLOSING))
#define FIN_RECEIVED (STATE(CLOSE_WAIT) | STATE(LAST_ACK) | STATE(CLOSING) | STATE(CLOSE))
#define FIN_QUEUED (STATE(FIN_WAIT1) | STATE(FIN_WAIT2) | STATE(CLOSING) | STATE(LAST_ACK) | STATE(CLOSE))
#define FIN_ACKED (STATE(FIN_WAIT2) | STATE(CLOSE))

static bool after(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) > 0;
}

static const char *wrong_parameters(const TcpStreamEntry *m)
{
	if (m->opt_mask & ~OPTIONS_KNOWN)
		return "it has options that are not known";
	if (!m->mss_clamp || m->mss_clamp > MSS_MAX)
		return "its segment size is impossible";
	if (m->opt_mask & TCP_HAS_SCALES && !m->has_rcv_wscale)
		return "the scale of its receive window is missing";
	if (m->opt_mask & TCP_HAS_SCALES && (m->snd_wscale > SCALE_MAX || m->rcv_wscale > SCALE_MAX))
		return "the scale of a window is impossible";
	if (m->opt_mask & TCP_HAS_TIMESTAMPS && !m->has_timestamp)
		return "its timestamp is missing";
	return NULL;
}

/* What the kernel would not take, and what it would take and should not: a window is at most 1 GiB. */
static const char *wrong_windows(const TcpStreamEntry *m)
{
	int n = !!m->has_snd_wl1 + !!m->has_snd_wnd + !!m->has_max_window + !!m->has_rcv_wnd + !!m->has_rcv_wup;

	if (!n)
		return NULL;
	if (n != 5)
		return "some of its windows are missing";
	if (m->snd_wnd > QUEUE_MAX || m->max_window > QUEUE_MAX || m->rcv_wnd > QUEUE_MAX)
		return "a window is impossible";
	if (m->max_window < m->snd_wnd)
		return "its window is larger than it ever was";
	if (after(m->snd_wl1, m->inq_seq + m->rcv_wnd))
		return "its send window comes from the future";
	if (after(m->rcv_wup, m->inq_seq))
		return "its receive window begins after what was received";
	return NULL;
}

static const char *wrong_queues(uint32_t state, const TcpStreamEntry *m, bool fin_out)
{
	if (!m->has_unsq_len)
		return "the length of what was not sent yet is missing";
	if (m->inq_len > QUEUE_MAX || m->outq_len > QUEUE_MAX)
		return "its queues are too long";
	/* An end that was not sent may have been counted. */
	if (m->unsq_len > m->outq_len + fin_out)
		return "more was not sent yet than is queued";
	if (one_of(state, FIN_ACKED) && m->outq_len)
		return "what it sent is acknowledged, and is queued";
	if (state == INET_SYN_SENT && (m->inq_len || m->outq_len))
		return "it has queues, and no connection yet";
	return NULL;
}

const char *tcp_shape_of(uint32_t state, const TcpStreamEntry *m, struct tcp_shape *ret)
{
	bool fin_in = one_of(state, FIN_RECEIVED), fin_out = one_of(state, FIN_QUEUED);
	const char *wrong = one_of(state, MADE) ? NULL : "a connection cannot be in its state";

	wrong = wrong ?: wrong_queues(state, m, fin_out) ?: wrong_parameters(m) ?: wrong_windows(m);
	if (wrong)
		return wrong;
	*ret = (struct tcp_shape){ .fin_in = fin_in, .fin_out = fin_out, .fin_acked = one_of(state, FIN_ACKED) };
	ret->rcv_start = m->inq_seq - m->inq_len - fin_in;
	/* What opens a connection counts as one, too. */
	ret->snd_start = m->outq_seq - m->outq_len - (fin_out || state == INET_SYN_SENT);
	ret->unsent = ret->fin_acked ? 0 : MIN(m->unsq_len, m->outq_len);
	ret->sent = m->outq_len - ret->unsent;
	ret->fin_sent = fin_out && (ret->fin_acked || !m->unsq_len);
	return NULL;
}

/* -------------------------------------------------------------------------------------------------------- images */

static int read_queues(struct op *op, struct img_in *in, const TcpStreamEntry *m, struct inet_sk *sk)
{
	void *inq = NULL, *outq = NULL;
	int r = m->inq_len ? img_read_payload(op, in, m->inq_len, &inq) : 0;

	r = r ?: m->outq_len ? img_read_payload(op, in, m->outq_len, &outq) : 0;
	sk->stream = m;
	sk->inq = inq;
	sk->outq = outq;
	return r;
}

static int read_stream(struct op *op, struct snapshot *s, struct inet_sk *sk)
{
	struct img_in *in = NULL;
	ProtobufCMessage *msg;
	const char *wrong;
	int r = img_open(op, s->dir, IMG_TCP_STREAM, sk->m->ino, &in);

	if (r == IMG_ABSENT)
		return image_bad(op, "tcp-stream-%x.img is missing: %s to %s", sk->m->ino, inet_what(op, sk),
				 inet_addr_text(op, &sk->peer));
	r = r ?: img_read(op, in, &msg);
	if (r == IMG_END)
		r = image_bad(op, "tcp-stream-%x.img is empty", sk->m->ino);
	wrong = r ? NULL : tcp_shape_of(sk->m->state, (TcpStreamEntry *)msg, &sk->shape);
	if (wrong)
		r = image_bad(op, "tcp-stream-%x.img: %s", sk->m->ino, wrong);
	r = r ?: read_queues(op, in, (TcpStreamEntry *)msg, sk);
	img_in_close(in);
	return r;
}

int tcp_read(struct op *op, struct snapshot *s, struct inet_sk *sk)
{
	if (op->opts->tcp_close) {
		sk->closed_instead = true;
		return 0;
	}
	if (!op->opts->tcp_established)
		return op_fail(op, CKPT_E_INVAL,
			       AT(.kind = "socket", .hint = "add --tcp-established, or --tcp-close to have them closed"),
			       "%s: it is connected to %s", inet_what(op, sk), inet_addr_text(op, &sk->peer));
	if (!sk->m->src_port && sk->m->state != INET_CLOSE)
		return image_bad(op, "files.img: socket id %u: a connection without a port", sk->f->id);
	return read_stream(op, s, sk);
}
