/* SPDX-License-Identifier: MIT */
/*
 * The plan: everything the restorer has to do inside the new task, written by the engine into a memfd that both have
 * mapped. Flat and position independent: arrays are (offset from the plan, count). The engine has checked all of it; the
 * restorer believes it. Fixed-width types only, since the two sides are compiled differently.
 *
 * The memfd holds [the restorer's own ELF image][struct plan and its arrays][stacks]; the task maps it at @base, an area
 * that no mapping of the task to be restored touches, followed by room where the vDSO is parked meanwhile.
 */
#ifndef CKPT_INJECT_PLAN_H
#define CKPT_INJECT_PLAN_H

#include <stdint.h>

#define PLAN_MAIN_STACK (64u << 10)
#define PLAN_THREAD_STACK (8u << 10)
#define PLAN_CHILD_STACK (8u << 10) /* of a child until it has its own plan */
#define PLAN_BOUNCE (128u << 10) /* pages that may be in memory already, for comparison */
#define PLAN_BLOCK (64u << 10) /* BLOCK_PAGES of lib/image/block.h */
#define PLAN_MAX_FD (1u << 20) /* descriptors have lower numbers */
#define PLAN_SCRATCH 4096u /* behind the stacks: for calls the engine makes in the stopped task */

struct plan_array {
	uint64_t off, n;
};

/* Where the restorer failed. Names for people are in lib/engine/restore_task.c. */
enum plan_step {
	PLAN_STEP_NONE,
	PLAN_STEP_FETCH,     /* index: fetch */
	PLAN_STEP_VDSO_PARK,
	PLAN_STEP_UNMAP,
	PLAN_STEP_MAP,	    /* index: VMA */
	PLAN_STEP_READ,	    /* index: extent */
	PLAN_STEP_MOVE,	    /* index: move */
	PLAN_STEP_CHECK,    /* index: check << 32 | block */
	PLAN_STEP_PROTECT,  /* index: VMA */
	PLAN_STEP_ADVISE,   /* index: VMA */
	PLAN_STEP_LOCK,	    /* index: VMA */
	PLAN_STEP_GUARD,    /* index: guard */
	PLAN_STEP_NAME,	    /* index: name */
	PLAN_STEP_VDSO_MOVE,
	PLAN_STEP_VDSO_OLD,
	PLAN_STEP_MM,
	PLAN_STEP_SESSION,
	PLAN_STEP_CHILD,     /* index: of the child; err 0: another pid was given */
	PLAN_STEP_GROW,	     /* index: VMA */
	PLAN_STEP_DROP,	     /* index: drop */
	PLAN_STEP_REAP,	     /* index: pid */
	PLAN_STEP_CWD,
	PLAN_STEP_ROOT,
	PLAN_STEP_PERSONALITY,
	PLAN_STEP_PRCTL,    /* index: prctl number */
	PLAN_STEP_MEMBARRIER,
	PLAN_STEP_SIGACTION, /* index: signal */
	PLAN_STEP_THREAD,    /* index: thread; err 0: another tid was given */
	PLAN_STEP_FD,	     /* index: descriptor */
	PLAN_STEP_FOWN,	     /* index: descriptor */
	PLAN_STEP_LOCKFILE,  /* index: descriptor */
	PLAN_STEP_ITIMER,    /* index: which */
	PLAN_STEP_TIMER,     /* index: timer id */
	PLAN_STEP_SIGNAL,    /* index: signal */
	PLAN_STEP_RLIMIT,    /* index: resource */
	PLAN_STEP_COMM,
	PLAN_STEP_ALTSTACK,
	PLAN_STEP_ROBUST,
	PLAN_STEP_RSEQ,
	PLAN_STEP_THREAD_AREA,
	PLAN_STEP_SLACK,
	PLAN_STEP_SECCOMP,   /* index: filter */
	PLAN_STEP_GROUPS,
	PLAN_STEP_IDS,
	PLAN_STEP_CAPS,
	PLAN_STEP_SECUREBITS,
	PLAN_STEP_AMBIENT,
	PLAN_STEP_BOUNDING,
	PLAN_STEP_UFFD,
	PLAN_STEP_CALL,	     /* index: number of the call (struct build_call on the engine's side) */
	PLAN_STEP_TIME_NS,
	PLAN_N_STEPS,
};

