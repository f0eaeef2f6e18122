/* SPDX-License-Identifier: MIT */
/*
 * An operation: one dump, restore, check or inspection, from call to return. It is the first parameter of nearly
 * everything in the library and carries what would otherwise be global: where messages go, the error that is being
 * built, the arena, the deadline, the wish to cancel.
 *
 * Failure: functions return a negative enum ckpt_code, set with op_fail()/op_errno() where it happens; callers pass it up
 * untouched, and may put what they were doing in front of it with op_wrap(). Positive values are conditions that the
 * direct caller handles.
 */
#ifndef CKPT_BASE_OP_H
#define CKPT_BASE_OP_H

#include <signal.h>
#include <stdatomic.h>

#include "ckpt/ckpt.h"
#include "lib/base/arena.h"
#include "lib/base/base.h"

struct log_sink {
	ckpt_log_fn fn;
	void *arg;
	enum ckpt_log_level level;
};

struct progress_sink {
	ckpt_progress_fn fn;
	void *arg;
};

struct event_sink {
	ckpt_event_fn fn;
	void *arg;
};

/* How far the operation is: kept by the functions below, read by them and by the end of the operation. */
struct op_moved {
	uint64_t done, total, weight; /* of stages: those behind us, all, the running one */
	uint64_t bytes_done, bytes_total, stage_from;
	uint64_t reported_ns;
	bool frozen, waiting;
};

struct op {
	struct arena *arena;
	struct log_sink log;
	struct progress_sink progress;
	struct event_sink events;
	struct op_moved moved;
	const atomic_bool *cancel; /* NULL: cannot be cancelled */
	uint64_t deadline_ns;	   /* CLOCK_MONOTONIC, 0 = none */
	uint32_t timeout_s;	   /* for the message */
	pid_t root;		   /* of the tree that is asked about by ckpt_check_task(); else 0 */
	const char *stage;	   /* static; what is going on, for progress and errors */
	sigset_t old_mask;	   /* of the calling thread, and what was pending in it: lib/api/op_begin.c */
	sigset_t old_pending;
	bool masked;
	const char *fault_stage;   /* tests: fail at the stage of this name */
	struct ckpt_err *err;	   /* the first failure; later ones are only logged */
	struct tracking_list *trackings; /* lib/inject/tracker.h; kept by the context from one dump to the next; NULL: nobody does */
	struct features *features; /* lib/kernel/features.h; probed lazily, owned by the context */
	struct cpu_info *cpu;	   /* lib/kernel/arch: asked for once an operation, for CPUID is slow in guests */
	const struct ckpt_opts *opts; /* complete (never NULL, current size) */
	struct ckpt_stats *stats;     /* never NULL */
};

/* Where a failure is: what does not apply is left out. Strings are copied. */
struct err_where {
	pid_t pid;
	int fd_plus_1; /* so that leaving it out means none */
	uint64_t addr;
	const char *kind;
	const char *hint;
	int status;
};
#define AT(...) (&(const struct err_where){ __VA_ARGS__ })
#define AT_FD(fd) .fd_plus_1 = (fd) + 1

/* Record the failure @code with a sentence; returns @code. Only the first one of an operation is kept. */
int op_fail(struct op *op, int code, const struct err_where *where, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The same from errno (@eno): ": strerror" is appended, and the code follows from it (EPERM, ENOMEM, ENOSPC...). */
int op_errno(struct op *op, int eno, const struct err_where *where, const char *fmt, ...) PRINTF_LIKE(4, 5);
int op_nomem(struct op *op);
/* Puts "<text>: " in front of the recorded message. Returns @code, for `return op_wrap(...)`. */
int op_wrap(struct op *op, int code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Returns 0, or records and returns CKPT_E_CANCELED / CKPT_E_TIMEOUT. Call it in every loop that can last. */
int op_check_cancel(struct op *op);
/* Forget a recorded failure (the caller found another way). */
void op_forget(struct op *op);

/* Builds an error value that is not recorded in an operation (obstacles of ckpt_check_task). NULL when out of memory. */
struct ckpt_err *err_new(int code, const struct err_where *where, const char *fmt, ...) PRINTF_LIKE(3, 4);

void op_log(struct op *op, enum ckpt_log_level level, const char *fmt, ...) PRINTF_LIKE(3, 4);
#define log_msg(op, ...) op_log(op, CKPT_LOG_MSG, __VA_ARGS__)
#define log_warn(op, ...) op_log(op, CKPT_LOG_WARN, __VA_ARGS__)
#define log_info(op, ...) op_log(op, CKPT_LOG_INFO, __VA_ARGS__)
#define log_debug(op, ...)                                  \
	do {                                                \
		if ((op)->log.level >= CKPT_LOG_DEBUG)      \
			op_log(op, CKPT_LOG_DEBUG, __VA_ARGS__); \
	} while (0)

/* ---- progress (progress.c). All of it belongs to the thread of the operation. */
/* @done of @total steps are behind us; told at once. */
void op_progress(struct op *op, uint64_t done, uint64_t total);
/* A stage begins; it is worth @weight of the total that op_progress() last named. */
void op_stage(struct op *op, const char *name, uint64_t weight);
/* So many more bytes of pages are to be moved, or were moved. Cheap: one is called as soon as an amount is known, the other
 * for each buffer that passed. */
void op_bytes_total(struct op *op, uint64_t n);
void op_bytes_done(struct op *op, uint64_t n);
/* The tree is stopped, or runs. */
void op_frozen(struct op *op, bool frozen);
/* We let others on this machine go first, or go on. */
void op_waiting(struct op *op, bool waiting);

/* ---- events (event.c): tells the scripts and the caller. @pid: the root task, 0 if there is none; @fd: what belongs to it, or -1. */
/* 0, or a recorded failure: one of them refused. Where the event is one that nobody can refuse, a warning and 0. */
int op_event(struct op *op, enum ckpt_event event, pid_t pid, int fd);
/* Nobody can refuse what comes after it: a failure is a warning. */
bool event_is_late(enum ckpt_event event);

uint64_t now_ns(void); /* CLOCK_MONOTONIC */

/* Arena allocation that records CKPT_E_NOMEM. */
void *op_alloc(struct op *op, size_t n);
#define op_new(op, T) ((T *)op_alloc(op, sizeof(T)))

#endif
