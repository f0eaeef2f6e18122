/* SPDX-License-Identifier: MIT */
/* Multicast groups of sockets. It runs in a network namespace of its own. */
#include "target.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MANY 10 /* sources; a socket may have so many */

static unsigned lo, v0;

union addr {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage s;
};

static union addr addr(const char *text, uint16_t port)
{
	union addr a = { .v4 = { .sin_family = AF_INET, .sin_port = htons(port) } };

	if (inet_pton(AF_INET, text, &a.v4.sin_addr) == 1)
		return a;
	a = (union addr){ .v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) } };
	CHECK(inet_pton(AF_INET6, text, &a.v6.sin6_addr) == 1);
	return a;
}

static void setup(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	CHECK(fd >= 0 && !ioctl(fd, SIOCSIFFLAGS, &r));
	close(fd);
	/* The loopback device carries no multicasts of IPv6. */
	if (!if_nametoindex("v0"))
		CHECK(system("ip link add v0 type veth peer name v1 && ip addr add fd00::5/64 dev v0 nodad && "
			     "ip link set v1 up && ip link set v0 up") == 0);
	lo = if_nametoindex("lo");
	v0 = if_nametoindex("v0");
}

static int sock(int family, int type, int protocol)
{
	int fd = socket(family, type, protocol);

	CHECK(fd >= 0);
	return fd;
}

/* Where its groups are. */
static unsigned device_of(const union addr *a)
{
	return a->any.sa_family == AF_INET6 ? v0 : lo;
}

static int level_of(const union addr *a)
{
	return a->any.sa_family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP;
}

static void join(int fd, const char *group)
{
	struct group_req q = { 0 };
	union addr a = addr(group, 0);

	q.gr_interface = device_of(&a);
	q.gr_group = a.s;
	CHECK(!setsockopt(fd, level_of(&a), MCAST_JOIN_GROUP, &q, sizeof(q)));
}

static void with_source(int fd, int option, const char *group, const char *source)
{
	struct group_source_req q = { 0 };
	union addr a = addr(group, 0), b = addr(source, 0);

	q.gsr_interface = device_of(&a);
	q.gsr_group = a.s;
	q.gsr_source = b.s;
	CHECK(!setsockopt(fd, level_of(&a), option, &q, sizeof(q)));
}

/* How many sources there are in its filter; -1: it is no member. */
static int filter(int fd, const char *group, unsigned *mode)
{
	static char room[GROUP_FILTER_SIZE(64)];
	struct group_filter *f = (void *)room;
	socklen_t n = sizeof(room);
	union addr a = addr(group, 0);

	memset(room, 0, sizeof(room));
	f->gf_interface = device_of(&a);
	f->gf_numsrc = 64;
	f->gf_group = a.s;
	if (getsockopt(fd, level_of(&a), MCAST_MSFILTER, f, &n) < 0)
		return -1;
	*mode = f->gf_fmode;
	return (int)f->gf_numsrc;
}

static void send_to(const char *from, const char *group, uint16_t port, const char *text)
{
	union addr a = addr(from, 0), to = addr(group, port);
	int fd = sock(a.any.sa_family, SOCK_DGRAM, 0);
	struct ip_mreqn on = { .imr_ifindex = (int)lo };

	CHECK(!bind(fd, &a.any, sizeof(a)));
	if (a.any.sa_family == AF_INET6)
		CHECK(!setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &v0, sizeof(v0)));
	else
		CHECK(!setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &on, sizeof(on)));
	CHECK(sendto(fd, text, strlen(text), 0, &to.any, a.any.sa_family == AF_INET6 ? sizeof(to.v6) : sizeof(to.v4)) > 0);
	close(fd);
}

static void expect(int fd, const char *text)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char buf[64] = "";

	if (!text) {
		CHECK(poll(&p, 1, 20) == 0);
		return;
	}
	CHECK(poll(&p, 1, 500) == 1 && recv(fd, buf, sizeof(buf) - 1, 0) > 0);
	if (strcmp(buf, text))
		FAIL("received '%s' instead of '%s'", buf, text);
}

static int member_on(int family, uint16_t port)
{
	union addr any = addr(family == AF_INET6 ? "::" : "0.0.0.0", port);
	int fd = sock(family, SOCK_DGRAM, 0), off = 0;

	CHECK(!bind(fd, &any.any, family == AF_INET6 ? sizeof(any.v6) : sizeof(any.v4)));
	/* Only from groups that it is a member of itself. */
	CHECK(!setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &off, sizeof(off)));
	return fd;
}

