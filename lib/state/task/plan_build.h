/* SPDX-License-Identifier: MIT */
/*
 * Restore, host side: from images to the plan that the restorer follows (lib/inject/restorer/plan.h). Each kind of state
 * has a function plan_*() here, which checks what the image says and puts it into the plan. Called before any task
 * exists; nothing is changed anywhere but in the plan.
 */
#ifndef CKPT_STATE_PLAN_BUILD_H
#define CKPT_STATE_PLAN_BUILD_H

#include "lib/inject/restorer/plan.h"
#include "lib/kernel/proc/read.h"
#include "lib/state/pieces.h"

/* What tasks inherit from us, and what they get from this kernel: looked at once a restore. */
struct vdso_layout;
struct plan_host {
	struct proc_status self; /* of the calling thread */
	uint32_t securebits;
	struct proc_limit limits[16];
	struct vdso_layout *vdso; /* lib/state/mem/restore_vdso.c */
};

/* A call as it was planned, and what it does, for messages. */
struct build_call {
	struct plan_call c;
	enum plan_phase phase;
	int32_t thread; /* >= 0: made by this thread (index), whatever the phase */
	const char *what;
};

/* A page image that the task reads from. */
struct plan_source {
	uint32_t source; /* index in snapshot.sources */
	int32_t file;	 /* of a fetch */
};

enum fill_how {
	FILL_NEW,     /* nothing is there; through the task's userfaultfd if it has one */
	FILL_HUGE,    /* the same, by huge pages in its scratch memory if it has that: whole ones */
	FILL_WRITE,   /* is written */
	FILL_COMPARE, /* may be there already: what differs is written */
};

/* Pages of one task that the engine puts in place (lib/engine/restore_fill.c). */
struct fill_piece {
	uint64_t addr;
	uint64_t scratch; /* with FILL_HUGE: offset in the scratch memory */
	uint64_t first, n_pages; /* of the source */
	uint32_t source;  /* index in snapshot.sources */
	enum fill_how how;
};

struct plan_build {
	struct op *op;
	struct snapshot *s;
	struct snap_task *task;
	char *buf; /* struct plan, then arrays; moves as it grows */
	size_t len, cap;
	ARRAY(struct plan_fetch) fetches; /* our descriptors that the new task needs while it is restored */
	ARRAY(int) own;	    /* those of them that are ours to close */
	ARRAY(const VmaEntry *) ring_areas; /* of io_urings */
	uint32_t numbers;   /* descriptors below this are used while the table is filled, beside the program's own */
	struct pieces pieces; /* of its private memory */
	ARRAY(struct plan_range) lazy; /* areas of which pages are left out, to be brought later */
	uint64_t n_lazy_pages;
	ARRAY(struct plan_source) sources;
	ARRAY(struct fill_piece) fills; /* ascending addresses; empty: the task reads its pages itself */
	ARRAY(struct build_call) calls;
	ARRAY(struct plan_inherited) inherited; /* lib/state/mem/restore_inherit.c */
	ARRAY(struct plan_range) keeps, drops;
	const struct plan_host *host;
	const struct snap_task *memory_from; /* the task whose memory a fork copies here; NULL: nothing of it is kept */
	bool shares_memory, shares_files;    /* with its creator, whose plan has them */
	bool creds_change;  /* some thread's differ from ours */
	uint64_t vdso_start, vdso_end, vvar_start, vvar_end; /* in the image; 0: none */
};

#define PLAN(b) ((struct plan *)(b)->buf)

int plan_host_look(struct op *op, struct plan_host *h);
/* @task: NULL for helpers. */
int plan_begin(struct plan_build *b, struct op *op, struct snapshot *s, struct snap_task *task, const struct plan_host *h);
void plan_free(struct plan_build *b); /* closes what it owns; any state, also zeroed */
/* Appends @n bytes, 8-aligned; *@off is their offset. */
int plan_put(struct plan_build *b, const void *p, size_t n, uint64_t *off);
/* Appends an array of @n elements of @size bytes. @arr must not point into the plan (it moves). */
int plan_put_array(struct plan_build *b, const void *p, size_t n, size_t size, struct plan_array *arr);
/*
 * The new task needs our descriptor @fd while it is restored; @own: and nobody else closes it. *@file is the index of the
 * fetch; NULL allowed.
 */
