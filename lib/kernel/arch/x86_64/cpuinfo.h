/* SPDX-License-Identifier: MIT */
/* What the processor can do, as cpuinfo.img has it, and whether what another one could do is enough here. */
#ifndef CKPT_KERNEL_ARCH_X86_64_CPUINFO_H
#define CKPT_KERNEL_ARCH_X86_64_CPUINFO_H

#include "cpuinfo.pb-c.h"

#include "lib/base/op.h"

enum {
	CPU_CAP_FPU = 1 << 0,	/* the same layout of the floating point state */
	CPU_CAP_CPU = 1 << 1,	/* the same in everything */
	CPU_CAP_INS = 1 << 2,	/* at least the same instructions */
	CPU_CAP_IMAGE = 1 << 3, /* there has to be an image */
};

/* That of this processor, in the arena. */
int cpuinfo_here(struct op *op, CpuinfoEntry **ret);
/* Does @here do for what began on @image? Checks what @caps says; fails with CKPT_E_KERNEL, and the first thing that is missing. */
int cpuinfo_compare(struct op *op, const CpuinfoEntry *image, const CpuinfoEntry *here, unsigned caps);

#endif
