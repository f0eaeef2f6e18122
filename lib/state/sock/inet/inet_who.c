/* SPDX-License-Identifier: MIT */
/*
 * Restore: why an address or a connection cannot be had, and who has it. The kernel tells the inode of the socket that is in the
 * way; whose it is, only a look at the descriptors of all processes. Nobody looks before something failed.
 */
#include <ctype.h>
#include <dirent.h>

#include "lib/state/sock/inet/inet.h"

struct holder {
	pid_t pid; /* 0: not found */
	char comm[32];
};

static void closedir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

static bool has_socket(const char *pid, uint32_t ino)
{
	char path[64], want[32], link[64];
	_cleanup_(closedir_p) DIR *d = NULL;
	struct dirent *e;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	snprintf(want, sizeof(want), "socket:[%u]", ino);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);

		link[MAX(n, 0)] = 0;
		if (n > 0 && strcmp(link, want) == 0)
			return true;
	}
	return false;
}

static void read_comm(struct holder *h)
{
	char path[64];
	_cleanup_fclose_ FILE *f = NULL;

	snprintf(path, sizeof(path), "/proc/%d/comm", h->pid);
	f = fopen(path, "re");
	if (!f || !fgets(h->comm, sizeof(h->comm), f))
		strcpy(h->comm, "?");
	h->comm[strcspn(h->comm, "\n")] = 0;
}

static struct holder find_holder(uint32_t ino)
{
	_cleanup_(closedir_p) DIR *d = opendir("/proc");
	struct holder h = { 0 };
	struct dirent *e;

	while (ino && d && !h.pid && (e = readdir(d)))
		if (isdigit((unsigned char)e->d_name[0]) && has_socket(e->d_name, ino))
			h.pid = atoi(e->d_name);
	if (h.pid)
		read_comm(&h);
	return h;
}

/* ------------------------------------------------------------------------------------------------ what is in the way */

static bool same_place(const union inet_addr *a, const union inet_addr *b)
{
	if (a->any.sa_family != b->any.sa_family || inet_addr_port(a) != inet_addr_port(b))
		return false;
	return a->any.sa_family == AF_INET6 ? IN6_ARE_ADDR_EQUAL(&a->v6.sin6_addr, &b->v6.sin6_addr) :
					      a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr;
}

static bool overlaps(const union inet_addr *a, const union inet_addr *b)
{
	return inet_addr_port(a) == inet_addr_port(b) && (inet_addr_is_any(a) || inet_addr_is_any(b) || same_place(a, b));
}

static bool in_the_way(const struct inet_sk *sk, const struct inet_entry *e, bool connection)
{
	union inet_addr mine, other;

	inet_addr_on_wire(&sk->local, &mine);
	inet_addr_on_wire(&e->local, &other);
	if (!connection)
		return overlaps(&mine, &other);
	if (!same_place(&mine, &other))
		return false;
	inet_addr_on_wire(&sk->peer, &mine);
	inet_addr_on_wire(&e->peer, &other);
	return same_place(&mine, &other);
}

/* Of several that listen and that are connected at one port, the former are the ones that matter. */
static const struct inet_entry *pick(const struct inet_sk *sk, const struct inet_listing *l, bool connection)
{
	const struct inet_entry *found = NULL;

	for (size_t i = 0; i < l->all.n; i++) {
		const struct inet_entry *e = l->all.v[i];

		if (in_the_way(sk, e, connection) && (!found || e->state == INET_LISTEN))
			found = e;
	}
	return found;
}

/* ", process 17 (nginx) has it"; "" where it cannot be told. What fails here is not what failed. */
static const char *who_has(struct op *op, const struct inet_sk *sk, bool connection)
{
	static const int families[] = { AF_INET, AF_INET6 };
	const struct inet_entry *e = NULL;
	struct holder h;

	for (size_t i = 0; !e && i < ARRAY_SIZE(families); i++) {
		const struct inet_listing *l;

		if (inet_listing(op, sk->of, families[i], sk->m->proto, &l)) {
			op_forget(op);
			return "";
		}
		e = pick(sk, l, connection);
	}
	h = e ? find_holder(e->ino) : (struct holder){ 0 };
	if (!h.pid)
		return e && !e->ino ? ", a connection that no process has (any more, or yet) is there" : "";
	return arena_printf(op->arena, ", process %d (%s) has it", h.pid, h.comm) ?: "";
}

int inet_cannot_bind(struct op *op, const struct inet_sk *sk, int eno)
{
	const char *hint = NULL, *who = "";

	if (eno == EADDRINUSE) {
		who = who_has(op, sk, false);
		hint = "end the program that has the port first";
	} else if (eno == EADDRNOTAVAIL) {
		hint = "give the address to this host first (ip address add), or restore where it is";
	} else if (eno == EACCES) {
		hint = "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE";
	}
	return op_errno(op, eno, AT(.kind = "socket", .hint = hint), "%s: cannot bind it to its address%s", inet_what(op, sk), who);
}

int inet_cannot_connect(struct op *op, const struct inet_sk *sk, int eno)
{
	const char *hint = NULL, *peer = inet_addr_text(op, &sk->peer);

	if (eno == EADDRNOTAVAIL && sk->stream)
		return op_fail(op, CKPT_E_SYS,
			       AT(.kind = "socket", .hint = "is the program of the checkpoint still running, or restored already?"),
			       "%s: the same connection to %s exists on this host%s", inet_what(op, sk), peer, who_has(op, sk, true));
	if (eno == ENETUNREACH || eno == EHOSTUNREACH || eno == ENETDOWN)
		hint = "the route to its peer must be there";
	return op_errno(op, eno, AT(.kind = "socket", .hint = hint), "%s: cannot connect it to %s", inet_what(op, sk), peer);
}
