/* SPDX-License-Identifier: MIT */
/*
 * What the running kernel and our privileges offer: a table of lazy probes. A probe tries the thing itself, leaves
 * nothing behind and is quick; versions are never compared. Results are cached in a struct features that belongs to a
 * context (op->features), so an operation pays only for what it asks.
 */
#ifndef CKPT_KERNEL_FEATURES_H
#define CKPT_KERNEL_FEATURES_H

#include "lib/base/op.h"

/* The order is that of the table in features.c, and of `ckpt check`. */
enum feature_id {
	/* privileges */
	FEATURE_CAP_SYS_ADMIN,
	FEATURE_CAP_SYS_PTRACE,
	FEATURE_CAP_CHECKPOINT_RESTORE,
	FEATURE_CAP_SYS_RESOURCE,
	FEATURE_NOFILE,
	/* processes */
	FEATURE_CLONE3_SET_TID,
	FEATURE_NS_LAST_PID,
	FEATURE_PTRACE_SEIZE,
	FEATURE_SECCOMP_SUSPEND,
	FEATURE_SECCOMP_FILTERS,
	FEATURE_GET_RSEQ_CONF,
	FEATURE_PEEKSIGINFO,
	FEATURE_BREAKPOINTS,
	FEATURE_PIDFD_OPEN,
	FEATURE_PIDFD_GETFD,
	FEATURE_PIDFD_STORE,
	FEATURE_KCMP,
	FEATURE_KCMP_EPOLL,
	FEATURE_MM_MAP,
	FEATURE_TID_ADDRESS,
	FEATURE_TIMER_CR_IDS,
	FEATURE_MEMBARRIER_REGISTRATIONS,
	FEATURE_SCHED_EXEC_START,
	FEATURE_WCHAN,
	FEATURE_NS_PID,
	FEATURE_LOGINUID,
	FEATURE_CAN_MAP_VDSO,
	FEATURE_COMPAT_CR,
	/* memory */
	FEATURE_PAGEMAP_SCAN,
	FEATURE_PAGEMAP_SCAN_GUARD_PAGES,
	FEATURE_PAGEMAP_PFN,
	FEATURE_MAP_FILES,
	FEATURE_MEM_DIRTY_TRACK,
	FEATURE_UFFD,
	FEATURE_UFFD_NONCOOP,
	FEATURE_UFFD_POISON,
	FEATURE_UFFD_MOVE,
	FEATURE_MEMFD,
	FEATURE_MEMFD_HUGETLB,
	FEATURE_AIO_REMAP,
	/* files */
	FEATURE_IO_URING,
	FEATURE_OPENAT2,
	FEATURE_MNT_ID,
	FEATURE_FDINFO_LOCK,
	FEATURE_TIMERFD,
	FEATURE_MOVE_MOUNT_SET_GROUP,
	FEATURE_AUTOFS,
	/* namespaces */
	FEATURE_USERNS,
	FEATURE_CGROUPNS,
	FEATURE_TIMENS,
	FEATURE_EXTERNAL_NET_NS,
	/* network */
	FEATURE_TUN,
	FEATURE_SK_NS,
	FEATURE_SK_UNIX_FILE,
	FEATURE_SOCKOPT_BUF_LOCK,
	FEATURE_IPV6_FREEBIND,
	FEATURE_NET_DIAG_RAW,
	FEATURE_NSID,
	FEATURE_NFTABLES,
	FEATURE_NETWORK_LOCK_NFTABLES,
	/* security modules */
	FEATURE_APPARMOR_STACKING,
	FEATURE_N,
};

struct features;

struct features *features_new(void);			/* NULL when out of memory */
struct features *features_free(struct features *f);	/* NULL allowed; returns NULL */

/* Whether the feature is there. Probes at the first question. @f NULL: probes each time. */
bool feature_has(struct features *f, enum feature_id id);
/* Whether there is a feature of this name (the field's, as in `check --feature NAME`). *@id may be NULL. */
bool features_known(const char *name, enum feature_id *id);
/* Probes everything and hands each row to @fn (NULL allowed). Returns the number of required ones that are missing. */
int features_each(struct features *f, ckpt_feature_fn fn, void *arg);
/* The same for ckpt_check_kernel(): with op->features, and deadline and cancelling of the operation. */
int features_run(struct op *op, ckpt_feature_fn fn, void *arg);

/* Fails with CKPT_E_KERNEL and the sentence of the feature when it is not there. */
int feature_require(struct op *op, enum feature_id id);

/*
 * Fails with CKPT_E_PERM, naming the capability, when we lack what a dump of @pid needs; @pid 0: what a restore needs.
 * "cap_sys_admin" alone stands for cap_checkpoint_restore as in the kernel.
 */
int privileges_check(struct op *op, pid_t pid);

#endif
