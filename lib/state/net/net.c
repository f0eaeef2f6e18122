/* SPDX-License-Identifier: MIT */
/*
 * The walk over the network namespaces that are the tree's own, in a dump and in a restore, and their images. What is done in a
 * namespace is done by an errand in it (lib/kernel/errand.h), which starts no program.
 */
#include <fcntl.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <sys/socket.h>

#include "lib/kernel/nft.h"
#include "lib/state/file/file.h"
#include "lib/state/msg.h"
#include "lib/state/net/core.h"
#include "lib/state/sock/netlock/netlock.h"

#define RAW_MAX (256u << 20)
#define HOLD_TABLE "ckpt-hold"
#define HOLD_PRIORITY (-450)
#define TCP_STATE_CLOSE 7
#define TCP_STATE_LISTEN 10

/* ------------------------------------------------------------------------------------------------------- shared */

const char *net_link_text(struct op *op, const struct net_ns *n, const char *name)
{
	return arena_printf(op->arena, "%s of network %u", name, n->ns->id) ?: name;
}

static const char *value_of(const char *given, const char *what, const char *name)
{
	size_t n_what = strlen(what), n_name = strlen(name);

	if (strncmp(given, what, n_what) || given[n_what] != '[' || strncmp(given + n_what + 1, name, n_name) ||
	    given[n_what + 1 + n_name] != ']')
		return NULL;
	given += n_what + n_name + 2;
	return *given == ':' ? given + 1 : *given ? NULL : "";
}

const char *net_external(struct op *op, const char *what, const char *name)
{
	const struct ckpt_strv *pairs = &op->opts->veth_pair;
	size_t n = strlen(name);

	for (size_t i = 0; i < op->opts->external.n; i++) {
		const char *value = value_of(op->opts->external.v[i], what, name);

		if (value)
			return value;
	}
	for (size_t i = 0; !strcmp(what, "veth") && i < pairs->n; i++)
		if (!strncmp(pairs->v[i], name, n) && pairs->v[i][n] == '=')
			return pairs->v[i] + n + 1;
	return NULL;
}

static struct net_state *net_state(struct op *op, struct snapshot *s)
{
	if (!s->net && (s->net = op_new(op, struct net_state)))
		s->net->host_fd = s->net->watch = -1;
	return s->net;
}

static struct net_ns *add(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct net_ns *n = op_new(op, struct net_ns), **slot = n ? ARRAY_ADD(op->arena, &s->net->v) : NULL;

	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	n->ns = ns;
	ns->priv = n;
	return *slot = n;
}

/* What is done in a namespace. */
struct job {
	struct snapshot *s;
	struct net_ns *n;
	size_t n_made;
};

static int in_namespace(struct op *op, struct job *job, int (*fn)(struct op *op, void *arg))
{
	struct errand_where where = ERRAND_HERE;

	where.net = job->n->ns->fd;
	return errand_run(op, &where, fn, job);
}

/* ---------------------------------------------------------------------------------------------------------- dump */

static int dump_inside(struct op *op, void *arg)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	const struct job *job = arg;
	struct net_ns *n = job->n;
	int r = netlink_open(op, NETLINK_ROUTE, &nl);

	r = r ?: net_settings_dump(op, n);
	r = r ?: net_links_dump(op, job->s, n, nl);
	r = r ?: net_tables_dump(op, n, nl);
	r = r ?: net_iptables_dump(op, job->s, n);
	r = r ?: net_filter_dump(op, job->s, n);
	return r ?: net_track_dump(op, n);
}

static int dump_one(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	struct net_ns *n = add(op, s, ns);
	struct job job = { .s = s, .n = n };
	int r;

	if (!n || !(n->entry = msg_new(op, NetnsEntry, netns_entry)))
		return CKPT_E_NOMEM;
	if (ns->ext_key) {
		n->entry->ext_key = arena_strdup(op->arena, ns->ext_key);
		return n->entry->ext_key ? 0 : op_nomem(op);
	}
	if (op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		return 0;
	n->extra = msg_new(op, NetExtra, net_extra);
	if (!n->extra)
		return CKPT_E_NOMEM;
	n->extra->ns_id = ns->id;
	r = in_namespace(op, &job, dump_inside);
	if (!r)
		log_info(op, "network %u: %zu devices, %zu bytes of addresses, %zu of routes, %zu of rules for packets", ns->id, n->links.n,
			 n->addrs.n, n->routes.n + n->routes6.n, n->extra->nftables.len);
	return r;
}

int net_dump(struct op *op, struct snapshot *s)
{
	int r = net_state(op, s) ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; s->ns && i < s->ns->v.n && !r; i++)
		if (s->ns->v.v[i]->kind == NS_NET && !s->ns->v.v[i]->ours)
			r = dump_one(op, s, s->ns->v.v[i]);
	return r;
}

