/* SPDX-License-Identifier: MIT */
/* Small words used everywhere: scope-owned resources, containers of a few lines, arithmetic that cannot overflow. */
#ifndef CKPT_BASE_BASE_H
#define CKPT_BASE_BASE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/user.h> /* PAGE_SIZE, PAGE_SHIFT */
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a) - 1))
#define ALIGN_UP(x, a) ALIGN_DOWN((x) + (a) - 1, (a))
#define PRINTF_LIKE(f, a) __attribute__((format(printf, f, a)))

static inline void close_fd_p(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	errno = saved;
}
static inline void free_p(void *p) { free(*(void **)p); }
static inline void fclose_p(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_(fn) __attribute__((cleanup(fn)))
#define _cleanup_close_ _cleanup_(close_fd_p)
#define _cleanup_free_ _cleanup_(free_p)
#define _cleanup_fclose_ _cleanup_(fclose_p)

/* Hand a scope-owned resource on: the scope no longer frees it. */
#define TAKE_FD(fd)              \
	({                       \
		int _fd = (fd);  \
		(fd) = -1;       \
		_fd;             \
	})
#define TAKE_PTR(p)                     \
	({                              \
		__typeof__(p) _p = (p); \
		(p) = NULL;             \
		_p;                     \
	})

#endif
