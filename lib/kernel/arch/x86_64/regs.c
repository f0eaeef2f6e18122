/* SPDX-License-Identifier: MIT */
#include "lib/kernel/arch/x86_64/regs.h"

#include <cpuid.h>

#define CS_USER 0x33
#define SS_USER 0x2b
#define EFLAGS_USER 0x250dd5u /* CF PF AF ZF SF TF DF OF RF AC ID */
#define EFLAGS_FIXED 0x202u   /* IF and the bit that is always one */
#define EFLAGS_TF 0x100u
#define XCR0_OFFSET 464
#define HEADER_OFFSET 512
#define HEADER_END 576
#define FX_ST 32
#define FX_XMM 160
#define FX_MXCSR_MASK 28
#define MXCSR_DEFAULT_MASK 0xffbfu /* of processors that report none */
#define LEGACY 0x3ull /* x87 and SSE */
#define C_TILES 18 /* AMX data: the one component that the kernel gives only to those who ask */
#define TILES (3ull << 17) /* AMX configuration and data */
#define ADDRESS_MAX 0x7fffffffffffull

/* The components that the image has a place for, besides x87 and SSE. */
enum { C_YMM = 2, C_BNDREGS = 3, C_BNDCSR = 4, C_OPMASK = 5, C_ZMM_HI = 6, C_HI16_ZMM = 7, C_PKRU = 9, C_MAX = 10 };

static const struct {
	const char *name;
	uint32_t size;
} components[C_MAX] = {
	[C_YMM] = { "AVX", 256 },	     [C_BNDREGS] = { "MPX bounds", 64 },   [C_BNDCSR] = { "MPX configuration", 64 },
	[C_OPMASK] = { "AVX-512 masks", 64 }, [C_ZMM_HI] = { "AVX-512", 512 },	   [C_HI16_ZMM] = { "AVX-512 zmm16-31", 1024 },
	[C_PKRU] = { "protection keys", 8 },
};

/* What this processor can do. */
struct cpu_info {
	uint64_t enabled;	  /* XCR0 */
	uint32_t xstate_size;	  /* of the enabled components, standard form */
	uint32_t offset[C_MAX];	  /* 0: not there, or not of the size we know */
	uint32_t tiles;		  /* offset of AMX data, 0: has none */
	bool shadow_stack;
};

/* The bits of MXCSR that may be set here: another one faults. Includes "denormals are zero" on all but the oldest. */
static uint32_t mxcsr_mask(void)
{
	_Alignas(16) uint8_t fx[512] = { 0 };
	uint32_t mask;

	__asm__ volatile("fxsave64 %0" : "+m"(fx));
	memcpy(&mask, fx + FX_MXCSR_MASK, sizeof(mask));
	return mask ?: MXCSR_DEFAULT_MASK;
}

static uint32_t tiles_offset(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(0xd, C_TILES, &a, &b, &c, &d) && a ? b : 0;
}

static struct cpu_info *cpu_info(struct op *op)
{
	struct cpu_info *cpu = op->cpu;
	uint32_t a, b, c, d;

	if (cpu)
		return cpu;
	cpu = op_new(op, struct cpu_info);
	if (!cpu)
		return NULL;
	cpu->enabled = LEGACY;
	if (__get_cpuid(1, &a, &b, &c, &d) && (c & bit_OSXSAVE)) {
		__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		cpu->enabled = (uint64_t)d << 32 | a;
	}
	if (__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		cpu->xstate_size = b;
	for (unsigned i = 0; i < C_MAX; i++)
		if (components[i].size && (cpu->enabled >> i & 1) && __get_cpuid_count(0xd, i, &a, &b, &c, &d) &&
		    a >= components[i].size)
			cpu->offset[i] = b;
	cpu->tiles = cpu->enabled >> C_TILES & 1 ? tiles_offset() : 0;
	cpu->shadow_stack = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 7 & 1);
	op->cpu = cpu;
	return cpu;
}

static uint64_t xstate_bv(const void *xstate)
{
	uint64_t bv;

	memcpy(&bv, (const char *)xstate + HEADER_OFFSET, sizeof(bv));
	return bv;
}

uint32_t x86_tiles_offset(struct op *op)
{
	struct cpu_info *cpu = cpu_info(op);

	return cpu ? cpu->tiles : 0;
}

