/* SPDX-License-Identifier: MIT */
/* Descriptors: the inherited ones go to their numbers, everything else is closed; then what hangs on them. */
#include <linux/fcntl.h>

#include "lib/inject/restorer/restorer.h"

struct kernel_flock {
	int16_t type, whence;
	int64_t start, len;
	int32_t pid;
};

static void close_others(struct plan *p)
{
	const int32_t *keep = PLAN_AT(p, int32_t, p->keep);
	uint32_t from = 0;

	for (uint64_t i = 0; i < p->keep.n; i++) {
		if ((uint32_t)keep[i] > from)
			must(p, PLAN_STEP_FD, from, sys(__NR_close_range, from, keep[i] - 1, 0));
		from = (uint32_t)keep[i] + 1;
	}
	must(p, PLAN_STEP_FD, from, sys(__NR_close_range, from, ~0u, 0));
}

/* The kernel records the setter's ids: they decide later whether the signal may be sent. */
static void set_owner(struct plan *p, const struct plan_fown *o)
{
	struct {
		int32_t type, pid;
	} owner = { (int32_t)o->type, o->pid };
	long uid = sys(__NR_getuid), euid = sys(__NR_geteuid);
	bool other = (uint32_t)uid != o->uid || (uint32_t)euid != o->euid;

	if (o->signum)
		must(p, PLAN_STEP_FOWN, o->fd, sys(__NR_fcntl, o->fd, 10 /* F_SETSIG */, o->signum));
	if (!o->pid)
		return;
	if (other)
		must(p, PLAN_STEP_FOWN, o->fd, sys(__NR_setresuid, o->uid, o->euid, -1));
	must(p, PLAN_STEP_FOWN, o->fd, sys(__NR_fcntl, o->fd, 15 /* F_SETOWN_EX */, &owner));
	if (other)
		must(p, PLAN_STEP_FOWN, o->fd, sys(__NR_setresuid, uid, euid, -1));
}

static void set_lock(struct plan *p, const struct plan_lock *l)
{
	struct kernel_flock fl = { .type = (int16_t)l->type, .start = l->start, .len = l->len };
	long ret = l->flock ? sys(__NR_flock, l->fd, l->type) : sys(__NR_fcntl, l->fd, 6 /* F_SETLK */, &fl);

	must(p, PLAN_STEP_LOCKFILE, l->fd, ret);
}

void files_restore(struct plan *p)
{
	const struct plan_fdop *f = PLAN_AT(p, struct plan_fdop, p->fdops);
	const struct plan_fown *o = PLAN_AT(p, struct plan_fown, p->fowns);
	const struct plan_lock *l = PLAN_AT(p, struct plan_lock, p->locks);

	for (uint64_t i = 0; i < p->fdops.n; i++) {
		if (f[i].from == f[i].to)
			must(p, PLAN_STEP_FD, f[i].to, sys(__NR_fcntl, f[i].to, F_SETFD, f[i].cloexec));
		else
			must(p, PLAN_STEP_FD, f[i].to, sys(__NR_dup3, f[i].from, f[i].to, f[i].cloexec ? O_CLOEXEC : 0));
	}
	close_others(p);
	for (uint64_t i = 0; i < p->fowns.n; i++)
		set_owner(p, &o[i]);
	/* Closing any descriptor of a file drops the task's locks on it: nothing is closed after this. */
	for (uint64_t i = 0; i < p->locks.n; i++)
		set_lock(p, &l[i]);
}
