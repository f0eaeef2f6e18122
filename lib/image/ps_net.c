// SPDX-License-Identifier: MIT
#include "lib/image/ps_net.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#define TICK_MS 200
#define CONNECT_S 30 /* for one address */

static void addresses_free(struct addrinfo **list)
{
	if (*list)
		freeaddrinfo(*list);
}

/* @host NULL: any, to listen at. */
static int resolve(struct op *op, const char *host, uint32_t port, struct addrinfo **list)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE };
	char service[8];
	int r;

	if (port > UINT16_MAX)
		return op_fail(op, CKPT_E_INVAL, NULL, "option --port: %u is no port", port);
	snprintf(service, sizeof(service), "%u", port);
	r = getaddrinfo(host, service, &hints, list);
	if (r == 0)
		return 0;
	*list = NULL;
	return op_fail(op, CKPT_E_SYS, AT(.kind = "page server", .hint = "--address takes a name or an address"),
		       "the address %s cannot be resolved: %s", host ?: "to listen at", r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
}

static const char *name_of(struct op *op, const struct sockaddr *sa, socklen_t len, const char *what)
{
	char host[NI_MAXHOST], service[NI_MAXSERV];

	if (getnameinfo(sa, len, host, sizeof(host), service, sizeof(service), NI_NUMERICHOST | NI_NUMERICSERV))
		return what;
	/* One that speaks IPv4 with a socket of IPv6. */
	return arena_printf(op->arena, "%s at %s port %s", what, host + (strncmp(host, "::ffff:", 7) ? 0 : 7), service) ?: what;
}

/* Small messages are answers that somebody waits for. A peer whose machine vanished is noticed sooner or later. */
static void tune(int fd)
{
	const int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* ---- the server's side */

static uint16_t port_of(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0)
		return 0;
	return ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port : ((struct sockaddr_in *)&ss)->sin_port);
}

static int listen_at(const struct addrinfo *ai)
{
	_cleanup_close_ int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
	const int on = 1, off = 0;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (ai->ai_family == AF_INET6) /* any: of both families */
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, 1) < 0)
		return -1;
	return TAKE_FD(fd);
}

/* Of any address, that of IPv6 takes both. Where the machine has none, the other. */
static int listen_first(const struct addrinfo *list, bool any)
{
	int fd = -1;

	for (const struct addrinfo *ai = list; any && ai && fd < 0; ai = ai->ai_next)
		if (ai->ai_family == AF_INET6)
			fd = listen_at(ai);
	for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
		fd = listen_at(ai);
	return fd;
}

int ps_listen(struct op *op, int *fd, uint16_t *port)
{
	_cleanup_(addresses_free) struct addrinfo *list = NULL;
	const char *host = op->opts->address;
	int r = resolve(op, host, op->opts->port, &list);

	if (r)
		return r;
	*fd = listen_first(list, !host);
	if (*fd < 0)
		return op_errno(op, errno, AT(.kind = "page server",
					      .hint = errno == EADDRINUSE ? "choose another --port, or 0 for one that is free" : NULL),
				"listen at %s port %u", host ?: "any address", op->opts->port);
	*port = port_of(*fd);
	return 0;
}

int ps_accept(struct op *op, int listener, int *fd, const char **peer)
{
	struct sockaddr_storage ss;
	int r;

	for (;;) {
		struct pollfd p = { .fd = listener, .events = POLLIN };
		socklen_t len = sizeof(ss);

		*fd = accept4(listener, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC);
		if (*fd >= 0) {
			tune(*fd);
			*peer = name_of(op, (struct sockaddr *)&ss, len, "peer");
			return 0;
		}
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return op_errno(op, errno, AT(.kind = "page server"), "accept a connection");
		r = op_check_cancel(op);
		if (r)
			return r;
		poll(&p, 1, TICK_MS);
	}
}

/* ---- the client's side */

/* Returns 0, an errno, or a negative code of the operation. */
static int connect_to(struct op *op, const struct addrinfo *ai, int *ret)
{
	_cleanup_close_ int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, ai->ai_protocol);
	uint64_t until = now_ns() + CONNECT_S * 1000000000ull;
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	int eno = 0, r;
	socklen_t len = sizeof(eno);

	if (fd < 0)
		return errno;
	if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 && errno != EINPROGRESS)
		return errno;
	while (poll(&p, 1, TICK_MS) <= 0) {
		r = op_check_cancel(op);
		if (r)
			return r;
		if (now_ns() > until)
			return ETIMEDOUT;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &eno, &len) < 0)
		return errno;
	if (eno)
		return eno;
	tune(fd);
	*ret = TAKE_FD(fd);
	return 0;
}

int ps_connect(struct op *op, int *fd, const char **peer)
{
	_cleanup_(addresses_free) struct addrinfo *list = NULL;
	const struct ckpt_opts *o = op->opts;
	int r, eno = 0;

	if (!o->address || !o->port)
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "add --address HOST --port PORT"),
			       "the page server to connect to is not named");
	r = resolve(op, o->address, o->port, &list);
	if (r)
		return r;
	for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
		r = connect_to(op, ai, fd);
		if (r < 0)
			return r;
		if (r == 0) {
			*peer = name_of(op, ai->ai_addr, ai->ai_addrlen, "page server");
			return 0;
		}
		eno = r;
	}
	return op_errno(op, eno, AT(.kind = "page server", .hint = "is a page server running there?"),
			"connect to the page server at %s port %u", o->address, o->port);
}

int ps_inherit(struct op *op, int *fd, const char **peer)
{
	int type = 0, given = op->opts->ps_socket;
	socklen_t len = sizeof(type);

	*peer = "peer at --ps-socket";
	*fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	if (*fd < 0)
		return op_errno(op, errno, AT(AT_FD(given), .kind = "page server"), "option --ps-socket %d", given);
	if (getsockopt(*fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM)
		return 0;
	close(TAKE_FD(*fd));
	return op_fail(op, CKPT_E_INVAL, AT(AT_FD(given), .kind = "page server"), "option --ps-socket %d: this is no stream socket",
		       given);
}
