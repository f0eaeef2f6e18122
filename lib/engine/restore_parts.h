/* SPDX-License-Identifier: MIT */
/* What the parts of the restore pipeline (restore.c) share. */
#ifndef CKPT_ENGINE_RESTORE_PARTS_H
#define CKPT_ENGINE_RESTORE_PARTS_H

#include <sys/user.h>

#include "lib/engine/tree.h"
#include "lib/state/task/plan_build.h"

/* One thread of a new task as the tracer sees it. */
struct new_thread {
	pid_t tid;   /* as we see it; 0: does not exist yet */
	bool ready;  /* stands at an int3: at a barrier, or has done its part */
	bool gone;
	struct user_regs_struct regs;
	void *xstate;
	size_t xstate_len;
	uint64_t sigmask;
};

/* One process of the new tree: a task of the snapshot, or a helper. */
struct new_task {
	struct restore *r;
	const struct tree_node *node;
	struct snap_task *task; /* NULL: a helper */
	struct plan_build build;
	struct plan *plan; /* shared with it */
	size_t plan_len;
	uint64_t plan_off;
	int plan_fd;
	uint64_t syscall_at; /* address of a system call instruction in it */
	pid_t pid;	     /* as we see it; 0: there is none (any more) */
	bool ended;	     /* as it should */
	int uffd;	     /* lazy pages: ours of its userfaultfd; -1: none */
	pid_t own_number;    /* what it calls itself; not of the root */
	pid_t zombie;	     /* what its number was; its parent's to wait for, and ours when that is gone */
	bool stop_wanted;    /* somebody sent it a SIGSTOP meanwhile */
	struct new_thread *threads;
	size_t n_threads, n_born; /* of those, and of its children: how many there are to be, and are */
	struct new_task **kids;	  /* in the order in which it forks them */
	size_t n_kids, n_kids_born;
};

struct restore {
	struct snapshot s;
	struct tree tree;
	struct new_task *tasks; /* one a node of the tree, in that order: [0] is the root */
	size_t n_tasks;
	struct plan_host host;
	int elf_fd, self_pidfd;
	int source_fd; /* pidfd of whom tasks take our descriptors from: ourselves, or a depot */
	struct depot *depot; /* lib/kernel/depot.h; NULL: there is none */
	char argv[4][24]; /* of the restorer */
	struct child *child; /* what the root goes by until then: restore_child.h */
	int root_go[2]; /* pipe that it waits on */
	int timens_fd;	/* of its offsets, -1: not open */
	void *stack; /* the root's, until it has executed the restorer */
	int exec_errno; /* why it did not */
	pid_t pid;   /* of the root, as we see it */
	int pidfd;
	bool seccomp; /* some thread has filters */
	int init_pidfd;	   /* new_pidns: its init, -1: none */
	int init_go;	   /* pipe that it waits on */
	int own_pidns;	   /* our own, to come back to */
	char timens[128];  /* offsets of the clocks, as the kernel takes them; "": ours are right */
	const char *child_step; /* what exec_errno is about */
	int last_pid_fd; /* /proc/sys/kernel/ns_last_pid, locked */
	bool lazy;	   /* pages come after the tasks run: restore_lazy.c */
	int lazy_conn;	   /* to the daemon */
	uint64_t n_pages;
	uint64_t forked_at, started_at;
};

