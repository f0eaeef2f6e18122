/* SPDX-License-Identifier: MIT */
/* The parts of the restorer. It runs alone in the new task, without libc, from an area that ends with the task's own life. */
#ifndef CKPT_INJECT_RESTORER_H
#define CKPT_INJECT_RESTORER_H

#include "lib/inject/blob/blob.h"
#include "lib/inject/restorer/plan.h"

/* Records where it failed (the first failure counts) and ends the task. */
_Noreturn void fail(struct plan *p, enum plan_step step, uint64_t index, long err);
/* For calls that must succeed: negative results fail. */
static inline long must(struct plan *p, enum plan_step step, uint64_t index, long ret)
{
	if (ret < 0)
		fail(p, step, index, ret);
	return ret;
}

void fetch_all(struct plan *p);			    /* files.c: first of all */
int fetched(struct plan *p, int32_t file);	    /* the descriptor of a fetch */
void memory_restore(struct plan *p, uint64_t vdso); /* memory.c */
void task_restore(struct plan *p);		    /* task.c: what belongs to the whole task, before its threads */
void rlimits_restore(struct plan *p);		    /* when nothing is made any more that counts against them */
void threads_create(struct plan *p);		    /* thread.c */
void thread_restore(struct plan *p, struct plan_thread *t);
void files_restore(struct plan *p);		    /* files.c */
void timers_restore(struct plan *p);		    /* timers.c */
void signals_queue(struct plan *p, struct plan_array signals, int tid);
void calls_make(struct plan *p, struct plan_array numbers); /* calls.c */
void creds_restore(struct plan *p, struct plan_thread *t); /* creds.c */
void seccomp_restore(struct plan *p, struct plan_thread *t);

_Noreturn void init_main(int ready, int go, int root); /* init.c: quite another program in the same file */

#endif
