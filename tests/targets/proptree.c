// SPDX-License-Identifier: MIT
/*
 * Properties of areas and threads in a tree: what a child inherited, what it has changed since, and what a process that
 * shares the address space has of its own.
 */
#include "target.h"

#include <asm/ldt.h>
#include <linux/landlock.h>
#include <sys/wait.h>

static int go[2], said[2];
static char *keyed, *exec_only, *on_fault, *sealed, *bound;
static volatile int shared_there, shared_go;

/* Apart from all others, with which it could become one. */
static char *map(size_t pages, int prot)
{
	char *p = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED && !mprotect(p + PAGE, pages * PAGE, prot));
	return p + PAGE;
}

static long smaps(const void *p, const char *key)
{
	static char text[1 << 20];
	char head[32], *at;

	CHECK(t_slurp("/proc/self/smaps", text, sizeof(text)));
	snprintf(head, sizeof(head), "%lx-", (unsigned long)p);
	at = strstr(text, head);
	CHECK(at);
	at = strstr(at, key);
	CHECK(at);
	return atol(at + strlen(key) + 1);
}

static bool locked(const void *p)
{
	static char text[1 << 20];
	char head[32], *at;

	CHECK(t_slurp("/proc/self/smaps", text, sizeof(text)));
	snprintf(head, sizeof(head), "%lx-", (unsigned long)p);
	at = strstr(text, head);
	CHECK(at && (at = strstr(at, "VmFlags:")));
	*strchr(at, '\n') = 0;
	return strstr(at, " lf") != NULL;
}

static uint64_t ldt_entry(int i)
{
	uint64_t v[16] = { 0 };

	CHECK(syscall(SYS_modify_ldt, 0, v, sizeof(v)) >= 0);
	return v[i];
}

static void set_ldt(unsigned i, unsigned base)
{
	struct user_desc u = { .entry_number = i, .base_addr = base, .limit = 0xfff, .seg_32bit = 1, .useable = 1 };

	if (syscall(SYS_modify_ldt, 0x11, &u, sizeof(u)))
		SKIP("no modify_ldt: %s", strerror(errno));
}

static long policy_of(const void *p)
{
	int mode = -1;

	CHECK(!syscall(SYS_get_mempolicy, &mode, NULL, 0, p, 2));
	return mode;
}

static void set_up(void)
{
	unsigned long node0 = 1;

	keyed = map(4, PROT_READ | PROT_WRITE);
	t_fill(keyed, 4 * PAGE, 1);
	exec_only = map(1, PROT_READ | PROT_WRITE);
	memcpy(exec_only, (const uint8_t[]){ 0xb8, 42, 0, 0, 0, 0xc3 }, 6); /* mov $42, %eax; ret */
	on_fault = map(8, PROT_READ | PROT_WRITE);
	sealed = map(2, PROT_READ | PROT_WRITE);
	bound = map(2, PROT_READ | PROT_WRITE);
	if (pkey_alloc(0, 0) != 1)
		SKIP("no protection keys: %s", strerror(errno));
	CHECK(!pkey_mprotect(keyed, 2 * PAGE, PROT_READ | PROT_WRITE, 1));
	CHECK(!mprotect(exec_only, PAGE, PROT_EXEC));
	CHECK(!mlock2(on_fault, 8 * PAGE, MLOCK_ONFAULT));
	on_fault[0] = 1;
	t_fill(sealed, 2 * PAGE, 3);
	CHECK(!syscall(462 /* mseal */, sealed, 2 * PAGE, 0));
	CHECK(!syscall(SYS_mbind, bound, 2 * PAGE, 2 /* MPOL_BIND */, &node0, 2, 0));
	set_ldt(5, 0x1000);
}

static void check_common(void)
{
	CHECK(((int (*)(void))(uintptr_t)exec_only)() == 42);
	CHECK(munmap(sealed, PAGE) < 0 && errno == EPERM && t_same(sealed, 2 * PAGE, 3));
	CHECK(policy_of(bound) == 2 && t_same(keyed, 4 * PAGE, 1));
	CHECK(ldt_entry(5) != 0);
}

