/* SPDX-License-Identifier: MIT */
/*
 * What the kernel keeps under the address of a netlink socket and drops when it is closed. It does not show on the socket;
 * where another place shows it, the socket is refused, for the program would wait in vain for what it had asked for.
 */
#include <linux/audit.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>

#include "lib/state/sock/link/link.h"

struct search {
	uint32_t portid;
	pid_t pid;
	char table[64]; /* owned by the socket; empty: none */
	bool is_auditd;
};

static void nl_free_p(struct nl_sock **sk)
{
	nl_socket_free(*sk);
}

/* Asks one question, whose answers go to @fn. A kernel that does not know it has nothing of the kind. */
static void ask(int protocol, int type, int flags, void *req, size_t len, nl_recvmsg_msg_cb_t fn, struct search *s)
{
	_cleanup_(nl_free_p) struct nl_sock *sk = nl_socket_alloc();

	if (!sk)
		return;
	nl_socket_disable_auto_ack(sk);
	nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, fn, s);
	if (nl_connect(sk, protocol) >= 0 && nl_send_simple(sk, type, flags, req, len) >= 0)
		nl_recvmsgs_default(sk);
}

/* ---------------------------------------------------------------------------------------------------- netfilter */

/* Lines of "NUMBER PORTID ...": a queue of packets or a group of log messages, and who gets them. -1: none is @portid's. */
static long bound_number(const char *name, uint32_t portid)
{
	_cleanup_fclose_ FILE *f = NULL;
	char path[64], line[256];
	unsigned number, owner;

	snprintf(path, sizeof(path), "/proc/thread-self/net/netfilter/%s", name);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%u %u", &number, &owner) == 2 && owner == portid)
			return number;
	return -1;
}

static int on_table(struct nl_msg *msg, void *arg)
{
	struct nlattr *attrs[NFTA_TABLE_MAX + 1];
	struct search *s = arg;

	if (nlmsg_parse(nlmsg_hdr(msg), sizeof(struct nfgenmsg), attrs, NFTA_TABLE_MAX, NULL) < 0 || !attrs[NFTA_TABLE_OWNER] ||
	    !attrs[NFTA_TABLE_NAME] || nla_len(attrs[NFTA_TABLE_OWNER]) < 4 ||
	    ntohl(nla_get_u32(attrs[NFTA_TABLE_OWNER])) != s->portid)
		return NL_OK;
	nla_strlcpy(s->table, attrs[NFTA_TABLE_NAME], sizeof(s->table));
	return NL_OK;
}

static int check_netfilter(struct op *op, const struct fd_view *v, uint32_t portid)
{
	struct nfgenmsg req = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0 };
	struct search s = { .portid = portid };
	long n = bound_number("nfnetlink_queue", portid);

	if (n >= 0)
		return file_refuse(op, v, "netlink socket", "have the program close it, and bind to the queue again afterwards",
				   "it is bound to queue %ld of the packet filter, and packets in that queue would be dropped", n);
	n = bound_number("nfnetlink_log", portid);
	if (n >= 0)
		return file_refuse(op, v, "netlink socket", "have the program close it, and bind to the group again afterwards",
				   "it is bound to log group %ld of the packet filter", n);
	ask(NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_DUMP, &req, sizeof(req), on_table, &s);
	if (s.table[0])
		return file_refuse(op, v, "netlink socket", "make the table one that stays (without the flag owner)",
				   "it owns the packet filter's table %s, which goes when it is closed", s.table);
	return 0;
}

/* -------------------------------------------------------------------------------------------------------- audit */

static int on_status(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct audit_status *st = nlmsg_data(h);
	struct search *s = arg;

	if (h->nlmsg_type == AUDIT_GET && nlmsg_datalen(h) >= (int)(offsetof(struct audit_status, pid) + sizeof(st->pid)))
		s->is_auditd = s->pid > 0 && st->pid == (uint32_t)s->pid;
	return NL_OK;
}

static int check_audit(struct op *op, const struct fd_view *v)
{
	struct search s = { .pid = v->fd < 0 || v->carrier ? 0 : v->pid };

	ask(NETLINK_AUDIT, AUDIT_GET, 0, NULL, 0, on_status, &s);
	return s.is_auditd ? file_refuse(op, v, "netlink socket", "end the audit daemon, and start it again afterwards",
					 "it is that of the audit daemon, as which the kernel would not know it again")
			   : 0;
}

/* --------------------------------------------------------------------------------------------------------- others */

static int check_connector(struct op *op, const struct fd_view *v, uint32_t groups)
{
	if (!(groups & 1u << (CN_IDX_PROC - 1)))
		return 0;
	return file_refuse(op, v, "netlink socket", "have the program close it, and open another one afterwards",
			   "it has the kernel tell it of processes (proc connector), which is not shown and would end");
}

/* Those of them with an address have spoken to the kernel: only then can it keep anything. */
static const char *may_keep(int protocol)
{
	switch (protocol) {
	case NETLINK_GENERIC:
		return "what it has registered with generic netlink families (taskstats, wireless, Open vSwitch ...)";
	case NETLINK_ISCSI:
		return "what it has registered with the iSCSI driver";
	case NETLINK_RDMA:
		return "what it has registered with the RDMA subsystem";
	default:
		return protocol > NETLINK_SMC ? "what its protocol may have kept for it" : NULL;
	}
}

int netlink_check_hidden(struct op *op, const struct fd_view *v, int protocol, uint32_t portid, uint32_t groups)
{
	const char *keeps = portid ? may_keep(protocol) : NULL;

	if (protocol == NETLINK_CONNECTOR)
		return check_connector(op, v, groups);
	if (protocol == NETLINK_NETFILTER && portid)
		return check_netfilter(op, v, portid);
	if (protocol == NETLINK_AUDIT && portid)
		return check_audit(op, v);
	if (keeps && v->copy >= 0)
		log_warn(op, "task %d: fd %d: netlink socket (protocol %d): %s is not shown by the kernel, and would not be "
			     "restored", v->pid, v->fd, protocol, keeps);
	return 0;
}