/* restore_read.c: everything but files into the snapshot. */
int restore_read(struct op *op, struct snapshot *s);
/* restore_check.c: could this be restored here? Nothing is created. */
int restore_check(struct op *op, struct restore *r);
/* The registers of a task's threads, as this processor takes them. */
int restore_load_registers(struct op *op, struct new_task *t);
/* Says who has the PID @pid. */
int restore_pid_taken(struct op *op, pid_t pid);
/* restore_plan.c: each process's plan in a memfd, and the restorer in another. */
int restore_plan(struct op *op, struct restore *r);
void restore_plan_done(struct restore *r);
/* The task whose memory a fork copies: its creator's, or that of whoever sent a step to fork it. */
struct snap_task *restore_memory_from(struct restore *r, const struct tree_node *n);
/* The restorer in a memfd; before restore_pidns(). */
int restore_make_elf(struct op *op, struct restore *r);
/* restore_spawn.c: how the PIDs will be had; the root process, in new namespaces, seized; what it goes by, and that it may go. */
int restore_prepare_pids(struct op *op, struct restore *r);
int restore_root(struct op *op, struct restore *r);
int restore_spawn(struct op *op, struct restore *r);
/* restore_ns.c: namespaces the new processes get */
int restore_clocks(struct op *op, struct restore *r);
int restore_pidns(struct op *op, struct restore *r);
int restore_pidns_enter(struct op *op, struct restore *r, bool enter); /* the calling thread's children go there */
int restore_pidns_go(struct op *op, struct restore *r);	/* the root task exists */
void restore_pidns_done(struct restore *r, bool success);
void restore_spawn_done(struct restore *r); /* after restore_drive() or restore_kill() */
void restore_kill(struct op *op, struct restore *r); /* restore_kill.c; any number of times */
/* restore_trace.c: the tracer's part, for one process */
/* Follows it until it stands at its next barrier or is ready, with all its threads; or ends, if that is its part. */
int restore_follow(struct op *op, struct new_task *t);
int restore_resume(struct op *op, struct new_task *t, pid_t tid, int request, int sig);
/* A thread's next stop: like waitpid, but it can be cancelled. */
int restore_wait(struct op *op, struct new_task *t, pid_t tid, int *status);
/* Tells how much memory the restorers have read so far. */
void restore_progress(struct op *op, const struct restore *r);
/* restore_fill.c: whether a task that stopped wants its memory filled, and that. */
bool restore_wants_fill(const struct new_task *t);
int restore_fill(struct op *op, struct new_task *t);
void restore_warn(struct op *op, struct new_task *t);
/* restore_report.c: what went wrong in it */
int restore_report(struct op *op, struct new_task *t, pid_t tid, int status);
/* restore_tree.c: the whole, phase by phase */
int restore_drive(struct op *op, struct restore *r);  /* until all threads are ready */
int restore_finish(struct op *op, struct restore *r); /* registers and the last touches; nothing runs yet */
int restore_untie(struct op *op, struct restore *r); /* from here on they run on if we are killed */
int restore_release(struct op *op, struct restore *r); /* they run */
/* restore_finish.c: the same for one process, in this order */
int task_touch(struct op *op, struct new_task *t);
bool task_to_be_stopped(struct op *op, const struct new_task *t);
int task_stop(struct op *op, struct new_task *t);
int task_forget_stop(struct op *op, struct new_task *t, pid_t child); /* what the stop of a child told it */
int task_load(struct op *op, struct new_task *t); /* the restorer is gone after that */
int task_set_masks(struct op *op, struct new_task *t);
int task_untie(struct op *op, struct new_task *t, bool seccomp); /* @seccomp: filters stay suspended */
int task_release(struct op *op, struct new_task *t);
/* restore_lazy.c; each does nothing if the restore is not lazy */
int restore_lazy_begin(struct op *op, struct restore *r);     /* before the plans: areas, and the daemon */
int restore_lazy_hand_over(struct op *op, struct restore *r); /* all tasks stand at the barrier of the tree */
int restore_lazy_check(struct op *op, const struct restore *r); /* is the daemon still there? */
int restore_lazy_end(struct op *op, struct restore *r);	      /* the tasks are about to run */
void restore_lazy_done(struct restore *r);		      /* they run, or there are none any more */
/* restore_tiles.c: room for AMX tiles; before anything else is done with a thread that stands at its int3 */
int restore_tiles(struct op *op, struct new_task *t);
/* restore_sleep.c: sleeps that go on with what was left of them; before the registers are loaded */
int restore_sleeps(struct op *op, struct new_task *t);
/* restore_call.c */
/* Makes a stopped thread do one system call that does not block. */
int restore_call(struct op *op, struct new_task *t, pid_t tid, long nr, const uint64_t *args, long *result);
/* The leader does it, and a failure of the call is one of ours: "task 42: WHAT". */
int restore_must_call(struct op *op, struct new_task *t, long nr, const uint64_t *args, const char *what);
/* Registers with which a thread makes a call as soon as it is resumed. */
void restore_call_regs(const struct new_task *t, struct user_regs_struct *regs, long nr, const uint64_t *args);
/* Writes into the scratch page at the end of the restorer's area (at most PLAN_SCRATCH bytes); *@at is its address. */
int restore_scratch(struct op *op, struct new_task *t, const void *p, size_t n, uint64_t *at);
int restore_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs);

#endif