/* --------------------------------------------------------------------------------------------------------- write */

static int write_raw(struct op *op, struct snapshot *s, enum img_kind kind, uint32_t id, const struct nl_blob *b)
{
	struct img_out *out;
	int r;

	if (!b->n)
		return 0;
	r = img_create(op, s->dir, kind, id, &out);
	r = r ?: img_write_payload(op, out, b->v, b->n);
	return r ?: img_close(op, out);
}

static int write_links(struct op *op, struct snapshot *s, const struct net_ns *n)
{
	struct img_out *out;
	int r = img_create(op, s->dir, IMG_NETDEV, n->ns->id, &out);

	for (size_t i = 0; i < n->links.n && !r; i++)
		if (!n->links.v[i].kind || n->links.v[i].kind->type != ND_TYPE__EXTLINK)
			r = img_write(op, out, &n->links.v[i].dev->base);
	return r ?: img_close(op, out);
}

/* Of an image that is nothing but bytes. */
static const struct raw {
	enum img_kind kind;
	size_t where;
} raws[] = {
	{ IMG_IFADDR, offsetof(struct net_ns, addrs) },	      { IMG_ROUTE, offsetof(struct net_ns, routes) },
	{ IMG_ROUTE6, offsetof(struct net_ns, routes6) },     { IMG_RULE, offsetof(struct net_ns, rules) },
	{ IMG_NETNF_CT, offsetof(struct net_ns, tracked) },   { IMG_NETNF_EXP, offsetof(struct net_ns, expected) },
	{ IMG_NFTABLES, offsetof(struct net_ns, nft_text) },  { IMG_IPTABLES, offsetof(struct net_ns, ipt_text) },
	{ IMG_IP6TABLES, offsetof(struct net_ns, ipt6_text) },
};

static struct nl_blob *raw_of(struct net_ns *n, const struct raw *raw)
{
	return (struct nl_blob *)(void *)((char *)n + raw->where);
}

static int write_one(struct op *op, struct snapshot *s, struct net_ns *n)
{
	NetExtra **nets;
	int r = img_write_one(op, s->dir, IMG_NETNS, n->ns->id, &n->entry->base);

	if (r || !n->extra)
		return r;
	r = write_links(op, s, n);
	for (size_t i = 0; i < ARRAY_SIZE(raws) && !r; i++)
		r = write_raw(op, s, raws[i].kind, n->ns->id, raw_of(n, &raws[i]));
	nets = r ? NULL : op_alloc(op, (s->extra->n_nets + 1) * sizeof(*nets));
	if (!nets)
		return r ?: CKPT_E_NOMEM;
	if (s->extra->n_nets)
		memcpy(nets, s->extra->nets, s->extra->n_nets * sizeof(*nets));
	nets[s->extra->n_nets++] = n->extra;
	s->extra->nets = nets;
	return 0;
}

int net_write(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->net && i < s->net->v.n && !r; i++)
		r = write_one(op, s, s->net->v.v[i]);
	return r;
}

/* ---------------------------------------------------------------------------------------------------------- read */

static int read_raw(struct op *op, struct snapshot *s, const struct raw *raw, struct net_ns *n)
{
	struct nl_blob *b = raw_of(n, raw);
	_cleanup_close_ int fd = -1;
	struct img_in *in = NULL;
	uint64_t offset, len;
	char name[64];
	int r = img_open(op, s->dir, raw->kind, n->ns->id, &in);

	if (r)
		return r == IMG_ABSENT ? 0 : r;
	r = img_rest(op, in, &fd, &offset, &len);
	img_name(raw->kind, n->ns->id, name, sizeof(name));
	if (!r && len > RAW_MAX)
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "%s is absurdly large", name);
	if (!r && !(b->v = op_alloc(op, len + 1)))
		r = CKPT_E_NOMEM;
	if (!r && pread(fd, b->v, len, (off_t)offset) != (ssize_t)len)
		r = op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "%s cannot be read", name);
	b->n = r ? 0 : len;
	img_in_close(in);
	return r;
}

