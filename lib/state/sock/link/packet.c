/* SPDX-License-Identifier: MIT */
/*
 * Packet sockets: what they are bound to, options, memberships, fanout; rings are packet_ring.c's. They name network devices
 * by index, as does the program in its memory: at the restore the same devices must have the same indexes. What is queued is
 * lost, as everything is that arrives until the restore: nobody can put a packet into such a socket.
 */
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>

#include "lib/kernel/uapi.h"
#include "lib/state/sock/link/link.h"

#define NO_FANOUT 0xffffffffu
#define NO_DEVICE 0xffffffffu /* the index of one that is gone */
#define VNET_HEADER 10	      /* bytes, of a new socket that has any */
#define MAX_MEMBERSHIPS 65536u

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef PACKET_VNET_HDR_SZ
#define PACKET_VNET_HDR_SZ 24
#endif

/* Those beyond the format that are on or off. */
static const int switches[] = { PACKET_TX_HAS_OFF, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING };

static bool packet_match(const struct fd_view *v)
{
	return S_ISSOCK(v->st.st_mode) && strncmp(v->link, "socket:[", 8) == 0 && sock_family_of(v) == AF_PACKET;
}

static int get_int(int fd, int option)
{
	int value = 0;
	socklen_t n = sizeof(value);

	return getsockopt(fd, SOL_PACKET, option, &value, &n) < 0 ? 0 : value;
}

/* --------------------------------------------------------------------------------------------------------- dump */

static int refuse(struct op *op, const struct fd_view *v, const char *hint, const char *why)
{
	return file_refuse(op, v, "packet socket", hint, "%s", why);
}

static int check_fanout(struct op *op, const struct fd_view *v)
{
	int type = get_int(v->copy, PACKET_FANOUT) >> 16 & 0xff;

	if (type != PACKET_FANOUT_CBPF && type != PACKET_FANOUT_EBPF)
		return 0;
	return refuse(op, v, "use another fanout mode, or close the socket before the checkpoint",
		      "a program chooses among the sockets of its fanout group, which the kernel shows to nobody");
}

/* A name for each index: what a restore looks for, and what people know it by. */
static int note_device(struct op *op, const struct fd_view *v, PacketSkExtra *x, uint32_t index)
{
	PacketDevice *d, **more;
	char name[IF_NAMESIZE];

	for (size_t i = 0; i < x->n_devices; i++)
		if (x->devices[i]->index == index)
			return 0;
	if (!if_indextoname(index, name))
		return file_refuse(op, v, "packet socket", "have the program close the socket",
				   "its network device (index %u) is gone", index);
	d = msg_new(op, PacketDevice, packet_device);
	more = op_alloc(op, (x->n_devices + 1) * sizeof(*more));
	if (!d || !more)
		return CKPT_E_NOMEM;
	if (x->n_devices)
		memcpy(more, x->devices, x->n_devices * sizeof(*more));
	d->index = index;
	d->name = arena_strdup(op->arena, name);
	more[x->n_devices++] = d;
	x->devices = more;
	return d->name ? 0 : op_nomem(op);
}

static int dump_binding(struct op *op, const struct fd_view *v, const struct packet_seen *seen, PacketSockEntry *m,
			PacketSkExtra *x)
{
	if (seen->info.pdi_index == NO_DEVICE)
		return refuse(op, v, "have the program close the socket", "the network device it was bound to is gone");
	m->type = (uint32_t)sock_get_int(v->copy, SO_TYPE);
	m->protocol = htons(seen->protocol);
	m->ifindex = seen->info.pdi_index;
	return m->ifindex ? note_device(op, v, x, m->ifindex) : 0;
}

