/* SPDX-License-Identifier: MIT */
/*
 * Netlink sockets: address, groups, peer and options. What waits to be read is refused, as is an answer of which the kernel
 * still owes parts (a dump): neither can be put back, and the program would wait for the rest of it. What the kernel keeps
 * for a socket elsewhere is netlink_hidden.c's. While the program does not exist it misses what is sent to its groups.
 */
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <poll.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/link/link.h"

#define GROUP_WORDS_MAX 2048 /* more than any protocol has */
#define CLOSE 7		     /* the state of what is not connected */

#ifndef NETLINK_EXT_ACK
#define NETLINK_EXT_ACK 11
#endif
#ifndef NETLINK_GET_STRICT_CHK
#define NETLINK_GET_STRICT_CHK 12
#endif

/* Those that are on or off. LISTEN_ALL_NSID comes before groups are joined. */
static const int switches[] = {
	NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_LISTEN_ALL_NSID, NETLINK_CAP_ACK,
	NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK,
};

static bool netlink_match(const struct fd_view *v)
{
	return S_ISSOCK(v->st.st_mode) && strncmp(v->link, "socket:[", 8) == 0 && sock_family_of(v) == AF_NETLINK;
}

/* --------------------------------------------------------------------------------------------------------- dump */

static int check_idle(struct op *op, const struct fd_view *v, const struct netlink_seen *seen)
{
	short events = link_events(v->copy);

	if (seen && seen->flags & NDIAG_FLAG_CB_RUNNING)
		return file_refuse(op, v, "netlink socket", "try again when the program has read it to its end",
				   "the kernel is in the middle of an answer to it (a dump)");
	if (events & POLLIN)
		return file_refuse(op, v, "netlink socket", "try again when the program has read them",
				   "messages are queued in it, which the kernel takes from nobody but itself");
	if (events & POLLERR)
		return file_refuse(op, v, "netlink socket", "try again when the program has received from it",
				   "the program has not been told yet that messages were lost");
	return 0;
}

static int dump_groups(struct op *op, const struct fd_view *v, NetlinkSkEntry *m, NetlinkSkExtra *x)
{
	uint32_t *words = op_alloc(op, GROUP_WORDS_MAX * sizeof(*words));
	socklen_t n = GROUP_WORDS_MAX * sizeof(*words);

	if (!words)
		return CKPT_E_NOMEM;
	if (getsockopt(v->copy, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &n) < 0 || n > GROUP_WORDS_MAX * sizeof(*words))
		return file_errno(op, v, "ask for its groups");
	for (n /= sizeof(*words); n && !words[n - 1]; n--)
		;
	m->groups = words;
	m->n_groups = MIN(n, 1u);
	x->more_groups = words + 1;
	x->n_more_groups = n - m->n_groups;
	return 0;
}

static int dump_names(struct op *op, const struct fd_view *v, const struct netlink_seen *seen, NetlinkSkEntry *m)
{
	struct sockaddr_nl name;
	socklen_t n = sizeof(name);

	if (getsockname(v->copy, (struct sockaddr *)&name, &n) < 0)
		return file_errno(op, v, "ask for its address");
	m->portid = name.nl_pid;
	m->state = seen && seen->state == NETLINK_CONNECTED ? NETLINK_CONNECTED : CLOSE;
	m->dst_portid = seen ? seen->dst_portid : 0;
	m->dst_group = seen ? seen->dst_group : 0;
	return 0;
}

static uint32_t dump_switches(int fd)
{
	uint32_t on = 0;

	for (size_t i = 0; i < ARRAY_SIZE(switches); i++) {
		int value = 0;
		socklen_t n = sizeof(value);

		if (getsockopt(fd, SOL_NETLINK, switches[i], &value, &n) == 0 && value)
			on |= 1u << switches[i];
	}
	return on;
}

static int dump_options(struct op *op, struct link_state *ls, const struct fd_view *v, NetlinkSkEntry *m, NetlinkSkExtra *x)
{
	struct sock_options o = { 0 };
	uint32_t on = dump_switches(v->copy);
	int type = sock_get_int(v->copy, SO_TYPE), r = sock_options_dump(op, v, &ls->fresh[0], &o);

	m->opts = o.opts;
	x->sock_options = o.more.v;
	x->n_sock_options = o.more.n;
	if (on)
		msg_set(x, options, on);
	if (type != SOCK_RAW)
		msg_set(x, type, (uint32_t)type);
	if (sock_has_owner(v)) {
		msg_set(x, mode, v->st.st_mode & 07777);
		msg_set(x, uid, v->st.st_uid);
		msg_set(x, gid, v->st.st_gid);
	}
	return r;
}

