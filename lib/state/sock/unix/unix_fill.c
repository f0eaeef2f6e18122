/* SPDX-License-Identifier: MIT */
/*
 * Queues of UNIX sockets: each message is sent again, by the socket that sent it, with the descriptors and credentials that
 * it carried. Credentials can only name a process that exists: one with its number is there for the moment.
 */
#include <signal.h>

#include "lib/kernel/uapi.h"
#include "lib/state/ns/ns.h"
#include "lib/state/sock/unix/unix.h"

#define ROOMY (1 << 28)
#define RIGHTS_MAX 253
#define HOLDERS_MAX 4096

/* ----------------------------------------------------------------------------------------------------- processes */

static bool exists(pid_t pid)
{
	return kill(pid, 0) == 0 || errno == EPERM;
}

/* As we see the process with that number in the tree's PID namespace; 0: there is none. */
static pid_t sender_of(const struct op *op, const struct snapshot *s, const struct unix_state *us, pid_t number)
{
	const struct snap_ns *own = ns_own(s, NS_PID);

	for (size_t i = 0; i < us->holders.n; i++)
		if (us->holders.v[i].number == number)
			return us->holders.v[i].host;
	if (own)
		return number == s->tasks.v[0].pid ? own->host : 0;
	return !op->opts->new_pidns && exists(number) ? number : 0;
}

int unix_holders_start(struct op *op, struct snapshot *s, struct unix_state *us)
{
	for (size_t i = 0; i < us->packets.n; i++) {
		const SockPacketExtra *x = us->packets.v[i]->extra;
		struct unix_holder *slot;
		pid_t pid;

		if (!x || !x->has_pid || !x->pid || op->opts->new_pidns || sender_of(op, s, us, (pid_t)x->pid))
			continue;
		if (us->holders.n >= HOLDERS_MAX)
			return image_bad(op, "ckpt-extra: queued messages have too many senders");
		pid = stand_in_hold(s, (pid_t)x->pid);
		slot = pid < 0 ? NULL : ARRAY_ADD(op->arena, &us->holders);
		if (slot)
			*slot = (struct unix_holder){ .number = (pid_t)x->pid, .host = pid };
		else if (pid >= 0)
			stand_in_end(pid);
	}
	return 0;
}

void unix_holders_end(struct unix_state *us)
{
	for (size_t i = 0; i < us->holders.n; i++)
		stand_in_end(us->holders.v[i].host);
	us->holders.n = 0;
}

/* --------------------------------------------------------------------------------------------------- one message */

struct letter {
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(RIGHTS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control;
	size_t control_len, cred_len;
	struct sockaddr_un addr;
	socklen_t addr_len;
};

static void put_cmsg(struct letter *l, int type, const void *p, size_t n)
{
	struct cmsghdr *c = (struct cmsghdr *)(void *)(l->control.space + l->control_len);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(n);
	memcpy(CMSG_DATA(c), p, n);
	l->control_len += CMSG_SPACE(n);
}

/* Opens what travels in the message. */
static int put_rights(struct op *op, struct snapshot *s, const struct unix_packet *p, struct letter *l)
{
	const ScmEntry *scm = p->msg->n_scm ? p->msg->scm[0] : NULL;
	int fds[RIGHTS_MAX];

	for (size_t i = 0; scm && i < scm->n_rights; i++) {
		struct snap_file *f = snapshot_file(s, scm->rights[i]);
		int r = file_open(op, s, f);

		if (r)
			return op_wrap(op, r, "a descriptor in flight to file id %u", p->msg->id_for);
		if (f->fd < 0)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "unix socket"),
				       "a descriptor in flight to file id %u is one that only a task can open (%s)",
				       p->msg->id_for, f->kind->name);
		fds[i] = f->fd;
	}
	if (scm && scm->n_rights)
		put_cmsg(l, SCM_RIGHTS, fds, scm->n_rights * sizeof(int));
	return 0;
}

