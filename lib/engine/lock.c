/* SPDX-License-Identifier: MIT */
/*
 * Network locks by themselves: that of a checkpoint whose restore will not come is removed, and one is made on a host that is
 * about to take an address over, before the first packet for it comes. Both go by the images alone.
 */
#include "lib/engine/lock.h"

#include "lib/state/sock/inet/inet.h"
#include "lib/state/sock/tcp/pending.h"

struct lock {
	struct snapshot s;
	ARRAY(struct netlock_tuple) v;
};

static int add_root(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	struct snap_task *t = s->tasks.n ? &s->tasks.v[0] : ARRAY_ADD(op->arena, &s->tasks);

	(void)in;
	(void)arg;
	if (!t)
		return op_nomem(op);
	if (!t->ps) {
		t->ps = (PstreeEntry *)msg;
		t->pid = (pid_t)t->ps->pid;
	}
	return 0;
}

static int add_tuple(struct op *op, struct lock *l, const union inet_addr *local, const union inet_addr *peer)
{
	struct netlock_tuple *t = ARRAY_ADD(op->arena, &l->v);

	if (!t)
		return op_nomem(op);
	pending_tuple(local, peer, t);
	return 0;
}

static bool same_family(const union inet_addr *a, const union inet_addr *b)
{
	union inet_addr x, y;

	inet_addr_on_wire(a, &x);
	inet_addr_on_wire(b, &y);
	return x.any.sa_family == y.any.sa_family;
}

/* TCP sockets that have a peer. */
static int add_connection(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	const FileEntry *f = (const FileEntry *)msg;
	const InetSkEntry *m = f->isk;
	union inet_addr local, peer;

	(void)s;
	(void)in;
	if (f->type != FD_TYPES__INETSK || !m || !inet_is_tcp(m->type, m->proto) || !m->dst_port || m->state == INET_LISTEN)
		return 0;
	if ((m->family != AF_INET && m->family != AF_INET6) ||
	    !inet_addr_get((int)m->family, m->n_src_addr, m->src_addr, m->src_port, &local) ||
	    !inet_addr_get((int)m->family, m->n_dst_addr, m->dst_addr, m->dst_port, &peer))
		return image_bad(op, "files.img: file id %u: the addresses of a TCP connection are none", f->id);
	if (!same_family(&local, &peer))
		return image_bad(op, "files.img: file id %u: a TCP connection between IPv4 and IPv6", f->id);
	return add_tuple(op, arg, &local, &peer);
}

static bool address_of(const ProtobufCBinaryData *b, union inet_addr *ret)
{
	*ret = (union inet_addr){ 0 };
	if (b->len < sizeof(ret->any.sa_family) || b->len > sizeof(*ret))
		return false;
	memcpy(ret, b->data, b->len);
	return (ret->any.sa_family == AF_INET && b->len == sizeof(ret->v4)) || (ret->any.sa_family == AF_INET6 && b->len == sizeof(ret->v6));
}

/* Connections that were not accepted yet are in our own file, with their listener. */
static int add_pending(struct op *op, struct lock *l)
{
	ProtobufCMessage *msg = NULL;
	const CkptExtraEntry *x;
	union inet_addr local, peer;
	int r = img_read_one(op, l->s.dir, IMG_EXTRA, 0, &msg);

	x = (const CkptExtraEntry *)msg;
	for (size_t i = 0; !r && i < x->n_inet_sockets; i++)
		for (size_t k = 0; !r && k < x->inet_sockets[i]->n_pending; k++) {
			const PendingConnection *m = x->inet_sockets[i]->pending[k];

			if (!address_of(&m->local, &local) || !address_of(&m->peer, &peer) || !same_family(&local, &peer))
				return image_bad(op, "ckpt-extra: the addresses of a TCP connection are none");
			r = add_tuple(op, l, &local, &peer);
		}
	return r == IMG_ABSENT ? 0 : r;
}

static int read_images(struct op *op, struct lock *l)
{
	int r = img_dir_open_verified(op, &l->s.dir, &l->s.inventory);

	if (!r && !l->s.inventory->dump_criu_run_id)
		r = file_read_list(op, &l->s, IMG_PSTREE, 0, add_root, NULL);
	if (!r && !l->s.inventory->tcp_close)
		r = file_read_list(op, &l->s, IMG_FILES, 0, add_connection, l) ?: add_pending(op, l);
	return r;
}

int lock_run(struct op *op, uint64_t *n)
{
	struct lock l = { 0 };
	int r = read_images(op, &l);

	if (!r && !l.v.n)
		r = op_fail(op, CKPT_E_INVAL, NULL, "there are no TCP connections in this checkpoint: nothing is to be held");
	r = r ?: netlock_install(op, &l.s, l.v.v, l.v.n);
	if (r >= 0 && n)
		*n = l.v.n;
	l.s.dir = img_dir_close(l.s.dir);
	return r;
}

int unlock_run(struct op *op, const char *id)
{
	struct lock l = { 0 };
	int r;

	if (id)
		return netlock_remove_id(op, id);
	r = read_images(op, &l);
	r = r ?: netlock_remove(op, &l.s, l.v.v, l.v.n);
	l.s.dir = img_dir_close(l.s.dir);
	return r;
}

struct listing {
	ckpt_lock_fn fn;
	void *arg;
	int n;
};

static int on_lock(struct op *op, void *arg, const char *id, bool owned)
{
	struct ckpt_lock_info info = { .sz = sizeof(info), .id = id, .in_use = owned };
	struct listing *l = arg;

	(void)op;
	l->n++;
	if (l->fn)
		l->fn(l->arg, &info);
	return 0;
}

int locks_run(struct op *op, ckpt_lock_fn fn, void *arg)
{
	struct listing l = { .fn = fn, .arg = arg };
	int r = netlock_list(op, on_lock, &l);

	return r ?: l.n;
}
