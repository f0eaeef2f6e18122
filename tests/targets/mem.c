// SPDX-License-Identifier: MIT
/* Memory, one variant a kind of area. Files are made in the current directory. */
#include "target.h"

#include <setjmp.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

static char *map(size_t n, int prot, int flags)
{
	char *p = mmap(NULL, n, prot, flags | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

static int make_file(const char *name, size_t n, uint64_t seed)
{
	char buf[65536];
	int fd = open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	for (size_t at = 0; at < n; at += sizeof(buf)) {
		t_fill(buf, sizeof(buf), seed + at);
		CHECK(write(fd, buf, n - at < sizeof(buf) ? n - at : sizeof(buf)) > 0);
	}
	return fd;
}

static void anon(void)
{
	size_t n = 32 << 20;
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE), *ro = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	for (size_t i = 0; i < n; i += 3 * PAGE) /* holes between */
		t_fill(p + i, PAGE, i);
	t_fill(ro, 1 << 20, 99);
	CHECK(!mprotect(ro, 1 << 20, PROT_READ));
	t_wait();
	for (size_t i = 0; i < n; i += PAGE)
		if (i % (3 * PAGE) == 0)
			CHECK(t_same(p + i, PAGE, i));
		else
			CHECK(!p[i] && !p[i + PAGE - 1]);
	CHECK(t_same(ro, 1 << 20, 99));
	CHECK(!mprotect(ro, 1 << 20, PROT_READ | PROT_WRITE));
	t_fill(ro, 1 << 20, 5);
}

static void zero(void)
{
	size_t n = 8 << 20;
	char *read_only = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE), *written = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	volatile char sum = 0;

	for (size_t i = 0; i < n; i += PAGE)
		sum += read_only[i]; /* the shared zero page */
	memset(written, 0, n);
	t_wait();
	for (size_t i = 0; i < n; i++)
		if (read_only[i] || written[i])
			FAIL("byte %zu is not zero", i);
	memset(read_only, 1, n);
}

static void cow(void)
{
	size_t n = 1 << 20;
	int fd = make_file("cow", n, 1);
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), buf[65536];
	/* written to while it could be, read-only since */
	char *ro = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	char *part = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 16 * PAGE);

	CHECK(p != MAP_FAILED && ro != MAP_FAILED && part != MAP_FAILED);
	t_fill(p + 3 * PAGE, PAGE, 77);
	t_fill(ro + 5 * PAGE, PAGE, 78);
	CHECK(!mprotect(ro, n, PROT_READ));
	strcpy(part + PAGE, "part");
	close(fd);
	t_wait();
	CHECK(t_same(p + 3 * PAGE, PAGE, 77) && t_same(ro + 5 * PAGE, PAGE, 78) && !strcmp(part + PAGE, "part"));
	t_fill(buf, sizeof(buf), 1);
	CHECK(!memcmp(p, buf, 3 * PAGE) && !memcmp(p + 4 * PAGE, buf + 4 * PAGE, sizeof(buf) - 4 * PAGE));
	CHECK(!memcmp(ro, buf, 5 * PAGE));
	fd = open("cow", O_RDONLY);
	CHECK(fd >= 0 && pread(fd, buf, PAGE, 3 * PAGE) == PAGE && !t_same(buf, PAGE, 77));
}

/* A private mapping that goes past the end of its file, and one of a hole. */
static void cowtail(void)
{
	int fd = make_file("tail", 65536, 1);
	char *p;

	CHECK(!ftruncate(fd, 3 * PAGE + 100));
	p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(p != MAP_FAILED);
	p[3 * PAGE + 200] = 7;
	t_wait();
	CHECK(p[3 * PAGE + 200] == 7 && p[3 * PAGE + 201] == 0);
}

