/* SPDX-License-Identifier: MIT */
#include "lib/kernel/netlink.h"

#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <sys/socket.h>

#define ANSWER_MAX (128u << 10) /* more than the kernel puts in one */
#define REQUEST_MAX (64u << 10)
#define SNDBUF (1 << 20)
#define NO_MORE 1

struct netlink {
	struct nl_sock *sk;
	uint32_t seq;
	char why[256];
	_Alignas(struct nlmsghdr) char answer[ANSWER_MAX];
};

struct netlink *netlink_close(struct netlink *nl)
{
	if (nl)
		nl_socket_free(nl->sk);
	free(nl);
	return NULL;
}

int netlink_fd(const struct netlink *nl)
{
	return nl_socket_get_fd(nl->sk);
}

const char *netlink_why(const struct netlink *nl)
{
	return nl->why;
}

int netlink_open(struct op *op, int protocol, struct netlink **ret)
{
	_cleanup_(netlink_close_p) struct netlink *nl = calloc(1, sizeof(*nl));
	int on = 1, size = SNDBUF, r;

	if (!nl || !(nl->sk = nl_socket_alloc()))
		return op_nomem(op);
	r = nl_connect(nl->sk, protocol);
	if (r < 0)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "network", .hint = "the kernel needs netlink sockets of this protocol"),
			       "the kernel does not let us speak netlink (protocol %d): %s", protocol, nl_geterror(r));
	setsockopt(netlink_fd(nl), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	setsockopt(netlink_fd(nl), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	setsockopt(netlink_fd(nl), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	*ret = TAKE_PTR(nl);
	return 0;
}

/* ------------------------------------------------------------------------------------------------------ messages */

struct nl_request nl_request(uint16_t type, uint16_t flags, const void *head, size_t n)
{
	struct nl_request r = { .msg = nlmsg_alloc_size(REQUEST_MAX) };
	struct nlmsghdr *h = r.msg ? nlmsg_put(r.msg, NL_AUTO_PORT, 0, type, 0, flags | NLM_F_REQUEST) : NULL;

	if (h && n && nlmsg_append(r.msg, (void *)(uintptr_t)head, n, NLMSG_ALIGNTO) < 0)
		r.full = true;
	return r;
}

void nl_request_free(struct nl_request *r)
{
	nlmsg_free(r->msg);
	r->msg = NULL;
}

void nl_put(struct nl_request *r, uint16_t type, const void *p, size_t n)
{
	if (r->msg && nla_put(r->msg, type, (int)n, p) < 0)
		r->full = true;
}

void nl_put_u8(struct nl_request *r, uint16_t type, uint8_t value)
{
	nl_put(r, type, &value, sizeof(value));
}

void nl_put_u32(struct nl_request *r, uint16_t type, uint32_t value)
{
	nl_put(r, type, &value, sizeof(value));
}

void nl_put_string(struct nl_request *r, uint16_t type, const char *text)
{
	nl_put(r, type, text, strlen(text) + 1);
}

void nl_put_attr(struct nl_request *r, const struct nlattr *a)
{
	nl_put(r, a->nla_type, nla_data(a), (size_t)nla_len(a));
}

struct nlattr *nl_nest(struct nl_request *r, uint16_t type)
{
	struct nlattr *a = r->msg ? nla_nest_start(r->msg, type | NLA_F_NESTED) : NULL;

	r->full |= !a;
	return a;
}

void nl_unnest(struct nl_request *r, struct nlattr *nest)
{
	size_t len = nest ? (size_t)((char *)nlmsg_tail(nlmsg_hdr(r->msg)) - (char *)nest) : 0;

	/* Not nla_nest_end(), which takes an empty one away. */
	if (len > UINT16_MAX)
		r->full = true;
	else if (nest)
		nest->nla_len = (uint16_t)len;
}

/* ------------------------------------------------------------------------------------------------ question, answer */

static void note_why(struct netlink *nl, const struct nlmsghdr *h)
{
	const struct nlmsgerr *err = nlmsg_data(h);
	struct nlattr *attrs[NLMSGERR_ATTR_MAX + 1];
	size_t before = sizeof(*err);

	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(h->nlmsg_flags & NLM_F_CAPPED))
		before += err->msg.nlmsg_len - sizeof(err->msg);
	if (nl_attrs(h, before, attrs, NLMSGERR_ATTR_MAX) && attrs[NLMSGERR_ATTR_MSG])
		snprintf(nl->why, sizeof(nl->why), "%.*s", nla_len(attrs[NLMSGERR_ATTR_MSG]),
			 (const char *)nla_data(attrs[NLMSGERR_ATTR_MSG]));
}

struct answers {
	netlink_fn fn;
	void *arg;
	int err;
	bool done, interrupted;
};

/* One read of answers; NO_MORE: there are none. */
static int read_answers(struct op *op, struct netlink *nl, struct answers *a)
{
	ssize_t n = recv(netlink_fd(nl), nl->answer, sizeof(nl->answer), MSG_DONTWAIT);
	int left = (int)n;

	if (n < 0 && (errno == EINTR || errno == ENOBUFS))
		return 0;
	if (n <= 0)
		return NO_MORE;
	for (struct nlmsghdr *h = (struct nlmsghdr *)nl->answer; nlmsg_ok(h, left); h = nlmsg_next(h, &left)) {
		const struct nlmsgerr *e = nlmsg_data(h);

		a->interrupted |= !!(h->nlmsg_flags & NLM_F_DUMP_INTR);
		if (h->nlmsg_seq != nl->seq)
			continue;
		if (h->nlmsg_type == NLMSG_ERROR && nlmsg_datalen(h) >= (int)sizeof(*e)) {
			if (e->error && !a->err) {
				a->err = -e->error;
				note_why(nl, h);
			}
			a->done = true;
		} else if (h->nlmsg_type == NLMSG_DONE) {
			int err = nlmsg_datalen(h) >= (int)sizeof(int) ? *(const int *)nlmsg_data(h) : 0;

			a->err = err < 0 ? -err : a->err;
			a->done = true;
		} else if (a->fn && h->nlmsg_type >= NLMSG_MIN_TYPE) {
			int r = a->fn(op, a->arg, h);

			if (r)
				return r;
		}
	}
	return 0;
}

/* The kernel answers in the send itself; only listings go on with the reading. */
static int converse(struct op *op, struct netlink *nl, const struct nlmsghdr *h, uint16_t flags, struct answers *a)
{
	struct nlmsghdr head = *h;
	struct iovec iov[2] = { { &head, sizeof(head) }, { (char *)(uintptr_t)h + sizeof(head), h->nlmsg_len - sizeof(head) } };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct msghdr msg = { .msg_name = &kernel, .msg_namelen = sizeof(kernel), .msg_iov = iov, .msg_iovlen = 2 };
	int r = 0;

	nl->why[0] = 0;
	head.nlmsg_flags = flags;
	head.nlmsg_seq = ++nl->seq;
	head.nlmsg_pid = 0;
	while (sendmsg(netlink_fd(nl), &msg, 0) < 0)
		if (errno != EINTR)
			return op_errno(op, errno, AT(.kind = "network"), "send a netlink message of %u bytes", h->nlmsg_len);
	while (!r && !a->done)
		r = read_answers(op, nl, a);
	if (r == NO_MORE && !a->done)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "network"), "the kernel does not answer netlink message %u", h->nlmsg_type);
	/* What is left of a listing is not for the next question. */
	for (a->fn = NULL; r < 0 && !a->done && read_answers(op, nl, a) == 0;)
		;
	return r < 0 ? r : a->err;
}

