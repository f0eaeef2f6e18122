/* SPDX-License-Identifier: MIT */
/*
 * libckpt - checkpoint a running process tree to a folder of image files, and bring it back.
 *
 * How to read this header: a *context* (struct ckpt_ctx) carries what outlives one call (log and progress sinks,
 * cancellation); every operation takes a context, the mandatory things as parameters, and the optional ones in one
 * sized struct (struct ckpt_opts), and reports failure as a negative CKPT_E_* code plus an error value (struct
 * ckpt_err) that says which task and which resource.
 *
 * The library never prints, never exits, and keeps no global mutable state. Different contexts may be used by
 * different threads at the same time; one context serves one operation at a time. An operation runs in the calling
 * thread, which is the tracer of the tasks while it lasts (ptrace(2) belongs to a thread).
 */
#ifndef CKPT_CKPT_H
#define CKPT_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CKPT_API __attribute__((visibility("default")))
#else
#define CKPT_API
#endif

#define CKPT_VERSION_MAJOR 0
#define CKPT_VERSION_MINOR 1
#define CKPT_VERSION_PATCH 0

/* Version of the library that is running, "0.1.0". Static string. Thread-safe. Since 0.1. */
CKPT_API const char *ckpt_version(void);

/* ---------------------------------------------------------------------------------------------- errors */

/* Every operation returns 0 (or a documented positive value), or one of these, negative. Values never change. */
enum ckpt_code {
	CKPT_OK = 0,
	CKPT_E_INVAL = -1,	 /* a parameter or option makes no sense */
	CKPT_E_NOMEM = -2,	 /* out of memory */
	CKPT_E_SYS = -3,	 /* a system call failed; ckpt_err_errno() has the number */
	CKPT_E_NO_PROCESS = -4,	 /* no such task, or it is gone, or it is a zombie */
	CKPT_E_PERM = -5,	 /* not enough privilege; the message names the capability */
	CKPT_E_BUSY = -6,	 /* the task is traced by somebody else; the message says by whom */
	CKPT_E_UNSUPPORTED = -7, /* state of a kind that cannot be saved or restored */
	CKPT_E_NOSPACE = -8,	 /* the disk is full, or would be */
	CKPT_E_EXISTS = -9,	 /* the folder already holds a checkpoint; a file exists */
	CKPT_E_IMAGE = -10,	 /* an image is missing, damaged or contradicts itself */
	CKPT_E_CHANGED = -11,	 /* a file the checkpoint needs is gone or not what it was */
	CKPT_E_PID_IN_USE = -12, /* a PID of the checkpoint is taken */
	CKPT_E_CANCELED = -13,	 /* ckpt_cancel() */
	CKPT_E_TIMEOUT = -14,	 /* the deadline of the operation passed */
	CKPT_E_KERNEL = -15,	 /* the kernel or processor lacks something that is needed */
	CKPT_E_INTERNAL = -16,	 /* a bug in libckpt */
	CKPT_E_NOT_YET = -17,	 /* an option of the field that this version does not implement */
	CKPT_E_REFUSED = -18,	 /* an event callback or an action script wants no more of it */
};

/* An error value. Made by the library, owned by the caller, freed with ckpt_err_free(). Immutable. */
struct ckpt_err;

/* Frees @err (NULL allowed). Returns NULL. */
CKPT_API struct ckpt_err *ckpt_err_free(struct ckpt_err *err);
/* The code, one of enum ckpt_code. CKPT_OK for NULL. */
CKPT_API int ckpt_err_code(const struct ckpt_err *err);
/* Stable lower-case name of a code for programs: "no-process", "unsupported"... Static string. */
CKPT_API const char *ckpt_code_name(int code);
/* One line for people: "dump task 42: fd 7: socket: not supported yet". Owned by @err. */
CKPT_API const char *ckpt_err_message(const struct ckpt_err *err);
/* What the user can do about it, or NULL. Owned by @err. */
CKPT_API const char *ckpt_err_hint(const struct ckpt_err *err);
/* The errno behind the error, 0 if none. */
CKPT_API int ckpt_err_errno(const struct ckpt_err *err);
/* The task, descriptor or address it is about: 0, -1 and 0 where that does not apply. */
CKPT_API pid_t ckpt_err_pid(const struct ckpt_err *err);
CKPT_API int ckpt_err_fd(const struct ckpt_err *err);
CKPT_API uint64_t ckpt_err_addr(const struct ckpt_err *err);
/* The exit status of the action script that did not want a dump to become a checkpoint (at post-dump); else 0. */
CKPT_API int ckpt_err_status(const struct ckpt_err *err);
/* The kind of state it is about ("socket", "vma", "file"...), or NULL. Owned by @err. */
CKPT_API const char *ckpt_err_kind(const struct ckpt_err *err);

