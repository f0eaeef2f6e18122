/* SPDX-License-Identifier: MIT */
/*
 * Dump of connections that wait to be accepted. They are found, and everything that could be in the way is asked for, before
 * anything is touched; then the queue of each listener turns once. So they wait as before when the dump fails, or leaves the
 * tree running; where it is killed, they end with their listener, and the network lock keeps that from their peers.
 */
#include <fcntl.h>
#include <linux/tcp.h>

#include "lib/image/image.h"
#include "lib/kernel/sys.h"
#include "lib/state/sock/tcp/pending.h"

#define KIND "TCP socket"
#define POOL_SLACK ((size_t)64 << 20) /* what may have come since they were listed */

/* Until the queues have turned. */
struct pending_state {
	struct pending_door door;
	bool open;
	uint64_t bytes; /* in their queues, when they were listed */
};

static const char hint_default[] = "let the program accept them first, or drop them with --skip-in-flight";

static bool listens(const struct inet_seen *u)
{
	return u->msg->state == INET_LISTEN && u->msg->type == SOCK_STREAM;
}

static int listener_copy(const struct inet_seen *u)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(u->view.pid, 0);

	return pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, u->view.fd);
}

static int count_phrase(struct op *op, const struct inet_seen *u, const char **ret)
{
	size_t n = u->waiting;

	*ret = arena_printf(op->arena, "at %s %zu connection%s not accepted yet", inet_addr_text(op, &u->local), n,
			    n == 1 ? " is" : "s are");
	return *ret ? 0 : op_nomem(op);
}

#define REFUSE(op, u, hint, ...) file_refuse(op, &(u)->view, KIND, hint, __VA_ARGS__)

/* ------------------------------------------------------------------------------------------- what cannot be done */

static int get_option(int fd, int level, int name)
{
	int value = 0;
	socklen_t n = sizeof(value);

	return getsockopt(fd, level, name, &value, &n) < 0 ? 0 : value;
}

/* Its filter would see, and might drop, what we put in. An eBPF program: EACCES. */
static bool has_filter(int fd)
{
	socklen_t n = 0;

	return getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &n) < 0 ? errno == EACCES : n > 0;
}

static int examine(struct op *op, const struct inet_seen *u, bool *fast_open)
{
	_cleanup_close_ int fd = listener_copy(u);
	const char *what;
	int r = count_phrase(op, u, &what);

	if (r)
		return r;
	if (fd < 0)
		return file_errno(op, &u->view, "copy it");
	*fast_open = get_option(fd, IPPROTO_TCP, TCP_FASTOPEN) > 0;
	if (!inet_is_tcp(u->msg->type, u->msg->proto))
		return REFUSE(op, u, hint_default, "%s; to a listener of MPTCP they could not be given back", what);
	if (has_filter(fd))
		return REFUSE(op, u, hint_default, "%s; its socket filter could drop them when they are given back", what);
	if (u->entry && u->entry->keyed)
		return REFUSE(op, u, hint_default, "%s; its segments are signed (TCP-MD5)", what);
	return 0;
}

/* The kernel would give our mark to the connections. */
static bool marks_spread(void)
{
	char c = '0';
	_cleanup_close_ int fd = open("/proc/sys/net/ipv4/tcp_fwmark_accept", O_RDONLY | O_CLOEXEC);

	return fd >= 0 && read(fd, &c, 1) == 1 && c != '0';
}

static int open_door(struct op *op, struct inet_state *is, const struct inet_seen *first, uint64_t bytes)
{
	const char *why, *what;
	int r = count_phrase(op, first, &what);

	is->pending = r ? NULL : op_new(op, struct pending_state);
	if (!is->pending)
		return CKPT_E_NOMEM;
	*is->pending = (struct pending_state){ .door = PENDING_DOOR_INIT, .bytes = bytes };
	if (marks_spread())
		return REFUSE(op, first, hint_default, "%s; with net.ipv4.tcp_fwmark_accept they would get a mark of ours", what);
	r = pending_door_open(op, &is->pending->door, &why);
	is->pending->open = r == 0;
	return r > 0 ? REFUSE(op, first, hint_default, "%s; they could not be given back: %s", what, why) : r;
}

