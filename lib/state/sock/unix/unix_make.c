/* SPDX-License-Identifier: MIT */
/*
 * Restore of UNIX sockets, all of them at once and before any task exists: sockets and pairs, names, listeners,
 * connections, queues, options, shutdowns. Each step finds what it needs done by the steps before it, so nothing is tried
 * twice. Calls that leave credentials are made by stand-ins (stand_in.c).
 */
#include "lib/kernel/uapi.h"
#include "lib/state/sock/unix/unix.h"

/* ------------------------------------------------------------------------------------------- who makes the calls */

struct call {
	struct unix_sk *sk, *result[2]; /* whose descriptors come out */
	const PeerCred *cred;
	struct stand_in_job job;
	bool done;
};
struct calls {
	ARRAY(struct call *) v;
};

static bool same_cred(const PeerCred *a, const PeerCred *b)
{
	if (!a || !b)
		return a == b;
	return a->pid == b->pid && a->uid == b->uid && a->gid == b->gid && a->n_groups == b->n_groups &&
	       (!a->n_groups || memcmp(a->groups, b->groups, a->n_groups * sizeof(*a->groups)) == 0);
}

/* As we call users and groups; one that has no place in the tree's user namespace is nobody in particular: ours stays. */
static PeerCred *outside(struct op *op, const struct unix_state *us, const PeerCred *c)
{
	PeerCred *m = arena_memdup(op->arena, c, sizeof(*c));

	if (!m)
		return NULL;
	m->uid = ns_uid_outside(us->s, c->uid);
	m->gid = ns_gid_outside(us->s, c->gid);
	m->groups = op_alloc(op, (c->n_groups + 1) * sizeof(*m->groups));
	m->n_groups = 0;
	for (size_t i = 0; m->groups && i < c->n_groups; i++) {
		m->groups[m->n_groups] = ns_gid_outside(us->s, c->groups[i]);
		m->n_groups += m->groups[m->n_groups] != (uint32_t)-1;
	}
	return m->groups ? m : NULL;
}

/* The credentials of a task that has the socket: the best guess where the images have none, as those of others. */
static PeerCred *guess(struct op *op, struct unix_state *us, const struct unix_sk *sk)
{
	const struct snap_task *t = index_find(&us->owners, KEY(sk->m->id));
	const CredsEntry *c = t && t->threads.n && t->threads.v[0].core->thread_core ? t->threads.v[0].core->thread_core->creds : NULL;
	PeerCred *m = c ? msg_new(op, PeerCred, peer_cred) : NULL;

	if (!m)
		return NULL;
	m->pid = (uint32_t)t->pid;
	m->uid = ns_uid_outside(us->s, c->euid);
	m->gid = ns_gid_outside(us->s, c->egid);
	m->groups = op_alloc(op, (c->n_groups + 1) * sizeof(*m->groups));
	if (!m->groups)
		return NULL;
	for (; m->n_groups < c->n_groups; m->n_groups++)
		m->groups[m->n_groups] = ns_gid_outside(us->s, c->groups[m->n_groups]);
	return m;
}

static int index_owners(struct op *op, struct snapshot *s, struct unix_state *us)
{
	int r = 0;

	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t j = 0; !r && j < s->tasks.v[i].fds.n; j++) {
			const FdinfoEntry *e = s->tasks.v[i].fds.v[j];

			if (e->type == FD_TYPES__UNIXSK && !index_find(&us->owners, KEY(e->id)))
				r = index_add(op, &us->owners, KEY(e->id), &s->tasks.v[i]);
		}
	return r;
}

/* Those that @told shows as its peer's; they are of whoever made @made. In a new pid namespace no number can be had yet. */
static const PeerCred *maker(struct op *op, struct unix_state *us, const struct unix_sk *made, const struct unix_sk *told)
{
	PeerCred *m = told->x && told->x->peer ? outside(op, us, told->x->peer) : NULL, *copy;

	m = m ? m : guess(op, us, made);
	if (!m || !m->pid || !op->opts->new_pidns)
		return m;
	copy = arena_memdup(op->arena, m, sizeof(*m));
	if (copy)
		copy->pid = 0;
	us->number_taken = true;
	return copy;
}

static struct call *call_add(struct op *op, struct calls *calls, enum stand_in_call what, struct unix_sk *sk, const PeerCred *cred)
{
	struct call *c = op_new(op, struct call), **slot;

	slot = c ? ARRAY_ADD(op->arena, &calls->v) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*slot = c;
	c->sk = sk;
	c->cred = cred;
	c->job = (struct stand_in_job){ .call = what, .fd = sk->f->fd, .type = (int)sk->m->type, .listener = -1, .file = -1,
					.root = -1, .dir = -1, .move_dir = -1 };
	return c;
}

