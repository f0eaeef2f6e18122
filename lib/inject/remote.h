/* SPDX-License-Identifier: MIT */
/*
 * Making a stopped thread run something, so that it heals by itself.
 *
 * A remote system call starts at a `syscall; ret` that the program has anyway (in libc), with the stack pointer at a frame
 * for rt_sigreturn whose first word leads to libc's own signal return code. Wherever the tracer is killed, the thread
 * makes the call, returns into rt_sigreturn, and is what it was, registers, FPU and signal mask. The frame lies in the
 * lowest pages of the main stack, which is dead memory by the ABI; its bytes are put back afterwards.
 *
 * With that the parasite's area is mapped. Runs of the parasite keep their frame in that area. What remains after a killed
 * engine is the mapping, which the guardian removes.
 */
#ifndef CKPT_INJECT_REMOTE_H
#define CKPT_INJECT_REMOTE_H

#include "lib/inject/journal.h"
#include "lib/inject/parasite/parasite.h"
#include "lib/inject/tracee.h"

struct gadgets {
	uint64_t syscall_ret; /* 0f 05 c3 */
	uint64_t sigreturn;   /* mov $15, %rax; syscall */
	uint64_t scratch;     /* SIGFRAME_MAX bytes for the frame; 0: none, remote calls are then not protected */
	uint32_t scratch_absent; /* bits: pages of it that did not exist before we wrote to them */
};

struct parasite {
	struct gadgets g;
	uint64_t base, size; /* of the area; base 0: not injected */
	int notify_signal;   /* 0: no signal is free, runs are stepped by system call */
	struct journal *all; /* of the guardian, NULL: none */
	struct journal_entry *journal;
};

/* Finds what remote calls need in the mappings of a frozen target. */
int gadgets_find(struct op *op, const struct target *t, const struct proc_maps *maps, struct gadgets *g);

/* A free range of @size bytes in the middle of the largest gap, 0: there is none. */
uint64_t remote_gap(const struct proc_maps *maps, uint64_t size);

/* One system call in thread @tr. *@ret is what the call gave (-errno on failure). The thread is as before afterwards. */
int remote_syscall(struct op *op, const struct target *t, struct tracee *tr, const struct gadgets *g, long nr,
		   const uint64_t args[6], int64_t *ret);

/* Maps the parasite into the target; @journal (may be NULL) is where the guardian reads. */
int parasite_inject(struct op *op, struct target *t, const struct proc_maps *maps, struct parasite *p,
		    struct journal *journal);
/* Runs the parasite in @tr with @args, and reads them back. */
int parasite_run(struct op *op, const struct target *t, struct tracee *tr, const struct parasite *p,
		 struct parasite_args *args);
/* Removes the area. */
int parasite_cure(struct op *op, struct target *t, struct parasite *p);

#endif
