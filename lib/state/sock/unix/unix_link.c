/* SPDX-License-Identifier: MIT */
/*
 * How each socket will come to be: by socket(), with its peer by socketpair(), or by being accepted. The images name peers
 * only; who was accepted follows from the names. Where the other end or the listener is gone, one is made up: it says what
 * is queued, and is closed in the end.
 */
#include "lib/state/sock/unix/unix.h"

static bool connection(const struct unix_sk *sk)
{
	return sk->m->type != SOCK_DGRAM;
}

/* A text to look names up by; the NULs of abstract ones are made visible. */
static const char *name_key(struct op *op, const ProtobufCBinaryData *name)
{
	char *text = op_alloc(op, 2 * name->len + 1);

	for (size_t i = 0; text && i < name->len; i++)
		snprintf(text + 2 * i, 3, "%02x", name->data[i]);
	return text;
}

/* The listener of that name. */
static struct unix_sk *listener_named(struct op *op, const struct unix_state *us, uint32_t type, const ProtobufCBinaryData *name)
{
	const char *key = name_key(op, name);

	return key ? index_find(&us->listeners, KEY(type, 0, key)) : NULL;
}

static int index_listeners(struct op *op, struct unix_state *us)
{
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];
		const char *key = sk->m->state == UNIX_LISTEN && !sk->outside ? name_key(op, &sk->m->name) : NULL;
		int r = 0;

		if (key && !index_find(&us->listeners, KEY(sk->m->type, 0, key)))
			r = index_add(op, &us->listeners, KEY(sk->m->type, 0, key), sk);
		if (r)
			return r;
	}
	return 0;
}

/* A socket that is in no image. @name may be NULL. */
static struct unix_sk *make_up(struct op *op, struct unix_state *us, uint32_t type, uint32_t state,
			       const ProtobufCBinaryData *name, PeerCred *cred)
{
	struct unix_sk *sk = op_new(op, struct unix_sk), **slot;
	UnixSkEntry *m = msg_new(op, UnixSkEntry, unix_sk_entry);
	UnixSkExtra *x = msg_new(op, UnixSkExtra, unix_sk_extra);

	slot = sk && m && x ? ARRAY_ADD(op->arena, &us->socks) : NULL;
	sk = slot ? sk : NULL;
	if (sk)
		sk->f = op_new(op, struct snap_file);
	if (!sk || !sk->f) {
		if (slot)
			us->socks.n--;
		op_nomem(op);
		return NULL;
	}
	*slot = sk;
	sk->f->fd = sk->file = -1;
	m->type = type;
	m->state = state;
	if (name)
		m->name = *name;
	msg_set(m, deleted, 1);
	x->peer = cred;
	sk->m = m;
	sk->x = x;
	sk->fake = true;
	return sk;
}

static PeerCred *peer_of(const struct unix_sk *sk)
{
	return sk->x ? sk->x->peer : NULL;
}

/* ---------------------------------------------------------------------------------------------------- connections */

/* Which of two ends with names was accepted: the one that has a listener's. */
static bool second_accepted(struct op *op, const struct unix_state *us, const struct unix_sk *a, const struct unix_sk *b)
{
	bool la, lb;

	if (!a->m->name.len || !b->m->name.len)
		return b->m->name.len;
	la = listener_named(op, us, a->m->type, &a->m->name);
	lb = listener_named(op, us, b->m->type, &b->m->name);
	if (la != lb)
		return lb;
	return b->fake || (!a->fake && b->m->ino > a->m->ino);
}

static int link_pair(struct op *op, struct unix_state *us, struct unix_sk *a, struct unix_sk *b)
{
	struct unix_sk *accepted, *client;

	if (!a->m->name.len && !b->m->name.len) {
		a->partner = b;
		b->partner = a;
		return 0;
	}
	accepted = second_accepted(op, us, a, b) ? b : a;
	client = accepted == a ? b : a;
	accepted->listener = listener_named(op, us, accepted->m->type, &accepted->m->name);
	accepted->accepted = true;
	if (!accepted->listener)
		accepted->listener = make_up(op, us, accepted->m->type, UNIX_LISTEN, &accepted->m->name, peer_of(client));
	return accepted->listener ? 0 : CKPT_E_NOMEM;
}

/* Its peer is gone: one is made up, with the name that it had. */
static int link_half(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	const ProtobufCBinaryData *name = sk->x && sk->x->has_peer_name ? &sk->x->peer_name : NULL;
	struct unix_sk *gone = make_up(op, us, sk->m->type, UNIX_ESTABLISHED, name, peer_of(sk));

	if (!gone)
		return CKPT_E_NOMEM;
	sk->peer = gone;
	gone->peer = connection(sk) ? sk : NULL;
	return connection(sk) ? link_pair(op, us, sk, gone) : 0;
}

static int link_connection(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	if (sk->m->state != UNIX_ESTABLISHED || sk->partner || sk->accepted || sk->waiting)
		return 0;
	if (!sk->m->peer)
		return link_half(op, us, sk);
	if (sk->peer && sk->peer->m->state == UNIX_LISTEN && !sk->peer->outside) {
		sk->waiting = true;
		sk->listener = sk->peer;
		return 0;
	}
	if (!sk->peer || sk->peer->outside)
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.kind = "unix socket", .hint = "--inherit-fd fd[N]:socket:[INODE] gives a connection from outside"),
			       "%s: the other end of its connection (%u) is not in the checkpoint", unix_what(op, sk), sk->m->peer);
	if (sk->peer == sk || sk->peer->peer != sk || sk->peer->m->type != sk->m->type || sk->peer->m->state != UNIX_ESTABLISHED)
		return image_bad(op, "files.img: unix socket id %u is connected to one that is not connected to it", sk->m->id);
	return sk->peer->accepted || sk->peer->partner ? 0 : link_pair(op, us, sk, sk->peer);
}

