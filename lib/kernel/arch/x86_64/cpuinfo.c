// SPDX-License-Identifier: MIT
/* Feature words of x86, in the order of the kernel, which is that of the image. */
#include "lib/kernel/arch/x86_64/cpuinfo.h"

#include <cpuid.h>

enum { EAX, EBX, ECX, EDX };
enum { VERSION = 2, N_WORDS = 19, N_WORDS_1 = 12, MODEL_BYTES = 48 };

/* Where a word comes from; what Linux says of itself (leaf 0) is not the processor's, and stays 0. */
static const struct {
	uint32_t leaf, subleaf;
	uint8_t reg;
	uint32_t ins; /* bits of instructions that programs use */
} words[N_WORDS] = {
	{ 0x1, 0, EDX, 0x07888111 },	    /* fpu tsc cx8 cmov clflush mmx fxsr sse sse2 */
	{ 0x80000001, 0, EDX, 0xe8400800 }, /* syscall mmxext rdtscp lm 3dnowext 3dnow */
	{ 0x80860001, 0, EDX, 0 },
	{ 0 },
	{ 0x1, 0, ECX, 0x76d83203 },	    /* sse3 pclmulqdq ssse3 fma cx16 sse4.1 sse4.2 movbe popcnt aes xsave avx f16c rdrand */
	{ 0xc0000001, 0, EDX, 0 },
	{ 0x80000001, 0, ECX, 0x20210961 }, /* lahf lzcnt sse4a prefetchw xop fma4 tbm mwaitx */
	{ 0 },
	{ 0 },
	{ 0x7, 0, EBX, 0xfdaf4b39 },	    /* fsgsbase bmi1 hle avx2 bmi2 erms rtm mpx avx512 rdseed adx clflushopt clwb sha */
	{ 0xd, 1, EAX, 0x00000007 },	    /* xsaveopt xsavec xgetbv1 */
	{ 0x7, 0, ECX, 0x1a405f62 },	    /* avx512 waitpkg gfni vaes vpclmulqdq rdpid cldemote movdiri movdir64b */
	{ 0xf, 1, EDX, 0 },
	{ 0x80000008, 0, EBX, 0 },
	{ 0x6, 0, EAX, 0 },
	{ 0x8000000a, 0, EDX, 0 },
	{ 0xf, 0, EDX, 0 },
	{ 0x80000007, 0, EBX, 0 },
	{ 0x7, 0, EDX, 0x03c0411c },	    /* avx512 fsrm vp2intersect serialize amx */
};

/* --------------------------------------------------------------------------------------------------- here */

static uint32_t ask(uint32_t leaf, uint32_t subleaf, unsigned reg)
{
	uint32_t r[4];

	return __get_cpuid_count(leaf, subleaf, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) ? r[reg] : 0;
}

static CpuinfoX86Entry__Vendor vendor(void)
{
	uint32_t r[4];
	char name[13] = "";

	__cpuid(0, r[EAX], r[EBX], r[ECX], r[EDX]);
	memcpy(name, &r[EBX], 4);
	memcpy(name + 4, &r[EDX], 4);
	memcpy(name + 8, &r[ECX], 4);
	return strcmp(name, "GenuineIntel") == 0 ? CPUINFO_X86_ENTRY__VENDOR__INTEL :
	       strcmp(name, "AuthenticAMD") == 0 ? CPUINFO_X86_ENTRY__VENDOR__AMD : CPUINFO_X86_ENTRY__VENDOR__UNKNOWN;
}

static void set_model(CpuinfoX86Entry *e)
{
	uint32_t sig = ask(1, 0, EAX), family = sig >> 8 & 0xf, model = sig >> 4 & 0xf;

	if (family == 6 || family == 15)
		model |= (sig >> 16 & 0xf) << 4;
	if (family == 15)
		family += sig >> 20 & 0xff;
	e->cpu_family = family;
	e->model = model;
	e->stepping = sig & 0xf;
}

static int set_model_id(struct op *op, CpuinfoX86Entry *e)
{
	char *id = op_alloc(op, MODEL_BYTES + 1);

	if (!id)
		return CKPT_E_NOMEM;
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t r[4] = { 0 };

		__get_cpuid(0x80000002 + i, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
		memcpy(id + 16 * i, r, sizeof(r));
	}
	id[MODEL_BYTES] = '\0';
	e->model_id = id + strspn(id, " ");
	return 0;
}

static void set_xsave(CpuinfoX86Entry *e)
{
	uint32_t lo = 3, hi = 0; /* x87 and sse: what there is without xsave */

	if (ask(1, 0, ECX) & bit_OSXSAVE)
		__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	e->has_xfeatures_mask = e->has_xsave_size = e->has_xsave_size_max = true;
	e->xfeatures_mask = (uint64_t)hi << 32 | lo;
	e->xsave_size = ask(0xd, 0, EBX);
	e->xsave_size_max = ask(0xd, 0, ECX);
}