static int take_results(struct op *op, const struct call *c)
{
	for (size_t i = 0; i < 2; i++) {
		if (c->job.result[i] < 0)
			continue;
		c->result[i]->f->fd = file_high(c->job.result[i]);
		if (c->result[i]->f->fd < 0)
			return unix_sys(op, c->sk, "move its descriptor");
	}
	if (!c->job.err)
		return 0;
	if (c->job.err == EAGAIN)
		return image_bad(op, "%s: more connections wait at its listener than that takes", unix_what(op, c->sk));
	return op_errno(op, c->job.err, AT(.kind = "unix socket"), "%s: cannot %s", unix_what(op, c->sk), c->job.step);
}

static int run_some(struct op *op, struct unix_state *us, struct call *const *some, size_t n)
{
	struct stand_in_job **jobs = op_alloc(op, n * sizeof(*jobs));
	int r;

	if (!jobs)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < n; i++)
		jobs[i] = &some[i]->job;
	r = stand_in_run(op, us->s, some[0]->cred, jobs, n, &us->number_taken);
	for (size_t i = 0; i < n; i++) {
		int r2 = r ? 0 : take_results(op, some[i]);

		some[i]->done = true;
		r = r ? r : r2;
	}
	return r;
}

/* Those of the same maker in one go; with @ordered, only such that follow each other. */
static int calls_run(struct op *op, struct unix_state *us, const struct calls *calls, bool ordered)
{
	struct call **some = op_alloc(op, (calls->v.n + 1) * sizeof(struct call *));
	int r = some ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; !r && i < calls->v.n; i++) {
		size_t n = 0;

		if (calls->v.v[i]->done)
			continue;
		for (size_t j = i; j < calls->v.n; j++) {
			if (!calls->v.v[j]->done && same_cred(calls->v.v[j]->cred, calls->v.v[i]->cred))
				some[n++] = calls->v.v[j];
			else if (ordered)
				break;
		}
		r = op_check_cancel(op);
		r = r ? r : run_some(op, us, some, n);
	}
	return r;
}

/* --------------------------------------------------------------------------------------------- sockets and pairs */

static int make_given(struct op *op, struct unix_sk *sk)
{
	char key[32];
	int given;

	if (sk->m->uflags & UNIX_EXTERNAL)
		return 0;
	snprintf(key, sizeof(key), "socket:[%u]", sk->m->ino);
	given = inherit_find(op, key);
	if (sock_family(given) != AF_UNIX || sock_get_int(given, SO_TYPE) != (int)sk->m->type)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "unix socket"),
			       "%s: descriptor %d, given by --inherit-fd, is no unix socket of its type", unix_what(op, sk), given);
	sk->f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	if (sk->queue.n)
		log_warn(op, "%s: what was queued in it is lost: it is given from outside", unix_what(op, sk));
	return sk->f->fd < 0 ? unix_sys(op, sk, "copy the descriptor given for it") : 0;
}

static int make_sockets(struct op *op, struct unix_state *us)
{
	struct calls calls = { 0 };
	int r = 0;

	for (size_t i = 0; !r && i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];
		struct call *c;

		if (sk->outside) {
			r = make_given(op, sk);
		} else if (sk->partner && sk->partner->f->fd < 0 && sk->f->fd < 0 && !sk->pairing) {
			c = call_add(op, &calls, STAND_IN_PAIR, sk, maker(op, us, sk, sk));
			if (!c)
				return CKPT_E_NOMEM;
			c->result[0] = sk;
			c->result[1] = sk->partner;
			sk->pairing = sk->partner->pairing = true;
		} else if (!sk->partner && !sk->accepted) {
			/* Not to wait: a lying image could have us wait for ever. */
			sk->f->fd = file_high(socket(AF_UNIX, (int)sk->m->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
			r = sk->f->fd < 0 ? unix_sys(op, sk, "create it") : 0;
		}
	}
	return r ? r : calls_run(op, us, &calls, false);
}

/* ------------------------------------------------------------------------------------------------ listen, connect */

static size_t n_waiting(const struct unix_state *us, const struct unix_sk *listener)
{
	size_t n = 0;

	for (size_t i = 0; i < us->socks.n; i++)
		n += us->socks.v[i]->waiting && us->socks.v[i]->listener == listener;
	return n;
}

/* @first: with room for what waits; else the final size, where that is less: listen() may have been called again. */
static int listen_all(struct op *op, struct unix_state *us, bool first)
{
	struct calls calls = { 0 };

	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];
		struct call *c;
		size_t n;

		if (sk->m->state != UNIX_LISTEN || sk->outside || (sk->fake && !first))
			continue;
		n = n_waiting(us, sk);
		if (!first && n <= sk->m->backlog)
			continue;
		c = call_add(op, &calls, STAND_IN_LISTEN, sk, maker(op, us, sk, sk));
		if (!c)
			return CKPT_E_NOMEM;
		c->job.backlog = (int)MIN(first ? MAX(n, sk->m->backlog) : sk->m->backlog, (size_t)INT32_MAX);
	}
	return calls_run(op, us, &calls, false);
}

