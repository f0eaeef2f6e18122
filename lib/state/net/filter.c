/* SPDX-License-Identifier: MIT */
/*
 * Rule sets of nftables. They are kept twice. In our own file are the kernel's messages about everything there is, which are sent
 * back nearly as they are: that is exact, and takes nobody's help. The format's own form is the text of `nft list ruleset`, which
 * libnftables writes and reads. It is used where it is installed, and only if there are rules; where it is not, the checkpoint
 * is marked, since others would restore it without its rules.
 */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <sys/socket.h>

#include "lib/kernel/nft.h"
#include "lib/state/net/core.h"

#define MESSAGE(type) (NFNL_SUBSYS_NFTABLES << 8 | (type))
#define HEAD sizeof(struct nfgenmsg)
#define TABLE_NAME 1 /* of the table, in messages of every type */
#define LOCK_PREFIX "CRIU-"

/* What is kept of messages of a type: those attributes (bits); the rest is the kernel's to say. */
struct part {
	uint8_t ask, type;
	uint64_t kept;
	const char *name;
};
#define A(n) (1ull << (n))
static const struct part parts[] = { /* in this order */
	{ NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, A(NFTA_TABLE_NAME) | A(NFTA_TABLE_FLAGS) | A(NFTA_TABLE_USERDATA), "tables" },
	{ NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN,
	  A(NFTA_CHAIN_TABLE) | A(NFTA_CHAIN_NAME) | A(NFTA_CHAIN_HOOK) | A(NFTA_CHAIN_POLICY) | A(NFTA_CHAIN_TYPE) | A(NFTA_CHAIN_COUNTERS) |
		  A(NFTA_CHAIN_FLAGS) | A(NFTA_CHAIN_USERDATA),
	  "chains" },
	{ NFT_MSG_GETOBJ, NFT_MSG_NEWOBJ, A(NFTA_OBJ_TABLE) | A(NFTA_OBJ_NAME) | A(NFTA_OBJ_TYPE) | A(NFTA_OBJ_DATA) | A(NFTA_OBJ_USERDATA),
	  "objects" },
	{ NFT_MSG_GETSET, NFT_MSG_NEWSET,
	  A(NFTA_SET_TABLE) | A(NFTA_SET_NAME) | A(NFTA_SET_FLAGS) | A(NFTA_SET_KEY_TYPE) | A(NFTA_SET_KEY_LEN) | A(NFTA_SET_DATA_TYPE) |
		  A(NFTA_SET_DATA_LEN) | A(NFTA_SET_POLICY) | A(NFTA_SET_DESC) | A(NFTA_SET_TIMEOUT) | A(NFTA_SET_GC_INTERVAL) |
		  A(NFTA_SET_USERDATA) | A(NFTA_SET_OBJ_TYPE) | A(NFTA_SET_EXPR) | A(NFTA_SET_EXPRESSIONS),
	  "sets" },
	{ NFT_MSG_GETFLOWTABLE, NFT_MSG_NEWFLOWTABLE,
	  A(NFTA_FLOWTABLE_TABLE) | A(NFTA_FLOWTABLE_NAME) | A(NFTA_FLOWTABLE_HOOK) | A(NFTA_FLOWTABLE_FLAGS), "flow tables" },
	{ NFT_MSG_GETSETELEM, NFT_MSG_NEWSETELEM, A(NFTA_SET_ELEM_LIST_TABLE) | A(NFTA_SET_ELEM_LIST_SET) | A(NFTA_SET_ELEM_LIST_ELEMENTS),
	  "elements of a set" },
	{ NFT_MSG_GETRULE, NFT_MSG_NEWRULE, A(NFTA_RULE_TABLE) | A(NFTA_RULE_CHAIN) | A(NFTA_RULE_EXPRESSIONS) | A(NFTA_RULE_USERDATA), "rules" },
};
#define ATTRS 63

static const struct part *part_of(uint16_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		if (type == MESSAGE(parts[i].type))
			return &parts[i];
	return NULL;
}

