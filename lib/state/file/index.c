/* SPDX-License-Identifier: MIT */
#include "lib/state/file/index.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15u;
	return h ^ (h >> 29);
}

static uint64_t hash(const struct file_key *key)
{
	uint64_t h = mix(mix(0x243f6a8885a308d3u, key->a), key->b);

	for (const char *p = key->text; p && *p; p++)
		h = (h ^ (unsigned char)*p) * 0x100000001b3u;
	return mix(h, 1);
}

static bool equal(const struct file_key *x, const struct file_key *y)
{
	if (x->a != y->a || x->b != y->b || !x->text != !y->text)
		return false;
	return !x->text || strcmp(x->text, y->text) == 0;
}

static struct index_slot *slot_of(const struct file_index *idx, const struct file_key *key)
{
	size_t mask = idx->cap - 1, i = hash(key) & mask;

	while (idx->slots[i].value && !equal(&idx->slots[i].key, key))
		i = (i + 1) & mask;
	return &idx->slots[i];
}

void *index_find(const struct file_index *idx, const struct file_key *key)
{
	return idx->cap ? slot_of(idx, key)->value : NULL;
}

static int grow(struct op *op, struct file_index *idx)
{
	struct file_index more = { .n = idx->n, .cap = idx->cap ? idx->cap * 2 : 64 };

	more.slots = op_alloc(op, more.cap * sizeof(*more.slots));
	if (!more.slots)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < idx->cap; i++)
		if (idx->slots[i].value)
			*slot_of(&more, &idx->slots[i].key) = idx->slots[i];
	*idx = more;
	return 0;
}

int index_add(struct op *op, struct file_index *idx, const struct file_key *key, void *value)
{
	if (idx->n * 2 >= idx->cap) {
		int r = grow(op, idx);

		if (r)
			return r;
	}
	*slot_of(idx, key) = (struct index_slot){ .key = *key, .value = value };
	idx->n++;
	return 0;
}
