/* SPDX-License-Identifier: MIT */
/*
 * Restore of datagrams that waited in a socket: they are sent to it again over the loopback device, from whom they came.
 * Nothing else may come in between, so until they are in, the socket takes only what has our mark. Where others share its port, it
 * is connected to the sender for the moment, so that nobody else gets it. Whether it came in is seen.
 */
#include <linux/filter.h>
#include <net/if.h>
#include <time.h>

#include "lib/kernel/proc/read.h"
#include "lib/state/sock/inet/inject.h"
#include "lib/state/sock/netlock/netlock.h"

#define DATA_MAX 65535u
#define ROOM (64 << 20)
#define WAIT_MS 50
#define HOPS 64

struct fill {
	struct op *op;
	const struct inet_sk *sk;
	struct inject_out *out;
	bool shared;  /* others have its port */
	bool aimed;   /* it is connected for the moment */
	size_t lost;
};

/* -------------------------------------------------------------------------------------------------- the images */

static bool get_from(const struct inet_sk *sk, const DatagramEntry *d, union inet_addr *ret)
{
	size_t n = sk->m->family == AF_INET6 ? sizeof(ret->v6) : sizeof(ret->v4);

	if (!d->has_from || d->from.len != n)
		return false;
	*ret = (union inet_addr){ 0 };
	memcpy(ret, d->from.data, n);
	return ret->any.sa_family == sk->m->family;
}

int datagrams_read(struct op *op, const struct inet_sk *sk)
{
	union inet_addr from;

	if (!sk->x || !sk->x->n_queue)
		return 0;
	if (sk->m->type != SOCK_DGRAM || (sk->m->proto != IPPROTO_UDP && sk->m->proto != IPPROTO_UDPLITE) || !sk->m->src_port)
		return image_bad(op, "ckpt-extra: %s: there cannot be datagrams in it", inet_what(op, sk));
	for (size_t i = 0; i < sk->x->n_queue; i++) {
		const DatagramEntry *d = sk->x->queue[i];

		if (!get_from(sk, d, &from) || d->data.len > DATA_MAX || d->tos > UINT8_MAX || d->ttl > UINT8_MAX ||
		    (d->has_to && d->to.len != (sk->m->family == AF_INET6 ? 16 : 4)))
			return image_bad(op, "ckpt-extra: %s: datagram %zu in it is none", inet_what(op, sk), i);
	}
	return 0;
}

/* --------------------------------------------------------------------------------------- before it has an address */

int datagrams_hold(struct op *op, const struct inet_sk *sk)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_AD_OFF + SKF_AD_MARK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NETLOCK_MARK, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	const struct sock_fprog prog = { ARRAY_SIZE(code), code };
	const IpOptsEntry *o = sk->m->ip_opts;
	bool six = sk->m->family == AF_INET6;
	int fd = sk->f->fd;

	if (!sk->x || !sk->x->n_queue)
		return 0;
	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &(int){ ROOM }, sizeof(int)) < 0)
		return inet_sys(op, sk, "prepare it for what waits in it");
	/* It counts when something comes in. */
	if (o && o->has_pktinfo && o->pktinfo &&
	    setsockopt(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVPKTINFO : IP_PKTINFO, &(int){ 1 }, sizeof(int)) < 0)
		return inet_sys(op, sk, "set IP_PKTINFO");
	return 0;
}

/* ------------------------------------------------------------------------------------------------- one datagram */

static uint32_t memory_of(int fd)
{
	uint32_t info[9] = { 0 };
	socklen_t n = sizeof(info);

	return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) < 0 ? 0 : info[0];
}

