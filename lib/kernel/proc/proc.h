/* SPDX-License-Identifier: MIT */
/*
 * Pure parsers of /proc text: bytes in, struct out, no system calls, no allocation but from the arena given. They are
 * given what the kernel wrote, but believe nothing: every parser returns 0, or -1 when the text is not of the form it
 * knows (the caller names the file in its error), and has a fuzz target.
 *
 * Texts need not be NUL-terminated: always (text, len).
 */
#ifndef CKPT_KERNEL_PROC_H
#define CKPT_KERNEL_PROC_H

#include <signal.h>
#include <sys/types.h>

#include "lib/base/arena.h"

#define PROC_MAX_GROUPS 65536
#define PROC_PID_LEVELS 33 /* PID namespaces nest 32 deep */

/* Numbers of one process, from the PID namespace of the /proc down to its own; 0 where it has none. */
struct proc_levels {
	pid_t v[PROC_PID_LEVELS];
	size_t n; /* at least 1 where the line is there */
};
/* As the process itself knows it. */
static inline pid_t proc_own_number(const struct proc_levels *l)
{
	return l->n ? l->v[l->n - 1] : 0;
}

/* /proc/PID/status (or task/TID/status) */
struct proc_status {
	char name[64];
	char state; /* R S D T t Z X I ... */
	pid_t tgid, pid, ppid, tracer;
	struct proc_levels nspid, nstgid, nspgid, nssid; /* of the thread, its process, process group and session */
	uint32_t umask;
	uint32_t uid[4], gid[4]; /* real, effective, saved, fs */
	uint32_t *groups;
	size_t n_groups;
	unsigned threads;
	uint64_t vm_locked_kb, vm_rss_kb, rss_anon_kb, vm_swap_kb;
	uint64_t sig_pending, shd_pending, sig_blocked, sig_ignored, sig_caught;
	uint64_t cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	bool no_new_privs;
	int seccomp;	     /* 0, 1, 2 */
	int seccomp_filters; /* -1 if the line is not there */
	int thp_enabled;     /* 0, 1; -1 if the line is not there */
	bool kernel_thread;  /* Kthread: 1 where shown; also inferred by the caller from missing VmSize */
	bool has_mm;	     /* a VmSize line exists */
	char x86_thread_features[64];
};
int proc_parse_status(struct arena *a, const char *text, size_t len, struct proc_status *out);

/* /proc/PID/stat. comm may hold blanks and parentheses. */
struct proc_stat {
	pid_t pid, ppid, pgrp, session, tpgid;
	char comm[64];
	char state;
	int tty_nr;
	uint32_t flags;
	uint64_t starttime; /* clock ticks since boot */
	int nice;
	long num_threads;
	uint64_t start_code, end_code, start_stack;
	uint64_t start_data, end_data, start_brk;
	uint64_t arg_start, arg_end, env_start, env_end;
	int exit_signal;
	uint32_t exit_code;
	uint64_t vsize, rss;
};
int proc_parse_stat(const char *text, size_t len, struct proc_stat *out);

/* /proc/PID/limits: 16 limits by RLIMIT_ number, RLIM_INFINITY for unlimited. */
struct proc_limit {
	uint64_t cur, max;
};
int proc_parse_limits(const char *text, size_t len, struct proc_limit out[16]);

