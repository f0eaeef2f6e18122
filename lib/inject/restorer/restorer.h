/* SPDX-License-Identifier: MIT */
/* The parts of the restorer. It runs alone in the new task, without libc, from an area that ends with the task's own life. */
#ifndef CKPT_INJECT_RESTORER_H
#define CKPT_INJECT_RESTORER_H

#include "lib/inject/blob/blob.h"
#include "lib/inject/restorer/plan.h"

/* Addresses of functions are taken relative to the copy that runs, not by way of a table of absolute ones. */
#pragma GCC visibility push(hidden)

/* Records where it failed (the first failure counts) and ends the task. */
_Noreturn void fail(struct plan *p, enum plan_step step, uint64_t index, long err);
/* For calls that must succeed: negative results fail. */
static inline long must(struct plan *p, enum plan_step step, uint64_t index, long ret)
{
	if (ret < 0)
		fail(p, step, index, ret);
	return ret;
}

/* Stops until the engine, which traces us, lets us go on. */
static inline void stop(void)
{
	__asm__ volatile("int3" : : : "memory");
}

void fetch_all(struct plan *p);			    /* files.c: first of all */
int fetched(struct plan *p, int32_t file);	    /* the descriptor of a fetch */
void fetch_close(struct plan *p);		    /* they are not needed any more */
void children_create(struct plan *p, uint32_t when); /* tree.c */
_Noreturn void restorer_child(struct plan *p, struct plan_child *c);
void session_begin(struct plan *p);
void group_lead(struct plan *p);
void group_join(struct plan *p);
void helpers_reap(struct plan *p);
_Noreturn void end_as_told(struct plan *p);
_Noreturn void restorer_go_on(struct plan *p, uint64_t vdso); /* main.c: entry in the plan's own copy */
_Noreturn void restorer_jump(struct plan *p, uint64_t vdso, void *entry, uint64_t stack);
void memory_restore(struct plan *p); /* memory.c */
void memory_fill(struct plan *p);    /* fill.c: what the engine fills */
void task_restore(struct plan *p);		    /* task.c: what belongs to the whole task, before its threads */
void sigactions_restore(struct plan *p, bool late);
void rlimits_restore(struct plan *p);		    /* when nothing is made any more that counts against them */
/* The next process or thread gets number @last + 1, if nobody else forks first. */
void last_pid_write(struct plan *p, enum plan_step step, uint64_t index, int last);
void threads_create(struct plan *p);		    /* thread.c */
void thread_restore(struct plan *p, struct plan_thread *t);
void files_restore(struct plan *p);		    /* files.c */
void files_link(struct plan *p);
void timers_restore(struct plan *p);		    /* timers.c */
void signals_queue(struct plan *p, struct plan_array signals, int tid);
void calls_make(struct plan *p, struct plan_array numbers); /* calls.c */
void become(struct plan *p);			    /* creds.c: with all capabilities, which it keeps */
void creds_restore(struct plan *p, struct plan_thread *t);
void seccomp_restore(struct plan *p, struct plan_thread *t);

_Noreturn void init_main(int ready, int go, int root); /* init.c: quite another program in the same file */

#pragma GCC visibility pop

#endif
