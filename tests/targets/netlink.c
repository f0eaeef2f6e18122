// SPDX-License-Identifier: MIT
/* Netlink sockets, in a network namespace of their own: unshare --net. */
#include "target.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/genetlink.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netfilter/nfnetlink_queue.h>
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MANY_GROUPS 3 /* words of a bitmap */

static int make(int type, int protocol)
{
	int fd = socket(AF_NETLINK, type, protocol);

	if (fd < 0)
		SKIP("no netlink sockets of protocol %d: %s", protocol, strerror(errno));
	return fd;
}

static struct sockaddr_nl name_of(int fd)
{
	struct sockaddr_nl a;
	socklen_t n = sizeof(a);

	CHECK(!getsockname(fd, (struct sockaddr *)&a, &n));
	return a;
}

static uint32_t bind_to(int fd, uint32_t portid, uint32_t groups)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK, .nl_pid = portid, .nl_groups = groups };

	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof(a)));
	return name_of(fd).nl_pid;
}

static void join(int fd, unsigned group)
{
	CHECK(!setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)));
}

static void set(int fd, int option)
{
	CHECK(!setsockopt(fd, SOL_NETLINK, option, &(int){ 1 }, sizeof(int)));
}

static int get(int fd, int level, int option)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, level, option, &v, &n));
	return v;
}

static bool is_member(int fd, unsigned group)
{
	uint32_t words[MANY_GROUPS] = { 0 };
	socklen_t n = sizeof(words);

	CHECK(!getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, words, &n));
	return words[(group - 1) / 32] >> (group - 1) % 32 & 1;
}

/* One request with an answer of one message; returns the answer's type. */
static int ask(int fd, int type, const void *body, size_t len, char *answer, size_t room)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	char b[512] = { 0 };
	struct nlmsghdr *h = (void *)b;
	ssize_t n;

	*h = (struct nlmsghdr){ .nlmsg_len = NLMSG_LENGTH(len), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 7 };
	memcpy(NLMSG_DATA(h), body, len);
	CHECK(sendto(fd, b, h->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) == h->nlmsg_len);
	n = recv(fd, answer, room, 0);
	h = (void *)answer;
	CHECK(n >= NLMSG_LENGTH(0) && h->nlmsg_seq == 7);
	CHECK(h->nlmsg_pid == name_of(fd).nl_pid);
	return h->nlmsg_type;
}

static bool lo_is_up(int fd)
{
	struct ifinfomsg q = { .ifi_index = 1 };
	_Alignas(8) char b[8192];

	CHECK(ask(fd, RTM_GETLINK, &q, sizeof(q), b, sizeof(b)) == RTM_NEWLINK);
	return ((struct ifinfomsg *)NLMSG_DATA(b))->ifi_flags & IFF_UP;
}

