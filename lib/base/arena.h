/* SPDX-License-Identifier: MIT */
/*
 * An arena: memory that is freed all at once, when the operation it belongs to ends. Everything in a snapshot lives in
 * one, so that no half-built structure has to be taken apart. Allocations never move. Not thread-safe.
 */
#ifndef CKPT_BASE_ARENA_H
#define CKPT_BASE_ARENA_H

#include <stdarg.h>

#include "lib/base/base.h"

struct arena;

struct arena *arena_new(void);		    /* NULL when out of memory */
struct arena *arena_free(struct arena *a);  /* NULL allowed; returns NULL */
void *arena_alloc(struct arena *a, size_t n); /* zeroed, 16-byte aligned; aborts the operation's thread never: NULL */
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_strdup(struct arena *a, const char *s);
void *arena_memdup(struct arena *a, const void *p, size_t n);
char *arena_vprintf(struct arena *a, const char *fmt, va_list ap);
char *arena_printf(struct arena *a, const char *fmt, ...) PRINTF_LIKE(2, 3);

/*
 * A growing array in an arena: `struct { T *v; size_t n, cap; }`. ARRAY_ADD yields a pointer to a new zeroed element,
 * or NULL when out of memory. Growing copies, and leaves the old copy to the arena (geometric: at most twice the size).
 */
#define ARRAY(T)               \
	struct {               \
		T *v;          \
		size_t n, cap; \
	}
#define ARRAY_ADD(a, arr)                                                                             \
	((arr)->n < (arr)->cap || arena_grow((a), (void **)&(arr)->v, &(arr)->cap, (arr)->n, sizeof(*(arr)->v)) == 0 \
		 ? &(arr)->v[(arr)->n++]                                                              \
		 : NULL)
int arena_grow(struct arena *a, void **v, size_t *cap, size_t n, size_t elem);

#endif
