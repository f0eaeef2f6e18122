/* SPDX-License-Identifier: MIT */
/* What all families of sockets are asked for alike. */
#include <sys/ioctl.h>

#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"
#include "lib/state/ns/ns.h"
#include "lib/state/sock/sock.h"

int sock_get_int(int fd, int name)
{
	int v = 0;
	socklen_t n = sizeof(v);

	return getsockopt(fd, SOL_SOCKET, name, &v, &n) < 0 ? 0 : v;
}

int sock_family(int fd)
{
	int family = -1;
	socklen_t n = sizeof(family);

	return fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &n) < 0 ? -1 : family;
}

/* The family shows only on the socket itself; a copy of it, for a moment, changes nothing. */
int sock_family_of(const struct fd_view *v)
{
	_cleanup_close_ int pidfd = -1, copy = -1;

	if (!S_ISSOCK(v->st.st_mode) || v->info.flags & O_PATH)
		return -1;
	if (v->copy >= 0 || v->fd < 0)
		return sock_family(v->copy);
	pidfd = sys_pidfd_open(v->pid, 0);
	copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
	return sock_family(copy);
}

int sock_check_namespace(struct op *op, const struct fd_view *v, const char *kind)
{
	_cleanup_close_ int ns = ioctl(v->copy, SIOCGSKNS);
	struct stat a, b;

	if (ns < 0)
		return 0; /* not asked without the right to it */
	if (fstat(ns, &a) < 0 || stat("/proc/thread-self/ns/net", &b) < 0)
		return file_errno(op, v, "look at its network namespace");
	if (a.st_ino == b.st_ino)
		return 0;
	return file_refuse(op, v, kind, NULL, "it belongs to another network namespace (net:[%lu])", (unsigned long)a.st_ino);
}

bool sock_ns_id(const struct snapshot *s, uint32_t *id)
{
	const struct snap_ns *own = ns_own(s, NS_NET);

	if (!own && (!s->inventory || !s->inventory->root_ids || !s->inventory->root_ids->has_net_ns_id))
		return false;
	*id = own ? own->id : s->inventory->root_ids->net_ns_id;
	return true;
}

/* As far as it differs from that of root's new one. */
bool sock_has_owner(const struct fd_view *v)
{
	return v->st.st_uid || v->st.st_gid || (v->st.st_mode & 07777) != 0777;
}
