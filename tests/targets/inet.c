/* SPDX-License-Identifier: MIT */
/* IPv4 and IPv6 sockets without connections. */
#include "target.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int get(int fd, int level, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);

	CHECK(!getsockopt(fd, level, name, &value, &n));
	return value;
}

static void set(int fd, int level, int name, int value)
{
	CHECK(!setsockopt(fd, level, name, &value, sizeof(value)));
}

/* A listener takes connections, on the port that it had. */
static void listener(int family, const void *any, socklen_t len)
{
	int fd = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0);
	struct sockaddr_storage before, after;
	socklen_t n = sizeof(before);

	CHECK(fd >= 0 && client >= 0 && !bind(fd, any, len) && !listen(fd, 9));
	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	set(fd, IPPROTO_TCP, TCP_KEEPIDLE, 77);
	CHECK(!getsockname(fd, (void *)&before, &n));
	t_wait();
	n = sizeof(after);
	CHECK(!getsockname(fd, (void *)&after, &n) && n == len && !memcmp(&before, &after, n));
	CHECK(get(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1 && get(fd, SOL_SOCKET, SO_REUSEADDR) == 0);
	CHECK(get(fd, IPPROTO_TCP, TCP_NODELAY) == 1 && get(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
	CHECK(!connect(client, (void *)&after, n));
	CHECK((fd = accept(fd, NULL, NULL)) >= 0 && get(fd, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
	CHECK(write(client, "hello", 5) == 5);
}

static void listen4(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	listener(AF_INET, &a, sizeof(a));
}

static void listen6(void)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };

	listener(AF_INET6, &a, sizeof(a));
}

/* Neither bound nor connected, bound, and connected ones. */
static void udp(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, b = a;
	int none = socket(AF_INET, SOCK_DGRAM, 0), bound = socket(AF_INET, SOCK_DGRAM, 0), sender = socket(AF_INET, SOCK_DGRAM, 0);
	socklen_t n = sizeof(a);
	char text[8];

	CHECK(none >= 0 && !bind(bound, (void *)&a, sizeof(a)) && !getsockname(bound, (void *)&a, &n));
	set(bound, SOL_SOCKET, SO_BROADCAST, 1);
	CHECK(!connect(sender, (void *)&a, n) && !getsockname(sender, (void *)&b, &n));
	t_wait();
	CHECK(send(sender, "one", 3, 0) == 3);
	n = sizeof(a);
	CHECK(recvfrom(bound, text, sizeof(text), MSG_DONTWAIT, (void *)&a, &n) == 3 && !memcmp(text, "one", 3));
	CHECK(a.sin_port == b.sin_port && a.sin_addr.s_addr == b.sin_addr.s_addr);
	CHECK(get(bound, SOL_SOCKET, SO_BROADCAST) == 1 && get(none, SOL_SOCKET, SO_BROADCAST) == 0);
	CHECK(sendto(none, "two", 3, 0, (void *)&b, sizeof(b)) == 3);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "listen4", listen4 }, { "listen6", listen6 }, { "udp", udp },
	};

	T_RUN(variants, t_init(argc, argv));
}
