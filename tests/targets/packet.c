// SPDX-License-Identifier: MIT
/* Packet sockets, in a network namespace of their own: unshare --net. Packets are of a protocol that nobody else has. */
#include "target.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define PROTOCOL 0x88b5
#define BLOCK 65536u
#define FRAME 2048u

static unsigned lo;

static void set_flags(const char *name, bool up)
{
	struct ifreq ifr = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(ifr.ifr_name, name);
	CHECK(!ioctl(s, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags = (ifr.ifr_flags & ~IFF_UP) | (up ? IFF_UP : 0);
	CHECK(!ioctl(s, SIOCSIFFLAGS, &ifr) && !close(s));
}

static void need_namespace(void)
{
	if (if_nametoindex("eth0"))
		SKIP("not in a network namespace of its own: use unshare --net");
	lo = if_nametoindex("lo");
	set_flags("lo", true);
}

static int make(int type, int protocol)
{
	int fd = socket(AF_PACKET, type, htons(protocol));

	if (fd < 0)
		SKIP("no packet sockets here: %s", strerror(errno));
	return fd;
}

static void bind_to(int fd, unsigned index, int protocol)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = index };

	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof(a)));
}

static struct sockaddr_ll name_of(int fd)
{
	struct sockaddr_ll a = { 0 };
	socklen_t n = sizeof(a);

	CHECK(!getsockname(fd, (struct sockaddr *)&a, &n));
	return a;
}

static void set(int fd, int option, int value)
{
	CHECK(!setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)));
}

static int get(int fd, int option)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_PACKET, option, &v, &n));
	return v;
}

static void send_text(const char *text)
{
	struct sockaddr_ll a = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = lo, .sll_halen = 6 };
	int fd = make(SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(sendto(fd, text, strlen(text) + 1, 0, (struct sockaddr *)&a, sizeof(a)) == strlen(text) + 1);
	CHECK(!close(fd));
}

