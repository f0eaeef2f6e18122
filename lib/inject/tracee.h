/* SPDX-License-Identifier: MIT */
/*
 * Stopping other processes: a target is a process of which every thread is seized and stopped. ptrace belongs to the
 * calling thread, so a target is used by the thread that seized it, until target_release().
 *
 * What is true at any instant: a thread whose tracer dies goes on by itself, with its own registers and mask. Where a
 * thread is made to run something, lib/inject/remote.c sees to it that this still holds.
 */
#ifndef CKPT_INJECT_TRACEE_H
#define CKPT_INJECT_TRACEE_H

#include <sys/user.h>

#include "lib/base/op.h"
#include "lib/kernel/arch/x86_64/sigframe.h"
#include "lib/kernel/proc/read.h"
#include "lib/kernel/uapi.h"

/* An address in another process: not to be mixed with ours. */
struct raddr {
	uint64_t v;
};

struct tracee {
	pid_t tid;
	bool seized;
	bool stopped;	       /* in a ptrace-stop now */
	bool exited;
	int stop_sig;	       /* group-stop: the signal, else 0 */
	pid_t cloned;	       /* the child of an event of that kind (PTRACE_O_TRACECLONE) */
	bool late_stop;	       /* a SIGSTOP came while we had it; sent again when it is let go */
	struct proc_status status; /* read before the stop */
	/* As the thread was when it stopped; regs may hold a restart code in rax. */
	struct user_regs_struct regs;
	void *xstate;
	size_t xstate_len;
	uint64_t sigmask;
	struct ptrace_sud_config sud; /* syscall user dispatch; read by sud_suspend() */
	bool sud_off;		      /* by us */
	/* Read before the seize, to estimate how long a sleep lasted. */
	uint64_t slept_since; /* CLOCK_MONOTONIC ns, 0 unknown */
	char wchan[32];
};

struct target {
	pid_t pid;
	int pidfd;
	int mem; /* /proc/PID/mem */
	struct proc_stat stat;
	ARRAY(struct tracee) threads; /* [0] is the leader */
	uint64_t seized_at;	      /* now_ns() before the first seize */
};

/*
 * Seizes and stops all threads of @pid, looping until no new one appears. On failure everything is let go again. The
 * arena of @op owns the target's memory.
 */
int target_freeze(struct op *op, pid_t pid, struct target *t);
/*
 * The same in two steps, where many processes are to be caught at once: the first seizes and interrupts, the second waits.
 */
struct sleepers; /* lib/inject/sleepers.h */
int target_seize(struct op *op, pid_t pid, struct target *t, struct sleepers *sleepers);
int target_stop(struct op *op, struct target *t, struct sleepers *sleepers);
/*
 * Stops a single thread, the leader or (where that has ended) any other: enough to make the process do something. The others
 * run on.
 */
int target_stop_one(struct op *op, pid_t pid, struct target *t);
/*
 * Lets all threads go as they were, system calls that the stop cut short included; closes descriptors. Never fails. Safe
 * on a zeroed or half-built target.
 */
void target_release(struct op *op, struct target *t);
/* Ends the process; what a tracer has to reap is left to target_reap(), which waits, and closes descriptors. */
int target_end(struct op *op, struct target *t);
/* It never runs again: should we end, or be killed, before target_end(), it is killed with us. */
void target_bind(struct target *t);
void target_reap(struct target *t);

/* Options with which a thread of ours is traced. */
long tracee_options(const struct tracee *tr);

/* Waits until @tr reports a stop. *@status as from waitpid. Returns 0 or a recorded failure (also when it exited). */
int tracee_wait(struct op *op, const struct target *t, struct tracee *tr, int *status);

/* Whether the process has ended, or is about to. */
bool target_has_ended(const struct target *t);
/* Whether a thread of a task that does not run (frozen, seized) waits in vfork for its child. */
bool target_in_vfork(struct op *op, const struct target *t);

int target_read(struct op *op, const struct target *t, struct raddr from, void *buf, size_t n);
int target_write(struct op *op, const struct target *t, struct raddr to, const void *buf, size_t n);

int tracee_get_regs(struct op *op, pid_t tid, struct user_regs_struct *regs);
int tracee_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs);
int tracee_get_sigmask(struct op *op, pid_t tid, uint64_t *mask);
int tracee_set_sigmask(struct op *op, pid_t tid, uint64_t mask);

/*
 * The registers with which a thread goes on if it is not to know of us: a system call that was cut short by the stop is
 * made again. Calls with a restart block (a relative sleep) are made again from the start too, unless
 * @restart_block_eintr: then they get -EINTR, as the image format wants. Returns whether something was changed.
 */
bool regs_cook_restart(struct user_regs_struct *regs, bool restart_block_eintr, bool signal_due);

#endif
