// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/status. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_status, proc_status)
FUZZ_SEEDS("status-odd", "status-kthread", "status-zombie", "status-levels")
