// SPDX-License-Identifier: MIT
/*
 * A server for a peer outside of the tree: sends back what it gets. Variant: the address that it listens at (default
 * 127.0.0.1). The file `port` says at which port, and `events` what happened to connections, each called by its number.
 */
#include "tcp.h"

#define MOST 64

static struct connection {
	int fd;
	size_t n, done; /* of what is to be sent back */
	char b[BLOCK];
} all[MOST];
static int many;

__attribute__((format(printf, 2, 3))) static void note(const char *file, const char *fmt, ...)
{
	FILE *f = fopen(file, "ae");
	va_list ap;

	CHECK(f);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	CHECK(!fclose(f));
}

static void over(struct connection *c, const char *how)
{
	note("events", "%s %d\n", how, (int)(c - all));
	close(c->fd);
	c->fd = -1;
}

static void serve(struct connection *c)
{
	ssize_t r;

	if (c->done < c->n) {
		r = send(c->fd, c->b + c->done, c->n - c->done, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r < 0 && errno != EAGAIN)
			over(c, strerrorname_np(errno));
		c->done += r > 0 ? r : 0;
		return;
	}
	r = recv(c->fd, c->b, sizeof(c->b), MSG_DONTWAIT);
	if (r > 0)
		c->n = r, c->done = 0;
	else if (!r)
		over(c, "end");
	else if (errno != EAGAIN)
		over(c, strerrorname_np(errno));
}

static void once(int l)
{
	struct pollfd p[MOST + 1];
	int n = 0, s;

	for (int i = 0; i < many; i++)
		p[n++] = (struct pollfd){ all[i].fd, all[i].done < all[i].n ? POLLOUT : POLLIN, 0 };
	p[n] = (struct pollfd){ l, POLLIN, 0 };
	if (poll(p, n + 1, 10) <= 0)
		return;
	for (int i = 0; i < n; i++)
		if (all[i].fd >= 0 && p[i].revents)
			serve(&all[i]);
	if (p[n].revents && (s = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		CHECK(many < MOST);
		note("events", "accepted %d\n", many);
		all[many++].fd = s;
	}
}

int main(int argc, char **argv)
{
	const char *text = t_init(argc, argv);
	int family = strchr(text, ':') ? AF_INET6 : AF_INET, l = make(family, SOCK_NONBLOCK);
	struct addr a = address(family, *text ? text : "127.0.0.1", 0);
	struct timespec now = { 0, 0 };
	sigset_t s;

	set_opt(l, SOL_SOCKET, SO_REUSEADDR, 1); /* as servers do */
	CHECK(!bind(l, &a.a, a.len) && !listen(l, 100));
	a = name_of(l);
	note("port", "%d\n", ntohs(family == AF_INET ? a.v4.sin_port : a.v6.sin6_port));
	t_say("ready\n");
	sigemptyset(&s);
	sigaddset(&s, SIGUSR1);
	while (sigtimedwait(&s, NULL, &now) < 0)
		once(l);
	t_pass();
}
