/* SPDX-License-Identifier: MIT */
/* IPv4 and IPv6 sockets. Dump: one socket; restore is in inet_read.c and the files that follow it. */
#include <linux/tcp.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/inet.h"

struct inet_state *inet_state(struct op *op, struct snapshot *s)
{
	struct file_state *fs = files_state(op, s);

	if (fs && !fs->inet_sockets)
		fs->inet_sockets = op_new(op, struct inet_state);
	return fs ? fs->inet_sockets : NULL;
}

bool inet_is_tcp(uint32_t type, uint32_t proto)
{
	return type == SOCK_STREAM && (proto == IPPROTO_TCP || proto == 0);
}

const char *inet_kind_name(uint32_t family, uint32_t type, uint32_t proto)
{
	bool six = family == AF_INET6;

	if (type == SOCK_RAW)
		return six ? "raw IPv6 socket" : "raw socket";
	switch (proto) {
	case IPPROTO_TCP:
		return six ? "TCPv6 socket" : "TCP socket";
	case IPPROTO_UDP:
		return six ? "UDPv6 socket" : "UDP socket";
	case IPPROTO_UDPLITE:
		return six ? "UDP-Lite v6 socket" : "UDP-Lite socket";
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return six ? "ICMPv6 socket" : "ICMP socket";
	case IPPROTO_MPTCP:
		return "MPTCP socket";
	default:
		return six ? "IPv6 socket" : "IPv4 socket";
	}
}

static bool inet_match(const struct fd_view *v)
{
	int family = strncmp(v->link, "socket:[", 8) == 0 ? sock_family_of(v) : -1;

	return family == AF_INET || family == AF_INET6;
}

static const char *kind_name(const InetSkEntry *m)
{
	return inet_kind_name(m->family, m->type, m->proto);
}

/* ------------------------------------------------------------------------------------------------- one socket */

static int read_tcp_state(struct op *op, const struct fd_view *v, InetSkEntry *m)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);

	if (getsockopt(v->copy, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return file_errno(op, v, "read its state");
	m->state = info.tcpi_state;
	if (m->state == INET_LISTEN)
		m->backlog = info.tcpi_sacked; /* the limit, there */
	return 0;
}

static int read_addresses(struct op *op, const struct fd_view *v, struct inet_seen *u)
{
	socklen_t n = sizeof(u->local);
	int r;

	if (getsockname(v->copy, &u->local.any, &n) < 0)
		return file_errno(op, v, "read its address");
	n = sizeof(u->peer);
	u->connected = getpeername(v->copy, &u->peer.any, &n) == 0;
	if (!u->connected)
		u->peer = (union inet_addr){ .any.sa_family = (sa_family_t)u->msg->family };
	r = inet_addr_put(op, &u->local, &u->msg->n_src_addr, &u->msg->src_addr, &u->msg->src_port);
	return r ?: inet_addr_put(op, &u->peer, &u->msg->n_dst_addr, &u->msg->dst_addr, &u->msg->dst_port);
}

static int refuse(struct op *op, const struct fd_view *v, const InetSkEntry *m)
{
	const char *hint = "the program must close it before the checkpoint";

	if (m->type == SOCK_RAW)
		return file_refuse(op, v, kind_name(m), hint, "raw sockets are not supported yet");
	if (m->type == SOCK_STREAM && m->proto != IPPROTO_TCP)
		return file_refuse(op, v, kind_name(m), hint, "its protocol (%u) is not supported yet", m->proto);
	return 0;
}

static int read_socket(struct op *op, const struct snapshot *s, const struct fd_view *v, struct inet_seen *u)
{
	InetSkEntry *m = u->msg;
	int r;

	m->ino = (uint32_t)v->st.st_ino;
	m->family = (uint32_t)sock_family(v->copy);
	m->type = (uint32_t)sock_get_int(v->copy, SO_TYPE);
	m->proto = (uint32_t)sock_get_int(v->copy, SO_PROTOCOL);
	m->flags = v->info.flags;
	m->state = INET_CLOSE;
	if (s->inventory && s->inventory->root_ids && s->inventory->root_ids->has_net_ns_id)
		msg_set(m, ns_id, s->inventory->root_ids->net_ns_id);
	r = sock_check_namespace(op, v, kind_name(m)) ?: refuse(op, v, m) ?: read_addresses(op, v, u);
	if (r)
		return r;
	if (inet_is_tcp(m->type, m->proto))
		r = read_tcp_state(op, v, m);
	else if (u->connected)
		m->state = INET_ESTABLISHED;
	if (!r && inet_is_tcp(m->type, m->proto) && m->state != INET_LISTEN && (m->state != INET_CLOSE || u->connected))
		return file_refuse(op, v, kind_name(m), "the program must close it before the checkpoint",
				   "connections are not supported yet (%s to %s)", inet_addr_text(op, &u->local),
				   inet_addr_text(op, &u->peer));
	return r;
}

static struct inet_seen *seen_new(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct inet_state *is = inet_state(op, s);
	struct inet_seen *u = is ? op_new(op, struct inet_seen) : NULL, **slot;

	slot = u ? ARRAY_ADD(op->arena, &is->all_seen) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*slot = u;
	u->view = *v;
	u->view.copy = -1;
	u->file = f;
	u->msg = msg_new(op, InetSkEntry, inet_sk_entry);
	u->extra = msg_new(op, InetSkExtra, inet_sk_extra);
	if (!u->msg || !u->extra)
		return NULL;
	u->msg->id = u->extra->id = f->id;
	f->msg->isk = u->msg;
	return u;
}

static int inet_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct inet_seen *u = seen_new(op, s, v, f);
	int r;

	if (!u)
		return CKPT_E_NOMEM;
	u->msg->fown = file_fown(op, v);
	if (!u->msg->fown)
		return CKPT_E_NOMEM;
	if (sock_has_owner(v)) {
		msg_set(u->extra, mode, v->st.st_mode & 07777);
		msg_set(u->extra, uid, v->st.st_uid);
		msg_set(u->extra, gid, v->st.st_gid);
		u->noted = true;
	}
	r = read_socket(op, s, v, u);
	return r ?: inet_options_dump(op, s, v, u);
}

static int inet_write(struct op *op, struct snapshot *s)
{
	const struct inet_state *is = s->file_state->inet_sockets;
	CkptExtraEntry *x = s->extra;

	if (!is || !is->all_seen.n)
		return 0;
	if (!x)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "there is no place for what the format cannot hold of sockets");
	x->inet_sockets = op_alloc(op, is->all_seen.n * sizeof(*x->inet_sockets));
	if (!x->inet_sockets)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < is->all_seen.n; i++)
		if (is->all_seen.v[i]->noted)
			x->inet_sockets[x->n_inet_sockets++] = is->all_seen.v[i]->extra;
	return 0;
}

const struct file_kind file_inet = {
	.name = "network socket",
	.type = FD_TYPES__INETSK,
	.message = offsetof(FileEntry, isk),
	.match = inet_match,
	.dump = inet_dump,
	.write = inet_write,
	.read = inet_read,
	.open = inet_open,
};