/* ------------------------------------------------------------------------------------------------- who they are */

static bool same_address(const union inet_addr *a, const union inet_addr *b)
{
	union inet_addr x, y;

	inet_addr_on_wire(a, &x);
	inet_addr_on_wire(b, &y);
	if (x.any.sa_family != y.any.sa_family)
		return false;
	return x.any.sa_family == AF_INET6 ? !memcmp(&x.v6.sin6_addr, &y.v6.sin6_addr, sizeof(x.v6.sin6_addr))
					   : x.v4.sin_addr.s_addr == y.v4.sin_addr.s_addr;
}

/* Has nobody a descriptor of it, and could it be in the queue of @u? Others that nobody has are in states after a close(). */
static bool may_wait_at(const struct inet_entry *e, const struct inet_seen *u)
{
	if (e->ino || (e->state != INET_ESTABLISHED && e->state != INET_CLOSE_WAIT))
		return false;
	return inet_addr_port(&e->local) == inet_addr_port(&u->local) &&
	       (inet_addr_is_any(&u->local) || same_address(&e->local, &u->local));
}

void pending_tuple(const union inet_addr *local, const union inet_addr *peer, struct netlock_tuple *t)
{
	union inet_addr l, p;

	inet_addr_on_wire(local, &l);
	inet_addr_on_wire(peer, &p);
	*t = (struct netlock_tuple){ .family = l.any.sa_family, .local_port = inet_addr_port(&l), .peer_port = inet_addr_port(&p) };
	if (l.any.sa_family == AF_INET6) {
		t->local.v6 = l.v6.sin6_addr;
		t->peer.v6 = p.v6.sin6_addr;
	} else {
		t->local.v4 = l.v4.sin_addr;
		t->peer.v4 = p.v4.sin_addr;
	}
}

struct found {
	const struct inet_seen *fast_open; /* a listener where connections may still be in their handshake */
	size_t n;		/* in the listing */
	uint64_t bytes;		/* in their queues */
	size_t before, after;	/* so many waited */
};

static int take_entry(struct op *op, const struct inet_state *is, const struct inet_entry *e, netlock_tuples *tuples, struct found *f)
{
	struct netlock_tuple *t;
	const struct inet_seen *u = NULL;

	for (size_t i = 0; i < is->all_seen.n && !u; i++)
		if (is->all_seen.v[i]->waiting && may_wait_at(e, is->all_seen.v[i]))
			u = is->all_seen.v[i];
	if (!u)
		return 0;
	if (e->peer.any.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&e->peer.v6.sin6_addr) && !(u->entry && u->entry->ifindex))
		return REFUSE(op, u, hint_default, "a connection from %s, which holds for one link only, is not accepted yet",
			      inet_addr_text(op, &e->peer));
	t = ARRAY_ADD(op->arena, tuples);
	if (!t)
		return op_nomem(op);
	pending_tuple(&e->local, &e->peer, t);
	f->n++;
	f->bytes += e->rqueue;
	return 0;
}

/* A listing of its own: that of the operation may be older than what waits. */
static int find_all(struct op *op, struct inet_state *is, netlock_tuples *tuples, struct found *f)
{
	struct inet_state *now = op_new(op, struct inet_state);
	int r = now ? 0 : CKPT_E_NOMEM;

	for (int six = 0; !r && six < 2; six++) {
		const struct inet_listing *l;

		r = inet_listing(op, now, six ? AF_INET6 : AF_INET, IPPROTO_TCP, &l);
		for (size_t i = 0; !r && i < l->all.n; i++)
			r = take_entry(op, is, l->all.v[i], tuples, f);
	}
	return r;
}

static int count_now(struct op *op, const struct inet_seen *u, size_t *ret)
{
	_cleanup_close_ int fd = listener_copy(u);
	int n = fd < 0 ? -1 : pending_count(fd);

	*ret = n < 0 ? 0 : (size_t)n;
	return n < 0 ? file_errno(op, &u->view, "ask how many connections wait at it") : 0;
}

/*
 * The network is not held yet: more may come at any time, and queue up behind. Those that waited before the listing are in it,
 * except for those that were reset; those in it, and no others of the tree, waited after it.
 */