/* ----------------------------------------------------------------------------------------------------- datagrams */

/* Only socketpair() connects to a socket without a name, and only it leaves credentials. */
static int link_datagrams(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	struct unix_sk *peer;
	int r = 0;

	if (sk->m->peer && !sk->peer)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "unix socket"),
			       "%s: its peer (%u) is not in the checkpoint", unix_what(op, sk), sk->m->peer);
	if (sk->x && sk->x->has_peer_gone && sk->x->peer_gone && !sk->peer)
		r = link_half(op, us, sk);
	if (r || sk->partner)
		return r;
	peer = sk->peer;
	if (peer && (peer->m->type != SOCK_DGRAM || peer == sk) && !peer->outside)
		return peer == sk ? 0 : image_bad(op, "files.img: unix socket id %u has a peer of another type", sk->m->id);
	if (peer && !peer->outside && !peer->partner && (!peer->m->name.len || (peer_of(sk) && (peer_of(peer) || peer->fake)))) {
		sk->partner = peer;
		peer->partner = sk;
		if (peer->fake)
			peer->peer = sk;
	} else if (peer && !peer->outside && !peer->m->name.len) {
		return image_bad(op, "files.img: unix socket id %u: its peer has no name, and another peer", sk->m->id);
	}
	return 0;
}

/* Credentials of a pair whose other end is gone, or is connected elsewhere. */
static int link_lost_partner(struct op *op, struct unix_state *us, struct unix_sk *sk)
{
	struct unix_sk *gone;

	if (sk->partner || !peer_of(sk) || sk->fake)
		return 0;
	gone = make_up(op, us, SOCK_DGRAM, UNIX_ESTABLISHED, NULL, NULL);
	if (!gone)
		return CKPT_E_NOMEM;
	sk->partner = gone;
	gone->partner = sk;
	return 0;
}

/* Senders of queued datagrams, by their addresses. Those that are not there any more are made up. */
static int link_senders(struct op *op, struct unix_state *us, struct file_index *senders, struct unix_sk *sk)
{
	for (size_t i = 0; i < sk->queue.n; i++) {
		struct unix_packet *p = sk->queue.v[i];
		const char *key;
		int r;

		p->sender = sk->peer && !sk->peer->outside ? sk->peer : NULL;
		if (!p->extra || !p->extra->has_from)
			continue;
		key = name_key(op, &p->extra->from);
		if (!key)
			return CKPT_E_NOMEM;
		p->sender = index_find(senders, KEY(0, 0, key));
		if (p->sender)
			continue;
		p->sender = make_up(op, us, SOCK_DGRAM, UNIX_CLOSE, &p->extra->from, NULL);
		r = p->sender ? index_add(op, senders, KEY(0, 0, key), p->sender) : CKPT_E_NOMEM;
		if (r)
			return r;
	}
	return 0;
}

static int index_senders(struct op *op, struct unix_state *us, struct file_index *senders)
{
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];
		const char *key;

		if (connection(sk) || sk->outside || !sk->m->name.len)
			continue;
		key = name_key(op, &sk->m->name);
		if (!key)
			return CKPT_E_NOMEM;
		if (!index_find(senders, KEY(0, 0, key)) && index_add(op, senders, KEY(0, 0, key), sk))
			return CKPT_E_NOMEM;
	}
	return 0;
}

static int check_pending(struct op *op, const struct unix_state *us, const struct unix_sk *listener)
{
	for (size_t i = 0; listener->x && i < listener->x->n_pending; i++) {
		const struct unix_sk *sk = index_find(&us->inodes, KEY(listener->x->pending[i]));

		if (!sk || !sk->waiting || sk->listener != listener)
			return image_bad(op, "ckpt-extra: unix socket id %u: %u does not wait to be accepted there",
					 listener->m->id, listener->x->pending[i]);
	}
	return 0;
}

int unix_link(struct op *op, struct unix_state *us)
{
	struct file_index senders = { 0 };
	size_t n = us->socks.n; /* those of the images */
	int r = index_listeners(op, us);

	for (size_t i = 0; i < n; i++)
		if (us->socks.v[i]->m->peer)
			us->socks.v[i]->peer = index_find(&us->inodes, KEY(us->socks.v[i]->m->peer));
	for (size_t i = 0; !r && i < n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!sk->outside)
			r = connection(sk) ? link_connection(op, us, sk) : link_datagrams(op, us, sk);
	}
	for (size_t i = 0; !r && i < n; i++)
		if (!us->socks.v[i]->outside)
			r = connection(us->socks.v[i]) ? check_pending(op, us, us->socks.v[i])
						       : link_lost_partner(op, us, us->socks.v[i]);
	r = r ? r : index_senders(op, us, &senders);
	for (size_t i = 0; !r && i < n; i++)
		if (!connection(us->socks.v[i]) && !us->socks.v[i]->outside)
			r = link_senders(op, us, &senders, us->socks.v[i]);
	return r;
}
