/* SPDX-License-Identifier: MIT */
/*
 * What is queued in a UNIX socket. It is looked at with MSG_PEEK, message by message. That needs two options of the socket
 * for the moment, which the program's description has, too: SO_PEEK_OFF, to get beyond the first message, and SO_PASSCRED, to
 * see credentials. They are put back at once; the guardian does it if we are killed in between.
 */
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/inject/guardian.h"
#include "lib/kernel/uapi.h"
#include "lib/state/pids.h"
#include "lib/state/sock/unix/unix.h"

#define SLACK 4096u
#define MAX_RIGHTS 253 /* SCM_MAX_FD */
#define OVERFLOW_ID 65534u
#define QUEUE_LIMIT (1u << 30)

/* Room for every kind of control message that a UNIX socket has. */
union control {
	struct cmsghdr head;
	char space[CMSG_SPACE(MAX_RIGHTS * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int)) +
		   CMSG_SPACE(256)];
};

struct peek {
	ssize_t n; /* result of recvmsg */
	int flags;
	bool has_cred;
	struct ucred cred;
	int fds[MAX_RIGHTS];
	size_t n_fds;
	struct sockaddr_un from;
	socklen_t from_len;
	bool odd; /* a control message that we do not know */
};

struct walk {
	struct op *op;
	struct snapshot *s;
	struct unix_seen *u;
	int fd;
	bool changed; /* the options are not what they were */
	struct guardian_option old[2];
	size_t off, queued;
	char *buf;
	size_t size;
	size_t n_rights;
};

static void close_rights(struct peek *p)
{
	for (size_t i = 0; i < p->n_fds; i++)
		close_fd_p(&p->fds[i]);
	p->n_fds = 0;
}

/* ------------------------------------------------------------------------------------------ options, meanwhile */

static int set_option(int fd, int name, int value)
{
	return setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value));
}

static int begin(struct walk *w)
{
	w->old[0] = (struct guardian_option){ SOL_SOCKET, SO_PEEK_OFF, sock_get_int(w->fd, SO_PEEK_OFF) };
	w->old[1] = (struct guardian_option){ SOL_SOCKET, SO_PASSCRED, sock_get_int(w->fd, SO_PASSCRED) };
	if (w->s->guardian && guardian_promise(w->s->guardian, w->fd, w->old, ARRAY_SIZE(w->old)) < 0)
		return file_errno(w->op, &w->u->view, "prepare for looking at its queue");
	w->changed = true;
	return set_option(w->fd, SO_PASSCRED, 1) < 0 ? file_errno(w->op, &w->u->view, "look at its queue") : 0;
}

static int end(struct walk *w)
{
	int r = 0;

	if (!w->changed)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(w->old); i++)
		if (set_option(w->fd, w->old[i].name, w->old[i].value) < 0)
			r = file_errno(w->op, &w->u->view, "put back the options that were changed to look at its queue");
	if (w->s->guardian)
		guardian_retract(w->s->guardian);
	return r;
}

/* ------------------------------------------------------------------------------------------------- one message */

/* Not in the message: they come from options of the socket, its sender and the moment. */
static bool made_on_receipt(int type)
{
	return type == 0x03 /* SCM_SECURITY */ || type == SO_RXQ_OVFL || type == SO_TIMESTAMP || type == SO_TIMESTAMPNS ||
	       type == SO_TIMESTAMPING || (type >= 63 && type <= 65 /* the same with 64 bits */);
}

static void take_cmsg(struct peek *p, const struct cmsghdr *c)
{
	size_t len = c->cmsg_len - CMSG_LEN(0);
	int pidfd;

	if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && len >= sizeof(p->cred)) {
		memcpy(&p->cred, CMSG_DATA(c), sizeof(p->cred));
		p->has_cred = true;
	} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		p->n_fds = MIN(len / sizeof(int), MAX_RIGHTS);
		memcpy(p->fds, CMSG_DATA(c), p->n_fds * sizeof(int));
	} else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_PIDFD && len >= sizeof(pidfd)) {
		memcpy(&pidfd, CMSG_DATA(c), sizeof(pidfd)); /* made for us: it follows from the credentials */
		close_fd_p(&pidfd);
	} else if (c->cmsg_level != SOL_SOCKET || !made_on_receipt(c->cmsg_type)) {
		p->odd = true;
	}
}

