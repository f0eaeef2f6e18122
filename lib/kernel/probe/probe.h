/* SPDX-License-Identifier: MIT */
/*
 * The probes behind the table of features. Each tries one thing and says whether it works; what it makes (a descriptor,
 * a page, a child) is gone when it returns. A probe that finds out about several features at once notes the others with
 * features_set().
 */
#ifndef CKPT_KERNEL_PROBE_H
#define CKPT_KERNEL_PROBE_H

#include "lib/kernel/features.h"

typedef bool probe_fn(struct features *f);

void features_set(struct features *f, enum feature_id id, bool available);

/* Helpers shared by the files here. */
bool probe_capability(unsigned cap);
/* Whether the file @path holds @text (in its first 64 KiB). */
bool probe_file_holds(const char *path, const char *text);
bool probe_fdinfo_holds(int fd, const char *text);

probe_fn probe_cap_sys_admin, probe_cap_sys_ptrace, probe_cap_checkpoint_restore, probe_cap_sys_resource, probe_nofile;
probe_fn probe_clone3_set_tid, probe_ns_last_pid, probe_tracee, probe_pidfd_open, probe_pidfd_getfd, probe_pidfd_store;
probe_fn probe_kcmp, probe_kcmp_epoll, probe_mm_map, probe_tid_address, probe_timer_cr_ids;
probe_fn probe_membarrier_registrations, probe_sched_exec_start, probe_wchan, probe_ns_pid, probe_loginuid;
probe_fn probe_can_map_vdso, probe_compat_cr;
probe_fn probe_pagemap_scan, probe_pagemap_scan_guard_pages, probe_pagemap_pfn, probe_map_files, probe_mem_dirty_track;
probe_fn probe_uffd, probe_uffd_noncoop, probe_uffd_poison, probe_uffd_move, probe_memfd, probe_memfd_hugetlb, probe_aio_remap;
probe_fn probe_io_uring, probe_openat2, probe_mnt_id, probe_fdinfo_lock, probe_timerfd, probe_move_mount_set_group;
probe_fn probe_autofs, probe_userns, probe_cgroupns, probe_timens, probe_always;
probe_fn probe_tun, probe_sk_ns, probe_sk_unix_file, probe_sockopt_buf_lock, probe_ipv6_freebind, probe_net_diag_raw;
probe_fn probe_nsid, probe_nftables, probe_network_lock_nftables, probe_apparmor_stacking;

#endif