static void lo_set(bool up)
{
	struct ifreq ifr = { .ifr_name = "lo" };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(!ioctl(s, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags = (ifr.ifr_flags & ~IFF_UP) | (up ? IFF_UP : 0);
	CHECK(!ioctl(s, SIOCSIFFLAGS, &ifr) && !close(s));
}

/* A monitor, with groups of the first 32 and others, and a socket that asks. */
static void route(void)
{
	int monitor = make(SOCK_RAW | SOCK_NONBLOCK, NETLINK_ROUTE), asks = make(SOCK_DGRAM, NETLINK_ROUTE);
	_Alignas(8) char b[8192];
	uint32_t portid;

	if (if_nametoindex("eth0"))
		SKIP("not in a network namespace of its own: use unshare --net");
	lo_set(false);
	portid = bind_to(monitor, 0, RTMGRP_LINK);
	join(monitor, RTNLGRP_IPV6_NETCONF);
	join(monitor, RTNLGRP_TUNNEL);
	CHECK(dup(monitor) >= 0);
	CHECK(!lo_is_up(asks));
	t_wait();
	CHECK(name_of(monitor).nl_pid == portid && name_of(monitor).nl_groups == (RTMGRP_LINK | 1u << (RTNLGRP_IPV6_NETCONF - 1)));
	CHECK(is_member(monitor, RTNLGRP_TUNNEL) && !is_member(monitor, RTNLGRP_TUNNEL + 1) && !is_member(asks, RTNLGRP_LINK));
	CHECK(get(asks, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM && get(monitor, SOL_SOCKET, SO_TYPE) == SOCK_RAW);
	CHECK(recv(monitor, b, sizeof(b), 0) < 0 && errno == EAGAIN);
	CHECK(!lo_is_up(asks));
	lo_set(true);
	CHECK(lo_is_up(asks));
	CHECK(recv(monitor, b, sizeof(b), 0) > 0 && ((struct nlmsghdr *)b)->nlmsg_type == RTM_NEWLINK);
}

/* No address until it is used. */
static void fresh(void)
{
	int fd = make(SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), groups = make(SOCK_RAW, NETLINK_USERSOCK);

	join(groups, 3);
	t_wait();
	CHECK(name_of(fd).nl_pid == 0 && name_of(groups).nl_pid == 0 && name_of(groups).nl_groups == 4);
	CHECK(bind_to(fd, 0, 0) != 0);
	lo_is_up(fd);
}

static void options(void)
{
	static const int all[] = { NETLINK_PKTINFO, NETLINK_BROADCAST_ERROR, NETLINK_NO_ENOBUFS, NETLINK_LISTEN_ALL_NSID,
				   NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK };
	int fd[ARRAY_SIZE(all)], buf = get(make(SOCK_RAW, NETLINK_ROUTE), SOL_SOCKET, SO_RCVBUF);
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		fd[i] = make(SOCK_RAW, NETLINK_ROUTE);
		set(fd[i], all[i]);
	}
	CHECK(!setsockopt(fd[0], SOL_SOCKET, SO_RCVBUFFORCE, &(int){ 300000 }, sizeof(int)));
	CHECK(!setsockopt(fd[1], SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)));
	CHECK(!setsockopt(fd[2], SOL_SOCKET, SO_TIMESTAMPNS, &(int){ 1 }, sizeof(int)));
	CHECK(!fchown(fd[3], 1234, 99) && !fchmod(fd[3], 0640));
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t k = 0; k < ARRAY_SIZE(all); k++)
			CHECK(get(fd[i], SOL_NETLINK, all[k]) == (i == k));
	CHECK(get(fd[0], SOL_SOCKET, SO_RCVBUF) == 600000 && get(fd[1], SOL_SOCKET, SO_RCVBUF) == buf);
	CHECK(get(fd[1], SOL_SOCKET, SO_PASSCRED) == 1 && get(fd[0], SOL_SOCKET, SO_PASSCRED) == 0);
	CHECK(get(fd[2], SOL_SOCKET, SO_TIMESTAMPNS) == 1 && get(fd[0], SOL_SOCKET, SO_TIMESTAMPNS) == 0);
	CHECK(!fstat(fd[3], &st) && st.st_uid == 1234 && st.st_gid == 99 && (st.st_mode & 07777) == 0640);
	CHECK(!fstat(fd[4], &st) && st.st_uid == 0 && (st.st_mode & 07777) == 0777);
}

static void connected(void)
{
	int a = make(SOCK_DGRAM, NETLINK_USERSOCK), b = make(SOCK_DGRAM, NETLINK_USERSOCK), c = make(SOCK_DGRAM, NETLINK_USERSOCK);
	struct sockaddr_nl to_b = { .nl_family = AF_NETLINK }, to_group = { .nl_family = AF_NETLINK, .nl_groups = 1u << 4 }, peer;
	socklen_t n = sizeof(peer);
	char buf[16];

	to_b.nl_pid = bind_to(b, 0, 0);
	bind_to(a, 0, 0);
	join(b, 5);
	CHECK(!connect(a, (struct sockaddr *)&to_b, sizeof(to_b)) && !connect(c, (struct sockaddr *)&to_group, sizeof(to_group)));
	t_wait();
	CHECK(!getpeername(a, (struct sockaddr *)&peer, &n) && peer.nl_pid == to_b.nl_pid && peer.nl_groups == 0);
	CHECK(!getpeername(c, (struct sockaddr *)&peer, &n) && peer.nl_pid == 0 && peer.nl_groups == 1u << 4);
	CHECK(send(a, "direct", 7, 0) == 7 && recv(b, buf, sizeof(buf), 0) == 7 && !strcmp(buf, "direct"));
	send(c, "to all", 7, 0); /* and to the kernel, which has nobody who listens */
	CHECK(recvfrom(b, buf, sizeof(buf), 0, (struct sockaddr *)&peer, &n) == 7);
	CHECK(peer.nl_groups == 1u << 4 && !strcmp(buf, "to all"));
	/* What is connected takes nothing from others. */
	to_b.nl_pid = name_of(a).nl_pid;
	CHECK(sendto(c, "x", 2, 0, (struct sockaddr *)&to_b, sizeof(to_b)) < 0 && errno == ECONNREFUSED);
}

