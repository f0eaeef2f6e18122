// SPDX-License-Identifier: MIT
/* Probes: memory and page tables, on pages of our own. */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "lib/kernel/probe/probe.h"
#include "lib/kernel/sys.h"

struct page {
	void *p;
};

static void page_done(struct page *page)
{
	if (page->p != MAP_FAILED)
		munmap(page->p, PAGE_SIZE);
}
#define _cleanup_page_ _cleanup_(page_done)

static struct page page_new(void)
{
	return (struct page){ mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
}

/* Whether a scan of the page finds it to be in @category. */
static bool scan_finds(const struct page *page, uint64_t category)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region region = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)page->p,
		.end = (uintptr_t)page->p + PAGE_SIZE,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = category,
		.return_mask = category,
	};

	return fd >= 0 && ioctl(fd, PAGEMAP_SCAN, &arg) == 1 && region.start == arg.start && region.categories == category;
}

bool probe_pagemap_scan(struct features *f)
{
	_cleanup_page_ struct page page = page_new();

	(void)f;
	if (page.p == MAP_FAILED)
		return false;
	*(volatile char *)page.p = 1;
	return scan_finds(&page, PAGE_IS_PRESENT);
}

bool probe_pagemap_scan_guard_pages(struct features *f)
{
	_cleanup_page_ struct page page = page_new();

	(void)f;
	return page.p != MAP_FAILED && madvise(page.p, PAGE_SIZE, MADV_GUARD_INSTALL) == 0 &&
	       scan_finds(&page, PAGE_IS_GUARD);
}

bool probe_pagemap_pfn(struct features *f)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	volatile char here = 1; /* the stack is present, and this word of it written */
	uint64_t entry;

	(void)f;
	return fd >= 0 &&
	       pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)&here / PAGE_SIZE * sizeof(entry))) == sizeof(entry) &&
	       (entry & PAGEMAP_PRESENT) && (entry & PAGEMAP_PFN_MASK);
}

/* The first area of any program is of its executable. */
bool probe_map_files(struct features *f)
{
	_cleanup_fclose_ FILE *maps = fopen("/proc/self/maps", "re");
	_cleanup_close_ int fd = -1;
	uint64_t start, end, inode;
	char line[512], path[128];

	(void)f;
	while (maps && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*x %*x:%*x %" SCNu64, &start, &end, &inode) != 3 || !inode)
			continue;
		snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIx64 "-%" PRIx64, start, end);
		fd = open(path, O_PATH | O_CLOEXEC);
		return fd >= 0;
	}
	return false;
}

/* Features of userfaultfd; 0 if there is none. */
static uint64_t uffd_features(void)
{
	_cleanup_close_ int fd = sys_userfaultfd(O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API };

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return 0;
	return api.features | 1ull << 63; /* a kernel that has it and no features */
}

static bool uffd_has(uint64_t wanted)
{
	return (uffd_features() & wanted) == wanted;
}

bool probe_uffd(struct features *f)
{
	(void)f;
	return uffd_features() != 0;
}

bool probe_uffd_noncoop(struct features *f)
{
	(void)f;
	return uffd_has(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
			UFFD_FEATURE_EVENT_UNMAP);
}

bool probe_uffd_poison(struct features *f)
{
	(void)f;
	return uffd_has(UFFD_FEATURE_POISON);
}

bool probe_uffd_move(struct features *f)
{
	(void)f;
	return uffd_has(UFFD_FEATURE_MOVE);
}

bool probe_mem_dirty_track(struct features *f)
{
	return feature_has(f, FEATURE_PAGEMAP_SCAN) &&
	       uffd_has(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_PAGEFAULT_FLAG_WP);
}

bool probe_memfd(struct features *f)
{
	_cleanup_close_ int fd = sys_memfd_create("ckpt-probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	(void)f;
	return fd >= 0;
}

bool probe_memfd_hugetlb(struct features *f)
{
	_cleanup_close_ int fd = sys_memfd_create("ckpt-probe", MFD_CLOEXEC | MFD_HUGETLB);

	(void)f;
	return fd >= 0;
}

/*
 * Asks only whether there is AIO. Really moving a ring costs 40 ms, since io_destroy() waits for all processors; it works
 * in every kernel (3.19) that is new enough for the rest of the table.
 */
bool probe_aio_remap(struct features *f)
{
	(void)f;
	return syscall(__NR_io_destroy, 0) < 0 && errno == EINVAL;
}
