/* SPDX-License-Identifier: MIT */
/* Restore of connections that wait to be accepted: into the queues of listeners that are there, in their order. */
#include "lib/kernel/uapi.h"
#include "lib/state/sock/tcp/pending.h"

#define WSCALE_MAX 14

static bool dropped(const struct op *op)
{
	return op->opts->skip_in_flight || op->opts->tcp_close;
}

static bool address_of(const ProtobufCBinaryData *b, union inet_addr *a)
{
	*a = (union inet_addr){ 0 };
	if (b->len < sizeof(a->any.sa_family) || b->len > sizeof(*a))
		return false;
	memcpy(a, b->data, b->len);
	return (a->any.sa_family == AF_INET && b->len == sizeof(a->v4)) || (a->any.sa_family == AF_INET6 && b->len == sizeof(a->v6));
}

/* Of one connection: a sentence, or NULL, and then @c is what the message says. */
static const char *convert(const struct inet_sk *sk, const PendingConnection *m, struct pending_conn *c)
{
	const TcpStreamEntry *t = m->stream;

	*c = (struct pending_conn){ .state = m->state, .fin = m->state == INET_CLOSE_WAIT };
	if (!address_of(&m->local, &c->local) || !address_of(&m->peer, &c->peer) || c->local.any.sa_family != c->peer.any.sa_family)
		return "its addresses are none";
	if (sk->m->family == AF_INET && c->local.any.sa_family != AF_INET)
		return "its addresses are of another family than the listener";
	if (inet_addr_port(&c->local) != inet_addr_port(&sk->local) || !inet_addr_port(&c->peer))
		return "its port is not that of the listener";
	if (m->state != INET_ESTABLISHED && m->state != INET_CLOSE_WAIT && m->state != INET_CLOSE)
		return "its state is unknown";
	if ((m->has_in_queue ? m->in_queue.len : 0) != t->inq_len || t->outq_len || (m->has_out_queue && m->out_queue.len))
		return "its queues are not what it says of them";
	if (t->snd_wscale > WSCALE_MAX || t->rcv_wscale > WSCALE_MAX || t->mss_clamp > UINT16_MAX)
		return "its options are impossible";
	c->n = t->inq_len;
	c->rcv_start = t->inq_seq - t->inq_len - c->fin;
	c->snd_next = t->outq_seq;
	c->opt_mask = t->opt_mask;
	c->snd_wscale = t->snd_wscale;
	c->rcv_wscale = t->rcv_wscale;
	c->mss = t->mss_clamp;
	c->timestamp = t->timestamp;
	c->snd_wnd = t->snd_wnd;
	return NULL;
}

static const char *phrase(struct op *op, const struct inet_sk *sk)
{
	const char *text = arena_printf(op->arena, "%s: %zu connection%s that %s not accepted yet", inet_what(op, sk),
					sk->x->n_pending, sk->x->n_pending == 1 ? "" : "s", sk->x->n_pending == 1 ? "was" : "were");

	return text ? text : "connections that were not accepted yet";
}

int pending_read(struct op *op, const struct inet_sk *sk)
{
	struct pending_conn c;

	if (!sk->x || !sk->x->n_pending)
		return 0;
	if (sk->m->state != INET_LISTEN || !inet_is_tcp(sk->m->type, sk->m->proto))
		return image_bad(op, "ckpt-extra: connections wait at file id %u, which is no TCP listener", sk->m->id);
	for (size_t i = 0; i < sk->x->n_pending; i++) {
		const char *wrong = convert(sk, sk->x->pending[i], &c);

		if (wrong)
			return image_bad(op, "ckpt-extra: connection %zu that waits at file id %u: %s", i, sk->m->id, wrong);
	}
	if (dropped(op) || sk->given) {
		log_warn(op, "%s: dropped (%s)", phrase(op, sk), sk->given ? "the listener is given by --inherit-fd" :
				 op->opts->skip_in_flight ? "--skip-in-flight" : "--tcp-close");
		return 0;
	}
	if (op->opts->tcp_established)
		return 0;
	return op_fail(op, CKPT_E_INVAL,
		       AT(.kind = "TCP socket", .hint = "restore them with --tcp-established, or drop them with --skip-in-flight"),
		       "%s", phrase(op, sk));
}

