/* SPDX-License-Identifier: MIT */
/* What the parts of the restore pipeline (restore.c) share. */
#ifndef CKPT_ENGINE_RESTORE_PARTS_H
#define CKPT_ENGINE_RESTORE_PARTS_H

#include <sys/user.h>

#include "lib/state/task/plan_build.h"

/* One thread of the new task as the tracer sees it. */
struct new_thread {
	pid_t tid;   /* as we see it; 0: does not exist yet */
	bool ready;  /* has done its part, stands at its int3 */
	bool gone;
	struct user_regs_struct regs;
	void *xstate;
	size_t xstate_len;
	uint64_t sigmask;
};

struct restore {
	struct snapshot s;
	struct snap_task *task;
	struct plan_build build;
	struct plan *plan; /* shared with the task */
	size_t plan_len;
	uint64_t plan_off;
	uint64_t syscall_at; /* address of a system call instruction in the task */
	int plan_fd, elf_fd, self_pidfd;
	char argv[4][24]; /* of the restorer */
	void *stack; /* the new task's, until it has executed the restorer */
	int exec_errno; /* why it did not */
	pid_t pid;   /* of the new task, as we see it; 0: there is none */
	int pidfd;
	bool stop_wanted; /* somebody sent it a SIGSTOP meanwhile */
	struct new_thread *threads;
	int init_pidfd;	   /* new_pidns: its init, -1: none */
	int init_go;	   /* pipe that it waits on */
	int own_pidns;	   /* our own, to come back to */
	char timens[128];  /* offsets of the clocks, as the kernel takes them; "": ours are right */
	const char *child_step; /* what exec_errno is about */
	int last_pid_fd; /* /proc/sys/kernel/ns_last_pid, locked */
	uint64_t forked_at, started_at;
};

/* restore_read.c: everything but files into the snapshot. */
int restore_read(struct op *op, struct snapshot *s);
/* restore_check.c: could this be restored here? Nothing is created. */
int restore_check(struct op *op, struct restore *r);
int restore_check_pids(struct op *op, const struct snap_task *t);
/* Says who has the PID @pid. */
int restore_pid_taken(struct op *op, pid_t pid);
/* restore_plan.c: the plan in a memfd, and the restorer in another. */
int restore_plan(struct op *op, struct restore *r);
/* restore_spawn.c: how the PIDs will be had; the new process, seized, about to execute the restorer. */
int restore_prepare_pids(struct op *op, struct restore *r);
int restore_spawn(struct op *op, struct restore *r);
/* restore_ns.c: namespaces the new process gets */
int restore_clocks(struct op *op, struct restore *r);
int restore_pidns(struct op *op, struct restore *r);
int restore_pidns_enter(struct op *op, struct restore *r, bool enter); /* the calling thread's children go there */
int restore_pidns_go(struct op *op, struct restore *r);	/* the root task exists */
void restore_pidns_done(struct restore *r, bool success);
void restore_spawn_done(struct restore *r); /* after restore_drive() or restore_kill() */
void restore_kill(struct op *op, struct restore *r);
/* restore_trace.c */
int restore_drive(struct op *op, struct restore *r);  /* until all threads are ready */
int restore_finish(struct op *op, struct restore *r); /* registers and the last touches; nothing runs yet */
int restore_release(struct op *op, struct restore *r); /* they run */
/* restore_sleep.c: sleeps that go on with what was left of them; before the registers are loaded */
int restore_sleeps(struct op *op, struct restore *r);
/* Makes a stopped thread do one system call that does not block. */
int restore_call(struct op *op, struct restore *r, pid_t tid, long nr, const uint64_t *args, long *result);
/* Writes into the scratch page at the end of the restorer's area (at most PLAN_SCRATCH bytes); *@at is its address. */
int restore_scratch(struct op *op, struct restore *r, const void *p, size_t n, uint64_t *at);
int restore_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs);
/* A thread's next stop: like waitpid, but it can be cancelled. */
int restore_wait(struct op *op, struct restore *r, pid_t tid, int *status);

#endif
