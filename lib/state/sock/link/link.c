/* SPDX-License-Identifier: MIT */
/* What netlink and packet sockets have in common beyond their options. */
#include <poll.h>

#include "lib/kernel/sys.h"
#include "lib/state/sock/link/link.h"

struct link_state *link_state(struct op *op, struct snapshot *s)
{
	struct file_state *fs = files_state(op, s);

	if (fs && !fs->link_sockets)
		fs->link_sockets = op_new(op, struct link_state);
	return fs ? fs->link_sockets : NULL;
}

int link_copy(const struct fd_view *v)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(v->pid, 0);

	return pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
}

/* Not by receiving with MSG_PEEK, which has the kernel go on with a dump that it was asked for. */
short link_events(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 1 ? p.revents : 0;
}

int link_own(int fd, bool has_mode, uint32_t mode, uint32_t uid, uint32_t gid)
{
	if (!has_mode)
		return 0;
	return fchown(fd, uid, gid) < 0 ? -1 : fchmod(fd, mode & 07777);
}
