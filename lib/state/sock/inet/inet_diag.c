/* SPDX-License-Identifier: MIT */
/* sock_diag(7) of IPv4 and IPv6 sockets: one request a family and protocol, not one a socket. */
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "lib/state/sock/inet/inet.h"

#define MESSAGE_BUFFER (64u << 10) /* the kernel fills as much as is read at once */
#define SOCKET_BUFFER (1u << 20)
#define ULP_NAME_MAX 64

/* -------------------------------------------------------------------------------------------------- one message */

static void take_address(int family, const __be32 words[4], __be16 port, union inet_addr *ret)
{
	*ret = (union inet_addr){ .any.sa_family = (sa_family_t)family };
	if (family == AF_INET6) {
		ret->v6.sin6_port = port;
		memcpy(&ret->v6.sin6_addr, words, sizeof(ret->v6.sin6_addr));
	} else {
		ret->v4.sin_port = port;
		memcpy(&ret->v4.sin_addr, words, sizeof(ret->v4.sin_addr));
	}
}

/* The name of the layer is nested. Whatever it is called, it is there. */
static const char *take_ulp(struct op *op, const struct nlattr *info)
{
	struct nlattr *name = nla_find(nla_data(info), nla_len(info), INET_ULP_INFO_NAME);
	const char *text = NULL;

	if (name && nla_len(name) > 0)
		text = arena_strndup(op->arena, nla_data(name), strnlen(nla_data(name), MIN((size_t)nla_len(name), ULP_NAME_MAX)));
	return text && *text ? text : "unknown";
}

bool inet_diag_parse(struct op *op, const struct nlmsghdr *h, size_t n, struct inet_entry *ret)
{
	struct nlattr *attrs[INET_DIAG_MAX + 1];
	struct inet_diag_msg m;

	if (n < NLMSG_HDRLEN + sizeof(m) || h->nlmsg_len < NLMSG_HDRLEN + sizeof(m) || h->nlmsg_len > n ||
	    nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(m), attrs, INET_DIAG_MAX, NULL) < 0)
		return false;
	memcpy(&m, NLMSG_DATA(h), sizeof(m));
	if (m.idiag_family != AF_INET && m.idiag_family != AF_INET6)
		return false;
	*ret = (struct inet_entry){
		.family = m.idiag_family, .state = m.idiag_state, .ino = m.idiag_inode, .ifindex = m.id.idiag_if,
		.uid = m.idiag_uid, .rqueue = m.idiag_rqueue, .wqueue = m.idiag_wqueue,
		.keyed = attrs[INET_DIAG_MD5SIG] != NULL,
	};
	take_address(m.idiag_family, m.id.idiag_src, m.id.idiag_sport, &ret->local);
	take_address(m.idiag_family, m.id.idiag_dst, m.id.idiag_dport, &ret->peer);
	if (attrs[INET_DIAG_SHUTDOWN] && nla_len(attrs[INET_DIAG_SHUTDOWN]) >= 1)
		ret->shutdown = nla_get_u8(attrs[INET_DIAG_SHUTDOWN]) & 3;
	if (attrs[INET_DIAG_ULP_INFO])
		ret->ulp = take_ulp(op, attrs[INET_DIAG_ULP_INFO]);
	return true;
}

/* ---------------------------------------------------------------------------------------------------- a listing */

struct filling {
	struct op *op;
	struct inet_listing *to;
	int ret;
};

static int keep(struct filling *f, const struct inet_entry *e)
{
	struct op *op = f->op;
	struct inet_entry *copy = arena_memdup(op->arena, e, sizeof(*e)), **slot;

	slot = copy ? ARRAY_ADD(op->arena, &f->to->all) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = copy;
	/* A listing is no snapshot: what moves meanwhile, which is nothing of the tree's, may come twice. */
	if (!e->ino || index_find(&f->to->inodes, KEY(e->ino)))
		return 0;
	return index_add(op, &f->to->inodes, KEY(e->ino), copy);
}