/* --------------------------------------------------------------------------------------------- context */

struct ckpt_ctx;

enum ckpt_log_level {
	CKPT_LOG_MSG = 0,
	CKPT_LOG_ERROR = 1,
	CKPT_LOG_WARN = 2,
	CKPT_LOG_INFO = 3,
	CKPT_LOG_DEBUG = 4,
};

/* Called for each message of the library, without a newline. Called from the thread of the operation. */
typedef void (*ckpt_log_fn)(void *arg, enum ckpt_log_level level, const char *text);

/* How far an operation is. Later versions of the library append fields: look at no field that @sz does not cover. */
struct ckpt_progress {
	size_t sz;	      /* of the struct the library fills */
	const char *stage;    /* static string */
	uint64_t done, total; /* weights of the stages: done / total is the part of the whole, roughly by time */
	uint64_t bytes_done;  /* memory moved so far */
	uint64_t bytes_total; /* and in all, as far as known yet; 0 before that */
	bool frozen;	      /* the tasks are stopped at this moment */
	bool waiting;	      /* other dumps on this machine go first (see io_policy) */
};
/* Called as an operation goes on, in its thread: at the end of each stage, and now and then in between. */
typedef void (*ckpt_progress_fn)(void *arg, const struct ckpt_progress *progress);

/* Makes a context. Returns 0 or CKPT_E_NOMEM. Since 0.1. */
CKPT_API int ckpt_ctx_new(struct ckpt_ctx **ret);
/* Frees a context (NULL allowed) that no operation is using. Returns NULL. */
CKPT_API struct ckpt_ctx *ckpt_ctx_free(struct ckpt_ctx *ctx);
/* Messages up to @level go to @fn; NULL turns them off. Not while an operation runs. */
CKPT_API void ckpt_ctx_set_log(struct ckpt_ctx *ctx, enum ckpt_log_level level, ckpt_log_fn fn, void *arg);
CKPT_API void ckpt_ctx_set_progress(struct ckpt_ctx *ctx, ckpt_progress_fn fn, void *arg);
/*
 * Asks the operation that runs on @ctx, or the next one, to stop as soon as it can; it then undoes what it did and
 * returns CKPT_E_CANCELED. From any thread, and from a signal handler. ckpt_ctx_reset() takes it back.
 */
CKPT_API void ckpt_cancel(struct ckpt_ctx *ctx);
CKPT_API void ckpt_ctx_reset(struct ckpt_ctx *ctx);

/*
 * Points of a dump or a restore at which others have something to do. They come in this order, and are those at which action
 * scripts are run: see docs/guide/containers.md.
 */
enum ckpt_event {
	CKPT_EVENT_PRE_STREAM = 0,
	CKPT_EVENT_PRE_DUMP = 1,	/* nothing is stopped yet */
	CKPT_EVENT_NETWORK_LOCK = 2,	/* all tasks are stopped; only where the tree has a network namespace of its own */
	CKPT_EVENT_QUERY_EXT_FILES = 3,
	CKPT_EVENT_POST_DUMP = 4,	/* the folder is about to become a checkpoint */
	CKPT_EVENT_NETWORK_UNLOCK = 5,	/* dump: the tree goes on running; restore: it is about to run */
	CKPT_EVENT_STATUS_READY = 6,
	CKPT_EVENT_PRE_RESTORE = 7,
	CKPT_EVENT_SETUP_NAMESPACES = 8, /* namespaces exist, and are empty; pid: a process in them */
	CKPT_EVENT_POST_SETUP_NAMESPACES = 9,
	CKPT_EVENT_ORPHAN_PTS_MASTER = 10, /* fd: the new master of a terminal whose slave was restored */
	CKPT_EVENT_POST_RESTORE = 11,	/* all is restored, nothing runs; pid: the root task */
	CKPT_EVENT_PRE_RESUME = 12,
	CKPT_EVENT_POST_RESUME = 13,	/* the tasks run */
};

