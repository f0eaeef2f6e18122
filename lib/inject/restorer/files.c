/* SPDX-License-Identifier: MIT */
/* Descriptors: taken from the engine to their numbers, everything else is closed; then what hangs on them. */
#include <linux/fcntl.h>

#include "lib/inject/restorer/restorer.h"

struct kernel_flock {
	int16_t type, whence;
	int64_t start, len;
	int32_t pid;
};

static long getfd(struct plan *p, int32_t number)
{
	return sys(__NR_pidfd_getfd, p->engine_fd, number, 0);
}

void fetch_all(struct plan *p)
{
	struct plan_fetch *f = PLAN_AT(p, struct plan_fetch, p->fetches);

	for (uint64_t i = 0; i < p->fetches.n; i++) {
		long fd = f[i].path ? sys(__NR_openat, AT_FDCWD, (char *)p + f[i].path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0)
				    : getfd(p, f[i].engine);

		f[i].local = (int32_t)must(p, PLAN_STEP_FETCH, i, fd);
	}
}

void fetch_close(struct plan *p)
{
	struct plan_fetch *f = PLAN_AT(p, struct plan_fetch, p->fetches);

	for (uint64_t i = 0; i < p->fetches.n; i++)
		sys(__NR_close, f[i].local);
}

int fetched(struct plan *p, int32_t file)
{
	return file < 0 ? -1 : PLAN_AT(p, struct plan_fetch, p->fetches)[file].local;
}

/* Nothing is left below the program's highest number, nor above it but our way to the engine. */
static void clear_table(struct plan *p)
{
	uint32_t first = (uint32_t)(p->highest + 1);
	long fd = must(p, PLAN_STEP_FD, first, sys(__NR_fcntl, p->engine_fd, F_DUPFD_CLOEXEC, first));

	if ((uint32_t)fd > first)
		must(p, PLAN_STEP_FD, fd, sys(__NR_close_range, first, fd - 1, 0));
	must(p, PLAN_STEP_FD, fd, sys(__NR_close_range, fd + 1, ~0u, 0));
	if (first)
		must(p, PLAN_STEP_FD, 0, sys(__NR_close_range, 0, p->highest, 0));
	p->engine_fd = (int32_t)fd;
}

/* A copy got the lowest free number: below its place everything is in place already, or not the program's. */
static void put(struct plan *p, const struct plan_fdop *f)
{
	long fd = f->from;

	if (f->source != PLAN_FD_OWN)
		fd = must(p, PLAN_STEP_FD, f->to, getfd(p, f->from));
	if (fd == f->to) {
		must(p, PLAN_STEP_FD, f->to, sys(__NR_fcntl, fd, F_SETFD, f->cloexec));
		return;
	}
	must(p, PLAN_STEP_FD, f->to, sys(__NR_dup3, fd, f->to, f->cloexec ? O_CLOEXEC : 0));
	if (f->source != PLAN_FD_OWN)
		sys(__NR_close, fd);
}

static void put_all(struct plan *p, enum plan_fd_source source)
{
	const struct plan_fdop *f = PLAN_AT(p, struct plan_fdop, p->fdops);

	for (uint64_t i = 0; i < p->fdops.n; i++)
		if (f[i].source == source)
			put(p, &f[i]);
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
	if (p->shares_files)
		return;
	clear_table(p);
	calls_make(p, p->phases[PLAN_BARE]);
	put_all(p, PLAN_FD_ENGINE);
	calls_make(p, p->phases[PLAN_OPEN]);
	put_all(p, PLAN_FD_OWN);
}

/* What needs the descriptors of other tasks. */
void files_link(struct plan *p)
{
	const struct plan_fown *o = PLAN_AT(p, struct plan_fown, p->fowns);
	const struct plan_lock *l = PLAN_AT(p, struct plan_lock, p->locks);

	if (p->shares_files)
		return;
	put_all(p, PLAN_FD_LATE);
	calls_make(p, p->phases[PLAN_LINK]);
	sys(__NR_close, p->engine_fd);
	for (uint64_t i = 0; i < p->fowns.n; i++)
		set_owner(p, &o[i]);
	/* Closing any descriptor of a file drops the task's locks on it: nothing is closed after this. */
	for (uint64_t i = 0; i < p->locks.n; i++)
		set_lock(p, &l[i]);
}
