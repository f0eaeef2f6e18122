// SPDX-License-Identifier: MIT
/* Any bytes as /proc/net/igmp. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_igmp, proc_groups)
FUZZ_SEEDS("net-igmp")
