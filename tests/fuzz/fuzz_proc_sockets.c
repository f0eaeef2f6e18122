// SPDX-License-Identifier: MIT
/* Any bytes as /proc/net/raw and the like. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_sockets, proc_sockets)
FUZZ_SEEDS("net-raw", "net-raw6", "net-icmp")