static void shfile(void)
{
	size_t n = 256 << 10;
	int fd = make_file("shared", n, 1), rd = open("shared", O_RDONLY);
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), b[8];
	char *q = mmap(NULL, n, PROT_READ, MAP_SHARED, rd, 0);

	CHECK(p != MAP_FAILED && q != MAP_FAILED);
	memcpy(p + 5 * PAGE, "before", 6);
	close(rd);
	t_wait();
	CHECK(!memcmp(q + 5 * PAGE, "before", 6));
	memcpy(p + 6 * PAGE, "after", 5);
	CHECK(!memcmp(q + 6 * PAGE, "after", 5));
	CHECK(pread(fd, b, 5, 6 * PAGE) == 5 && !memcmp(b, "after", 5));
	CHECK(mprotect(q, PAGE, PROT_READ | PROT_WRITE) < 0); /* opened for reading only */
}

static void shanon(void)
{
	size_t n = 4 << 20;
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_SHARED), *q;

	t_fill(p + PAGE, 2 << 20, 3);
	/* the same memory a second time, with other rights */
	q = mremap(p, 0, n, MREMAP_MAYMOVE);
	CHECK(q != MAP_FAILED && !mprotect(q, n, PROT_READ));
	t_wait();
	CHECK(t_same(p + PAGE, 2 << 20, 3) && !p[0] && !p[n - 1]);
	p[0] = 42;
	CHECK(q[0] == 42);
}

static void memfd(void)
{
	size_t n = 1 << 20;
	int fd = memfd_create("a name", MFD_CLOEXEC | MFD_ALLOW_SEALING), gone = memfd_create("gone", 0);
	char *p, *g, b[8];

	CHECK(fd >= 0 && gone >= 0 && !ftruncate(fd, n) && !ftruncate(gone, n));
	p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	g = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, gone, 0);
	CHECK(p != MAP_FAILED && g != MAP_FAILED);
	t_fill(p + PAGE, PAGE, 3);
	t_fill(g + 2 * PAGE, PAGE, 4);
	close(gone);
	CHECK(lseek(fd, 123, SEEK_SET) == 123);
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	t_wait();
	CHECK(t_same(p + PAGE, PAGE, 3) && t_same(g + 2 * PAGE, PAGE, 4) && !p[0] && !g[0]);
	memcpy(p, "through", 7);
	CHECK(pread(fd, b, 7, 0) == 7 && !memcmp(b, "through", 7) && lseek(fd, 0, SEEK_CUR) == 123);
	CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW) && fcntl(fd, F_GETFD) == FD_CLOEXEC);
}

/* MAP_PRIVATE of a memfd: the object's pages and the private ones. */
static void memfdpriv(void)
{
	int fd = memfd_create("private", 0);
	char *p;

	CHECK(fd >= 0 && !ftruncate(fd, 8 * PAGE) && pwrite(fd, "object", 6, PAGE) == 6);
	p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(p != MAP_FAILED);
	strcpy(p + 2 * PAGE, "mine");
	t_wait();
	CHECK(!memcmp(p + PAGE, "object", 6) && !strcmp(p + 2 * PAGE, "mine"));
	CHECK(pwrite(fd, "changed", 7, 3 * PAGE) == 7 && !memcmp(p + 3 * PAGE, "changed", 7));
}

static void none(void)
{
	char *empty = map(1 << 20, PROT_NONE, MAP_PRIVATE), *full = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	t_fill(full, 1 << 20, 8);
	CHECK(!mprotect(full, 1 << 20, PROT_NONE));
	t_wait();
	CHECK(!mprotect(full, 1 << 20, PROT_READ) && t_same(full, 1 << 20, 8));
	CHECK(!mprotect(empty, 1 << 20, PROT_READ) && empty[0] == 0);
}

/* VmFlags of the area at @p in smaps. */
static bool vm_flag(const void *p, const char *flag)
{
	char line[4096], start[32];
	FILE *f = fopen("/proc/self/smaps", "re");
	bool in = false, found = false;

	CHECK(f);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)p);
	while (fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && !strncmp(line, start, strlen(start)))
			in = true;
		else if (in && !strncmp(line, "VmFlags:", 8)) {
			found = strstr(line, flag);
			break;
		}
	}
	fclose(f);
	return found;
}