/* What comes next is that, and nothing after it. */
static void expect(int fd, size_t skip, const char *text)
{
	char b[256] = "";

	CHECK(recv(fd, b, sizeof(b), MSG_DONTWAIT) > 0);
	if (strcmp(b + skip, text))
		FAIL("'%s' came, not '%s'", b + skip, text);
	CHECK(recv(fd, b, sizeof(b), MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static int count(int fd)
{
	char b[256];
	int n = 0;

	while (recv(fd, b, sizeof(b), MSG_DONTWAIT) > 0)
		n++;
	return n;
}

static void attach_filter(int fd, char first, unsigned at)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, at),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
}

static void bound(void)
{
	int cooked, raw, any, none;

	need_namespace();
	cooked = make(SOCK_DGRAM, 0);
	raw = make(SOCK_RAW | SOCK_NONBLOCK, 0);
	any = make(SOCK_DGRAM, PROTOCOL);
	none = make(SOCK_RAW, 0);
	bind_to(cooked, lo, PROTOCOL);
	attach_filter(raw, 'c', 14);
	bind_to(raw, lo, PROTOCOL);
	CHECK(dup(raw) >= 0);
	t_wait();
	CHECK(name_of(cooked).sll_ifindex == lo && name_of(cooked).sll_protocol == htons(PROTOCOL));
	CHECK(name_of(any).sll_ifindex == 0 && name_of(any).sll_protocol == htons(PROTOCOL));
	CHECK(name_of(none).sll_ifindex == 0 && name_of(none).sll_protocol == 0);
	CHECK(fcntl(raw, F_GETFL) & O_NONBLOCK);
	send_text("checkpoint");
	expect(cooked, 0, "checkpoint");
	expect(raw, 14, "checkpoint");
	expect(any, 0, "checkpoint");
	send_text("restore");
	expect(cooked, 0, "restore");
	CHECK(recv(raw, &(char){ 0 }, 1, 0) < 0 && errno == EAGAIN);
	CHECK(recv(none, &(char){ 0 }, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	bind_to(none, lo, PROTOCOL);
	send_text("again");
	expect(none, 14, "again");
}

/* An old kind, that was bound by name. */
static void old(void)
{
	struct sockaddr a = { AF_PACKET, "lo" };
	int fd;

	need_namespace();
	fd = make(SOCK_PACKET, PROTOCOL);
	CHECK(!bind(fd, &a, sizeof(a)));
	t_wait();
	CHECK(name_of(fd).sll_ifindex == lo || name_of(fd).sll_family == AF_PACKET);
	send_text("old");
	expect(fd, 14, "old");
}

static void options(void)
{
	static const struct {
		int option, value;
	} all[] = {
		{ PACKET_AUXDATA, 1 }, { PACKET_ORIGDEV, 1 }, { PACKET_VERSION, TPACKET_V2 }, { PACKET_RESERVE, 48 },
		{ PACKET_LOSS, 1 }, { PACKET_VNET_HDR, 1 }, { PACKET_TIMESTAMP, 8 }, { PACKET_TX_HAS_OFF, 1 },
		{ PACKET_QDISC_BYPASS, 1 }, { PACKET_IGNORE_OUTGOING, 1 }, { 24 /* PACKET_VNET_HDR_SZ */, 12 },
	};
	int fd[ARRAY_SIZE(all)], fresh;
	struct stat st;

	need_namespace();
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		fd[i] = make(SOCK_RAW, 0);
		set(fd[i], all[i].option, all[i].value);
	}
	CHECK(!setsockopt(fd[0], SOL_SOCKET, SO_RCVBUFFORCE, &(int){ 300000 }, sizeof(int)));
	CHECK(!setsockopt(fd[1], SOL_SOCKET, SO_RXQ_OVFL, &(int){ 1 }, sizeof(int)));
	CHECK(!fchown(fd[2], 1234, 99) && !fchmod(fd[2], 0640));
	t_wait();
	fresh = make(SOCK_RAW, 0);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t k = 0; k < ARRAY_SIZE(all); k++) {
			bool header = all[k].option == PACKET_VNET_HDR || all[k].option == 24;

			if (i == k)
				CHECK(get(fd[i], all[k].option) == all[k].value);
			else if (!header)
				CHECK(get(fd[i], all[k].option) == get(fresh, all[k].option));
		}
	CHECK(get(fd[5], 24) == 10);
	CHECK(!setsockopt(fd[0], SOL_SOCKET, SO_RCVBUFFORCE, &(int){ 300000 }, sizeof(int)));
	CHECK(!fstat(fd[2], &st) && st.st_uid == 1234 && st.st_gid == 99 && (st.st_mode & 07777) == 0640);
}

static char *add_attr(char *p, int type, const void *value, size_t len)
{
	struct rtattr *a = (void *)p;

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(len);
	memcpy(RTA_DATA(a), value, len);
	return p + RTA_SPACE(len);
}

static int ask(void *message)
{
	struct nlmsghdr *h = message;
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char more[512];
	} ack;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);

	CHECK(send(fd, h, h->nlmsg_len, 0) == h->nlmsg_len && recv(fd, &ack, sizeof(ack), 0) > 0);
	CHECK(!close(fd));
	return ack.e.error;
}

static void remove_link(const char *name)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} q = { { sizeof(q), RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0 }, { .ifi_index = if_nametoindex(name) } };

	CHECK(!ask(&q));
}

/* veth ckpta and ckptb; what an earlier run has left goes. */
static unsigned make_links(void)
{
	_Alignas(8) char b[512] = { 0 };
	struct nlmsghdr *h = (void *)b;
	char *p = b + NLMSG_SPACE(sizeof(struct ifinfomsg)), *info = p, *data, *peer;

	need_namespace();
	if (if_nametoindex("ckpta"))
		remove_link("ckpta");
	*h = (struct nlmsghdr){ 0, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, 1, 0 };
	p = add_attr(p, IFLA_IFNAME, "ckpta", 6);
	info = p;
	p = add_attr(p, IFLA_LINKINFO, "", 0);
	p = add_attr(p, IFLA_INFO_KIND, "veth", 4);
	data = p;
	p = add_attr(p, IFLA_INFO_DATA, "", 0);
	peer = p;
	p = add_attr(p, VETH_INFO_PEER, "", 0) + sizeof(struct ifinfomsg);
	p = add_attr(p, IFLA_IFNAME, "ckptb", 6);
	((struct rtattr *)peer)->rta_len = p - peer;
	((struct rtattr *)data)->rta_len = p - data;
	((struct rtattr *)info)->rta_len = p - info;
	h->nlmsg_len = p - b;
	if (ask(b))
		SKIP("no veth devices here");
	set_flags("ckpta", true);
	set_flags("ckptb", true);
	return if_nametoindex("ckpta");
}