static void any(void)
{
	int fd = member_on(AF_INET, 7001), other = member_on(AF_INET, 7002);

	join(fd, "239.1.2.3");
	join(other, "239.1.2.4");
	t_wait();
	send_to("127.0.0.1", "239.1.2.3", 7001, "one");
	send_to("127.0.0.1", "239.1.2.4", 7001, "two");
	expect(fd, "one");
	expect(fd, NULL);
	send_to("127.0.0.1", "239.1.2.4", 7002, "two");
	expect(other, "two");
}

/* An IPv6 socket that is a member of groups of both. */
static void both(void)
{
	int fd = member_on(AF_INET6, 7003), off = 0;
	unsigned mode;

	CHECK(!setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_ALL, &off, sizeof(off)));
	join(fd, "ff15::77");
	join(fd, "ff12::78");
	join(fd, "239.1.2.5");
	t_wait();
	send_to("fd00::5", "ff15::77", 7003, "six");
	expect(fd, "six");
	send_to("fd00::5", "ff15::76", 7003, "nothing");
	send_to("127.0.0.1", "239.1.2.5", 7003, "four");
	expect(fd, "four");
	CHECK(filter(fd, "ff12::78", &mode) == 0 && mode == MCAST_EXCLUDE);
}

static void sources(void)
{
	int only = member_on(AF_INET, 7004), but = member_on(AF_INET, 7005), six = member_on(AF_INET6, 7006);
	char text[32];
	unsigned mode;

	for (int i = 1; i <= MANY; i++) {
		snprintf(text, sizeof(text), "127.0.0.%d", i);
		with_source(only, MCAST_JOIN_SOURCE_GROUP, "239.1.2.6", text);
	}
	join(but, "239.1.2.6");
	with_source(but, MCAST_BLOCK_SOURCE, "239.1.2.6", "127.0.0.2");
	with_source(six, MCAST_JOIN_SOURCE_GROUP, "ff15::79", "fd00::5");
	t_wait();
	CHECK(filter(only, "239.1.2.6", &mode) == MANY && mode == MCAST_INCLUDE);
	CHECK(filter(but, "239.1.2.6", &mode) == 1 && mode == MCAST_EXCLUDE);
	CHECK(filter(six, "ff15::79", &mode) == 1 && mode == MCAST_INCLUDE);
	send_to("127.0.0.11", "239.1.2.6", 7004, "no");
	send_to("127.0.0.2", "239.1.2.6", 7004, "yes");
	expect(only, "yes");
	send_to("127.0.0.2", "239.1.2.6", 7005, "no");
	send_to("127.0.0.3", "239.1.2.6", 7005, "yes");
	expect(but, "yes");
	send_to("fd00::5", "ff15::79", 7006, "yes");
	expect(six, "yes");
}

/* Raw ones, as routing daemons have them; and more sources than are asked for at first. */
static void raw(void)
{
	int fd = sock(AF_INET, SOCK_RAW, 89), six = sock(AF_INET6, SOCK_RAW, 89), many = member_on(AF_INET, 7007), max;
	char text[32];
	unsigned mode;

	max = open("/proc/sys/net/ipv4/igmp_max_msf", O_WRONLY | O_CLOEXEC);
	CHECK(max >= 0 && write(max, "40", 2) == 2);
	join(fd, "224.0.0.5");
	join(fd, "224.0.0.6");
	join(six, "ff02::5");
	for (int i = 1; i <= 40; i++) {
		snprintf(text, sizeof(text), "127.0.1.%d", i);
		with_source(many, MCAST_JOIN_SOURCE_GROUP, "239.1.2.7", text);
	}
	t_wait();
	CHECK(filter(fd, "224.0.0.5", &mode) == 0 && filter(fd, "224.0.0.6", &mode) == 0 && filter(fd, "224.0.0.9", &mode) < 0);
	CHECK(filter(six, "ff02::5", &mode) == 0 && mode == MCAST_EXCLUDE);
	CHECK(filter(many, "239.1.2.7", &mode) == 40 && mode == MCAST_INCLUDE);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "any", any }, { "both", both }, { "sources", sources }, { "raw", raw } };
	const char *variant = t_init(argc, argv);

	setup();
	T_RUN(variants, variant);
}
