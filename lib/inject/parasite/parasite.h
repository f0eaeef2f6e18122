/* SPDX-License-Identifier: MIT */
/*
 * What the engine and the parasite say to each other. The parasite is a freestanding blob that runs inside a stopped
 * thread and collects what only the thread itself can ask for. It makes only calls that do not block (a blocked call
 * would overwrite the thread's restart block), and touches neither the FPU nor the thread's stack.
 *
 * Layout of the injected area: PARASITE_CODE_MAX bytes of code, then one struct parasite_area.
 */
#ifndef CKPT_PARASITE_H
#define CKPT_PARASITE_H

#include <stdint.h>

#define PARASITE_CODE_MAX 8192
#define PARASITE_FRAME 12288 /* with AMX tiles */
#define PARASITE_NSIG 64
#define PARASITE_TIMERS 64 /* POSIX timers asked for in one run */
#define PARASITE_LDT_WORDS 512
#define PARASITE_LDT_MAX 8192
#define PARASITE_AREAS_N 64 /* areas asked for in one run */
#define PARASITE_NODE_WORDS 16 /* a bitmap of the 1024 nodes that a kernel can have */

struct parasite_sigaction {
	uint64_t handler, flags, restorer, mask;
};

struct parasite_itimer {
	uint64_t interval_sec, interval_usec, value_sec, value_usec;
};

struct parasite_timer {
	int32_t id;	 /* in */
	int32_t overrun; /* out */
	uint64_t interval_sec, interval_nsec, value_sec, value_nsec;
};

struct parasite_area_policy {
	uint64_t addr; /* in */
	int32_t result, mode; /* out */
};

enum {
	PARASITE_THREAD = 1,  /* collect the thread's own state */
	PARASITE_PROCESS = 2, /* and the process's */
	PARASITE_TIMER = 4,   /* and timers[0..n_timers) */
	PARASITE_LDT = 16,    /* and ldt: of the table's words those from ldt_first on */
	PARASITE_AREAS = 8,   /* and the memory policies of areas[0..n_areas); nodes is the last one's */
};

/* Results hold what the calls gave; a negative value is -errno. */
struct parasite_args {
	/* in */
	uint64_t what;
	uint64_t frame;	       /* address of the frame for rt_sigreturn, past its first word */
	int32_t pid, tid; /* in the PID namespace of the task */
	int32_t notify_signal; /* sent to the thread when done: a signal whose delivery nobody would notice */
	int32_t n_timers, n_areas;
	int32_t peer; /* a process to look at, 0: none */
	int32_t ldt_first;
	uint64_t release_page; /* the first of some pages of the stack... */
	uint64_t release_mask; /* ...of which these (bits) did not exist before us */
	/* out, per thread */
	int64_t done;
	int64_t tid_address;
	uint64_t tid_address_value;
	int64_t sas_result;
	uint64_t ss_sp, ss_flags, ss_size;
	int64_t pdeath_result;
	int32_t pdeath_signal, pad;
	int64_t securebits;
	int64_t timerslack;
	int64_t mce_kill;
	int64_t speculation[3]; /* store bypass, indirect branches, L1D flush */
	int64_t io_flusher, cpuid;
	int64_t mempolicy_result;
	int32_t mempolicy, tsc;
	uint64_t nodes[PARASITE_NODE_WORDS];
	int64_t keyrings[2]; /* of the thread, of the process: bytes of ids in it */
	int64_t peer_result;	/* of looking at it */
	/* out, per process */
	int64_t dumpable, subreaper_result;
	int32_t subreaper, pad2;
	int64_t thp_disable, membarrier, brk;
	int64_t mdwe, memory_merge;
	uint64_t pkeys; /* bitmap */
	int64_t ldt_result, xcomp_result, untag_result;
	uint64_t xcomp_perm, untag_mask;
	int64_t sigaction_result[PARASITE_NSIG];
	struct parasite_sigaction sigactions[PARASITE_NSIG];
	struct parasite_itimer itimers[3];
	struct parasite_timer timers[PARASITE_TIMERS];
	struct parasite_area_policy areas[PARASITE_AREAS_N];
	uint64_t ldt[PARASITE_LDT_WORDS];
};

struct parasite_area {
	uint8_t frame[PARASITE_FRAME];
	uint8_t stack[4096]; /* grows down towards the frame, which is why it is only read by rt_sigreturn */
	struct parasite_args args;
};

#endif