/* One that was asked for several times has to be given up as often. */
static int dump_memberships(struct op *op, const struct fd_view *v, const struct packet_seen *seen, PacketSockEntry *m,
			    PacketSkExtra *x)
{
	size_t n = 0;
	int r = 0;

	for (size_t i = 0; i < seen->n_mc; i++)
		n += seen->mc[i].pdmc_count;
	if (n > MAX_MEMBERSHIPS)
		return refuse(op, v, NULL, "it has more memberships than are saved");
	m->mclist = op_alloc(op, (n + 1) * sizeof(*m->mclist));
	for (size_t i = 0; m->mclist && i < seen->n_mc && !r; i++) {
		const struct packet_diag_mclist *mc = &seen->mc[i];
		PacketMclist *e = msg_new(op, PacketMclist, packet_mclist);

		if (!e)
			return CKPT_E_NOMEM;
		e->index = mc->pdmc_index;
		e->type = mc->pdmc_type;
		e->addr.len = MIN(mc->pdmc_alen, sizeof(mc->pdmc_addr));
		e->addr.data = arena_memdup(op->arena, mc->pdmc_addr, sizeof(mc->pdmc_addr));
		if (!e->addr.data)
			return op_nomem(op);
		for (uint32_t k = 0; k < mc->pdmc_count; k++)
			m->mclist[m->n_mclist++] = e;
		r = note_device(op, v, x, e->index);
	}
	return m->mclist ? r : CKPT_E_NOMEM;
}

static void dump_properties(const struct fd_view *v, const struct packet_seen *seen, PacketSockEntry *m, PacketSkExtra *x)
{
	const struct packet_diag_info *info = &seen->info;
	int header = get_int(v->copy, PACKET_VNET_HDR_SZ);
	uint32_t on = 0;

	m->version = info->pdi_version;
	m->reserve = info->pdi_reserve;
	m->copy_thresh = info->pdi_copy_thresh;
	m->timestamp = info->pdi_tstamp;
	m->aux_data = info->pdi_flags & PDI_AUXDATA;
	m->orig_dev = info->pdi_flags & PDI_ORIGDEV;
	m->vnet_hdr = info->pdi_flags & PDI_VNETHDR;
	m->loss = info->pdi_flags & PDI_LOSS;
	if (seen->has_fanout)
		msg_set(m, fanout, (uint32_t)get_int(v->copy, PACKET_FANOUT)); /* with its flags, which sock_diag has not */
	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		on |= get_int(v->copy, switches[i]) ? 1u << switches[i] : 0;
	if (on)
		msg_set(x, options, on);
	if (header && header != VNET_HEADER)
		msg_set(x, vnet_header, (uint32_t)header);
	if (link_events(v->copy) & POLLERR)
		msg_set(x, error, true);
	if (sock_has_owner(v)) {
		msg_set(x, mode, v->st.st_mode & 07777);
		msg_set(x, uid, v->st.st_uid);
		msg_set(x, gid, v->st.st_gid);
	}
}

static int dump_options(struct op *op, struct link_state *ls, const struct fd_view *v, PacketSockEntry *m, PacketSkExtra *x)
{
	struct sock_options o = { 0 };
	int r = sock_options_dump(op, v, &ls->fresh[1], &o);

	m->opts = o.opts;
	x->sock_options = o.more.v;
	x->n_sock_options = o.more.n;
	return r;
}

static PacketSockEntry *new_entry(struct op *op, const struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	PacketSockEntry *m = msg_new(op, PacketSockEntry, packet_sock_entry);
	PacketSkExtra *x = msg_new(op, PacketSkExtra, packet_sk_extra);

	if (!m || !x)
		return NULL;
	m->id = x->id = f->id;
	m->flags = v->info.flags;
	m->has_ns_id = sock_ns_id(s, &m->ns_id);
	m->fown = file_fown(op, v);
	f->msg->psk = m;
	f->priv = x;
	return m->fown ? m : NULL;
}

static int seen_of(struct op *op, struct link_state *ls, const struct fd_view *v, const struct packet_seen **seen)
{
	int r = sock_check_namespace(op, v, "packet socket");

	r = r ? r : link_packet_seen(op, ls, (uint32_t)v->st.st_ino, seen);
	return r || *seen ? r : refuse(op, v, NULL, "the kernel does not list it");
}

static int packet_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct link_state *ls = link_state(op, s);
	PacketSockEntry *m = ls ? new_entry(op, s, v, f) : NULL;
	const struct packet_seen *seen;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
	r = seen_of(op, ls, v, &seen);
	r = r ? r : check_fanout(op, v);
	r = r ? r : dump_binding(op, v, seen, m, f->priv);
	r = r ? r : dump_memberships(op, v, seen, m, f->priv);
	if (r)
		return r;
	dump_properties(v, seen, m, f->priv);
	r = packet_rings_dump(op, seen, m);
	r = r ? r : packet_frames_dump(op, v, m, f->priv);
	r = r ? r : dump_options(op, ls, v, m, f->priv);
	return r ? r : index_add(op, &ls->packet_files, KEY((uint32_t)v->st.st_ino), f);
}

