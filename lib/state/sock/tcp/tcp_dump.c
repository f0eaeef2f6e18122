/* SPDX-License-Identifier: MIT */
/*
 * Dump of TCP connections, when all sockets of the tree are known. Their packets are held back first, so that nothing changes
 * any more, then each is put into repair mode for a moment and read. Where the tree is killed in the end, that is when they go
 * into it again, so that their close is silent, and the lock outlives us; where it goes on, the lock is taken back before it
 * does. The guardian does the same if we are killed. Descriptors are copied one at a time: a tree may have more than we may.
 */
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "lib/inject/guardian.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet/inet.h"
#include "lib/state/sock/netlock/netlock.h"
#include "lib/state/sock/tcp/pending.h"

#define TCP_AO_INFO_OPTION 40
#define TCP_AO_INFO_SIZE 48
#define CLOSE_IT "the program must close it before the checkpoint"
#define RECEIVE_IT "let the program receive it before the checkpoint"

static const char *kind_of(const struct inet_seen *u)
{
	return inet_kind_name(u->msg->family, u->msg->type, u->msg->proto);
}

bool tcp_is_connection(const struct inet_seen *u)
{
	return inet_is_tcp(u->msg->type, u->msg->proto) && u->msg->dst_port && u->msg->state != INET_LISTEN;
}

/* ----------------------------------------------------------------------------------------------------- may it be saved? */

int tcp_permit(struct op *op, const struct fd_view *v, const struct inet_seen *u, size_t n)
{
	static const char hint[] = "add --tcp-established to save connections, or --tcp-close to have them closed after the restore";
	const char *from = inet_addr_text(op, &u->local), *to = inet_addr_text(op, &u->peer);

	if (op->opts->tcp_established || op->opts->tcp_close)
		return 0;
	if (n > 1)
		return file_refuse(op, v, kind_of(u), hint, "it is connected (%s to %s), as %zu sockets are", from, to, n);
	return file_refuse(op, v, kind_of(u), hint, "it is connected (%s to %s)", from, to);
}

/* What lies between it and the program, and the keys that its segments are signed with: nobody tells those. */
static int examine_layers(struct op *op, const struct fd_view *v, const struct inet_seen *u)
{
	char ulp[64] = "", ao[TCP_AO_INFO_SIZE] = "";
	socklen_t n = sizeof(ulp) - 1, n_ao = sizeof(ao);

	if (getsockopt(v->copy, IPPROTO_TCP, TCP_ULP, ulp, &n) < 0)
		ulp[0] = 0;
	if (!strcmp(ulp, "tls"))
		return file_refuse(op, v, kind_of(u), CLOSE_IT, "the kernel encrypts it (TCP_ULP \"tls\")");
	if (ulp[0] || (u->entry && u->entry->ulp))
		return file_refuse(op, v, kind_of(u), CLOSE_IT, "a protocol is layered upon it in the kernel (TCP_ULP \"%s\")",
				   ulp[0] ? ulp : u->entry->ulp);
	if ((u->entry && u->entry->keyed) || getsockopt(v->copy, IPPROTO_TCP, TCP_AO_INFO_OPTION, ao, &n_ao) == 0)
		return file_refuse(op, v, kind_of(u), CLOSE_IT,
				   "its segments are signed (TCP-MD5 or TCP-AO), and the kernel does not tell the keys");
	return 0;
}

static bool has_urgent(const struct fd_view *v)
{
	struct pollfd p = { .fd = v->copy, .events = POLLPRI };
	char byte;

	if (poll(&p, 1, 0) == 1 && p.revents & POLLPRI)
		return true;
	return recv(v->copy, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) >= 0 || errno == EAGAIN;
}

/*
 * An urgent byte that was read is still a gap in the stream: what comes after it is not counted before the gap is reached. A task that
 * runs may have read something since the listing.
 */
static bool rest_is_hidden(const struct fd_view *v, const struct inet_seen *u)
{
	int inq = 0;

	return !v->keep && u->entry && ioctl(v->copy, SIOCINQ, &inq) == 0 && u->entry->rqueue > (uint32_t)inq + 1;
}

/* That it was broken off, say. Which error it is cannot be asked for without taking it away. */
static int examine_errors(struct op *op, const struct fd_view *v, const struct inet_seen *u)
{
	struct pollfd p = { .fd = v->copy };

	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLERR))
		return 0;
	if (u->msg->state == INET_CLOSE)
		return file_refuse(op, v, kind_of(u), RECEIVE_IT, "an error waits to be received: it was broken off, or never made");
	return file_refuse(op, v, kind_of(u), RECEIVE_IT,
			   "an error, or a notice of sent packets (MSG_ERRQUEUE: zero copy, timestamps), waits to be received");
}