/* Later versions of the library append fields: look at no field that @sz does not cover. */
struct ckpt_event_info {
	size_t sz; /* of the struct the library fills */
	enum ckpt_event event;
	const char *name; /* "post-restore": as action scripts get it; static string */
	pid_t pid;	  /* the root task as the caller sees it, where there is one; else 0 */
	int fd;		  /* the library's, only during the call; -1: none */
	/* CKPT_EVENT_QUERY_EXT_FILES: strings added here have the form of --external; they must live until the operation ends */
	struct ckpt_strv *external;
};
/*
 * Returns 0, or anything else to fail the operation, which the last three of a restore (from CKPT_EVENT_NETWORK_UNLOCK on) and
 * CKPT_EVENT_NETWORK_UNLOCK of a dump do not heed. In the thread of the operation, while the tree may be stopped: be quick.
 */
typedef int (*ckpt_event_fn)(void *arg, const struct ckpt_event_info *info);
/* NULL turns them off. Not while an operation runs. Since 0.1. */
CKPT_API void ckpt_ctx_set_events(struct ckpt_ctx *ctx, ckpt_event_fn fn, void *arg);
/* "post-restore". Static string; NULL for what is none. Thread-safe. Since 0.1. */
CKPT_API const char *ckpt_event_name(enum ckpt_event event);

/* --------------------------------------------------------------------------------------------- options */

/* A list of strings; the array and the strings belong to the caller and are only read. */
struct ckpt_strv {
	const char *const *v;
	size_t n;
};

/* PID selection method on restore. */
enum ckpt_pid_method {
	CKPT_PID_AUTO = 0,	   /* clone3 with set_tid where the kernel has it, else ns_last_pid */
	CKPT_PID_SET_TID = 1,
	CKPT_PID_NS_LAST_PID = 2,
};

enum ckpt_file_validation {
	CKPT_VALIDATE_BUILDID = 0, /* size, and the build-id of ELF files */
	CKPT_VALIDATE_FILESIZE = 1,
};

/* How dumps that write to one disk at the same time share it. */
enum ckpt_io_policy {
	CKPT_IO_LEAST_LEFT = 0,	   /* who has least left to write goes first; stopped trees before running ones */
	CKPT_IO_FAIR = 1,	   /* each as much as the others */
	CKPT_IO_NONE = 2,	   /* it neither waits for others nor do they for it */
};

/* How a pre-dump reads memory. Both do the same here. */
enum ckpt_pre_dump_mode {
	CKPT_PRE_DUMP_SPLICE = 0,
	CKPT_PRE_DUMP_READ = 1,
};

/* How the packets of TCP connections are held while their owner is away, so that no peer is told that they are gone. */
enum ckpt_network_lock {
	CKPT_LOCK_AUTO = 0,	/* nftables */
	CKPT_LOCK_IPTABLES = 1, /* rules of iptables, by its programs */
	CKPT_LOCK_NFTABLES = 2, /* a table of its own, without a program */
	CKPT_LOCK_SKIP = 3,	/* not at all */
	CKPT_LOCK_NONE = 4,	/* the same */
};

/* What a restore does about the control groups of the dump. */
enum ckpt_cgroup_mode {
	CKPT_CGROUP_SOFT = 0,	/* missing ones are made, with their properties; those that are there keep theirs */
	CKPT_CGROUP_NONE = 1,	/* all must be there; nothing is made or changed, tasks are moved */
	CKPT_CGROUP_PROPS = 2,	/* all must be there; properties are restored */
	CKPT_CGROUP_FULL = 3,	/* made where they are missing, properties are restored in any case */
	CKPT_CGROUP_STRICT = 4, /* the same, but one that is there is an error */
	CKPT_CGROUP_IGNORE = 5, /* nothing at all; a dump does not record them */
};

