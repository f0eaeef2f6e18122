// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/fdinfo/N. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_fdinfo, proc_fdinfo)
FUZZ_SEEDS("fdinfo-locks", "fdinfo-lease", "fdinfo-eventfd", "fdinfo-timerfd")
