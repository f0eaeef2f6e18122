/* SPDX-License-Identifier: MIT */
#include "lib/kernel/nft.h"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <sys/socket.h>

#define MESSAGE(type) (NFNL_SUBSYS_NFTABLES << 8 | (type))
#define NO_MORE 1
#define ATTR_MAX 0xffffu   /* bytes of one attribute, what is nested in it included */
#define ANSWER_MAX 16384
#define BITS_OF_TYPE 6	   /* of a field in the number of a joined type */

/* --------------------------------------------------------------------------------------------------- building */

static void broken(struct nft_batch *b, int err)
{
	if (!b->err)
		b->err = err;
}

/* @n bytes at the end, zeroed, so that padding is. */
static void *extend(struct nft_batch *b, size_t n)
{
	size_t cap = b->cap;
	uint8_t *at;

	while (b->len + n > cap)
		cap = cap ? 2 * cap : 4096;
	if (cap != b->cap && !b->err) {
		uint8_t *bigger = realloc(b->buf, cap);

		if (bigger) {
			b->buf = bigger;
			b->cap = cap;
		} else {
			broken(b, ENOMEM);
		}
	}
	if (b->err)
		return NULL;
	at = memset(b->buf + b->len, 0, n);
	b->len += n;
	return at;
}

static struct nlmsghdr *message(struct nft_batch *b)
{
	return (struct nlmsghdr *)(void *)(b->buf + b->message);
}

static void message_begin(struct nft_batch *b, uint16_t type, uint16_t flags, uint8_t family, uint16_t res_id)
{
	size_t at = b->len;
	uint8_t *p = extend(b, NLMSG_LENGTH(sizeof(struct nfgenmsg)));

	if (!p)
		return;
	b->message = at;
	*message(b) = (struct nlmsghdr){ .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = b->n++ };
	*(struct nfgenmsg *)(void *)(p + NLMSG_HDRLEN) =
		(struct nfgenmsg){ .nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(res_id) };
}

static void message_end(struct nft_batch *b)
{
	if (b->depth)
		broken(b, EINVAL);
	if (!b->err)
		message(b)->nlmsg_len = (uint32_t)(b->len - b->message);
}

