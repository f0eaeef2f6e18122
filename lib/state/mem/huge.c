/* SPDX-License-Identifier: MIT */
/* Huge pages (hugetlb) come from a pool: whether there are enough is asked before the task is made, which could only fail. */
#include <fcntl.h>
#include <sys/mman.h>

#include "lib/state/mem/mem.h"
#include "lib/state/task/plan_build.h"

#define HUGE_SHIFT 26
#define SHIFTS 64

static uint64_t number(unsigned shift, const char *name)
{
	_cleanup_close_ int fd = -1;
	char path[128], text[32] = "";

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%llukB/%s", (1ull << shift) >> 10, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 ? strtoull(text, NULL, 10) : 0;
}

/* How many can be had: free ones that nobody has reserved, and those that the kernel may add. */
static uint64_t available(unsigned shift)
{
	uint64_t more = number(shift, "nr_overcommit_hugepages"), surplus = number(shift, "surplus_hugepages");
	uint64_t free = number(shift, "free_hugepages"), reserved = number(shift, "resv_hugepages");

	return (free > reserved ? free - reserved : 0) + (more > surplus ? more - surplus : 0);
}

static int check_size(struct plan_build *b, unsigned shift, uint64_t need)
{
	const char *hint = "raise vm.nr_hugepages, or nr_hugepages of that size in /sys/kernel/mm/hugepages";
	uint64_t have = available(shift);

	if (need <= have)
		return 0;
	return op_fail(b->op, CKPT_E_SYS, AT(.pid = b->task->pid, .kind = "huge pages", .hint = hint),
		       "task %d needs %lu huge pages of %llu KiB, and %lu are free", b->task->pid, need, (1ull << shift) >> 10, have);
}

int huge_check(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	uint64_t need[SHIFTS] = { 0 };
	int r = 0;

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *e = mm->vmas[i];
		unsigned shift = e->flags >> HUGE_SHIFT & 0x3f;

		/* Shared ones were made by the engine. Without a reservation they may never be needed. */
		if (e->flags & MAP_HUGETLB && e->status & VMA_ANON_PRIVATE && !(e->flags & MAP_NORESERVE))
			need[shift ?: 21] += (e->end - e->start) >> (shift ?: 21);
	}
	for (unsigned shift = PAGE_SHIFT; shift < SHIFTS && !r; shift++)
		r = need[shift] ? check_size(b, shift, need[shift]) : 0;
	return r;
}
