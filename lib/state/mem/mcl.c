/* SPDX-License-Identifier: MIT */
/*
 * mlockall(MCL_FUTURE): a flag that the kernel shows to nobody. But it has locked the area that we have just made in the
 * task.
 */
#include <sys/mman.h>

#include "lib/state/mem/mem.h"
#include "lib/state/msg.h"

int mlock_future_dump(struct op *op, struct task_dump *d)
{
	struct proc_status st;
	struct proc_maps maps = { 0 };
	int r = proc_read_status(op, d->task->host, &st);

	/* Reading the areas again costs time; without a locked page there is nothing to see. */
	if (r || !d->parasite->base || st.vm_locked_kb * 1024 < d->parasite->size)
		return MIN(r, 0);
	r = proc_read_smaps(op, d->task->host, &maps);
	for (size_t i = 0; i < maps.vmas.n && !r; i++) {
		const struct proc_vma *v = &maps.vmas.v[i];

		if (v->start == d->parasite->base && (v->vmflags & VMF_LO))
			msg_set(d->task->extra, mlock_future, MCL_FUTURE | (v->vmflags & VMF_LF ? MCL_ONFAULT : 0u));
	}
	return MIN(r, 0);
}
