/* SPDX-License-Identifier: MIT */
/*
 * The ends of TCP connections. That ours was sent is said by shutdown(), in repair mode; that the peer's came, or that it has
 * acknowledged ours, only a segment can say: it is made here, and sent to ourselves by the loopback device.
 */
#include <netinet/tcp.h>
#include <time.h>

#include "lib/kernel/uapi.h"
#include "lib/state/file/core.h"
#include "lib/state/sock/tcp/tcp.h"

#define TRIES 50 /* of which each waits a little longer: about 0.6 s in all */
#define WAIT_NS 500000l

uint32_t tcp_state_of(int fd)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info.tcpi_state);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 ? 0 : info.tcpi_state;
}

/* The loopback device delivers at once, but for a machine that is very busy. */
static bool await_state(int fd, uint32_t state, int i)
{
	if (tcp_state_of(fd) == state)
		return true;
	nanosleep(&(const struct timespec){ .tv_nsec = WAIT_NS * (i + 1) / 2 }, NULL);
	return tcp_state_of(fd) == state;
}

static int no_way_in(struct op *op, const struct inet_sk *sk, uint32_t state)
{
	return op_fail(op, CKPT_E_SYS,
		       AT(.kind = "socket", .hint = "a firewall rule may drop segments that come by the loopback device with the mark 0xC114: "
						    "let them pass"),
		       "%s: a segment for it, from %s, did not arrive: its state is %u instead of %u", inet_what(op, sk),
		       inet_addr_text(op, &sk->peer), tcp_state_of(sk->f->fd), state);
}

/* What comes by the loopback device is not for a socket that is bound to another one. */
static int bind_device(struct op *op, const struct inet_sk *sk, const char *name)
{
	const char *device = sk->m->opts->so_bound_dev;

	if (!device || !*device || setsockopt(sk->f->fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)) == 0)
		return 0;
	return inet_sys(op, sk, "bind it to its device");
}

/*
 * @g without addresses, which are turned round: it comes from the peer. It says that the peer takes nothing, so that nothing is sent
 * yet; the windows are set once more in the end.
 */
static int receive(struct op *op, const struct inet_sk *sk, struct segment_out *out, struct segment *g, uint32_t state)
{
	bool there = false;
	int r = bind_device(op, sk, "");

	inet_addr_on_wire(&sk->peer, &g->from);
	inet_addr_on_wire(&sk->local, &g->to);
	for (int i = 0; !r && !there && i < TRIES; i++) {
		if (segment_send(out, g) < 0 && errno != EPERM) /* that is: a rule of the firewall has dropped it */
			r = inet_sys(op, sk, "send it a segment");
		there = !r && await_state(sk->f->fd, state, i);
	}
	if (!r && !there)
		r = no_way_in(op, sk, state);
	return r ?: bind_device(op, sk, sk->m->opts->so_bound_dev ?: "");
}

static int receive_fin(struct op *op, const struct inet_sk *sk, struct segment_out *out, uint32_t state)
{
	struct segment fin = { .fin = true, .seq = sk->stream->inq_seq - 1, .ack = sk->shape.snd_start };

	return receive(op, sk, out, &fin, state);
}

static int receive_ack(struct op *op, const struct inet_sk *sk, struct segment_out *out, uint32_t state)
{
	struct segment ack = { .seq = sk->stream->inq_seq, .ack = sk->stream->outq_seq };

	return receive(op, sk, out, &ack, state);
}

/* Sent already, or the last of what is to be sent: the peer takes nothing now. */
static int send_fin(struct op *op, const struct inet_sk *sk)
{
	const int queue = TCP_SEND_QUEUE, on = TCP_REPAIR_ON, off = TCP_REPAIR_OFF_NO_WP;
	int fd = sk->f->fd, r;

	/* In CLOSING the peer's end comes after ours. */
	r = sk->shape.fin_sent ? 0 : tcp_windows(op, sk, true, sk->m->state == INET_CLOSING);
	if (r)
		return r;
	if (sk->shape.fin_sent)
		r = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue));
	else
		r = setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off));
	if (r < 0 || shutdown(fd, SHUT_WR) < 0)
		return inet_sys(op, sk, "end it");
	if (!sk->shape.fin_sent && setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0)
		return inet_sys(op, sk, "end it");
	return 0;
}

int tcp_end(struct op *op, const struct inet_sk *sk, struct segment_out *out)
{
	int r = 0;

	switch (sk->m->state) {
	case INET_FIN_WAIT1:
		r = send_fin(op, sk);
		break;
	case INET_FIN_WAIT2:
		r = send_fin(op, sk) ?: receive_ack(op, sk, out, INET_FIN_WAIT2);
		break;
	case INET_CLOSING:
		r = send_fin(op, sk) ?: receive_fin(op, sk, out, INET_CLOSING);
		break;
	case INET_CLOSE_WAIT:
		r = receive_fin(op, sk, out, INET_CLOSE_WAIT);
		break;
	case INET_LAST_ACK:
		r = receive_fin(op, sk, out, INET_CLOSE_WAIT) ?: send_fin(op, sk);
		break;
	case INET_CLOSE:
		r = receive_fin(op, sk, out, INET_CLOSE_WAIT) ?: send_fin(op, sk) ?: receive_ack(op, sk, out, INET_CLOSE);
		break;
	default:
		break;
	}
	return r;
}