static int check(struct op *op, const struct nl_request *r)
{
	if (!r->msg)
		return op_nomem(op);
	if (r->full)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "network"), "a netlink message would be too large");
	return 0;
}

int netlink_send(struct op *op, struct netlink *nl, const struct nlmsghdr *h, uint16_t flags)
{
	struct answers a = { 0 };

	return converse(op, nl, h, flags | NLM_F_REQUEST | NLM_F_ACK, &a);
}

int netlink_do(struct op *op, struct netlink *nl, struct nl_request *request)
{
	int r = check(op, request);

	r = r ?: netlink_send(op, nl, nlmsg_hdr(request->msg), nlmsg_hdr(request->msg)->nlmsg_flags);
	nl_request_free(request);
	return r;
}

int netlink_list(struct op *op, struct netlink *nl, struct nl_request *request, netlink_fn fn, void *arg)
{
	struct answers a = { .fn = fn, .arg = arg };
	int r = check(op, request);

	r = r ?: converse(op, nl, nlmsg_hdr(request->msg), NLM_F_REQUEST | NLM_F_DUMP, &a);
	if (!r && a.interrupted)
		log_debug(op, "something outside changed what was listed meanwhile (netlink message %u)",
			  nlmsg_hdr(request->msg)->nlmsg_type);
	nl_request_free(request);
	return r;
}