size_t x86_xstate_trim(void *xstate, size_t len, uint32_t tiles)
{
	uint64_t enabled;

	if (len < HEADER_END)
		return len;
	memcpy(&enabled, (char *)xstate + XCR0_OFFSET, sizeof(enabled));
	if (!(enabled >> C_TILES & 1) || xstate_bv(xstate) >> C_TILES & 1)
		return len;
	tiles = tiles ?: tiles_offset();
	if (tiles < HEADER_END || tiles >= len)
		return len;
	enabled &= ~(1ull << C_TILES);
	memcpy((char *)xstate + XCR0_OFFSET, &enabled, sizeof(enabled));
	return tiles;
}

bool x86_has_protection_keys(void)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c >> 4 & 1); /* OSPKE */
}

uint64_t x86_xstate_unsaved(const void *xstate, size_t len)
{
	uint64_t known = LEGACY | TILES;

	for (int c = 0; c < C_MAX; c++)
		if (components[c].size)
			known |= 1ull << c;
	return len >= HEADER_END ? xstate_bv(xstate) & ~known : 0;
}

/* ------------------------------------------------------------------------------------------------- to image */

static int gpregs_to_image(struct op *op, const struct user_regs_struct *r, ThreadInfoX86 *info)
{
	UserX86RegsEntry *g = op_new(op, UserX86RegsEntry);

	if (!g)
		return CKPT_E_NOMEM;
	user_x86_regs_entry__init(g);
	g->r15 = r->r15, g->r14 = r->r14, g->r13 = r->r13, g->r12 = r->r12;
	g->r11 = r->r11, g->r10 = r->r10, g->r9 = r->r9, g->r8 = r->r8;
	g->bp = r->rbp, g->bx = r->rbx, g->ax = r->rax, g->cx = r->rcx;
	g->dx = r->rdx, g->si = r->rsi, g->di = r->rdi, g->orig_ax = r->orig_rax;
	g->ip = r->rip, g->cs = r->cs, g->flags = r->eflags, g->sp = r->rsp, g->ss = r->ss;
	g->fs_base = r->fs_base, g->gs_base = r->gs_base;
	g->ds = r->ds, g->es = r->es, g->fs = r->fs, g->gs = r->gs;
	g->has_mode = 1;
	g->mode = USER_X86_REGS_MODE__NATIVE;
	info->gpregs = g;
	return 0;
}

/* A component as an array of @size-byte elements; left out where the processor does not have it. */
static int component_to_image(struct op *op, const uint8_t *xstate, size_t len, int c, size_t size, size_t *n, void *array)
{
	uint32_t off = op->cpu->offset[c];
	void *copy;

	*n = 0;
	if (!off || (size_t)off + components[c].size > len)
		return 0;
	copy = arena_memdup(op->arena, xstate + off, components[c].size);
	if (!copy)
		return op_nomem(op);
	/* What is not in use reads as its initial state, whatever the buffer holds. */
	if (!(xstate_bv(xstate) >> c & 1))
		memset(copy, 0, components[c].size);
	*(void **)array = copy;
	*n = components[c].size / size;
	return 0;
}

static int xsave_to_image(struct op *op, const uint8_t *x, size_t len, UserX86XsaveEntry **ret)
{
	UserX86XsaveEntry *e = op_new(op, UserX86XsaveEntry);
	int r;

	if (!e)
		return CKPT_E_NOMEM;
	user_x86_xsave_entry__init(e);
	e->xstate_bv = xstate_bv(x) & ~TILES; /* x86_tiles_to_image() */
	r = component_to_image(op, x, len, C_YMM, 4, &e->n_ymmh_space, &e->ymmh_space);
	r = r ?: component_to_image(op, x, len, C_BNDREGS, 8, &e->n_bndreg_state, &e->bndreg_state);
	r = r ?: component_to_image(op, x, len, C_BNDCSR, 8, &e->n_bndcsr_state, &e->bndcsr_state);
	r = r ?: component_to_image(op, x, len, C_OPMASK, 8, &e->n_opmask_reg, &e->opmask_reg);
	r = r ?: component_to_image(op, x, len, C_ZMM_HI, 8, &e->n_zmm_upper, &e->zmm_upper);
	r = r ?: component_to_image(op, x, len, C_HI16_ZMM, 8, &e->n_hi16_zmm, &e->hi16_zmm);
	r = r ?: component_to_image(op, x, len, C_PKRU, 4, &e->n_pkru, &e->pkru);
	if (r)
		return r;
	if (op->cpu->shadow_stack) {
		e->cet = op_new(op, UserX86CetEntry);
		if (!e->cet)
			return CKPT_E_NOMEM;
		user_x86_cet_entry__init(e->cet);
	}
	*ret = e;
	return 0;
}

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static int fpregs_to_image(struct op *op, const uint8_t *x, size_t len, ThreadInfoX86 *info)
{
	UserX86FpregsEntry *f = op_new(op, UserX86FpregsEntry);

	if (!f)
		return CKPT_E_NOMEM;
	user_x86_fpregs_entry__init(f);
	f->cwd = get16(x);
	f->swd = get16(x + 2);
	f->twd = x[4];
	f->fop = get16(x + 6);
	memcpy(&f->rip, x + 8, 8);
	memcpy(&f->rdp, x + 16, 8);
	memcpy(&f->mxcsr, x + 24, 4);
	memcpy(&f->mxcsr_mask, x + 28, 4);
	f->n_st_space = 32;
	f->st_space = arena_memdup(op->arena, x + FX_ST, 128);
	f->n_xmm_space = 64;
	f->xmm_space = arena_memdup(op->arena, x + FX_XMM, 256);
	if (!f->st_space || !f->xmm_space)
		return op_nomem(op);
	info->fpregs = f;
	return xsave_to_image(op, x, len, &f->xsave);
}

