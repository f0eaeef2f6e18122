/* SPDX-License-Identifier: MIT */
/*
 * Network locks by themselves: that of a checkpoint whose restore will not come is removed, and one is made on a host that is
 * about to take an address over, before the first packet for it comes. Both go by the images alone.
 */
#include "lib/engine/lock.h"

#include "lib/state/sock/inet.h"
#include "lib/state/sock/netlock.h"

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

static void set_side(struct netlock_tuple *t, const union inet_addr *a, bool local)
{
	const void *from = t->family == AF_INET ? (const void *)&a->v4.sin_addr : &a->v6.sin6_addr;

	memcpy(local ? (void *)&t->local : &t->peer, from, t->family == AF_INET ? sizeof(struct in_addr) : sizeof(struct in6_addr));
	*(local ? &t->local_port : &t->peer_port) = inet_addr_port(a);
}

/* TCP sockets that have a peer. */
static int add_connection(struct op *op, struct snapshot *s, struct img_in *in, ProtobufCMessage *msg, void *arg)
{
	const FileEntry *f = (const FileEntry *)msg;
	const InetSkEntry *m = f->isk;
	union inet_addr local, peer;
	struct netlock_tuple *t;
	struct lock *l = arg;

	(void)s;
	(void)in;
	if (f->type != FD_TYPES__INETSK || !m || !inet_is_tcp(m->type, m->proto) || !m->dst_port || m->state == INET_LISTEN)
		return 0;
	if ((m->family != AF_INET && m->family != AF_INET6) ||
	    !inet_addr_get((int)m->family, m->n_src_addr, m->src_addr, m->src_port, &local) ||
	    !inet_addr_get((int)m->family, m->n_dst_addr, m->dst_addr, m->dst_port, &peer))
		return image_bad(op, "files.img: file id %u: the addresses of a TCP connection are none", f->id);
	inet_addr_on_wire(&local, &local);
	inet_addr_on_wire(&peer, &peer);
	if (local.any.sa_family != peer.any.sa_family)
		return image_bad(op, "files.img: file id %u: a TCP connection between IPv4 and IPv6", f->id);
	t = ARRAY_ADD(op->arena, &l->v);
	if (!t)
		return op_nomem(op);
	t->family = local.any.sa_family;
	set_side(t, &local, true);
	set_side(t, &peer, false);
	return 0;
}

static int read_images(struct op *op, struct lock *l)
{
	int r = img_dir_open_verified(op, &l->s.dir, &l->s.inventory);

	if (!r && !l->s.inventory->dump_criu_run_id)
		r = file_read_list(op, &l->s, IMG_PSTREE, 0, add_root, NULL);
	if (!r && !l->s.inventory->tcp_close)
		r = file_read_list(op, &l->s, IMG_FILES, 0, add_connection, l);
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