/* How many have asked a device to be promiscuous. */
static unsigned promiscuity(unsigned index)
{
	struct {
		struct nlmsghdr h;
		struct ifinfomsg i;
	} q = { { sizeof(q), RTM_GETLINK, NLM_F_REQUEST, 1, 0 }, { .ifi_index = index } };
	_Alignas(8) char b[8192];
	struct nlmsghdr *h = (void *)b;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE), n;
	struct rtattr *a = IFLA_RTA(NLMSG_DATA(h));

	CHECK(send(fd, &q, sizeof(q), 0) == sizeof(q) && recv(fd, b, sizeof(b), 0) > 0 && h->nlmsg_type == RTM_NEWLINK);
	CHECK(!close(fd));
	for (n = IFLA_PAYLOAD(h); RTA_OK(a, n); a = RTA_NEXT(a, n))
		if (a->rta_type == IFLA_PROMISCUITY)
			return *(uint32_t *)RTA_DATA(a);
	FAIL("the kernel does not tell");
}

static bool listens_to(const char *address)
{
	char b[65536];

	t_slurp("/proc/self/net/dev_mcast", b, sizeof(b));
	return strstr(b, address);
}

/* Each has to be given up as often as it was taken up. */
static void members(void)
{
	unsigned index = make_links();
	struct packet_mreq promisc = { index, PACKET_MR_PROMISC };
	struct packet_mreq multi = { index, PACKET_MR_MULTICAST, 6, { 1, 0, 0x5e, 1, 2, 3 } };
	int fd = make(SOCK_RAW, 0);

	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof(promisc)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promisc, sizeof(promisc)));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &multi, sizeof(multi)));
	t_wait();
	CHECK(promiscuity(index) == 1 && listens_to("01005e010203"));
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &promisc, sizeof(promisc)));
	CHECK(promiscuity(index) == 1);
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &promisc, sizeof(promisc)));
	CHECK(promiscuity(index) == 0);
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &multi, sizeof(multi)));
	CHECK(!listens_to("01005e010203"));
}

static void fanout(void)
{
	const int value = 77 | (PACKET_FANOUT_LB | PACKET_FANOUT_FLAG_ROLLOVER) << 16;
	int fd[2];

	need_namespace();
	for (int i = 0; i < 2; i++) {
		fd[i] = make(SOCK_DGRAM, 0);
		bind_to(fd[i], lo, PROTOCOL);
		set(fd[i], PACKET_FANOUT, value);
	}
	t_wait();
	CHECK(get(fd[0], PACKET_FANOUT) == value && get(fd[1], PACKET_FANOUT) == value);
	for (int i = 0; i < 10; i++)
		send_text("one of ten");
	CHECK(count(fd[0]) == 5 && count(fd[1]) == 5);
}