/* Looks at up to @len bytes at the offset of @w. Descriptors in flight are then open here, too. */
static int look_into(struct walk *w, char *buf, size_t len, struct peek *p)
{
	union control control;
	struct iovec iov = { buf, len };
	struct msghdr m = {
		.msg_name = &p->from, .msg_namelen = sizeof(p->from), .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = &control, .msg_controllen = sizeof(control),
	};
	int flags = MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC;

	memset(p, 0, offsetof(struct peek, fds));
	p->n_fds = 0;
	p->odd = false;
	if (set_option(w->fd, SO_PEEK_OFF, (int)w->off) < 0)
		return file_errno(w->op, &w->u->view, "look at its queue");
	if (w->u->msg->type != SOCK_STREAM)
		flags |= MSG_TRUNC;
	do
		p->n = recvmsg(w->fd, &m, flags);
	while (p->n < 0 && errno == EINTR);
	if (p->n < 0)
		return errno == EAGAIN || errno == EFAULT ? 0 : file_errno(w->op, &w->u->view, "look at its queue");
	p->flags = m.msg_flags;
	p->from_len = m.msg_namelen;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		take_cmsg(p, c);
	if (!p->odd && !(p->flags & MSG_CTRUNC))
		return 0;
	close_rights(p);
	if (p->odd)
		return file_refuse(w->op, &w->u->view, "unix socket", "let the program receive it before the checkpoint",
				   "a control message of a kind that is not known is in its queue");
	return file_refuse(w->op, &w->u->view, "unix socket", "this process may need a higher RLIMIT_NOFILE",
			   "the descriptors in its queue cannot be looked at");
}

static int look(struct walk *w, size_t len, struct peek *p)
{
	return look_into(w, w->buf, len, p);
}

static int note_extra(struct op *op, const struct walk *w, const struct peek *p, struct unix_packet *pk)
{
	bool cred = p->has_cred && p->cred.pid && p->cred.uid != OVERFLOW_ID;
	bool from = w->u->msg->type == SOCK_DGRAM && p->from_len > offsetof(struct sockaddr_un, sun_path);

	if (!cred && !from)
		return 0;
	pk->extra = msg_new(op, SockPacketExtra, sock_packet_extra);
	if (!pk->extra)
		return CKPT_E_NOMEM;
	if (cred) {
		msg_set(pk->extra, pid, (uint32_t)p->cred.pid);
		msg_set(pk->extra, uid, p->cred.uid);
		msg_set(pk->extra, gid, p->cred.gid);
	}
	if (from) {
		pk->extra->has_from = 1;
		pk->extra->from.len = p->from_len - offsetof(struct sockaddr_un, sun_path);
		pk->extra->from.data = arena_memdup(op->arena, p->from.sun_path, pk->extra->from.len);
		if (!pk->extra->from.data)
			return op_nomem(op);
	}
	return 0;
}

/* Descriptors of @p go to the file layer, which finds out what they are. */
static int note_rights(struct walk *w, struct peek *p, SkPacketEntry *m)
{
	struct op *op = w->op;
	ScmEntry *scm = msg_new(op, ScmEntry, scm_entry);
	size_t n = p->n_fds;
	int r = 0;

	m->scm = op_alloc(op, sizeof(*m->scm));
	if (!scm || !m->scm)
		return CKPT_E_NOMEM;
	m->scm[0] = scm;
	m->n_scm = 1;
	scm->type = SCM_RIGHTS;
	scm->rights = op_alloc(op, n * sizeof(*scm->rights));
	if (!scm->rights)
		return CKPT_E_NOMEM;
	scm->n_rights = n;
	w->n_rights += n;
	p->n_fds = 0;
	for (size_t i = 0; i < n; i++) {
		if (r)
			close_fd_p(&p->fds[i]);
		else
			r = file_flight(op, w->s, &w->u->view, p->fds[i], &scm->rights[i]);
	}
	return r;
}

/* A packet of the @n bytes at @data, with what @p holds. */
static int note_packet(struct walk *w, struct peek *p, const char *data, size_t n, bool rights)
{
	struct op *op = w->op;
	struct unix_packet *pk = op_new(op, struct unix_packet), **slot;
	int r;

	slot = pk ? ARRAY_ADD(op->arena, &w->s->file_state->unix_sockets->packets) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = pk;
	pk->msg = msg_new(op, SkPacketEntry, sk_packet_entry);
	pk->bytes = arena_memdup(op->arena, data, n + 1);
	if (!pk->msg || !pk->bytes)
		return op_nomem(op);
	pk->msg->id_for = w->u->file->id;
	pk->msg->length = (uint32_t)n;
	r = note_extra(op, w, p, pk);
	if (!r && rights && p->n_fds)
		r = note_rights(w, p, pk->msg);
	return r;
}

static int grow(struct walk *w, size_t size)
{
	if (size <= w->size)
		return 0;
	if (size > QUEUE_LIMIT)
		return file_refuse(w->op, &w->u->view, "unix socket", NULL, "what is queued in it is too long");
	w->buf = op_alloc(w->op, size + 1);
	w->size = w->buf ? size : 0;
	return w->buf ? 0 : CKPT_E_NOMEM;
}

/* --------------------------------------------------------------------------------------------------- the walks */

/* Sockets with message boundaries. 1: there is no further message. */
static int walk_message(struct walk *w)
{
	struct peek p;
	int r = look(w, w->size, &p);

	if (!r && p.n > (ssize_t)w->size) {
		close_rights(&p);
		r = grow(w, (size_t)p.n);
		r = r ? r : look(w, w->size, &p);
	}
	if (r)
		return r;
	/* At the end of a closed connection there is nothing either, but a message of no bytes has credentials. */
	if (p.n < 0 || (p.n == 0 && !p.has_cred))
		return 1;
	r = note_packet(w, &p, w->buf, (size_t)p.n, true);
	close_rights(&p);
	w->off += (size_t)p.n;
	return r;
}

