/* SPDX-License-Identifier: MIT */
/*
 * System calls that the C library has no wrapper for (or, where a newer one has, not on all our machines). As everywhere
 * in libc: -1 and errno on failure.
 */
#ifndef CKPT_KERNEL_SYS_H
#define CKPT_KERNEL_SYS_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/kernel/uapi.h"

/*
 * Like fork(2), with everything that struct clone_args has; returns in the child with 0. Only for children that get their
 * own copy of the memory (no CLONE_VM): there is no stack switching here. In a child of a program with threads only
 * async-signal-safe functions work, and getpid() of libc is right, but its idea of the thread's number is stale.
 */
pid_t sys_clone3(struct clone_args *args, size_t size);
pid_t sys_gettid(void);
/* A fork whose child sends no signal to us when it ends; wait for it with __WALL (or through its pidfd). */
pid_t sys_fork_quiet(int *pidfd);

int sys_pidfd_open(pid_t pid, unsigned flags);
int sys_pidfd_getfd(int pidfd, int fd);
int sys_pidfd_send_signal(int pidfd, int sig, siginfo_t *info, unsigned flags);

/* 0 equal, 1 less, 2 greater, 3 different; @type KCMP_*. */
int sys_kcmp(pid_t a, pid_t b, int type, uint64_t idx_a, uint64_t idx_b);

int sys_sched_getattr(pid_t pid, struct sched_attr *attr, unsigned size, unsigned flags);
int sys_sched_setattr(pid_t pid, const struct sched_attr *attr, unsigned flags);
int sys_ioprio_get(int which, int who);
int sys_ioprio_set(int which, int who, int ioprio);

/* Head and length of the robust futex list of thread @tid (0: ourselves). */
int sys_get_robust_list(pid_t tid, uint64_t *head, size_t *len);

/* Queue a signal with siginfo exactly as given (si_code of the kernel's own: only to ourselves). */
int sys_rt_sigqueueinfo(pid_t tgid, int sig, siginfo_t *info);
int sys_rt_tgsigqueueinfo(pid_t tgid, pid_t tid, int sig, siginfo_t *info);
int sys_tgkill(pid_t tgid, pid_t tid, int sig);

int sys_openat2(int dirfd, const char *path, const struct open_how *how, size_t size);
int sys_close_range(unsigned first, unsigned last, unsigned flags);
int sys_execveat(int dirfd, const char *path, char *const argv[], char *const envp[], int flags);
int sys_memfd_create(const char *name, unsigned flags);
int sys_userfaultfd(int flags);
int sys_membarrier(int cmd, unsigned flags, int cpu);
int sys_seccomp(unsigned op, unsigned flags, void *args);
int sys_arch_prctl(int code, unsigned long addr);

int sys_open_tree(int dirfd, const char *path, unsigned flags);
int sys_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned flags);
struct mount_attr; /* sys/mount.h */
int sys_mount_setattr(int dirfd, const char *path, unsigned flags, struct mount_attr *attr, size_t size);

#endif