static int add_link(struct op *op, struct net_ns *n, NetDeviceEntry *dev)
{
	struct net_link *l = ARRAY_ADD(op->arena, &n->links);

	if (!l)
		return op_nomem(op);
	l->dev = dev;
	return 0;
}

static int read_links(struct op *op, struct snapshot *s, struct net_ns *n)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, s->dir, IMG_NETDEV, n->ns->id, &in);

	while (!r && (r = img_read(op, in, &m)) == 0)
		if (!link_is_fallback(((NetDeviceEntry *)m)->name))
			r = add_link(op, n, (NetDeviceEntry *)m);
	img_in_close(in);
	r = r == IMG_ABSENT || r == IMG_END ? 0 : r;
	for (size_t i = 0; n->extra && i < n->extra->n_devices && !r; i++)
		r = add_link(op, n, n->extra->devices[i]);
	return r;
}

static int read_one(struct op *op, struct snapshot *s, struct net_ns *n)
{
	ProtobufCMessage *m = NULL;
	int r = img_read_one(op, s->dir, IMG_NETNS, n->ns->id, &m);

	if (r == IMG_ABSENT && op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		m = (ProtobufCMessage *)msg_new(op, NetnsEntry, netns_entry);
	else if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_IMAGE, AT(.kind = "network"), "netns-%u.img is missing", n->ns->id);
	if (!m)
		return CKPT_E_NOMEM;
	n->entry = (NetnsEntry *)m;
	if (op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		return 0;
	for (size_t i = 0; s->extra && i < s->extra->n_nets; i++)
		if (s->extra->nets[i]->ns_id == n->ns->id)
			n->extra = s->extra->nets[i];
	for (size_t i = 0; i < ARRAY_SIZE(raws) && !r; i++)
		r = read_raw(op, s, &raws[i], n);
	return r ?: read_links(op, s, n);
}

static int check_one(struct op *op, struct snapshot *s, struct net_ns *n)
{
	int r = net_settings_check(op, n);

	r = r ?: net_links_read(op, s, n);
	r = r ?: net_tables_check(op, n);
	r = r ?: net_iptables_check(op, n);
	r = r ?: net_filter_check(op, n);
	return r ?: net_track_check(op, n);
}

int net_read(struct op *op, struct snapshot *s)
{
	int r = net_state(op, s) ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; s->ns && i < s->ns->v.n && !r; i++) {
		struct snap_ns *ns = s->ns->v.v[i];
		struct net_ns *n;

		if (ns->kind != NS_NET || ns->ours || ns->joined || ns->ext_key)
			continue;
		n = add(op, s, ns);
		r = n ? read_one(op, s, n) : CKPT_E_NOMEM;
	}
	/* Devices refer to those of other namespaces. */
	for (size_t i = 0; i < (r ? 0 : s->net->v.n) && !r; i++)
		r = check_one(op, s, s->net->v.v[i]);
	return r;
}

/* ---------------------------------------------------------------------------------------------------------- make */

/* That of the root task is there already; one of others begins here. */
static int open_new(struct op *op, void *arg)
{
	struct snap_ns *ns = arg;

	if (unshare(CLONE_NEWNET) < 0 || (ns->fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)) < 0)
		return op_errno(op, errno, AT(.kind = "namespace"), "make network namespace %u", ns->id);
	return 0;
}

static int make_namespace(struct op *op, struct snap_ns *ns)
{
	struct errand_where where = ERRAND_HERE;

	if (ns->fd >= 0)
		return 0;
	where.user = ns->owner ? ns->owner->fd : -1;
	return errand_run(op, &where, open_new, ns);
}

