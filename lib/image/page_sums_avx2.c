// SPDX-License-Identifier: MIT
/* Compiled with -mavx2 (lib/CMakeLists.txt). */
#define PAGE_SUMS page_sums_avx2
#include "lib/image/page_sums_loop.h"