/* ------------------------------------------------------------------------------------------------------- dump */

struct listing {
	struct netlink *nl;
	struct nl_blob all;
	size_t sets, sets_end; /* where these are in it */
	ARRAY(const struct nlmsghdr *) skipped; /* tables */
	bool has_nameless;
};

static uint8_t family_of(const struct nlmsghdr *h)
{
	return ((const struct nfgenmsg *)nlmsg_data(h))->nfgen_family;
}

static const char *table_of(const struct nlmsghdr *h)
{
	struct nlattr *a[TABLE_NAME + 1];

	return nl_attrs(h, HEAD, a, TABLE_NAME) ? nl_text(a[TABLE_NAME]) : NULL;
}

/* A chain that is nothing but a block of a rule: it can only be made together with that, which we leave to libnftables. */
static bool is_nameless(const struct nlmsghdr *h)
{
	struct nlattr *a[ATTRS + 1];

	return h->nlmsg_type == MESSAGE(NFT_MSG_NEWCHAIN) && nl_attrs(h, HEAD, a, ATTRS) &&
	       ntohl(nl_u32(a[NFTA_CHAIN_FLAGS], 0)) & NFT_CHAIN_BINDING;
}

static bool is_skipped(const struct listing *l, const struct nlmsghdr *h)
{
	const char *table = table_of(h);

	for (size_t i = 0; table && i < l->skipped.n; i++)
		if (family_of(h) == family_of(l->skipped.v[i]) && !strcmp(table, table_of(l->skipped.v[i])))
			return true;
	return !table;
}

static int skip_table(struct op *op, struct listing *l, const struct nlmsghdr *h)
{
	const struct nlmsghdr **slot = ARRAY_ADD(op->arena, &l->skipped);
	struct nlattr *a[ATTRS + 1];
	uint32_t flags;

	if (!slot || !(*slot = arena_memdup(op->arena, h, h->nlmsg_len)))
		return op_nomem(op);
	nl_attrs(h, HEAD, a, ATTRS);
	flags = ntohl(nl_u32(a[NFTA_TABLE_FLAGS], 0));
	if (strncmp(table_of(h), LOCK_PREFIX, strlen(LOCK_PREFIX)))
		log_warn(op, "nftables table %s is left out: it goes with the program that made it (flags %#x)", table_of(h), flags);
	return 0;
}

static int on_message(struct op *op, void *arg, const struct nlmsghdr *h)
{
	const struct part *part = part_of(h->nlmsg_type);
	struct listing *l = arg;
	struct nlattr *a[ATTRS + 1];

	if (!part || !nl_attrs(h, HEAD, a, ATTRS) || !table_of(h))
		return 0;
	l->has_nameless |= is_nameless(h);
	if (part->type == NFT_MSG_NEWTABLE &&
	    (ntohl(nl_u32(a[NFTA_TABLE_FLAGS], 0)) & NFT_TABLE_F_OWNER || !strncmp(table_of(h), LOCK_PREFIX, strlen(LOCK_PREFIX))))
		return skip_table(op, l, h);
	return is_skipped(l, h) ? 0 : nl_blob_add(op, &l->all, h, h->nlmsg_len);
}

/* 1: the kernel has no nftables. */
static int ask(struct op *op, struct listing *l, const struct part *part, const struct nlmsghdr *set)
{
	struct nfgenmsg head = { .nfgen_family = set ? family_of(set) : AF_UNSPEC, .version = NFNETLINK_V0 };
	struct nl_request r = nl_request(MESSAGE(part->ask), 0, &head, sizeof(head));
	struct nlattr *a[ATTRS + 1];
	int ret;

	if (set) {
		nl_attrs(set, HEAD, a, ATTRS);
		nl_put_string(&r, NFTA_SET_ELEM_LIST_TABLE, nl_text(a[NFTA_SET_TABLE]));
		nl_put_string(&r, NFTA_SET_ELEM_LIST_SET, nl_text(a[NFTA_SET_NAME]));
	}
	ret = netlink_list(op, l->nl, &r, on_message, l);
	if (ret > 0 && part->type == NFT_MSG_NEWTABLE)
		return 1;
	return ret > 0 ? op_errno(op, ret, AT(.kind = "packet filter"), "list the %s of nftables", part->name) : ret;
}