/* /proc/PID/maps and smaps. Bits of VmFlags that we know. */
enum {
	VMF_RD = 1u << 0, VMF_WR = 1u << 1, VMF_EX = 1u << 2, VMF_SH = 1u << 3,
	VMF_GD = 1u << 4,  /* grows down */
	VMF_PF = 1u << 5,  /* pure PFN range */
	VMF_LO = 1u << 6,  /* locked */
	VMF_IO = 1u << 7,
	VMF_SR = 1u << 8, VMF_RR = 1u << 9,  /* sequential, random read advice */
	VMF_DC = 1u << 10, /* do not copy on fork */
	VMF_DE = 1u << 11, /* do not expand */
	VMF_NR = 1u << 12, /* no reserve */
	VMF_HT = 1u << 13, /* hugetlb */
	VMF_DD = 1u << 14, /* do not dump */
	VMF_MM = 1u << 15, /* mixed map */
	VMF_HG = 1u << 16, VMF_NH = 1u << 17, /* huge page advice, no huge page advice */
	VMF_MG = 1u << 18, /* mergeable */
	VMF_UM = 1u << 19, VMF_UW = 1u << 20, VMF_UI = 1u << 21, /* userfaultfd missing, write protect, minor */
	VMF_WF = 1u << 22, /* wipe on fork */
	VMF_SS = 1u << 23, /* shadow stack */
	VMF_SL = 1u << 24, /* sealed */
	VMF_DP = 1u << 25, /* droppable (dp) */
	VMF_LF = 1u << 26, /* lock on fault */
	VMF_MT = 1u << 27,
	VMF_AC = 1u << 28,
};
struct proc_vma {
	uint64_t start, end, pgoff; /* pgoff in bytes */
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	/* VMF_*; from plain maps RD WR EX SH only. SH is set for every MAP_SHARED area, also where the kernel's own VmFlags lack
	 * "sh" because the file is open for reading only. */
	uint32_t vmflags;
	bool has_vmflags;
	uint16_t protection_key;
	uint64_t rss_kb, anon_kb, locked_kb, kernel_page_kb;
	char perms[5]; /* "rwxp" */
	const char *name; /* "" if anonymous; the kernel's only escape here, \012, undone; " (deleted)" kept */
};
struct proc_maps {
	ARRAY(struct proc_vma) vmas;
};
/* Both take maps as well as smaps text. */
int proc_parse_maps(struct arena *a, const char *text, size_t len, struct proc_maps *out);

/* /proc/PID/timers */
struct proc_timer {
	uint32_t id, signo, clock_id;
	uint64_t sigval;
	int notify;   /* SIGEV_SIGNAL 0, NONE 1, THREAD 2, | THREAD_ID 4 as in the image */
	bool notify_tid;
	pid_t notify_pid;
};
struct proc_timers {
	ARRAY(struct proc_timer) v;
};
int proc_parse_timers(struct arena *a, const char *text, size_t len, struct proc_timers *out);

/* The common part of /proc/PID/fdinfo/N, and the locks in it. */
struct proc_lock {
	enum { PROC_LOCK_FLOCK, PROC_LOCK_POSIX, PROC_LOCK_OFD, PROC_LOCK_LEASE, PROC_LOCK_DELEG } kind;
	bool mandatory, write, blocked; /* write: WRITE, else READ */
	char lease_type[16];
	pid_t pid;
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	uint64_t start, end; /* end = UINT64_MAX for EOF */
};
struct proc_fdinfo {
	uint64_t pos;
	uint32_t flags; /* octal in the file */
	int mnt_id;
	uint64_t ino;
	ARRAY(struct proc_lock) locks;
	const char *rest; /* lines that are neither of these, for the kind's own parser; arena */
	size_t rest_len;
};
int proc_parse_fdinfo(struct arena *a, const char *text, size_t len, struct proc_fdinfo *out);

/* What an io_uring adds to it: uring.c. */
struct proc_uring_file {
	uint32_t slot;
	const char *path;
};
struct proc_uring_buf {
	uint32_t slot;
	uint64_t addr, len;
};
struct proc_uring {
	uint32_t sq_mask, sq_head, sq_tail, cached_sq_head; /* cached: the kernel's own counters */
	uint32_t cq_mask, cq_head, cq_tail, cached_cq_tail;
	int sq_thread;		   /* -1: none */
	uint32_t n_files, n_bufs;  /* slots in the tables */
	ARRAY(struct proc_uring_file) files; /* those that are not empty */
	ARRAY(struct proc_uring_buf) bufs;
	uint32_t polls, overflows, sqe_lines; /* lines in these lists */
	bool big_sqes, big_cqes;   /* entries are of 128, of 32 bytes: shows only where one is listed */
	bool personalities, napi;
};
int proc_parse_uring(struct arena *a, const char *text, size_t len, struct proc_uring *out);