static int make_nsids(struct op *op, struct snapshot *s, struct net_ns *n, struct netlink *nl)
{
	for (size_t i = 0; i < n->entry->n_nsids; i++) {
		const NetnsId *id = n->entry->nsids[i];
		struct rtgenmsg head = { .rtgen_family = AF_UNSPEC };
		const struct snap_ns *other = NULL;
		struct nl_request r;
		int ret;

		for (size_t j = 0; j < s->ns->v.n; j++)
			if (s->ns->v.v[j]->kind == NS_NET && s->ns->v.v[j]->id == id->target_ns_id && s->ns->v.v[j]->fd >= 0)
				other = s->ns->v.v[j];
		if (!other || id->netnsid_value < 0)
			continue;
		r = nl_request(RTM_NEWNSID, 0, &head, sizeof(head));
		nl_put_u32(&r, NETNSA_NSID, (uint32_t)id->netnsid_value);
		nl_put_u32(&r, NETNSA_FD, (uint32_t)other->fd);
		ret = netlink_do(op, nl, &r);
		if (ret < 0)
			return ret;
		if (ret && ret != EEXIST)
			return op_errno(op, ret, AT(.kind = "network"), "number network %u in network %u", other->id, n->ns->id);
	}
	return 0;
}

static int settings_inside(struct op *op, void *arg)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	struct job *job = arg;
	int r = netlink_open(op, NETLINK_ROUTE, &nl);

	r = r ?: make_nsids(op, job->s, job->n, nl);
	return r ?: net_settings_apply(op, job->n);
}

static int links_inside(struct op *op, void *arg)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	struct job *job = arg;
	int r = netlink_open(op, NETLINK_ROUTE, &nl);

	return r ?: net_links_make(op, job->s, job->n, nl, &job->n_made);
}

/* ---- TCP is not to reach a namespace whose connections are not there yet: it would be answered that there are none */

static bool has_connections(const struct snapshot *s, const struct net_ns *n)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const InetSkEntry *m = s->files.v[i]->msg->isk;

		if (m && m->proto == IPPROTO_TCP && m->state != TCP_STATE_CLOSE && m->state != TCP_STATE_LISTEN &&
		    (!m->has_ns_id || m->ns_id == n->ns->id))
			return true;
	}
	return false;
}

static void hold_chain(struct nft_batch *b, const char *name, uint32_t hook)
{
	nft_chain_add(b, &(struct nft_chain){ .family = NFPROTO_INET, .table = HOLD_TABLE, .name = name, .type = "filter", .hook = hook,
					      .priority = HOLD_PRIORITY, .policy = NF_ACCEPT });
	nft_rule_begin(b, NFPROTO_INET, HOLD_TABLE, name);
	nft_meta(b, NFT_META_MARK, NFT_REG32_00);
	nft_cmp_u32(b, NFT_CMP_EQ, NFT_REG32_00, NETLOCK_MARK);
	nft_verdict(b, NF_ACCEPT);
	nft_rule_end(b);
	nft_rule_begin(b, NFPROTO_INET, HOLD_TABLE, name);
	nft_meta(b, NFT_META_L4PROTO, NFT_REG32_00);
	nft_cmp_u8(b, NFT_CMP_EQ, NFT_REG32_00, IPPROTO_TCP);
	nft_verdict(b, NF_DROP);
	nft_rule_end(b);
}

/* A kernel without nftables, or without owners of tables (before Linux 5.12). */
static int not_held(struct op *op, const struct net_ns *n, int err)
{
	log_warn(op, "packets that come before the connections of network %u are there are answered with a reset: %s", n->ns->id, strerror(err));
	return 0;
}

/* It goes with its socket. */
static int hold(struct op *op, struct net_ns *n)
{
	_cleanup_(nft_batch_free) struct nft_batch b = NFT_BATCH_INIT;
	int r = nft_open(op, &n->hold);

	if (r == CKPT_E_KERNEL) {
		op_forget(op);
		r = EPROTONOSUPPORT;
	}
	if (r)
		return r < 0 ? r : not_held(op, n, r);
	nft_table_add(&b, NFPROTO_INET, HOLD_TABLE, NFT_TABLE_F_OWNER);
	hold_chain(&b, "input", NF_INET_LOCAL_IN);
	hold_chain(&b, "output", NF_INET_LOCAL_OUT);
	r = nft_commit(op, n->hold, &b);
	return r > 0 ? not_held(op, n, r) : r;
}