static int list_elements(struct op *op, struct listing *l, const struct part *part)
{
	int r = 0;

	for (size_t at = l->sets; at < l->sets_end && !r;) {
		const struct nlmsghdr *set = nl_next(l->all.v, l->sets_end, &at);
		struct nlattr *a[ATTRS + 1];

		/* A copy: the listing may move. */
		set = set ? arena_memdup(op->arena, set, set->nlmsg_len) : NULL;
		if (!set)
			return op_nomem(op);
		if (nl_attrs(set, HEAD, a, ATTRS) && nl_text(a[NFTA_SET_NAME]))
			r = ask(op, l, part, set);
	}
	return r;
}

static int list_all(struct op *op, struct listing *l)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts) && !r; i++) {
		size_t before = l->all.n;

		if (parts[i].type == NFT_MSG_NEWSETELEM)
			r = list_elements(op, l, &parts[i]);
		else
			r = ask(op, l, &parts[i], NULL);
		if (parts[i].type == NFT_MSG_NEWTABLE && !l->all.n)
			return r < 0 ? r : 0;
		if (parts[i].type == NFT_MSG_NEWSET) {
			l->sets = before;
			l->sets_end = l->all.n;
		}
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------- libnftables */

/* Its interface, as far as we use it. */
struct library {
	void *handle;
	void *(*new)(uint32_t flags);
	void (*free)(void *ctx);
	int (*buffer_output)(void *ctx), (*buffer_error)(void *ctx);
	const char *(*output)(void *ctx), *(*error)(void *ctx);
	int (*run)(void *ctx, const char *text);
};

static bool load(struct library *lib)
{
	lib->handle = dlopen("libnftables.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!lib->handle)
		return false;
	*(void **)&lib->new = dlsym(lib->handle, "nft_ctx_new");
	*(void **)&lib->free = dlsym(lib->handle, "nft_ctx_free");
	*(void **)&lib->buffer_output = dlsym(lib->handle, "nft_ctx_buffer_output");
	*(void **)&lib->buffer_error = dlsym(lib->handle, "nft_ctx_buffer_error");
	*(void **)&lib->output = dlsym(lib->handle, "nft_ctx_get_output_buffer");
	*(void **)&lib->error = dlsym(lib->handle, "nft_ctx_get_error_buffer");
	*(void **)&lib->run = dlsym(lib->handle, "nft_run_cmd_from_buffer");
	return lib->new && lib->free && lib->buffer_output && lib->buffer_error && lib->output && lib->error && lib->run;
}

/* Runs @command; *@out: what it said, in the arena. 1: there is no such library. */
static int with_library(struct op *op, const char *command, char **out)
{
	struct library lib = { 0 };
	void *ctx = load(&lib) ? lib.new(0) : NULL;
	int r;

	if (!ctx)
		return 1;
	lib.buffer_output(ctx);
	lib.buffer_error(ctx);
	r = lib.run(ctx, command);
	*out = arena_strdup(op->arena, (r ? lib.error(ctx) : lib.output(ctx)) ?: "");
	lib.free(ctx);
	if (!*out)
		return op_nomem(op);
	return r ? op_fail(op, CKPT_E_SYS, AT(.kind = "packet filter"), "libnftables: %.300s", *out) : 0;
}

static int dump_text(struct op *op, struct snapshot *s, struct net_ns *n)
{
	char *text;
	int r = with_library(op, "list ruleset", &text);

	if (!r)
		return nl_blob_add(op, &n->nft_text, text, strlen(text));
	if (r < 0) {
		log_warn(op, "the rules of nftables could not be written as text: %s", op->err ? ckpt_err_message(op->err) : "?");
		op_forget(op);
	}
	return snapshot_mark(op, s, IMG_OWN_NET_FILTER);
}

int net_filter_dump(struct op *op, struct snapshot *s, struct net_ns *n)
{
	_cleanup_(netlink_close_p) struct netlink *nl = NULL;
	struct listing l = { 0 };
	int r = netlink_open(op, NETLINK_NETFILTER, &nl);

	if (r == CKPT_E_KERNEL) {
		op_forget(op);
		return 0;
	}
	l.nl = nl;
	r = r ?: list_all(op, &l);
	if (r || !l.all.n)
		return r;
	n->extra->has_nftables = 1;
	n->extra->nftables.data = l.all.v;
	n->extra->nftables.len = l.all.n;
	r = dump_text(op, s, n);
	if (!r && l.has_nameless && !n->nft_text.n)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "packet filter", .hint = "install libnftables (libnftables1)"),
			       "a rule of nftables in network %u has rules in braces, which takes libnftables to be saved", n->ns->id);
	return r;
}

