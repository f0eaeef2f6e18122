// SPDX-License-Identifier: MIT
/*
 * A server with many TCP connections that the benchmark checkpoints, and its client, which stays outside:
 *
 *   connections CONTROL server|client N PORT
 *
 * The server (PORT 0: what the kernel gives, told in CONTROL) looks at the clock all the time and notes the longest time in which it
 * could not. The client sends back what it gets. Both can fill all connections with as much as goes in, and count what comes.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum command { NOTHING, FILL, CHECK, END, COUNT };

struct control { /* as in program.c; tests/bench/program.py knows it */
	uint64_t ready, gap;
	uint64_t port;	   /* where the server listens */
	uint64_t command;  /* enum command */
	uint64_t argument; /* FILL: bytes that went in, in the end; COUNT: how many there are to come */
	uint64_t answers;
	uint64_t wrong; /* CHECK: connections that gave no answer, or another one */
};

static struct control *control;
static int *fds, n_fds, poller;
static char block[65536];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

/* As much as the other side and both queues take. */
static uint64_t fill(void)
{
	uint64_t sent = 0, before;

	for (int idle = 0; idle < 3;) {
		before = sent;
		for (int i = 0; i < n_fds; i++)
			for (ssize_t r; (r = send(fds[i], block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0;)
				sent += (uint64_t)r;
		idle = sent == before ? idle + 1 : 0;
		usleep(20000);
	}
	return sent;
}

static void count(uint64_t all)
{
	uint64_t got = 0, end = now_ns() + 60000000000u;

	while (got < all && now_ns() < end)
		for (int i = 0; i < n_fds; i++)
			for (ssize_t r; (r = recv(fds[i], block, sizeof(block), MSG_DONTWAIT)) > 0;)
				got += (uint64_t)r;
	control->wrong += got != all;
}

/* Each connection gives its number back. */
static void check(void)
{
	uint64_t got;

	for (uint64_t i = 0; i < (uint64_t)n_fds; i++)
		if (send(fds[i], &i, sizeof(i), MSG_NOSIGNAL) != sizeof(i))
			control->wrong++;
	for (uint64_t i = 0; i < (uint64_t)n_fds; i++) {
		struct pollfd p = { fds[i], POLLIN, 0 };

		if (poll(&p, 1, 20000) != 1 || recv(fds[i], &got, sizeof(got), MSG_WAITALL) != sizeof(got) || got != i)
			control->wrong++;
	}
}

static void obey(void)
{
	uint64_t command = __atomic_load_n(&control->command, __ATOMIC_ACQUIRE);

	if (command == NOTHING)
		return;
	if (command == END)
		exit(0);
	if (command == FILL)
		control->argument = fill();
	if (command == CHECK)
		check();
	if (command == COUNT)
		count(control->argument);
	control->command = NOTHING;
	__atomic_add_fetch(&control->answers, 1, __ATOMIC_RELEASE);
}

static struct sockaddr_in place(int port)
{
	return (struct sockaddr_in){ AF_INET, htons((uint16_t)port), { htonl(INADDR_LOOPBACK) }, { 0 } };
}

static void serve(int port)
{
	struct sockaddr_in a = place(port);
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);
	uint64_t last, now;

	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 4000) || getsockname(l, (struct sockaddr *)&a, &len))
		fail("server");
	control->port = ntohs(a.sin_port);
	for (int i = 0; i < n_fds; i++)
		if ((fds[i] = accept(l, NULL, NULL)) < 0)
			fail("accept");
	__atomic_store_n(&control->ready, 1, __ATOMIC_RELEASE);
	for (last = now_ns();; last = now) {
		obey();
		now = now_ns();
		if (now - last > control->gap)
			control->gap = now - last;
	}
}

/* Sends back what it gets, as long as it has not been told anything else. */
static void echo(void)
{
	struct epoll_event e[64];
	int n = epoll_wait(poller, e, 64, 5);
	ssize_t r;

	for (int i = 0; i < n; i++) {
		r = recv(e[i].data.fd, block, sizeof(block), MSG_DONTWAIT);
		if (r <= 0 && errno != EAGAIN)
			fail("the client's connection");
		if (r > 0 && send(e[i].data.fd, block, (size_t)r, MSG_NOSIGNAL) != r)
			fail("the client's answer");
	}
}

static void client(int port)
{
	struct sockaddr_in a = place(port);
	uint64_t told = 0;

	poller = epoll_create1(EPOLL_CLOEXEC);
	for (int i = 0; i < n_fds; i++) {
		struct epoll_event e = { EPOLLIN, { .fd = fds[i] = socket(AF_INET, SOCK_STREAM, 0) } };

		if (connect(fds[i], (struct sockaddr *)&a, sizeof(a)) || epoll_ctl(poller, EPOLL_CTL_ADD, fds[i], &e))
			fail("connect");
	}
	__atomic_store_n(&control->ready, 1, __ATOMIC_RELEASE);
	for (;;) {
		told |= control->command;
		obey();
		if (told)
			usleep(1000);
		else
			echo();
	}
}

int main(int argc, char **argv)
{
	int fd, port;

	if (argc != 5)
		return 2;
	n_fds = atoi(argv[3]);
	port = atoi(argv[4]);
	fds = calloc((size_t)n_fds, sizeof(*fds));
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (!fds || fd < 0 || setrlimit(RLIMIT_NOFILE, &(struct rlimit){ (rlim_t)n_fds + 100, (rlim_t)n_fds + 100 }))
		fail(argv[1]);
	control = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (control == MAP_FAILED)
		fail(argv[1]);
	close(fd);
	if (!strcmp(argv[2], "server"))
		serve(port);
	client(port);
	return 0;
}