/*
 * Where, within the @n bytes that were seen, the message with descriptors begins, which is the last one: a reader that stops
 * before it must not get them. The kernel copies message by message and ends a read with what it had when it cannot write
 * any more. So the last byte of the room ends in memory that nobody may write.
 */
static int find_start(struct walk *w, size_t n, size_t *start)
{
	size_t room = ALIGN_UP(n, PAGE_SIZE);
	char *map = mmap(NULL, room + PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct peek p;
	int r;

	if (map == MAP_FAILED || mprotect(map + room, PAGE_SIZE, PROT_NONE) < 0)
		return op_nomem(w->op);
	r = look_into(w, map + room - (n - 1), n, &p);
	close_rights(&p);
	munmap(map, room + PAGE_SIZE);
	*start = p.n > 0 ? (size_t)p.n : 0;
	return r;
}

/* A stream: up to where the kernel ends a read, which is after descriptors and where credentials change. */
static int walk_stream(struct walk *w)
{
	size_t start = 0, n;
	struct peek p;
	char *bytes;
	int r = look(w, w->size, &p);

	if (r || p.n <= 0)
		return r ? r : 1;
	n = (size_t)p.n;
	bytes = p.n_fds ? arena_memdup(w->op->arena, w->buf, n) : w->buf;
	if (!bytes)
		r = op_nomem(w->op);
	if (!r && p.n_fds)
		r = find_start(w, n, &start);
	if (!r && start)
		r = note_packet(w, &p, bytes, start, false);
	r = r ? r : note_packet(w, &p, bytes + start, n - start, true);
	close_rights(&p);
	w->off += n;
	return r;
}

/* "scm_fds: 3" of fdinfo: descriptors in the queue. Newer kernels show it. */
static bool rights_shown(struct op *op, const struct fd_view *v, size_t *n)
{
	const char *rest = arena_strndup(op->arena, v->info.rest ? v->info.rest : "", v->info.rest_len);
	const char *line = rest ? strstr(rest, "scm_fds:") : NULL;

	if (!line)
		return false;
	*n = strtoul(line + strlen("scm_fds:"), NULL, 10);
	return true;
}

static int check_complete(struct walk *w, bool stream)
{
	const struct fd_view *v = &w->u->view;
	size_t shown;

	if (stream && w->queued != w->off)
		return file_refuse(w->op, v, "unix socket", "let the program receive it before the checkpoint",
				   "%zu bytes are in its queue, and only %zu of them can be looked at", w->queued, w->off);
	if (rights_shown(w->op, v, &shown) && shown != w->n_rights)
		return file_refuse(w->op, v, "unix socket", "let the program receive them before the checkpoint",
				   "%zu descriptors are in its queue, and only %zu of them can be looked at", shown, w->n_rights);
	return 0;
}

/* Where credentials have the numbers that the tree knows. */
static int walk_queue(struct op *op, void *arg)
{
	struct walk *w = arg;
	bool stream = w->u->msg->type == SOCK_STREAM;
	char byte;
	int r = begin(w), r2;

	(void)op;
	if (!r && stream && recv(w->fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) >= 0)
		r = file_refuse(w->op, &w->u->view, "unix socket", "let the program receive it before the checkpoint",
				"urgent data (MSG_OOB) is in its queue");
	/* Not beyond the end of a stream: an error that waits there would be taken away. */
	while (!r && (!stream || w->off < w->queued))
		r = stream ? walk_stream(w) : walk_message(w);
	r2 = end(w);
	if (r < 0)
		return r;
	return r2 ? r2 : check_complete(w, stream);
}

int unix_queue_dump(struct op *op, struct snapshot *s, int fd, struct unix_seen *u)
{
	struct walk w = { .op = op, .s = s, .u = u, .fd = fd };
	int queued = 0, r;
	size_t shown;

	if (u->msg->state == UNIX_LISTEN) {
		if (rights_shown(op, &u->view, &shown) && shown)
			return file_refuse(op, &u->view, "unix socket", "let the program accept them before the checkpoint",
					   "descriptors were sent on connections that wait to be accepted");
		return 0;
	}
	/* Empty, the common case: nothing is changed. A message of no bytes shows only as something to read. */
	if (ioctl(fd, FIONREAD, &queued) < 0)
		return file_errno(op, &u->view, "ask how much is queued in it");
	if (!queued && (u->msg->type == SOCK_STREAM || !u->readable))
		return 0;
	/* Whoever receives is told an error first, and it is gone then; in a stream it comes after all that is queued. */
	if (u->error && u->msg->type != SOCK_STREAM)
		return !queued && u->msg->type == SOCK_SEQPACKET ? 0 :
		       file_refuse(op, &u->view, "unix socket", "let the program receive it before the checkpoint",
				   "an error waits to be reported, before what is in its queue");
	w.queued = (size_t)queued;
	r = grow(&w, (size_t)queued + SLACK);
	return r ? r : pids_run_inside(op, s, walk_queue, &w);
}