int plan_fetch(struct plan_build *b, int fd, bool own, int32_t *file);

/*
 * Has the task make a system call of its own in @phase: for what is bound to a process (its address space, its descriptor
 * table, its number, its credentials). The calls of a phase are made in the order in which they were planned. @what says
 * what it does, with the descriptor or address: "fd 7: io_uring: register buffers"; it is kept by pointer. Data that the
 * call reads or writes goes into the plan by plan_put(), and args[i] is then its offset, with bit i of data_args. Returns
 * the number of the call (for result_args of later ones), or a recorded failure.
 */
int plan_call(struct plan_build *b, enum plan_phase phase, const struct plan_call *c, const char *what);
/* The same, made by thread @thread (its index in the task), before its seccomp filters and credentials are set. */
int plan_thread_call(struct plan_build *b, size_t thread, const struct plan_call *c, const char *what);
/* What was collected (fetches, calls) goes into the plan; after the last of them. */
int plan_finish(struct plan_build *b);

/* lib/state/mem */
int plan_memory(struct plan_build *b);	/* restore_vma.c: areas, pages, guards, names, mm fields */
int plan_vdso(struct plan_build *b);	/* restore_vdso.c; after plan_memory */
void pages_place(struct plan_build *b, uint64_t scratch); /* restore_pages.c: the scratch memory is there */
int vdso_host_look(struct op *op, struct vdso_layout **ret);
int areas_plan(struct plan_build *b);	   /* areas.c: after plan_memory; properties of areas */
int areas_plan_late(struct plan_build *b); /* last of all: seals, and locks of areas to come */
/* An area of @len bytes that is free in all tasks to be, and clear of where exec maps things. */
int plan_find_area(struct op *op, const struct snapshot *s, uint64_t len, uint64_t *start);
/* One that stays: high up, away from the former, from the heap, and from where a stack grows. */
int plan_find_high(struct plan_build *b, uint64_t len, uint64_t *start);

/* lib/state/file */
int plan_files(struct plan_build *b);	/* engine/restore_files.c */
int plan_terminal(struct plan_build *b); /* tty/session.c: the controlling terminal of a session leader */

/* lib/state/task */
int plan_signals(struct plan_build *b, SignalQueueEntry *q, pid_t tid, struct plan_array *arr);
int plan_sigactions(struct plan_build *b);
int plan_timers(struct plan_build *b);
/* Whether this pending signal comes from a timer that will make it again. */
bool plan_timer_makes(const struct plan_build *b, const ProtobufCBinaryData *siginfo);
int plan_rlimits(struct plan_build *b);
int plan_creds(struct plan_build *b, const struct snap_thread *t, struct plan_creds *c);
int plan_seccomp(struct plan_build *b, struct plan_thread *threads);
int plan_threads(struct plan_build *b);
int plan_task(struct plan_build *b);	/* everything of the lines above and the rest of tc */
/* What the image format has no place for (restore_props.c). Last of all: some of it forbids changes of what is in place. */
int plan_props(struct plan_build *b);
int plan_prctls(struct plan_build *b, size_t thread);
int plan_prctls_task(struct plan_build *b);
int x86_plan_task(struct plan_build *b);
int cookie_plan(struct plan_build *b);
int plan_numa(struct plan_build *b, size_t thread);

/* ---- on the new task, which stands still; @tid, @pid as we see them: restore_sched.c */
int sched_restore(struct op *op, const struct snap_thread *t, pid_t tid);
/* After the last call that the thread is made to make (sud.c). */
int sud_restore(struct op *op, const struct snap_thread *t, pid_t tid);
/* oom_score_adj, coredump_filter, loginuid; what is refused is warned about. */
void proc_values_restore(struct op *op, const struct snap_task *t, pid_t pid);

#endif
