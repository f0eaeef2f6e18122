/* SPDX-License-Identifier: MIT */
/*
 * Memory: what areas a task has (vma.c), and which pages of them are in the checkpoint (pages.c). Restore's halves are in
 * files of the same folder.
 */
#ifndef CKPT_STATE_MEM_H
#define CKPT_STATE_MEM_H

#include <sys/mman.h>

#include "lib/kernel/uapi.h"

#include "lib/state/pieces.h"
#include "lib/state/task/task.h"

/* status bits of vma_entry (docs/format) */
enum {
	VMA_REGULAR = 1u << 0,
	VMA_VSYSCALL = 1u << 2,
	VMA_VDSO = 1u << 3,
	VMA_HEAP = 1u << 5,
	VMA_FILE_PRIVATE = 1u << 6,
	VMA_FILE_SHARED = 1u << 7,
	VMA_ANON_SHARED = 1u << 8,
	VMA_ANON_PRIVATE = 1u << 9,
	VMA_SYSVIPC = 1u << 10,
	VMA_SOCKET = 1u << 11,
	VMA_VVAR = 1u << 12,
	VMA_AIORING = 1u << 13,
	VMA_MEMFD = 1u << 14,
	VMA_SHSTK = 1u << 15,
	VMA_GUARD = 1u << 16,
	VMA_EXT_PLUGIN = 1u << 27,
};

/* Whether pages of the area go to the task's pagemap. */
static inline bool vma_is_private(const VmaEntry *v)
{
	return (v->status & VMA_REGULAR) && (v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) && !(v->status & VMA_VVAR);
}

/* Whether pages_collect() looks for pages in it. */
static inline bool vma_has_pages(const VmaEntry *v)
{
	return vma_is_private(v) || v->status & VMA_AIORING;
}

/* Whether a lazy restore may leave pages of the area for later: nothing that the kernel or the restorer needs at once. */
static inline bool vma_may_be_lazy(const VmaEntry *v)
{
	const uint64_t wipe_on_fork = 1ull << 18;

	return (v->status & (VMA_REGULAR | VMA_ANON_PRIVATE | VMA_VDSO | VMA_VVAR)) == (VMA_REGULAR | VMA_ANON_PRIVATE) &&
	       !(v->flags & (MAP_LOCKED | MAP_HUGETLB | MAP_DROPPABLE)) && !(v->has_madv && v->madv & wipe_on_fork);
}

/* Whether @child, as it is in the image, may have been forked as a copy of @parent. Both private, or it is false. */
bool vma_inherits(const VmaEntry *child, const VmaEntry *parent);

/* Fills task->mm but for its vmas and numbers, task->extra->vma_names. Host, task frozen, before injection. */
int vmas_dump(struct op *op, struct task_dump *d);
/*
 * After vmas_dump() with d->flags_later: the rest, from smaps of the same address space or of a copy of it. An area that a copy does
 * not have keeps the flags it has in d->maps, if those are known.
 */
int vmas_set_flags(struct op *op, struct task_dump *d, const struct proc_maps *full);
/* areas.c: properties that vma_entry has no place for; called by vmas_dump(). */
int areas_dump(struct op *op, struct task_dump *d);
/* Only looks: every area that could not be saved is an obstacle. Host, task running. */
int vmas_check(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg);

/* huge.c: enough huge pages for the areas of the image? Restore; after plan_memory() has checked them. */
struct plan_build;
int huge_check(struct plan_build *b);

/*
 * What private pages there are: fills task->pagemap.entries and adds GUARD areas to task->mm. Host; task frozen, or d->copy made.
 */
int pages_collect(struct op *op, struct task_dump *d);
/* Writes them to pages-N. Likewise. Memory is read by mem_read() (copy.h), each page once, in ascending order. */
int pages_write(struct op *op, struct task_dump *d);
/*
 * The same of a task that runs, whose memory @mem is: pages that are gone meanwhile are taken out of task->pagemap. Host.
 */
int pages_write_running(struct op *op, struct task_dump *d, int mem);

#endif