/* What kinds of descriptors add to it (proc_fdinfo.rest): fdinfo_events.c. Devices are the kernel's: major << 20 | minor. */
struct proc_epoll_entry {
	uint32_t tfd, events;
	uint64_t data;
	bool has_inode;
	uint32_t dev;
	uint64_t ino, pos;
};
struct proc_epoll {
	ARRAY(struct proc_epoll_entry) v;
};
int proc_parse_epoll(struct arena *a, const char *text, size_t len, struct proc_epoll *out);
int proc_parse_signalfd(const char *text, size_t len, uint64_t *mask);
struct proc_timerfd {
	uint32_t clock, flags; /* flags of timerfd_settime */
	uint64_t ticks, value_s, value_ns, interval_s, interval_ns;
};
int proc_parse_timerfd(const char *text, size_t len, struct proc_timerfd *out);
struct proc_handle {
	uint32_t bytes, type; /* bytes 0: there is none */
	uint8_t data[128];
};
struct proc_watch {
	uint32_t wd, dev, mask;
	uint64_t ino;
	struct proc_handle handle;
};
struct proc_inotify {
	ARRAY(struct proc_watch) v; /* newest first */
};
int proc_parse_inotify(struct arena *a, const char *text, size_t len, struct proc_inotify *out);
struct proc_mark {
	enum { PROC_MARK_INODE, PROC_MARK_MOUNT, PROC_MARK_FILESYSTEM, PROC_MARK_OTHER } type;
	uint32_t flags, mask, ignored, dev, mnt_id;
	uint64_t ino;
	struct proc_handle handle;
};
struct proc_fanotify {
	uint32_t flags, event_flags; /* of fanotify_init */
	ARRAY(struct proc_mark) v;
};
int proc_parse_fanotify(struct arena *a, const char *text, size_t len, struct proc_fanotify *out);
struct proc_pidfd {
	pid_t pid;   /* as the reader sees it; -1: it has ended and was waited for; 0: it cannot be seen */
	pid_t nspid; /* in its own namespace */
};
int proc_parse_pidfd(const char *text, size_t len, struct proc_pidfd *out);

/* /proc/PID/syscall: "running", or number, six arguments, sp, pc; nr is -1 when blocked outside a call. */
struct proc_syscall {
	bool running;
	long nr;
	uint64_t args[6], sp, pc;
};
int proc_parse_syscall(const char *text, size_t len, struct proc_syscall *out);

/* se.exec_start of /proc/PID/sched in nanoseconds, 0 if it is not shown. */
uint64_t proc_parse_sched_exec_start(const char *text, size_t len);

/* /proc/PID/cgroup */
struct proc_cgroup {
	unsigned hierarchy;
	const char *controllers, *path;
};
struct proc_cgroups {
	ARRAY(struct proc_cgroup) v;
};
int proc_parse_cgroup(struct arena *a, const char *text, size_t len, struct proc_cgroups *out);

/* /proc/PID/uid_map, gid_map */
struct proc_id_range {
	uint32_t inside, outside, count; /* no range is empty, or goes beyond 2^32 */
};
struct proc_id_map {
	ARRAY(struct proc_id_range) v;
};
int proc_parse_id_map(struct arena *a, const char *text, size_t len, struct proc_id_map *out);

/* /proc/PID/timens_offsets, in nanoseconds */
struct proc_time_offsets {
	int64_t monotonic, boottime;
};
int proc_parse_time_offsets(const char *text, size_t len, struct proc_time_offsets *out);

/* /proc/PID/mountinfo */
struct proc_mount {
	int mnt_id, parent_id;
	uint32_t dev_major, dev_minor;
	const char *root, *mountpoint, *options, *fstype, *source, *sb_options;
	int shared_id, master_id;
	bool unbindable;
};
struct proc_mounts {
	ARRAY(struct proc_mount) v;
};
int proc_parse_mountinfo(struct arena *a, const char *text, size_t len, struct proc_mounts *out);

/* /proc/PID/net/igmp, igmp6: the multicast groups of a network namespace, by device */
struct proc_group {
	int family;
	uint32_t ifindex;
	const char *device;
	uint8_t addr[16]; /* 4 of IPv4 */
};
struct proc_groups {
	ARRAY(struct proc_group) v;
};
int proc_parse_igmp(struct arena *a, const char *text, size_t len, struct proc_groups *out);
int proc_parse_igmp6(struct arena *a, const char *text, size_t len, struct proc_groups *out);

/* /proc/PID/net/raw, raw6, icmp, icmp6, udp, udp6 */
struct proc_socket {
	int family;
	uint8_t local[16], peer[16];
	uint16_t local_port, peer_port; /* of a raw one: its protocol */
	uint8_t state;			/* as TCP's */
	uint32_t queued;		/* memory that what waits to be received takes */
	uint64_t ino;
};
struct proc_sockets {
	ARRAY(struct proc_socket) v;
};
int proc_parse_sockets(struct arena *a, const char *text, size_t len, struct proc_sockets *out);

#endif