static void locked(void)
{
	char *p = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE), *ro = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	t_fill(p, 1 << 20, 1);
	t_fill(ro, 1 << 20, 2);
	CHECK(!mlock(p, 1 << 20) && !mlock(ro, 1 << 20) && !mprotect(ro, 1 << 20, PROT_READ));
	t_wait();
	CHECK(vm_flag(p, " lo") && vm_flag(ro, " lo"));
	CHECK(t_same(p, 1 << 20, 1) && t_same(ro, 1 << 20, 2));
}

static void madv(void)
{
	static const struct {
		int advice;
		const char *flag;
	} kinds[] = {
		{ MADV_SEQUENTIAL, " sr" }, { MADV_RANDOM, " rr" }, { MADV_DONTFORK, " dc" }, { MADV_DONTDUMP, " dd" },
		{ MADV_WIPEONFORK, " wf" }, { MADV_HUGEPAGE, " hg" }, { MADV_NOHUGEPAGE, " nh" }, { MADV_MERGEABLE, " mg" },
	};
	char *p[ARRAY_SIZE(kinds)];
	bool have[ARRAY_SIZE(kinds)];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		map(PAGE, PROT_NONE, MAP_PRIVATE);
		p[i] = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE);
		t_fill(p[i] + PAGE, PAGE, i);
		have[i] = !madvise(p[i], 1 << 20, kinds[i].advice) && vm_flag(p[i], kinds[i].flag);
	}
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		CHECK(t_same(p[i] + PAGE, PAGE, i));
		if (have[i] && !vm_flag(p[i], kinds[i].flag))
			FAIL("advice %d is lost", kinds[i].advice);
	}
}

static bool in_maps(const void *p, const char *what)
{
	char line[4096], start[32];
	FILE *f = fopen("/proc/self/maps", "re");
	bool found = false;

	CHECK(f);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)p);
	while (!found && fgets(line, sizeof(line), f))
		found = !strncmp(line, start, strlen(start)) && strstr(line, what);
	fclose(f);
	return found;
}

static void named(void)
{
	char *p = map(1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE), *sh = map(1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED);

	if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, p, 1 << 19, "my heap"))
		SKIP("this kernel has no names for anonymous memory");
	CHECK(in_maps(p, "[anon:my heap]"));
	bool shared = !prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, sh, 1 << 20, "my share");
	t_wait();
	CHECK(in_maps(p, "[anon:my heap]"));
	CHECK(!shared || in_maps(sh, "my share"));
}

static sigjmp_buf *jump;

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(*jump, 1);
}

static bool faults(const volatile char *p)
{
	struct sigaction sa = { .sa_handler = on_segv, .sa_flags = SA_NODEFER };
	sigjmp_buf j;

	jump = &j;
	sigaction(SIGSEGV, &sa, NULL);
	if (sigsetjmp(j, 1))
		return true;
	(void)*p;
	return false;
}