static int examine_zerocopy(struct op *op, const struct fd_view *v, const struct inet_seen *u)
{
	int outq = 0;

	if (!sock_get_int(v->copy, SO_ZEROCOPY) || ioctl(v->copy, SIOCOUTQ, &outq) < 0 || !outq)
		return 0;
	return file_refuse(op, v, kind_of(u), "let it send everything before the checkpoint",
			   "it may have sends without a copy under way (SO_ZEROCOPY), of which the program is to be told");
}

int tcp_examine(struct op *op, const struct fd_view *v, const struct inet_seen *u)
{
	int r = examine_layers(op, v, u);

	if (r || !tcp_is_connection(u))
		return r;
	if (u->msg->state == INET_SYN_RECV)
		return file_refuse(op, v, kind_of(u), "try again in a moment", "both sides are connecting to each other");
	if (has_urgent(v) || rest_is_hidden(v, u))
		return file_refuse(op, v, kind_of(u), RECEIVE_IT, "urgent data (MSG_OOB) is in its queue");
	return examine_errors(op, v, u) ?: examine_zerocopy(op, v, u);
}

/* --------------------------------------------------------------------------------------------------- held back */

static int permit_all(struct op *op, const struct inet_state *is)
{
	const struct inet_seen *first = NULL;
	size_t n = 0;

	for (size_t i = 0; i < is->all_seen.n; i++) {
		if (!tcp_is_connection(is->all_seen.v[i]))
			continue;
		first = first ?: is->all_seen.v[i];
		n++;
	}
	return first ? tcp_permit(op, &first->view, first, n) : 0;
}

/* Also of those that are closed: they hear nothing any more, but a restore has to bring them there. */
static int add_tuples(struct op *op, const struct inet_state *is, netlock_tuples *tuples)
{
	for (size_t i = 0; i < is->all_seen.n; i++) {
		const struct inet_seen *u = is->all_seen.v[i];
		struct netlock_tuple *t;

		if (!tcp_is_connection(u))
			continue;
		t = ARRAY_ADD(op->arena, tuples);
		if (!t)
			return op_nomem(op);
		pending_tuple(&u->local, &u->peer, t);
	}
	return 0;
}

/* -------------------------------------------------------------------------------------------------------- copies */

/* Descriptors come task by task: one pidfd at a time. */
struct source {
	pid_t pid;
	int pidfd;
};
#define SOURCE_INIT { 0, -1 }

static void source_done(struct source *from)
{
	close_fd_p(&from->pidfd);
	from->pidfd = -1;
}

static int copy_of(struct source *from, const struct inet_seen *u)
{
	if (from->pid != u->view.pid) {
		source_done(from);
		from->pid = u->view.pid;
		from->pidfd = sys_pidfd_open(u->view.pid, 0);
	}
	return from->pidfd < 0 ? -1 : sys_pidfd_getfd(from->pidfd, u->view.fd);
}

/* One in flight is in no task's table, where the guardian could find it: it gets the socket itself, for all that is changed. */
static int promise_all(const struct guardian *g, int fd, bool reuse)
{
	struct guardian_option o[] = {
		{ IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP }, { SOL_SOCKET, SO_REUSEADDR, reuse }, { SOL_SOCKET, SO_PEEK_OFF, -1 },
	};
	socklen_t n = sizeof(o[2].value);

	return guardian_promise(g, fd, o, getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &o[2].value, &n) < 0 ? 2 : 3);
}

static int enter_repair(const struct snapshot *s, const struct inet_seen *u, int fd, bool *reuse)
{
	int r = 0;

	*reuse = sock_get_int(fd, SO_REUSEADDR) != 0;
	if (s->guardian)
		r = u->view.carrier ? promise_all(s->guardian, fd, *reuse) :
				      guardian_note_repair(s->guardian, u->view.pid, u->view.fd, *reuse);
	return r < 0 ? -1 : tcp_repair_on(fd);
}

