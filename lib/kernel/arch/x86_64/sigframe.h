/* SPDX-License-Identifier: MIT */
/*
 * The frame that rt_sigreturn(2) loads: all registers, the extended state and the signal mask of a thread. We use it to
 * make remote calls heal by themselves: whatever a thread was made to do ends in rt_sigreturn on such a frame, so that a
 * thread whose tracer was killed goes on where it was.
 */
#ifndef CKPT_ARCH_X86_64_SIGFRAME_H
#define CKPT_ARCH_X86_64_SIGFRAME_H

#include <stddef.h>
#include <stdint.h>
#include <sys/user.h>

/* No frame of ours is larger: registers, siginfo, and an extended state; without AMX tiles in use a page is enough. */
#define SIGFRAME_MAX 12288
#define XSTATE_MAX 16384

/*
 * Builds in @buf (@cap bytes) a frame that is to lie at @addr (16-byte aligned) in the task. @pretcode is where a `ret`
 * at the frame's first word leads: code that calls rt_sigreturn. The alternate stack is left alone by the frame.
 * Without an @xstate (NULL) the extended registers get their first values.
 * Returns the number of bytes used, or 0 when it does not fit.
 */
size_t sigframe_build(void *buf, size_t cap, uint64_t addr, uint64_t pretcode, const struct user_regs_struct *regs,
		      const void *xstate, size_t xstate_len, uint64_t sigmask);

#endif
