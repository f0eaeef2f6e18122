/* SPDX-License-Identifier: MIT */
/* Which view the names of a file belong to. */
#include <fcntl.h>

#include "lib/state/mount/mount.h"

static const struct fs_view ours = FS_VIEW_OURS;

const struct fs_view *mounts_view(const struct snapshot *s, int32_t mnt_id)
{
	(void)s;
	(void)mnt_id;
	return &ours;
}

bool mounts_own(const struct snapshot *s)
{
	(void)s;
	return false;
}

bool mounts_know(const struct snapshot *s, int32_t mnt_id)
{
	(void)s;
	(void)mnt_id;
	return true;
}
