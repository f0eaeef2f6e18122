// SPDX-License-Identifier: MIT
/* The table of features, its cache, and the check of our privileges. The probes are in probe/. */
#include "lib/kernel/features.h"

#include <linux/capability.h>

#include "lib/kernel/probe/probe.h"

struct features {
	enum { UNKNOWN, NO, YES } state[FEATURE_N];
};

struct row {
	const char *name, *sentence, *cost;
	bool required;
	probe_fn *probe;
};

/* The names are the field's where it has one. */
static const struct row rows[FEATURE_N] = {
	[FEATURE_CAP_SYS_ADMIN] = { "cap_sys_admin", "capability CAP_SYS_ADMIN", "nothing works", true,
				    probe_cap_sys_admin },
	[FEATURE_CAP_SYS_PTRACE] = { "cap_sys_ptrace", "capability CAP_SYS_PTRACE", "nothing works", true,
				     probe_cap_sys_ptrace },
	[FEATURE_CAP_CHECKPOINT_RESTORE] = { "cap_checkpoint_restore", "capability CAP_CHECKPOINT_RESTORE (or CAP_SYS_ADMIN)",
					     "nothing works", true, probe_cap_checkpoint_restore },
	[FEATURE_CAP_SYS_RESOURCE] = { "cap_sys_resource", "capability CAP_SYS_RESOURCE",
				       "hard limits above our own and a lower oom_score_adj are not restored", false,
				       probe_cap_sys_resource },
	[FEATURE_NOFILE] = { "nofile", "a hard limit of at least 4096 open files", "programs with many files cannot be dumped",
			     false, probe_nofile },

	[FEATURE_CLONE3_SET_TID] = { "clone3_set_tid", "creating a process with a given PID (clone3 with set_tid)",
				     "PIDs are chosen through ns_last_pid, which is slower and can fail", false,
				     probe_clone3_set_tid },
	[FEATURE_NS_LAST_PID] = { "ns_last_pid", "choosing the next PID (/proc/sys/kernel/ns_last_pid)",
				  "PIDs cannot be restored where clone3_set_tid is missing too", false, probe_ns_last_pid },
	[FEATURE_PTRACE_SEIZE] = { "ptrace_seize", "stopping a process without a signal (PTRACE_SEIZE)", "nothing works", true,
				   probe_tracee },
	[FEATURE_SECCOMP_SUSPEND] = { "seccomp_suspend", "suspending the seccomp filters of a process that is dumped",
				      "processes with seccomp filters cannot be dumped", false, probe_tracee },
	[FEATURE_SECCOMP_FILTERS] = { "seccomp_filters", "reading the seccomp filters of a process",
				      "processes with seccomp filters cannot be dumped", false, probe_tracee },
	[FEATURE_GET_RSEQ_CONF] = { "get_rseq_conf", "reading the rseq registration of a thread",
				    "threads with rseq (all of glibc 2.35 and newer) cannot be dumped", true, probe_tracee },
	[FEATURE_PEEKSIGINFO] = { "peeksiginfo", "reading queued signals without taking them",
				  "pending signals would be lost", true, probe_tracee },
	[FEATURE_BREAKPOINTS] = { "breakpoints", "hardware breakpoints in a traced process", "not used by this engine", false,
				  probe_tracee },
	[FEATURE_PIDFD_OPEN] = { "pidfd_open", "a descriptor that stands for a process", "nothing works", true,
				 probe_pidfd_open },
	[FEATURE_PIDFD_GETFD] = { "pidfd_getfd", "copying a descriptor out of a process", "nothing works", true,
				  probe_pidfd_getfd },
	[FEATURE_PIDFD_STORE] = { "pidfd_store", "keeping descriptors of processes during incremental dumps",
				  "a PID that was used again between two dumps is not noticed", false, probe_pidfd_store },
	[FEATURE_KCMP] = { "kcmp", "telling whether two processes share a thing (kcmp)", "nothing works", true, probe_kcmp },
	[FEATURE_KCMP_EPOLL] = { "kcmp_epoll", "telling which file an epoll descriptor watches",
				 "epoll descriptors that watch a moved descriptor are refused", false, probe_kcmp_epoll },
	[FEATURE_MM_MAP] = { "mm_map", "setting the memory layout of a process (PR_SET_MM_MAP)", "nothing can be restored",
			     true, probe_mm_map },
	[FEATURE_TID_ADDRESS] = { "tid_address", "reading the clear_child_tid address of a thread",
				  "pthread_join of restored threads would hang: nothing can be dumped", true,
				  probe_tid_address },
	[FEATURE_TIMER_CR_IDS] = { "timer_cr_ids", "creating a POSIX timer with a given id",
				   "ids are reached by creating and deleting timers", false, probe_timer_cr_ids },
	[FEATURE_MEMBARRIER_REGISTRATIONS] = { "membarrier_get_registrations", "reading membarrier registrations",
					       "a restored process has to register again by itself", false,
					       probe_membarrier_registrations },
	[FEATURE_SCHED_EXEC_START] = { "sched_exec_start", "the time at which a thread went to sleep (/proc/PID/sched)",
				       "an interrupted relative sleep starts again from its beginning", false,
				       probe_sched_exec_start },
	[FEATURE_WCHAN] = { "wchan", "where in the kernel a thread sleeps (/proc/PID/wchan)",
			    "messages about stuck threads say less", false, probe_wchan },
	[FEATURE_NS_PID] = { "ns_pid", "PIDs of a process in its own pid namespace (NSpid in /proc/PID/status)",
			     "processes in pid namespaces cannot be dumped", false, probe_ns_pid },
	[FEATURE_LOGINUID] = { "loginuid", "the audit login uid (/proc/PID/loginuid)", "the login uid is not restored", false,
			       probe_loginuid },
	[FEATURE_CAN_MAP_VDSO] = { "can_map_vdso", "mapping the vDSO at a given address (ARCH_MAP_VDSO_64)",
				   "the vDSO is moved instead", false, probe_can_map_vdso },
	[FEATURE_COMPAT_CR] = { "compat_cr", "dumping and restoring 32-bit processes", "32-bit processes are refused", false,
				probe_compat_cr },

	[FEATURE_PAGEMAP_SCAN] = { "pagemap_scan", "finding the pages of a process by range (PAGEMAP_SCAN)",
				   "page tables are read 8 bytes a page, which is slower", false, probe_pagemap_scan },
	[FEATURE_PAGEMAP_SCAN_GUARD_PAGES] = { "pagemap_scan_guard_pages", "finding guard regions (MADV_GUARD_INSTALL)",
					       "guard regions are lost", false, probe_pagemap_scan_guard_pages },
	[FEATURE_PAGEMAP_PFN] = { "pagemap_pfn", "page frame numbers in /proc/PID/pagemap",
				  "zero pages and pages that a fork shares are not recognised", false, probe_pagemap_pfn },
	[FEATURE_MAP_FILES] = { "map_files", "opening the file behind a mapping (/proc/PID/map_files)", "nothing can be dumped",
				true, probe_map_files },
	[FEATURE_MEM_DIRTY_TRACK] = { "mem_dirty_track", "finding the pages written since the last dump",
				      "incremental dumps are not possible", false, probe_mem_dirty_track },
	[FEATURE_UFFD] = { "uffd", "userfaultfd", "lazy restore is not possible", false, probe_uffd },
	[FEATURE_UFFD_NONCOOP] = { "uffd-noncoop", "userfaultfd with events of fork, remap, remove and unmap",
				   "lazy restore is not possible", false, probe_uffd_noncoop },
	[FEATURE_UFFD_POISON] = { "uffd_poison", "pages whose use is an error (UFFDIO_POISON)", "lazy restore is not possible", false,
				  probe_uffd_poison },
	[FEATURE_UFFD_MOVE] = { "uffd_move", "moving pages into place (UFFDIO_MOVE)", "restore of large memory is slower", false,
				probe_uffd_move },
	[FEATURE_MEMFD] = { "memfd", "files without a name (memfd_create)", "nothing can be restored", true, probe_memfd },
	[FEATURE_MEMFD_HUGETLB] = { "memfd_hugetlb", "files without a name on huge pages",
				    "shared memory on huge pages cannot be restored", false, probe_memfd_hugetlb },
	[FEATURE_AIO_REMAP] = { "aio_remap", "moving the ring of a Linux AIO context", "processes with AIO are refused", false,
				probe_aio_remap },

	[FEATURE_IO_URING] = { "io_uring", "io_uring", "images are written with plain calls, which is slower", false,
			       probe_io_uring },
	[FEATURE_OPENAT2] = { "openat2", "opening paths with restrictions (openat2)", "mounts cannot be restored safely", false,
			      probe_openat2 },
	[FEATURE_MNT_ID] = { "mnt_id", "the mount of a descriptor (mnt_id in fdinfo)", "nothing can be dumped", true,
			     probe_mnt_id },
	[FEATURE_FDINFO_LOCK] = { "fdinfo_lock", "the locks of a descriptor (in fdinfo)", "processes with file locks are refused",
				  false, probe_fdinfo_lock },
	[FEATURE_TIMERFD] = { "timerfd", "the state of a timerfd (in fdinfo)", "processes with a timerfd are refused", false,
			      probe_timerfd },
	[FEATURE_MOVE_MOUNT_SET_GROUP] = { "move_mount_set_group", "putting a mount into a sharing group",
					   "mounts are restored by the older, less complete way", false,
					   probe_move_mount_set_group },
	[FEATURE_AUTOFS] = { "autofs", "the autofs file system", "autofs mounts are refused", false, probe_autofs },

	[FEATURE_USERNS] = { "userns", "user namespaces", "containers with a user namespace are refused", false, probe_userns },
	[FEATURE_CGROUPNS] = { "cgroupns", "cgroup namespaces", "containers with a cgroup namespace are refused", false,
			       probe_cgroupns },
	[FEATURE_TIMENS] = { "timens", "time namespaces", "after a reboot the monotonic clock of a restored tree jumps", false,
			     probe_timens },
	[FEATURE_EXTERNAL_NET_NS] = { "external_net_ns", "network namespaces that are given at restore", "none", false,
				      probe_always },

	[FEATURE_TUN] = { "tun", "TUN and TAP devices", "processes with a TUN device are refused", false, probe_tun },
	[FEATURE_SK_NS] = { "sk_ns", "the network namespace of a socket", "sockets of other namespaces are refused", false,
			    probe_sk_ns },
	[FEATURE_SK_UNIX_FILE] = { "sk_unix_file", "the file that a UNIX socket is bound to",
				   "UNIX sockets bound to a file that was moved are refused", false, probe_sk_unix_file },
	[FEATURE_SOCKOPT_BUF_LOCK] = { "sockopt_buf_lock", "whether the buffer size of a socket is fixed (SO_BUF_LOCK)",
				       "restored sockets have buffers of fixed size", false, probe_sockopt_buf_lock },
	[FEATURE_IPV6_FREEBIND] = { "ipv6_freebind", "IPv6 sockets bound to an address that is not there (IPV6_FREEBIND)",
				    "the option is not restored", false, probe_ipv6_freebind },
	[FEATURE_NET_DIAG_RAW] = { "net_diag_raw", "listing raw sockets (INET_RAW_DIAG)", "raw sockets are found one by one",
				   false, probe_net_diag_raw },
	[FEATURE_NSID] = { "nsid", "numbers of network namespaces (RTM_GETNSID)",
			   "virtual links between namespaces are not restored", false, probe_nsid },
	[FEATURE_NFTABLES] = { "nftables", "nftables", "firewall rules of containers are not saved", false, probe_nftables },
	[FEATURE_NETWORK_LOCK_NFTABLES] = { "network_lock_nftables", "holding traffic with nftables during a dump",
					    "connections need another network lock", false, probe_network_lock_nftables },

	[FEATURE_APPARMOR_STACKING] = { "apparmor_stacking", "stacked AppArmor profiles", "stacked profiles are not restored",
					false, probe_apparmor_stacking },
};

