/* SPDX-License-Identifier: MIT */
/* Any bytes as the text of --cgroup-props. What is taken names files, not other folders. */
#include <stdlib.h>
#include <string.h>

#include "lib/state/cgroup/props.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct cg_prop_lists lists = { 0 };
	struct arena *a = arena_new();
	cg_names names = { 0 };
	unsigned line = 0;

	if (!a)
		abort();
	if (cg_props_parse(a, (const char *)data, size, &lists, &line) == 0) {
		if (cg_props_of(a, "cpu,cpuacct", &lists, &names) || cg_props_of(a, "", &lists, &names))
			abort();
		for (size_t i = 0; i < names.n; i++)
			if (strchr(names.v[i], '/') || !*names.v[i] || !strcmp(names.v[i], ".."))
				abort();
	} else if (!line) {
		abort();
	}
	arena_free(a);
	return 0;
}

size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap)
{
	static const char *const seeds[] = {
		"\"cpu\":\n - \"strategy\": \"replace\"\n - \"properties\": [\"cpu.shares\", \"cpu.idle\"]\n",
		"\"memory\":\n - \"strategy\": \"merge\"\n - \"properties\": [\"memory.max\"]\n\"\":\n - \"strategy\": \"merge\"\n - \"properties\": []",
	};
	size_t n = i < sizeof(seeds) / sizeof(*seeds) ? strlen(seeds[i]) : 0;

	if (!n || n > cap)
		return 0;
	memcpy(buf, seeds[i], n);
	return n;
}
