/* SPDX-License-Identifier: MIT */
#include "lib/kernel/arch/x86_64/tiles.h"

#include <cpuid.h>

#define XCR0_OFFSET 464
#define HEADER_OFFSET 512
#define HEADER_END 576

enum { CONFIG = 17, DATA = 18 };

static const struct {
	uint32_t component, size;
} parts[] = { { CONFIG, 64 }, { DATA, 8192 } };

/* Where a component is in a state in standard form; 0: this processor has none of that size. CPUID is slow in guests. */
static uint32_t offset_of(size_t part)
{
	uint32_t a, b, c, d;

	return __get_cpuid_count(0xd, parts[part].component, &a, &b, &c, &d) && a == parts[part].size ? b : 0;
}

static uint64_t word(const void *xstate, size_t at)
{
	uint64_t v;

	memcpy(&v, (const char *)xstate + at, sizeof(v));
	return v;
}

int x86_tiles_to_image(struct op *op, const void *xstate, size_t len, ThreadExtra *x)
{
	if (len < HEADER_END || !(word(xstate, HEADER_OFFSET) & (1u << CONFIG | 1u << DATA)))
		return 0;
	x->xstate_components = op_alloc(op, ARRAY_SIZE(parts) * sizeof(*x->xstate_components));
	if (!x->xstate_components)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		uint32_t off = offset_of(i);
		XstateComponent *e;

		if (!(word(xstate, HEADER_OFFSET) >> parts[i].component & 1))
			continue;
		if (!off || off + parts[i].size > len)
			return op_fail(op, CKPT_E_KERNEL, AT(.kind = "processor state"),
				       "the AMX state of this processor is not of the size that is known");
		e = op_new(op, XstateComponent);
		if (!e)
			return CKPT_E_NOMEM;
		xstate_component__init(e);
		e->component = parts[i].component;
		e->data.len = parts[i].size;
		e->data.data = arena_memdup(op->arena, (const char *)xstate + off, parts[i].size);
		if (!e->data.data)
			return op_nomem(op);
		x->xstate_components[x->n_xstate_components++] = e;
	}
	return 0;
}

static int put_part(struct op *op, const XstateComponent *e, size_t part, void *xstate, size_t len)
{
	uint32_t off = offset_of(part);
	uint64_t bv = word(xstate, HEADER_OFFSET) | 1ull << e->component;

	if (e->data.len != parts[part].size)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "registers"), "a component of the processor state has %zu bytes in the image",
			       e->data.len);
	if (!off || off + parts[part].size > len || !(word(xstate, XCR0_OFFSET) >> e->component & 1))
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "processor", .hint = "restore on a processor that has it"),
			       "the checkpointed program uses AMX, which this processor or kernel does not have");
	memcpy((char *)xstate + off, e->data.data, e->data.len);
	memcpy((char *)xstate + HEADER_OFFSET, &bv, sizeof(bv));
	return 0;
}

int x86_tiles_from_image(struct op *op, const ThreadExtra *x, void *xstate, size_t len)
{
	int r = 0;

	for (size_t i = 0; x && i < x->n_xstate_components && !r; i++) {
		size_t part = 0;

		while (part < ARRAY_SIZE(parts) && parts[part].component != x->xstate_components[i]->component)
			part++;
		if (part == ARRAY_SIZE(parts))
			return op_fail(op, CKPT_E_IMAGE, AT(.kind = "registers"),
				       "the image has a component of the processor state that is not known: %u",
				       x->xstate_components[i]->component);
		r = put_part(op, x->xstate_components[i], part, xstate, len);
	}
	return r;
}

bool x86_tiles_in_use(const void *xstate, size_t len)
{
	return len >= HEADER_END && word(xstate, HEADER_OFFSET) >> DATA & 1;
}

void x86_tiles_code(uint8_t code[X86_TILES_CODE])
{
	static const uint8_t text[] = {
		0xc4, 0xe2, 0x78, 0x49, 0x05, 64 - 9, 0, 0, 0, /* ldtilecfg 64(code) */
		0xc4, 0xe2, 0x7b, 0x49, 0xc0,		       /* tilezero %tmm0 */
		0xc4, 0xe2, 0x78, 0x49, 0xc0,		       /* tilerelease */
		0xcc,					       /* int3 */
	};

	memset(code, 0, X86_TILES_CODE);
	memcpy(code, text, sizeof(text));
	code[64] = 1;	   /* palette */
	code[64 + 16] = 4; /* bytes a row of tile 0 */
	code[64 + 48] = 1; /* its rows */
}