static int on_message(struct nl_msg *msg, void *arg)
{
	struct filling *f = arg;
	struct inet_entry e;

	if (!f->ret && inet_diag_parse(f->op, nlmsg_hdr(msg), nlmsg_hdr(msg)->nlmsg_len, &e))
		f->ret = keep(f, &e);
	return NL_OK;
}

static void nl_free_p(struct nl_sock **sk)
{
	nl_socket_free(*sk);
}

static void nlmsg_free_p(struct nl_msg **msg)
{
	nlmsg_free(*msg);
}

/* Connections that are only waited for after their end are nobody's any more. */
static int send_request(struct nl_sock *sk, int family, uint32_t proto)
{
	const struct inet_diag_req_v2 req = {
		.sdiag_family = (uint8_t)family,
		.sdiag_protocol = proto == IPPROTO_MPTCP ? IPPROTO_TCP : (uint8_t)proto, /* there is no room for it */
		.idiag_ext = 1 << (INET_DIAG_SHUTDOWN - 1),
		.idiag_states = ~(1u << INET_TIME_WAIT),
	};
	_cleanup_(nlmsg_free_p) struct nl_msg *msg = nlmsg_alloc_simple(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP);
	int r = msg ? nlmsg_append(msg, (void *)(uintptr_t)&req, sizeof(req), NLMSG_ALIGNTO) : -NLE_NOMEM;

	if (r >= 0 && proto == IPPROTO_MPTCP)
		r = nla_put_u32(msg, INET_DIAG_REQ_PROTOCOL, proto);
	return r < 0 ? r : nl_send_auto(sk, msg);
}

static int list(struct op *op, int family, uint32_t proto, struct inet_listing *to, int *error)
{
	_cleanup_(nl_free_p) struct nl_sock *sk = nl_socket_alloc();
	struct filling f = { .op = op, .to = to };
	int r;

	if (!sk)
		return op_nomem(op);
	nl_socket_disable_auto_ack(sk);
	nl_socket_set_msg_buf_size(sk, MESSAGE_BUFFER);
	r = nl_connect(sk, NETLINK_SOCK_DIAG);
	if (r >= 0)
		nl_socket_set_buffer_size(sk, SOCKET_BUFFER, 0); /* it may be denied: then it takes more rounds */
	nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_message, &f);
	r = r < 0 ? r : send_request(sk, family, proto);
	r = r < 0 ? r : nl_recvmsgs_default(sk);
	*error = r < 0 ? r : 0;
	return f.ret;
}

static const char *proto_name(uint32_t proto)
{
	return proto == IPPROTO_TCP ? "TCP" : proto == IPPROTO_MPTCP ? "MPTCP" : proto == IPPROTO_UDP ? "UDP" : "UDP-Lite";
}

int inet_listing(struct op *op, struct inet_state *is, int family, uint32_t proto, const struct inet_listing **ret)
{
	struct inet_listing *l = index_find(&is->listings, KEY((uint64_t)family, proto));
	int error = 0, r = 0;

	if (!l) {
		l = op_new(op, struct inet_listing);
		r = l ? index_add(op, &is->listings, KEY((uint64_t)family, proto), l) : CKPT_E_NOMEM;
	}
	if (!r && !l->listed)
		r = list(op, family, proto, l, &error);
	if (r)
		return r;
	l->listed = true;
	*ret = l;
	if (!error)
		return 0;
	/* Of others hardly anything is asked that does not show on the socket itself. */
	if (proto == IPPROTO_TCP)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "TCP socket", .hint = "the kernel needs CONFIG_INET_DIAG"),
			       "the kernel does not list TCP sockets: %s", nl_geterror(error));
	log_debug(op, "the kernel does not list %s sockets: %s", proto_name(proto), nl_geterror(error));
	return 0;
}

int inet_entry_of(struct op *op, struct inet_state *is, int family, uint32_t proto, uint32_t ino, const struct inet_entry **ret)
{
	const struct inet_listing *l;
	int r = inet_listing(op, is, family, proto, &l);

	*ret = r ? NULL : index_find(&l->inodes, KEY(ino));
	return r;
}
