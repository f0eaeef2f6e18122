/* SPDX-License-Identifier: MIT */
/* Sums of pages, with the processor's vector registers: only for blobs that are programs of their own. */
#include "lib/inject/blob/sum.h"

#include "lib/image/block.h"

uint64_t blob_sum(const void *pages, uint64_t n, uint64_t first)
{
	uint64_t sum = 0;

	for (uint64_t i = 0; i < n; i++)
		sum ^= page_sum((const char *)pages + i * 4096, (unsigned)((first + i) % BLOCK_PAGES));
	return sum;
}