static int packet_check(struct op *op, const struct fd_view *v)
{
	_cleanup_close_ int copy = link_copy(v);
	struct link_state ls = { 0 };
	PacketSockEntry m = PACKET_SOCK_ENTRY__INIT;
	PacketSkExtra x = PACKET_SK_EXTRA__INIT;
	struct fd_view with_copy = *v;
	const struct packet_seen *seen;
	int r;

	if (copy < 0)
		return 0;
	with_copy.copy = copy;
	r = seen_of(op, &ls, &with_copy, &seen);
	r = r ? r : check_fanout(op, &with_copy);
	r = r ? r : dump_binding(op, &with_copy, seen, &m, &x);
	return r ? r : dump_memberships(op, &with_copy, seen, &m, &x);
}

static bool is_noted(const PacketSkExtra *x)
{
	return x->n_devices || x->has_options || x->has_vnet_header || x->has_error || x->has_mode || x->has_rx_next ||
	       x->n_sock_options;
}

static int packet_write(struct op *op, struct snapshot *s)
{
	CkptExtraEntry *e = s->extra;

	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];

		if (f->kind != &file_packet || !is_noted(f->priv))
			continue;
		if (!e->packet_sockets)
			e->packet_sockets = op_alloc(op, s->files.n * sizeof(*e->packet_sockets));
		if (!e->packet_sockets)
			return CKPT_E_NOMEM;
		e->packet_sockets[e->n_packet_sockets++] = f->priv;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------------ restore: checks */

static const char *wrong_extra(const PacketSkExtra *x)
{
	uint32_t known = 0;

	for (size_t i = 0; i < ARRAY_SIZE(switches); i++)
		known |= 1u << switches[i];
	for (size_t i = 0; i < x->n_devices; i++)
		if (!x->devices[i]->name[0] || strlen(x->devices[i]->name) >= IF_NAMESIZE)
			return "its device has a name that none can have";
	if (x->has_options && x->options & ~known)
		return "it has options that are not known";
	return NULL;
}

static const char *wrong_with(const PacketSockEntry *m, const PacketSkExtra *x)
{
	const char *wrong = packet_ring_wrong(m->rx_ring) ?: packet_ring_wrong(m->tx_ring);

	if (m->type != SOCK_RAW && m->type != SOCK_DGRAM && m->type != SOCK_PACKET)
		return "its type is unknown";
	if (m->protocol > UINT16_MAX || m->ifindex > INT32_MAX)
		return "what it is bound to makes no sense";
	if (m->version > TPACKET_V3 || m->reserve > INT32_MAX || m->copy_thresh > INT32_MAX)
		return "its properties make no sense";
	if (m->n_mclist > MAX_MEMBERSHIPS)
		return "it has too many memberships";
	for (size_t i = 0; i < m->n_mclist; i++)
		if (m->mclist[i]->index > INT32_MAX || m->mclist[i]->type > UINT16_MAX || m->mclist[i]->addr.len > 32)
			return "a membership makes no sense";
	if (m->opts->so_sndbuf > INT32_MAX || m->opts->so_rcvbuf > INT32_MAX)
		return "its buffers are too large";
	return wrong || !x ? wrong : wrong_extra(x) ?: packet_frames_wrong(m, x);
}

static int packet_read(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_packet_sockets; i++) {
		struct snap_file *f = snapshot_file(s, s->extra->packet_sockets[i]->id);

		if (!f || f->kind != &file_packet || f->priv)
			return image_bad(op, "ckpt-extra: file id %u is no packet socket, or is there twice",
					 s->extra->packet_sockets[i]->id);
		f->priv = s->extra->packet_sockets[i];
	}
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const char *wrong = f->kind == &file_packet ? wrong_with(f->msg->psk, f->priv) : NULL;

		if (wrong)
			return image_bad(op, "files.img: packet socket id %u: %s", f->id, wrong);
	}
	return 0;
}

