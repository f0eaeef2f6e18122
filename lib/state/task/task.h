/* SPDX-License-Identifier: MIT */
/*
 * What a task is made of besides memory and files: registers, signals, timers, credentials, scheduling. One file per kind;
 * core.c puts the pieces together.
 */
#ifndef CKPT_STATE_TASK_H
#define CKPT_STATE_TASK_H

#include "lib/inject/remote.h"
#include "lib/state/snapshot.h"

/* One task of a dump: the frozen process, what the parasite said, and where the messages go. */
struct task_dump {
	struct snapshot *s;
	struct snap_task *task;
	struct target *target;
	struct parasite *parasite;
	struct proc_maps *maps; /* smaps, read before the parasite was injected */
	bool flags_later;	/* those are without flags, or with old ones: vmas_set_flags() follows */
	struct mem_copy *copy;	/* lib/state/mem/copy.h: of its memory, so that it need not stand still; NULL: there is none */
	struct page_tracking *tracking; /* lib/state/mem/dirty.h; NULL: every page is stored */
	struct peer *peer;	/* confine.h; one for all tasks, while their cores are dumped */
};

/* Fills task->threads, ->extra, and s->seccomp; runs the parasite in every thread. Host, task frozen. */
int task_dump_core(struct op *op, struct task_dump *d);

/* ---- lib/state/mem, what only the task can be asked; host, task frozen, parasite in place */
int mlock_future_dump(struct op *op, struct task_dump *d);
int mbind_dump(struct op *op, struct task_dump *d);

/* ---- the kinds; host, task frozen */
int creds_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a, CredsEntry **ret);
int sigactions_dump(struct op *op, const struct task_dump *d, const struct parasite_args *a, TaskCoreEntry *tc);
int sigqueue_dump(struct op *op, pid_t tid, bool shared, SignalQueueEntry **ret);
int itimers_dump(struct op *op, const struct parasite_args *a, TaskTimersEntry **ret);
int posix_timers_dump(struct op *op, const struct task_dump *d, TaskTimersEntry *timers);
int sched_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a,
	       ThreadCoreEntry *tc, ThreadExtra *extra);
int seccomp_dump(struct op *op, struct task_dump *d, const struct tracee *tr, ThreadCoreEntry *tc);
/* prctls.c: what prctl(2) and arch_prctl(2) can set and the image format has no place for; of a thread, of the task. */
int prctls_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, const struct parasite_args *a, ThreadExtra *x);
void prctls_dump_task(const struct parasite_args *a, TaskExtra *x);
/* numa.c: set_mempolicy(2) */
int numa_dump(struct op *op, const struct parasite_args *a, ThreadExtra *x);
int sud_dump(struct op *op, const struct tracee *tr, ThreadExtra *x);
int x86_dump_task(struct op *op, struct task_dump *d, const struct parasite_args *a);
int x86_check_thread(struct op *op, const struct tracee *tr);
void cookie_dump(struct op *op, const struct task_dump *d, TaskExtra *x);
void autogroup_dump(struct op *op, const struct task_dump *d, TaskExtra *x);
int rlimits_dump(struct op *op, const struct task_dump *d, TaskCoreEntry *tc);
/* May move regs->rip to the abort handler of a critical section. */
int rseq_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, struct user_regs_struct *regs,
	      ThreadCoreEntry *tc);
/* The call with a restart block that the stop cut short in @tr; 0 if it was none, or cannot be told. */
uint64_t restart_original_call(const struct tracee *tr);
/* What a sleeping thread has to wait for still; *@ret is NULL where there is nothing to say. */
int restart_dump(struct op *op, const struct task_dump *d, const struct tracee *tr, RestartEntry **ret);

#endif
