/* SPDX-License-Identifier: MIT */
/* What a fuzz target provides: libFuzzer's entry points, and seeds for the driver that stands in for it. */
#ifndef CKPT_TESTS_FUZZ_H
#define CKPT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Optional, once at the start. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
/* Optional: fills the @i-th seed into @buf, at most @cap bytes. Returns its size, 0 when there are no more. */
size_t fuzz_seed(unsigned i, uint8_t *buf, size_t cap);

#endif