/* As udev has them: a filter, credentials, a large buffer. */
static void uevents(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'l', 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	struct sockaddr_nl group = { .nl_family = AF_NETLINK, .nl_groups = 2 };
	int fd = make(SOCK_RAW | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT), sends = make(SOCK_RAW, NETLINK_KOBJECT_UEVENT);
	char buf[16];

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
	bind_to(fd, 0, 2);
	t_wait();
	CHECK(sendto(sends, "xyz", 4, 0, (struct sockaddr *)&group, sizeof(group)) == 4);
	CHECK(recv(fd, buf, sizeof(buf), 0) < 0 && errno == EAGAIN);
	CHECK(sendto(sends, "libudev", 8, 0, (struct sockaddr *)&group, sizeof(group)) == 8);
	CHECK(recv(fd, buf, sizeof(buf), 0) == 8 && !strcmp(buf, "libudev"));
}

static void generic(void)
{
	struct {
		struct genlmsghdr g;
		struct nlattr a;
		char name[8];
	} q = { { .cmd = CTRL_CMD_GETFAMILY, .version = 1 }, { sizeof(struct nlattr) + 8, CTRL_ATTR_FAMILY_NAME }, "nlctrl" };
	int fd = make(SOCK_RAW, NETLINK_GENERIC);
	_Alignas(8) char b[8192];

	CHECK(ask(fd, GENL_ID_CTRL, &q, sizeof(q), b, sizeof(b)) == GENL_ID_CTRL);
	join(fd, GENL_ID_CTRL); /* group "notify" */
	t_wait();
	CHECK(is_member(fd, GENL_ID_CTRL));
	CHECK(ask(fd, GENL_ID_CTRL, &q, sizeof(q), b, sizeof(b)) == GENL_ID_CTRL);
}

/* ------------------------------------------------------------------------------------------------------ refused */

static void queued(void)
{
	int a = make(SOCK_RAW, NETLINK_USERSOCK), b = make(SOCK_RAW, NETLINK_USERSOCK);
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_pid = bind_to(b, 0, 0) };
	char buf[16];

	CHECK(sendto(a, "waits", 6, 0, (struct sockaddr *)&to, sizeof(to)) == 6);
	t_wait();
	CHECK(recv(b, buf, sizeof(buf), MSG_DONTWAIT) == 6 && !strcmp(buf, "waits"));
}

/* Of a dump the kernel has the next part when the one before is read. */
static void dumping(void)
{
	struct {
		struct nlmsghdr h;
		struct netlink_diag_req r;
	} q = { { sizeof(q), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 },
		{ .sdiag_family = AF_NETLINK, .sdiag_protocol = NDIAG_PROTO_ALL, .ndiag_show = NDIAG_SHOW_MEMINFO } };
	int fd = make(SOCK_RAW, NETLINK_SOCK_DIAG), parts = 0;
	_Alignas(8) char b[65536];

	for (int i = 0; i < 500; i++)
		bind_to(make(SOCK_RAW | SOCK_CLOEXEC, NETLINK_USERSOCK), 0, 0);
	CHECK(send(fd, &q, sizeof(q), 0) == sizeof(q));
	t_wait();
	for (bool done = false; !done; parts++) {
		ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT);

		CHECK(n > 0);
		for (struct nlmsghdr *h = (void *)b; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n))
			done = done || h->nlmsg_type == NLMSG_DONE;
	}
	CHECK(parts > 1);
}

/* The buffer was full, so messages were lost, and the program will be told. */
static void overrun(void)
{
	int a = make(SOCK_RAW, NETLINK_USERSOCK), b = make(SOCK_RAW, NETLINK_USERSOCK);
	struct sockaddr_nl to = { .nl_family = AF_NETLINK, .nl_groups = 1u << 6 };
	char buf[2000] = { 0 };

	CHECK(!setsockopt(b, SOL_SOCKET, SO_RCVBUF, &(int){ 4096 }, sizeof(int)));
	bind_to(b, 0, 0);
	join(b, 7);
	for (int i = 0; i < 20; i++)
		sendto(a, buf, sizeof(buf), 0, (struct sockaddr *)&to, sizeof(to));
	t_wait();
	CHECK(recv(b, buf, sizeof(buf), MSG_DONTWAIT) < 0 && errno == ENOBUFS);
	CHECK(recv(b, buf, sizeof(buf), MSG_DONTWAIT) == sizeof(buf));
}

