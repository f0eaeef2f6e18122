/* SPDX-License-Identifier: MIT */
/*
 * Restore of TCP connections. They are made in repair mode, all of them before any task exists; that mode ends when the tasks are
 * complete. Until then they are closed without a word, however the restore ends.
 */
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/tcp.h>

#include "lib/state/file/core.h"
#include "lib/state/sock/tcp/tcp.h"

#define EACH_CONNECTION(is, sk, r)                                                             \
	for (size_t _i = 0; !(r) && _i < (is)->socks.n; _i++)                                  \
		for (struct inet_sk *sk = (is)->socks.v[_i]; sk && sk->stream; sk = NULL)

static int repair(int fd, int how)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &how, sizeof(how));
}

static int prepare(struct op *op, struct inet_sk *sk)
{
	if (repair(sk->f->fd, TCP_REPAIR_ON) < 0)
		return errno != EPERM ? inet_sys(op, sk, "put it into repair mode") :
		       op_fail(op, CKPT_E_PERM, AT(.kind = "socket", .hint = "restore as root, or with --tcp-close"),
			       "%s: to restore TCP connections needs CAP_NET_ADMIN", inet_what(op, sk));
	return inet_bind(op, sk) ?: tcp_prepare(op, sk);
}

int tcp_prepare_all(struct op *op, struct inet_state *is)
{
	int r = 0;

	EACH_CONNECTION(is, sk, r)
		r = prepare(op, sk);
	return r;
}

/* Nobody knew its port any more, and it has got another one. */
static int learn_port(struct op *op, struct inet_sk *sk)
{
	socklen_t n = sizeof(sk->local);

	if (sk->m->src_port || getsockname(sk->f->fd, &sk->local.any, &n) == 0)
		return 0;
	return inet_sys(op, sk, "read its address");
}

static int connect_one(struct op *op, struct inet_sk *sk)
{
	return tcp_connect(op, sk) ?: learn_port(op, sk) ?: tcp_fill(op, sk);
}

static int end_one(struct op *op, const struct inet_sk *sk, struct segment_out *out)
{
	const struct tcp_shape *sh = &sk->shape;
	int r = tcp_end(op, sk, out);

	/* What the segments said of windows was not true. */
	if (!r && sk->m->state != INET_CLOSE && (sh->unsent || sh->fin_in || sh->fin_out))
		r = tcp_windows(op, sk, false, false);
	return r;
}

static int check_state(struct op *op, const struct inet_sk *sk)
{
	uint32_t state = tcp_state_of(sk->f->fd);

	if (state == sk->m->state || sk->m->state == INET_SYN_SENT)
		return 0;
	return op_fail(op, CKPT_E_SYS, AT(.kind = "socket"), "%s: the connection to %s is in state %u instead of %u", inet_what(op, sk),
		       inet_addr_text(op, &sk->peer), state, sk->m->state);
}

/*
 * Those that are closed come first: their numbers may be those of a connection that came after them. An answer to a segment of
 * ours must find the other end, where that is one of ours: segments come when all are there.
 */
int tcp_make_all(struct op *op, struct inet_state *is)
{
	struct segment_out out = SEGMENT_OUT_INIT;
	int r = 0;

	EACH_CONNECTION(is, sk, r)
		if (sk->m->state == INET_CLOSE)
			r = connect_one(op, sk) ?: end_one(op, sk, &out);
	EACH_CONNECTION(is, sk, r)
		if (sk->m->state != INET_CLOSE && sk->m->state != INET_SYN_SENT)
			r = op_check_cancel(op) ?: connect_one(op, sk);
	EACH_CONNECTION(is, sk, r)
		if (sk->m->state != INET_CLOSE && sk->m->state != INET_SYN_SENT)
			r = end_one(op, sk, &out);
	EACH_CONNECTION(is, sk, r)
		r = check_state(op, sk);
	segment_close(&out);
	return r;
}

/* ---------------------------------------------------------------------------------------------- they come to life */

static int wake(struct op *op, const struct inet_sk *sk)
{
	const SkOptsEntry *o = sk->m->opts;
	const int reuse = o->has_reuseaddr && o->reuseaddr;

	if (repair(sk->f->fd, TCP_REPAIR_OFF_NO_WP) < 0)
		return inet_sys(op, sk, "bring it to life");
	/* The end of repair mode takes it away. */
	if (reuse && setsockopt(sk->f->fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse)) < 0)
		return inet_sys(op, sk, "set SO_REUSEADDR");
	return 0;
}

/*
 * That nothing holds back what is queued is the one way to have the kernel look whether it can be sent: what was not sent before the
 * dump, and what the program has written since it runs.
 */
static void push(const struct inet_sk *sk)
{
	int corked = 0, off = 0;
	socklen_t n = sizeof(corked);

	if (getsockopt(sk->f->fd, IPPROTO_TCP, TCP_CORK, &corked, &n) < 0)
		return;
	setsockopt(sk->f->fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off));
	if (corked)
		setsockopt(sk->f->fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof(corked));
}

/*
 * The peer's answer may be there at once, where it is on this host: an error would be ours then, and not the program's. It is
 * thrown away, and asked for again in a second.
 */
static int connect_deaf(struct inet_sk *sk)
{
	struct sock_filter nothing = { BPF_RET | BPF_K, 0, 0, 0 };
	const struct sock_fprog prog = { 1, &nothing };
	int fd = sk->f->fd, r, eno, none = 0;

	if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) < 0)
		return -1;
	r = connect(fd, &sk->peer.any, inet_addr_len(&sk->peer));
	eno = errno;
	setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
	errno = eno;
	return r;
}

/* What asked to be connected asks anew, with the number it began with: to the peer it is the same. */
static int ask_again(struct op *op, struct inet_sk *sk)
{
	int fd = sk->f->fd, flags = fcntl(fd, F_GETFL), r;

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return inet_sys(op, sk, "set its flags");
	r = connect(fd, &sk->peer.any, inet_addr_len(&sk->peer));
	if (r < 0 && errno == ECONNREFUSED)
		r = connect_deaf(sk);
	if (r < 0 && errno != EINPROGRESS)
		return inet_cannot_connect(op, sk, errno);
	return fcntl(fd, F_SETFL, flags) < 0 ? inet_sys(op, sk, "set its flags") : 0;
}

int tcp_settle(struct op *op, struct inet_state *is)
{
	int r = 0;

	EACH_CONNECTION(is, sk, r)
		r = wake(op, sk);
	return r;
}

int tcp_open_up(struct op *op, struct inet_state *is)
{
	int r = 0;

	EACH_CONNECTION(is, sk, r)
		if (sk->m->state == INET_SYN_SENT)
			r = ask_again(op, sk);
		else
			push(sk); /* before the program runs, which may have other wishes */
	return r;
}

void tcp_speak(const struct inet_state *is)
{
	struct segment_out out = SEGMENT_OUT_INIT;

	EACH_CONNECTION(is, sk, 0)
		tcp_tell(sk, &out);
	segment_close(&out);
}

void tcp_silence(const struct inet_state *is)
{
	EACH_CONNECTION(is, sk, 0)
		if (sk->f->fd >= 0)
			repair(sk->f->fd, TCP_REPAIR_ON);
}