static int check_number(struct op *op, const struct inet_state *is, const struct inet_seen *first, struct found *f)
{
	size_t n;
	int r = 0;

	for (size_t i = 0; !r && i < is->all_seen.n; i++)
		if (listens(is->all_seen.v[i])) {
			r = count_now(op, is->all_seen.v[i], &n);
			f->after += n;
		}
	if (!r && f->n > f->after)
		return REFUSE(op, first, "dump the tree that has all listeners of the port",
			      "%zu connections to its port are not accepted yet, and only %zu of them wait at listeners of the tree",
			      f->n, f->after);
	if (!r && f->n < f->before && f->fast_open)
		return REFUSE(op, f->fast_open, "try again in a moment",
			      "a connection by TCP Fast Open is not accepted yet, and not complete");
	return r;
}

/* ---------------------------------------------------------------------------------------------------- the look */

static void say_dropped(struct op *op, const struct inet_state *is, const char *why)
{
	const char *what;

	for (size_t i = 0; i < is->all_seen.n; i++)
		if (is->all_seen.v[i]->waiting && count_phrase(op, is->all_seen.v[i], &what) == 0)
			log_warn(op, "task %d: fd %d: %s: dropped (%s)", is->all_seen.v[i]->view.pid, is->all_seen.v[i]->view.fd,
				 what, why);
}

static int permit(struct op *op, const struct inet_seen *u)
{
	const char *what;
	int r = count_phrase(op, u, &what);

	if (r || op->opts->tcp_established)
		return r;
	return REFUSE(op, u, "save them with --tcp-established, or drop them with --skip-in-flight", "%s", what);
}

int pending_check(struct op *op, int copy, struct inet_seen *u)
{
	int n = listens(u) ? pending_count(copy) : 0;

	u->waiting = n > 0 ? (size_t)n : 0;
	return u->waiting && !op->opts->skip_in_flight && !op->opts->tcp_close ? permit(op, u) : 0;
}

static int examine_all(struct op *op, const struct inet_state *is, struct found *f)
{
	int r = 0;

	for (size_t i = 0; !r && i < is->all_seen.n; i++) {
		const struct inet_seen *u = is->all_seen.v[i];
		bool fast_open = false;

		r = u->waiting ? examine(op, u, &fast_open) : 0;
		f->fast_open = fast_open ? u : f->fast_open;
	}
	return r;
}

int pending_look(struct op *op, struct snapshot *s, netlock_tuples *tuples)
{
	struct inet_state *is = inet_state(op, s);
	struct inet_seen *first = NULL;
	struct found f = { 0 };
	int r = is ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; !r && i < is->all_seen.n; i++) {
		struct inet_seen *u = is->all_seen.v[i];

		r = listens(u) ? count_now(op, u, &u->waiting) : 0;
		first = first || !u->waiting ? first : u;
		f.before += u->waiting;
	}
	if (r || !first)
		return r;
	if (op->opts->skip_in_flight || op->opts->tcp_close) {
		say_dropped(op, is, op->opts->skip_in_flight ? "--skip-in-flight" : "--tcp-close");
		return 0;
	}
	r = permit(op, first) ?: examine_all(op, is, &f);
	r = r ?: find_all(op, is, tuples, &f);
	return r ?: check_number(op, is, first, &f) ?: open_door(op, is, first, f.bytes);
}

/* ------------------------------------------------------------------------------------------------- the turn */

static int note_address(struct op *op, const union inet_addr *a, ProtobufCBinaryData *ret)
{
	ret->len = inet_addr_len(a);
	ret->data = arena_memdup(op->arena, a, ret->len);
	return ret->data ? 0 : op_nomem(op);
}

static TcpStreamEntry *stream_of(struct op *op, const struct pending_conn *c)
{
	TcpStreamEntry *m = msg_new(op, TcpStreamEntry, tcp_stream_entry);

	if (!m)
		return NULL;
	m->inq_len = c->n;
	m->inq_seq = c->rcv_start + c->n + c->fin;
	m->outq_seq = c->snd_next;
	msg_set(m, unsq_len, 0);
	m->opt_mask = c->opt_mask;
	m->snd_wscale = c->snd_wscale;
	msg_set(m, rcv_wscale, c->rcv_wscale);
	msg_set(m, timestamp, c->timestamp);
	m->mss_clamp = c->mss;
	msg_set(m, snd_wl1, c->snd_wl1);
	msg_set(m, snd_wnd, c->snd_wnd);
	msg_set(m, max_window, c->max_window);
	msg_set(m, rcv_wnd, c->rcv_wnd);
	msg_set(m, rcv_wup, c->rcv_wup);
	return m;
}