static NetlinkSkEntry *new_entry(struct op *op, const struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	NetlinkSkEntry *m = msg_new(op, NetlinkSkEntry, netlink_sk_entry);
	NetlinkSkExtra *x = msg_new(op, NetlinkSkExtra, netlink_sk_extra);

	if (!m || !x)
		return NULL;
	m->id = x->id = f->id;
	m->ino = (uint32_t)v->st.st_ino;
	m->protocol = (uint32_t)sock_get_int(v->copy, SO_PROTOCOL);
	m->flags = v->info.flags;
	m->has_ns_id = sock_ns_id(s, &m->ns_id);
	m->fown = file_fown(op, v);
	f->msg->nlsk = m;
	f->priv = x;
	return m->fown ? m : NULL;
}

static int netlink_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct link_state *ls = link_state(op, s);
	NetlinkSkEntry *m = ls ? new_entry(op, s, v, f) : NULL;
	const struct netlink_seen *seen;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	r = sock_check_namespace(op, v, "netlink socket");
	r = r ? r : link_netlink_seen(op, ls, m->ino, &seen);
	r = r ? r : check_idle(op, v, seen);
	r = r ? r : dump_names(op, v, seen, m);
	r = r ? r : dump_groups(op, v, m, f->priv);
	r = r ? r : netlink_check_hidden(op, v, (int)m->protocol, m->portid, m->n_groups ? m->groups[0] : 0);
	return r ? r : dump_options(op, ls, v, m, f->priv);
}

/* What is queued comes and goes while the task runs: it is looked for in a dump only. */
static int netlink_check(struct op *op, const struct fd_view *v)
{
	_cleanup_close_ int copy = link_copy(v);
	struct fd_view with_copy = *v;
	struct sockaddr_nl name;
	socklen_t n = sizeof(name);
	int r;

	if (copy < 0 || getsockname(copy, (struct sockaddr *)&name, &n) < 0)
		return 0;
	with_copy.copy = copy;
	r = sock_check_namespace(op, &with_copy, "netlink socket");
	return r ? r : netlink_check_hidden(op, v, sock_get_int(copy, SO_PROTOCOL), name.nl_pid, name.nl_groups);
}

static bool is_noted(const NetlinkSkExtra *x)
{
	return x->n_more_groups || x->has_options || x->has_type || x->has_mode || x->n_sock_options;
}

static int netlink_write(struct op *op, struct snapshot *s)
{
	CkptExtraEntry *e = s->extra;

	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];

		if (f->kind != &file_netlink || !is_noted(f->priv))
			continue;
		if (!e->netlink_sockets)
			e->netlink_sockets = op_alloc(op, s->files.n * sizeof(*e->netlink_sockets));
		if (!e->netlink_sockets)
			return CKPT_E_NOMEM;
		e->netlink_sockets[e->n_netlink_sockets++] = f->priv;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------------ restore */

static uint32_t known_switches(void)
{
	uint32_t all = 0;

	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		all |= 1u << switches[i];
	return all;
}

static const char *wrong_with(const NetlinkSkEntry *m, const NetlinkSkExtra *x)
{
	if (m->protocol >= MAX_LINKS)
		return "there is no such protocol";
	if (m->n_groups > GROUP_WORDS_MAX || (x && x->n_more_groups > GROUP_WORDS_MAX))
		return "it has too many groups";
	if (x && x->n_more_groups && m->n_groups != 1)
		return "its groups make no sense";
	if (m->dst_group > 32)
		return "its peer is a group that nobody can connect to";
	if (x && x->has_type && x->type != SOCK_RAW && x->type != SOCK_DGRAM)
		return "its type is unknown";
	if (x && x->has_options && x->options & ~known_switches())
		return "it has options that are not known";
	if (m->opts->so_sndbuf > INT32_MAX || m->opts->so_rcvbuf > INT32_MAX)
		return "its buffers are too large";
	return NULL;
}

static int netlink_read(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_netlink_sockets; i++) {
		struct snap_file *f = snapshot_file(s, s->extra->netlink_sockets[i]->id);

		if (!f || f->kind != &file_netlink || f->priv)
			return image_bad(op, "ckpt-extra: file id %u is no netlink socket, or is there twice",
					 s->extra->netlink_sockets[i]->id);
		f->priv = s->extra->netlink_sockets[i];
	}
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const char *wrong = f->kind == &file_netlink ? wrong_with(f->msg->nlsk, f->priv) : NULL;

		if (wrong)
			return image_bad(op, "files.img: netlink socket id %u: %s", f->id, wrong);
	}
	return 0;
}