static void guard(void)
{
	char *p = map(64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	t_fill(p, 64 * PAGE, 1);
	if (madvise(p + 8 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL))
		SKIP("this kernel has no guard regions");
	CHECK(!madvise(p + 32 * PAGE, PAGE, MADV_GUARD_INSTALL));
	t_wait();
	CHECK(t_same(p, 8 * PAGE, 1));
	CHECK(faults(p + 8 * PAGE) && faults(p + 9 * PAGE) && !faults(p + 10 * PAGE) && faults(p + 32 * PAGE + 5));
	CHECK(!madvise(p + 8 * PAGE, 2 * PAGE, MADV_GUARD_REMOVE) && !faults(p + 8 * PAGE) && p[8 * PAGE] == 0);
}

/* The main stack, and a grows-down area of our own, must grow further afterwards. */
static size_t deep(size_t n)
{
	volatile char frame[8192];

	memset((char *)frame, 1, sizeof(frame));
	return n ? deep(n - 1) + frame[100] : frame[0];
}

static void growsdown(void)
{
	char *room = map(1024 * PAGE, PROT_NONE, MAP_PRIVATE), *p;

	munmap(room, 1024 * PAGE);
	p = mmap(room + 1000 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(p != MAP_FAILED);
	t_fill(p, 4 * PAGE, 6);
	p[-(long)PAGE] = 5;
	CHECK(deep(20) > 0);
	t_wait();
	CHECK(t_same(p, 4 * PAGE, 6) && p[-(long)PAGE] == 5);
	for (long i = 2; i < 20; i++)
		p[-i * (long)PAGE] = i;
	CHECK(deep(500) > 0); /* 4 MiB of main stack */
}

static void huge(void)
{
	size_t n = 16 << 20;
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE), *a = (char *)(((uintptr_t)p + (2 << 20) - 1) & ~((2ul << 20) - 1));

	CHECK(!madvise(p, n, MADV_HUGEPAGE));
	t_fill(a, 12 << 20, 1);
	memset(a + (4 << 20), 0, PAGE); /* a zero page inside a huge one */
	CHECK(!munmap(a + (6 << 20), PAGE)); /* and a hole that splits one */
	t_wait();
	CHECK(!memcmp(a + (4 << 20), (char[PAGE]){ 0 }, PAGE) && faults(a + (6 << 20)));
	uint64_t s = 1, *w = (uint64_t *)a;
	for (size_t i = 0; i < (12 << 20) / 8; i++) {
		uint64_t v = t_rand(&s);
		size_t at = i * 8;

		if ((at >= (4 << 20) && at < (4 << 20) + PAGE) || (at >= (6 << 20) && at < (6 << 20) + PAGE))
			continue;
		if (w[i] != v)
			FAIL("byte %zu changed", at);
	}
}

static void deleted(void)
{
	int fd = make_file("deleted", 65536, 5);
	char *shared = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *private = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0), buf[65536];

	CHECK(shared != MAP_FAILED && private != MAP_FAILED);
	strcpy(private + PAGE, "private");
	strcpy(shared + 2 * PAGE, "shared");
	close(fd);
	CHECK(!unlink("deleted"));
	t_wait();
	t_fill(buf, sizeof(buf), 5);
	CHECK(!strcmp(private + PAGE, "private") && !strcmp(shared + 2 * PAGE, "shared"));
	CHECK(!memcmp(shared, buf, 2 * PAGE) && !memcmp(private + 4 * PAGE, buf + 4 * PAGE, 4 * PAGE));
	strcpy(shared + 3 * PAGE, "both");
	CHECK(!strcmp(private + 3 * PAGE, "both"));
	CHECK(access("deleted", F_OK) < 0);
}

/* 60,000 areas: neighbours differ in their rights, so that they stay apart. */
static void manyvmas(void)
{
	size_t n = 60000;
	char *p = map(n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE), limit[32];

	if (t_slurp("/proc/sys/vm/max_map_count", limit, sizeof(limit)) && atol(limit) < 61000)
		SKIP("vm.max_map_count is %ld", atol(limit));
	for (size_t i = 0; i < n; i += 16)
		*(uint64_t *)(p + i * PAGE) = i + 1;
	for (size_t i = 0; i < n; i += 2)
		CHECK(!mprotect(p + i * PAGE, PAGE, PROT_READ));
	t_wait();
	for (size_t i = 0; i < n; i += 16)
		CHECK(*(uint64_t *)(p + i * PAGE) == i + 1);
	for (size_t i = 1; i < n; i += 2)
		p[i * PAGE] = 1;
	CHECK(faults(p) == false);
}

