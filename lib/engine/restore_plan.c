/* SPDX-License-Identifier: MIT */
/* Puts the plan together, into a memfd that the task will map and we have mapped; and the restorer into another. */
#include <fcntl.h>
#include <sys/mman.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/features.h"
#include "lib/kernel/sys.h"

extern const char blob_restorer_start[], blob_restorer_end[];
#define BLOB_LEN ((size_t)(blob_restorer_end - blob_restorer_start))

static int new_memfd(struct op *op, const char *name)
{
	int fd = sys_memfd_create(name, MFD_CLOEXEC | MFD_EXEC);

	if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
		fd = sys_memfd_create(name, MFD_CLOEXEC);
	return fd >= 0 ? fd : op_errno(op, errno, NULL, "memfd_create");
}

static int write_at(struct op *op, int fd, const void *p, size_t n, uint64_t off)
{
	const char *c = p;

	while (n) {
		ssize_t w = pwrite(fd, c, n, (off_t)off);

		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return op_errno(op, errno, NULL, "write the plan of the restore");
		c += w;
		off += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

/* A file that is open for writing cannot be executed: opened again for reading. */
static int make_elf(struct op *op, struct restore *r)
{
	_cleanup_close_ int fd = new_memfd(op, "ckpt-restorer");
	char path[32];
	int ret;

	if (fd < 0)
		return fd;
	ret = write_at(op, fd, blob_restorer_start, BLOB_LEN, 0);
	if (ret)
		return ret;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r->elf_fd = open(path, O_RDONLY | O_CLOEXEC);
	return r->elf_fd >= 0 ? 0 : op_errno(op, errno, NULL, "open the restorer again");
}

static uint64_t parking_room(const struct plan_build *b)
{
	const struct plan_vdso_area *a = PLAN_AT(PLAN(b), struct plan_vdso_area, PLAN(b)->vdso);
	uint64_t n = PLAN(b)->vdso.n;

	return n ? (uint64_t)(a[n - 1].off - a[0].off) + a[n - 1].len : 0;
}

static int lay_out(struct restore *r)
{
	struct plan_build *b = &r->build;
	uint64_t stacks, n_threads = r->task->threads.n, base;
	int ret;

	r->plan_off = ALIGN_UP(BLOB_LEN, PAGE_SIZE);
	r->plan_len = ALIGN_UP(b->len, PAGE_SIZE);
	stacks = r->plan_off + r->plan_len;
	PLAN(b)->stacks = stacks;
	PLAN(b)->map_len = ALIGN_UP(stacks + PLAN_MAIN_STACK + (n_threads - 1) * PLAN_THREAD_STACK, PAGE_SIZE) + PLAN_SCRATCH;
	PLAN(b)->area_len = PLAN(b)->map_len + parking_room(b);
	ret = plan_find_area(b, PLAN(b)->area_len, &base);
	if (ret)
		return ret;
	PLAN(b)->base = base;
	return 0;
}

static int make_memfd(struct op *op, struct restore *r)
{
	struct plan_build *b = &r->build;
	int ret;

	r->plan_fd = new_memfd(op, "ckpt-plan");
	if (r->plan_fd < 0)
		return r->plan_fd;
	if (ftruncate(r->plan_fd, (off_t)PLAN(b)->map_len) < 0)
		return op_errno(op, errno, NULL, "size the plan of the restore");
	ret = write_at(op, r->plan_fd, blob_restorer_start, BLOB_LEN, 0);
	ret = ret ?: write_at(op, r->plan_fd, b->buf, b->len, r->plan_off);
	if (ret)
		return ret;
	r->plan = mmap(NULL, r->plan_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->plan_fd, (off_t)r->plan_off);
	if (r->plan == MAP_FAILED) {
		r->plan = NULL;
		return op_errno(op, errno, NULL, "map the plan of the restore");
	}
	return 0;
}

static int find_syscall(struct op *op, struct restore *r)
{
	const char *at = memmem(blob_restorer_start, BLOB_LEN, "\x0f\x05", 2);

	if (!at)
		return op_fail(op, CKPT_E_INTERNAL, NULL, "the restorer makes no system calls");
	r->syscall_at = r->plan->base + (uint64_t)(at - blob_restorer_start);
	return 0;
}

static void make_argv(struct restore *r)
{
	snprintf(r->argv[0], sizeof(r->argv[0]), "%d", r->plan_fd);
	snprintf(r->argv[1], sizeof(r->argv[1]), "%lu", r->plan->base);
	snprintf(r->argv[2], sizeof(r->argv[2]), "%lu", r->plan->map_len);
	snprintf(r->argv[3], sizeof(r->argv[3]), "%lu", r->plan_off);
}

static int fill(struct op *op, struct restore *r)
{
	struct plan_build *b = &r->build;
	int ret = plan_begin(b, op, &r->s, r->task);

	ret = ret ?: plan_memory(b);
	ret = ret ?: plan_vdso(b);
	ret = ret ?: plan_task(b);
	if (ret)
		return ret;
	PLAN(b)->restore_ids = PLAN(b)->timers.n && feature_has(op->features, FEATURE_TIMER_CR_IDS);
	r->self_pidfd = sys_pidfd_open(getpid(), 0);
	if (r->self_pidfd < 0)
		return op_errno(op, errno, NULL, "open a pidfd for ourselves");
	PLAN(b)->engine_fd = r->self_pidfd;
	PLAN(b)->last_pid_file = -1;
	if (r->last_pid_fd >= 0)
		ret = plan_fetch(b, r->last_pid_fd, false, &PLAN(b)->last_pid_file);
	return ret;
}

int restore_plan(struct op *op, struct restore *r)
{
	int ret = fill(op, r);

	ret = ret ?: plan_files(&r->build);
	ret = ret ?: plan_props(&r->build);
	ret = ret ?: plan_finish(&r->build);
	ret = ret ?: lay_out(r);
	ret = ret ?: make_elf(op, r);
	ret = ret ?: make_memfd(op, r);
	ret = ret ?: find_syscall(op, r);
	if (ret)
		return ret;
	make_argv(r);
	return 0;
}
