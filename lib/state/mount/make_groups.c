/* SPDX-License-Identifier: MIT */
/*
 * Sharing groups, when all trees stand: nothing is mounted any more that would be told to peers. Each group begins with a
 * member that belongs to no tree and shows all of the file system, since a mount can only join one that shows at least what
 * it shows itself. Done from our own namespace, which is allowed to change all the others.
 */
#include <fcntl.h>
#include <sys/mount.h>

#include "lib/kernel/sys.h"
#include "lib/state/mount/core.h"

static int join(int from, int to)
{
	return sys_move_mount(from, "", to, "", MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int become(int fd, uint64_t propagation)
{
	struct mount_attr attr = { .propagation = propagation };

	return sys_mount_setattr(fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
}

static int fail(struct op *op, const struct mnt *m, const char *what)
{
	return op_errno(op, errno, AT(.kind = "mount"), "%s: %s", mnt_name(op, m), what);
}

/* The first member. *@alone: there is nobody it could be with, and no group. */
static int begin(struct op *op, const struct mnt_group *g, bool *alone)
{
	int from = g->from ? g->from->fd : g->outside ? g->of->base->outside : -1;
	bool joined = false;

	*alone = false;
	if (from >= 0) {
		joined = join(from, g->fd) == 0;
		if (!joined && !g->outside)
			return fail(op, g->of, "become a slave of its master");
		if (!joined)
			log_warn(op, "%s: what it shows is not shared with anybody here: it becomes private outside of the tree",
				 mnt_name(op, g->of));
	}
	if (joined && g->master && become(g->fd, MS_SLAVE) < 0)
		return fail(op, g->of, "become a slave");
	if (g->shared && (g->master || !joined) && become(g->fd, MS_SHARED) < 0)
		return fail(op, g->of, "become shared");
	*alone = !joined && !g->shared;
	return 0;
}

int mnt_make_group(struct op *op, const struct mnt_group *g)
{
	bool alone;
	int r = begin(op, g, &alone);

	for (size_t i = 0; i < g->v.n && !r && !alone; i++)
		if (join(g->fd, g->v.v[i]->fd) < 0)
			r = fail(op, g->v.v[i], "join its sharing group");
	return r;
}