/* The program has the index in its memory, and would send to, and hear of, another device. */
static int check_device(struct op *op, const struct snap_file *f, uint32_t index)
{
	const char *hint = "make the device with the number it had (ip link add NAME index N ...)", *name = NULL;
	const PacketSkExtra *x = f->priv;
	char now[IF_NAMESIZE];
	unsigned other;

	for (size_t i = 0; x && i < x->n_devices; i++)
		name = x->devices[i]->index == index ? x->devices[i]->name : name;
	if (if_indextoname(index, now) && (!name || !strcmp(now, name)))
		return 0;
	other = name ? if_nametoindex(name) : 0;
	if (other)
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "packet socket", .hint = hint),
			       "packet socket (file id %u): network device %s has index %u now, and had %u", f->id, name, other,
			       index);
	return op_fail(op, CKPT_E_CHANGED, AT(.kind = "packet socket", .hint = hint),
		       "packet socket (file id %u): network device %s (index %u) is gone", f->id, name ?: "it was bound to", index);
}

/* ------------------------------------------------------------------------------------------------- restore: makes */

static int fail(struct op *op, const struct snap_file *f, const char *what)
{
	return op_errno(op, errno, AT(.kind = "packet socket"), "packet socket (file id %u): cannot %s", f->id, what);
}

/* What the new socket has already is left alone. */
static int set_int(int fd, int option, uint32_t value)
{
	return get_int(fd, option) == (int)value ? 0 : setsockopt(fd, SOL_PACKET, option, &value, sizeof(value));
}

/* All that has to come before rings. */
static int set_properties(struct op *op, const struct snap_file *f, const PacketSockEntry *m, const PacketSkExtra *x)
{
	if (set_int(f->fd, PACKET_VERSION, m->version) < 0)
		return fail(op, f, "set PACKET_VERSION");
	if (set_int(f->fd, PACKET_RESERVE, m->reserve) < 0)
		return fail(op, f, "set PACKET_RESERVE");
	if (set_int(f->fd, PACKET_AUXDATA, m->aux_data) < 0 || set_int(f->fd, PACKET_ORIGDEV, m->orig_dev) < 0)
		return fail(op, f, "set PACKET_AUXDATA, PACKET_ORIGDEV");
	if (set_int(f->fd, PACKET_LOSS, m->loss) < 0 || set_int(f->fd, PACKET_TIMESTAMP, m->timestamp) < 0)
		return fail(op, f, "set PACKET_LOSS, PACKET_TIMESTAMP");
	if (m->vnet_hdr && set_int(f->fd, PACKET_VNET_HDR, 1) < 0)
		return fail(op, f, "set PACKET_VNET_HDR");
	if (x && x->has_vnet_header && set_int(f->fd, PACKET_VNET_HDR_SZ, x->vnet_header) < 0)
		return fail(op, f, "set PACKET_VNET_HDR_SZ");
	/* It cannot be asked for. */
	if (m->copy_thresh && setsockopt(f->fd, SOL_PACKET, PACKET_COPY_THRESH, &m->copy_thresh, sizeof(m->copy_thresh)) < 0)
		return fail(op, f, "set PACKET_COPY_THRESH");
	for (size_t i = 0; x && i < ARRAY_SIZE(switches); i++)
		if (x->options & 1u << switches[i] && set_int(f->fd, switches[i], 1) < 0)
			return fail(op, f, "set an option");
	return 0;
}

/* An old kind of socket has its protocol from the beginning, and is bound by name. */
static int bind_by_name(struct op *op, const struct snap_file *f)
{
	struct sockaddr a = { .sa_family = AF_PACKET };
	char name[IF_NAMESIZE] = "";

	if (!f->msg->psk->ifindex)
		return 0;
	if (!if_indextoname(f->msg->psk->ifindex, name) || strlen(name) > sizeof(a.sa_data)) {
		errno = ENODEV;
		return fail(op, f, "bind it to its device by name");
	}
	memcpy(a.sa_data, name, strlen(name));
	if (bind(f->fd, &a, sizeof(a)) < 0)
		return fail(op, f, "bind it to its device");
	/* What came from all devices until now. */
	while (recv(f->fd, &a, sizeof(a), MSG_DONTWAIT | MSG_TRUNC) >= 0)
		;
	return 0;
}

static int bind_it(struct op *op, const struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	const struct sockaddr_ll a = {
		.sll_family = AF_PACKET, .sll_protocol = (uint16_t)m->protocol, .sll_ifindex = (int)m->ifindex,
	};

	if (m->type == SOCK_PACKET)
		return bind_by_name(op, f);
	if ((m->protocol || m->ifindex) && bind(f->fd, (const struct sockaddr *)&a, sizeof(a)) < 0)
		return fail(op, f, "bind it");
	return 0;
}