struct features *features_new(void)
{
	return calloc(1, sizeof(struct features));
}

struct features *features_free(struct features *f)
{
	free(f);
	return NULL;
}

void features_set(struct features *f, enum feature_id id, bool available)
{
	f->state[id] = available ? YES : NO;
}

bool feature_has(struct features *f, enum feature_id id)
{
	struct features once = { 0 };
	bool r;

	if (id >= FEATURE_N)
		return false;
	if (!f)
		f = &once;
	if (f->state[id] == UNKNOWN) {
		r = rows[id].probe(f);
		/* A probe that answers for several rows has noted this one itself. */
		if (f->state[id] == UNKNOWN)
			features_set(f, id, r);
	}
	return f->state[id] == YES;
}

bool features_known(const char *name, enum feature_id *id)
{
	for (unsigned i = 0; i < FEATURE_N; i++) {
		if (strcmp(rows[i].name, name) != 0)
			continue;
		if (id)
			*id = i;
		return true;
	}
	return false;
}

static bool report(struct features *f, enum feature_id id, ckpt_feature_fn fn, void *arg)
{
	const struct row *row = &rows[id];
	const struct ckpt_feature feature = {
		.name = row->name,
		.sentence = row->sentence,
		.cost = row->cost,
		.required = row->required,
		.available = feature_has(f, id),
	};

	if (fn)
		fn(arg, &feature);
	return feature.available || !feature.required;
}

