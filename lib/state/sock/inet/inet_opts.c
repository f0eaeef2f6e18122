/* SPDX-License-Identifier: MIT */
/* Options of the levels above SOL_SOCKET. Those that the format knows go to its fields. */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet/inet.h"

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
	if (get(v->copy, IPPROTO_TCP, TCP_CORK, &value) == 0 && value)
		msg_set(t, cork, true);
	if (get(v->copy, IPPROTO_TCP, TCP_NODELAY, &value) == 0 && value)
		msg_set(t, nodelay, true);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPCNT, &value) == 0)
		msg_set(t, keepcnt, (uint32_t)value);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPIDLE, &value) == 0)
		msg_set(t, keepidle, (uint32_t)value);
	if (get(v->copy, IPPROTO_TCP, TCP_KEEPINTVL, &value) == 0)
		msg_set(t, keepintvl, (uint32_t)value);
	return 0;
}

/* What only raw sockets have. A filter that lets all pass is that of a new one. */
static int dump_raw(struct op *op, const struct fd_view *v, const InetSkEntry *m, IpOptsEntry *o)
{
	bool six = m->family == AF_INET6;
	IpOptsRawEntry *raw = o->raw = msg_new(op, IpOptsRawEntry, ip_opts_raw_entry);
	uint32_t filter[8] = { 0 };
	socklen_t n = sizeof(filter);
	int value;

	if (!raw)
		return CKPT_E_NOMEM;
	if (get(v->copy, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_HDRINCL : IP_HDRINCL, &value) == 0)
		msg_set(raw, hdrincl, value != 0);
	if (!six && get(v->copy, IPPROTO_IP, IP_NODEFRAG, &value) == 0)
		msg_set(raw, nodefrag, value != 0);
	if (!six && get(v->copy, IPPROTO_IP, IP_CHECKSUM, &value) == 0)
		msg_set(raw, checksum, value != 0);
	if (m->proto != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP) ||
	    getsockopt(v->copy, six ? IPPROTO_ICMPV6 : SOL_RAW, six ? ICMPV6_FILTER : ICMP_FILTER, filter, &n) < 0)
		return 0;
	raw->n_icmpv_filter = n / sizeof(*filter);
	raw->icmpv_filter = arena_memdup(op->arena, filter, n);
	return raw->icmpv_filter ? 0 : op_nomem(op);
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
	if (get(v->copy, IPPROTO_IP, IP_TOS, &value) == 0 && value)
		msg_set(o, tos, (uint32_t)value);
	if (get(v->copy, IPPROTO_IP, IP_TTL, &value) == 0)
		msg_set(o, ttl, (uint32_t)value);
	if (six && get(v->copy, IPPROTO_IPV6, IPV6_V6ONLY, &value) == 0)
		msg_set(m, v6only, value != 0);
	return m->type == SOCK_RAW ? dump_raw(op, v, m, o) : 0;
}

/* What an option does, and nobody can read. */
static int check_udp(struct op *op, const struct fd_view *v, const char *kind)
{
	int value, queued = 0;

	if (get(v->copy, IPPROTO_UDP, UDP_ENCAP, &value) == 0 && value && value != UDP_ENCAP_ESPINUDP)
		return file_refuse(op, v, kind, "end the tunnel before the checkpoint",
				   "it carries a tunnel of the kernel's (UDP_ENCAP %d)", value);
	if (ioctl(v->copy, SIOCOUTQ, &queued) < 0 || !queued)
		return 0;
	if (get(v->copy, IPPROTO_UDP, UDP_CORK, &value) == 0 && value)
		return file_refuse(op, v, kind, "take UDP_CORK off before the checkpoint",
				   "a datagram that is not complete is held back in it (UDP_CORK)");
	log_warn(op, "pid %d: fd %d: %s: %d bytes are on their way out; if they begin a datagram (MSG_MORE), they are lost",
		 v->pid, v->fd, kind, queued);
	return 0;
}

/* A router of multicasts is one through a socket like this; which one it is, the kernel does not tell. */
static int check_raw(struct op *op, const struct fd_view *v, const InetSkEntry *m, const char *kind)
{
	bool six = m->family == AF_INET6;
	const char *path = six ? "/proc/sys/net/ipv6/conf/all/mc_forwarding" : "/proc/sys/net/ipv4/conf/all/mc_forwarding";
	_cleanup_close_ int fd = -1;
	char digit = '0';
	int value;

	if (six && m->proto == IPPROTO_RAW && get(v->copy, IPPROTO_IPV6, IPV6_ROUTER_ALERT, &value) == 0 && value)
		return file_refuse(op, v, kind, NULL,
				   "it takes packets with a router alert (IPV6_ROUTER_ALERT), but not told which");
	if (m->proto != (six ? IPPROTO_ICMPV6 : IPPROTO_IGMP))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, &digit, 1) != 1 || digit == '0')
		return 0;
	return file_refuse(op, v, kind, "end the multicast router before the checkpoint",
			   "multicasts are routed in this network namespace, maybe by this socket");
}

