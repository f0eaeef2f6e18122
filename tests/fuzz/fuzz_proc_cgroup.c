// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/cgroup. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_cgroup, proc_cgroups)
FUZZ_SEEDS("cgroup-v1", "cgroup-v2")