int features_each(struct features *f, ckpt_feature_fn fn, void *arg)
{
	int missing = 0;

	for (unsigned i = 0; i < FEATURE_N; i++)
		missing += !report(f, i, fn, arg);
	return missing;
}

int features_run(struct op *op, ckpt_feature_fn fn, void *arg)
{
	int missing = 0;

	op->stage = "check the kernel";
	for (unsigned i = 0; i < FEATURE_N; i++) {
		int r = op_check_cancel(op);

		if (r)
			return r;
		missing += !report(op->features, i, fn, arg);
		op_progress(op, i + 1, FEATURE_N);
	}
	return missing;
}

int feature_require(struct op *op, enum feature_id id)
{
	if (feature_has(op->features, id))
		return 0;
	return op_fail(op, CKPT_E_KERNEL, AT(.kind = rows[id].name, .hint = "see `ckpt check --all`"),
		       "the kernel lacks: %s; without it: %s", rows[id].sentence, rows[id].cost);
}

/* What dump and restore cannot do without. CAP_SYS_ADMIN covers CAP_CHECKPOINT_RESTORE. */
static const struct {
	unsigned cap;
	const char *name;
	bool dump, restore;
} needed[] = {
	{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN", true, true },
	{ CAP_SYS_PTRACE, "CAP_SYS_PTRACE", true, true },
	{ CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", true, false },
	{ CAP_KILL, "CAP_KILL", true, true },
	{ CAP_SETUID, "CAP_SETUID", false, true },
	{ CAP_SETGID, "CAP_SETGID", false, true },
	{ CAP_SETPCAP, "CAP_SETPCAP", false, true },
};

int privileges_check(struct op *op, pid_t pid)
{
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		bool dac = needed[i].cap == CAP_DAC_READ_SEARCH && probe_capability(CAP_DAC_OVERRIDE);

		if (!(pid ? needed[i].dump : needed[i].restore) || dac || probe_capability(needed[i].cap))
			continue;
		return op_fail(op, CKPT_E_PERM,
			       AT(.pid = pid, .kind = "privilege",
				  .hint = "run it as root, in a container with this capability added"),
			       "%s needs the capability %s, which we do not have (uid %u)",
			       pid ? "dumping a process" : "restoring", needed[i].name, (unsigned)geteuid());
	}
	return 0;
}