static int join_all(struct op *op, const struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	struct {
		int index;
		uint16_t type, len;
		uint8_t address[32];
	} r;

	for (size_t i = 0; i < m->n_mclist; i++) {
		const PacketMclist *e = m->mclist[i];
		int ret = check_device(op, f, e->index);

		if (ret)
			return ret;
		memset(&r, 0, sizeof(r));
		r.index = (int)e->index;
		r.type = (uint16_t)e->type;
		r.len = (uint16_t)e->addr.len;
		if (e->addr.len)
			memcpy(r.address, e->addr.data, e->addr.len);
		if (setsockopt(f->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &r, sizeof(r)) < 0)
			return fail(op, f, "take up a membership again (PACKET_ADD_MEMBERSHIP)");
	}
	return 0;
}

static int join_fanout(struct op *op, const struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;

	if (!m->has_fanout || m->fanout == NO_FANOUT)
		return 0;
	if (setsockopt(f->fd, SOL_PACKET, PACKET_FANOUT, &m->fanout, sizeof(m->fanout)) < 0)
		return fail(op, f, arena_printf(op->arena, "join fanout group %u (others may have it, of another kind)",
						m->fanout & 0xffff) ?: "join its fanout group");
	return 0;
}

/* A device that is down reports itself when a socket is bound to it; the program has been told of that. */
static void drop_error(const struct snap_file *f)
{
	const PacketSkExtra *x = f->priv;

	if (!x || !x->error)
		sock_get_int(f->fd, SO_ERROR);
}

static int make_it(struct op *op, struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	int protocol = m->type == SOCK_PACKET ? (int)m->protocol : 0; /* nothing arrives yet */

	f->fd = file_high(socket(AF_PACKET, (int)m->type | SOCK_CLOEXEC, protocol));
	return f->fd < 0 ? fail(op, f, "create it") : 0;
}

/* Before any of them is bound: what is sent to rings then is for nobody else. */
static int begin(struct op *op, struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	int r = m->ifindex ? check_device(op, f, m->ifindex) : 0;

	r = r ? r : make_it(op, f);
	r = r ? r : set_properties(op, f, m, f->priv);
	r = r ? r : packet_rings_make(op, f);
	return r ? r : packet_frames_restore(op, f);
}

static int finish(struct op *op, struct snap_file *f)
{
	const PacketSockEntry *m = f->msg->psk;
	const PacketSkExtra *x = f->priv;
	const char *what = arena_printf(op->arena, "packet socket (file id %u)", f->id);
	int r = sock_options_apply(op, f->fd, m->opts, x ? x->sock_options : NULL, x ? x->n_sock_options : 0,
				   what ?: "packet socket");

	r = r ? r : bind_it(op, f);
	r = r ? r : join_all(op, f);
	r = r ? r : join_fanout(op, f);
	if (r)
		return r;
	drop_error(f);
	if (file_set_flags(f->fd, m->flags) < 0 || (x && link_own(f->fd, x->has_mode, x->mode, x->uid, x->gid) < 0))
		return fail(op, f, "set its owner and flags");
	return 0;
}

/* With the first of them all. */
static int packet_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	struct link_state *ls = link_state(op, s);
	int r = ls ? 0 : CKPT_E_NOMEM;

	(void)f;
	if (r || ls->packets_made)
		return r;
	ls->packets_made = true;
	for (size_t i = 0; i < s->files.n && !r; i++)
		if (s->files.v[i]->kind == &file_packet)
			r = begin(op, s->files.v[i]);
	for (size_t i = 0; i < s->files.n && !r; i++)
		if (s->files.v[i]->kind == &file_packet)
			r = finish(op, s->files.v[i]);
	return r;
}

const struct file_kind file_packet = {
	.name = "packet socket",
	.type = FD_TYPES__PACKETSK,
	.message = offsetof(FileEntry, psk),
	.match = packet_match,
	.check = packet_check,
	.dump = packet_dump,
	.complete = packet_rings_complete,
	.write = packet_write,
	.read = packet_read,
	.open = packet_open,
};