/*
 * When a system call of the plan is made, by the main thread of the task. In one phase they are made in the order in
 * which they were planned.
 */
enum plan_phase {
	PLAN_MEMORY, /* areas are mapped, filled and protected; no other thread exists yet */
	PLAN_SESSION, /* its session and process group are made, and its children are not: they inherit what is set here */
	PLAN_BARE,   /* the descriptor table has nothing below the highest number of the program's own */
	PLAN_OPEN,   /* the descriptors that the engine opened are at their numbers */
	PLAN_LINK,   /* every task of the tree has come through PLAN_OPEN; what they opened for others is at its numbers, too */
	PLAN_LAST,   /* timers run, signals are queued, limits are set; before seccomp filters and credentials */
	PLAN_N_PHASES,
};

enum {
	PLAN_CALL_MAY_FAIL = 1 << 0, /* a failure is no reason to give up: the engine warns */
	PLAN_CALL_EXPECT = 1 << 1,   /* the result must be @expect, which may be -errno */
	PLAN_CALL_FD = 1 << 2,	     /* the result is a descriptor: it goes to number @fd */
	PLAN_CALL_CLOEXEC = 1 << 3,  /* with PLAN_CALL_FD */
	PLAN_CALL_RETRY = 1 << 4,    /* EINTR and EAGAIN: again */
	PLAN_CALL_UNLESS = 1 << 5,   /* only if the earlier call with number @expect gave 0; not with PLAN_CALL_EXPECT */
};

#define PLAN_UNEXPECTED 4095 /* no errno: the call gave something else than was expected */

/* A system call that the task makes itself, because only it can. */
struct plan_call {
	uint32_t nr;
	uint32_t flags;	    /* PLAN_CALL_* */
	uint8_t data_args;  /* bit i: args[i] is an offset from the plan, and the call gets its address */
	uint8_t result_args; /* bit i: args[i] is the number of an earlier call of this task, and the call gets its result */
	uint8_t engine_args; /* bit i: args[i] is the task's pidfd of the engine (from it: pidfd_getfd); not in PLAN_LAST */
	uint8_t load_args;  /* bit i: args[i] is an offset from the plan, and the call gets the 8 bytes that are there then */
	int32_t fd;	    /* with PLAN_CALL_FD; -1: it stays where the kernel put it */
	int64_t expect;
	uint64_t args[6];
	int64_t result;	    /* written by the restorer */
};

/* Things that could not be done and are no reason to give up. */
enum {
	PLAN_WARN_IO_FLUSHER = 1 << 0,
	PLAN_WARN_NAME = 1 << 1,
	PLAN_WARN_MEMBARRIER = 1 << 2,
};

struct plan_error {
	uint32_t step; /* written last */
	int32_t err;   /* errno */
	int32_t tid;
	uint32_t pad;
	uint64_t index;
};

/*
 * A descriptor of the engine's that the task needs while it is restored: taken with pidfd_getfd from the engine, so that
 * the table that is inherited stays small however many files the tree has.
 */
struct plan_fetch {
	int32_t engine; /* its number in the engine */
	int32_t local;	/* written by the restorer: the number it has here */
	uint64_t path;	/* else a directory that is opened here, by its name at this offset; 0: none */
};

