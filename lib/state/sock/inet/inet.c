/* SPDX-License-Identifier: MIT */
/*
 * IPv4 and IPv6 sockets. Dump: one socket; what connections need is in tcp_dump.c. Restore is in inet_read.c and the files that
 * follow it.
 */
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>

#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/sock/tcp/pending.h"

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
	case IPPROTO_SCTP:
		return "SCTP socket";
	case IPPROTO_DCCP:
		return "DCCP socket";
	case 115: /* IPPROTO_L2TP */
		return "L2TP socket";
	case 256: /* IPPROTO_SMC */
		return "SMC socket";
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

/* The peer that it has or had: getpeername() knows none of a connection that is being made, or has ended. */
static bool read_peer(const struct fd_view *v, union inet_addr *ret)
{
	socklen_t n = sizeof(*ret);

	if (getpeername(v->copy, &ret->any, &n) == 0)
		return true;
	n = sock_family(v->copy) == AF_INET6 ? sizeof(ret->v6) : sizeof(ret->v4); /* no more than it has */
	return getsockopt(v->copy, SOL_SOCKET, SO_PEERNAME, ret, &n) == 0;
}

/* What belongs to one link only is nothing without it. */
static int read_interface(struct op *op, const struct fd_view *v, struct inet_seen *u)
{
	uint32_t scope = u->local.any.sa_family == AF_INET6 ? u->local.v6.sin6_scope_id : 0;
	char name[IF_NAMESIZE];

	if (!scope && u->peer.any.sa_family == AF_INET6)
		scope = u->peer.v6.sin6_scope_id;
	if (!scope)
		return 0;
	if (!if_indextoname(scope, name))
		return file_errno(op, v, "find the interface of its address");
	u->msg->ifname = arena_strdup(op->arena, name);
	return u->msg->ifname ? 0 : op_nomem(op);
}

static int read_addresses(struct op *op, const struct fd_view *v, struct inet_seen *u)
{
	socklen_t n = sizeof(u->local);
	int r;

	if (getsockname(v->copy, &u->local.any, &n) < 0)
		return file_errno(op, v, "read its address");
	u->connected = read_peer(v, &u->peer);
	if (!u->connected)
		u->peer = (union inet_addr){ .any.sa_family = (sa_family_t)u->msg->family };
	r = inet_addr_put(op, &u->local, &u->msg->n_src_addr, &u->msg->src_addr, &u->msg->src_port);
	r = r ?: inet_addr_put(op, &u->peer, &u->msg->n_dst_addr, &u->msg->dst_addr, &u->msg->dst_port);
	return r ?: read_interface(op, v, u);
}

static int refuse(struct op *op, const struct fd_view *v, const InetSkEntry *m)
{
	bool known;

	switch (m->type) {
	case SOCK_RAW:
		return inet_options_check(op, v, m);
	case SOCK_STREAM:
		known = m->proto == IPPROTO_TCP || m->proto == IPPROTO_MPTCP;
		break;
	case SOCK_DGRAM:
		known = m->proto == IPPROTO_UDP || m->proto == IPPROTO_UDPLITE || m->proto == IPPROTO_ICMP ||
			m->proto == IPPROTO_ICMPV6;
		break;
	default:
		known = false;
	}
	if (!known)
		return file_refuse(op, v, kind_name(m), "the program must close it before the checkpoint",
				   "its protocol (%u) is not supported: what it has on its way is not shown by the kernel", m->proto);
	return inet_options_check(op, v, m);
}

static int read_stream_state(struct op *op, const struct fd_view *v, struct inet_seen *u)
{
	struct tcp_info info = { 0 };
	socklen_t n = sizeof(info);
	InetSkEntry *m = u->msg;

	if (getsockopt(v->copy, IPPROTO_TCP, TCP_INFO, &info, &n) < 0)
		return file_errno(op, v, "read its state");
	m->state = info.tcpi_state;
	if (m->state == INET_LISTEN)
		m->backlog = info.tcpi_sacked; /* the limit, there */
	if (m->proto != IPPROTO_MPTCP || (m->state == INET_CLOSE && !u->connected) || m->state == INET_LISTEN)
		return 0;
	return file_refuse(op, v, kind_name(m), "set net.mptcp.enabled to 0, or have the program use plain TCP",
			   "connections of Multipath TCP cannot be saved (%s to %s)", inet_addr_text(op, &u->local),
			   inet_addr_text(op, &u->peer));
}

