/* SPDX-License-Identifier: MIT */
/*
 * What kernels before 5.15 cannot do in the new way, done by mount(2): flags and propagation of mounts that are in their places.
 * Only whoever is mounted as a clone of a peer can become one there, and then what is mounted upon one arrives at all; so
 * sharing groups of more than one mount, and slaves, are refused.
 */
#include <sys/mount.h>

#include "lib/state/mount/core.h"

#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif
#define MOUNT_FLAGS                                                                                                          \
	(MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME | MS_NOSYMFOLLOW)

/* A mount has no other name that is sure to lead to it: something may be above it. */
static int change(int fd, unsigned long flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", fd);
	return mount(NULL, path, NULL, flags, NULL);
}

static int fail(struct op *op, const struct mnt *m, const char *what)
{
	return op_errno(op, errno, AT(.kind = "mount"), "%s: %s", mnt_name(op, m), what);
}

int mnt_old_private(int fd)
{
	return change(fd, MS_PRIVATE) < 0 || change(fd, MS_REMOUNT | MS_BIND) < 0 ? -1 : 0;
}

int mnt_old_furnish(struct op *op, const struct mnt *m)
{
	if (change(m->fd, MS_REMOUNT | MS_BIND | (m->e->flags & MOUNT_FLAGS)) < 0)
		return fail(op, m, "set its flags");
	if (change(m->fd, m->e->flags & MS_UNBINDABLE ? MS_UNBINDABLE : MS_PRIVATE) < 0)
		return fail(op, m, "set its propagation");
	return 0;
}

int mnt_old_groups(struct op *op, const struct mnt_make *k)
{
	for (size_t i = 0; k->old_way && i < k->st->groups.n; i++) {
		const struct mnt_group *g = k->st->groups.v[i];

		if (g->v.n > 1 || g->master)
			return op_fail(op, CKPT_E_UNSUPPORTED, MNT_AT("restore without --mntns-compat-mode, with Linux 5.15 or newer"),
				       "%s: sharing groups of mounts cannot be made in the old way", mnt_name(op, g->of));
		if (g->of->ns == k->ns && change(g->of->fd, MS_SHARED) < 0)
			return fail(op, g->of, "become shared");
	}
	return 0;
}