static int note_conn(struct op *op, const struct pending_pool *p, const struct pending_conn *c, PendingConnection **ret)
{
	PendingConnection *m = msg_new(op, PendingConnection, pending_connection);

	*ret = m;
	if (!m)
		return CKPT_E_NOMEM;
	m->state = c->state == INET_CLOSE || c->state == INET_CLOSE_WAIT ? c->state : INET_ESTABLISHED;
	m->stream = stream_of(op, c);
	if (!m->stream || note_address(op, &c->local, &m->local) || note_address(op, &c->peer, &m->peer))
		return CKPT_E_NOMEM;
	if (!c->n)
		return 0;
	m->has_in_queue = 1;
	m->in_queue.len = c->n;
	m->in_queue.data = arena_memdup(op->arena, p->bytes + c->at, c->n);
	return m->in_queue.data ? 0 : op_nomem(op);
}

static int note_all(struct op *op, struct snapshot *s, struct inet_seen *u, const struct pending_pool *p, size_t n)
{
	int r = 0;

	if (!n)
		return 0;
	u->extra->pending = op_alloc(op, n * sizeof(*u->extra->pending));
	if (!u->extra->pending)
		return CKPT_E_NOMEM;
	for (size_t i = 0; !r && i < n; i++)
		r = note_conn(op, p, &p->conns[i], &u->extra->pending[i]);
	u->extra->n_pending = n;
	u->noted = true;
	return r ?: snapshot_mark(op, s, IMG_OWN_PENDING);
}

static int turn_failed(struct op *op, const struct inet_seen *u, const struct pending_turn *t)
{
	const struct pending_conn *c = &t->conns[t->done];
	const char *error = strerror(t->fault.err);

	if (c->where == PENDING_ASIDE)
		return REFUSE(op, u, hint_default, "a connection that waits at %s cannot be saved: %s: %s",
			      inet_addr_text(op, &u->local), t->fault.step, error);
	return op_fail(op, CKPT_E_KERNEL, AT(.pid = u->view.pid, AT_FD(u->view.fd), .kind = KIND),
		       "fd %d: the connection from %s to %s was not accepted yet, and is lost: cannot %s: %s", u->view.fd,
		       inet_addr_text(op, &c->peer), inet_addr_text(op, &c->local), t->fault.step, error);
}

static int dump_listener(struct op *op, struct snapshot *s, const struct pending_state *ps, struct inet_seen *u)
{
	struct pending_turn t = { .take = true, .n = u->waiting, .ifindex = u->entry ? u->entry->ifindex : 0 };
	_cleanup_close_ int fd = listener_copy(u);
	_cleanup_(pending_pool_free) struct pending_pool p = { 0 };
	int r;

	if (fd < 0)
		return file_errno(op, &u->view, "copy it");
	r = pending_pool_new(op, &p, t.n, ps->bytes + POOL_SLACK + (t.n << 20));
	if (r)
		return r;
	t.listener = fd;
	t.conns = p.conns;
	r = pending_turn_run(op, &ps->door, &p, &t);
	if (!r && t.done < t.n && t.fault.step)
		r = turn_failed(op, u, &t);
	return r ?: note_all(op, s, u, &p, t.done);
}

int pending_dump(struct op *op, struct snapshot *s)
{
	struct inet_state *is = inet_state(op, s);
	int r = is ? 0 : CKPT_E_NOMEM;

	if (r || !is->pending || !is->pending->open)
		return r;
	for (size_t i = 0; !r && i < is->all_seen.n; i++)
		if (is->all_seen.v[i]->waiting)
			r = dump_listener(op, s, is->pending, is->all_seen.v[i]);
	pending_done(is);
	return r;
}

void pending_done(struct inet_state *is)
{
	if (is->pending && is->pending->open)
		pending_door_close(&is->pending->door);
	is->pending = NULL;
}
