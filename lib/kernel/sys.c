// SPDX-License-Identifier: MIT
/* System calls that the C library has no wrapper for. */
#include "lib/kernel/sys.h"

#include <sys/syscall.h>
#include <unistd.h>

pid_t sys_clone3(struct clone_args *args, size_t size)
{
	return (pid_t)syscall(__NR_clone3, args, size);
}

pid_t sys_gettid(void)
{
	return (pid_t)syscall(__NR_gettid);
}

pid_t sys_fork_quiet(int *pidfd)
{
	struct clone_args args = { .flags = pidfd ? CLONE_PIDFD : 0, .pidfd = (uintptr_t)pidfd };

	return sys_clone3(&args, sizeof(args));
}

int sys_pidfd_open(pid_t pid, unsigned flags)
{
	return (int)syscall(__NR_pidfd_open, pid, flags);
}

int sys_pidfd_getfd(int pidfd, int fd)
{
	return (int)syscall(__NR_pidfd_getfd, pidfd, fd, 0);
}

int sys_pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags)
{
	return (int)syscall(__NR_pidfd_send_signal, pidfd, sig, info, flags);
}

int sys_kcmp(pid_t a, pid_t b, int type, uint64_t idx_a, uint64_t idx_b)
{
	return (int)syscall(__NR_kcmp, a, b, type, idx_a, idx_b);
}

int sys_sched_getattr(pid_t pid, struct sched_attr *attr, unsigned size, unsigned flags)
{
	return (int)syscall(__NR_sched_getattr, pid, attr, size, flags);
}

int sys_sched_setattr(pid_t pid, const struct sched_attr *attr, unsigned flags)
{
	return (int)syscall(__NR_sched_setattr, pid, attr, flags);
}

int sys_ioprio_get(int which, int who)
{
	return (int)syscall(__NR_ioprio_get, which, who);
}

int sys_ioprio_set(int which, int who, int ioprio)
{
	return (int)syscall(__NR_ioprio_set, which, who, ioprio);
}

int sys_get_robust_list(pid_t tid, uint64_t *head, size_t *len)
{
	return (int)syscall(__NR_get_robust_list, tid, head, len);
}

int sys_rt_sigqueueinfo(pid_t tgid, int sig, siginfo_t *info)
{
	return (int)syscall(__NR_rt_sigqueueinfo, tgid, sig, info);
}

int sys_rt_tgsigqueueinfo(pid_t tgid, pid_t tid, int sig, siginfo_t *info)
{
	return (int)syscall(__NR_rt_tgsigqueueinfo, tgid, tid, sig, info);
}

int sys_tgkill(pid_t tgid, pid_t tid, int sig)
{
	return (int)syscall(__NR_tgkill, tgid, tid, sig);
}

int sys_openat2(int dirfd, const char *path, const struct open_how *how, size_t size)
{
	return (int)syscall(__NR_openat2, dirfd, path, how, size);
}

int sys_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)syscall(__NR_close_range, first, last, flags);
}

int sys_execveat(int dirfd, const char *path, char *const argv[], char *const envp[], int flags)
{
	return (int)syscall(__NR_execveat, dirfd, path, argv, envp, flags);
}

int sys_memfd_create(const char *name, unsigned flags)
{
	return (int)syscall(__NR_memfd_create, name, flags);
}

int sys_userfaultfd(int flags)
{
	return (int)syscall(__NR_userfaultfd, flags);
}

int sys_membarrier(int cmd, unsigned flags, int cpu)
{
	return (int)syscall(__NR_membarrier, cmd, flags, cpu);
}

int sys_seccomp(unsigned op, unsigned flags, void *args)
{
	return (int)syscall(__NR_seccomp, op, flags, args);
}

int sys_arch_prctl(int code, unsigned long addr)
{
	return (int)syscall(__NR_arch_prctl, code, addr);
}

int sys_open_tree(int dirfd, const char *path, unsigned flags)
{
	return (int)syscall(__NR_open_tree, dirfd, path, flags);
}

int sys_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags)
{
	return (int)syscall(__NR_move_mount, from_dirfd, from, to_dirfd, to, flags);
}

int sys_mount_setattr(int dirfd, const char *path, unsigned flags, struct mount_attr *attr, size_t size)
{
	return (int)syscall(__NR_mount_setattr, dirfd, path, flags, attr, size);
}
