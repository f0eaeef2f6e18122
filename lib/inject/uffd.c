/* SPDX-License-Identifier: MIT */
#include "lib/inject/uffd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "lib/inject/twin.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* In the twin, which has a table of descriptors of its own. Asynchronous marks need no right to handle faults of the kernel. */
static int make_in_twin(struct op *op, struct twin *w, int *uffd)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
								 UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	_cleanup_close_ int ours = -1;
	int64_t theirs = -1;
	int r = twin_syscall(op, w, SYS_userfaultfd, (uint64_t[6]){ O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY }, &theirs);

	if (r || theirs < 0)
		return r ?: UFFD_NONE;
	ours = sys_pidfd_getfd(w->target.pidfd, (int)theirs);
	if (ours < 0 || ioctl(ours, UFFDIO_API, &api) < 0)
		return UFFD_NONE;
	*uffd = TAKE_FD(ours);
	return 0;
}

int uffd_make(struct op *op, struct target *t, struct journal *journal, int *uffd)
{
	struct proc_maps maps = { 0 };
	struct gadgets g;
	struct twin w = { 0 };
	int r = proc_read_maps(op, t->pid, &maps);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "process %d ended meanwhile", t->pid);
	r = gadgets_find(op, t, &maps, &g);
	r = r ?: twin_make(op, t, &g, journal, true, &w);
	if (r == TWIN_REFUSED) {
		log_info(op, "task %d: no twin can be made of it: %s", t->pid, w.why);
		return UFFD_NONE;
	}
	if (r)
		return r;
	r = make_in_twin(op, &w, uffd);
	twin_end(op, t, &w);
	return r;
}

int uffd_register(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = { .range = { start, end - start }, .mode = UFFDIO_REGISTER_MODE_WP };

	return ioctl(uffd, UFFDIO_REGISTER, &reg) < 0 ? errno : 0;
}

bool uffd_alive(int uffd)
{
	/* Where nobody maps anything. Even if somebody does, a page is only taken for written. */
	struct uffdio_writeprotect wp = { .range = { 1 << 20, PAGE_SIZE } };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) == 0 || errno != ESRCH;
}