/* An address of this machine, and of it alone. */
static bool is_local(const union inet_addr *a)
{
	_cleanup_close_ int fd = socket(a->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	union inet_addr any_port = *a;

	if (a->any.sa_family == AF_INET6) {
		if (IN6_IS_ADDR_MULTICAST(&a->v6.sin6_addr) || IN6_IS_ADDR_LINKLOCAL(&a->v6.sin6_addr))
			return false;
		any_port.v6.sin6_port = 0;
	} else {
		if (IN_MULTICAST(ntohl(a->v4.sin_addr.s_addr)))
			return false;
		any_port.v4.sin_port = 0;
	}
	/* One of a network's broadcasts may be bound to, but only who asked for it may send there. */
	return fd >= 0 && bind(fd, &any_port.any, inet_addr_len(a)) == 0 && connect(fd, &a->any, inet_addr_len(a)) == 0;
}

static void set_port(union inet_addr *a, uint16_t port)
{
	if (a->any.sa_family == AF_INET6)
		a->v6.sin6_port = htons(port);
	else
		a->v4.sin_port = htons(port);
}

/* Where it was sent, if it can be sent there again; else to any address that the socket has. */
static bool choose_destination(const struct fill *f, const DatagramEntry *d, int family, union inet_addr *to)
{
	union inet_addr a = { .any.sa_family = (sa_family_t)f->sk->m->family }, own;
	socklen_t n = sizeof(own);
	uint16_t port = (uint16_t)f->sk->m->src_port;

	if (getsockname(f->sk->f->fd, &own.any, &n) < 0)
		return false;
	if (inet_addr_is_any(&own) && d->has_to) {
		memcpy(a.any.sa_family == AF_INET6 ? (void *)&a.v6.sin6_addr : &a.v4.sin_addr, d->to.data, d->to.len);
		set_port(&a, port);
		inet_addr_on_wire(&a, to);
		if (to->any.sa_family == family && is_local(to))
			return true;
	}
	if (!inet_addr_is_any(&own)) {
		inet_addr_on_wire(&own, to);
		return to->any.sa_family == family && is_local(to);
	}
	*to = (union inet_addr){ .any.sa_family = (sa_family_t)family };
	if (family == AF_INET6)
		to->v6.sin6_addr = in6addr_loopback;
	else
		to->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	set_port(to, port);
	return true;
}

/* Not for long if it seems that none comes in. */
static bool wait_for_more(const struct fill *f, uint32_t before)
{
	for (int i = 0; i <= (f->lost < 3 ? WAIT_MS : 1); i++) {
		const struct timespec ms = { 0, 1000000 };

		if (memory_of(f->sk->f->fd) > before)
			return true;
		nanosleep(&ms, NULL);
	}
	return false;
}

static bool put(struct fill *f, const DatagramEntry *d)
{
	union inet_addr from;
	struct inject x = {
		.proto = (uint8_t)f->sk->m->proto,
		.tos = (uint8_t)d->tos,
		.ttl = d->has_ttl && d->ttl ? (uint8_t)d->ttl : HOPS,
		.data = d->data.data,
		.n = d->data.len,
	};
	uint32_t before = memory_of(f->sk->f->fd);

	if (!get_from(f->sk, d, &from))
		return false;
	inet_addr_on_wire(&from, &x.from);
	/* One of a link only would come from the loopback device's. */
	if (x.from.any.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&x.from.v6.sin6_addr))
		return false;
	if (f->shared) {
		if (connect(f->sk->f->fd, &from.any, inet_addr_len(&from)) < 0)
			return false;
		f->aimed = true;
	}
	if (!choose_destination(f, d, x.from.any.sa_family, &x.to) || inject_send(f->out, &x) < 0)
		return false;
	return wait_for_more(f, before);
}

/* ----------------------------------------------------------------------------------------------------- all of them */

/* Of IPv4 and IPv6 alike: one of IPv6 may take both. */
static int ask_shared(struct fill *f)
{
	bool lite = f->sk->m->proto == IPPROTO_UDPLITE;
	const char *const files[] = { lite ? "udplite" : "udp", lite ? "udplite6" : "udp6" };
	size_t same = 0;

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		struct proc_sockets all;
		int r = proc_read_sockets(f->op, files[i], &all);

		if (r)
			return r;
		for (size_t k = 0; k < all.v.n; k++)
			same += all.v.v[k].local_port == f->sk->m->src_port;
	}
	f->shared = same > 1;
	return 0;
}

static int set_device(const struct inet_sk *sk, const char *name)
{
	const char *device = sk->m->opts->so_bound_dev;

	if (!device || !*device)
		return 0;
	return setsockopt(sk->f->fd, SOL_SOCKET, SO_BINDTODEVICE, name ? name : device, (socklen_t)strlen(name ? name : device));
}

static int fill_all(struct fill *f)
{
	const struct sockaddr nobody = { .sa_family = AF_UNSPEC };
	const struct inet_sk *sk = f->sk;
	int r = ask_shared(f);

	if (r)
		return r;
	if (set_device(sk, "") < 0)
		return inet_sys(f->op, sk, "take it off its device for a moment");
	for (size_t i = 0; i < sk->x->n_queue; i++)
		f->lost += !put(f, sk->x->queue[i]);
	if (f->aimed && connect(sk->f->fd, &nobody, sizeof(nobody)) < 0)
		return inet_sys(f->op, sk, "take its peer from it again");
	if (set_device(sk, NULL) < 0)
		return inet_sys(f->op, sk, "bind it to its device again");
	if (setsockopt(sk->f->fd, SOL_SOCKET, SO_DETACH_FILTER, &(int){ 0 }, sizeof(int)) < 0)
		return inet_sys(f->op, sk, "let all come in again");
	if (f->lost)
		log_warn(f->op, "%s: of %zu datagrams that waited in it, %zu are lost", inet_what(f->op, sk), sk->x->n_queue,
			 f->lost);
	return 0;
}

int datagrams_fill(struct op *op, const struct inet_sk *sk)
{
	struct inject_out out = { -1, -1, NULL };
	struct fill f = { .op = op, .sk = sk, .out = &out };
	int r;

	if (!sk->x || !sk->x->n_queue)
		return 0;
	out.buf = op_alloc(op, INJECT_MAX);
	if (!out.buf)
		return CKPT_E_NOMEM;
	r = fill_all(&f);
	inject_close(&out);
	return r;
}
