/* SPDX-License-Identifier: MIT */
/* The body of page_sums(), compiled once for each kind of processor: PAGE_SUMS is its name there. */
#include "lib/image/block.h"

uint64_t PAGE_SUMS(const void *pages, unsigned n, uint32_t skip);

uint64_t PAGE_SUMS(const void *pages, unsigned n, uint32_t skip)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < n; k++)
		if (!(skip >> k & 1))
			sum ^= page_sum((const char *)pages + k * 4096ul, k);
	return sum;
}
