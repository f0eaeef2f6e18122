/* SPDX-License-Identifier: MIT */
/*
 * AMX: the configuration of tiles, and their content (8 KiB). The image has no place for them; they are in our own file, as
 * whole components of the processor state.
 */
#ifndef CKPT_ARCH_X86_64_TILES_H
#define CKPT_ARCH_X86_64_TILES_H

#include "lib/base/op.h"
#include "lib/image/schema.h"

/* What of AMX the state (NT_X86_XSTATE) of a thread has in use goes to @x. */
int x86_tiles_to_image(struct op *op, const void *xstate, size_t len, ThreadExtra *x);
/* The reverse, after x86_regs_from_image(): into a state for this processor. */
int x86_tiles_from_image(struct op *op, const ThreadExtra *x, void *xstate, size_t len);
/* Whether such a state holds the content of tiles: the kernel takes that only of a thread that has used some. */
bool x86_tiles_in_use(const void *xstate, size_t len);
/* Code that uses a tile, and stops at an int3: position independent, @at most X86_TILES_CODE bytes. */
#define X86_TILES_CODE 128
void x86_tiles_code(uint8_t code[X86_TILES_CODE]);

#endif
