/* SPDX-License-Identifier: MIT */
/* The common runtime of the blobs: raw system calls (negative errno on failure) and the mem* that compilers call. */
#ifndef CKPT_INJECT_BLOB_H
#define CKPT_INJECT_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/unistd.h>

void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* The blob's own first byte, wherever it is mapped. */
extern char blob_image[];

static inline long blob_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#define BLOB_SYS7(nr, a, b, c, d, e, f, ...) \
	blob_syscall((nr), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sys(NR, up to six arguments) */
#define sys(...) BLOB_SYS7(__VA_ARGS__, 0, 0, 0, 0, 0, 0, 0)

#endif
