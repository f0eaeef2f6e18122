// SPDX-License-Identifier: MIT
/* Descriptors of /dev/net/tun. The devices are made in a network namespace that has nothing else: unshare --net. */
#include "target.h"

#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>

static int open_tun(int flags)
{
	int fd = open("/dev/net/tun", O_RDWR | flags);

	if (fd < 0)
		SKIP("no tun devices here: %s", strerror(errno));
	return fd;
}

static void need_namespace(void)
{
	if (if_nametoindex("eth0") || if_nametoindex("ckpt1") || !if_nametoindex("lo"))
		SKIP("not in a network namespace of its own: use unshare --net");
}

static int attach(const char *name, int flags)
{
	struct ifreq ifr = { .ifr_flags = flags };
	int fd = open_tun(O_NONBLOCK);

	strcpy(ifr.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &ifr))
		SKIP("no tun devices here: %s", strerror(errno));
	return fd;
}

static struct ifreq get(int fd)
{
	struct ifreq ifr = { 0 };

	CHECK(!ioctl(fd, TUNGETIFF, &ifr));
	return ifr;
}

static void up(const char *name)
{
	struct ifreq ifr = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	strcpy(ifr.ifr_name, name);
	CHECK(!ioctl(s, SIOCGIFFLAGS, &ifr));
	ifr.ifr_flags |= IFF_UP;
	CHECK(!ioctl(s, SIOCSIFFLAGS, &ifr) && !close(s));
}

static void unattached(void)
{
	int fd = open_tun(O_NONBLOCK);
	struct ifreq ifr = { 0 };

	t_wait();
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
	CHECK(ioctl(fd, TUNGETIFF, &ifr) < 0 && errno == EBADFD);
}

/* What the kernel sends by itself through a device that is up (IPv6 looks for routers) arrives. */
static void persistent(void)
{
	struct ifreq before, now;
	int fd, sndbuf = 77777, size = 12, got;

	need_namespace();
	fd = attach("ckpt0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
	CHECK(!ioctl(fd, TUNSETPERSIST, 1) && !ioctl(fd, TUNSETSNDBUF, &sndbuf) && !ioctl(fd, TUNSETVNETHDRSZ, &size));
	CHECK(dup(fd) >= 0);
	up("ckpt0");
	before = get(fd);
	t_wait();
	now = get(fd);
	CHECK(now.ifr_flags == before.ifr_flags && !strcmp(now.ifr_name, "ckpt0"));
	CHECK(!ioctl(fd, TUNGETSNDBUF, &got) && got == sndbuf);
	CHECK(!ioctl(fd, TUNGETVNETHDRSZ, &got) && got == size);
	CHECK(write(fd, (char[80]){ 0 }, 80) == 80);
	CHECK(!ioctl(fd, TUNSETPERSIST, 0));
}

static void queues(void)
{
	int a, b, flags = IFF_TUN | IFF_MULTI_QUEUE;
	struct ifreq ifr = { .ifr_flags = IFF_DETACH_QUEUE };

	need_namespace();
	a = attach("ckpt0", flags);
	b = attach("ckpt0", flags);
	CHECK(!ioctl(a, TUNSETPERSIST, 1) && !ioctl(b, TUNSETQUEUE, &ifr));
	t_wait();
	CHECK(!(get(a).ifr_flags & IFF_DETACH_QUEUE) && (get(b).ifr_flags & IFF_DETACH_QUEUE));
	ifr.ifr_flags = IFF_ATTACH_QUEUE;
	CHECK(!ioctl(b, TUNSETQUEUE, &ifr) && !strcmp(get(b).ifr_name, "ckpt0"));
	CHECK(!ioctl(a, TUNSETPERSIST, 0));
}

/* Refused. */
static void passing(void)
{
	int fd;

	need_namespace();
	fd = attach("ckpt0", IFF_TUN);
	t_wait();
	CHECK(!strcmp(get(fd).ifr_name, "ckpt0"));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "unattached", unattached }, { "persistent", persistent }, { "queues", queues }, { "passing", passing },
	};

	T_RUN(variants, t_init(argc, argv));
}
