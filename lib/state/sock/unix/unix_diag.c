/* SPDX-License-Identifier: MIT */
/* sock_diag(7): the only place where the kernel tells who is whose peer. One request an operation. */
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "lib/state/sock/sock.h"

struct listing {
	struct op *op;
	unix_diag_fn fn;
	void *arg;
	int ret;
};

static void nl_free_p(struct nl_sock **sk)
{
	nl_socket_free(*sk);
}

static const void *attr_data(struct nlattr *const *attrs, int type, size_t size)
{
	return attrs[type] && (size_t)nla_len(attrs[type]) >= size ? nla_data(attrs[type]) : NULL;
}

static void attrs_read(struct nlattr *const *attrs, struct unix_diag *d)
{
	const struct unix_diag_rqlen *queues = attr_data(attrs, UNIX_DIAG_RQLEN, sizeof(*queues));
	const struct unix_diag_vfs *file = attr_data(attrs, UNIX_DIAG_VFS, sizeof(*file));
	const uint32_t *peer = attr_data(attrs, UNIX_DIAG_PEER, sizeof(*peer));
	const uint8_t *shutdown = attr_data(attrs, UNIX_DIAG_SHUTDOWN, sizeof(*shutdown));

	if (queues) {
		d->rqueue = queues->udiag_rqueue;
		d->wqueue = queues->udiag_wqueue;
	}
	if (file) {
		d->has_file = true;
		d->file_ino = file->udiag_vfs_ino;
		d->file_dev = file->udiag_vfs_dev;
	}
	d->has_peer = peer != NULL;
	d->peer = peer ? *peer : 0;
	d->shutdown = shutdown ? *shutdown : 0;
	if (attrs[UNIX_DIAG_ICONS]) {
		d->pending = nla_data(attrs[UNIX_DIAG_ICONS]);
		d->n_pending = (size_t)nla_len(attrs[UNIX_DIAG_ICONS]) / sizeof(*d->pending);
	}
}

static int on_socket(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[UNIX_DIAG_MAX + 1];
	struct listing *l = arg;
	struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct unix_diag_msg *m = nlmsg_data(h);
	struct unix_diag d;

	if (l->ret || nlmsg_datalen(h) < (int)sizeof(*m) ||
	    nlmsg_parse(h, sizeof(*m), attrs, UNIX_DIAG_MAX, NULL) < 0)
		return NL_OK;
	d = (struct unix_diag){ .ino = m->udiag_ino, .type = m->udiag_type, .state = m->udiag_state };
	attrs_read(attrs, &d);
	l->ret = l->fn(l->op, l->arg, &d);
	return NL_OK;
}

static int failed(struct op *op, int err)
{
	return op_fail(op, CKPT_E_KERNEL, AT(.kind = "unix socket", .hint = "the kernel needs CONFIG_UNIX_DIAG"),
		       "the kernel does not list UNIX sockets: %s", nl_geterror(err));
}

int unix_diag_list(struct op *op, unix_diag_fn fn, void *arg)
{
	struct unix_diag_req req = {
		.sdiag_family = AF_UNIX,
		.udiag_states = ~0u,
		.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN,
	};
	_cleanup_(nl_free_p) struct nl_sock *sk = nl_socket_alloc();
	struct listing l = { .op = op, .fn = fn, .arg = arg };
	int r;

	if (!sk)
		return op_nomem(op);
	nl_socket_disable_auto_ack(sk);
	r = nl_connect(sk, NETLINK_SOCK_DIAG);
	if (r < 0)
		return failed(op, r);
	nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_socket, &l);
	r = nl_send_simple(sk, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &req, sizeof(req));
	if (r >= 0)
		r = nl_recvmsgs_default(sk);
	return r < 0 ? failed(op, r) : l.ret;
}
