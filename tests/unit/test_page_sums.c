// SPDX-License-Identifier: MIT
/* Sums by wide registers are those of lib/image/block.h, for every length and every set of pages that do not count. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lib/image/block.h"
#include "lib/image/page_sums.h"

static unsigned char pages[BLOCK_PAGES * 4096 + 1];

static uint64_t one_by_one(const unsigned char *p, unsigned n, uint32_t skip)
{
	uint64_t sum = 0;

	for (unsigned k = 0; k < n; k++)
		if (!(skip >> k & 1))
			sum ^= page_sum(p + k * 4096, k);
	return sum;
}

static void are_the_same(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		uint32_t skip = i % 3 ? (uint32_t)rand() : 0;
		unsigned n = i % (BLOCK_PAGES + 1), at = i & 1;

		for (size_t k = 0; k < sizeof(pages); k++)
			pages[k] = (unsigned char)(rand() >> 3);
		assert_int_equal(page_sums(pages + at, n, skip), one_by_one(pages + at, n, skip));
	}
}

static void depend_on_the_place(void **state)
{
	uint64_t sum;

	(void)state;
	memset(pages, 7, sizeof(pages));
	/* two equal pages do not cancel each other */
	assert_int_not_equal(page_sums(pages, 2, 0), 0);
	pages[4096] = 8;
	sum = page_sums(pages, 2, 0);
	pages[4096] = 7;
	pages[0] = 8;
	assert_int_not_equal(page_sums(pages, 2, 0), sum);
	assert_int_equal(page_sums(pages, BLOCK_PAGES, 0xffff), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(are_the_same), cmocka_unit_test(depend_on_the_place) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
