/* SPDX-License-Identifier: MIT */
/* Reading /proc/PID files whole, with errors that name the task. The only part of proc/ that makes system calls. */
#ifndef CKPT_KERNEL_PROC_READ_H
#define CKPT_KERNEL_PROC_READ_H

#include "lib/base/op.h"
#include "lib/kernel/proc/proc.h"

/*
 * A positive return of the functions below: the task is gone, or the thread or descriptor that is a part of the name.
 * Not recorded as a failure. A file right below /proc/PID that the kernel does not have is a failure.
 */
#define PROC_GONE 1

/* Reads /proc/@pid/@file whole into the arena (NUL added, not counted). Returns 0, PROC_GONE or a recorded failure. */
int proc_read_file(struct op *op, pid_t pid, const char *file, char **text, size_t *len);

int proc_read_status(struct op *op, pid_t pid, struct proc_status *out);
int proc_read_task_status(struct op *op, pid_t pid, pid_t tid, struct proc_status *out);
int proc_read_stat(struct op *op, pid_t pid, struct proc_stat *out);
int proc_read_limits(struct op *op, pid_t pid, struct proc_limit out[16]);
int proc_read_maps(struct op *op, pid_t pid, struct proc_maps *out);  /* cheap, no VmFlags */
int proc_read_smaps(struct op *op, pid_t pid, struct proc_maps *out); /* walks the page tables */
int proc_read_timers(struct op *op, pid_t pid, struct proc_timers *out);
int proc_read_fdinfo(struct op *op, pid_t pid, int fd, struct proc_fdinfo *out);
int proc_read_cgroup(struct op *op, pid_t pid, struct proc_cgroups *out);
int proc_read_mountinfo(struct op *op, pid_t pid, struct proc_mounts *out);
/* Of the network namespace of the calling thread. Where the kernel has no such file: nothing. @name: "igmp", "igmp6" */
int proc_read_groups(struct op *op, const char *name, struct proc_groups *out);
/* @name: "raw", "icmp6"... */
int proc_read_sockets(struct op *op, const char *name, struct proc_sockets *out);

/* Numbers found as names in /proc/@pid/@dir ("task", "fd"), ascending. */
struct proc_numbers {
	ARRAY(int) v;
};
int proc_list_numbers(struct op *op, pid_t pid, const char *dir, struct proc_numbers *out);
/* Children of @pid: /proc/PID/task/TID/children of all its threads. */
int proc_list_children(struct op *op, pid_t pid, struct proc_numbers *out);
/* readlink("/proc/@pid/@file") into the arena. PROC_GONE also for a link a task does not have (exe of a kernel thread). */
int proc_read_link(struct op *op, pid_t pid, const char *file, char **target);

#endif
