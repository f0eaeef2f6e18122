// SPDX-License-Identifier: MIT
/*
 * Properties that the kernel gives a thread or a process on request and that are easily lost: what prctl(2) and
 * arch_prctl(2) switch, memory policies, the nice value of the session. Those of threads: two threads with different ones.
 */
#include "target.h"

#include <asm/prctl.h>
#include <sys/personality.h>

#define PR_SET_MDWE_ 65
#define PR_SET_MEMORY_MERGE_ 67
#define MPOL_INTERLEAVE 3
#define MPOL_BIND 2
#define MPOL_F_STATIC_NODES (1 << 15)

#define OR_SKIP(call)                                                        \
	do {                                                                 \
		if ((call) < 0)                                              \
			SKIP("%s: %s", #call, strerror(errno));              \
	} while (0)

static pthread_barrier_t bar;

struct pair {
	void (*set)(void), (*check)(void);
};

static void *second(void *arg)
{
	const struct pair *p = arg;

	p->set();
	pthread_barrier_wait(&bar);
	pthread_barrier_wait(&bar);
	p->check();
	return NULL;
}

/* The main thread has one thing, another thread another, a third neither. */
static void two(void (*set_a)(void), void (*check_a)(void), void (*set_b)(void), void (*check_b)(void))
{
	struct pair p = { set_b, check_b };
	pthread_t t;

	pthread_barrier_init(&bar, NULL, 2);
	CHECK(!pthread_create(&t, NULL, second, &p));
	pthread_barrier_wait(&bar);
	set_a();
	t_wait();
	check_a();
	pthread_barrier_wait(&bar);
	CHECK(!pthread_join(t, NULL));
}

static void nothing(void)
{
}

static int flusher; /* needs CAP_SYS_RESOURCE */

static void set_early(void)
{
	OR_SKIP(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	flusher = prctl(57 /* PR_SET_IO_FLUSHER */, 1, 0, 0, 0) == 0;
	CHECK(personality(ADDR_NO_RANDOMIZE) >= 0);
}

static void check_early(void)
{
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
	CHECK(prctl(58, 0, 0, 0, 0) == flusher || !flusher);
	CHECK(personality(0xffffffff) == ADDR_NO_RANDOMIZE);
}

static void set_late(void)
{
	OR_SKIP(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_LATE, 0, 0));
	CHECK(personality(STICKY_TIMEOUTS) >= 0);
}

static void check_late(void)
{
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_LATE);
	CHECK(prctl(58, 0, 0, 0, 0) == 0 || !flusher);
	CHECK(personality(0xffffffff) == STICKY_TIMEOUTS);
}

static void threads(void)
{
	two(set_early, check_early, set_late, check_late);
}

static void set_noexec(void)
{
	OR_SKIP(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0));
	OR_SKIP(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, PR_SPEC_DISABLE, 0, 0));
}

static void check_noexec(void)
{
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) == (PR_SPEC_PRCTL | PR_SPEC_DISABLE));
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0) == (PR_SPEC_PRCTL | PR_SPEC_DISABLE));
}

static void set_force(void)
{
	OR_SKIP(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_FORCE_DISABLE, 0, 0));
}

static void check_force(void)
{
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) == (PR_SPEC_PRCTL | PR_SPEC_FORCE_DISABLE));
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0, 0, 0) == (PR_SPEC_PRCTL | PR_SPEC_ENABLE));
}

static void speculation(void)
{
	two(set_noexec, check_noexec, set_force, check_force);
}

static void set_tsc(void)
{
	OR_SKIP(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
}

static void check_tsc(void)
{
	int v = 0;

	CHECK(!prctl(PR_GET_TSC, &v) && v == PR_TSC_SIGSEGV);
}

static void check_no_tsc(void)
{
	int v = 0;

	CHECK(!prctl(PR_GET_TSC, &v) && v == PR_TSC_ENABLE);
	CHECK(__builtin_ia32_rdtsc());
}

static void tsc(void)
{
	two(nothing, check_no_tsc, set_tsc, check_tsc);
}

static volatile int faults;

static void skip_cpuid(int sig, siginfo_t *si, void *uc)
{
	ucontext_t *u = uc;

	(void)sig, (void)si;
	faults++;
	u->uc_mcontext.gregs[REG_RIP] += 2;
}

static void set_cpuid(void)
{
	struct sigaction sa = { .sa_sigaction = skip_cpuid, .sa_flags = SA_SIGINFO };

	CHECK(!sigaction(SIGSEGV, &sa, NULL));
	OR_SKIP(syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0));
}

static void check_cpuid(void)
{
	uint32_t a = 0, b, c = 0, d;

	CHECK(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == 0);
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	CHECK(faults == 1);
}

static void check_no_cpuid(void)
{
	uint32_t a = 0, b, c = 0, d;

	CHECK(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == 1);
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	CHECK(faults == 0);
}

static void cpuid(void)
{
	two(nothing, check_no_cpuid, set_cpuid, check_cpuid);
}

static void set_interleave(void)
{
	unsigned long node0 = 1;

	OR_SKIP(syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, &node0, 2));
}

static void check_interleave(void)
{
	unsigned long nodes[16] = { 0 };
	int mode = 0;

	CHECK(!syscall(SYS_get_mempolicy, &mode, nodes, 1025, NULL, 0) && mode == MPOL_INTERLEAVE && nodes[0] == 1);
}

static void set_bind(void)
{
	unsigned long node0 = 1;

	OR_SKIP(syscall(SYS_set_mempolicy, MPOL_BIND | MPOL_F_STATIC_NODES, &node0, 2));
}

static void check_bind(void)
{
	unsigned long nodes[16] = { 0 };
	int mode = 0;

	CHECK(!syscall(SYS_get_mempolicy, &mode, nodes, 1025, NULL, 0) && mode == (MPOL_BIND | MPOL_F_STATIC_NODES));
	CHECK(nodes[0] == 1);
}

static void numa(void)
{
	two(set_interleave, check_interleave, set_bind, check_bind);
}

static void mdwe(void)
{
	OR_SKIP(prctl(PR_SET_MDWE_, 1, 0, 0, 0));
	t_wait();
	CHECK(prctl(66, 0, 0, 0, 0) == 1);
	CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
}

static void ksm(void)
{
	char *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	t_fill(p, 8 * PAGE, 1);
	OR_SKIP(prctl(PR_SET_MEMORY_MERGE_, 1, 0, 0, 0));
	CHECK(!madvise(p + 2 * PAGE, 2 * PAGE, MADV_UNMERGEABLE));
	t_wait(); /* which areas are mergeable is compared from outside */
	CHECK(prctl(68, 0, 0, 0, 0) == 1);
	CHECK(t_same(p, 8 * PAGE, 1));
}

static void thpadvised(void)
{
	OR_SKIP(prctl(PR_SET_THP_DISABLE, 1, 2 /* PR_THP_DISABLE_EXCEPT_ADVISED */, 0, 0));
	t_wait();
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 3);
}

static void autogroup(void)
{
	char b[64];
	int fd = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || getsid(0) != getpid())
		SKIP("no autogroup of its own");
	OR_SKIP(write(fd, "7", 1));
	close(fd);
	t_wait();
	CHECK(t_slurp("/proc/self/autogroup", b, sizeof(b)) && strstr(b, " nice 7\n"));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "threads", threads }, { "speculation", speculation }, { "tsc", tsc }, { "cpuid", cpuid }, { "numa", numa },
		{ "mdwe", mdwe }, { "ksm", ksm }, { "thpadvised", thpadvised }, { "autogroup", autogroup },
	};

	T_RUN(variants, t_init(argc, argv));
}