/* Namespaces that are made anew, and left empty. */
enum ckpt_empty_ns {
	CKPT_EMPTY_NS_NONE = 0,
	CKPT_EMPTY_NS_NET = 1, /* whoever asks for it sets its network up, or tears it down */
};

/*
 * Optional things of an operation. Start from CKPT_OPTS_INIT; NULL stands for that. A field means what the option of
 * the same name means on the command line (see ckpt_option_table()); fields an operation has no use for are ignored.
 * Pointers belong to the caller and are only read, during the call.
 */
struct ckpt_opts {
	size_t sz;		      /* sizeof(struct ckpt_opts) of the caller */
	const char *images_dir;	      /* default "." */
	const char *work_dir;	      /* default: images_dir; stats files are written there */
	int images_dir_fd;	      /* used instead of images_dir where >= 0 */
	int work_dir_fd;	      /* used instead of work_dir where >= 0 */
	/* dump */
	bool leave_running;
	bool leave_stopped;	      /* dump: tasks end up stopped; restore: tasks start stopped */
	bool shell_job;
	bool file_locks;
	bool link_remap;
	bool tcp_established;	      /* connections are saved, and restored */
	bool tcp_close;		      /* connections become closed sockets */
	bool ext_unix_sk;	      /* UNIX sockets may have their peer outside of the tree */
	bool skip_file_rwx_check;
	bool display_stats;	      /* log stages and counters at CKPT_LOG_MSG when the operation ends */
	bool restore_sibling;	      /* restore: the root becomes a child of the caller's parent */
	bool restore_detached;	      /* CLI only: return after start */
	bool new_pidns;		      /* restore: into a fresh pid namespace */
	bool evasive_devices;
	bool unprivileged;
	bool no_sync;		      /* dump: do not wait for stable storage (only with leave_running) */
	uint64_t ghost_limit;	      /* bytes; largest deleted file whose contents are stored; 0: 1 MiB */
	/*
	 * Seconds, 0 = none; default 10 on the CLI's dump. A dump: until the tree is stopped and collected, its memory then
	 * takes as long as it takes (ckpt_cancel() ends that, too). A restore: all of it.
	 */
	uint32_t timeout;
	enum ckpt_pid_method pid_method;
	enum ckpt_file_validation file_validation;
	struct ckpt_strv external;    /* "file[MNT:INO]", "tty[RDEV:DEV]" ... as on the command line */
	struct ckpt_strv inherit_fd;  /* "fd[N]:KEY" */
	const char *freeze_cgroup;    /* dump: folder of a cgroup whose freezer holds the tasks while they are seized */
	const char *fault_stage;      /* tests: the operation fails at the stage of this name */
	const char *pidfile;	      /* CLI only */
	const char *log_file;	      /* CLI only */
	uint32_t log_level;	      /* CLI only; default 2 */
	bool force_irmap;	      /* dump: names of watched files are always searched for */
	struct ckpt_strv irmap_scan_path; /* dump: folders to search for them, before the usual ones */
	const char *ext_unix_sk_inodes; /* dump: "123,456": ext_unix_sk for these peers only */
	const char *compress;	      /* dump: "lz4", "zstd", "zstd:LEVEL" or "dups"; NULL: pages are stored as they are */
	bool no_verify;		      /* restore: images need not be what they were when they were written */
	/* pages that go to another host, or come from there: see ckpt_page_server() */
	bool page_server;	      /* dump: send pages to the server at address and port */
	bool lazy_pages;	      /* dump, page server: serve pages on demand; restore: have them served */
	const char *address;	      /* of the server; where to listen (default: any) */
	uint32_t port;		      /* 0: page server: one that is free */
	int ps_socket;		      /* a connected stream socket used instead where >= 0 */
	uint32_t ps_timeout;	      /* seconds without a byte after which the other side is given up; 0: never */
	bool tls;		      /* encrypt, and verify certificates on both sides */
	const char *tls_cacert, *tls_cacrl, *tls_cert, *tls_key; /* PEM files; NULL: those below /etc/pki */
	bool tls_no_cn_verify;	      /* client: the certificate need not be for the name in address */
	const char *record_faults;    /* lazy restore: note the order of first touches here, relative to the images folder */
	int status_fd;		      /* where >= 0: a zero byte is written to it, and it is closed, when a server is ready */
	enum ckpt_io_policy io_policy; /* dump: beside other dumps on this machine */
	uint64_t io_max;	      /* dump: write so many bytes of memory a second at most; 0: no limit */
	/* dumps that build upon each other: see ckpt_pre_dump() */
	bool track_mem;		      /* dump: what is written to memory from now on is known to the next dump */
	const char *prev_images_dir;  /* folder of the previous dump or pre-dump, relative to the images folder */
	bool auto_dedup;	      /* free pages of images that are not needed any more */
	enum ckpt_pre_dump_mode pre_dump_mode;
	bool track_apart;	      /* tracking is kept by a process of its own, for other programs, not by the context */
	bool copy_pages;	      /* dump: also pages that could be written from where they are go by way of buffers */
	enum ckpt_network_lock network_lock; /* dump, lock; a restore goes by what the dump noted */
	bool skip_in_flight;	      /* dump, restore: TCP connections that were not accepted yet are dropped */
	/* containers: namespaces, mounts, control groups */
	const char *root;	      /* restore: folder that becomes the root of the mount namespace */
	struct ckpt_strv ext_mount_map; /* "KEY:VALUE" or "auto": external mounts */
	bool ext_sharing;	      /* mounts may be shared with the outside */
	bool ext_masters;	      /* the master of a mount may be outside */
	struct ckpt_strv skip_mnt;    /* dump: leave out the mount at this place */
	struct ckpt_strv enable_fs;   /* file systems to be mounted by their names, or "all" */
	struct ckpt_strv join_ns;     /* restore: "NS:PID" or "NS:FILE[,UID[,GID]]": existing namespaces instead of new ones */
	enum ckpt_empty_ns empty_ns;
	struct ckpt_strv veth_pair;   /* restore: "IN=OUT" */
	enum ckpt_cgroup_mode manage_cgroups;
	struct ckpt_strv cgroup_root; /* "[CONTROLLER:]/PATH" */
	const char *cgroup_yard;      /* folder where the hierarchies are mounted */
	struct ckpt_strv cgroup_dump_controller;
	const char *cgroup_props, *cgroup_props_file;
	const char *lsm_profile, *lsm_mount_context;
	bool weak_sysctls;	      /* restore: sysctls that do not exist here are left out */
	bool mntns_compat_mode;	      /* restore: mounts are made without the new mount API */
	bool orphan_pts_master;	      /* restore: terminals without a master get one, told with CKPT_EVENT_ORPHAN_PTS_MASTER */
	const char *cpu_cap;	      /* processor features to record, and to check: "fpu,ins", "all", "none"...; NULL: none */
	struct ckpt_strv action_script; /* programs that are run at each event */
	bool exec_cmd;		      /* CLI only */
};

