/* SPDX-License-Identifier: MIT */
/* Kinds of descriptors that are not saved yet: recognised, named, refused. Nothing is ever dropped silently. */
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"

struct named {
	const char *prefix, *kind, *hint;
};

/* By the text of the link. Longer ones first where one is the beginning of another. */
static const struct named by_link[] = {
	{ "anon_inode:[userfaultfd]", "userfaultfd", NULL },
	{ "anon_inode:[perf_event]", "perf event", NULL },
	{ "anon_inode:bpf-prog", "bpf program", NULL },
	{ "anon_inode:bpf", "bpf object", NULL },
	{ "anon_inode:btf", "bpf object", NULL },
	{ "anon_inode:seccomp notify", "seccomp listener", NULL },
	{ "anon_inode:[landlock-ruleset]", "landlock ruleset", NULL },
	{ "anon_inode:kvm", "virtual machine", NULL },
	{ "anon_inode:dmabuf", "dma buffer", NULL },
	{ "/dmabuf:", "dma buffer", NULL },
	{ "anon_inode:", "anonymous inode", NULL },
	{ "/secretmem", "secret memory", NULL },
	{ "/SYSV", "SysV shared memory", NULL },
	{ "/anon_hugepage", "shared huge pages", NULL },
	{ "/[aio]", "AIO ring", NULL },
	{ "socket:[", "socket", NULL },
};

static const struct named *by_text(const struct fd_view *v)
{
	for (size_t i = 0; i < ARRAY_SIZE(by_link); i++) {
		const struct named *n = &by_link[i];

		if (strncmp(v->link, n->prefix, strlen(n->prefix)) != 0)
			continue;
		/* What looks like a path is one, unless it lies where no path leads. */
		if (n->prefix[0] != '/' || v->st.st_dev == v->shm_dev || v->fs_magic == FS_HUGETLBFS ||
		    v->fs_magic == FS_SECRETMEM || access(v->link, F_OK) < 0)
			return n;
	}
	return NULL;
}

static const char *kind_of(const struct fd_view *v)
{
	const struct named *n;

	if (v->fs_magic == FS_MQUEUE)
		return "message queue";
	if (S_ISSOCK(v->st.st_mode) && !(v->info.flags & O_PATH))
		return "socket";
	n = by_text(v);
	if (n)
		return n->kind;
	/* Everything that the other kinds know has a path, or is a pipe or shared memory. */
	return v->link[0] == '/' || v->link[0] == '(' ? NULL : "unknown object";
}

static bool unsupported_match(const struct fd_view *v)
{
	return kind_of(v) != NULL;
}

static const char *socket_kind(int fd)
{
	int family = -1;
	socklen_t n = sizeof(family);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &n) < 0)
		return "socket";
	switch (family) {
	case AF_UNIX:
		return "unix socket";
	case AF_INET:
		return "IPv4 socket";
	case AF_INET6:
		return "IPv6 socket";
	case AF_NETLINK:
		return "netlink socket";
	case AF_PACKET:
		return "packet socket";
	case AF_VSOCK:
		return "vsock socket";
	case AF_ALG:
		return "crypto socket";
	default:
		return "socket";
	}
}

/* The family shows only on the socket itself; a copy of it, for a moment, changes nothing. */
static const char *socket_kind_of(const struct fd_view *v)
{
	_cleanup_close_ int pidfd = -1, copy = -1;

	if (v->copy >= 0 || v->fd < 0)
		return socket_kind(v->copy);
	pidfd = sys_pidfd_open(v->pid, 0);
	copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
	return socket_kind(copy);
}

static int unsupported_check(struct op *op, const struct fd_view *v)
{
	const struct named *n = by_text(v);
	const char *kind = kind_of(v), *hint = n ? n->hint : NULL;

	if (S_ISSOCK(v->st.st_mode))
		kind = socket_kind_of(v);
	return file_refuse(op, v, kind, hint ? hint : "the program must close it before the checkpoint",
			   "not supported yet (%s)", v->link);
}

static int unsupported_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	(void)s;
	(void)f;
	return unsupported_check(op, v);
}

const struct file_kind file_unsupported = {
	.name = "unsupported",
	.type = FD_TYPES__UND,
	.match = unsupported_match,
	.check = unsupported_check,
	.dump = unsupported_dump,
};
