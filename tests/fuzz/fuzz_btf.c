// SPDX-License-Identifier: MIT
/* Any bytes as the type information of a kernel. */
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>

#include "lib/state/sock/tcp/pending.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1); /* to the byte */

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	pending_btf_func(copy, size, "mine");
	free(copy);
	return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	const struct btf_header h = { .magic = BTF_MAGIC, .version = 1, .hdr_len = sizeof(h), .type_len = 6 * 4 + 2 * 4 + 3 * 4,
				      .str_off = 6 * 4 + 2 * 4 + 3 * 4, .str_len = 6 };
	static const uint32_t types[] = { 0, BTF_KIND_FUNC_PROTO << 24 | 1, 1, 0, 0, 1, BTF_KIND_FWD << 24, 0, 1, BTF_KIND_FUNC << 24, 1 };
	size_t n = sizeof(h) + sizeof(types) + 6;

	if (i || cap < n)
		return 0;
	memcpy(buf, &h, sizeof(h));
	memcpy(buf + sizeof(h), types, sizeof(types));
	memcpy(buf + sizeof(h) + sizeof(types), "\0mine", 6);
	return n;
}