#define CKPT_OPTS_INIT                                                                                    \
	{                                                                                                 \
		.sz = sizeof(struct ckpt_opts), .images_dir = NULL, .work_dir = NULL, .images_dir_fd = -1, \
		.work_dir_fd = -1, .log_level = 2, .ps_socket = -1, .ps_timeout = 60, .status_fd = -1     \
	}

/* ------------------------------------------------------------------------------------------ operations */

/* What an operation took; times in microseconds. Filled also when it failed (as far as it came). */
struct ckpt_stage_time {
	const char *name; /* static string */
	uint64_t us;
	uint64_t bytes;	  /* of memory that it moved */
	bool frozen;	  /* the tasks were stopped when it ended */
};

struct ckpt_stats {
	size_t sz; /* sizeof(struct ckpt_stats) of the caller; set it before the call */
	uint64_t freezing_us;	/* from the first seize until all threads were stopped */
	uint64_t frozen_us;	/* from the first seize until the tree ran again or was killed */
	uint64_t memwrite_us;
	uint64_t total_us;
	uint64_t pages_scanned;
	uint64_t pages_written;	 /* dump: pages of 4 KiB written; restore: restored */
	uint64_t shpages_written;
	uint64_t image_bytes;
	size_t n_stages;	 /* entries of stages[] that are used */
	struct ckpt_stage_time stages[32];
	uint64_t waited_us;	 /* dump: for other dumps on this machine, and for io_max */
	bool snapshot;		 /* dump: the tree ran while its memory was written */
	uint64_t pages_skipped_parent; /* dump: pages that are with the parent, since nobody wrote to them */
};

