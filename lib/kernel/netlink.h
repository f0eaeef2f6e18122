/* SPDX-License-Identifier: MIT */
/*
 * Talking netlink to the kernel: one question at a time, answered in the call itself. Messages are built with libnl-3; a
 * message that has become too large is noticed by netlink_do(). Answers are kept as they come, as a blob: whole messages, one
 * after another, each padded to four bytes, which is also what iproute2's `save` commands write.
 */
#ifndef CKPT_KERNEL_NETLINK_H
#define CKPT_KERNEL_NETLINK_H

#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#include "lib/base/op.h"

struct netlink;
/* A connection to the caller's network namespace. */
int netlink_open(struct op *op, int protocol, struct netlink **ret);
struct netlink *netlink_close(struct netlink *nl);
static inline void netlink_close_p(struct netlink **nl)
{
	*nl = netlink_close(*nl);
}
int netlink_fd(const struct netlink *nl);
/* What the kernel said in words about the last refusal, or "". */
const char *netlink_why(const struct netlink *nl);

/* ---- messages */
struct nl_request {
	struct nl_msg *msg; /* NULL: no memory */
	bool full;	    /* something did not fit */
};
/* @head: what follows the header: struct ifinfomsg and the like. NLM_F_REQUEST is added. */
struct nl_request nl_request(uint16_t type, uint16_t flags, const void *head, size_t n);
void nl_request_free(struct nl_request *r);
void nl_put(struct nl_request *r, uint16_t type, const void *p, size_t n);
void nl_put_u8(struct nl_request *r, uint16_t type, uint8_t value);
void nl_put_u32(struct nl_request *r, uint16_t type, uint32_t value);
void nl_put_string(struct nl_request *r, uint16_t type, const char *text);
void nl_put_attr(struct nl_request *r, const struct nlattr *a); /* a copy of it */
struct nlattr *nl_nest(struct nl_request *r, uint16_t type);
void nl_unnest(struct nl_request *r, struct nlattr *nest);

/* Sends it and waits for the answer; frees it. 0; positive: the errno of the refusal; negative: recorded with op_fail(). */
int netlink_do(struct op *op, struct netlink *nl, struct nl_request *r);
/* The same for a message as it stands, of which flags and sequence are set. */
int netlink_send(struct op *op, struct netlink *nl, const struct nlmsghdr *h, uint16_t flags);

/* ---- listings: codes as those of netlink_do(). What @fn returns ends it. */
typedef int (*netlink_fn)(struct op *op, void *arg, const struct nlmsghdr *h);
/* NLM_F_DUMP is added; frees @r. */
int netlink_list(struct op *op, struct netlink *nl, struct nl_request *r, netlink_fn fn, void *arg);
/* For the answer to one question. */
int netlink_ask(struct op *op, struct netlink *nl, struct nl_request *r, netlink_fn fn, void *arg);

/* ---- blobs: pure; nothing in them is believed */
struct nl_blob {
	uint8_t *v; /* in the arena */
	size_t n, cap;
};
int nl_blob_add(struct op *op, struct nl_blob *b, const void *p, size_t n); /* padded */
/* The next message from *@at on, which it moves; NULL at the end, or where something is that is no message: then *@at < @n. */
const struct nlmsghdr *nl_next(const void *bytes, size_t n, size_t *at);
/*
 * The attributes of a message after its head of @head bytes, by number; those above @max are left out. False: it is damaged.
 * What is in there may be shorter than its type says: read it with the functions below.
 */
bool nl_attrs(const struct nlmsghdr *h, size_t head, struct nlattr **attrs, unsigned max);
bool nl_nested(const struct nlattr *a, struct nlattr **attrs, unsigned max);
uint32_t nl_u32(const struct nlattr *a, uint32_t otherwise);
uint16_t nl_u16(const struct nlattr *a, uint16_t otherwise);
uint8_t nl_u8(const struct nlattr *a, uint8_t otherwise);
const char *nl_text(const struct nlattr *a); /* NULL: none, or without an end */

#endif
