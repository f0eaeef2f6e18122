// SPDX-License-Identifier: MIT
/* Any bytes as /proc/net/igmp6. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_igmp6, proc_groups)
FUZZ_SEEDS("net-igmp6")
