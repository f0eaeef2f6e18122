// SPDX-License-Identifier: MIT
/* Any bytes as /proc/PID/uid_map. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_id_map, proc_id_map)
FUZZ_SEEDS("uid-map", "uid-map-full")
