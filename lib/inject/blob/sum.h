/* SPDX-License-Identifier: MIT */
#ifndef CKPT_INJECT_BLOB_SUM_H
#define CKPT_INJECT_BLOB_SUM_H

#include <stdint.h>

/*
 * The exclusive or of the sums (lib/image/block.h) of @n pages, which are pages [@first, @first + n) of a page image. Of one
 * block: its sum.
 */
uint64_t blob_sum(const void *pages, uint64_t n, uint64_t first);

#endif
