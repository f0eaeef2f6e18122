// SPDX-License-Identifier: MIT
/* Any bytes as what fdinfo says of an io_uring. */
#include "tests/fuzz/fuzz_proc.h"

FUZZ_PROC(proc_parse_uring, proc_uring)
FUZZ_SEEDS("fdinfo-uring")
