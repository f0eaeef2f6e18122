/* SPDX-License-Identifier: MIT */
/* Registers between ptrace's form and the image's (thread_info_x86). */
#ifndef CKPT_ARCH_X86_64_REGS_H
#define CKPT_ARCH_X86_64_REGS_H

#include <sys/user.h>

#include "lib/base/op.h"
#include "lib/image/schema.h"

/*
 * @xstate is what NT_X86_XSTATE gave. gpregs and fpregs are filled; clear_tid_addr and tls are the caller's. Values are
 * stored as they are: restart codes must be gone from @regs.
 */
int x86_regs_to_image(struct op *op, const struct user_regs_struct *regs, const void *xstate, size_t xstate_len,
		      ThreadInfoX86 **ret);
/*
 * The reverse, for a processor that may be another one: a component that the image has in use and this processor lacks is
 * CKPT_E_KERNEL. Nothing in the image is believed: sizes are exact, selectors and flags are those of a user program,
 * addresses canonical. @xstate gets *@xstate_len bytes (at most @cap).
 */
int x86_regs_from_image(struct op *op, const ThreadInfoX86 *info, struct user_regs_struct *regs, void *xstate, size_t cap,
			size_t *xstate_len);
/*
 * Cuts AMX tiles that are not in use off a state that ptrace gave: where the processor has them, every task's state is
 * as large as if it used them, but no task that did not ask for them may have such a signal frame. Returns the length.
 * @tiles: x86_tiles_offset(), or 0, then it is asked for (CPUID: slow in guests).
 */
size_t x86_xstate_trim(void *xstate, size_t xstate_len, uint32_t tiles);
/* Where in a state AMX tiles are; known to @op once asked for. */
uint32_t x86_tiles_offset(struct op *op);
/* Components in use (xstate_bv) that neither thread_info_x86 nor our own file (tiles.h) has a place for. */
uint64_t x86_xstate_unsaved(const void *xstate, size_t xstate_len);

/* Whether programs can use memory protection keys here. */
bool x86_has_protection_keys(void);

#endif
