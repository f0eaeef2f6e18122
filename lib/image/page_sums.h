/* SPDX-License-Identifier: MIT */
#ifndef CKPT_IMAGE_PAGE_SUMS_H
#define CKPT_IMAGE_PAGE_SUMS_H

#include <stdint.h>

/*
 * The exclusive or of the sums (lib/image/block.h) of the first @n pages of a block, but for those whose bit is in @skip: by
 * the widest vector registers of this processor.
 */
uint64_t page_sums(const void *pages, unsigned n, uint32_t skip);

#endif
