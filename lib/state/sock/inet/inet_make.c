/* SPDX-License-Identifier: MIT */
/*
 * Restore of IPv4 and IPv6 sockets, all of them at once and before any task exists, because the order counts: what is only
 * bound, then what listens, then connections.
 */
#include "lib/state/net/net.h"
#include "lib/state/sock/tcp/pending.h"
#include "lib/state/sock/tcp/tcp.h"

static int take_given(struct op *op, struct inet_sk *sk)
{
	char key[32];
	int given;

	snprintf(key, sizeof(key), "socket:[%u]", sk->m->ino);
	given = inherit_find(op, key);
	if (sock_family(given) != (int)sk->m->family || sock_get_int(given, SO_TYPE) != (int)sk->m->type)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "socket"),
			       "%s: descriptor %d, given by --inherit-fd, is no socket of its family and type", inet_what(op, sk),
			       given);
	sk->f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	return sk->f->fd < 0 ? inet_sys(op, sk, "copy the descriptor given for it") : 0;
}

/* Of its owner's, before it is bound: those who share a port must be of one user. */
static int make_socket(struct op *op, struct inet_sk *sk)
{
	const InetSkExtra *x = sk->x;

	if (sk->given)
		return take_given(op, sk);
	sk->f->fd = file_high(socket((int)sk->m->family, (int)sk->m->type | SOCK_CLOEXEC, (int)sk->m->proto));
	if (sk->f->fd < 0 && errno == EACCES && sk->m->type == SOCK_DGRAM)
		return op_errno(op, errno, AT(.kind = "socket", .hint = "a group of ours must be in net.ipv4.ping_group_range"),
				"%s: cannot make it", inet_what(op, sk));
	if (sk->f->fd < 0)
		return inet_sys(op, sk, "make it");
	if (x && x->has_mode && (fchown(sk->f->fd, x->uid, x->gid) < 0 || fchmod(sk->f->fd, x->mode & 07777) < 0))
		return inet_sys(op, sk, "set its owner and mode");
	return inet_options_apply(op, sk, INET_BEFORE_BIND) ?: datagrams_hold(op, sk);
}

/* In a network that is left empty, the addresses come later, from whoever fills it. */
static int bind_early(struct op *op, const struct inet_sk *sk)
{
	static const int on = 1, off = 0;
	int level = sk->local.any.sa_family == AF_INET6 ? SOL_IPV6 : SOL_IP;
	int name = level == SOL_IPV6 ? IPV6_FREEBIND : IP_FREEBIND, r, eno;

	if (op->opts->empty_ns != CKPT_EMPTY_NS_NET || setsockopt(sk->f->fd, level, name, &on, sizeof(on)) < 0) {
		errno = EADDRNOTAVAIL;
		return -1;
	}
	r = bind(sk->f->fd, &sk->local.any, inet_addr_len(&sk->local));
	eno = errno;
	setsockopt(sk->f->fd, level, name, &off, sizeof(off));
	errno = eno;
	return r;
}

int inet_bind(struct op *op, const struct inet_sk *sk)
{
	/* Neither address nor port, which is the protocol where it is raw: it was not bound. */
	if (inet_addr_is_any(&sk->local) && (!sk->m->src_port || sk->m->type == SOCK_RAW))
		return 0;
	if (bind(sk->f->fd, &sk->local.any, inet_addr_len(&sk->local)) == 0 || (errno == EADDRNOTAVAIL && bind_early(op, sk) == 0))
		return 0;
	return inet_cannot_bind(op, sk, errno);
}

static bool is_listener(const struct inet_sk *sk)
{
	return sk->m->state == INET_LISTEN;
}

/* Those of one port in the order of the images: groups of SO_REUSEPORT have one. */
static int bind_all(struct op *op, const struct inet_state *is)
{
	int r = 0;

	for (size_t i = 0; !r && i < is->socks.n; i++) {
		const struct inet_sk *sk = is->socks.v[i];

		if (sk->given || sk->stream || sk->closed_instead)
			continue;
		r = inet_bind(op, sk) ?: datagrams_fill(op, sk);
		if (!r && sk->m->type != SOCK_STREAM && sk->m->state == INET_ESTABLISHED &&
		    connect(sk->f->fd, &sk->peer.any, inet_addr_len(&sk->peer)) < 0)
			r = inet_cannot_connect(op, sk, errno);
	}
	return r;
}

static void tuple_of(const struct inet_sk *sk, struct netlock_tuple *t)
{
	union inet_addr local, peer;

	inet_addr_on_wire(&sk->local, &local);
	inet_addr_on_wire(&sk->peer, &peer);
	*t = (struct netlock_tuple){ .family = peer.any.sa_family, .local_port = inet_addr_port(&local),
				     .peer_port = inet_addr_port(&peer) };
	if (t->family == AF_INET6) {
		t->local.v6 = local.v6.sin6_addr;
		t->peer.v6 = peer.v6.sin6_addr;
	} else {
		t->local.v4 = local.v4.sin_addr;
		t->peer.v4 = peer.v4.sin_addr;
	}
}

