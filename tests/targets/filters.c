// SPDX-License-Identifier: MIT
/* Classic socket filters (SO_ATTACH_FILTER), of sockets of several families: what they let pass, and how much of it. */
#include "target.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define OFFSET 8 /* of the data in what a filter of a UDP socket sees */

/* What begins with @first passes, cut to @keep bytes. */
static void attach(int fd, char first, unsigned at, unsigned keep)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, at),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, keep),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)));
}

static void must_be(int fd, const char *text)
{
	char b[64] = "";
	ssize_t n = recv(fd, b, sizeof(b) - 1, 0);

	CHECK(n >= 0);
	if (strcmp(b, text))
		FAIL("'%s' came, not '%s'", b, text);
	CHECK(recv(fd, b, sizeof(b), MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

static int udp(int family, struct sockaddr_storage *a, socklen_t *n)
{
	int fd = socket(family, SOCK_DGRAM, 0);

	if (fd < 0)
		SKIP("no sockets of family %d: %s", family, strerror(errno));
	memset(a, 0, sizeof(*a));
	a->ss_family = family;
	*n = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	if (family == AF_INET)
		((struct sockaddr_in *)a)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		((struct sockaddr_in6 *)a)->sin6_addr = in6addr_loopback;
	if (bind(fd, (struct sockaddr *)a, *n))
		SKIP("no loopback address of family %d: %s", family, strerror(errno));
	CHECK(!getsockname(fd, (struct sockaddr *)a, n));
	return fd;
}

static void datagrams(int family)
{
	struct sockaddr_storage a;
	socklen_t n;
	int to = udp(family, &a, &n), from = socket(family, SOCK_DGRAM, 0);

	attach(to, 'y', OFFSET, OFFSET + 3);
	t_wait();
	CHECK(sendto(from, "no", 2, 0, (struct sockaddr *)&a, n) == 2);
	CHECK(sendto(from, "yes, please", 11, 0, (struct sockaddr *)&a, n) == 11);
	must_be(to, "yes");
}

static void udp4(void)
{
	datagrams(AF_INET);
}

static void udp6(void)
{
	datagrams(AF_INET6);
}

/* A listener's filter: connections that it does not like get no answer, and those it takes inherit it. */
static void listener(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, me = a;
	socklen_t n = sizeof(a);
	struct sock_filter code[] = { /* not from the port of @bad */
		BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	};
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	int fd = socket(AF_INET, SOCK_STREAM, 0), bad, good;

	CHECK(!bind(fd, (struct sockaddr *)&a, n) && !getsockname(fd, (struct sockaddr *)&a, &n));
	bad = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(!bind(bad, (struct sockaddr *)&me, sizeof(me)) && !getsockname(bad, (struct sockaddr *)&me, &n));
	code[1].k = ntohs(me.sin_port);
	CHECK(!setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) && !listen(fd, 5));
	t_wait();
	CHECK(connect(bad, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == EINPROGRESS);
	good = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(!connect(good, (struct sockaddr *)&a, sizeof(a)));
	n = sizeof(me);
	CHECK(accept(fd, (struct sockaddr *)&me, &n) >= 0);
	CHECK(!getsockname(good, (struct sockaddr *)&a, &n) && a.sin_port == me.sin_port);
	CHECK(!fcntl(fd, F_SETFL, O_NONBLOCK) && accept(fd, NULL, NULL) < 0 && errno == EAGAIN);
}

/* Nobody can take it off any more. */
static void locked(void)
{
	struct sockaddr_storage a;
	socklen_t n;
	int to = udp(AF_INET, &a, &n), from = socket(AF_INET, SOCK_DGRAM, 0), one = 1;

	attach(to, 'y', OFFSET, 0xffff);
	CHECK(!setsockopt(to, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof(one)));
	t_wait();
	CHECK(setsockopt(to, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof(one)) < 0 && errno == EPERM);
	CHECK(sendto(from, "no", 2, 0, (struct sockaddr *)&a, n) == 2 && sendto(from, "yes", 3, 0, (struct sockaddr *)&a, n) == 3);
	must_be(to, "yes");
}

/* As long as a filter may be. */
static void longest(void)
{
	static struct sock_filter code[4096];
	struct sock_fprog prog = { ARRAY_SIZE(code), code };
	int fd[2];
	char b[8];
	unsigned n;
	socklen_t len = 0;

	for (n = 0; n < ARRAY_SIZE(code) - 1; n++)
		code[n] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, n);
	code[n] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0); /* 4094 */
	CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, fd));
	if (setsockopt(fd[1], SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)))
		SKIP("net.core.optmem_max is too small: %s", strerror(errno));
	t_wait();
	CHECK(!getsockopt(fd[1], SOL_SOCKET, SO_GET_FILTER, NULL, &len) && len == 4096);
	memset(code, 0, sizeof(code));
	CHECK(!getsockopt(fd[1], SOL_SOCKET, SO_GET_FILTER, code, &len) && code[4094].k == 4094 && code[7].k == 7);
	CHECK(send(fd[0], "passes", 6, 0) == 6 && recv(fd[1], b, sizeof(b), 0) == 6);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "udp4", udp4 }, { "udp6", udp6 }, { "listener", listener }, { "locked", locked }, { "longest", longest },
	};

	T_RUN(variants, t_init(argc, argv));
}