int inet_options_check(struct op *op, const struct fd_view *v, const InetSkEntry *m)
{
	const char *kind = inet_kind_name(m->family, m->type, m->proto);

	if (m->type == SOCK_RAW)
		return check_raw(op, v, m, kind);
	return m->proto == IPPROTO_UDP || m->proto == IPPROTO_UDPLITE ? check_udp(op, v, kind) : 0;
}

int inet_options_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct inet_seen *u)
{
	struct sock_options o = { 0 };
	struct inet_state *is = inet_state(op, s);
	const struct file_key *key = KEY(u->msg->family, u->msg->type << 16 | u->msg->proto);
	struct sock_fresh *fresh = index_find(&is->fresh, key), *known = fresh;
	int r;

	/* Those of a connection that is closed tell what it was like. */
	o.connected = u->msg->state != INET_LISTEN && (u->msg->state != INET_CLOSE || u->msg->dst_port);
	r = sock_options_dump(op, v, &fresh, &o);
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
	/* Before the device: bound to it, it could not have some of them. */
	if (!r && sk->x)
		r = sock_options_prepare(op, sk->f->fd, sk->x->options, sk->x->n_options, inet_what(op, sk));
	if (!r && o->so_bound_dev && *o->so_bound_dev &&
	    setsockopt(sk->f->fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)strlen(o->so_bound_dev)) < 0)
		r = op_errno(op, errno, AT(.kind = "socket", .hint = "the device must be there"), "%s: cannot bind it to device %s",
			     inet_what(op, sk), o->so_bound_dev);
	return r;
}

#define APPLY(level, field, has, option)                                                 \
	if (!r && (has))                                                                \
		r = set(op, sk, level, option, (int)(field), #option)

static int apply_raw(struct op *op, const struct inet_sk *sk, const IpOptsRawEntry *raw)
{
	bool six = sk->m->family == AF_INET6;
	int r = 0;

	APPLY(six ? IPPROTO_IPV6 : IPPROTO_IP, raw->hdrincl, raw->has_hdrincl, (six ? IPV6_HDRINCL : IP_HDRINCL));
	APPLY(IPPROTO_IP, raw->nodefrag, !six && raw->has_nodefrag, IP_NODEFRAG);
	APPLY(IPPROTO_IP, raw->checksum, !six && raw->has_checksum, IP_CHECKSUM);
	if (r || !raw->n_icmpv_filter)
		return r;
	if (sk->m->proto != (six ? IPPROTO_ICMPV6 : IPPROTO_ICMP) || raw->n_icmpv_filter != (six ? 8 : 1))
		return image_bad(op, "files.img: %s: its ICMP filter is none", inet_what(op, sk));
	if (setsockopt(sk->f->fd, six ? IPPROTO_ICMPV6 : SOL_RAW, six ? ICMPV6_FILTER : ICMP_FILTER, raw->icmpv_filter,
		       (socklen_t)(raw->n_icmpv_filter * sizeof(*raw->icmpv_filter))) < 0)
		return inet_sys(op, sk, "set its ICMP filter");
	return 0;
}

/* An IPv6 socket that is raw has no options of IPv4. SO_PRIORITY follows IP_TOS, unless it is set after it. */
static int apply_last(struct op *op, const struct inet_sk *sk)
{
	const IpOptsEntry *o = sk->m->ip_opts;
	const TcpOptsEntry *t = sk->m->tcp_opts;
	bool six = sk->m->family == AF_INET6, four = !six || sk->m->type != SOCK_RAW;
	int r = 0;

	APPLY(six ? IPPROTO_IPV6 : IPPROTO_IP, o->pktinfo, o && o->has_pktinfo, (six ? IPV6_RECVPKTINFO : IP_PKTINFO));
	APPLY(IPPROTO_IP, o->tos, four && o && o->has_tos, IP_TOS);
	APPLY(IPPROTO_IP, o->ttl, four && o && o->has_ttl, IP_TTL);
	APPLY(IPPROTO_TCP, t->nodelay, t && t->has_nodelay, TCP_NODELAY);
	APPLY(IPPROTO_TCP, t->cork, t && t->has_cork, TCP_CORK);
	APPLY(IPPROTO_TCP, t->keepcnt, t && t->has_keepcnt, TCP_KEEPCNT);
	APPLY(IPPROTO_TCP, t->keepidle, t && t->has_keepidle, TCP_KEEPIDLE);
	APPLY(IPPROTO_TCP, t->keepintvl, t && t->has_keepintvl, TCP_KEEPINTVL);
	if (!r && o && o->raw && sk->m->type == SOCK_RAW)
		r = apply_raw(op, sk, o->raw);
	return r ?: sock_options_apply(op, sk->f->fd, sk->m->opts, sk->x ? sk->x->options : NULL, sk->x ? sk->x->n_options : 0,
				       inet_what(op, sk));
}

int inet_options_apply(struct op *op, const struct inet_sk *sk, enum inet_when when)
{
	return when == INET_BEFORE_BIND ? before_bind(op, sk) : apply_last(op, sk);
}