/* Some that are not listed, because they are bound to nothing, or have ended, tell half of it by themselves. */
static void read_shutdown(const struct fd_view *v, struct inet_seen *u)
{
	struct pollfd p = { .fd = v->copy, .events = POLLRDHUP };
	uint32_t how = u->entry ? u->entry->shutdown : 0;
	bool ended = tcp_is_connection(u) && u->msg->state == INET_CLOSE;

	if (!u->entry && poll(&p, 1, 0) == 1 && p.revents & POLLRDHUP)
		how = ended || (p.revents & POLLHUP && u->msg->type != SOCK_STREAM) ? SK_SHUTDOWN__BOTH : SK_SHUTDOWN__READ;
	if (how)
		msg_set(u->msg, shutdown, (SkShutdown)how);
}

static int read_socket(struct op *op, struct inet_state *is, const struct fd_view *v, struct inet_seen *u)
{
	InetSkEntry *m = u->msg;
	int r;

	m->ino = (uint32_t)v->st.st_ino;
	m->family = (uint32_t)sock_family(v->copy);
	m->type = (uint32_t)sock_get_int(v->copy, SO_TYPE);
	m->proto = (uint32_t)sock_get_int(v->copy, SO_PROTOCOL);
	m->flags = v->info.flags;
	m->state = INET_CLOSE;
	r = sock_check_namespace(op, v, kind_name(m)) ?: refuse(op, v, m) ?: read_addresses(op, v, u);
	if (!r && m->type == SOCK_STREAM)
		r = read_stream_state(op, v, u);
	else if (u->connected)
		m->state = INET_ESTABLISHED;
	if (!r && (m->type == SOCK_STREAM || m->proto == IPPROTO_UDP || m->proto == IPPROTO_UDPLITE))
		r = inet_entry_of(op, is, (int)m->family, m->proto, m->ino, &u->entry);
	r = r ?: inet_read_portless_peer(op, is, u);
	if (!r)
		read_shutdown(v, u);
	/* Without permission it is refused for that, when all are known; one that is to be closed may be as it likes. */
	if (!r && inet_is_tcp(m->type, m->proto) && (!tcp_is_connection(u) || op->opts->tcp_established) && !op->opts->tcp_close)
		r = tcp_examine(op, v, u);
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
	u->msg->has_ns_id = sock_ns_id(s, &u->msg->ns_id);
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
	r = read_socket(op, inet_state(op, s), v, u);
	r = r ?: multicast_dump(op, inet_state(op, s), v->copy, u) ?: datagrams_dump(op, s, v->copy, u);
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
	return tcp_write(op, s);
}

/* Of a running task: through a copy, for a moment. */
static int inet_check(struct op *op, const struct fd_view *v)
{
	struct inet_state **is = (struct inet_state **)&v->keep[CHECK_KEEP_INET];
	_cleanup_close_ int pidfd = sys_pidfd_open(v->pid, 0);
	InetSkEntry msg = INET_SK_ENTRY__INIT;
	InetSkExtra extra = INET_SK_EXTRA__INIT;
	struct inet_seen u = { .view = *v, .msg = &msg, .extra = &extra };
	struct fd_view copied = *v;
	int r;

	*is = *is ?: op_new(op, struct inet_state);
	copied.copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
	if (!*is || copied.copy < 0) /* it has closed it since */
		return *is ? 0 : CKPT_E_NOMEM;
	r = read_socket(op, *is, &copied, &u);
	if (!r && tcp_is_connection(&u))
		r = tcp_permit(op, v, &u, 1);
	r = r ?: pending_check(op, copied.copy, &u);
	close(copied.copy);
	return r;
}

/* Both of a dump and of a restore. */
static void inet_done(struct op *op, struct snapshot *s, bool success)
{
	if (!success)
		tcp_let_go(op, s);
	inet_restore_done(op, s, success);
}

const struct file_kind file_inet = {
	.name = "network socket",
	.type = FD_TYPES__INETSK,
	.message = offsetof(FileEntry, isk),
	.match = inet_match,
	.check = inet_check,
	.dump = inet_dump,
	.complete = tcp_complete,
	.write = inet_write,
	.keep = tcp_keep,
	.end = tcp_dump_end,
	.let_go = tcp_let_go,
	.read = inet_read,
	.open = inet_open,
	.settle = inet_settle,
	.open_up = inet_open_up,
	.done = inet_done,
};