int cpuinfo_here(struct op *op, CpuinfoEntry **ret)
{
	CpuinfoEntry *m = op_new(op, CpuinfoEntry);
	CpuinfoX86Entry *e = op_new(op, CpuinfoX86Entry), **list = op_new(op, CpuinfoX86Entry *);
	uint32_t *caps = op_alloc(op, N_WORDS * sizeof(*caps));

	if (!m || !e || !list || !caps)
		return CKPT_E_NOMEM;
	cpuinfo_entry__init(m);
	cpuinfo_x86_entry__init(e);
	e->vendor_id = vendor();
	set_model(e);
	set_xsave(e);
	e->capability_ver = VERSION;
	e->n_capability = N_WORDS;
	e->capability = caps;
	for (size_t i = 0; i < N_WORDS; i++)
		caps[i] = words[i].leaf ? ask(words[i].leaf, words[i].subleaf, words[i].reg) : 0;
	list[0] = e;
	m->n_x86_entry = 1;
	m->x86_entry = list;
	*ret = m;
	return set_model_id(op, e);
}

/* ------------------------------------------------------------------------------------------------ compare */

static int bad_image(struct op *op, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "cpuinfo"), "cpuinfo.img: %s", what);
}

static int check_image(struct op *op, const CpuinfoEntry *image)
{
	const CpuinfoX86Entry *e;

	if (image->n_x86_entry != 1)
		return bad_image(op, "not of one x86 processor");
	e = image->x86_entry[0];
	if (e->vendor_id != CPUINFO_X86_ENTRY__VENDOR__INTEL && e->vendor_id != CPUINFO_X86_ENTRY__VENDOR__AMD)
		return bad_image(op, "of a processor that is not Intel's or AMD's");
	if (!(e->capability_ver == 1 && e->n_capability == N_WORDS_1) && !(e->capability_ver == VERSION && e->n_capability == N_WORDS))
		return bad_image(op, "another number of words than its version has");
	return 0;
}

static int lacks(struct op *op, size_t word, uint32_t bits, const char *what)
{
	return op_fail(op, CKPT_E_KERNEL, AT(.kind = "cpuinfo", .hint = "restore on a processor that has it, or without --cpu-cap"),
		       "the processor of the dump has %s that this one lacks: bits 0x%x of word %zu (CPUID 0x%x)", what, bits, word,
		       words[word].leaf);
}

static int compare_fpu(struct op *op, const CpuinfoX86Entry *image, const CpuinfoX86Entry *here)
{
	static const struct {
		uint8_t word, bit;
	} needed[] = { { 0, 0 }, { 0, 24 }, { 4, 27 }, { 10, 3 } }; /* fpu fxsr osxsave xsaves */
	uint64_t mask = image->has_xfeatures_mask ? image->xfeatures_mask : here->xfeatures_mask;

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		uint32_t bit = 1u << needed[i].bit;

		if ((image->capability[needed[i].word] & bit) && !(here->capability[needed[i].word] & bit))
			return lacks(op, needed[i].word, bit, "ways to save floating point state");
	}
	if (mask & ~here->xfeatures_mask)
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "cpuinfo"),
			       "the processor of the dump has registers that this one lacks: components 0x%lx of the extended state",
			       mask & ~here->xfeatures_mask);
	if ((image->has_xsave_size && image->xsave_size != here->xsave_size) ||
	    (image->has_xsave_size_max && image->xsave_size_max != here->xsave_size_max))
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "cpuinfo"),
			       "floating point state has another size: %u of %u bytes in the dump, %u of %u here", image->xsave_size,
			       image->xsave_size_max, here->xsave_size, here->xsave_size_max);
	return 0;
}

static int compare_words(struct op *op, const CpuinfoX86Entry *image, const CpuinfoX86Entry *here, bool all)
{
	for (size_t i = 0; i < image->n_capability; i++) {
		uint32_t had = image->capability[i], have = here->capability[i], missing = had & ~have & (all ? ~0u : words[i].ins);

		if (!words[i].leaf)
			continue; /* says something of kernels */
		if (missing)
			return lacks(op, i, missing, all ? "features" : "instructions");
		if (all && had != have)
			return op_fail(op, CKPT_E_KERNEL, AT(.kind = "cpuinfo"),
				       "this processor has features that the one of the dump lacks: bits 0x%x of word %zu (CPUID 0x%x)",
				       have & ~had, i, words[i].leaf);
	}
	return 0;
}

int cpuinfo_compare(struct op *op, const CpuinfoEntry *image, const CpuinfoEntry *here, unsigned caps)
{
	const CpuinfoX86Entry *h = here->x86_entry[0];
	int r = check_image(op, image);

	if (!r && (caps & CPU_CAP_FPU))
		r = compare_fpu(op, image->x86_entry[0], h);
	if (!r && (caps & CPU_CAP_INS))
		r = compare_words(op, image->x86_entry[0], h, false);
	if (!r && (caps & CPU_CAP_CPU))
		r = compare_words(op, image->x86_entry[0], h, true);
	return r;
}
