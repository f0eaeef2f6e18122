// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/maps and smaps. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_maps, proc_maps)
FUZZ_SEEDS("maps", "smaps")