/* A message to nfnetlink with one attribute. */
static int bind_netfilter(int subsystem, int message, int number, int attr, const void *value, size_t len)
{
	struct {
		struct nlmsghdr h;
		struct nfgenmsg g;
		struct nlattr a;
		char value[8];
	} q = { { 0, subsystem << 8 | message, NLM_F_REQUEST | NLM_F_ACK, 1, 0 }, { AF_UNSPEC, 0, htons(number) },
		{ sizeof(struct nlattr) + len, attr }, "" };
	int fd = make(SOCK_RAW, NETLINK_NETFILTER);
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
	} ack;

	memcpy(q.value, value, len);
	q.h.nlmsg_len = sizeof(q.h) + sizeof(q.g) + sizeof(q.a) + NLMSG_ALIGN(len);
	CHECK(send(fd, &q, q.h.nlmsg_len, 0) == q.h.nlmsg_len);
	CHECK(recv(fd, &ack, sizeof(ack), MSG_TRUNC) >= (ssize_t)sizeof(ack) && ack.h.nlmsg_type == NLMSG_ERROR);
	if (ack.e.error)
		SKIP("not to be had here: %s", strerror(-ack.e.error));
	return fd;
}

static void packets(void)
{
	struct nfqnl_msg_config_cmd cmd = { .command = NFQNL_CFG_CMD_BIND, .pf = htons(AF_INET) };
	int fd = bind_netfilter(NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG, 17, NFQA_CFG_CMD, &cmd, sizeof(cmd));

	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void logged(void)
{
	struct nfulnl_msg_config_cmd cmd = { .command = NFULNL_CFG_CMD_BIND };
	int fd = bind_netfilter(NFNL_SUBSYS_ULOG, NFULNL_MSG_CONFIG, 18, NFULA_CFG_CMD, &cmd, sizeof(cmd));

	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static char *put_attr(char *p, int type, const void *value, size_t len)
{
	*(struct nlattr *)p = (struct nlattr){ sizeof(struct nlattr) + len, type };
	memcpy(p + sizeof(struct nlattr), value, len);
	return p + NLMSG_ALIGN(sizeof(struct nlattr) + len);
}

static char *put_message(char *p, int type, int flags, int family, int res)
{
	*(struct nlmsghdr *)p = (struct nlmsghdr){ NLMSG_LENGTH(sizeof(struct nfgenmsg)), type, NLM_F_REQUEST | flags, 1, 0 };
	*(struct nfgenmsg *)NLMSG_DATA(p) = (struct nfgenmsg){ family, 0, htons(res) };
	return p + NLMSG_SPACE(sizeof(struct nfgenmsg));
}

/* A table of the packet filter that goes with its socket. */
static void table(void)
{
	_Alignas(8) char b[512] = { 0 };
	char *p = put_message(b, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES), *start = p;
	uint32_t flags = htonl(2 /* NFT_TABLE_F_OWNER */);
	int fd = make(SOCK_RAW, NETLINK_NETFILTER);
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
	} ack;

	p = put_message(p, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_ACK, NFPROTO_INET, 0);
	p = put_attr(p, NFTA_TABLE_NAME, "ckpt_target", 12);
	p = put_attr(p, NFTA_TABLE_FLAGS, &flags, sizeof(flags));
	((struct nlmsghdr *)start)->nlmsg_len = p - start;
	p = put_message(p, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
	CHECK(send(fd, b, p - b, 0) == p - b);
	CHECK(recv(fd, &ack, sizeof(ack), MSG_TRUNC) >= (ssize_t)sizeof(ack) && ack.h.nlmsg_type == NLMSG_ERROR);
	if (ack.e.error)
		SKIP("no tables with an owner here: %s", strerror(-ack.e.error));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void processes(void)
{
	int fd = make(SOCK_DGRAM, NETLINK_CONNECTOR);

	join(fd, 1);
	t_wait();
	CHECK(is_member(fd, 1));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "route", route }, { "fresh", fresh }, { "options", options }, { "connected", connected }, { "uevents", uevents },
		{ "generic", generic }, { "queued", queued }, { "dumping", dumping }, { "overrun", overrun },
		{ "packets", packets }, { "logged", logged }, { "table", table }, { "processes", processes },
	};

	T_RUN(variants, t_init(argc, argv));
}