static int read_one(struct op *op, struct snapshot *s, struct inet_seen *u, struct source *from)
{
	const struct fd_view *at = u->view.carrier ? u->view.carrier : &u->view;
	const char *what = arena_printf(op->arena, "task %d: fd %d: %s%s", at->pid, at->fd, at == &u->view ? "" : "in its queue: ",
					kind_of(u));
	_cleanup_close_ int fd = copy_of(from, u);
	bool reuse;
	int r;

	if (!what)
		return op_nomem(op);
	if (fd < 0)
		return file_errno(op, &u->view, "copy the descriptor");
	if (enter_repair(s, u, fd, &reuse) < 0)
		return file_errno(op, &u->view, "put it into repair mode (CAP_NET_ADMIN)");
	r = tcp_stream_read(op, u->view.carrier ? NULL : s->guardian, fd, what, &u->stream, &u->inq, &u->outq);
	if (tcp_repair_off(fd, reuse) < 0)
		r = r ?: file_errno(op, &u->view, "take it out of repair mode");
	if (s->guardian && u->view.carrier)
		guardian_retract(s->guardian);
	if (!r || r == CKPT_E_NOMEM)
		return r;
	return op_wrap(op, r, "connection %s to %s", inet_addr_text(op, &u->local), inet_addr_text(op, &u->peer));
}

static int read_all(struct op *op, struct snapshot *s, struct inet_state *is)
{
	_cleanup_(source_done) struct source from = SOURCE_INIT;
	int r = 0;

	for (size_t i = 0; !r && i < is->all_seen.n; i++)
		if (tcp_is_connection(is->all_seen.v[i]))
			r = op_check_cancel(op) ?: read_one(op, s, is->all_seen.v[i], &from);
	return r;
}

/* --------------------------------------------------------------------------------------------------- the kind's parts */

int tcp_complete(struct op *op, struct snapshot *s)
{
	struct inet_state *is = s->file_state->inet_sockets;
	netlock_tuples tuples = { 0 };
	int r = is ? permit_all(op, is) : 0;

	if (r || !is)
		return r;
	if (op->opts->tcp_close)
		msg_set(s->inventory, tcp_close, true);
	else
		r = add_tuples(op, is, &tuples);
	r = r ?: pending_look(op, s, &tuples);
	r = r ?: netlock_take(op, s, tuples.v, tuples.n, &is->lock);
	if (!r && !op->opts->tcp_close)
		r = read_all(op, s, is);
	return r ?: pending_dump(op, s);
}

static int write_stream(struct op *op, struct snapshot *s, const struct inet_seen *u)
{
	struct img_out *out = NULL;
	int r, r2;

	r = img_create(op, s->dir, IMG_TCP_STREAM, u->msg->ino, &out);
	r = r ?: img_write(op, out, &u->stream->base);
	r = r ?: img_write_payload(op, out, u->inq, u->stream->inq_len);
	r = r ?: img_write_payload(op, out, u->outq, u->stream->outq_len);
	r2 = img_close(op, out);
	return r ?: r2;
}

int tcp_write(struct op *op, struct snapshot *s)
{
	const struct inet_state *is = s->file_state->inet_sockets;
	int r = 0;

	for (size_t i = 0; !r && i < is->all_seen.n; i++)
		if (is->all_seen.v[i]->stream)
			r = op_check_cancel(op) ?: write_stream(op, s, is->all_seen.v[i]);
	return r;
}

int tcp_keep(struct op *op, struct snapshot *s)
{
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	return is ? netlock_keep(op, is->lock) : 0;
}

/* One that is closed has nobody to tell. */
void tcp_dump_end(struct op *op, struct snapshot *s)
{
	_cleanup_(source_done) struct source from = SOURCE_INIT;
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	for (size_t i = 0; is && i < is->all_seen.n; i++) {
		struct inet_seen *u = is->all_seen.v[i];
		bool silent = u->stream && u->msg->state != INET_CLOSE;
		_cleanup_close_ int fd = silent ? copy_of(&from, u) : -1;

		if (silent && (fd < 0 || tcp_repair_on(fd) < 0))
			log_warn(op, "task %d: fd %d: the end of its connection cannot be kept from its peer: %s", u->view.pid,
				 u->view.fd, strerror(errno));
	}
}

/* The sockets are what they were: let their packets come. */
void tcp_let_go(struct op *op, struct snapshot *s)
{
	struct inet_state *is = s->file_state ? s->file_state->inet_sockets : NULL;

	if (!is || !is->all_seen.n) /* of a restore */
		return;
	if (s->guardian)
		guardian_drop_repair(s->guardian);
	netlock_release(op, &is->lock);
	pending_done(is);
}
