/* SPDX-License-Identifier: MIT */
/* Compressing one block, and back. Every thread has a state of its own. */
#ifndef CKPT_IMAGE_CODEC_H
#define CKPT_IMAGE_CODEC_H

#include "lib/image/block.h"
#include "lib/base/op.h"

struct codec;

#define CODEC_ZSTD_LEVEL 3 /* where none is named */
#define CODEC_ZSTD_MAX 19

/* What "lz4", "zstd" and "zstd:LEVEL" stand for. False: none of these. */
bool codec_parse(const char *text, enum block_codec *codec, int *level);
const char *codec_name(enum block_codec codec);

/* NULL when out of memory. */
struct codec *codec_new(enum block_codec codec, int level);
struct codec *codec_free(struct codec *c); /* NULL allowed; returns NULL */
/* Packs @n bytes into at most @cap. Returns how many, 0: they do not fit. */
size_t codec_pack(struct codec *c, const void *from, size_t n, void *to, size_t cap);
/* Unpacks into exactly @n bytes; nothing in @from is believed. */
bool codec_unpack(enum block_codec codec, const void *from, size_t stored, void *to, size_t n);

#endif
