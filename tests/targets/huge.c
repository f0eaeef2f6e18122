// SPDX-License-Identifier: MIT
/*
 * Huge pages of hugetlbfs: private and shared memory, memfds, files, System V segments. The target raises the number of huge
 * pages for itself, if there are not enough free, and takes back what it has added when it ends. (The restored one cannot
 * know better than the one before it, so that a checkpoint must leave the pages there.)
 */
#include "target.h"

#include <linux/memfd.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define HUGE (2ul << 20)
#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static long number(const char *name)
{
	char b[32];

	t_slurp(name, b, sizeof(b));
	return *b ? atol(b) : -1;
}

static void set_number(const char *name, long n)
{
	int fd = open(name, O_WRONLY | O_CLOEXEC);

	dprintf(fd, "%ld", n);
	close(fd);
}

static long added;

static void need(long pages)
{
	long there = number(POOL "nr_hugepages");

	if (there < 0)
		SKIP("no huge pages of 2 MiB here");
	/* Others add and remove, too. */
	for (int i = 0; i < 20 && number(POOL "free_hugepages") - number(POOL "resv_hugepages") < pages; i++) {
		set_number(POOL "nr_hugepages", number(POOL "nr_hugepages") + pages);
		added += pages;
	}
	if (number(POOL "free_hugepages") - number(POOL "resv_hugepages") < pages)
		SKIP("%s cannot be raised to %ld", POOL "nr_hugepages", there + pages);
}

static void give_back(void)
{
	set_number(POOL "nr_hugepages", number(POOL "nr_hugepages") - added);
}

static char *map(unsigned long pages, int flags, int fd)
{
	char *p = mmap(NULL, pages * HUGE, PROT_READ | PROT_WRITE, flags, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* smaps says what the pages of an area are. */
static bool is_huge(const void *at)
{
	char line[512], start[32];
	bool here = false, huge = false;
	unsigned long kb;
	FILE *f = fopen("/proc/self/smaps", "re");

	snprintf(start, sizeof(start), "%lx-", (unsigned long)at);
	while (f && fgets(line, sizeof(line), f)) {
		if (strchr(line, '-') && strspn(line, "0123456789abcdef") > 5)
			here = !strncmp(line, start, strlen(start));
		else if (here && sscanf(line, "KernelPageSize: %lu", &kb) == 1)
			huge = kb == 2048;
	}
	if (f)
		fclose(f);
	return huge;
}

static void private_(void)
{
	char *p, *q, *ro;

	need(6);
	p = map(2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	ro = map(2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
	q = map(2, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1);
	t_fill(p, HUGE, 1);
	t_fill(ro + HUGE + PAGE, PAGE, 2);
	CHECK(!mprotect(ro, 2 * HUGE, PROT_READ));
	t_fill(q + HUGE, PAGE, 3);
	t_wait();
	CHECK(t_same(p, HUGE, 1) && t_same(ro + HUGE + PAGE, PAGE, 2) && t_same(q + HUGE, PAGE, 3));
	CHECK(!p[HUGE] && !p[2 * HUGE - 1] && !q[0] && !ro[0]);
	CHECK(is_huge(p) && is_huge(ro) && is_huge(q));
	give_back();
}

static void shared(void)
{
	char *p;

	need(3);
	p = map(3, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB | 21 << 26, -1);
	t_fill(p + HUGE, HUGE, 4);
	t_wait();
	CHECK(t_same(p + HUGE, HUGE, 4) && !p[0] && !p[3 * HUGE - 1] && is_huge(p));
	give_back();
}

static void memfd(void)
{
	int fd = memfd_create("large", MFD_HUGETLB | MFD_HUGE_2MB | MFD_ALLOW_SEALING);
	struct stat st;
	char *p, *q;

	need(4);
	if (fd < 0)
		SKIP("no memfd of huge pages here: %s", strerror(errno));
	CHECK(!ftruncate(fd, 3 * HUGE));
	p = map(3, MAP_SHARED, fd);
	q = map(1, MAP_PRIVATE, fd);
	t_fill(p, PAGE, 5);
	t_fill(p + 2 * HUGE, HUGE, 6);
	q[10] = 10;
	CHECK(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
	t_wait();
	CHECK(t_same(p, PAGE, 5) && t_same(p + 2 * HUGE, HUGE, 6) && !p[HUGE]);
	CHECK(q[10] == 10 && !memcmp(q + PAGE, p + PAGE, PAGE) && is_huge(p) && is_huge(q));
	CHECK(!fstat(fd, &st) && st.st_size == 3 * HUGE && st.st_blksize == HUGE && fcntl(fd, F_GET_SEALS) == F_SEAL_SHRINK);
	give_back();
}

static void segment(void)
{
	int id;
	char *p;

	need(2);
	id = shmget(IPC_PRIVATE, HUGE + PAGE, IPC_CREAT | SHM_HUGETLB | 0600);
	if (id < 0)
		SKIP("no segment of huge pages here: %s", strerror(errno));
	CHECK((p = shmat(id, NULL, 0)) != (void *)-1 && !shmctl(id, IPC_RMID, NULL));
	t_fill(p + HUGE, PAGE, 7);
	t_wait();
	CHECK(t_same(p + HUGE, PAGE, 7) && !p[0] && is_huge(p));
	give_back();
}

/* A new file on hugetlbfs, wherever one is mounted. */
static int open_new(char *name, size_t n)
{
	char type[32], at[256];
	FILE *f = fopen("/proc/self/mounts", "re");
	int fd = -1;

	while (f && fd < 0 && fscanf(f, "%*s %255s %31s %*[^\n]", at, type) == 2)
		if (!strcmp(type, "hugetlbfs")) {
			snprintf(name, n, "%s/ckpt-%d", at, getpid());
			fd = open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
		}
	if (f)
		fclose(f);
	if (fd < 0)
		SKIP("no hugetlbfs is mounted");
	return fd;
}

static void file(void)
{
	char name[300];
	int fd = open_new(name, sizeof(name));
	char *p, *q;

	need(3);
	CHECK(!ftruncate(fd, 2 * HUGE));
	p = map(2, MAP_SHARED, fd);
	q = map(1, MAP_PRIVATE, fd);
	t_fill(p + HUGE, PAGE, 8);
	p[0] = 1;
	q[PAGE] = 2;
	t_wait();
	CHECK(t_same(p + HUGE, PAGE, 8) && p[0] == 1 && !p[PAGE] && q[0] == 1 && q[PAGE] == 2 && is_huge(p) && is_huge(q));
	CHECK(lseek(fd, 0, SEEK_END) == 2 * HUGE && !unlink(name));
	munmap(p, 2 * HUGE);
	munmap(q, HUGE);
	close(fd);
	give_back();
}

static void deleted(void)
{
	char name[300];
	int fd = open_new(name, sizeof(name));
	char *p;

	need(2);
	CHECK(!unlink(name) && !ftruncate(fd, 2 * HUGE));
	p = map(2, MAP_SHARED, fd);
	t_fill(p, PAGE, 9);
	t_wait();
	CHECK(t_same(p, PAGE, 9) && is_huge(p));
	give_back();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "private", private_ }, { "shared", shared }, { "memfd", memfd },
		{ "segment", segment },	 { "file", file },     { "deleted", deleted },
	};

	T_RUN(variants, t_init(argc, argv));
}