/* -------------------------------------------------------------------------------------------------- restore */

int net_filter_check(struct op *op, const struct net_ns *n)
{
	const ProtobufCBinaryData *b = n->extra ? &n->extra->nftables : NULL;
	const struct nlmsghdr *h;
	size_t at = 0;

	if (!b || !b->len)
		return 0;
	while ((h = nl_next(b->data, b->len, &at)))
		if (!part_of(h->nlmsg_type) || h->nlmsg_len < NLMSG_LENGTH(HEAD) || !table_of(h))
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "packet filter"), "ckpt-extra: nftables has a message of type %#x", h->nlmsg_type);
	return at == b->len ? 0 : op_fail(op, CKPT_E_IMAGE, AT(.kind = "packet filter"), "ckpt-extra: nftables is damaged at byte %zu", at);
}

/* Which protocol a rule is about, as far as it says so before its first extension of iptables, which asks for it. */
struct protocol {
	bool loaded, has_ext, inverted;
	uint32_t number;
};

static void look_at(struct protocol *p, const char *name, const struct nlattr *data, uint8_t family)
{
	struct nlattr *a[16], *value[NFTA_DATA_MAX + 1];

	nl_nested(data, a, 15);
	if (!strcmp(name, "match") || !strcmp(name, "target")) {
		p->has_ext = true;
	} else if (!strcmp(name, "meta")) {
		p->loaded = ntohl(nl_u32(a[NFTA_META_KEY], 0)) == NFT_META_L4PROTO;
	} else if (!strcmp(name, "payload")) {
		p->loaded = ntohl(nl_u32(a[NFTA_PAYLOAD_BASE], 0)) == NFT_PAYLOAD_NETWORK_HEADER && ntohl(nl_u32(a[NFTA_PAYLOAD_LEN], 0)) == 1 &&
			    ntohl(nl_u32(a[NFTA_PAYLOAD_OFFSET], 0)) == (family == NFPROTO_IPV6 ? 6u : 9u);
	} else if (!strcmp(name, "cmp") && p->loaded && nl_nested(a[NFTA_CMP_DATA], value, NFTA_DATA_MAX)) {
		p->number = nl_u8(value[NFTA_DATA_VALUE], 0);
		p->inverted = ntohl(nl_u32(a[NFTA_CMP_OP], NFT_CMP_EQ)) == NFT_CMP_NEQ;
		p->loaded = false;
	}
}

