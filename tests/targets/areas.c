// SPDX-License-Identifier: MIT
/* Properties of memory areas that the image format has no place for: locks on fault, seals, protection keys, policies. */
#include "target.h"

#include <sys/resource.h>

#define MPOL_BIND 2
#define MPOL_PREFERRED 1
#define MPOL_LOCAL 4
#define MPOL_INTERLEAVE 3

#define OR_SKIP(call)                                           \
	do {                                                    \
		if ((call) < 0)                                 \
			SKIP("%s: %s", #call, strerror(errno)); \
	} while (0)

static char *map(size_t pages, int prot)
{
	char *p = mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* A number of "KEY: n kB" of the area at @p in smaps; -1: not there. The flags of the area go to @flags. */
static long smaps(const void *p, const char *key, char *flags)
{
	static char text[1 << 20];
	char head[32], *at;
	long v = -1;

	CHECK(t_slurp("/proc/self/smaps", text, sizeof(text)));
	snprintf(head, sizeof(head), "%lx-", (unsigned long)p);
	at = strstr(text, head);
	CHECK(at);
	flags[0] = 0;
	for (char *line = strtok(at, "\n"); line; line = strtok(NULL, "\n")) {
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			v = atol(line + strlen(key) + 1);
		if (strncmp(line, "VmFlags:", 8))
			continue;
		strcpy(flags, line);
		break;
	}
	return v;
}

static void onfault(void)
{
	char *p = map(16, PROT_READ | PROT_WRITE), flags[256];

	OR_SKIP(mlock2(p, 16 * PAGE, MLOCK_ONFAULT));
	t_fill(p + 4 * PAGE, 2 * PAGE, 5);
	t_wait();
	CHECK(smaps(p, "Locked", flags) == 8 && strstr(flags, " lo") && strstr(flags, " lf"));
	CHECK(t_same(p + 4 * PAGE, 2 * PAGE, 5));
	p[0] = 1;
	CHECK(smaps(p, "Rss", flags) == 12);
}

static void sealed(void)
{
	char *p = map(8, PROT_READ | PROT_WRITE);

	t_fill(p, 8 * PAGE, 6);
	CHECK(!mprotect(p + 4 * PAGE, 2 * PAGE, PROT_READ));
	CHECK(!madvise(p, 2 * PAGE, MADV_DONTDUMP));
	OR_SKIP(syscall(462 /* mseal */, p, 6 * PAGE, 0));
	t_wait();
	CHECK(munmap(p, PAGE) < 0 && errno == EPERM);
	CHECK(mprotect(p + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE) < 0 && errno == EPERM);
	CHECK(!mprotect(p + 6 * PAGE, PAGE, PROT_READ));
	CHECK(t_same(p, 8 * PAGE, 6));
}

static void locks_to_come(int flags)
{
	char text[256], *p;

	OR_SKIP(mlockall(flags));
	t_wait();
	p = map(4, PROT_WRITE); /* nothing else is, so that it becomes no part of another area */
	if (flags & MCL_ONFAULT)
		CHECK(smaps(p, "Locked", text) == 0 && strstr(text, " lo") && strstr(text, " lf"));
	else
		CHECK(smaps(p, "Locked", text) == 16 && strstr(text, " lo") && !strstr(text, " lf"));
}

static void future(void)
{
	locks_to_come(MCL_FUTURE);
}

static void futureonfault(void)
{
	locks_to_come(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
}

static uint32_t pkru(void)
{
	uint32_t v, d;

	__asm__ volatile("rdpkru" : "=a"(v), "=d"(d) : "c"(0));
	return v;
}

static volatile int faults;

static void on_fault(int sig, siginfo_t *si, void *uc)
{
	(void)sig, (void)uc;
	faults++;
	/* the handler has the default rights: with the key the area is closed to it, too */
	CHECK(si->si_code == SEGV_PKUERR);
	CHECK(!syscall(SYS_pkey_mprotect, (uintptr_t)si->si_addr & ~(PAGE - 1), PAGE, PROT_READ | PROT_WRITE, 0));
}

static volatile int go_on;

/* Another thread: it has its own rights to the same key. */
static void *reader(void *arg)
{
	char *p = arg;

	CHECK(!syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ | PROT_WRITE, 3));
	CHECK(!pkey_set(3, 0));
	t_await(&go_on);
	CHECK(pkey_get(3) == 0 && *p == 7);
	return NULL;
}

static void pkeys(void)
{
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
	char *p = map(8, PROT_READ | PROT_WRITE), *q = map(2, PROT_READ | PROT_WRITE), flags[256];
	uint32_t before;
	pthread_t t;

	t_fill(p, 8 * PAGE, 7);
	q[0] = 7;
	OR_SKIP(pkey_alloc(0, 0));
	for (int key = 2; key <= 5; key++)
		CHECK(pkey_alloc(0, 0) == key);
	CHECK(!pkey_free(2));
	CHECK(!pkey_mprotect(p, 2 * PAGE, PROT_READ | PROT_WRITE, 5));
	CHECK(!pkey_mprotect(p + 4 * PAGE, PAGE, PROT_READ, 1));
	CHECK(!pthread_create(&t, NULL, reader, q));
	while (smaps(q, "ProtectionKey", flags) != 3)
		t_sleep_ms(1);
	CHECK(!pkey_set(5, PKEY_DISABLE_ACCESS) && !pkey_set(1, PKEY_DISABLE_WRITE) && !pkey_set(3, PKEY_DISABLE_ACCESS));
	before = pkru();
	CHECK(!sigaction(SIGSEGV, &sa, NULL));
	t_wait();
	CHECK(pkru() == before);
	CHECK(smaps(p, "ProtectionKey", flags) == 5 && smaps(p + 4 * PAGE, "ProtectionKey", flags) == 1);
	CHECK(*(volatile uint64_t *)p && faults == 1);
	go_on = 1;
	CHECK(!pthread_join(t, NULL));
	CHECK(!pkey_set(5, 0) && t_same(p, 8 * PAGE, 7));
	CHECK(pkey_alloc(0, 0) == 2 && pkey_alloc(0, 0) == 6);
}

/* The kernel's own key, for what can only be executed: here not the first one. */
static void pkeyexec(void)
{
	static const uint8_t code[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */
	char *p = map(2, PROT_READ | PROT_WRITE), flags[256];
	long key;

	memcpy(p, code, sizeof(code));
	OR_SKIP(pkey_alloc(0, 0));
	CHECK(pkey_alloc(0, 0) == 2);
	CHECK(!pkey_mprotect(map(1, PROT_READ), PAGE, PROT_READ, 2));
	CHECK(!mprotect(p, PAGE, PROT_EXEC));
	key = smaps(p, "ProtectionKey", flags);
	CHECK(key == 3 && !pkey_free(1));
	t_wait();
	CHECK(smaps(p, "ProtectionKey", flags) == key);
	CHECK(((int (*)(void))(uintptr_t)p)() == 42);
	CHECK(pkey_alloc(0, 0) == 1 && pkey_alloc(0, 0) == 4);
}

/* A key that was given back while areas have it. */
static void pkeylate(void)
{
	char *p = map(2, PROT_READ | PROT_WRITE), flags[256];

	OR_SKIP(pkey_alloc(0, 0));
	CHECK(!pkey_mprotect(p, PAGE, PROT_READ | PROT_WRITE, 1) && !pkey_free(1));
	p[0] = 9;
	t_wait();
	CHECK(smaps(p, "ProtectionKey", flags) == 1 && p[0] == 9);
	CHECK(pkey_alloc(0, 0) == 1);
}

static long policy_of(const void *p, unsigned long *node)
{
	unsigned long nodes[16] = { 0 };
	int mode = -1;

	CHECK(!syscall(SYS_get_mempolicy, &mode, nodes, 1025, p, 2 /* MPOL_F_ADDR */));
	*node = nodes[0];
	return mode;
}

static void policies(char *p)
{
	unsigned long node0 = 1, node;

	t_fill(p, 16 * PAGE, 11);
	OR_SKIP(syscall(SYS_mbind, p + 2 * PAGE, 2 * PAGE, MPOL_BIND | 1 << 14 /* relative nodes */, &node0, 2, 0));
	CHECK(!syscall(SYS_mbind, p + 4 * PAGE, 2 * PAGE, MPOL_INTERLEAVE, &node0, 2, 0));
	CHECK(!syscall(SYS_mbind, p + 8 * PAGE, 2 * PAGE, MPOL_LOCAL, NULL, 0, 0));
	CHECK(!syscall(SYS_set_mempolicy, MPOL_PREFERRED, &node0, 2)); /* which is not that of the areas */
	t_wait();
	CHECK(policy_of(p + 2 * PAGE, &node) == (MPOL_BIND | 1 << 14) && node == 1);
	CHECK(policy_of(p + 5 * PAGE, &node) == MPOL_INTERLEAVE && node == 1);
	CHECK(policy_of(p + 8 * PAGE, &node) == MPOL_LOCAL && node == 0);
	CHECK(policy_of(p, &node) == 0 && policy_of(p + 6 * PAGE, &node) == 0 && policy_of(p + 10 * PAGE, &node) == 0);
	CHECK(t_same(p, 16 * PAGE, 11));
}

static void mbind_(void)
{
	policies(map(16, PROT_READ | PROT_WRITE));
}

static void mbindshared(void)
{
	char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	policies(p);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "onfault", onfault }, { "sealed", sealed }, { "future", future }, { "futureonfault", futureonfault },
		{ "pkeys", pkeys }, { "pkeyexec", pkeyexec }, { "pkeylate", pkeylate }, { "mbind", mbind_ },
		{ "mbindshared", mbindshared },
	};

	T_RUN(variants, t_init(argc, argv));
}