int netlink_ask(struct op *op, struct netlink *nl, struct nl_request *request, netlink_fn fn, void *arg)
{
	struct answers a = { .fn = fn, .arg = arg };
	int r = check(op, request);

	r = r ?: converse(op, nl, nlmsg_hdr(request->msg), NLM_F_REQUEST | NLM_F_ACK, &a);
	nl_request_free(request);
	return r;
}

/* --------------------------------------------------------------------------------------------------------- blobs */

int nl_blob_add(struct op *op, struct nl_blob *b, const void *p, size_t n)
{
	size_t padded = NLMSG_ALIGN(n);

	if (b->n + padded > b->cap) {
		size_t cap = MAX(b->cap * 2, b->n + padded + 1024);
		uint8_t *v = op_alloc(op, cap);

		if (!v)
			return CKPT_E_NOMEM;
		if (b->n)
			memcpy(v, b->v, b->n);
		b->v = v;
		b->cap = cap;
	}
	memcpy(b->v + b->n, p, n);
	memset(b->v + b->n + n, 0, padded - n);
	b->n += padded;
	return 0;
}

const struct nlmsghdr *nl_next(const void *bytes, size_t n, size_t *at)
{
	const struct nlmsghdr *h;

	if (*at > n || n - *at < sizeof(*h))
		return NULL;
	h = (const struct nlmsghdr *)(const void *)((const uint8_t *)bytes + *at);
	if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > n - *at)
		return NULL;
	*at = MIN(n, *at + NLMSG_ALIGN(h->nlmsg_len));
	return h;
}

static void collect(const struct nlattr *a, int left, struct nlattr **attrs, unsigned max)
{
	memset(attrs, 0, (max + 1) * sizeof(*attrs));
	for (; nla_ok(a, left); a = nla_next(a, &left))
		if (nla_type(a) <= (int)max)
			attrs[nla_type(a)] = (struct nlattr *)(uintptr_t)a;
}

bool nl_attrs(const struct nlmsghdr *h, size_t head, struct nlattr **attrs, unsigned max)
{
	size_t before = NLMSG_HDRLEN + NLMSG_ALIGN(head);

	if (h->nlmsg_len < before) {
		memset(attrs, 0, (max + 1) * sizeof(*attrs));
		return h->nlmsg_len >= NLMSG_HDRLEN + head;
	}
	collect((const struct nlattr *)(const void *)((const char *)h + before), (int)(h->nlmsg_len - before), attrs, max);
	return true;
}

bool nl_nested(const struct nlattr *a, struct nlattr **attrs, unsigned max)
{
	if (a)
		collect(nla_data(a), nla_len(a), attrs, max);
	else
		memset(attrs, 0, (max + 1) * sizeof(*attrs));
	return a;
}

uint32_t nl_u32(const struct nlattr *a, uint32_t otherwise)
{
	if (a && nla_len(a) >= (int)sizeof(otherwise))
		memcpy(&otherwise, nla_data(a), sizeof(otherwise));
	return otherwise;
}

uint16_t nl_u16(const struct nlattr *a, uint16_t otherwise)
{
	if (a && nla_len(a) >= (int)sizeof(otherwise))
		memcpy(&otherwise, nla_data(a), sizeof(otherwise));
	return otherwise;
}

uint8_t nl_u8(const struct nlattr *a, uint8_t otherwise)
{
	return a && nla_len(a) >= 1 ? *(const uint8_t *)nla_data(a) : otherwise;
}

const char *nl_text(const struct nlattr *a)
{
	return a && nla_len(a) > 0 && !((const char *)nla_data(a))[nla_len(a) - 1] ? nla_data(a) : NULL;
}
