/* SPDX-License-Identifier: MIT */
#include "lib/kernel/arch/x86_64/sigframe.h"

#include <string.h>

#include "lib/base/base.h"

/* Layout of arch/x86/include/uapi/asm/{sigcontext,ucontext}.h and the kernel's struct rt_sigframe. */
struct sigcontext64 {
	uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t di, si, bp, bx, dx, ax, cx, sp, ip, flags;
	uint16_t cs, gs, fs, ss;
	uint64_t err, trapno, oldmask, cr2;
	uint64_t fpstate;
	uint64_t reserved[8];
};

struct ucontext64 {
	uint64_t uc_flags, uc_link;
	uint64_t ss_sp;
	int32_t ss_flags, pad;
	uint64_t ss_size;
	struct sigcontext64 mc;
	uint64_t sigmask;
};

struct rt_sigframe {
	uint64_t pretcode;
	struct ucontext64 uc;
	uint8_t info[128];
};

struct fpx_sw_bytes {
	uint32_t magic1, extended_size;
	uint64_t xfeatures;
	uint32_t xstate_size, padding[7];
};

#define UC_FP_XSTATE 0x1
#define UC_SIGCONTEXT_SS 0x2
#define UC_STRICT_RESTORE_SS 0x4
#define FP_XSTATE_MAGIC1 0x46505853u
#define FP_XSTATE_MAGIC2 0x46505845u
#define FX_SW_OFFSET 464
#define XSTATE_BV_OFFSET 512
/* Neither SS_DISABLE, SS_ONSTACK nor 0: rt_sigreturn ignores the EINVAL and leaves the alternate stack as it is. */
#define SS_LEAVE_ALONE 0x7fff

size_t sigframe_build(void *buf, size_t cap, uint64_t addr, uint64_t pretcode, const struct user_regs_struct *r,
		      const void *xstate, size_t xstate_len, uint64_t sigmask)
{
	uint64_t fp_addr = ALIGN_UP(addr + sizeof(struct rt_sigframe), (uint64_t)64);
	size_t fp_off = fp_addr - addr, total = xstate ? fp_off + xstate_len + sizeof(uint32_t) : sizeof(struct rt_sigframe);
	const uint32_t magic2 = FP_XSTATE_MAGIC2;
	struct fpx_sw_bytes sw = {
		.magic1 = FP_XSTATE_MAGIC1,
		.extended_size = (uint32_t)(xstate_len + sizeof(magic2)),
		.xstate_size = (uint32_t)xstate_len,
	};
	struct rt_sigframe f = {
		.pretcode = pretcode,
		.uc = {
			.uc_flags = (xstate ? UC_FP_XSTATE : 0) | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
			.ss_flags = SS_LEAVE_ALONE,
			.sigmask = sigmask,
			.mc = {
				.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11, .r12 = r->r12, .r13 = r->r13,
				.r14 = r->r14, .r15 = r->r15, .di = r->rdi, .si = r->rsi, .bp = r->rbp, .bx = r->rbx,
				.dx = r->rdx, .ax = r->rax, .cx = r->rcx, .sp = r->rsp, .ip = r->rip,
				.flags = r->eflags, .cs = (uint16_t)r->cs, .ss = (uint16_t)r->ss,
				.fpstate = xstate ? fp_addr : 0,
			},
		},
	};

	if (total > cap || (xstate && xstate_len < XSTATE_BV_OFFSET + 64))
		return 0;
	if (!xstate) {
		memcpy(buf, &f, sizeof(f));
		return total;
	}
	/* ptrace gives the enabled features in the first of the software bytes. */
	memcpy(&sw.xfeatures, (const uint8_t *)xstate + FX_SW_OFFSET, sizeof(sw.xfeatures));
	memset(buf, 0, total);
	memcpy(buf, &f, sizeof(f));
	memcpy((uint8_t *)buf + fp_off, xstate, xstate_len);
	memcpy((uint8_t *)buf + fp_off + FX_SW_OFFSET, &sw, sizeof(sw));
	memcpy((uint8_t *)buf + fp_off + xstate_len, &magic2, sizeof(magic2));
	return total;
}