/* Listings leave that out. */
static void put_compat(struct nft_batch *b, const struct nlattr *expressions, uint8_t family)
{
	const struct nlattr *e = expressions ? nla_data(expressions) : NULL;
	int left = expressions ? nla_len(expressions) : 0;
	struct protocol p = { 0 };

	for (; e && nla_ok(e, left); e = nla_next(e, &left)) {
		struct nlattr *a[NFTA_EXPR_MAX + 1];
		const char *name;

		nl_nested(e, a, NFTA_EXPR_MAX);
		name = nl_text(a[NFTA_EXPR_NAME]);
		if (name)
			look_at(&p, name, a[NFTA_EXPR_DATA], family);
	}
	if (!p.has_ext)
		return;
	nft_raw_nest(b, NFTA_RULE_COMPAT);
	nft_raw_u32(b, NFTA_RULE_COMPAT_PROTO, p.number);
	nft_raw_u32(b, NFTA_RULE_COMPAT_FLAGS, p.inverted ? NFT_RULE_COMPAT_F_INV : 0);
	nft_raw_unnest(b);
}

static void put_again(struct nft_batch *b, const struct nlmsghdr *h, uint32_t set_id)
{
	const struct part *part = part_of(h->nlmsg_type);
	struct nlattr *a[ATTRS + 1];

	nl_attrs(h, HEAD, a, ATTRS);
	nft_raw_begin(b, part->type, family_of(h));
	for (unsigned i = 0; i <= ATTRS; i++)
		if (a[i] && part->kept >> i & 1)
			nft_raw_attr(b, a[i]->nla_type, nla_data(a[i]), (size_t)nla_len(a[i]));
	if (part->type == NFT_MSG_NEWSET)
		nft_raw_u32(b, NFTA_SET_ID, set_id);
	if (part->type == NFT_MSG_NEWRULE)
		put_compat(b, a[NFTA_RULE_EXPRESSIONS], family_of(h));
	nft_raw_end(b);
}

static int make_from_messages(struct op *op, struct net_ns *n)
{
	_cleanup_(nft_batch_free) struct nft_batch b = NFT_BATCH_INIT;
	_cleanup_(nft_close_p) struct nft *nft = NULL;
	const struct nlmsghdr *h;
	uint32_t set_id = 0;
	int r = nft_open(op, &nft);

	for (size_t at = 0; !r && (h = nl_next(n->extra->nftables.data, n->extra->nftables.len, &at));)
		put_again(&b, h, ++set_id);
	r = r ?: nft_commit(op, nft, &b);
	if (r > 0)
		return op_errno(op, r, AT(.kind = "packet filter"), "restore the rules of nftables%s%s", nft_why(nft) ? ": " : "", nft_why(nft) ?: "");
	return r;
}

static bool is_blank(const struct nl_blob *b)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i] && !strchr(" \t\n", b->v[i]))
			return false;
	return true;
}

/* From another engine: its lock is among the rules. */
static int make_from_text(struct op *op, const struct snapshot *s, struct net_ns *n)
{
	char *text = arena_strndup(op->arena, (char *)n->nft_text.v, n->nft_text.n), *said;
	const char *id = s->inventory->dump_criu_run_id, *lock;
	int r;

	if (text && id && strspn(id, "0123456789abcdefABCDEF-") == strlen(id)) {
		lock = arena_printf(op->arena, "table inet " LOCK_PREFIX "%s ", id);
		if (lock && strstr(text, lock))
			text = arena_printf(op->arena, "%s\ndelete %s\n", text, lock);
	}
	if (!text)
		return op_nomem(op);
	r = with_library(op, text, &said);
	if (r == 1)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "packet filter", .hint = "install libnftables (libnftables1)"),
			       "the rules of nftables are there as text only, and there is no libnftables to read it");
	return r < 0 ? op_wrap(op, r, "nftables-%u.img", n->ns->id) : 0;
}

int net_filter_make(struct op *op, const struct snapshot *s, struct net_ns *n)
{
	const struct nlmsghdr *h;
	bool nameless = false;

	for (size_t at = 0; n->extra && (h = nl_next(n->extra->nftables.data, n->extra->nftables.len, &at));)
		nameless |= is_nameless(h);
	if (n->extra && n->extra->nftables.len && !(nameless && n->nft_text.n))
		return make_from_messages(op, n);
	return is_blank(&n->nft_text) ? 0 : make_from_text(op, s, n);
}
