// SPDX-License-Identifier: MIT
/*
 * Registers between ptrace's form and the image's: round trips of made-up states on the processor at hand, every check of
 * what an image may hold, and the cores of the reference sets where they are at hand (CKPT_SHARED).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* after the four above */
#include <cmocka.h>
#include <cpuid.h>
#include <dirent.h>
#include <glob.h>

#include "lib/image/image.h"
#include "lib/kernel/arch/x86_64/regs.h"

#define XSTATE_CAP 16384
#define DAZ 0x40u

struct env {
	struct op op;
	struct ckpt_opts opts;
	struct ckpt_stats stats;
	uint8_t xstate[XSTATE_CAP], again[XSTATE_CAP];
	size_t len;
	struct user_regs_struct regs;
};

/* Components beside x87 and SSE that this processor and kernel have, of those in the image. */
static uint64_t components_here(void)
{
	uint32_t a, d;

	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a & 0x2fc;
}

static int setup(void **state)
{
	struct env *e = calloc(1, sizeof(*e));
	uint32_t a, b, c, d;
	uint64_t bv;

	if (!e || !__get_cpuid_count(0xd, 0, &a, &b, &c, &d) || b > XSTATE_CAP)
		return -1;
	e->opts = (struct ckpt_opts)CKPT_OPTS_INIT;
	e->op = (struct op){ .arena = arena_new(), .opts = &e->opts, .stats = &e->stats };
	e->len = b;
	e->regs = (struct user_regs_struct){
		.r15 = 15, .rbp = 0xbbbb, .rax = (unsigned long long)-4, .rip = 0x401000, .cs = 0x33, .ss = 0x2b,
		.rsp = 0x7ffffffff000, .eflags = 0x246, .fs_base = 0x7f0000001740, .orig_rax = 7, .rdi = 0xd1, .rsi = 0x51,
	};
	/* x87 and SSE, then each component with bytes of its own. */
	for (unsigned i = 0; i < 416; i++)
		e->xstate[i] = (uint8_t)(i * 7 + 1);
	memcpy(e->xstate + 24, &(uint32_t){ 0x1f80 | DAZ }, 4);
	memcpy(e->xstate + 28, &(uint32_t){ 0 }, 4);
	bv = 3;
	for (unsigned i = 2; i < 10; i++) {
		if (!(components_here() >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		memset(e->xstate + b, (int)(0x10 + i), a);
		bv |= 1ull << i;
	}
	memcpy(e->xstate + 512, &bv, 8);
	*state = e;
	return 0;
}

static int teardown(void **state)
{
	struct env *e = *state;

	op_forget(&e->op);
	arena_free(e->op.arena);
	free(e);
	return 0;
}

static ThreadInfoX86 *image_of(struct env *e)
{
	ThreadInfoX86 *info;

	assert_int_equal(x86_regs_to_image(&e->op, &e->regs, e->xstate, e->len, &info), 0);
	return info;
}

static int back(struct env *e, const ThreadInfoX86 *info, struct user_regs_struct *regs)
{
	size_t len = 0;
	int r = x86_regs_from_image(&e->op, info, regs, e->again, XSTATE_CAP, &len);

	if (!r)
		assert_int_equal(len, e->len);
	return r;
}

static void expect(struct env *e, const ThreadInfoX86 *info, int code, const char *word)
{
	struct user_regs_struct regs;

	assert_int_equal(back(e, info, &regs), code);
	assert_non_null(e->op.err);
	assert_int_equal(ckpt_err_code(e->op.err), code);
	if (!strstr(ckpt_err_message(e->op.err), word))
		fail_msg("\"%s\" does not say \"%s\"", ckpt_err_message(e->op.err), word);
	op_forget(&e->op);
}

static void round_trip(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info = image_of(e);
	struct user_regs_struct regs;

	assert_int_equal(info->gpregs->mode, USER_X86_REGS_MODE__NATIVE);
	assert_int_equal(info->gpregs->orig_ax, 7);
	assert_int_equal(info->fpregs->n_st_space, 32);
	assert_int_equal(info->fpregs->n_xmm_space, 64);
	assert_int_equal(back(e, info, &regs), 0);
	assert_int_equal(regs.rip, e->regs.rip);
	assert_int_equal(regs.rax, e->regs.rax);
	assert_int_equal(regs.rsp, e->regs.rsp);
	assert_int_equal(regs.r15, 15);
	assert_int_equal(regs.rbp, 0xbbbb);
	assert_int_equal(regs.rdi, 0xd1);
	assert_int_equal(regs.rsi, 0x51);
	assert_int_equal(regs.fs_base, e->regs.fs_base);
	assert_int_equal(regs.eflags, 0x246);
	/* Nothing is to be restarted: that was settled before. */
	assert_int_equal(regs.orig_rax, -1);
	/* The sixth byte of the FXSAVE image is reserved. */
	e->xstate[5] = 0;
	assert_memory_equal(e->again, e->xstate, 416);
	assert_memory_equal(e->again + 512, e->xstate + 512, 8);
	assert_memory_equal(e->again + 576, e->xstate + 576, e->len - 576);
}

static void components_not_in_use_are_zero(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info;

	memcpy(e->xstate + 512, &(uint64_t){ 3 }, 8);
	info = image_of(e);
	assert_int_equal(info->fpregs->xsave->xstate_bv, 3);
	for (size_t i = 0; i < info->fpregs->xsave->n_ymmh_space; i++)
		assert_int_equal(info->fpregs->xsave->ymmh_space[i], 0);
	assert_int_equal(x86_xstate_unsaved(e->xstate, e->len), 0);
	/* AMX goes to a file of our own, and not into the image; anything newer nowhere. */
	memcpy(e->xstate + 512, &(uint64_t){ 3 | 3ull << 17 }, 8);
	assert_int_equal(x86_xstate_unsaved(e->xstate, e->len), 0);
	assert_int_equal(image_of(e)->fpregs->xsave->xstate_bv, 3);
	memcpy(e->xstate + 512, &(uint64_t){ 3 | 3ull << 19 }, 8);
	assert_int_equal(x86_xstate_unsaved(e->xstate, e->len), 3ull << 19);
}

static void image_without_xsave(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info = image_of(e);
	struct user_regs_struct regs;
	uint64_t bv;

	info->fpregs->xsave = NULL;
	assert_int_equal(back(e, info, &regs), 0);
	memcpy(&bv, e->again + 512, 8);
	assert_int_equal(bv, 3);
}

static void short_state(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info;

	assert_int_equal(x86_regs_to_image(&e->op, &e->regs, e->xstate, 512, &info), CKPT_E_KERNEL);
}

static void untrusted_registers(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info = image_of(e);
	struct user_regs_struct regs;

	/* A kernel selector and privileged flags are not loaded. */
	info->gpregs->cs = 0x10;
	info->gpregs->ss = 0;
	info->gpregs->flags = 0xffffffffffffffff;
	info->fpregs->mxcsr = 0xffffffff;
	assert_int_equal(back(e, info, &regs), 0);
	assert_int_equal(regs.cs, 0x33);
	assert_int_equal(regs.ss, 0x2b);
	assert_int_equal(regs.eflags & 0x3000, 0); /* IOPL */
	assert_int_equal(regs.eflags & 0x100, 0);  /* TF: nobody would take the trap */
	assert_int_equal(regs.eflags & 0x202, 0x202);
	assert_int_equal(e->again[24 + 2] | e->again[24 + 3], 0);

	info->gpregs->ip = 0x800000000000;
	expect(e, info, CKPT_E_IMAGE, "instruction pointer");
	info->gpregs->ip = 0x1000;
	info->gpregs->fs_base = 0xffff800000000000;
	expect(e, info, CKPT_E_IMAGE, "fs base");
	info->gpregs->fs_base = 0;
	info->gpregs->gs_base = 0x800000000000;
	expect(e, info, CKPT_E_IMAGE, "gs base");
	info->gpregs->gs_base = 0;
	info->gpregs->mode = USER_X86_REGS_MODE__COMPAT;
	expect(e, info, CKPT_E_UNSUPPORTED, "32-bit");
	info->gpregs = NULL;
	expect(e, info, CKPT_E_IMAGE, "no registers");
}

static void untrusted_arrays(void **state)
{
	struct env *e = *state;
	ThreadInfoX86 *info = image_of(e);
	UserX86XsaveEntry *x = info->fpregs->xsave;

	info->fpregs->n_st_space = 31;
	expect(e, info, CKPT_E_IMAGE, "x87");
	info->fpregs->n_st_space = 32;
	info->fpregs->n_xmm_space = 65;
	expect(e, info, CKPT_E_IMAGE, "SSE");
	info->fpregs->n_xmm_space = 64;
	x->xstate_bv |= 1ull << 2;
	x->n_ymmh_space = 63;
	expect(e, info, CKPT_E_IMAGE, "AVX");
	x->xstate_bv = 3; /* not in use, but damaged all the same */
	expect(e, info, CKPT_E_IMAGE, "AVX");
	x->xstate_bv |= 1ull << 2;
	x->n_ymmh_space = 0;
	expect(e, info, CKPT_E_IMAGE, "xstate_bv");
	x->xstate_bv = 3 | 1ull << 18;
	expect(e, info, CKPT_E_KERNEL, "0x40000");
	x->xstate_bv = 3;
	x->cet = op_new(&e->op, UserX86CetEntry);
	user_x86_cet_entry__init(x->cet);
	x->cet->cet = 1;
	expect(e, info, CKPT_E_UNSUPPORTED, "shadow stack");
}

/* MPX is gone from processors and kernels: a component that this machine lacks. */
static void processor_lacks_a_component(void **state)
{
	static uint64_t bounds[8];
	struct env *e = *state;
	ThreadInfoX86 *info;

	if (components_here() >> 3 & 1)
		skip();
	info = image_of(e);
	info->fpregs->xsave->xstate_bv |= 1ull << 3;
	info->fpregs->xsave->n_bndreg_state = 8;
	info->fpregs->xsave->bndreg_state = bounds;
	expect(e, info, CKPT_E_KERNEL, "MPX");
}

static void compare_packed(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
	size_t n = protobuf_c_message_get_packed_size(a);
	_cleanup_free_ uint8_t *pa = malloc(n), *pb = malloc(n);

	assert_int_equal(n, protobuf_c_message_get_packed_size(b));
	assert_true(pa && pb);
	protobuf_c_message_pack(a, pa);
	protobuf_c_message_pack(b, pb);
	assert_memory_equal(pa, pb, n);
}

/* From the image and into it again: the same message, where this processor has what the program used. */
static void check_core(struct env *e, CoreEntry *core, const char *name)
{
	ThreadInfoX86 *info = core->thread_info, *again;
	struct user_regs_struct regs;
	size_t len;
	int r;

	if (!info)
		return; /* a zombie */
	r = x86_regs_from_image(&e->op, info, &regs, e->xstate, XSTATE_CAP, &len);
	if (r == CKPT_E_KERNEL) {
		print_message("%s: %s\n", name, ckpt_err_message(e->op.err));
		op_forget(&e->op);
		return;
	}
	assert_int_equal(r, 0);
	assert_int_equal(x86_regs_to_image(&e->op, &regs, e->xstate, len, &again), 0);
	/* Not loaded, and therefore not given back: */
	again->gpregs->orig_ax = info->gpregs->orig_ax;
	again->gpregs->ds = info->gpregs->ds;
	again->gpregs->es = info->gpregs->es;
	again->gpregs->fs = info->gpregs->fs;
	again->gpregs->gs = info->gpregs->gs;
	again->fpregs->mxcsr_mask = info->fpregs->mxcsr_mask;
	compare_packed(&info->gpregs->base, &again->gpregs->base);
	assert_int_equal(info->fpregs->mxcsr, again->fpregs->mxcsr);
	assert_memory_equal(info->fpregs->xmm_space, again->fpregs->xmm_space, 256);
	assert_memory_equal(info->fpregs->st_space, again->fpregs->st_space, 128);
	if (!info->fpregs->xsave)
		return;
	/* A component that this processor has not, and the other had without using it, is left out. */
	assert_int_equal(info->fpregs->xsave->xstate_bv, again->fpregs->xsave->xstate_bv);
	if (again->fpregs->xsave->n_hi16_zmm) {
		assert_int_equal(info->fpregs->xsave->n_hi16_zmm, 128);
		assert_memory_equal(info->fpregs->xsave->hi16_zmm, again->fpregs->xsave->hi16_zmm, 1024);
	}
	if (again->fpregs->xsave->n_ymmh_space && info->fpregs->xsave->n_ymmh_space)
		assert_memory_equal(info->fpregs->xsave->ymmh_space, again->fpregs->xsave->ymmh_space, 256);
}

static unsigned check_set(struct env *e, const char *folder)
{
	InventoryEntry *inventory;
	struct img_dir *dir;
	ProtobufCMessage *msg;
	struct dirent *entry;
	unsigned id, n = 0;
	DIR *d = opendir(folder);

	assert_non_null(d);
	e->opts.images_dir = folder;
	assert_int_equal(img_dir_open(&e->op, &dir, &inventory), 0);
	while ((entry = readdir(d))) {
		if (sscanf(entry->d_name, "core-%u.img", &id) != 1)
			continue;
		assert_int_equal(img_read_one(&e->op, dir, IMG_CORE, id, &msg), 0);
		check_core(e, (CoreEntry *)msg, entry->d_name);
		n++;
	}
	img_dir_close(dir);
	closedir(d);
	return n;
}

static void reference_cores(void **state)
{
	const char *shared = getenv("CKPT_SHARED") ?: CKPT_SOURCE_DIR "/../shared";
	struct env *e = *state;
	unsigned n = 0;
	glob_t sets;

	if (glob(arena_printf(e->op.arena, "%s/golden/images/*/img", shared), 0, NULL, &sets) != 0) {
		print_message("skipped: no reference sets in %s (CKPT_SHARED names their folder)\n", shared);
		skip();
	}
	for (size_t i = 0; i < sets.gl_pathc; i++)
		n += check_set(e, sets.gl_pathv[i]);
	globfree(&sets);
	print_message("%u cores\n", n);
	assert_true(n > 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(round_trip), T(components_not_in_use_are_zero), T(image_without_xsave), T(short_state),
		T(untrusted_registers), T(untrusted_arrays), T(processor_lacks_a_component), T(reference_cores),
	};
	uint32_t a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) {
		print_message("skipped: a processor without XSAVE\n");
		return 77;
	}
	return cmocka_run_group_tests_name("regs", tests, NULL, NULL);
}
