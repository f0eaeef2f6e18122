/* SPDX-License-Identifier: MIT */
/*
 * What the guardian has to know to clean up after an engine that was killed: written by the engine, in memory shared with
 * the guardian, before each step that leaves something in a target. One entry per target.
 */
#ifndef CKPT_INJECT_JOURNAL_H
#define CKPT_INJECT_JOURNAL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/kernel/uapi.h"

#define JOURNAL_TARGETS 65536 /* memory is only taken for those that are used */
#define JOURNAL_SUDS 256
#define JOURNAL_TWINS 65536
#define JOURNAL_REPAIRS (1u << 20)
#define JOURNAL_BATCH 1024
#define JOURNAL_RULES 2 /* iptables, ip6tables */
#define JOURNAL_TEXT (32u << 20)

struct journal_entry {
	_Atomic uint64_t area;	  /* address of the injected area, 0: none (any more) */
	_Atomic int32_t runner;	  /* thread that runs the parasite, 0: none; it must be out of the area before that goes */
	uint64_t area_size;
	pid_t pid;
	uint64_t starttime;	  /* guards against a recycled pid */
	uint64_t gadget_syscall_ret, gadget_sigreturn; /* 0: not found, the guardian then leaves the area */
	uint64_t scratch;	  /* where the guardian may put its frame */
};

/* A thread whose syscall user dispatch is off meanwhile. */
struct journal_sud {
	_Atomic int32_t tid; /* 0: it is on again */
	pid_t pid;
	uint64_t starttime; /* of the process */
	struct ptrace_sud_config conf;
};

/* A process that a target was made to clone (twin.h). The target is to wait for it. */
#define JOURNAL_TWIN_BEGUN (-1)
struct journal_twin {
	/* In the owner's PID namespace; 0: there is none (any more); BEGUN: there may be one, then its number is at number_at. */
	_Atomic int32_t number;
	_Atomic int32_t pid;	    /* as the engine sees it; 0: not known yet */
	struct journal_entry owner; /* without an area */
	uint64_t number_at;	    /* int32_t in the owner's memory, 0 before the clone */
	long options;		    /* of ptrace, for the owner */
};

/* A connection that is in repair mode (TCP_REPAIR). */
struct journal_repair {
	int32_t fd;	  /* of the owner */
	uint32_t owner;   /* index in repair_owners */
	bool reuse;	  /* SO_REUSEADDR as it was: repair mode changes it */
};
struct journal_owner {
	pid_t pid;
	uint64_t starttime;
};

/* What holds packets of the tree's connections, and outlives the engine. */
struct journal_rules {
	_Atomic uint32_t n; /* bytes of text; 0: none (any more) */
	char program[256];
	char text[JOURNAL_TEXT];
};
struct journal_lock {
	_Atomic uint32_t n; /* bytes of batch; 0: none (any more) */
	uint8_t batch[JOURNAL_BATCH]; /* for NETLINK_NETFILTER */
	pid_t netns; /* in the network namespace of this process; 0: in ours */
	struct journal_rules rules[JOURNAL_RULES];
};

/* A cgroup that is frozen, or was before we came. */
struct journal_freezer {
	_Atomic bool set; /* false: there is none (any more) */
	char path[4096];  /* of its state */
	char first[8], last[8]; /* what is written to it, before all else and after it; "": nothing */
};

struct journal {
	_Atomic uint32_t n, n_suds, n_twins, n_repairs;
	_Atomic bool ending; /* the tree is being killed, the root first */
	struct journal_owner root;
	uint32_t n_repair_owners;
	struct journal_lock lock;
	struct journal_freezer freezer;
	struct journal_entry entries[JOURNAL_TARGETS];
	struct journal_sud suds[JOURNAL_SUDS];
	struct journal_twin twins[JOURNAL_TWINS];
	struct journal_owner repair_owners[JOURNAL_TARGETS];
	struct journal_repair repairs[JOURNAL_REPAIRS];
};

#endif
