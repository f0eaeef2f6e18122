/* SPDX-License-Identifier: MIT */
/* Could this task be checkpointed now? Everything that stands in the way, without stopping it. */
#include "lib/engine/check.h"

#include "lib/engine/preflight.h"
#include "lib/state/file/file.h"
#include "lib/state/mem/mem.h"

int check_task_run(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg)
{
	struct proc_status st;
	int n, more;

	op->root = pid;
	n = preflight_report(op, pid, fn, arg);
	/* Without a live process that we may look at there is nothing more to ask. */
	if (n < 0 || pid <= 0 || proc_read_status(op, pid, &st) != 0 || !st.has_mm || st.tgid != pid || geteuid() != 0)
		return n;
	more = vmas_check(op, pid, fn, arg);
	if (more < 0)
		return more;
	n += more;
	more = files_check_task(op, pid, fn, arg);
	return more < 0 ? more : n + more;
}