int x86_regs_to_image(struct op *op, const struct user_regs_struct *regs, const void *xstate, size_t len, ThreadInfoX86 **ret)
{
	ThreadInfoX86 *info = op_new(op, ThreadInfoX86);
	int r;

	if (!info)
		return CKPT_E_NOMEM;
	thread_info_x86__init(info);
	if (!cpu_info(op))
		return CKPT_E_NOMEM;
	if (len < HEADER_END)
		return op_fail(op, CKPT_E_KERNEL, NULL, "the extended state is only %zu bytes long: a processor without XSAVE", len);
	r = gpregs_to_image(op, regs, info);
	r = r ?: fpregs_to_image(op, xstate, len, info);
	*ret = info;
	return r;
}

/* ----------------------------------------------------------------------------------------------- from image */

static int bad(struct op *op, const char *what, uint64_t value)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "registers"), "a core image has an impossible %s: %#lx", what, value);
}

static bool is_user_selector(uint64_t v)
{
	return !v || (v <= UINT16_MAX && (v & 3) == 3);
}

static int gpregs_from_image(struct op *op, const UserX86RegsEntry *g, struct user_regs_struct *r)
{
	if (g->has_mode && g->mode != USER_X86_REGS_MODE__NATIVE)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "32-bit task"), "the checkpoint is of a 32-bit program");
	if (g->ip > ADDRESS_MAX && g->ip < 0xffffffffff600000ull)
		return bad(op, "instruction pointer", g->ip);
	if (g->fs_base > ADDRESS_MAX)
		return bad(op, "fs base", g->fs_base);
	if (g->gs_base > ADDRESS_MAX)
		return bad(op, "gs base", g->gs_base);
	/* The kernel takes only those of user code; one that leads nowhere it makes zero. */
	if (!is_user_selector(g->ds) || !is_user_selector(g->es) || !is_user_selector(g->fs) || !is_user_selector(g->gs))
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "registers"), "a core image has impossible segment registers");
	*r = (struct user_regs_struct){
		.r15 = g->r15, .r14 = g->r14, .r13 = g->r13, .r12 = g->r12, .rbp = g->bp, .rbx = g->bx, .r11 = g->r11,
		.r10 = g->r10, .r9 = g->r9, .r8 = g->r8, .rax = g->ax, .rcx = g->cx, .rdx = g->dx, .rsi = g->si, .rdi = g->di,
		.orig_rax = (uint64_t)-1, .rip = g->ip, .cs = CS_USER, .rsp = g->sp, .ss = SS_USER,
		.eflags = (g->flags & EFLAGS_USER & ~EFLAGS_TF) | EFLAGS_FIXED,
		.fs_base = g->fs_base, .gs_base = g->gs_base, .ds = g->ds, .es = g->es, .fs = g->fs, .gs = g->gs,
	};
	return 0;
}

