// SPDX-License-Identifier: MIT
#include "lib/image/codec.h"

#include <lz4.h>
#include <zstd.h>

struct codec {
	enum block_codec codec;
	int level;
	void *lz4;
	ZSTD_CCtx *zstd;
};

bool codec_parse(const char *text, enum block_codec *codec, int *level)
{
	char *end;
	long n;

	*codec = BLOCK_LZ4;
	*level = 0;
	if (!strcmp(text, "lz4"))
		return true;
	*codec = BLOCK_ZSTD;
	*level = CODEC_ZSTD_LEVEL;
	if (!strcmp(text, "zstd"))
		return true;
	if (strncmp(text, "zstd:", 5) || text[5] < '1' || text[5] > '9')
		return false;
	n = strtol(text + 5, &end, 10);
	*level = (int)n;
	return !*end && n <= CODEC_ZSTD_MAX;
}

const char *codec_name(enum block_codec codec)
{
	static const char *const names[] = { [BLOCK_PLAIN] = "plain", [BLOCK_LZ4] = "lz4", [BLOCK_ZSTD] = "zstd" };

	return codec <= BLOCK_ZSTD ? names[codec] : "unknown";
}

struct codec *codec_new(enum block_codec codec, int level)
{
	struct codec *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->codec = codec;
	c->level = level;
	if (codec == BLOCK_LZ4)
		c->lz4 = malloc(LZ4_sizeofState());
	else if (codec == BLOCK_ZSTD)
		c->zstd = ZSTD_createCCtx();
	if ((codec == BLOCK_LZ4 && !c->lz4) || (codec == BLOCK_ZSTD && !c->zstd))
		return codec_free(c);
	return c;
}

struct codec *codec_free(struct codec *c)
{
	if (c) {
		free(c->lz4);
		ZSTD_freeCCtx(c->zstd);
	}
	free(c);
	return NULL;
}

size_t codec_pack(struct codec *c, const void *from, size_t n, void *to, size_t cap)
{
	size_t z;
	int r;

	if (c->codec == BLOCK_LZ4) {
		r = LZ4_compress_fast_extState(c->lz4, from, to, (int)n, (int)cap, 1);
		return r > 0 ? (size_t)r : 0;
	}
	if (c->codec == BLOCK_PLAIN)
		return 0;
	z = ZSTD_compressCCtx(c->zstd, to, cap, from, n, c->level);
	return ZSTD_isError(z) ? 0 : z;
}

bool codec_unpack(enum block_codec codec, const void *from, size_t stored, void *to, size_t n)
{
	switch (codec) {
	case BLOCK_PLAIN:
		if (stored != n)
			return false;
		memcpy(to, from, n);
		return true;
	case BLOCK_LZ4:
		return LZ4_decompress_safe(from, to, (int)stored, (int)n) == (int)n;
	case BLOCK_ZSTD:
		return ZSTD_decompress(to, n, from, stored) == n;
	}
	return false;
}