/*
 * Checkpoint the tree rooted at @pid into the folder of @opts. When it returns 0 the images are complete and on stable
 * storage, and the tree was killed, or runs on (leave_running), or is stopped (leave_stopped). When it fails the tree
 * runs on unchanged and the folder is as it was. @stats and @err may be NULL. Since 0.1.
 */
CKPT_API int ckpt_dump(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, struct ckpt_stats *stats,
		       struct ckpt_err **err);

/*
 * Stores the memory of the tree rooted at @pid into the folder of @opts, while it runs: it is stopped only to find out which
 * pages are to be stored. The folder is no checkpoint, but what the next pre-dump or ckpt_dump() names as its prev_images_dir,
 * which then stores only what was written since. What is written is tracked by the kernel; the descriptors for that are kept
 * by @ctx (or, with track_apart, by a process), until the next call or the end of the program. Where they were lost, the next
 * dump stores everything, and says so. Since 0.1.
 */
CKPT_API int ckpt_pre_dump(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, struct ckpt_stats *stats,
			   struct ckpt_err **err);

/*
 * Frees the space of pages that the folder of @opts, or a folder between, supersedes: in its parent, the parent's parent, and
 * so on. None of those can be restored by itself afterwards; the folder can. *@freed (may be NULL) is in bytes. Since 0.1.
 */
CKPT_API int ckpt_dedup(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, uint64_t *freed, struct ckpt_err **err);

/*
 * Checkpoint the calling process itself. Returns 0 in the original, which runs on (leave_running is implied), 1 in each
 * restored life, negative on failure. The calling thread waits meanwhile; other threads are frozen for the dump as
 * usual. Since 0.1.
 */
CKPT_API int ckpt_dump_self(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err);

/*
 * Bring the tree in the folder of @opts back. On success *@pid is the root task (as the caller sees it), running, and a
 * child of the caller (of the caller's parent with restore_sibling). On failure nothing is left behind. Since 0.1.
 */
CKPT_API int ckpt_restore(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, pid_t *pid, struct ckpt_stats *stats,
			  struct ckpt_err **err);

/*
 * Be a page server for one connection: receive the memory of a dump that is made elsewhere (with page_server) into the folder
 * of @opts, or, with lazy_pages, serve what is in that folder to somebody who restores elsewhere. @ready (may be NULL) is
 * called when the server listens; @port is 0 where it uses ps_socket. Returns 0 when the peer has said that it has sent, or
 * got, everything, and all of it is on stable storage. A failure while receiving leaves nothing in the folder. Since 0.1.
 */
typedef void (*ckpt_ready_fn)(void *arg, uint16_t port);
CKPT_API int ckpt_page_server(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, ckpt_ready_fn ready, void *arg,
			      struct ckpt_stats *stats, struct ckpt_err **err);

/*
 * Bring the pages of tasks that another process restores from the folder of @opts with lazy_pages: listens at
 * lazy-pages.socket in the work folder, serves one restore, and returns when every page is in its place, or was lost. Programs
 * run meanwhile. @ready (may be NULL; its port is 0) is called when a restore can connect. Once programs run ckpt_cancel() does
 * not end it, since that would be the end of their memory. Since 0.1.
 */