static void say_and_wait(void)
{
	char c;

	close(go[1]);
	CHECK(write(said[1], "h", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		CHECK(errno == EINTR);
}

/* Has nothing but what it inherited. */
static void grandchild(void)
{
	say_and_wait();
	check_common();
	CHECK(smaps(keyed, "ProtectionKey:") == 3 && !locked(on_fault) && ldt_entry(6));
	CHECK(pkey_alloc(0, 0) == 4);
}

static void child(void)
{
	pid_t pid;
	int v = 0, status;

	CHECK(pkey_alloc(0, 0) == 3 && !pkey_mprotect(keyed, PAGE, PROT_READ | PROT_WRITE, 3));
	set_ldt(6, 0x2000);
	pid = fork();
	if (!pid) {
		grandchild();
		_exit(0);
	}
	CHECK(pid > 0 && !prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
	say_and_wait();
	check_common();
	CHECK(smaps(keyed, "ProtectionKey:") == 3 && smaps(keyed + PAGE, "ProtectionKey:") == 1);
	CHECK(!locked(on_fault) && !prctl(PR_GET_TSC, &v) && v == PR_TSC_SIGSEGV && ldt_entry(6));
	CHECK(waitpid(pid, &status, 0) == pid && status == 0 && pkey_alloc(0, 0) == 4);
}

static volatile char selector;
static volatile int dispatched;

static void on_sigsys(int sig)
{
	(void)sig;
	selector = 0;
	dispatched++;
}

/* In the same address space. All of its calls are dispatched, so that it makes none. */
static int sharer(void *arg)
{
	long ret;

	(void)arg;
	if (prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) || prctl(59, 1, 0, 0, &selector))
		_exit(77);
	shared_there = 1;
	selector = 1;
	while (!shared_go)
		__asm__ volatile("pause");
	__asm__ volatile("syscall" : "=a"(ret) : "a"(SYS_getpid) : "rcx", "r11", "memory");
	if (dispatched != 1 || prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) != PR_MCE_KILL_EARLY)
		_exit(2);
	return 0;
}

static void properties(void)
{
	char *stack = map(32, PROT_READ | PROT_WRITE), c;
	pid_t pid, other;
	int status;

	CHECK(!pipe(go) && !pipe(said) && signal(SIGSYS, on_sigsys) != SIG_ERR);
	set_up();
	pid = fork();
	if (!pid) {
		child();
		_exit(0);
	}
	CHECK(pid > 0);
	other = clone(sharer, stack + 32 * PAGE, CLONE_VM | SIGCHLD, NULL);
	CHECK(other > 0);
	for (int i = 0; i < 2; i++)
		CHECK(read(said[0], &c, 1) == 1);
	while (!shared_there)
		t_sleep_ms(1);
	t_wait();
	check_common();
	CHECK(smaps(keyed, "ProtectionKey:") == 1 && locked(on_fault) && !ldt_entry(6));
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
	CHECK(pkey_alloc(0, 0) == 3);
	shared_go = 1;
	close(go[1]);
	CHECK(waitpid(other, &status, 0) == other);
	if (status)
		FAIL("the process that shares the address space ended with %#x", status);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

/* Only a child is in a domain. */
static void landlock(void)
{
	struct landlock_ruleset_attr attr = { .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SOCK };
	int status;
	pid_t pid;
	char c;

	CHECK(!pipe(go) && !pipe(said));
	pid = fork();
	if (!pid) {
		int fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr), 0);

		if (fd < 0)
			_exit(77);
		CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		CHECK(!syscall(SYS_landlock_restrict_self, fd, 0) && !close(fd));
		say_and_wait();
		_exit(0);
	}
	close(said[1]);
	if (read(said[0], &c, 1) != 1)
		SKIP("no Landlock");
	t_wait();
	close(go[1]);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "properties", properties }, { "landlock", landlock } };

	T_RUN(variants, t_init(argc, argv));
}
