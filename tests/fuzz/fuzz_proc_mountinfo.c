// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/mountinfo. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_mountinfo, proc_mounts)
FUZZ_SEEDS("mountinfo")