/* Every second page of a large area: as many pieces of page data. */
static void fragments(void)
{
	size_t n = 60000ul * 2 * PAGE;
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);

	for (size_t i = 0; i < n; i += 2 * PAGE)
		t_fill(p + i, PAGE, i);
	t_wait();
	for (size_t i = 0; i < n; i += 2 * PAGE)
		CHECK(t_same(p + i, PAGE, i) && !p[i + PAGE]);
}

static unsigned long huge_kb(const void *p)
{
	char line[4096], start[32];
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long kb = 0;
	bool in = false;

	CHECK(f);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)p);
	while (fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && !strncmp(line, start, strlen(start)))
			in = true;
		else if (in && sscanf(line, "AnonHugePages: %lu", &kb) == 1)
			break;
	}
	fclose(f);
	return kb;
}

/* On huge pages, in the middle of which one was given back: what was huge is so again, and nothing else is. */
static void advised(void)
{
	size_t n = 32 << 20, two = 2 << 20;
	char *all = map(n + two + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE), *other = map(n / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	unsigned long had, have;

	CHECK(!madvise(all, n + two + PAGE, MADV_HUGEPAGE) && !madvise(other, n / 2, MADV_NOHUGEPAGE));
	for (size_t i = 0; i < n + two; i += two / 2)
		t_fill(all + i, two / 2, i);
	t_fill(other, n / 2, 6);
	CHECK(!madvise(all + n / 2, two / 2, MADV_DONTNEED));
	had = huge_kb(all);
	t_wait();
	have = huge_kb(all);
	CHECK(t_same(other, n / 2, 6) && !huge_kb(other));
	for (size_t i = 0; i < n + two; i += two / 2)
		CHECK(i == n / 2 ? !all[i] && !all[i + two / 2 - 1] : t_same(all + i, two / 2, i));
	/* the kernel may be short of huge pages */
	if (had > n >> 11 && !have)
		FAIL("%lu KiB were on huge pages, and none are now", had);
	CHECK(vm_flag(all, " hg") && vm_flag(other, " nh"));
}

/* Kinds of areas that pages come to in different ways, and enough of them. */
static void assorted(void)
{
	size_t n = 3 << 20;
	char *none = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE), *locked_ = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	char *ro = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE), *down, *file;
	int fd = make_file("assorted", n, 1);

	map(PAGE, PROT_NONE, MAP_PRIVATE);
	down = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0);
	file = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(down != MAP_FAILED && file != MAP_FAILED);
	t_fill(none, n, 11);
	t_fill(locked_, n, 12);
	t_fill(ro, n, 13);
	t_fill(down, n, 14);
	for (size_t i = 0; i < n; i += 2 * PAGE)
		t_fill(file + i, PAGE, i);
	CHECK(!mlock(locked_, n) && !mprotect(none, n, PROT_NONE) && !mprotect(ro, n, PROT_READ));
	t_wait();
	CHECK(vm_flag(locked_, " lo") && vm_flag(down, " gd") && !vm_flag(ro, " wr") && !vm_flag(none, " rd"));
	CHECK(!mprotect(none, n, PROT_READ));
	CHECK(t_same(none, n, 11) && t_same(locked_, n, 12) && t_same(ro, n, 13) && t_same(down, n, 14));
	for (size_t i = 0; i < n; i += 2 * PAGE)
		CHECK(t_same(file + i, PAGE, i));
}

/* Large, and in one piece; but one part of it can come later after a restore and the other cannot. */
static void halves(void)
{
	size_t n = 40 << 20, cut = (20 << 20) + 3 * PAGE;
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE);

	t_fill(p, n, 15);
	CHECK(!mlock(p + cut, n - cut));
	t_wait();
	CHECK(t_same(p, n, 15) && vm_flag(p + cut, " lo") && !vm_flag(p, " lo"));
}

