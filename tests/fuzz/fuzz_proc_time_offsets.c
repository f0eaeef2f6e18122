// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/timens_offsets. */
#include "tests/fuzz/fuzz_proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proc_time_offsets out;

	proc_parse_time_offsets((const char *)data, size, &out);
	return 0;
}

FUZZ_SEEDS("timens-offsets")
