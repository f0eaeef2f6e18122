/* SPDX-License-Identifier: MIT */
/*
 * UNIX sockets. Dump: one socket, as far as it can be said without the others; restore is in unix_read.c and the files that
 * follow it. Descriptors of the peer are found by inode numbers, which sock_diag(7) gives.
 */
#include <poll.h>
#include <sys/ioctl.h>
#include <linux/sockios.h>

#include "lib/kernel/uapi.h"
#include "lib/state/pids.h"
#include "lib/state/sock/unix/unix.h"

struct unix_state *unix_state(struct op *op, struct snapshot *s)
{
	struct file_state *fs = files_state(op, s);

	if (fs && !fs->unix_sockets) {
		fs->unix_sockets = op_new(op, struct unix_state);
		if (fs->unix_sockets)
			*fs->unix_sockets = (struct unix_state){ .s = s, .scratch = -1, .nobody = -1 };
	}
	return fs ? fs->unix_sockets : NULL;
}

static bool unix_match(const struct fd_view *v)
{
	return S_ISSOCK(v->st.st_mode) && strncmp(v->link, "socket:[", 8) == 0 && sock_family_of(v) == AF_UNIX;
}

/* ---------------------------------------------------------------------------------------------------- sock_diag */

static int keep_diag(struct op *op, void *arg, const struct unix_diag *d)
{
	struct unix_state *us = arg;
	struct unix_diag *copy = arena_memdup(op->arena, d, sizeof(*d));

	if (!copy || index_find(&us->diags, KEY(d->ino)))
		return copy ? 0 : op_nomem(op);
	if (d->n_pending) {
		copy->pending = arena_memdup(op->arena, d->pending, d->n_pending * sizeof(*d->pending));
		if (!copy->pending)
			return op_nomem(op);
	}
	return index_add(op, &us->diags, KEY(d->ino), copy);
}

/* All tasks of the tree are stopped, so one listing serves for all. */
static int diag_of(struct op *op, struct unix_state *us, const struct fd_view *v, const struct unix_diag **ret)
{
	int r = us->listed ? 0 : unix_diag_list(op, keep_diag, us);

	us->listed = true;
	*ret = r ? NULL : index_find(&us->diags, KEY((uint32_t)v->st.st_ino));
	if (r || *ret)
		return r;
	return file_refuse(op, v, "unix socket", NULL, "the kernel does not list it (%s)", v->link);
}

/* ------------------------------------------------------------------------------------------------- one socket */

struct cred_question {
	int fd;
	struct ucred c;
};

static int ask_cred(struct op *op, void *arg)
{
	struct cred_question *q = arg;
	socklen_t n = sizeof(q->c);

	(void)op;
	return getsockopt(q->fd, SOL_SOCKET, SO_PEERCRED, &q->c, &n) < 0 ? IMG_ABSENT : 0;
}

/* The number of a peer that has ended is known to the kernel alone. */
static int peer_number(struct op *op, const struct snapshot *s, const struct fd_view *v, struct ucred *c)
{
	struct cred_question q = { .fd = v->copy };
	pid_t inside = pids_inside(s->pids, c->pid);
	int r = inside || c->pid <= 0 ? 0 : pids_run_inside(op, s, ask_cred, &q);

	c->pid = inside ? inside : q.c.pid;
	return r < 0 ? r : 0;
}

static int dump_peer_cred(struct op *op, const struct snapshot *s, const struct fd_view *v, struct unix_seen *u)
{
	struct cred_question q = { .fd = v->copy };
	struct ucred c;
	socklen_t len = 0;
	PeerCred *m;
	int r;

	if (ask_cred(op, &q) != 0 || (q.c.uid == (uid_t)-1 && !q.c.pid))
		return 0;
	c = q.c;
	r = peer_number(op, s, v, &c);
	if (r)
		return r;
	m = msg_new(op, PeerCred, peer_cred);
	if (!m)
		return CKPT_E_NOMEM;
	m->pid = (uint32_t)c.pid;
	m->uid = ns_uid_inside(s, c.uid);
	m->gid = ns_gid_inside(s, c.gid);
	if (getsockopt(v->copy, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) < 0 && errno == ERANGE) {
		m->groups = op_alloc(op, len);
		if (!m->groups)
			return CKPT_E_NOMEM;
		if (getsockopt(v->copy, SOL_SOCKET, SO_PEERGROUPS, m->groups, &len) < 0)
			return file_errno(op, v, "read the groups of its peer");
		m->n_groups = len / sizeof(gid_t);
		for (size_t i = 0; i < m->n_groups; i++)
			m->groups[i] = ns_gid_inside(s, m->groups[i]);
	}
	u->extra->peer = m;
	u->noted = true;
	return 0;
}

/* Owner and mode of the socket itself: those of whoever made it, unless fchown() or fchmod() changed them. */
static void note_owner(const struct fd_view *v, struct unix_seen *u)
{
	if (!sock_has_owner(v))
		return;
	msg_set(u->extra, mode, v->st.st_mode & 07777);
	msg_set(u->extra, uid, v->st.st_uid);
	msg_set(u->extra, gid, v->st.st_gid);
	u->noted = true;
}

static int dump_options(struct op *op, struct unix_state *us, const struct fd_view *v, struct unix_seen *u)
{
	struct sock_options o = { 0 };
	int r = sock_options_dump(op, v, &us->fresh[u->msg->type], &o);

	u->msg->opts = o.opts;
	u->extra->options = o.more.v;
	u->extra->n_options = o.more.n;
	u->noted = u->noted || o.more.n;
	return r;
}

