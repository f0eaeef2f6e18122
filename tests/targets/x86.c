// SPDX-License-Identifier: MIT
/* What only x86 processors have: a local descriptor table, the permission to use AMX. */
#include "target.h"

#include <asm/ldt.h>
#include <asm/prctl.h>

#define ENTRY 700 /* not in the first piece that anybody reads */
#define SELECTOR (ENTRY << 3 | 7)

static uint32_t read_gs(void)
{
	uint32_t v;

	__asm__ volatile("movl %%gs:0, %0" : "=r"(v));
	return v;
}

static void ldt(void)
{
	static uint64_t before[1024], after[1024];
	uint32_t *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	struct user_desc u = { .entry_number = ENTRY, .limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1, .useable = 1 };
	struct user_desc code = { .entry_number = 3, .base_addr = 0x12345678, .limit = 0x54321, .contents = 2, .seg_32bit = 1,
				  .read_exec_only = 1, .seg_not_present = 1 };
	uint16_t gs = 0;

	CHECK(p != MAP_FAILED);
	*p = 0xfeedbeef;
	u.base_addr = (uint32_t)(uintptr_t)p;
	if (syscall(SYS_modify_ldt, 0x11, &u, sizeof(u)))
		SKIP("no modify_ldt: %s", strerror(errno));
	CHECK(!syscall(SYS_modify_ldt, 0x11, &code, sizeof(code)));
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)SELECTOR));
	CHECK(read_gs() == 0xfeedbeef);
	CHECK(syscall(SYS_modify_ldt, 0, before, sizeof(before)) == sizeof(before));
	t_wait();
	__asm__ volatile("movw %%gs, %0" : "=r"(gs));
	if (gs != SELECTOR)
		FAIL("gs is %#x", gs);
	CHECK(read_gs() == 0xfeedbeef);
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)0));
	__asm__ volatile("movw %0, %%gs" : : "r"((uint16_t)SELECTOR));
	CHECK(read_gs() == 0xfeedbeef);
	CHECK(syscall(SYS_modify_ldt, 0, after, sizeof(after)) == sizeof(after));
	CHECK(!memcmp(before, after, sizeof(before)));
}

static void amxperm(void)
{
	uint64_t before = 0, after = 0;

	if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18))
		SKIP("no AMX: %s", strerror(errno));
	CHECK(!syscall(SYS_arch_prctl, 0x1022 /* ARCH_GET_XCOMP_PERM */, &before) && before >> 18 & 1);
	t_wait();
	CHECK(!syscall(SYS_arch_prctl, 0x1022, &after) && after == before);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "ldt", ldt }, { "amxperm", amxperm } };

	T_RUN(variants, t_init(argc, argv));
}
