/* SPDX-License-Identifier: MIT */
/* What the fuzz targets of the /proc parsers share: the recorded texts of the unit tests as seeds, one parser, one input. */
#ifndef CKPT_FUZZ_PROC_H
#define CKPT_FUZZ_PROC_H

#include <stdio.h>

#include "lib/kernel/proc/proc.h"
#include "tests/fuzz/fuzz.h"

/* The fixture @name into @buf, for fuzz_seed(). The sources are where this file was compiled. */
static inline size_t fuzz_fixture(const char *name, uint8_t *buf, size_t cap)
{
	const char *here = __FILE__, *slash = strrchr(here, '/');
	_cleanup_fclose_ FILE *f = NULL;
	char path[4096];

	snprintf(path, sizeof(path), "%.*s/../unit/fixtures/proc/%s", slash ? (int)(slash - here) : 0, here, name);
	f = fopen(path, "re");
	return f ? fread(buf, 1, cap, f) : 0;
}

/* Names of fixtures follow. */
#define FUZZ_SEEDS(...)                                                                          \
	size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)                                   \
	{                                                                                        \
		static const char *const names[] = { __VA_ARGS__ };                              \
                                                                                                 \
		return i < ARRAY_SIZE(names) ? fuzz_fixture(names[i], buf, cap) : 0;             \
	}

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