struct plan_vma {
	uint64_t start, len, pgoff;
	uint32_t prot;	     /* to map with */
	uint32_t final_prot; /* to end with */
	uint32_t flags;	     /* mmap flags without MAP_FIXED* */
	int32_t file; /* index of a fetch, -1: none */
	uint64_t madv;	/* bitmap of advice */
	uint32_t inherited, pad2; /* 0, or 1 + index of a plan_inherited */
	uint32_t lock;	/* mlock2 */
	uint32_t pad;
};

struct plan_extent { /* page data: a piece of a file */
	uint64_t addr, len, offset;
	int32_t file;	/* index of a fetch */
	uint32_t check; /* 1 + index of a plan_check; 0: what was read is not checked */
};

/*
 * What the sums (lib/image/block.h) of pages that the task reads from one file should come to, block by block from @first on.
 * The restorer takes those of the pages that it has read away: nothing is to be left.
 */
struct plan_check {
	uint64_t first;
	struct plan_array sums; /* uint64_t */
};

struct plan_range {
	uint64_t start, len;
};

struct plan_move { /* pages that were put at @from are to be at @to */
	uint64_t from, to, len;
};

/*
 * Memory that the engine fills while the task stands still with its areas mapped: through the task's userfaultfd where it
 * can. Where huge pages are to be it fills scratch memory, whose pages the task then moves.
 */
struct plan_fill {
	/* written by the engine */
	uint32_t wanted;
	uint32_t pad;
	uint64_t scratch, scratch_len; /* address, a multiple of 2 MiB; length 0: none */
	struct plan_array places;      /* struct plan_range: areas that pages are put into through the userfaultfd */
	struct plan_array moves;       /* struct plan_move */
	/* written by the restorer */
	uint32_t standing;    /* this int3 is that stop */
	uint32_t has_scratch;
	int32_t uffd;	      /* -1: there is none */
	uint32_t pad2;
};

/* An area that is a copy of the creator's. What the creator has beyond it is unmapped. */
struct plan_inherited {
	uint32_t have_prot; /* as the creator left it */
	uint32_t pad;
	uint64_t have_end;  /* where the creator's ends, if that is before this one's */
	uint64_t have_start; /* of one that grows down: where the creator's begins, if that is after this one's */
};

/* A process that this one forks. */
struct plan_child {
	int32_t pid;	   /* of a step (@await): the lowest that it may have */
	struct plan_array tids; /* int32_t: all numbers of it, the innermost PID namespace's first; empty: @pid alone */
	uint32_t when;	   /* enum tree_when of lib/engine/tree.h: 0 to 3 */
	uint64_t flags;	   /* of clone3, besides the exit signal */
	uint32_t await;	   /* a step: is waited for at once */
	int32_t plan_fd;   /* in the engine */
	uint64_t base, map_len, plan_off; /* where it maps that */
	/* written by the restorer before the fork: the creator goes on, and changes its own */
	uint64_t vdso_now;
	int32_t engine_fd, pad;
};

struct plan_copy { /* private memory whose bytes are in the plan: at offset @data, 0: zeroes */
	uint64_t start, len, data;
	uint32_t prot, pad;
};

struct plan_name {
	uint64_t start, len, name; /* name: offset of the NUL-terminated text */
};

/* One mapping of the vDSO block of this kernel; off is relative to the vDSO's first byte. */
struct plan_vdso_area {
	int64_t off;
	uint64_t len;
};

enum plan_fd_source {
	PLAN_FD_ENGINE, /* the engine's @from; before the calls of PLAN_OPEN */
	PLAN_FD_OWN,	/* the task's own @from; after the calls of PLAN_OPEN */
	PLAN_FD_LATE,	/* the engine's @from, which it took from another task meanwhile; before the calls of PLAN_LINK */
};

struct plan_fdop {
	int32_t from, to, cloexec;
	uint32_t source; /* enum plan_fd_source */
};

struct plan_fown {
	int32_t fd;
	uint32_t uid, euid, signum, type;
	int32_t pid;
};

