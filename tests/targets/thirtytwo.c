// SPDX-License-Identifier: MIT
/*
 * A 32-bit program, which a dump must refuse. Free-standing, so that the compiler's -m32 is enough to build it: no 32-bit
 * C library is needed. Says the same things as target.h, for the same reasons.
 */
#define NR_EXIT 1
#define NR_WRITE 4
#define NR_OPEN 5
#define NR_RT_SIGPROCMASK 175
#define NR_RT_SIGTIMEDWAIT 177
#define O_FLAGS 02101 /* O_WRONLY | O_CREAT | O_APPEND, O_APPEND being 02000 */
#define SIGUSR1 10

static long call(long nr, long a, long b, long c, long d)
{
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
	return r;
}

static void __attribute__((noreturn)) leave(int code)
{
	for (;;)
		call(NR_EXIT, code, 0, 0, 0);
}

__attribute__((used, noreturn)) static void run(const long *stack)
{
	unsigned long long usr1 = 1ull << (SIGUSR1 - 1);
	char *const *argv = (char *const *)(stack + 1);
	long fd;

	if (stack[0] < 2)
		leave(2);
	fd = call(NR_OPEN, (long)argv[1], O_FLAGS, 0666, 0);
	call(NR_RT_SIGPROCMASK, 0 /* SIG_BLOCK */, (long)&usr1, 0, 8);
	if (fd < 0 || call(NR_WRITE, fd, (long)"ready\n", 6, 0) != 6)
		leave(2);
	while (call(NR_RT_SIGTIMEDWAIT, (long)&usr1, 0, 0, 8) != SIGUSR1)
		;
	call(NR_WRITE, fd, (long)"PASS\n", 5, 0);
	leave(0);
}

__asm__(".globl _start\n_start:\n\tmov %esp, %eax\n\tand $-16, %esp\n\tsub $12, %esp\n\tpush %eax\n\tcall run\n");
