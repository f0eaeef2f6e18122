/* SPDX-License-Identifier: MIT */
/*
 * Connections that wait to be accepted. Each begins with its number and how much follows (and whether its end does); they must
 * come in the order of these numbers, with all that was sent, and get an answer.
 *   self, self6, mapped   the clients are ours, too
 *   device                of a listener that is bound to a device
 *   filter, mptcp         at listeners that they could not be given back to
 *   outside               somebody else connects to the port in the file "port", before we are asked
 *   crowd                 the same, in any order
 */
#include "target.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define CLIENTS 4

struct head {
	uint32_t number, bytes, end;
};

static void put_all(int fd, const void *p, size_t n)
{
	for (const char *b = p; n;) {
		ssize_t k = send(fd, b, n, MSG_NOSIGNAL);

		CHECK(k > 0);
		b += k;
		n -= (size_t)k;
	}
}

static void get_all(int fd, void *p, size_t n)
{
	for (char *b = p; n;) {
		ssize_t k = recv(fd, b, n, 0);

		CHECK(k > 0);
		b += k;
		n -= (size_t)k;
	}
}

static uint8_t byte_of(uint32_t number, size_t at)
{
	return (uint8_t)(at * 7 % 251 + number);
}

static socklen_t address(int family, const char *text, struct sockaddr_storage *a)
{
	memset(a, 0, sizeof(*a));
	a->ss_family = (sa_family_t)family;
	CHECK(inet_pton(family, text, family == AF_INET6 ? (void *)&((struct sockaddr_in6 *)a)->sin6_addr
							  : &((struct sockaddr_in *)a)->sin_addr) == 1);
	return family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

static void be_patient(int fd)
{
	struct timeval patience = { .tv_sec = 20 };

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)));
}

static int protocol;
static bool at_device, with_filter;

static int listener(int family, const char *at, struct sockaddr_storage *a)
{
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	struct sock_filter all = { BPF_RET | BPF_K, 0, 0, 0xffffffff };
	struct sock_fprog filter = { 1, &all };
	socklen_t n = address(family, at, a);

	if (fd < 0 && protocol)
		SKIP("no MPTCP");
	CHECK(!at_device || !setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3));
	CHECK(!with_filter || !setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)));
	CHECK(fd >= 0 && !bind(fd, (void *)a, n) && !listen(fd, 128) && !getsockname(fd, (void *)a, &n));
	return fd;
}

/* Accepts all that wait; how many. */
static uint32_t serve(int fd, bool in_order)
{
	static uint8_t b[4 << 20];
	uint32_t n = 0;
	int c;

	while ((c = accept4(fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		struct head h;

		be_patient(c);
		get_all(c, &h, sizeof(h));
		if (in_order && h.number != n)
			FAIL("connection %u came as number %u", h.number, n);
		CHECK(h.bytes <= sizeof(b));
		get_all(c, b, h.bytes);
		for (uint32_t i = 0; i < h.bytes; i++)
			if (b[i] != byte_of(h.number, i))
				FAIL("connection %u: byte %u of %u is wrong", h.number, i, h.bytes);
		CHECK(!h.end || recv(c, b, 1, 0) == 0);
		put_all(c, &h.number, sizeof(h.number));
		CHECK(!close(c));
		n++;
	}
	if (errno != EAGAIN)
		FAIL("accept: %s", strerror(errno));
	return n;
}

static void client(int fd, uint32_t number)
{
	struct head h = { number, number * 5000, number & 1 };
	uint8_t b[CLIENTS * 5000];

	for (uint32_t i = 0; i < h.bytes; i++)
		b[i] = byte_of(number, i);
	put_all(fd, &h, sizeof(h));
	put_all(fd, b, h.bytes);
	CHECK(!h.end || !shutdown(fd, SHUT_WR));
}

static void with_clients(int family, const char *at, int client_family, const char *to)
{
	struct sockaddr_storage a, b;
	int fd = listener(family, at, &a), c[CLIENTS];
	socklen_t n = address(client_family, to, &b);
	uint32_t number;

	/* The port is at the same place in both families. */
	((struct sockaddr_in *)&b)->sin_port = ((struct sockaddr_in *)&a)->sin_port;
	for (uint32_t i = 0; i < CLIENTS; i++) {
		c[i] = socket(client_family, SOCK_STREAM, 0);
		CHECK(!connect(c[i], (void *)&b, n));
		be_patient(c[i]);
		client(c[i], i);
	}
	t_wait();
	CHECK(serve(fd, true) == CLIENTS);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		get_all(c[i], &number, sizeof(number));
		CHECK(number == i && recv(c[i], &number, 1, 0) == 0);
	}
}

static void self(void)
{
	with_clients(AF_INET, "127.0.0.1", AF_INET, "127.0.0.1");
}

static void self6(void)
{
	with_clients(AF_INET6, "::1", AF_INET6, "::1");
}

static void mapped(void)
{
	with_clients(AF_INET6, "::", AF_INET, "127.0.0.1");
}

static void device(void)
{
	at_device = true;
	with_clients(AF_INET6, "::", AF_INET6, "::1");
}

static void filter(void)
{
	with_filter = true;
	self();
}

static void mptcp(void)
{
	protocol = IPPROTO_MPTCP;
	self();
}

static void from_outside(bool in_order)
{
	struct sockaddr_storage a;
	int fd = listener(AF_INET6, "::", &a);
	FILE *f = fopen("port", "we");

	CHECK(f && fprintf(f, "%u\n", ntohs(((struct sockaddr_in6 *)&a)->sin6_port)) > 0 && !fclose(f));
	t_wait();
	serve(fd, in_order);
}

static void outside(void)
{
	from_outside(true);
}

static void crowd(void)
{
	from_outside(false);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "self", self }, { "self6", self6 }, { "mapped", mapped }, { "device", device }, { "filter", filter }, { "mptcp", mptcp },
		{ "outside", outside }, { "crowd", crowd },
	};

	T_RUN(variants, t_init(argc, argv));
}
