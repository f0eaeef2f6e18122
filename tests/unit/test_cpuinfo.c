// SPDX-License-Identifier: MIT
/* Processors that do, and do not, for what began on another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lib/api/ctx.h"
#include "lib/engine/cpuinfo.h"
#include "lib/kernel/arch/x86_64/cpuinfo.h"

static struct ckpt_ctx *ctx;
static struct op op;
static CpuinfoEntry *image, *here;

static int setup(void **state)
{
	(void)state;
	assert_int_equal(ckpt_ctx_new(&ctx), 0);
	assert_int_equal(op_begin(&op, ctx, NULL, NULL), 0);
	assert_int_equal(cpuinfo_here(&op, &image), 0);
	assert_int_equal(cpuinfo_here(&op, &here), 0);
	image->x86_entry[0]->vendor_id = here->x86_entry[0]->vendor_id = CPUINFO_X86_ENTRY__VENDOR__AMD;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	op_end(&op, 0, NULL);
	ckpt_ctx_free(ctx);
	return 0;
}

static int compare(unsigned caps)
{
	int r;

	op_forget(&op);
	r = cpuinfo_compare(&op, image, here, caps);
	assert_int_equal(ckpt_err_code(op.err), r);
	return r;
}

enum { ALL = CPU_CAP_FPU | CPU_CAP_CPU | CPU_CAP_INS };

static void the_same(void **state)
{
	(void)state;
	assert_int_equal(compare(ALL), 0);
	assert_int_equal(image->x86_entry[0]->n_capability, 19);
	assert_true(here->x86_entry[0]->capability[0] & 1); /* an fpu */
	assert_true(here->x86_entry[0]->xfeatures_mask & 3);
	assert_true(here->x86_entry[0]->model_id[0]);
}

static void one_bit(void **state)
{
	uint32_t *had = image->x86_entry[0]->capability, *have = here->x86_entry[0]->capability;

	(void)state;
	had[9] |= 1 << 5, have[9] &= ~(1u << 5); /* avx2 */
	assert_int_equal(compare(CPU_CAP_INS), CKPT_E_KERNEL);
	assert_non_null(strstr(ckpt_err_message(op.err), "bits 0x20 of word 9 (CPUID 0x7)"));
	assert_int_equal(compare(CPU_CAP_CPU), CKPT_E_KERNEL);
	assert_int_equal(compare(CPU_CAP_FPU), 0);
	assert_int_equal(compare(CPU_CAP_IMAGE), 0);
	had[9] &= ~(1u << 5), have[9] |= 1 << 5; /* more than there was */
	assert_int_equal(compare(CPU_CAP_INS), 0);
	assert_int_equal(compare(CPU_CAP_CPU), CKPT_E_KERNEL);
	had[9] |= 1 << 5;
	had[14] ^= 4; /* no instruction */
	assert_int_equal(compare(CPU_CAP_INS), 0);
	assert_int_equal(compare(CPU_CAP_CPU), CKPT_E_KERNEL);
	had[14] ^= 4;
	had[3] = 0xffff; /* what a kernel says */
	assert_int_equal(compare(ALL), 0);
}

static void state_of_the_fpu(void **state)
{
	CpuinfoX86Entry *i = image->x86_entry[0], *h = here->x86_entry[0];

	(void)state;
	i->xsave_size++;
	assert_int_equal(compare(CPU_CAP_FPU), CKPT_E_KERNEL);
	i->has_xsave_size = false;
	assert_int_equal(compare(CPU_CAP_FPU), 0);
	i->xfeatures_mask |= 1ull << 62;
	assert_int_equal(compare(CPU_CAP_FPU), CKPT_E_KERNEL);
	i->has_xfeatures_mask = false;
	assert_int_equal(compare(CPU_CAP_FPU), 0);
	i->capability[0] |= 1 << 24, h->capability[0] &= ~(1u << 24);
	assert_int_equal(compare(CPU_CAP_FPU), CKPT_E_KERNEL);
}

static void images(void **state)
{
	CpuinfoX86Entry *i = image->x86_entry[0];

	(void)state;
	i->n_capability = 12;
	assert_int_equal(compare(ALL), CKPT_E_IMAGE);
	i->capability_ver = 1;
	assert_int_equal(compare(ALL), 0);
	i->n_capability = 0;
	assert_int_equal(compare(ALL), CKPT_E_IMAGE);
	i->capability_ver = 3;
	assert_int_equal(compare(ALL), CKPT_E_IMAGE);
	i->capability_ver = 2, i->n_capability = 19, i->vendor_id = CPUINFO_X86_ENTRY__VENDOR__UNKNOWN;
	assert_int_equal(compare(ALL), CKPT_E_IMAGE);
	image->n_x86_entry = 0;
	assert_int_equal(compare(ALL), CKPT_E_IMAGE);
}

static void words(void **state)
{
	static const struct {
		const char *list;
		unsigned caps;
	} good[] = {
		{ NULL, 0 }, { "none", 0 }, { "all", 15 }, { "fpu", 13 }, { "cpu", 15 }, { "^ins", 9 }, { "all,^cpu", 13 },
		{ "none,image,cpu", 10 }, { "none,cpu", 10 }, { "fpu,none", 0 }, { "image", 13 },
	};
	static const char *const bad[] = { "", "x", "fpu,", ",", "FPU", "fpu ins", "^", "fpux", "fp" };
	unsigned caps;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(cpuinfo_caps(&op, good[i].list, &caps), 0);
		assert_int_equal(caps, good[i].caps);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		op_forget(&op);
		assert_int_equal(cpuinfo_caps(&op, bad[i], &caps), CKPT_E_INVAL);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = { T(the_same), T(one_bit), T(state_of_the_fpu), T(images), T(words) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
