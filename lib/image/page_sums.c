// SPDX-License-Identifier: MIT
#define PAGE_SUMS page_sums_base
#include "lib/image/page_sums.h"

#include "lib/image/page_sums_loop.h"

#ifdef __x86_64__
uint64_t page_sums_avx2(const void *pages, unsigned n, uint32_t skip);
#endif

uint64_t page_sums(const void *pages, unsigned n, uint32_t skip)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return page_sums_avx2(pages, n, skip);
#endif
	return page_sums_base(pages, n, skip);
}
