// SPDX-License-Identifier: MIT
/* Any bytes as the files of /proc/PID that are parsed without an arena: stat, limits, syscall, sched. */
#include "tests/fuzz/fuzz_proc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	struct proc_syscall call;
	struct proc_limit limits[16];
	struct proc_stat stat;

	proc_parse_stat(text, size, &stat);
	proc_parse_limits(text, size, limits);
	proc_parse_syscall(text, size, &call);
	proc_parse_sched_exec_start(text, size);
	return 0;
}

FUZZ_SEEDS("stat-odd", "stat-zombie", "limits", "syscall-pause", "syscall-running", "sched")