socklen_t unix_address(const struct unix_sk *sk, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (sk->file >= 0) {
		snprintf(addr->sun_path, sizeof(addr->sun_path), "/proc/self/fd/%d", sk->file);
		return sizeof(*addr);
	}
	if (!sk->m->name.len || (!sk->outside && sk->m->name.data[0]))
		return 0;
	memcpy(addr->sun_path, sk->m->name.data, sk->m->name.len);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sk->m->name.len);
}

static struct call *connect_add(struct op *op, struct calls *calls, struct unix_sk *client, const struct unix_sk *listener,
				const PeerCred *cred)
{
	struct call *c = call_add(op, calls, STAND_IN_CONNECT, client, cred);

	if (!c)
		return NULL;
	c->job.file = listener->file;
	c->job.addr_len = unix_address(listener, &c->job.addr);
	return c;
}

/* Connections that were accepted: one after the other, each accepted before the next one comes. */
static int connect_accepted(struct op *op, struct unix_state *us)
{
	struct calls calls = { 0 };

	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];
		struct call *c;

		if (!sk->accepted)
			continue;
		c = connect_add(op, &calls, sk->peer, sk->listener, maker(op, us, sk->peer, sk));
		if (!c)
			return CKPT_E_NOMEM;
		c->job.listener = sk->listener->f->fd;
		c->result[0] = sk;
	}
	return calls_run(op, us, &calls, false);
}

/* Those that wait, in the order in which they will be accepted. What they show of the listener is all that is known. */
static int connect_waiting(struct op *op, struct unix_state *us)
{
	struct calls calls = { 0 };

	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		for (size_t j = 0; sk->x && j < sk->x->n_pending; j++) {
			struct unix_sk *client = index_find(&us->inodes, KEY(sk->x->pending[j]));

			if (client->connected)
				continue;
			client->connected = true;
			if (!connect_add(op, &calls, client, sk, guess(op, us, client)))
				return CKPT_E_NOMEM;
		}
	}
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (sk->waiting && !sk->connected && !connect_add(op, &calls, sk, sk->listener, guess(op, us, sk)))
			return CKPT_E_NOMEM;
	}
	return calls_run(op, us, &calls, true);
}

/* ----------------------------------------------------------------------------------------------------- datagrams */

static bool datagrams(const struct unix_sk *sk)
{
	return sk->m->type == SOCK_DGRAM && !sk->outside;
}

/* Ends of a pair that are connected elsewhere, or that others connect to, are disconnected first. */
static int settle_pairs(struct op *op, struct unix_state *us)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };

	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!datagrams(sk) || !sk->partner)
			continue;
		sk->connected = sk->peer == sk->partner && (!sk->n_before || !sk->partner->m->name.len);
		if (!sk->connected && connect(sk->f->fd, &none, sizeof(none)) < 0)
			return unix_sys(op, sk, "disconnect it");
	}
	return 0;
}

/* Nobody but its peer can connect to a connected socket, so that the others come first. */
static void count_before(struct unix_state *us)
{
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (datagrams(sk) && sk->peer && datagrams(sk->peer) && sk->peer != sk && sk->peer->peer != sk)
			sk->peer->n_before++;
	}
}

static int connect_datagrams_one(struct op *op, struct unix_sk *sk)
{
	struct sockaddr_un addr;
	socklen_t len = unix_address(sk->peer, &addr);

	if (!len)
		return image_bad(op, "%s: its peer has no name to connect to", unix_what(op, sk));
	if (sk->peer->outside && addr.sun_path[0] != '/' && addr.sun_path[0])
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "unix socket"), "%s: its peer has a relative name, %s",
			       unix_what(op, sk), addr.sun_path);
	if (connect(sk->f->fd, (struct sockaddr *)&addr, len) < 0)
		return op_errno(op, errno, AT(.kind = "unix socket"), "%s: cannot connect it to %s%s", unix_what(op, sk),
				sk->peer->outside ? "its peer outside, " : "its peer", sk->peer->outside ? addr.sun_path : "");
	sk->connected = true;
	return 0;
}

