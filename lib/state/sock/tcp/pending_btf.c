/* SPDX-License-Identifier: MIT */
/*
 * The type information of the kernel (/sys/kernel/btf/vmlinux), as far as the number of a function needs it: types are numbered
 * in their order, from 1, and each kind has its own length.
 */
#include <linux/btf.h>

#include "lib/state/sock/tcp/pending.h"

/* Bytes that follow struct btf_type: those of all, and of each member. */
static const struct {
	uint8_t fixed, each;
} lengths[BTF_KIND_MAX + 1] = {
	[BTF_KIND_INT] = { 4, 0 },	  [BTF_KIND_ARRAY] = { sizeof(struct btf_array), 0 },
	[BTF_KIND_STRUCT] = { 0, 12 },	  [BTF_KIND_UNION] = { 0, 12 },
	[BTF_KIND_ENUM] = { 0, 8 },	  [BTF_KIND_FUNC_PROTO] = { 0, 8 },
	[BTF_KIND_VAR] = { 4, 0 },	  [BTF_KIND_DATASEC] = { 0, 12 },
	[BTF_KIND_DECL_TAG] = { 4, 0 },	  [BTF_KIND_ENUM64] = { 0, 12 },
};

static bool is_name(const char *strings, size_t n, uint32_t off, const char *name)
{
	size_t len = strlen(name) + 1;

	return off < n && n - off >= len && !memcmp(strings + off, name, len);
}

static bool header_is_sound(const struct btf_header *h, size_t n)
{
	uint64_t rest;

	if (n < sizeof(*h) || h->magic != BTF_MAGIC || h->hdr_len < sizeof(*h) || h->hdr_len > n)
		return false;
	rest = n - h->hdr_len;
	return (uint64_t)h->type_off + h->type_len <= rest && (uint64_t)h->str_off + h->str_len <= rest;
}

int pending_btf_func(const void *b, size_t n, const char *name)
{
	struct btf_header h = { 0 };
	const uint8_t *types;
	const char *strings;
	struct btf_type t;

	memcpy(&h, b, MIN(n, sizeof(h)));
	if (!header_is_sound(&h, n))
		return -1;
	types = (const uint8_t *)b + h.hdr_len + h.type_off;
	strings = (const char *)b + h.hdr_len + h.str_off;
	for (size_t at = 0, id = 1; at < h.type_len; id++) {
		uint32_t kind, more;

		if (h.type_len - at < sizeof(t))
			return -1;
		memcpy(&t, types + at, sizeof(t));
		kind = BTF_INFO_KIND(t.info);
		if (kind == BTF_KIND_FUNC && is_name(strings, h.str_len, t.name_off, name))
			return (int)id;
		if (kind == 0 || kind > BTF_KIND_MAX)
			return -1; /* newer than we are: where it ends is not known */
		more = lengths[kind].fixed + lengths[kind].each * BTF_INFO_VLEN(t.info);
		at += sizeof(t);
		if (more > h.type_len - at)
			return -1;
		at += more;
	}
	return 0;
}