static void fill_state(const struct snapshot *s, const struct fd_view *v, struct unix_seen *u)
{
	struct pollfd p = { .fd = v->copy, .events = POLLIN };
	UnixSkEntry *m = u->msg;

	m->ino = u->diag->ino;
	m->type = u->diag->type;
	m->state = u->diag->state;
	m->flags = v->info.flags;
	m->backlog = u->diag->wqueue;
	m->peer = u->diag->peer;
	if (u->diag->shutdown)
		msg_set(m, shutdown, (SkShutdown)u->diag->shutdown);
	m->has_ns_id = sock_ns_id(s, &m->ns_id);
	if (poll(&p, 1, 0) == 1) {
		u->error = p.revents & POLLERR;
		u->readable = p.revents & POLLIN;
	}
	if (ioctl(v->copy, SIOCOUTQ, &u->unread) < 0)
		u->unread = 0;
	u->peer_name_len = sizeof(u->peer_name);
	if (getpeername(v->copy, (struct sockaddr *)&u->peer_name, &u->peer_name_len) < 0 ||
	    u->peer_name_len <= offsetof(struct sockaddr_un, sun_path))
		u->peer_name_len = 0;
}

static struct unix_seen *seen_new(struct op *op, struct unix_state *us, const struct fd_view *v, struct snap_file *f)
{
	struct unix_seen *u = op_new(op, struct unix_seen), **slot;

	slot = u ? ARRAY_ADD(op->arena, &us->all_seen) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*slot = u;
	u->view = *v;
	u->view.copy = -1;
	u->file = f;
	u->msg = msg_new(op, UnixSkEntry, unix_sk_entry);
	u->extra = msg_new(op, UnixSkExtra, unix_sk_extra);
	if (!u->msg || !u->extra || index_add(op, &us->seen, KEY((uint32_t)v->st.st_ino), u))
		return NULL;
	u->msg->id = u->extra->id = f->id;
	f->msg->usk = u->msg;
	return u;
}

static int unix_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct unix_state *us = unix_state(op, s);
	struct unix_seen *u = us ? seen_new(op, us, v, f) : NULL;
	int r;

	if (!u)
		return CKPT_E_NOMEM;
	u->msg->fown = file_fown(op, v);
	r = u->msg->fown ? sock_check_namespace(op, v, "unix socket") : CKPT_E_NOMEM;
	r = r ? r : diag_of(op, us, v, &u->diag);
	if (!r && u->diag->type > SOCK_SEQPACKET)
		r = file_refuse(op, v, "unix socket", NULL, "it is of an unknown type (%u)", u->diag->type);
	if (r)
		return r;
	fill_state(s, v, u);
	note_owner(v, u);
	r = unix_name_dump(op, s, v, u);
	r = r ? r : dump_options(op, us, v, u);
	r = r ? r : dump_peer_cred(op, s, v, u);
	return r ? r : unix_queue_dump(op, s, v->copy, u);
}

/* ------------------------------------------------------------------------------------------------- its images */

static int write_queues(struct op *op, struct snapshot *s, const struct unix_state *us)
{
	struct img_out *out = NULL;
	int r, r2;

	r = img_create(op, s->dir, IMG_SK_QUEUES, 0, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < us->packets.n; i++) {
		const struct unix_packet *p = us->packets.v[i];

		r = img_write(op, out, &p->msg->base);
		if (!r && p->msg->length)
			r = img_write_payload(op, out, p->bytes, p->msg->length);
	}
	r2 = img_close(op, out);
	return r ? r : r2;
}

static int write_extra(struct op *op, struct snapshot *s, const struct unix_state *us)
{
	CkptExtraEntry *x = s->extra;

	if (!x)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "there is no place for what the format cannot hold of sockets");
	x->unix_sockets = op_alloc(op, (us->all_seen.n + 1) * sizeof(*x->unix_sockets));
	x->sock_packets = op_alloc(op, (us->packets.n + 1) * sizeof(*x->sock_packets));
	if (!x->unix_sockets || !x->sock_packets)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < us->all_seen.n; i++)
		if (us->all_seen.v[i]->noted)
			x->unix_sockets[x->n_unix_sockets++] = us->all_seen.v[i]->extra;
	for (size_t i = 0; i < us->packets.n; i++) {
		if (!us->packets.v[i]->extra)
			continue;
		us->packets.v[i]->extra->index = (uint32_t)i;
		x->sock_packets[x->n_sock_packets++] = us->packets.v[i]->extra;
	}
	return 0;
}

static int unix_write(struct op *op, struct snapshot *s)
{
	struct unix_state *us = s->file_state->unix_sockets;
	int r;

	if (!us || !us->all_seen.n)
		return 0;
	r = us->packets.n ? write_queues(op, s, us) : 0;
	return r ? r : write_extra(op, s, us);
}

static void unix_done(struct op *op, struct snapshot *s, bool success)
{
	struct unix_state *us = s->file_state->unix_sockets;

	if (!us)
		return;
	unix_holders_end(us);
	unix_names_done(op, us, success);
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		close_fd_p(&sk->file);
		sk->file = -1;
		if (!sk->fake)
			continue;
		close_fd_p(&sk->f->fd);
		sk->f->fd = -1;
	}
	for (size_t i = 0; i < us->extra_fds.n; i++)
		close_fd_p(&us->extra_fds.v[i]);
	us->extra_fds.n = 0;
	close_fd_p(&us->scratch);
	close_fd_p(&us->nobody);
	us->scratch = us->nobody = -1;
}

const struct file_kind file_unix = {
	.name = "unix socket",
	.type = FD_TYPES__UNIXSK,
	.message = offsetof(FileEntry, usk),
	.match = unix_match,
	.check = unix_check,
	.dump = unix_dump,
	.complete = unix_peers_complete,
	.write = unix_write,
	.read = unix_read,
	.open = unix_open,
	.done = unix_done,
};
