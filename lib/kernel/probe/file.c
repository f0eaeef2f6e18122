// SPDX-License-Identifier: MIT
/* Probes: files, mounts, namespaces, security modules. */
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "lib/kernel/probe/probe.h"
#include "lib/kernel/sys.h"

bool probe_io_uring(struct features *f)
{
	struct io_uring_params params = { 0 };
	_cleanup_close_ int fd = (int)syscall(__NR_io_uring_setup, 1, &params);

	(void)f;
	return fd >= 0;
}

bool probe_openat2(struct features *f)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV };
	_cleanup_close_ int fd = sys_openat2(AT_FDCWD, "/", &how, sizeof(how));

	(void)f;
	return fd >= 0 || errno == EXDEV;
}

bool probe_mnt_id(struct features *f)
{
	_cleanup_close_ int fd = open("/", O_PATH | O_CLOEXEC);

	(void)f;
	return probe_fdinfo_holds(fd, "\nmnt_id:");
}

bool probe_fdinfo_lock(struct features *f)
{
	_cleanup_close_ int fd = sys_memfd_create("ckpt-probe", MFD_CLOEXEC);

	(void)f;
	return fd >= 0 && flock(fd, LOCK_EX) == 0 && probe_fdinfo_holds(fd, "\nlock:");
}

bool probe_timerfd(struct features *f)
{
	_cleanup_close_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);

	(void)f;
	return probe_fdinfo_holds(fd, "\nclockid:");
}

/* Names no mounts: a kernel that knows the flag gets as far as the bad descriptors. */
bool probe_move_mount_set_group(struct features *f)
{
	(void)f;
	/* 0x4 and 0x40: both paths are empty, meant are the descriptors. */
	return sys_move_mount(-1, "", -1, "", MOVE_MOUNT_SET_GROUP | 0x4 | 0x40) < 0 && errno == EBADF;
}

bool probe_autofs(struct features *f)
{
	(void)f;
	return probe_file_holds("/proc/filesystems", "\tautofs\n");
}

bool probe_userns(struct features *f)
{
	(void)f;
	return access("/proc/self/ns/user", F_OK) == 0;
}

bool probe_cgroupns(struct features *f)
{
	(void)f;
	return access("/proc/self/ns/cgroup", F_OK) == 0;
}

bool probe_timens(struct features *f)
{
	(void)f;
	return access("/proc/self/ns/time_for_children", F_OK) == 0 && access("/proc/self/timens_offsets", R_OK) == 0;
}

bool probe_apparmor_stacking(struct features *f)
{
	(void)f;
	return probe_file_holds("/sys/kernel/security/apparmor/features/domain/stack", "yes");
}