static void put_cred(struct op *op, const struct snapshot *s, const struct unix_packet *p, struct letter *l)
{
	const SockPacketExtra *x = p->extra;
	struct ucred c;

	if (!x || !x->has_pid || !x->pid)
		return;
	c = (struct ucred){ sender_of(op, s, s->file_state->unix_sockets, (pid_t)x->pid), x->uid, x->gid };
	if (c.pid) {
		put_cmsg(l, SCM_CREDENTIALS, &c, sizeof(c));
		l->cred_len = l->control_len;
		return;
	}
	log_warn(op, "a message queued for file id %u loses the credentials of its sender: there is no process %d",
		 p->msg->id_for, (int)x->pid);
}

/* The sender, and how it reaches @sk. */
static int address(struct op *op, struct unix_state *us, const struct unix_sk *sk, const struct unix_packet *p, struct letter *l,
		   int *from)
{
	const struct unix_sk *sender = sk->m->type == SOCK_DGRAM ? p->sender : sk->peer;

	if (sender) {
		*from = sender->f->fd;
	} else {
		if (us->nobody < 0)
			us->nobody = file_high(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
		*from = us->nobody;
	}
	if (*from < 0)
		return unix_sys(op, sk, "make a socket that fills its queue");
	if (sk->m->type != SOCK_DGRAM || (sender && sender->peer == sk && sender->connected))
		return 0;
	l->addr_len = unix_address(sk, &l->addr);
	return l->addr_len ? 0 : image_bad(op, "%s: something is queued in it that nobody could have sent", unix_what(op, sk));
}

/* 1: the queue is full. */
static int deliver(struct op *op, const struct unix_sk *sk, const struct unix_packet *p, struct letter *l, int from)
{
	size_t done = 0, n = p->msg->length;
	int room = ROOMY;

	if (setsockopt(from, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0 &&
	    setsockopt(from, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) < 0)
		return unix_sys(op, sk, "fill its queue");
	do {
		struct iovec iov = { (char *)(uintptr_t)p->bytes + done, n - done };
		struct msghdr m = {
			.msg_name = l->addr_len ? &l->addr : NULL, .msg_namelen = l->addr_len, .msg_iov = &iov, .msg_iovlen = 1,
			.msg_control = l->control_len ? &l->control : NULL, .msg_controllen = l->control_len,
		};
		ssize_t r = sendmsg(from, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN && !done)
			return 1;
		if (r < 0)
			return unix_sys(op, sk, "fill its queue");
		done += (size_t)r;
		l->control_len = l->cred_len; /* descriptors go with the first piece */
	} while (done < n);
	return 0;
}

static int send_one(struct op *op, struct snapshot *s, struct unix_sk *sk, const struct unix_packet *p)
{
	struct unix_state *us = s->file_state->unix_sockets;
	struct letter l = { 0 };
	int from, r;

	if (sk->m->type != SOCK_DGRAM && !sk->peer)
		return image_bad(op, "sk-queues.img: a packet for unix socket id %u, which is not connected", sk->m->id);
	r = address(op, us, sk, p, &l, &from);
	if (r)
		return r;
	put_cred(op, s, p, &l);
	r = put_rights(op, s, p, &l);
	return r ? r : deliver(op, sk, p, &l, from);
}

int unix_fill(struct op *op, struct snapshot *s, struct unix_sk *sk, bool all)
{
	for (; sk->sent < sk->queue.n; sk->sent++) {
		const struct unix_packet *p = sk->queue.v[sk->sent];
		int r;

		/* What its peer sent while it was connected is not limited in number, unlike what others send. */
		if (!all && p->sender && p->sender == sk->peer && !sk->connected)
			return 0;
		r = op_check_cancel(op);
		r = r ? r : send_one(op, s, sk, p);
		if (r > 0 && !all)
			return 0;
		if (r > 0)
			return op_fail(op, CKPT_E_SYS, AT(.kind = "unix socket", .hint = "net.unix.max_dgram_qlen may be too small here"),
				       "%s: more is queued in it than it holds", unix_what(op, sk));
		if (r)
			return r;
	}
	return 0;
}