/* Until they are what they were, no packet reaches the connections, or comes from them. */
static int hold_back(struct op *op, struct snapshot *s, struct inet_state *is)
{
	netlock_tuples tuples = { 0 };
	int r = 0;

	for (size_t i = 0; !r && i < is->socks.n; i++) {
		struct netlock_tuple *t;

		if (ns_own(s, NS_NET) && (r = inet_set_scope(op, is->socks.v[i])))
			return r;
		t = is->socks.v[i]->stream ? ARRAY_ADD(op->arena, &tuples) : NULL;

		if (t)
			tuple_of(is->socks.v[i], t);
		else if (is->socks.v[i]->stream)
			return op_nomem(op);
		r = pending_tuples(op, is->socks.v[i], &tuples);
	}
	r = r ?: netlock_adopt(op, s, tuples.v, tuples.n, &is->held);
	if (!r)
		net_open(s);
	return r;
}

/* What a connection has of it says its state; only that it reads no more does not show there. */
static int shut_down(struct op *op, const struct inet_sk *sk)
{
	const InetSkEntry *m = sk->m;
	bool reads = m->has_shutdown && (m->shutdown == SK_SHUTDOWN__READ || m->shutdown == SK_SHUTDOWN__BOTH);

	if (!m->has_shutdown || !m->shutdown || sk->closed_instead || (sk->stream && (!reads || sk->shape.fin_in)))
		return 0;
	/* Of one without a peer the kernel notes it, and says that it has none. */
	if (shutdown(sk->f->fd, sk->stream ? SHUT_RD : (int)m->shutdown - 1) == 0 || errno == ENOTCONN)
		return 0;
	return inet_sys(op, sk, "shut it down");
}

/* At a port that what it has accepted has, too: while all of them may share it, which what is set in the end takes away. */
static int start_listening(struct op *op, const struct inet_sk *sk)
{
	const int on = 1;
	int r = inet_options_apply(op, sk, INET_LAST);

	if (r)
		return r;
	if (setsockopt(sk->f->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return inet_sys(op, sk, "set SO_REUSEADDR");
	if (listen(sk->f->fd, (int)sk->m->backlog) < 0)
		return errno == EADDRINUSE ? inet_cannot_bind(op, sk, errno) : inet_sys(op, sk, "listen");
	return 0;
}

static int finish(struct op *op, const struct inet_sk *sk)
{
	const SkOptsEntry *o = sk->m->opts;
	const int reuse = o->has_reuseaddr && o->reuseaddr;
	int r = is_listener(sk) ? 0 : inet_options_apply(op, sk, INET_LAST) ?: multicast_join(op, sk);

	if (is_listener(sk) && setsockopt(sk->f->fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) < 0)
		r = inet_sys(op, sk, "set SO_REUSEADDR");
	r = r ?: shut_down(op, sk);
	return r ?: file_set_flags(sk->f->fd, sk->m->flags) < 0 ? inet_sys(op, sk, "set its flags") : 0;
}

static int make_all(struct op *op, struct snapshot *s, struct inet_state *is)
{
	int r = 0;

	for (size_t i = 0; !r && i < is->socks.n; i++)
		r = make_socket(op, is->socks.v[i]);
	r = r ?: bind_all(op, is);
	r = r ?: tcp_prepare_all(op, is);
	r = r ?: hold_back(op, s, is);
	r = r ?: tcp_make_all(op, is);
	for (size_t i = 0; !r && i < is->socks.n; i++)
		if (!is->socks.v[i]->given && is_listener(is->socks.v[i]))
			r = start_listening(op, is->socks.v[i]);
	for (size_t i = 0; !r && i < is->socks.n; i++)
		if (!is->socks.v[i]->given)
			r = finish(op, is->socks.v[i]);
	return r ?: pending_make(op, is);
}

int inet_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	struct inet_state *is = inet_state(op, s);
	int r;

	if (!is)
		return CKPT_E_NOMEM;
	r = is->made ? 0 : make_all(op, s, is);
	is->made = true;
	if (!r && f->fd < 0)
		r = image_bad(op, "files.img: socket id %u was not made", f->id);
	return r;
}

/* The connections are themselves again, but still no packet passes. */
int inet_settle(struct op *op, struct snapshot *s)
{
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	return is && is->made ? tcp_settle(op, is) : 0;
}

/*
 * If we are killed before packets pass, the tree must end with us, so that no peer hears of it and another restore can be made;
 * afterwards it must not. Hence the lock goes as soon as the tree would live on, and before it runs, so that nothing that it says
 * is lost in it. Peers are told when it runs.
 */
int inet_open_up(struct op *op, struct snapshot *s)
{
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	if (!is || !is->made)
		return 0;
	netlock_done(op, &is->held, true);
	return tcp_open_up(op, is);
}

void inet_restore_done(struct op *op, struct snapshot *s, bool success)
{
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	if (!is || !is->made)
		return;
	if (success) {
		tcp_speak(is);
		return;
	}
	/* Behind the lock, which the dump's may stay. */
	tcp_silence(is);
	pending_silence(is);
	netlock_done(op, &is->held, false);
}
