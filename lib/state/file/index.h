/* SPDX-License-Identifier: MIT */
/* A hash table in the operation's arena, from two numbers and an optional text to a pointer. Nothing is ever removed. */
#ifndef CKPT_STATE_FILE_INDEX_H
#define CKPT_STATE_FILE_INDEX_H

#include "lib/base/op.h"

struct file_key {
	uint64_t a, b;
	const char *text; /* kept by pointer; NULL allowed */
};
#define KEY(...) (&(const struct file_key){ __VA_ARGS__ })

struct index_slot {
	struct file_key key;
	void *value; /* NULL: free */
};

struct file_index {
	struct index_slot *slots;
	size_t n, cap; /* cap: 0 or a power of two */
};

void *index_find(const struct file_index *idx, const struct file_key *key);
/* @key must not be there yet, @value not be NULL. */
int index_add(struct op *op, struct file_index *idx, const struct file_key *key, void *value);

#endif