struct plan_lock {
	int32_t fd;
	uint32_t flock; /* else a POSIX lock */
	int32_t type;	/* F_RDLCK ..., or LOCK_SH ... */
	uint32_t pad;
	int64_t start, len;
};

struct plan_sigaction {
	uint32_t signo, pad;
	uint64_t handler, flags, restorer, mask; /* the kernel's struct from handler on */
};

struct plan_siginfo {
	uint8_t bytes[128];
};

struct plan_timer {
	uint32_t id;
	int32_t clock;
	uint32_t signo, notify;
	uint64_t value;
	int32_t tid;
	uint32_t arm;
	/* > 0: the timer is to have expired so many intervals before its next expiry, which leaves its signal pending... */
	uint64_t expired;
	uint32_t take; /* ...or, with this, taken: overruns are then what they were */
	uint32_t lost; /* written by the restorer: overruns could not be made again */
	uint64_t interval_s, interval_ns, value_s, value_ns;
};

struct plan_itimer {
	uint64_t interval_s, interval_us, value_s, value_us;
};

struct plan_rlimit {
	uint32_t resource, pad;
	uint64_t cur, max;
};

struct plan_filter {
	uint64_t off; /* of the instructions */
	uint32_t len; /* in instructions */
	uint32_t flags;
};

struct plan_user_desc { /* the kernel's struct user_desc */
	uint32_t entry_number, base_addr, limit, bits;
};

struct plan_creds {
	uint32_t change; /* 0: they are what the engine has */
	uint32_t keep_groups; /* those that the process was born with: nobody may set any */
	uint32_t uid, euid, suid, fsuid, gid, egid, sgid, fsgid;
	uint32_t securebits;
	uint32_t last_cap;
	uint32_t no_new_privs, pad;
	uint64_t inheritable, permitted, effective, bounding, ambient;
	struct plan_array groups; /* uint32_t */
};

struct plan_thread {
	int32_t tid;	/* in its own PID namespace */
	uint32_t seccomp_mode;	    /* 0, 1 strict, 2: filters below */
	struct plan_array filters; /* struct plan_filter, in the order of installation; empty where the leader's are inherited */
	uint64_t robust_list, robust_len;
	uint64_t clear_tid;
	uint64_t altstack_sp, altstack_size;
	uint32_t altstack_flags, has_altstack;
	uint64_t rseq, rseq_len;
	uint32_t rseq_signature, has_rseq;
	uint64_t timerslack_ns; /* 0: leave */
	uint32_t pdeath_sig;
	char comm[16];
	struct plan_array signals;     /* struct plan_siginfo, directed at this thread */
	struct plan_array tids;	       /* as in plan_child */
	struct plan_array thread_area; /* struct plan_user_desc */
	struct plan_array calls;       /* uint32_t, numbers of calls; made by the thread itself, before filters and credentials */
	struct plan_creds creds;
};

/* The kernel's struct prctl_mm_map. */
struct plan_mm {
	uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
	uint64_t arg_start, arg_end, env_start, env_end;
	uint64_t auxv; /* filled in by the restorer */
	uint32_t auxv_size, exe_fd; /* the descriptor is filled in by the restorer, too */
};

enum plan_kind {
	PLAN_TASK,
	PLAN_ENDS, /* a zombie, or a helper: takes its place in the tree, and ends with @end */
	PLAN_FORKS, /* a helper: forks, and ends */
};

/* Where a task stops (int3) and waits for the others; bits of plan.barriers. */
enum plan_barrier {
	PLAN_BARRIER_TREE = 1 << 0,   /* every process exists */
	PLAN_BARRIER_JOINED = 1 << 1, /* everybody is in his group */
	PLAN_BARRIER_OPEN = 1 << 2,   /* descriptors are there */
};