CKPT_API int ckpt_lazy_pages(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, ckpt_ready_fn ready, void *arg,
			     struct ckpt_stats *stats, struct ckpt_err **err);

/*
 * Network locks. Packets of the TCP connections of a checkpoint are held from the dump until the restore, which removes the lock;
 * these are for checkpoints whose restore will not come, or comes on another host. They need CAP_NET_ADMIN, and are about the
 * network namespace of the caller.
 *
 * ckpt_lock() holds the connections of the checkpoint in the folder of @opts, on a host that is about to take their address over:
 * before it has the address, so that no peer is told that nobody knows its connection. It lasts until a restore has succeeded,
 * until ckpt_unlock(), or a reboot. *@n (may be NULL): how many connections. Returns 0; 1: they are held already; or negative.
 *
 * ckpt_unlock() removes the lock of the checkpoint in the folder of @opts or, where @id is not NULL, the one of that id, without
 * a folder. The connections are lost then, unless the program still runs. Returns 0; 1: there is none; or negative (CKPT_E_BUSY: a
 * dump or restore is at work with it).
 *
 * ckpt_locks() hands each lock to @fn (may be NULL) and returns how many there are. Those that rules of iptables make are not
 * found. Since 0.1.
 */
struct ckpt_lock_info {
	size_t sz;	/* of the struct the library fills */
	const char *id; /* the checkpoint's, which is in the name of the table of nftables: "CRIU-ID". Valid during the call */
	bool in_use;	/* by a dump or restore that is at work; it goes with it */
};
typedef void (*ckpt_lock_fn)(void *arg, const struct ckpt_lock_info *lock);
CKPT_API int ckpt_lock(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, uint64_t *n, struct ckpt_err **err);
CKPT_API int ckpt_unlock(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, const char *id, struct ckpt_err **err);
CKPT_API int ckpt_locks(struct ckpt_ctx *ctx, ckpt_lock_fn fn, void *arg, struct ckpt_err **err);

/*
 * Would ckpt_dump(@pid) find something in its way? Stops nothing. Each obstacle is handed to @fn as an error value that
 * is valid during the call. Returns the number of obstacles, or negative when the question could not be answered.
 */
typedef void (*ckpt_obstacle_fn)(void *arg, const struct ckpt_err *obstacle);
CKPT_API int ckpt_check_task(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, ckpt_obstacle_fn fn,
			     void *arg, struct ckpt_err **err);

/* A thing the kernel or the caller's privileges offer, or not. Strings are static. */
struct ckpt_feature {
	const char *name;     /* the field's name where it has one: "clone3_set_tid", "pagemap_scan" */
	const char *sentence; /* what it is, for people */
	const char *cost;     /* what its absence costs */
	bool required;	      /* nothing works without it */
	bool available;
};
/*
 * Probes all features (results are cached in @ctx) and hands each to @fn. Returns the number of required ones that are
 * missing, or negative.
 */
typedef void (*ckpt_feature_fn)(void *arg, const struct ckpt_feature *feature);
CKPT_API int ckpt_check_kernel(struct ckpt_ctx *ctx, ckpt_feature_fn fn, void *arg, struct ckpt_err **err);

/*
 * What this processor can do, into the images folder of @opts (cpuinfo.img), where a dump with cpu_cap puts it, too; and whether this
 * processor does for what is recorded there, as cpu_cap says (NULL: "fpu,ins"): CKPT_E_KERNEL if not, and the error says what it lacks.
 * Since 0.1.
 */
CKPT_API int ckpt_cpuinfo_dump(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err);
CKPT_API int ckpt_cpuinfo_check(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err);

/* What is in a checkpoint, as JSON text (free(3) it): the model behind `ckpt inspect`, documented in ckpt-inspect(1). */
CKPT_API int ckpt_inspect(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, char **json, struct ckpt_err **err);

/* -------------------------------------------------------------------------------------------- integrity */

