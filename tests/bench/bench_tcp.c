/* SPDX-License-Identifier: MIT */
/*
 * What one TCP stream over loopback carries: bench_tcp BYTES [CHUNK [MEMORY]]. One process writes CHUNKs (default 256 KiB),
 * which it takes one after the other from so much memory (default: always the same), another reads them and forgets them. Prints bytes a second. It is what a page server is measured against.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/base/op.h"

static int die(const char *what)
{
	perror(what);
	exit(1);
}

static void receive(int listener)
{
	char *buf = malloc(512 << 10);
	int fd = accept(listener, NULL, NULL);

	while (buf && recv(fd, buf, 512 << 10, 0) > 0)
		;
	_exit(send(fd, "", 1, 0) != 1);
}

int main(int argc, char **argv)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	uint64_t bytes = argc > 1 ? strtoull(argv[1], NULL, 0) : 1ull << 30, begin;
	size_t chunk = argc > 2 ? strtoul(argv[2], NULL, 0) : 256 << 10;
	int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	socklen_t len = sizeof(sa);
	uint64_t memory = argc > 3 ? strtoull(argv[3], NULL, 0) : chunk;
	char *buf = malloc(memory), byte;

	if (listener < 0 || fd < 0 || !buf || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&sa, &len) < 0)
		return die("socket");
	if (fork() == 0)
		receive(listener);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	memset(buf, 'x', memory);
	begin = now_ns();
	for (uint64_t done = 0; done < bytes;) {
		ssize_t n = send(fd, buf + done % memory, MIN(MIN(chunk, bytes - done), memory - done % memory), 0);

		if (n <= 0)
			return die("send");
		done += (uint64_t)n;
	}
	shutdown(fd, SHUT_WR);
	if (recv(fd, &byte, 1, 0) != 1)
		return die("recv");
	printf("%.0f\n", bytes / ((now_ns() - begin) / 1e9));
	wait(NULL);
	return 0;
}