static void sparse(void)
{
	size_t n = 1ul << 40; /* 1 TiB of address space, a few pages in it */
	char *p = map(n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);

	for (size_t i = 0; i < n; i += n / 64)
		t_fill(p + i, PAGE, i);
	t_wait();
	for (size_t i = 0; i < n; i += n / 64)
		CHECK(t_same(p + i, PAGE, i) && p[i + PAGE] == 0);
}

static void brk_(void)
{
	char *start = sbrk(0), *p = sbrk(300000);

	CHECK(p == start);
	t_fill(p, 299008, 4);
	t_wait();
	CHECK(t_same(p, 299008, 4) && sbrk(0) == p + 300000);
	CHECK(sbrk(1 << 20) == p + 300000);
	memset(p + 300000, 1, 1 << 20);
	CHECK(sbrk(-(1 << 20)) != (void *)-1);
	for (int i = 0; i < 100; i++)
		CHECK(malloc(10000));
}

static void vdso(void)
{
	struct timespec a, b;
	uint64_t n = 0;

	CHECK(!clock_gettime(CLOCK_MONOTONIC, &a));
	t_wait();
	for (clockid_t c = CLOCK_REALTIME; c <= CLOCK_BOOTTIME; c++)
		CHECK(!clock_gettime(c, &b));
	for (int i = 0; i < 100000; i++)
		n += t_now_ns(CLOCK_MONOTONIC);
	CHECK(n && time(NULL) > 0 && sched_getcpu() >= 0);
	CHECK(!clock_gettime(CLOCK_MONOTONIC, &b) && (b.tv_sec > a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec > a.tv_nsec)));
}

/* A program without a vDSO, and one that moved it. */
static void novdso(void)
{
	char line[512];
	unsigned long from, to;
	FILE *f = fopen("/proc/self/maps", "re");

	while (fgets(line, sizeof(line), f))
		if ((strstr(line, "[vdso]") || strstr(line, "[vvar")) && sscanf(line, "%lx-%lx", &from, &to) == 2)
			munmap((void *)from, to - from);
	fclose(f);
	t_wait();
}

static void droppable(void)
{
	char *p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
	static char q[4 * PAGE];

	if (p == MAP_FAILED)
		SKIP("this kernel has no droppable mappings");
	t_fill(p, 4 * PAGE, 4);
	t_fill(q, 4 * PAGE, 4);
	t_wait();
	p[8 * PAGE] = 1;
	CHECK(vm_flag(p, " dp"));
	for (int i = 0; i < 4; i++) /* each page is what it was, or dropped */
		for (size_t k = 0; k < PAGE; k++)
			CHECK(p[i * PAGE + k] == q[i * PAGE + k] || !p[i * PAGE + k]);
}

static void clocks(void)
{
	static const clockid_t which[] = { CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME };
	uint64_t before[3], now;

	for (int i = 0; i < 3; i++)
		before[i] = t_now_ns(which[i]);
	t_wait();
	for (int i = 0; i < 3; i++) {
		now = t_now_ns(which[i]);
		if (now < before[i] || now > before[i] + 120000000000ull)
			FAIL("clock %d went from %lu to %lu", which[i], before[i], now);
	}
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "anon", anon }, { "zero", zero }, { "cow", cow }, { "cowtail", cowtail }, { "shfile", shfile },
		{ "shanon", shanon }, { "memfd", memfd }, { "memfdpriv", memfdpriv }, { "none", none },
		{ "locked", locked }, { "madv", madv }, { "named", named }, { "guard", guard },
		{ "growsdown", growsdown }, { "huge", huge }, { "deleted", deleted }, { "manyvmas", manyvmas },
		{ "sparse", sparse }, { "brk", brk_ }, { "vdso", vdso }, { "novdso", novdso },
		{ "fragments", fragments }, { "advised", advised }, { "assorted", assorted }, { "halves", halves },
		{ "droppable", droppable }, { "clocks", clocks },
	};

	T_RUN(variants, t_init(argc, argv));
}