/* @n elements of @size bytes of component @c into the state, if the image has them in use. */
static int component_from_image(struct op *op, uint8_t *x, size_t total, int c, size_t size, size_t n, const void *array,
				uint64_t image_bv, uint64_t *bv)
{
	uint32_t off = op->cpu->offset[c];

	/* A damaged array is an error also where the component is in its initial state and the array not looked at. */
	if (n && n * size != components[c].size)
		return bad(op, components[c].name, n);
	if (!(image_bv >> c & 1))
		return 0;
	if (!n)
		return bad(op, "xstate_bv", image_bv);
	if (!off || (size_t)off + components[c].size > total)
		return op_fail(op, CKPT_E_KERNEL,
			       AT(.kind = "processor", .hint = "restore on a processor that has it"),
			       "the checkpointed program uses %s registers, which this processor or kernel does not have",
			       components[c].name);
	memcpy(x + off, array, components[c].size);
	*bv |= 1ull << c;
	return 0;
}

static int xsave_from_image(struct op *op, const UserX86XsaveEntry *e, uint8_t *x, size_t total, uint64_t *bv)
{
	uint64_t in = e->xstate_bv, unknown = in & ~LEGACY;
	int r;

	for (int c = 0; c < C_MAX; c++)
		if (components[c].size)
			unknown &= ~(1ull << c);
	if (unknown)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "processor"),
			       "the checkpointed program uses processor state %#lx that cannot be restored", unknown);
	*bv = in & LEGACY;
	r = component_from_image(op, x, total, C_YMM, 4, e->n_ymmh_space, e->ymmh_space, in, bv);
	r = r ?: component_from_image(op, x, total, C_BNDREGS, 8, e->n_bndreg_state, e->bndreg_state, in, bv);
	r = r ?: component_from_image(op, x, total, C_BNDCSR, 8, e->n_bndcsr_state, e->bndcsr_state, in, bv);
	r = r ?: component_from_image(op, x, total, C_OPMASK, 8, e->n_opmask_reg, e->opmask_reg, in, bv);
	r = r ?: component_from_image(op, x, total, C_ZMM_HI, 8, e->n_zmm_upper, e->zmm_upper, in, bv);
	r = r ?: component_from_image(op, x, total, C_HI16_ZMM, 8, e->n_hi16_zmm, e->hi16_zmm, in, bv);
	r = r ?: component_from_image(op, x, total, C_PKRU, 4, e->n_pkru, e->pkru, in, bv);
	if (!r && e->cet && (e->cet->cet & 1))
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "shadow stack"),
			       "the checkpointed program uses a shadow stack, which is not supported");
	return r;
}

static int fpregs_from_image(struct op *op, const UserX86FpregsEntry *f, uint8_t *x, size_t total)
{
	uint64_t bv = LEGACY, xcr0 = op->cpu->enabled;
	uint32_t mxcsr;
	int r = 0;

	if (f->n_st_space != 32)
		return bad(op, "number of x87 registers", f->n_st_space);
	if (f->n_xmm_space != 64)
		return bad(op, "number of SSE registers", f->n_xmm_space);
	memcpy(x, &(uint16_t){ (uint16_t)f->cwd }, 2);
	memcpy(x + 2, &(uint16_t){ (uint16_t)f->swd }, 2);
	x[4] = (uint8_t)f->twd;
	memcpy(x + 6, &(uint16_t){ (uint16_t)f->fop }, 2);
	memcpy(x + 8, &f->rip, 8);
	memcpy(x + 16, &f->rdp, 8);
	mxcsr = f->mxcsr & mxcsr_mask();
	memcpy(x + 24, &mxcsr, 4);
	memcpy(x + FX_ST, f->st_space, 128);
	memcpy(x + FX_XMM, f->xmm_space, 256);
	if (f->xsave)
		r = xsave_from_image(op, f->xsave, x, total, &bv);
	memcpy(x + XCR0_OFFSET, &xcr0, 8);
	memcpy(x + HEADER_OFFSET, &bv, 8);
	return r;
}

int x86_regs_from_image(struct op *op, const ThreadInfoX86 *info, struct user_regs_struct *regs, void *xstate, size_t cap,
			size_t *len)
{
	const struct cpu_info *cpu = cpu_info(op);
	size_t total;
	int r;

	if (!cpu)
		return CKPT_E_NOMEM;
	total = cpu->xstate_size;

	if (!info->gpregs || !info->fpregs)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "registers"), "a core image has no registers");
	if (total < HEADER_END || total > cap)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "processor"), "this processor has no usable XSAVE (%zu bytes)", total);
	memset(xstate, 0, total);
	*len = total;
	r = gpregs_from_image(op, info->gpregs, regs);
	return r ?: fpregs_from_image(op, info->fpregs, xstate, total);
}