/* Every batch is between two messages that say so. */
static void begin(struct nft_batch *b, uint16_t type, uint16_t flags, uint8_t family)
{
	if (!b->n) {
		message_begin(b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
		message_end(b);
	}
	message_begin(b, MESSAGE(type), flags, family, 0);
}

static void *attr(struct nft_batch *b, uint16_t type, size_t len)
{
	struct nlattr *a;

	if (NLA_HDRLEN + len > ATTR_MAX) {
		broken(b, EMSGSIZE);
		return NULL;
	}
	a = extend(b, NLA_HDRLEN + NLA_ALIGN(len));
	if (!a)
		return NULL;
	a->nla_type = type;
	a->nla_len = (uint16_t)(NLA_HDRLEN + len);
	return (uint8_t *)a + NLA_HDRLEN;
}

static void put(struct nft_batch *b, uint16_t type, const void *data, size_t len)
{
	void *p = attr(b, type, len);

	if (p)
		memcpy(p, data, len);
}

static void put_string(struct nft_batch *b, uint16_t type, const char *text)
{
	if (strlen(text) >= NFT_NAME_MAXLEN)
		broken(b, ENAMETOOLONG);
	else
		put(b, type, text, strlen(text) + 1);
}

/* Numbers are in network order. */
static void put_u32(struct nft_batch *b, uint16_t type, uint32_t value)
{
	value = htonl(value);
	put(b, type, &value, sizeof(value));
}

static void nest(struct nft_batch *b, uint16_t type)
{
	size_t at = b->len;

	if (b->depth == ARRAY_SIZE(b->nest))
		broken(b, EINVAL);
	else if (attr(b, type | NLA_F_NESTED, 0))
		b->nest[b->depth++] = at;
}

static void unnest(struct nft_batch *b)
{
	size_t at;

	if (b->err)
		return;
	at = b->nest[--b->depth];
	if (b->len - at > ATTR_MAX)
		broken(b, EMSGSIZE);
	else
		((struct nlattr *)(void *)(b->buf + at))->nla_len = (uint16_t)(b->len - at);
}

static void put_data(struct nft_batch *b, uint16_t type, const void *data, size_t len)
{
	nest(b, type);
	put(b, NFTA_DATA_VALUE, data, len);
	unnest(b);
}

void nft_batch_free(struct nft_batch *b)
{
	free(b->buf);
	*b = (struct nft_batch)NFT_BATCH_INIT;
}

/* ------------------------------------------------------------------------------------- tables, chains and sets */

void nft_table_add(struct nft_batch *b, uint8_t family, const char *name, uint32_t flags)
{
	begin(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, family);
	put_string(b, NFTA_TABLE_NAME, name);
	put_u32(b, NFTA_TABLE_FLAGS, flags);
	message_end(b);
}

void nft_table_del(struct nft_batch *b, uint8_t family, const char *name)
{
	begin(b, NFT_MSG_DELTABLE, 0, family);
	put_string(b, NFTA_TABLE_NAME, name);
	message_end(b);
}

void nft_chain_add(struct nft_batch *b, const struct nft_chain *c)
{
	begin(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, c->family);
	put_string(b, NFTA_CHAIN_TABLE, c->table);
	put_string(b, NFTA_CHAIN_NAME, c->name);
	if (c->type) {
		nest(b, NFTA_CHAIN_HOOK);
		put_u32(b, NFTA_HOOK_HOOKNUM, c->hook);
		put_u32(b, NFTA_HOOK_PRIORITY, (uint32_t)c->priority);
		unnest(b);
		put_u32(b, NFTA_CHAIN_POLICY, c->policy);
		put_string(b, NFTA_CHAIN_TYPE, c->type);
	}
	message_end(b);
}

size_t nft_key_len(const struct nft_set *set)
{
	size_t n = 0;

	for (size_t i = 0; i < set->n_fields; i++)
		n += set->n_fields > 1 ? ALIGN_UP(set->key[i].len, 4) : set->key[i].len;
	return n;
}

void nft_set_add(struct nft_batch *b, const struct nft_set *set)
{
	uint32_t type = 0;

	for (size_t i = 0; i < set->n_fields; i++)
		type = type << BITS_OF_TYPE | set->key[i].type;
	begin(b, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, set->family);
	put_string(b, NFTA_SET_TABLE, set->table);
	put_string(b, NFTA_SET_NAME, set->name);
	put_u32(b, NFTA_SET_ID, set->id);
	put_u32(b, NFTA_SET_FLAGS, set->flags);
	put_u32(b, NFTA_SET_KEY_TYPE, type);
	put_u32(b, NFTA_SET_KEY_LEN, (uint32_t)nft_key_len(set));
	if (set->size) {
		nest(b, NFTA_SET_DESC);
		put_u32(b, NFTA_SET_DESC_SIZE, set->size);
		unnest(b);
	}
	message_end(b);
}

static void elems_message(struct nft_batch *b)
{
	begin(b, NFT_MSG_NEWSETELEM, NLM_F_CREATE, b->family);
	put_string(b, NFTA_SET_ELEM_LIST_TABLE, b->table);
	put_string(b, NFTA_SET_ELEM_LIST_SET, b->set);
	nest(b, NFTA_SET_ELEM_LIST_ELEMENTS);
}

void nft_elems_begin(struct nft_batch *b, uint8_t family, const char *table, const char *set)
{
	b->family = family;
	b->table = table;
	b->set = set;
	elems_message(b);
}

void nft_elems_end(struct nft_batch *b)
{
	unnest(b);
	message_end(b);
}

void nft_elem(struct nft_batch *b, const void *key, size_t len)
{
	size_t size = 3 * NLA_HDRLEN + NLA_ALIGN(len);

	if (!b->err && b->len - b->nest[b->depth - 1] + size > ATTR_MAX) {
		nft_elems_end(b);
		elems_message(b);
	}
	nest(b, NFTA_LIST_ELEM);
	put_data(b, NFTA_SET_ELEM_KEY, key, len);
	unnest(b);
}

/* ------------------------------------------------------------------------------------------------------ rules */

void nft_rule_begin(struct nft_batch *b, uint8_t family, const char *table, const char *chain)
{
	begin(b, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family);
	put_string(b, NFTA_RULE_TABLE, table);
	put_string(b, NFTA_RULE_CHAIN, chain);
	nest(b, NFTA_RULE_EXPRESSIONS);
}

void nft_rule_end(struct nft_batch *b)
{
	unnest(b);
	message_end(b);
}

static void expr(struct nft_batch *b, const char *name)
{
	nest(b, NFTA_LIST_ELEM);
	put_string(b, NFTA_EXPR_NAME, name);
	nest(b, NFTA_EXPR_DATA);
}

static void expr_end(struct nft_batch *b)
{
	unnest(b);
	unnest(b);
}

void nft_meta(struct nft_batch *b, enum nft_meta_keys key, uint32_t dreg)
{
	expr(b, "meta");
	put_u32(b, NFTA_META_KEY, key);
	put_u32(b, NFTA_META_DREG, dreg);
	expr_end(b);
}

void nft_meta_set(struct nft_batch *b, enum nft_meta_keys key, uint32_t sreg)
{
	expr(b, "meta");
	put_u32(b, NFTA_META_KEY, key);
	put_u32(b, NFTA_META_SREG, sreg);
	expr_end(b);
}

void nft_payload(struct nft_batch *b, enum nft_payload_bases base, uint32_t offset, uint32_t len, uint32_t dreg)
{
	expr(b, "payload");
	put_u32(b, NFTA_PAYLOAD_DREG, dreg);
	put_u32(b, NFTA_PAYLOAD_BASE, base);
	put_u32(b, NFTA_PAYLOAD_OFFSET, offset);
	put_u32(b, NFTA_PAYLOAD_LEN, len);
	expr_end(b);
}

void nft_cmp(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, const void *data, size_t len)
{
	expr(b, "cmp");
	put_u32(b, NFTA_CMP_SREG, sreg);
	put_u32(b, NFTA_CMP_OP, op);
	put_data(b, NFTA_CMP_DATA, data, len);
	expr_end(b);
}

void nft_cmp_u8(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, uint8_t value)
{
	nft_cmp(b, op, sreg, &value, sizeof(value));
}

void nft_cmp_u32(struct nft_batch *b, enum nft_cmp_ops op, uint32_t sreg, uint32_t value)
{
	nft_cmp(b, op, sreg, &value, sizeof(value));
}

void nft_lookup(struct nft_batch *b, const char *set, uint32_t sreg)
{
	expr(b, "lookup");
	put_string(b, NFTA_LOOKUP_SET, set);
	put_u32(b, NFTA_LOOKUP_SREG, sreg);
	expr_end(b);
}

void nft_immediate(struct nft_batch *b, uint32_t dreg, const void *data, size_t len)
{
	expr(b, "immediate");
	put_u32(b, NFTA_IMMEDIATE_DREG, dreg);
	put_data(b, NFTA_IMMEDIATE_DATA, data, len);
	expr_end(b);
}

void nft_verdict(struct nft_batch *b, int verdict)
{
	expr(b, "immediate");
	put_u32(b, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
	nest(b, NFTA_IMMEDIATE_DATA);
	nest(b, NFTA_DATA_VERDICT);
	put_u32(b, NFTA_VERDICT_CODE, (uint32_t)verdict);
	unnest(b);
	unnest(b);
	expr_end(b);
}

void nft_counter(struct nft_batch *b)
{
	expr(b, "counter");
	expr_end(b);
}

/* ------------------------------------------------------------------------------------------------ as they are */

void nft_raw_begin(struct nft_batch *b, uint8_t type, uint8_t family)
{
	begin(b, type, NLM_F_CREATE | (type == NFT_MSG_NEWRULE ? NLM_F_APPEND : 0), family);
}

void nft_raw_attr(struct nft_batch *b, uint16_t type, const void *data, size_t len)
{
	put(b, type, data, len);
}

void nft_raw_u32(struct nft_batch *b, uint16_t type, uint32_t value)
{
	put_u32(b, type, value);
}

void nft_raw_nest(struct nft_batch *b, uint16_t type)
{
	nest(b, type);
}

void nft_raw_unnest(struct nft_batch *b)
{
	unnest(b);
}

void nft_raw_end(struct nft_batch *b)
{
	message_end(b);
}

/* ------------------------------------------------------------------------------------------------- the kernel */

struct nft {
	struct nl_sock *sk;
	uint32_t seq;
	char why[256];
	_Alignas(struct nlmsghdr) char answer[ANSWER_MAX];
};

struct nft *nft_close(struct nft *nft)
{
	if (nft)
		nl_socket_free(nft->sk);
	free(nft);
	return NULL;
}

int nft_open(struct op *op, struct nft **ret)
{
	_cleanup_(nft_close_p) struct nft *nft = calloc(1, sizeof(*nft));
	int on = 1, r;

	if (!nft || !(nft->sk = nl_socket_alloc()))
		return op_nomem(op);
	r = nl_connect(nft->sk, NETLINK_NETFILTER);
	if (r < 0)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "network lock", .hint = "the kernel needs CONFIG_NETFILTER_NETLINK"),
			       "the kernel does not let us speak to its packet filter: %s", nl_geterror(r));
	/* Answers with the reason in words, and without the whole of what was asked. */
	setsockopt(nl_socket_get_fd(nft->sk), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	setsockopt(nl_socket_get_fd(nft->sk), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	*ret = TAKE_PTR(nft);
	return 0;
}

const char *nft_why(const struct nft *nft)
{
	return nft->why[0] ? nft->why : NULL;
}

const void *nft_batch_bytes(struct nft_batch *b, size_t *n)
{
	struct nlmsghdr *last = b->err || !b->n ? NULL : message(b);

	/* The last message of all is acknowledged by newer kernels only: it is asked of the one before. */
	if (last && last->nlmsg_type != NFNL_MSG_BATCH_END) {
		last->nlmsg_flags |= NLM_F_ACK;
		message_begin(b, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
		message_end(b);
	}
	*n = b->len;
	errno = b->err;
	return b->err || !b->n ? NULL : b->buf;
}

static void note_why(struct nft *nft, struct nlmsghdr *h)
{
	const struct nlmsgerr *err = nlmsg_data(h);
	struct nlattr *attrs[NLMSGERR_ATTR_MAX + 1];
	size_t before = sizeof(*err);

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(h->nlmsg_flags & NLM_F_CAPPED))
		before += err->msg.nlmsg_len - sizeof(err->msg);
	if (nlmsg_parse(h, (int)before, attrs, NLMSGERR_ATTR_MAX, NULL) == 0 && attrs[NLMSGERR_ATTR_MSG])
		snprintf(nft->why, sizeof(nft->why), "%.*s", nla_len(attrs[NLMSGERR_ATTR_MSG]),
			 (const char *)nla_data(attrs[NLMSGERR_ATTR_MSG]));
}

/* One read of answers; NO_MORE: there are none. What @fn returns ends it. *@err: the first refusal. *@done: the one to @seq, or the end of a listing. */
static int read_answers(struct nft *nft, uint32_t seq, int *err, bool *done, int (*fn)(void *, struct nlmsghdr *), void *arg)
{
	/* Netlink answers in the send itself; only listings go on with the reading. */
	ssize_t n = recv(nl_socket_get_fd(nft->sk), nft->answer, sizeof(nft->answer), MSG_DONTWAIT);
	int left = (int)n;

	if (n < 0 && (errno == EINTR || errno == ENOBUFS))
		return 0;
	if (n <= 0)
		return NO_MORE;
	for (struct nlmsghdr *h = (struct nlmsghdr *)nft->answer; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
		const struct nlmsgerr *e = nlmsg_data(h);

		if (h->nlmsg_type == NLMSG_ERROR && nlmsg_datalen(h) >= (int)sizeof(*e)) {
			if (e->error && !*err) {
				*err = -e->error;
				note_why(nft, h);
			}
			*done |= h->nlmsg_seq == seq;
		} else if (h->nlmsg_type == NLMSG_DONE) {
			*done = true;
		} else if (fn && h->nlmsg_type >= NLMSG_MIN_TYPE) {
			int r = fn(arg, h);

			if (r)
				return r;
		}
	}
	return 0;
}

static int send_all(struct op *op, struct nft *nft, const void *bytes, size_t n)
{
	int fd = nl_socket_get_fd(nft->sk), size = (int)MIN(n + PAGE_SIZE, INT32_MAX / 2);

	nft->why[0] = 0;
	/* It goes as one message. Without the right to have it so large, the batch is refused as well. */
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	while (send(fd, bytes, n, 0) < 0)
		if (errno != EINTR)
			return op_errno(op, errno, AT(.kind = "network lock"), "send %zu bytes to the kernel's packet filter", n);
	return 0;
}

int nft_commit(struct op *op, struct nft *nft, struct nft_batch *b)
{
	bool done = false;
	int err = 0, r;
	size_t n;
	const void *bytes = nft_batch_bytes(b, &n);

	if (!bytes)
		return b->err ? op_errno(op, b->err, AT(.kind = "network lock"), "prepare rules for the packet filter") : 0;
	r = send_all(op, nft, bytes, n);
	while (!r && read_answers(nft, b->n - 2, &err, &done, NULL, NULL) == 0)
		;
	if (r || err)
		return r ?: err;
	return done ? 0 : op_fail(op, CKPT_E_KERNEL, AT(.kind = "network lock"), "the kernel's packet filter does not answer");
}

struct table_listing {
	struct op *op;
	nft_table_fn fn;
	void *arg;
};

static uint32_t attr_u32(const struct nlattr *a)
{
	uint32_t v = 0;

	if (a && nla_len(a) >= (int)sizeof(v))
		memcpy(&v, nla_data(a), sizeof(v));
	return ntohl(v);
}

static int on_table(void *arg, struct nlmsghdr *h)
{
	struct nlattr *attrs[NFTA_TABLE_MAX + 1];
	const struct table_listing *l = arg;
	const struct nlattr *name;
	struct nft_table_info t;

	if (h->nlmsg_type != MESSAGE(NFT_MSG_NEWTABLE) ||
	    nlmsg_parse(h, sizeof(struct nfgenmsg), attrs, NFTA_TABLE_MAX, NULL) < 0)
		return 0;
	name = attrs[NFTA_TABLE_NAME];
	if (!name || !nla_len(name) || ((const char *)nla_data(name))[nla_len(name) - 1])
		return 0;
	t = (struct nft_table_info){
		.name = nla_data(name), .flags = attr_u32(attrs[NFTA_TABLE_FLAGS]), .owner = attr_u32(attrs[NFTA_TABLE_OWNER]),
		.n_chains = attr_u32(attrs[NFTA_TABLE_USE]),
	};
	return l->fn(l->op, l->arg, &t);
}

int nft_tables(struct op *op, struct nft *nft, uint8_t family, nft_table_fn fn, void *arg)
{
	struct {
		struct nlmsghdr head;
		struct nfgenmsg gen;
	} ask = {
		.head = { .nlmsg_len = sizeof(ask), .nlmsg_type = MESSAGE(NFT_MSG_GETTABLE),
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = ++nft->seq },
		.gen = { .nfgen_family = family, .version = NFNETLINK_V0 },
	};
	struct table_listing l = { .op = op, .fn = fn, .arg = arg };
	bool done = false;
	int err = 0, r = send_all(op, nft, &ask, sizeof(ask));

	while (!r && !done && !err)
		r = read_answers(nft, nft->seq, &err, &done, on_table, &l);
	if (r == NO_MORE)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "network lock"), "the kernel's packet filter does not answer");
	/* What is left of the listing is not for the next question. */
	while (!done && !err && read_answers(nft, nft->seq, &err, &done, NULL, NULL) == 0)
		;
	return r ?: err;
}
