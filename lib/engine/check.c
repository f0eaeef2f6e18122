/* SPDX-License-Identifier: MIT */
/* Could this tree be checkpointed now? Everything that stands in the way, without stopping it. */
#include "lib/engine/check.h"

#include <signal.h>

#include "lib/engine/preflight.h"
#include "lib/state/file/file.h"
#include "lib/state/mem/mem.h"

/* One process: obstacles found, or a failure. Of one that ended meanwhile there is nothing to say. */
static int check_one(struct op *op, pid_t pid, bool root, ckpt_obstacle_fn fn, void *arg)
{
	struct proc_status st;
	int n, more;

	if (!root && (proc_read_status(op, pid, &st) != 0 || st.state == 'Z'))
		return 0;
	n = preflight_report(op, pid, root, fn, arg);
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

/* The tree runs, so this is a list of those who were there a moment ago: children after their parents. */
int check_task_run(struct op *op, pid_t root, ckpt_obstacle_fn fn, void *arg)
{
	ARRAY(pid_t) all = { 0 };
	pid_t *slot = ARRAY_ADD(op->arena, &all);
	int found = 0;

	if (!slot)
		return op_nomem(op);
	*slot = root;
	op->root = root;
	for (size_t i = 0; i < all.n; i++) {
		struct proc_numbers children = { 0 };
		int n = check_one(op, all.v[i], i == 0, fn, arg);

		/* A process below the root can end while it is looked at. */
		if (n < 0 && i && kill(all.v[i], 0) < 0 && errno == ESRCH)
			n = 0;
		if (n < 0)
			return n;
		op_forget(op);
		found += n;
		if (root > 0 && proc_list_children(op, all.v[i], &children) != 0)
			op_forget(op);
		for (size_t k = 0; k < children.v.n; k++) {
			slot = ARRAY_ADD(op->arena, &all);
			if (!slot)
				return op_nomem(op);
			*slot = children.v.v[k];
		}
	}
	return found;
}
