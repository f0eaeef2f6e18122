/* SPDX-License-Identifier: MIT */
/* Kinds of file systems. */
#include "lib/state/mount/core.h"

static const struct mnt_fs kinds[] = {
	{ "", FSTYPE__UNSUPPORTED, MNT_FS_DEVICE }, /* the first: what is not below */
	{ "proc", FSTYPE__PROC, MNT_FS_KERNELS },
	{ "sysfs", FSTYPE__SYSFS, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "devtmpfs", FSTYPE__DEVTMPFS, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "binfmt_misc", FSTYPE__BINFMT_MISC, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "tmpfs", FSTYPE__TMPFS, MNT_FS_CONTENT },
	{ "devpts", FSTYPE__DEVPTS, MNT_FS_KERNELS },
	{ "simfs", FSTYPE__SIMFS, MNT_FS_DEVICE },
	{ "pstore", FSTYPE__PSTORE, MNT_FS_KERNELS | MNT_FS_SINGLE | MNT_FS_EMPTY },
	{ "securityfs", FSTYPE__SECURITYFS, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "fusectl", FSTYPE__FUSECTL, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "debugfs", FSTYPE__DEBUGFS, MNT_FS_KERNELS | MNT_FS_SINGLE },
	{ "cgroup", FSTYPE__CGROUP, MNT_FS_KERNELS },
	{ "aufs", FSTYPE__AUFS, MNT_FS_LATE },
	{ "mqueue", FSTYPE__MQUEUE, MNT_FS_KERNELS },
	{ "fuse", FSTYPE__FUSE, MNT_FS_REFUSED },
	{ "overlay", FSTYPE__OVERLAYFS, MNT_FS_LATE },
	{ "autofs", FSTYPE__AUTOFS, MNT_FS_REFUSED },
	{ "tracefs", FSTYPE__TRACEFS, MNT_FS_KERNELS | MNT_FS_SINGLE | MNT_FS_LEFT_OUT },
	{ "cgroup2", FSTYPE__CGROUP2, MNT_FS_KERNELS },
	{ NULL, FSTYPE__AUTO, 0 }, /* by its name, as somebody wished */
};

const struct mnt_fs *mnt_fs_named(const char *name)
{
	if (strncmp(name, "fuse.", 5) == 0 || strcmp(name, "fuseblk") == 0)
		name = "fuse";
	for (size_t i = 1; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].name && strcmp(kinds[i].name, name) == 0)
			return &kinds[i];
	return &kinds[0];
}

const struct mnt_fs *mnt_fs_of(uint32_t type)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (kinds[i].type == type)
			return &kinds[i];
	return NULL;
}