static int connect_datagrams(struct op *op, struct unix_state *us)
{
	struct unix_sk **ready = op_alloc(op, (us->socks.n + 1) * sizeof(struct unix_sk *));
	size_t n = 0, left = 0;

	if (!ready)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!datagrams(sk) || !sk->peer)
			continue;
		left++;
		if (!sk->n_before || sk->connected)
			ready[n++] = sk;
	}
	for (size_t i = 0; i < n; i++, left--) {
		struct unix_sk *sk = ready[i], *peer = sk->peer;
		int r = sk->connected ? 0 : connect_datagrams_one(op, sk);

		if (r)
			return r;
		if (datagrams(peer) && peer != sk && peer->peer != sk && --peer->n_before == 0 && peer->peer && !peer->connected)
			ready[n++] = peer;
	}
	return left ? image_bad(op, "files.img: unix sockets are connected in a circle") : 0;
}

/* ------------------------------------------------------------------------------------------------ the last touches */

static int fill_all(struct op *op, struct snapshot *s, struct unix_state *us, bool last)
{
	int r = 0;

	for (size_t i = 0; !r && i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (sk->queue.n && !sk->outside && (last || datagrams(sk)))
			r = unix_fill(op, s, sk, last);
	}
	return r;
}

static int finish_one(struct op *op, const struct unix_sk *sk)
{
	const UnixSkExtra *x = sk->x;
	int fd = sk->f->fd, r;

	r = sock_options_apply(op, fd, sk->m->opts, x ? x->options : NULL, x ? x->n_options : 0, unix_what(op, sk));
	if (r)
		return r;
	if (x && x->has_mode && (fchown(fd, x->uid, x->gid) < 0 || fchmod(fd, x->mode & 07777) < 0))
		return unix_sys(op, sk, "set its owner and mode");
	/* Makes the end of a peer that is gone leave something unread, when it is closed. */
	if (x && x->has_reset && x->reset && sk->peer && sk->peer->fake && send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return unix_sys(op, sk, "make the error that waits there");
	if (sk->m->has_shutdown && sk->m->shutdown && !(sk->peer && sk->peer->fake) &&
	    shutdown(fd, (int)sk->m->shutdown - 1) < 0)
		return unix_sys(op, sk, "shut it down");
	return file_set_flags(fd, sk->m->flags) < 0 ? unix_sys(op, sk, "set its flags") : 0;
}

static int finish_all(struct op *op, struct unix_state *us)
{
	int r = 0;

	for (size_t i = 0; !r && i < us->socks.n; i++)
		if (!us->socks.v[i]->outside && !us->socks.v[i]->fake)
			r = finish_one(op, us->socks.v[i]);
	for (size_t i = 0; !r && i < us->socks.n; i++) {
		struct unix_sk *sk = us->socks.v[i];

		if (!sk->fake)
			continue;
		close_fd_p(&sk->f->fd);
		sk->f->fd = -1;
	}
	return r ? r : unix_files_finish(op, us);
}

/* What a client sees of its listener, or an accepted socket of its client, may be a process that has its number no more. */
static void tell_of_numbers(struct op *op, const struct unix_state *us)
{
	if (us->number_taken)
		log_warn(op, "some unix sockets show another PID of their peer (SO_PEERCRED): the original number could not be had");
}

static int make_all(struct op *op, struct snapshot *s, struct unix_state *us)
{
	int r = unix_link(op, us);

	r = r ? r : index_owners(op, s, us);
	r = r ? r : make_sockets(op, us);
	r = r ? r : unix_bind_all(op, us);
	r = r ? r : listen_all(op, us, true);
	r = r ? r : connect_accepted(op, us);
	r = r ? r : connect_waiting(op, us);
	r = r ? r : listen_all(op, us, false);
	count_before(us);
	r = r ? r : settle_pairs(op, us);
	r = r ? r : unix_holders_start(op, s, us);
	r = r ? r : fill_all(op, s, us, false);
	r = r ? r : connect_datagrams(op, us);
	r = r ? r : fill_all(op, s, us, true);
	unix_holders_end(us);
	r = r ? r : finish_all(op, us);
	tell_of_numbers(op, us);
	return r;
}

int unix_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	struct unix_state *us = unix_state(op, s);
	int r;

	if (!us)
		return CKPT_E_NOMEM;
	r = us->made ? 0 : make_all(op, s, us);
	us->made = true;
	if (r || f->fd >= 0)
		return r;
	return image_bad(op, "files.img: unix socket id %u is one outside of the checkpoint", f->id);
}
