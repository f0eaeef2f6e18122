// SPDX-License-Identifier: MIT
/* Probes: sockets and netlink. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/inet_diag.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "lib/kernel/probe/probe.h"

/* Newer than the headers. */
#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif
#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0)
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

bool probe_tun(struct features *f)
{
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	unsigned flags;

	(void)f;
	return fd >= 0 && ioctl(fd, TUNGETFEATURES, &flags) == 0;
}

bool probe_sk_ns(struct features *f)
{
	_cleanup_close_ int sk = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int ns = sk < 0 ? -1 : ioctl(sk, SIOCGSKNS, 0);

	(void)f;
	return ns >= 0;
}

/* The socket has no file, which a kernel that knows the call says. */
bool probe_sk_unix_file(struct features *f)
{
	_cleanup_close_ int sk = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)f;
	return sk >= 0 && ioctl(sk, SIOCUNIXFILE, 0) < 0 && errno == ENOENT;
}

bool probe_sockopt_buf_lock(struct features *f)
{
	_cleanup_close_ int sk = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(int);
	int v;

	(void)f;
	return sk >= 0 && getsockopt(sk, SOL_SOCKET, SO_BUF_LOCK, &v, &len) == 0;
}

bool probe_ipv6_freebind(struct features *f)
{
	_cleanup_close_ int sk = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int on = 1;

	(void)f;
	return sk >= 0 && setsockopt(sk, SOL_IPV6, IPV6_FREEBIND, &on, sizeof(on)) == 0;
}

/* Sends a request and gives the first answer: its type, or a negative errno. Never waits. */
static int netlink_ask(int protocol, const void *request, size_t len)
{
	_cleanup_close_ int sk = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	_Alignas(struct nlmsghdr) char buf[4096];
	const struct nlmsghdr *head = (const struct nlmsghdr *)buf;
	const struct nlmsgerr *err;
	ssize_t n;

	if (sk < 0 || send(sk, request, len, 0) != (ssize_t)len)
		return -errno;
	/* Netlink answers in the send itself. */
	n = recv(sk, buf, sizeof(buf), MSG_DONTWAIT);
	if (n < (ssize_t)sizeof(*head))
		return -EIO;
	if (head->nlmsg_type != NLMSG_ERROR)
		return head->nlmsg_type;
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(*err)))
		return -EIO;
	err = NLMSG_DATA(head);
	return err->error ? err->error : NLMSG_ERROR;
}

/* A dump of raw sockets in a state that none is in: an end marker, or an error where raw sockets cannot be asked for. */
bool probe_net_diag_raw(struct features *f)
{
	struct {
		struct nlmsghdr head;
		struct inet_diag_req_v2 req;
	} msg = {
		.head = { .nlmsg_len = sizeof(msg), .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			  .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.req = { .sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_RAW, .idiag_states = 0 },
	};
	int r = netlink_ask(NETLINK_SOCK_DIAG, &msg, sizeof(msg));

	(void)f;
	return r == NLMSG_DONE || r == SOCK_DIAG_BY_FAMILY;
}

bool probe_nsid(struct features *f)
{
	struct {
		struct nlmsghdr head;
		struct rtgenmsg gen;
		_Alignas(NLA_ALIGNTO) struct nlattr attr;
		uint32_t pid;
	} msg = {
		.head = { .nlmsg_len = sizeof(msg), .nlmsg_type = RTM_GETNSID, .nlmsg_flags = NLM_F_REQUEST },
		.gen = { .rtgen_family = AF_UNSPEC },
		.attr = { .nla_len = sizeof(msg.attr) + sizeof(msg.pid), .nla_type = NETNSA_PID },
		.pid = (uint32_t)getpid(),
	};

	(void)f;
	return netlink_ask(NETLINK_ROUTE, &msg, sizeof(msg)) == RTM_NEWNSID;
}

bool probe_nftables(struct features *f)
{
	struct {
		struct nlmsghdr head;
		struct nfgenmsg gen;
	} msg = {
		.head = { .nlmsg_len = sizeof(msg), .nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN,
			  .nlmsg_flags = NLM_F_REQUEST },
		.gen = { .nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0 },
	};

	(void)f;
	return netlink_ask(NETLINK_NETFILTER, &msg, sizeof(msg)) == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN);
}

/* The engine speaks netlink itself: it needs nothing but the kernel's part. */
bool probe_network_lock_nftables(struct features *f)
{
	return feature_has(f, FEATURE_NFTABLES);
}
