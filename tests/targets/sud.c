// SPDX-License-Identifier: MIT
/*
 * Syscall user dispatch: system calls made outside a range come back as SIGSYS. One thread with the range around libc and
 * the switch on, so that the calls of this program work and others do not; one with no range at all, that waits without
 * calls; and one that lets everything through at the moment.
 */
#include "target.h"

#include <link.h>

#define SET_SUD(offset, len, selector) prctl(59, 1, offset, len, selector)
#define ALLOW 0
#define BLOCK 1

static volatile char selectors[3];
static __thread int mine;
static volatile int dispatched[3], go_on, there;
static uintptr_t libc_start, libc_len;

static int find_libc(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size, (void)arg;
	if (!strstr(info->dlpi_name, "libc.so"))
		return 0;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_flags & PF_X) {
			libc_start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
			libc_len = info->dlpi_phdr[i].p_memsz;
		}
	return 1;
}

static void on_sigsys(int sig, siginfo_t *si, void *uc)
{
	ucontext_t *u = uc;

	selectors[mine] = ALLOW; /* for the return from here */
	(void)sig;
	if (si->si_code == 2 /* SYS_USER_DISPATCH */)
		dispatched[mine]++;
	u->uc_mcontext.gregs[REG_RAX] = 4711;
}

static long raw_getpid(void)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(SYS_getpid) : "rcx", "r11", "memory");
	return ret;
}

/* Without a single call between the switch and the check. */
static void *spinning(void *arg)
{
	mine = 1;
	CHECK(!SET_SUD(0, 0, &selectors[1]));
	selectors[1] = BLOCK;
	there = 1;
	while (!go_on)
		__asm__ volatile("pause");
	if (raw_getpid() != 4711 || dispatched[1] != 1)
		FAIL("a call of the spinning thread was not dispatched");
	return arg;
}

static void *waiting(void *arg)
{
	mine = 2;
	CHECK(!SET_SUD(0, 0, &selectors[2]));
	there = 2;
	t_await(&go_on);
	selectors[2] = BLOCK;
	if (raw_getpid() != 4711 || dispatched[2] != 1)
		FAIL("a call of the waiting thread was not dispatched");
	return arg;
}

static void threads(void)
{
	struct sigaction sa = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO };
	pthread_t a, b;

	CHECK(!sigaction(SIGSYS, &sa, NULL));
	CHECK(dl_iterate_phdr(find_libc, NULL) && libc_len);
	if (SET_SUD(libc_start, libc_len, &selectors[0]))
		SKIP("no syscall user dispatch: %s", strerror(errno));
	CHECK(!pthread_create(&a, NULL, spinning, NULL));
	while (there != 1)
		t_sleep_ms(1);
	CHECK(!pthread_create(&b, NULL, waiting, NULL));
	while (there != 2)
		t_sleep_ms(1);
	selectors[0] = BLOCK;
	t_wait();
	CHECK(raw_getpid() == 4711 && dispatched[0] == 1 && selectors[0] == ALLOW);
	CHECK(raw_getpid() == getpid() && dispatched[0] == 1);
	go_on = 1;
	CHECK(!pthread_join(a, NULL) && !pthread_join(b, NULL));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "threads", threads } };

	T_RUN(variants, t_init(argc, argv));
}
