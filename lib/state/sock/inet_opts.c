/* SPDX-License-Identifier: MIT */
/* Options of the levels above SOL_SOCKET. Those that the format knows go to its fields. */
#include <netinet/tcp.h>

#include "lib/state/sock/inet.h"

static int get(int fd, int level, int name, int *value)
{
	socklen_t n = sizeof(*value);

	*value = 0;
	return getsockopt(fd, level, name, value, &n);
}

static int dump_tcp(struct op *op, const struct fd_view *v, InetSkEntry *m)
{
	TcpOptsEntry *t = m->tcp_opts = msg_new(op, TcpOptsEntry, tcp_opts_entry);
	int value;

	if (!t)
		return CKPT_E_NOMEM;
	if (get(v->copy, IPPROTO_TCP, TCP_CORK, &value) == 0)
		msg_set(t, cork, value != 0);
	if (get(v->copy, IPPROTO_TCP, TCP_NODELAY, &value) == 0)
		msg_set(t, nodelay, value != 0);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPCNT, &value) == 0)
		msg_set(t, keepcnt, (uint32_t)value);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPIDLE, &value) == 0)
		msg_set(t, keepidle, (uint32_t)value);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPINTVL, &value) == 0)
		msg_set(t, keepintvl, (uint32_t)value);
	return 0;
}

static int dump_ip(struct op *op, const struct fd_view *v, InetSkEntry *m)
{
	IpOptsEntry *o = m->ip_opts = msg_new(op, IpOptsEntry, ip_opts_entry);
	bool six = m->family == AF_INET6;
	int value;

	if (!o)
		return CKPT_E_NOMEM;
	if (get(v->copy, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_FREEBIND : IP_FREEBIND, &value) == 0 && value)
		msg_set(o, freebind, true);
	if (get(v->copy, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVPKTINFO : IP_PKTINFO, &value) == 0 && value)
		msg_set(o, pktinfo, true);
	if (get(v->copy, IPPROTO_IP, IP_TOS, &value) == 0)
		msg_set(o, tos, (uint32_t)value);
	if (get(v->copy, IPPROTO_IP, IP_TTL, &value) == 0)
		msg_set(o, ttl, (uint32_t)value);
	if (six && get(v->copy, IPPROTO_IPV6, IPV6_V6ONLY, &value) == 0)
		msg_set(m, v6only, value != 0);
	return 0;
}

int inet_options_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct inet_seen *u)
{
	struct sock_options o = { 0 };
	struct inet_state *is = inet_state(op, s);
	const struct file_key *key = KEY(u->msg->family, u->msg->type << 16 | u->msg->proto);
	struct sock_fresh *fresh = index_find(&is->fresh, key), *known = fresh;
	int r = sock_options_dump(op, v, &fresh, &o);

	if (!r && !known)
		r = index_add(op, &is->fresh, key, fresh);
	u->msg->opts = o.opts;
	u->extra->options = o.more.v;
	u->extra->n_options = o.more.n;
	u->noted = u->noted || o.more.n;
	r = r ?: dump_ip(op, v, u->msg);
	return r ?: inet_is_tcp(u->msg->type, u->msg->proto) ? dump_tcp(op, v, u->msg) : 0;
}

/* ---------------------------------------------------------------------------------------------------- restore */

static int set(struct op *op, const struct inet_sk *sk, int level, int name, int value, const char *what)
{
	int now;

	if (get(sk->f->fd, level, name, &now) == 0 && now == value)
		return 0;
	if (setsockopt(sk->f->fd, level, name, &value, sizeof(value)) == 0)
		return 0;
	return op_errno(op, errno, AT(.kind = "socket"), "%s: cannot set %s", inet_what(op, sk), what);
}

/* Whether it may share its address is said in the end: until then it may, so that the order does not count. */
static int before_bind(struct op *op, const struct inet_sk *sk)
{
	const SkOptsEntry *o = sk->m->opts;
	bool six = sk->m->family == AF_INET6;
	int r = sk->m->type == SOCK_RAW ? 0 : set(op, sk, SOL_SOCKET, SO_REUSEADDR, 1, "SO_REUSEADDR");

	if (!r && o->has_so_reuseport && o->so_reuseport)
		r = set(op, sk, SOL_SOCKET, SO_REUSEPORT, 1, "SO_REUSEPORT");
	if (!r && six && sk->m->has_v6only)
		r = set(op, sk, IPPROTO_IPV6, IPV6_V6ONLY, sk->m->v6only, "IPV6_V6ONLY");
	if (!r && sk->m->ip_opts && sk->m->ip_opts->has_freebind && sk->m->ip_opts->freebind)
		r = set(op, sk, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_FREEBIND : IP_FREEBIND, 1, "IP_FREEBIND");
	if (!r && o->so_bound_dev && *o->so_bound_dev &&
	    setsockopt(sk->f->fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)strlen(o->so_bound_dev)) < 0)
		r = op_errno(op, errno, AT(.kind = "socket", .hint = "the device must be there"), "%s: cannot bind it to device %s",
			     inet_what(op, sk), o->so_bound_dev);
	return r;
}

#define APPLY(level, field, has, option)                                                 \
	if (!r && (has))                                                                \
		r = set(op, sk, level, option, (int)(field), #option)

static int apply_last(struct op *op, const struct inet_sk *sk)
{
	const IpOptsEntry *o = sk->m->ip_opts;
	const TcpOptsEntry *t = sk->m->tcp_opts;
	bool six = sk->m->family == AF_INET6;
	int r = sock_options_apply(op, sk->f->fd, sk->m->opts, sk->x ? sk->x->options : NULL, sk->x ? sk->x->n_options : 0,
				   inet_what(op, sk));

	APPLY(six ? IPPROTO_IPV6 : IPPROTO_IP, o->pktinfo, o && o->has_pktinfo, (six ? IPV6_RECVPKTINFO : IP_PKTINFO));
	APPLY(IPPROTO_IP, o->tos, o && o->has_tos, IP_TOS);
	APPLY(IPPROTO_IP, o->ttl, o && o->has_ttl, IP_TTL);
	APPLY(IPPROTO_TCP, t->nodelay, t && t->has_nodelay, TCP_NODELAY);
	APPLY(IPPROTO_TCP, t->cork, t && t->has_cork, TCP_CORK);
	APPLY(IPPROTO_TCP, t->keepcnt, t && t->has_keepcnt, TCP_KEEPCNT);
	APPLY(IPPROTO_TCP, t->keepidle, t && t->has_keepidle, TCP_KEEPIDLE);
	APPLY(IPPROTO_TCP, t->keepintvl, t && t->has_keepintvl, TCP_KEEPINTVL);
	return r;
}

int inet_options_apply(struct op *op, const struct inet_sk *sk, enum inet_when when)
{
	return when == INET_BEFORE_BIND ? before_bind(op, sk) : apply_last(op, sk);
}