/* Its device went down; the program has been told. */
static void down(void)
{
	unsigned index = make_links();
	int fd = make(SOCK_DGRAM, 0), told = 0;
	socklen_t n = sizeof(told);

	bind_to(fd, index, PROTOCOL);
	set_flags("ckpta", false);
	CHECK(!getsockopt(fd, SOL_SOCKET, SO_ERROR, &told, &n) && told == ENETDOWN);
	t_wait();
	CHECK(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(name_of(fd).sll_ifindex == index);
	set_flags("ckpta", true);
	CHECK(recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

/* --------------------------------------------------------------------------------------------------------- rings */

static char *make_ring(int fd, int version, int which, unsigned blocks, unsigned total)
{
	struct tpacket_req3 req = {
		.tp_block_size = BLOCK, .tp_block_nr = blocks, .tp_frame_size = FRAME, .tp_frame_nr = blocks * (BLOCK / FRAME),
	};
	char *p;

	if (version == TPACKET_V3 && which == PACKET_RX_RING) {
		req.tp_retire_blk_tov = 20;
		req.tp_sizeof_priv = 64;
		req.tp_feature_req_word = TP_FT_REQ_FILL_RXHASH;
	}
	if (get(fd, PACKET_VERSION) != version)
		set(fd, PACKET_VERSION, version);
	CHECK(!setsockopt(fd, SOL_PACKET, which, &req, version == TPACKET_V3 ? sizeof(req) : sizeof(struct tpacket_req)));
	if (!total)
		return NULL;
	p = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

/* The packet in frame @i, which is given back. */
static const char *take(char *ring, int version, unsigned i, char text[64])
{
	char *frame = ring + i * FRAME;
	struct tpacket_hdr *h1 = (void *)frame;
	struct tpacket2_hdr *h2 = (void *)frame;
	unsigned from = version == TPACKET_V1 ? h1->tp_mac : h2->tp_mac;

	if (!((version == TPACKET_V1 ? h1->tp_status : h2->tp_status) & TP_STATUS_USER))
		return "";
	snprintf(text, 64, "%s", frame + from + 14);
	if (version == TPACKET_V1)
		__atomic_store_n(&h1->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	else
		__atomic_store_n(&h2->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	return text;
}

static void frames(int version)
{
	char text[64], *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, version, PACKET_RX_RING, 2, 2 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	t_wait();
	for (unsigned i = 0; i < 100; i++) {
		send_text(i % 2 ? "odd" : "even");
		CHECK(!strcmp(take(ring, version, i % (2 * BLOCK / FRAME), text), i % 2 ? "odd" : "even"));
	}
	CHECK(poll(&(struct pollfd){ fd, POLLIN }, 1, 0) == 0);
}

static void frames1(void)
{
	frames(TPACKET_V1);
}

static void frames2(void)
{
	frames(TPACKET_V2);
}

static void blocks(void)
{
	struct tpacket_block_desc *d;
	char *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V3, PACKET_RX_RING, 4, 4 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	t_wait();
	for (unsigned i = 0; i < 6; i++) {
		struct tpacket3_hdr *h;

		send_text("a block for it");
		d = (void *)(ring + i % 4 * BLOCK);
		CHECK(poll(&(struct pollfd){ fd, POLLIN }, 1, 5000) == 1);
		CHECK(d->hdr.bh1.block_status & TP_STATUS_USER && d->hdr.bh1.num_pkts == 1 && d->offset_to_priv >= 48);
		h = (void *)((char *)d + d->hdr.bh1.offset_to_first_pkt);
		CHECK(d->hdr.bh1.offset_to_first_pkt >= d->offset_to_priv + 64);
		CHECK(!strcmp((char *)h + h->tp_mac + 14, "a block for it"));
		__atomic_store_n(&d->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
}

/* Somewhere in the ring, with frames that were not taken yet; then further than once around. */
static void used(int version, unsigned taken, unsigned waiting)
{
	const unsigned n = 2 * BLOCK / FRAME;
	char text[64], want[64], *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, version, PACKET_RX_RING, 2, 2 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	for (unsigned i = 0; i < taken + waiting; i++) {
		snprintf(text, sizeof(text), "packet %u", i);
		send_text(text);
		if (i < taken)
			CHECK(*take(ring, version, i % n, text));
	}
	t_wait();
	for (unsigned i = taken; i < taken + 3 * n; i++) {
		snprintf(want, sizeof(want), "packet %u", i);
		if (i >= taken + waiting)
			send_text(want);
		if (strcmp(take(ring, version, i % n, text), want))
			FAIL("'%s' is in frame %u, not '%s'", text, i % n, want);
	}
	CHECK(poll(&(struct pollfd){ fd, POLLIN }, 1, 0) == 0);
}

static void used1(void)
{
	used(TPACKET_V1, 37, 3);
}

static void used2(void)
{
	used(TPACKET_V2, 200, 5);
}

static void taken(void)
{
	used(TPACKET_V2, 101, 0);
}

/* No room for more: what comes until the program takes some is lost. */
static void full(void)
{
	used(TPACKET_V2, 70, 2 * BLOCK / FRAME);
}

/* By what the ring is brought to where it was, nobody else in the program hears of. */
static void beside(void)
{
	const unsigned n = 2 * BLOCK / FRAME;
	char text[64], *ring;
	int all, fd;

	need_namespace();
	all = make(SOCK_RAW, 0x0003 /* ETH_P_ALL */);
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_RX_RING, 2, 2 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	for (unsigned i = 0; i < 99; i++) {
		send_text("seen by both");
		CHECK(*take(ring, TPACKET_V2, i % n, text));
	}
	CHECK(count(all) == 2 * 99); /* out and in */
	t_wait();
	CHECK(count(all) == 0);
	send_text("again");
	CHECK(!strcmp(take(ring, TPACKET_V2, 99 % n, text), "again") && count(all) == 2);
}

/* The block that is next, by number, which is given back; it has one packet. */
static void take_block(int fd, char *ring, unsigned i, const char *want)
{
	struct tpacket_block_desc *d = (void *)(ring + i % 4 * BLOCK);
	struct tpacket3_hdr *h;

	CHECK(poll(&(struct pollfd){ fd, POLLIN }, 1, 5000) == 1);
	CHECK(d->hdr.bh1.block_status & TP_STATUS_USER);
	CHECK(d->hdr.bh1.num_pkts == 1);
	h = (void *)((char *)d + d->hdr.bh1.offset_to_first_pkt);
	if (strcmp((char *)h + h->tp_mac + 14, want))
		FAIL("'%s' is in block %u, not '%s'", (char *)h + h->tp_mac + 14, i, want);
	__atomic_store_n(&d->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

static void used_blocks(unsigned before, unsigned waiting)
{
	char text[64], *ring;
	unsigned sent;
	int fd;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V3, PACKET_RX_RING, 4, 4 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	for (sent = 0; sent < before + waiting; sent++) {
		snprintf(text, sizeof(text), "block %u", sent);
		send_text(text);
		while (!(((struct tpacket_block_desc *)(ring + sent % 4 * BLOCK))->hdr.bh1.block_status & TP_STATUS_USER))
			t_sleep_ms(1);
		if (sent < before)
			take_block(fd, ring, sent, text);
	}
	t_wait();
	for (unsigned i = before; i < before + 12; i++) {
		snprintf(text, sizeof(text), "block %u", i);
		if (i >= before + waiting)
			send_text(text);
		take_block(fd, ring, i, text);
	}
}

/* In a block that is not full, and whose time is not over. */
static void unfinished(void)
{
	struct tpacket_req3 req = { BLOCK, 4, FRAME, 4 * BLOCK / FRAME, .tp_retire_blk_tov = 2000 };
	struct tpacket_block_desc *d;
	struct tpacket3_hdr *h;
	char text[64], *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	set(fd, PACKET_VERSION, TPACKET_V3);
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &req, sizeof(req)));
	ring = mmap(NULL, 4 * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(ring != MAP_FAILED);
	bind_to(fd, lo, PROTOCOL);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), "unfinished %u", i);
		send_text(text);
	}
	t_wait();
	CHECK(poll(&(struct pollfd){ fd, POLLIN }, 1, 5000) == 1);
	d = (void *)ring;
	CHECK(d->hdr.bh1.block_status & TP_STATUS_USER && d->hdr.bh1.num_pkts == 3);
	h = (void *)((char *)d + d->hdr.bh1.offset_to_first_pkt);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(text, sizeof(text), "unfinished %u", i);
		CHECK(!strcmp((char *)h + h->tp_mac + 14, text) && !h->tp_next_offset == (i == 2));
		h = (void *)((char *)h + h->tp_next_offset);
	}
	__atomic_store_n(&d->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	send_text("next");
	take_block(fd, ring, 1, "next");
}

static void blocks3(void)
{
	used_blocks(7, 0);
}

static void blocks2(void)
{
	used_blocks(5, 2);
}

/* Both rings in one mapping; what is sent by one is received by the other. */
static void both(void)
{
	char text[64], *ring;
	struct tpacket2_hdr *h;
	int fd;

	need_namespace();
	fd = make(SOCK_DGRAM, 0);
	set(fd, PACKET_VERSION, TPACKET_V2);
	set(fd, PACKET_LOSS, 1);
	make_ring(fd, TPACKET_V2, PACKET_RX_RING, 1, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_TX_RING, 1, 2 * BLOCK);
	bind_to(fd, lo, PROTOCOL);
	t_wait();
	for (unsigned i = 0; i < 50; i++) {
		h = (void *)(ring + BLOCK + i % (BLOCK / FRAME) * FRAME);
		CHECK(h->tp_status == TP_STATUS_AVAILABLE);
		strcpy((char *)h + TPACKET2_HDRLEN - sizeof(struct sockaddr_ll), "from a ring");
		h->tp_len = 12;
		__atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
		CHECK(send(fd, NULL, 0, 0) == 12);
		h = (void *)(ring + i % (BLOCK / FRAME) * FRAME);
		CHECK(h->tp_status & TP_STATUS_USER);
		snprintf(text, sizeof(text), "%s", (char *)h + h->tp_net);
		CHECK(!strcmp(text, "from a ring"));
		__atomic_store_n(&h->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
}

/* One process has the descriptor, the other has it mapped, too. */
static void shared(void)
{
	char text[64], *ring;
	int fd, status;
	pid_t child;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_RX_RING, 1, BLOCK);
	bind_to(fd, lo, PROTOCOL);
	child = fork();
	CHECK(child >= 0);
	if (!child) {
		while (!*(volatile uint32_t *)ring) /* the status of the first frame */
			t_sleep_ms(1);
		_exit(!strcmp(take(ring, TPACKET_V2, 0, text), "for the child") ? 42 : 1);
	}
	CHECK(!close(fd) || true);
	t_wait();
	send_text("for the child");
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 42);
	CHECK(*(volatile uint32_t *)ring == TP_STATUS_KERNEL);
}

/* ------------------------------------------------------------------------------------------------------- refused */

static void sent(void)
{
	struct tpacket2_hdr *h;
	char *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_DGRAM, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_TX_RING, 1, BLOCK);
	bind_to(fd, lo, PROTOCOL);
	for (unsigned i = 0; i < 10; i++) {
		h = (void *)(ring + i * FRAME);
		h->tp_len = 12;
		__atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
		if (i == 4)
			t_wait();
		CHECK(send(fd, NULL, 0, 0) == 12);
	}
}

/* The same, when nothing waits. */
static void idle(void)
{
	struct tpacket2_hdr *h;
	char *ring;
	int fd;

	need_namespace();
	fd = make(SOCK_DGRAM, 0);
	h = (void *)(ring = make_ring(fd, TPACKET_V2, PACKET_TX_RING, 1, BLOCK));
	bind_to(fd, lo, PROTOCOL);
	h->tp_len = 12;
	__atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
	CHECK(send(fd, NULL, 0, 0) == 12);
	t_wait();
	h = (void *)(ring + FRAME);
	h->tp_len = 12;
	__atomic_store_n(&h->tp_status, TP_STATUS_SEND_REQUEST, __ATOMIC_RELEASE);
	CHECK(send(fd, NULL, 0, 0) == 12);
}

static void unheld(void)
{
	int fd;
	char *ring;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_RX_RING, 1, BLOCK);
	CHECK(!close(fd));
	t_wait();
	CHECK(*(volatile uint32_t *)ring == TP_STATUS_KERNEL);
}

static void part(void)
{
	int fd;
	char *ring;

	need_namespace();
	fd = make(SOCK_RAW, 0);
	ring = make_ring(fd, TPACKET_V2, PACKET_RX_RING, 2, 2 * BLOCK);
	CHECK(!munmap(ring + BLOCK, BLOCK));
	t_wait();
	CHECK(*(volatile uint32_t *)ring == TP_STATUS_KERNEL);
}

static void program(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	int fd;

	need_namespace();
	fd = make(SOCK_DGRAM, 0);
	bind_to(fd, lo, PROTOCOL);
	set(fd, PACKET_FANOUT, 78 | PACKET_FANOUT_CBPF << 16);
	CHECK(!setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &prog, sizeof(prog)));
	t_wait();
	send_text("chosen");
	expect(fd, 0, "chosen");
}

static void gone(void)
{
	unsigned index = make_links();
	int fd = make(SOCK_DGRAM, 0);

	bind_to(fd, index, PROTOCOL);
	remove_link("ckpta");
	t_wait();
	CHECK(name_of(fd).sll_ifindex == -1);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "bound", bound }, { "old", old }, { "options", options }, { "members", members }, { "fanout", fanout },
		{ "down", down }, { "frames1", frames1 }, { "frames2", frames2 }, { "blocks", blocks }, { "both", both },
		{ "used1", used1 }, { "used2", used2 }, { "taken", taken }, { "full", full }, { "beside", beside }, { "blocks3", blocks3 },
		{ "unfinished", unfinished },
		{ "blocks2", blocks2 }, { "sent", sent }, { "idle", idle },
		{ "shared", shared }, { "unheld", unheld }, { "part", part }, { "program", program }, { "gone", gone },
	};

	T_RUN(variants, t_init(argc, argv));
}