static bool wanted(const struct op *op, const struct inet_sk *sk)
{
	return sk->x && sk->x->n_pending && !sk->given && !dropped(op);
}

int pending_tuples(struct op *op, const struct inet_sk *sk, netlock_tuples *tuples)
{
	struct pending_conn c;

	/* Those that are dropped, too: the lock that the dump left is to go with us. */
	for (size_t i = 0; sk->x && i < sk->x->n_pending; i++) {
		struct netlock_tuple *t = ARRAY_ADD(op->arena, tuples);

		if (!t)
			return op_nomem(op);
		convert(sk, sk->x->pending[i], &c);
		pending_tuple(&c.local, &c.peer, t);
	}
	return 0;
}

/* ----------------------------------------------------------------------------------------------- putting them in */

static int fill_pool(struct op *op, const struct inet_sk *sk, struct pending_pool *p)
{
	size_t bytes = 0;
	int r;

	for (size_t i = 0; i < sk->x->n_pending; i++)
		bytes += sk->x->pending[i]->stream->inq_len;
	r = pending_pool_new(op, p, sk->x->n_pending, bytes);
	for (size_t i = 0; !r && i < sk->x->n_pending; i++) {
		struct pending_conn *c = &p->conns[i];

		convert(sk, sk->x->pending[i], c);
		c->at = p->used;
		if (c->n)
			memcpy(p->bytes + c->at, sk->x->pending[i]->in_queue.data, c->n);
		p->used += c->n;
	}
	return r;
}

static int put_all(struct op *op, const struct pending_door *d, const struct inet_sk *sk)
{
	struct pending_turn t = { .listener = sk->f->fd, .n = sk->x->n_pending };
	_cleanup_(pending_pool_free) struct pending_pool p = { 0 };
	socklen_t n = sizeof(t.ifindex);
	int r = fill_pool(op, sk, &p);

	if (r)
		return r;
	if (getsockopt(t.listener, SOL_SOCKET, SO_BINDTOIFINDEX, &t.ifindex, &n) < 0)
		t.ifindex = 0;
	t.conns = p.conns;
	r = pending_turn_run(op, d, &p, &t);
	if (r || t.done == t.n)
		return r;
	return op_fail(op, CKPT_E_KERNEL, AT(.kind = "TCP socket", .hint = "drop those that wait with --skip-in-flight"),
		       "%s: the connection from %s, which was not accepted yet, cannot be put back: cannot %s: %s", inet_what(op, sk),
		       inet_addr_text(op, &t.conns[t.done].peer), t.fault.step, strerror(t.fault.err));
}

int pending_make(struct op *op, const struct inet_state *is)
{
	struct pending_door d = PENDING_DOOR_INIT;
	const struct inet_sk *first = NULL;
	const char *why;
	int r;

	for (size_t i = 0; i < is->socks.n && !first; i++)
		first = wanted(op, is->socks.v[i]) ? is->socks.v[i] : NULL;
	if (!first)
		return 0;
	r = pending_door_open(op, &d, &why);
	if (r > 0)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "TCP socket", .hint = "drop them with --skip-in-flight"),
			       "%s: they cannot be put back: %s", phrase(op, first), why);
	for (size_t i = 0; !r && i < is->socks.n; i++)
		if (wanted(op, is->socks.v[i]))
			r = put_all(op, &d, is->socks.v[i]);
	pending_door_close(&d);
	return r;
}

void pending_silence(const struct inet_state *is)
{
	for (size_t i = 0; i < is->socks.n; i++) {
		const struct inet_sk *sk = is->socks.v[i];

		if (!sk->x || !sk->x->n_pending || sk->given)
			continue;
		close_fd_p(&sk->f->fd);
		sk->f->fd = -1;
	}
}
