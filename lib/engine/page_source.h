/* SPDX-License-Identifier: MIT */
/* A checkpoint as a source of pages on demand: images are looked at when a page of theirs is asked for. */
#ifndef CKPT_ENGINE_PAGE_SOURCE_H
#define CKPT_ENGINE_PAGE_SOURCE_H

#include "lib/image/ps_serve.h"

struct page_source;

int page_source_open(struct op *op, struct page_source **ret);
struct page_source *page_source_close(struct page_source *ps); /* NULL allowed; returns NULL */
const struct ps_source *page_source_ops(const struct page_source *ps);

#endif
