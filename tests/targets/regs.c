// SPDX-License-Identifier: MIT
/*
 * A thread that spins in user code with every register holding a known value: general registers, x87, MXCSR, the vector
 * registers up to what the processor has (variants sse, avx, avx512), opmasks, the direction flag and the red zone.
 */
#include "target.h"

#include <immintrin.h>

struct area {
	uint64_t gpr_in[14];	  /*    0 rbx rcx rdx rsi rdi rbp r8..r15 */
	uint64_t gpr_out[14];	  /*  112 */
	uint8_t vec_in[32][64];	  /*  224 */
	uint8_t vec_out[32][64];  /* 2272 */
	uint64_t k_in[8];	  /* 4320 */
	uint64_t k_out[8];	  /* 4384 */
	uint32_t mxcsr_in;	  /* 4448 */
	uint32_t mxcsr_out;	  /* 4452 */
	uint16_t fcw_in, fcw_out; /* 4456 */
	volatile int inside;	  /* 4460 */
	volatile int go;	  /* 4464 */
	int red_zone_ok;	  /* 4468 */
	uint64_t flags_out;	  /* 4472 */
	double st_out[2];	  /* 4480 */
} __attribute__((aligned(64)));

/* spin_LEVEL(struct area *): rax keeps the area, everything else is loaded, held while spinning, and stored. */
#define GPRS "rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15"
#define SPIN(level, load, store)                                                                     \
	__asm__(".text\n.globl spin_" level "\n.type spin_" level ",@function\n"                      \
		"spin_" level ":\n"                                                                  \
		"	push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"     \
		"	mov %rdi, %rax\n"                                                            \
		"	fnclex\n fninit\n fldcw 4456(%rax)\n fldpi\n fld1\n"                         \
		"	ldmxcsr 4448(%rax)\n" load                                                   \
		"	.set off, 0\n"                                                               \
		"	.irp r, " GPRS "\n mov off(%rax), %\\r\n .set off, off + 8\n .endr\n"         \
		"	movq $0x5ed20e, -64(%rsp)\n"                                                 \
		"	std\n"                                                                       \
		"	movl $1, 4460(%rax)\n"                                                       \
		"1:	pause\n cmpl $0, 4464(%rax)\n je 1b\n"                                       \
		"	.set off, 112\n"                                                             \
		"	.irp r, " GPRS "\n mov %\\r, off(%rax)\n .set off, off + 8\n .endr\n"         \
		"	xor %ecx, %ecx\n cmpq $0x5ed20e, -64(%rsp)\n sete %cl\n mov %ecx, 4468(%rax)\n" \
		"	pushfq\n pop %rcx\n mov %rcx, 4472(%rax)\n cld\n"                            \
		store                                                                                \
		"	stmxcsr 4452(%rax)\n fnstcw 4458(%rax)\n"                                    \
		"	fstpl 4480(%rax)\n fstpl 4488(%rax)\n fninit\n"                              \
		"	movl $0x1f80, -8(%rsp)\n ldmxcsr -8(%rsp)\n"                                 \
		"	pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"           \
		"	ret\n.size spin_" level ", . - spin_" level "\n")

#define R16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define R32 R16 ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
SPIN("sse", ".irp i, " R16 "\n movdqu 224+64*\\i(%rax), %xmm\\i\n .endr\n",
     ".irp i, " R16 "\n movdqu %xmm\\i, 2272+64*\\i(%rax)\n .endr\n");
SPIN("avx", ".irp i, " R16 "\n vmovdqu 224+64*\\i(%rax), %ymm\\i\n .endr\n",
     ".irp i, " R16 "\n vmovdqu %ymm\\i, 2272+64*\\i(%rax)\n .endr\n vzeroupper\n");
SPIN("avx512",
     ".irp i, " R32 "\n vmovdqu64 224+64*\\i(%rax), %zmm\\i\n .endr\n"
     ".irp i, 0,1,2,3,4,5,6,7\n kmovw 4320+8*\\i(%rax), %k\\i\n .endr\n",
     ".irp i, " R32 "\n vmovdqu64 %zmm\\i, 2272+64*\\i(%rax)\n .endr\n"
     ".irp i, 0,1,2,3,4,5,6,7\n kmovw %k\\i, 4384+8*\\i(%rax)\n .endr\n vzeroupper\n");
void spin_sse(struct area *a);
void spin_avx(struct area *a);
void spin_avx512(struct area *a);

static struct area area;
static void (*spin)(struct area *);

static void *spinner(void *arg)
{
	(void)arg;
	spin(&area);
	return NULL;
}

static void run(int regs, int bytes)
{
	pthread_t t;

	t_fill(area.gpr_in, sizeof(area.gpr_in), 1);
	t_fill(area.vec_in, sizeof(area.vec_in), 2);
	t_fill(area.k_in, sizeof(area.k_in), 3);
	area.mxcsr_in = 0x7f80; /* round towards zero */
	area.fcw_in = 0x0e7f;	/* round towards zero, double precision */
	CHECK(!pthread_create(&t, NULL, spinner, NULL));
	while (!area.inside)
		;
	t_wait();
	area.go = 1;
	pthread_join(t, NULL);
	for (int i = 0; i < 14; i++)
		if (area.gpr_in[i] != area.gpr_out[i])
			FAIL("general register %d: %#lx became %#lx", i, area.gpr_in[i], area.gpr_out[i]);
	for (int i = 0; i < regs; i++)
		if (memcmp(area.vec_in[i], area.vec_out[i], bytes))
			FAIL("vector register %d changed", i);
	for (int i = 0; i < 8 && bytes == 64; i++)
		if ((uint16_t)area.k_in[i] != (uint16_t)area.k_out[i])
			FAIL("opmask %d changed", i);
	CHECK((area.mxcsr_out & ~0x3fu) == (area.mxcsr_in & ~0x3fu));
	CHECK(area.fcw_out == area.fcw_in);
	CHECK(area.st_out[0] == 1.0 && area.st_out[1] > 3.14159265 && area.st_out[1] < 3.14159266);
	CHECK(area.red_zone_ok);
	CHECK(area.flags_out & 0x400);
}

static void sse(void)
{
	spin = spin_sse;
	run(16, 16);
}

static void avx(void)
{
	if (!__builtin_cpu_supports("avx"))
		SKIP("this processor has no AVX");
	spin = spin_avx;
	run(16, 32);
}

static void avx512(void)
{
	if (!__builtin_cpu_supports("avx512f"))
		SKIP("this processor has no AVX-512");
	spin = spin_avx512;
	run(32, 64);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "sse", sse }, { "avx", avx }, { "avx512", avx512 } };

	_Static_assert(offsetof(struct area, gpr_out) == 112 && offsetof(struct area, vec_in) == 224 &&
		       offsetof(struct area, vec_out) == 2272 && offsetof(struct area, k_in) == 4320 &&
		       offsetof(struct area, mxcsr_in) == 4448 && offsetof(struct area, inside) == 4460 &&
		       offsetof(struct area, go) == 4464 && offsetof(struct area, flags_out) == 4472 &&
		       offsetof(struct area, st_out) == 4480, "the assembly knows these offsets");
	T_RUN(variants, t_init(argc, argv));
}
