// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/timers. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_timers, proc_timers)
FUZZ_SEEDS("timers")