struct plan {
	/* written by the restorer */
	struct plan_error error;
	uint32_t warnings;
	uint32_t rlimits_short; /* bit: resource whose hard limit we may not raise */
	uint64_t pages_done;
	uint64_t vdso_now; /* where the vDSO is at the moment */
	struct plan_fill fill;
	/* written by the engine */
	uint64_t base;	    /* where the task maps the memfd */
	uint64_t map_len;   /* of the memfd */
	uint64_t area_len;  /* of the whole area: the memfd and the parking room */
	uint64_t stacks;    /* offset from base of the main stack, then one a thread */
	uint64_t task_size; /* end of user addresses */
	uint32_t kind;	    /* enum plan_kind */
	uint32_t barriers;  /* where to stop */
	int32_t end;	    /* of PLAN_ENDS: wait status to end with */
	char comm[16];	    /* of PLAN_ENDS; "": none */
	uint32_t shares_memory, shares_files, shares_folders, shares_actions; /* with the creator: they are its business */
	uint32_t leads_group;
	int32_t join;	    /* process group; 0: none */
	uint32_t late_session; /* the session begins after the late children that are outside of it */
	uint64_t bounce;    /* offset from base of PLAN_BOUNCE bytes, 0: no area is inherited */
	uint64_t child_stacks; /* offset from base */
	int32_t pid; /* in its own PID namespace */
	int32_t engine_fd; /* pidfd of the engine, or of a process that has the same descriptors (lib/kernel/depot.h), inherited; the restorer moves it out of the way of the program's */
	uint32_t become;   /* born in a user namespace, in which it is nobody: it becomes these at first */
	uint32_t become_uid, become_gid;
	int32_t highest;   /* number of a descriptor of the program's, -1: it has none */
	/* indices of fetches */
	int32_t exe_file;
	int32_t cwd_file, root_file; /* root -1: leave */
	int32_t time_ns;	/* that it joins at first; -1: none */
	int32_t mnt_ns_file; /* another mount namespace than the root task's; -1: the same */
	int32_t last_pid_file; /* >= 0: threads get their ids through ns_last_pid */
	uint32_t umask;
	uint32_t setsid;
	uint32_t personality, set_personality;
	uint32_t subreaper, thp_disable, io_flusher;
	uint32_t membarrier;
	uint32_t restore_ids; /* the kernel takes timer ids */
	uint32_t lazy;	    /* makes a userfaultfd, and has it until the barrier of the tree */
	int32_t uffd_device; /* made by /dev/userfaultfd, where the task itself has not the right to; index of a fetch, -1: not */
	int32_t uffd;	    /* that, written by the restorer */
	uint32_t share_filters; /* all threads have the leader's filters: it installs them before it makes them */
	struct plan_mm mm;
	struct plan_array auxv; /* uint64_t */
	struct plan_array vdso; /* struct plan_vdso_area: of this kernel, parked or unmapped */
	uint64_t vdso_dst;	/* where the vDSO goes; 0: the task has none */
	struct plan_array fetches;
	struct plan_array vmas, extents, guards, names, copies;
	struct plan_array inherited; /* struct plan_inherited */
	struct plan_array keeps;     /* struct plan_range, ascending: what is not unmapped at first; empty: all is */
	struct plan_array drops;     /* struct plan_range: pages that the creator has and this one has not */
	struct plan_array compares;  /* struct plan_extent: pages that may be there already */
	struct plan_array checks;    /* struct plan_check */
	struct plan_array children;  /* struct plan_child */
	struct plan_array helpers;   /* int32_t: children that end while the tree is made, and are waited for */
	struct plan_array fdops, fowns, locks;
	struct plan_array sigactions, signals, timers, rlimits;
	struct plan_itimer itimers[3];
	struct plan_array threads; /* [0] is the leader */
	struct plan_array calls;   /* struct plan_call, all of them: a call's number is its index */
	struct plan_array phases[PLAN_N_PHASES]; /* uint32_t, numbers of calls */
};

#define PLAN_AT(p, T, arr) ((T *)((char *)(p) + (arr).off))

#endif
