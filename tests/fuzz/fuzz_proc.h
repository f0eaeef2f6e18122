/* SPDX-License-Identifier: MIT */
/* What the fuzz targets of the /proc parsers share: one parser, one input, an arena of its own. */
#ifndef CKPT_FUZZ_PROC_H
#define CKPT_FUZZ_PROC_H

#include "lib/kernel/proc/proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_PROC(parse, type)                                     \
	int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) \
	{                                                          \
		struct arena *a = arena_new();                     \
		struct type out;                                   \
                                                                   \
		if (a)                                             \
			parse(a, (const char *)data, size, &out);  \
		arena_free(a);                                     \
		return 0;                                          \
	}

#endif
