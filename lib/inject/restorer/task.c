/* SPDX-License-Identifier: MIT */
/* What belongs to the whole task and has to be there before its threads are made. */
#include <linux/prctl.h>
#include <linux/sched.h>

#include "lib/inject/restorer/restorer.h"

#define SIGCHLD 17

static void folders(struct plan *p)
{
	if (p->mnt_ns_file >= 0)
		must(p, PLAN_STEP_ROOT, 2, sys(__NR_setns, fetched(p, p->mnt_ns_file), CLONE_NEWNS));
	if (p->root_file >= 0) {
		must(p, PLAN_STEP_ROOT, 0, sys(__NR_fchdir, fetched(p, p->root_file)));
		must(p, PLAN_STEP_ROOT, 1, sys(__NR_chroot, "."));
	}
	must(p, PLAN_STEP_CWD, 0, sys(__NR_fchdir, fetched(p, p->cwd_file)));
	sys(__NR_umask, p->umask);
}

static void switches(struct plan *p)
{
	if (p->set_personality)
		must(p, PLAN_STEP_PERSONALITY, 0, sys(__NR_personality, p->personality));
	/* Of the memory, which may be another's. */
	if (p->shares_memory)
		return;
	if (p->thp_disable)
		must(p, PLAN_STEP_PRCTL, PR_SET_THP_DISABLE, sys(__NR_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0));
	if (p->io_flusher && sys(__NR_prctl, PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		p->warnings |= PLAN_WARN_IO_FLUSHER;
	for (int i = 0; i < 32; i++)
		if (p->membarrier >> i & 1 && sys(__NR_membarrier, 1u << i, 0, 0) < 0)
			p->warnings |= PLAN_WARN_MEMBARRIER;
}

/*
 * Before anything is queued: an action that ignores a signal drops it. But with children that of SIGCHLD comes when those
 * have ended that are to end (@late), for an ignored one makes them vanish.
 */
void sigactions_restore(struct plan *p, bool late)
{
	const struct plan_sigaction *s = PLAN_AT(p, struct plan_sigaction, p->sigactions);

	if (p->shares_actions)
		return;
	for (uint64_t i = 0; i < p->sigactions.n; i++)
		if (late == (s[i].signo == SIGCHLD && p->children.n))
			must(p, PLAN_STEP_SIGACTION, s[i].signo, sys(__NR_rt_sigaction, s[i].signo, &s[i].handler, 0, 8));
}

/* Only CAP_SYS_RESOURCE raises a hard limit; without it the task gets what we have. */
void rlimits_restore(struct plan *p)
{
	const struct plan_rlimit *l = PLAN_AT(p, struct plan_rlimit, p->rlimits);

	for (uint64_t i = 0; i < p->rlimits.n; i++) {
		uint64_t want[2] = { l[i].cur, l[i].max }, have[2];
		long ret = sys(__NR_prlimit64, 0, l[i].resource, want, have);

		if (ret == -1) {
			p->rlimits_short |= 1u << l[i].resource;
			sys(__NR_prlimit64, 0, l[i].resource, 0, have);
			want[1] = want[1] < have[1] ? want[1] : have[1];
			want[0] = want[0] < want[1] ? want[0] : want[1];
			ret = sys(__NR_prlimit64, 0, l[i].resource, want, 0);
		}
		must(p, PLAN_STEP_RLIMIT, l[i].resource, ret);
	}
}

void task_restore(struct plan *p)
{
	if (!p->shares_folders)
		folders(p);
	switches(p);
}