/* What was looked at. */
struct ckpt_verify_stats {
	size_t sz;		/* sizeof(struct ckpt_verify_stats) of the caller; set it before the call */
	uint64_t folders;	/* the images folder, and its parents */
	uint64_t images;	/* that were compared with their sums, without page images */
	uint64_t image_bytes;
	uint64_t page_images;
	uint64_t pages;		/* of 4 KiB; those that deduplication freed do not count */
	uint64_t page_bytes;	/* as they are stored */
	uint64_t unknown;	/* files that nothing is known of: another program wrote them */
	uint64_t us;
};

/*
 * Are the images of the folder of @opts, and of the parents it needs, still what was written? Reads all of it, with several
 * threads and bounded memory. Each damage is handed to @fn (which may be NULL) as an error value that is valid during the
 * call. Returns the number of damages, or negative when the question could not be answered. Files without a sum are counted
 * in @stats (may be NULL) and are no damage. Since 0.1.
 */
typedef void (*ckpt_damage_fn)(void *arg, const struct ckpt_err *damage);
CKPT_API int ckpt_verify(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_verify_stats *stats,
			 ckpt_damage_fn fn, void *arg, struct ckpt_err **err);

/* ------------------------------------------------------------------------------------ the option table */

enum ckpt_option_type {
	CKPT_OPT_BOOL,	 /* bool */
	CKPT_OPT_U32,	 /* uint32_t */
	CKPT_OPT_SIZE,	 /* uint64_t; N, NK, NM, NG */
	CKPT_OPT_STRING, /* const char * */
	CKPT_OPT_STRV,	 /* struct ckpt_strv; the option may be repeated */
	CKPT_OPT_ENUM,	 /* int-sized enum; the words are in @values, by value, ended by NULL */
	CKPT_OPT_VERBOSITY, /* -v counts, -vN sets */
};

enum {
	CKPT_FOR_DUMP = 1 << 0,
	CKPT_FOR_RESTORE = 1 << 1,
	CKPT_FOR_CHECK = 1 << 2,
	CKPT_FOR_INSPECT = 1 << 3,
	CKPT_FOR_PRE_DUMP = 1 << 4,
	CKPT_FOR_DEDUP = 1 << 5,
	CKPT_FOR_LAZY_PAGES = 1 << 6,
	CKPT_FOR_PAGE_SERVER = 1 << 7,
	CKPT_FOR_LOCK = 1 << 12,      /* lock, unlock */
	CKPT_FOR_CPUINFO = 1 << 13,
	CKPT_OPTF_NEGATABLE = 1 << 8, /* --no-NAME exists */
	CKPT_OPTF_HIDDEN = 1 << 9,    /* not in --help */
	CKPT_OPTF_NOT_YET = 1 << 10,  /* parsed; refused by name when used */
	CKPT_OPTF_OPTIONAL_ARG = 1 << 11,
};

/* One row describes one option to the command line, to configuration files, to the RPC service and to --help. */
struct ckpt_option {
	const char *name; /* without dashes */
	char short_name;  /* 0 if none */
	enum ckpt_option_type type;
	unsigned flags;	   /* CKPT_FOR_* | CKPT_OPTF_* */
	size_t offset;	   /* into struct ckpt_opts; (size_t)-1 where nothing is stored */
	const char *arg;   /* name of the argument in --help, NULL for none */
	const char *const *values; /* the words of an enum; of a string with an optional value: [0] is the value if none is given */
	const char *help;
};

/* All options, in the order of --help. Static; *@n rows. Since 0.1. */
CKPT_API const struct ckpt_option *ckpt_option_table(size_t *n);
/*
 * Sets the option @opt in @opts from its text (@value NULL: flag given without argument; "0"/"1" for bool also work).
 * Strings are kept by pointer; lists are grown with malloc and freed by ckpt_opts_clear(). Returns 0, CKPT_E_INVAL,
 * CKPT_E_NOT_YET.
 */
CKPT_API int ckpt_opts_set(struct ckpt_opts *opts, const struct ckpt_option *opt, const char *value,
			   struct ckpt_err **err);
/* Frees what ckpt_opts_set() allocated in @opts, and resets it. */
CKPT_API void ckpt_opts_clear(struct ckpt_opts *opts);

#ifdef __cplusplus
}
#endif
#endif