static int fail(struct op *op, const struct snap_file *f, const char *what)
{
	return op_errno(op, errno, AT(.kind = "netlink socket"), "netlink socket %u (file id %u, protocol %u): cannot %s",
			f->msg->nlsk->ino, f->id, f->msg->nlsk->protocol, what);
}

static int set_switches(struct op *op, const struct snap_file *f, const NetlinkSkExtra *x)
{
	const int one = 1;

	for (size_t i = 0; x && i < ARRAY_SIZE(switches); i++)
		if (x->options & 1u << switches[i] && setsockopt(f->fd, SOL_NETLINK, switches[i], &one, sizeof(one)) < 0)
			return fail(op, f, arena_printf(op->arena, "set its option %d", switches[i]) ?: "set an option");
	return 0;
}

/* The number is often that of the process, which others may have taken meanwhile; hardly a program minds. */
static int bind_it(struct op *op, const struct snap_file *f)
{
	const NetlinkSkEntry *m = f->msg->nlsk;
	struct sockaddr_nl name = { .nl_family = AF_NETLINK, .nl_pid = m->portid };
	socklen_t n = sizeof(name);

	if (!m->portid || bind(f->fd, (struct sockaddr *)&name, sizeof(name)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return fail(op, f, "bind it");
	name.nl_pid = 0;
	if (bind(f->fd, (struct sockaddr *)&name, sizeof(name)) < 0 || getsockname(f->fd, (struct sockaddr *)&name, &n) < 0)
		return fail(op, f, "bind it");
	log_warn(op, "netlink socket %u (file id %u): its address %u is in use; the kernel has chosen %u", m->ino, f->id, m->portid,
		 name.nl_pid);
	return 0;
}

static int join_word(struct op *op, const struct snap_file *f, uint32_t word, unsigned first)
{
	for (unsigned i = 0; i < 32; i++) {
		const unsigned group = first + i + 1;

		if (word >> i & 1 && setsockopt(f->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
			return fail(op, f, arena_printf(op->arena, "join its group %u", group) ?: "join a group");
	}
	return 0;
}

static int join_all(struct op *op, const struct snap_file *f, const NetlinkSkExtra *x)
{
	const NetlinkSkEntry *m = f->msg->nlsk;
	int r = 0;

	for (size_t i = 0; i < m->n_groups && !r; i++)
		r = join_word(op, f, m->groups[i], (unsigned)i * 32);
	for (size_t i = 0; x && i < x->n_more_groups && !r; i++)
		r = join_word(op, f, x->more_groups[i], (unsigned)(i + 1) * 32);
	return r;
}

static int connect_it(struct op *op, const struct snap_file *f)
{
	const NetlinkSkEntry *m = f->msg->nlsk;
	struct sockaddr_nl peer = {
		.nl_family = AF_NETLINK, .nl_pid = m->dst_portid, .nl_groups = m->dst_group ? 1u << (m->dst_group - 1) : 0,
	};

	if (m->state != NETLINK_CONNECTED)
		return 0;
	return connect(f->fd, (struct sockaddr *)&peer, sizeof(peer)) < 0 ? fail(op, f, "connect it") : 0;
}

static int netlink_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const NetlinkSkEntry *m = f->msg->nlsk;
	const NetlinkSkExtra *x = f->priv;
	const char *what = arena_printf(op->arena, "netlink socket %u (file id %u)", m->ino, f->id);
	int r;

	(void)s;
	f->fd = file_high(socket(AF_NETLINK, (int)(x && x->has_type ? x->type : SOCK_RAW) | SOCK_CLOEXEC, (int)m->protocol));
	if (f->fd < 0)
		return fail(op, f, "create it");
	r = set_switches(op, f, x);
	r = r ? r : sock_options_apply(op, f->fd, m->opts, x ? x->sock_options : NULL, x ? x->n_sock_options : 0,
				       what ?: "netlink socket");
	r = r ? r : bind_it(op, f);
	r = r ? r : join_all(op, f, x);
	r = r ? r : connect_it(op, f);
	if (!r && (file_set_flags(f->fd, m->flags) < 0 || (x && link_own(f->fd, x->has_mode, x->mode, x->uid, x->gid) < 0)))
		r = fail(op, f, "set its owner and flags");
	return r;
}

const struct file_kind file_netlink = {
	.name = "netlink socket",
	.type = FD_TYPES__NETLINKSK,
	.message = offsetof(FileEntry, nlsk),
	.match = netlink_match,
	.check = netlink_check,
	.dump = netlink_dump,
	.write = netlink_write,
	.read = netlink_read,
	.open = netlink_open,
};