void net_open(struct snapshot *s)
{
	for (size_t i = 0; s->net && i < s->net->v.n; i++)
		s->net->v.v[i]->hold = nft_close(s->net->v.v[i]->hold);
}

static int fill_inside(struct op *op, void *arg)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	struct job *job = arg;
	struct net_ns *n = job->n;
	int r = netlink_open(op, NETLINK_ROUTE, &nl);

	if (!r && has_connections(job->s, n))
		r = hold(op, n);
	r = r ?: net_links_dress(op, n, nl);
	r = r ?: net_tables_make(op, n, nl);
	r = r ?: net_links_finish(op, n, nl);
	r = r ?: net_iptables_make(op, n);
	r = r ?: net_filter_make(op, job->s, n);
	return r ?: net_track_make(op, n);
}

static int for_all(struct op *op, struct snapshot *s, int (*fn)(struct op *op, void *arg), size_t *n_made)
{
	int r = 0;

	for (size_t i = 0; i < s->net->v.n && !r; i++) {
		struct job job = { .s = s, .n = s->net->v.v[i] };

		r = in_namespace(op, &job, fn);
		if (n_made)
			*n_made += job.n_made;
	}
	return r;
}

/* Those of one namespace may sit on those of another. */
static int make_links(struct op *op, struct snapshot *s)
{
	size_t made;
	int r;

	do {
		made = 0;
		r = for_all(op, s, links_inside, &made);
	} while (!r && made && s->net->v.n > 1);
	return r;
}

static int watch_links(struct op *op, struct net_state *st)
{
	struct sockaddr_nl all = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	st->watch = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	if (st->watch < 0 || bind(st->watch, (struct sockaddr *)&all, sizeof(all)) < 0)
		return op_errno(op, errno, AT(.kind = "network"), "watch network devices");
	return 0;
}

static uint32_t file_ns_id(const FileEntry *m)
{
	if (m->isk)
		return m->isk->has_ns_id ? m->isk->ns_id : 0;
	if (m->usk)
		return m->usk->has_ns_id ? m->usk->ns_id : 0;
	if (m->nlsk)
		return m->nlsk->has_ns_id ? m->nlsk->ns_id : 0;
	if (m->psk)
		return m->psk->has_ns_id ? m->psk->ns_id : 0;
	return m->tunf && m->tunf->has_ns_id ? m->tunf->ns_id : 0;
}

/* All files are opened in the network namespace of the root task. */
static int check_files(struct op *op, const struct snapshot *s)
{
	uint32_t roots = s->tasks.n ? ns_id_of(s->tasks.v[0].ids, NS_NET) : 0;

	for (size_t i = 0; i < s->files.n; i++) {
		uint32_t id = file_ns_id(s->files.v[i]->msg);

		if (id && roots && id != roots && s->net && s->net->v.n)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "socket"),
				       "files.img: id %u: a socket of network namespace %u, which is not that of the root of the tree (%u)",
				       s->files.v[i]->id, id, roots);
	}
	return 0;
}

int net_make(struct op *op, struct snapshot *s)
{
	struct net_state *st = s->net;
	int r = check_files(op, s);

	for (size_t i = 0; st && i < st->v.n && !r; i++)
		r = make_namespace(op, st->v.v[i]->ns);
	if (r || !st || !st->v.n || op->opts->empty_ns == CKPT_EMPTY_NS_NET)
		return r;
	st->host_fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	if (st->host_fd < 0)
		return op_errno(op, errno, AT(.kind = "namespace"), "open our network namespace");
	r = netlink_open(op, NETLINK_ROUTE, &st->host) ?: watch_links(op, st);
	r = r ?: for_all(op, s, settings_inside, NULL);
	r = r ?: make_links(op, s);
	r = r ?: for_all(op, s, fill_inside, NULL);
	return r ?: net_outers_up(op, st);
}

void net_done(struct op *op, struct snapshot *s, bool success)
{
	struct net_state *st = s->net;
	struct ckpt_err *first = op->err;

	if (!st)
		return;
	op->err = NULL;
	net_open(s);
	if (!success && st->host)
		net_outers_undo(op, st);
	st->host = netlink_close(st->host);
	close_fd_p(&st->host_fd);
	close_fd_p(&st->watch);
	st->host_fd = st->watch = -1;
	op_forget(op);
	op->err = first;
}
