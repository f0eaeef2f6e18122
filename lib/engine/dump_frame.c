/* SPDX-License-Identifier: MIT */
/* What is said of a checkpoint as a whole (inventory, clocks, our own file), and the empty messages of its tasks. */
#include <fcntl.h>
#include <sys/utsname.h>
#include <time.h>

#include "lib/engine/dump_parts.h"
#include "lib/state/msg.h"
#include "lib/state/pids.h"
#include "lib/state/task/lsm.h"

#define OWN_KOBJ_ID 1	/* of the dumping process; the tree starts at 2 */
#define FIRST_KOBJ_ID 2
#define NETWORK_LOCK_NONE 2
#define TASK_DEAD 2

static int fill_inventory(struct op *op, struct dump *d)
{
	InventoryEntry *inv = msg_new(op, InventoryEntry, inventory_entry);
	TaskKobjIdsEntry *ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/uuid", O_RDONLY | O_CLOEXEC);
	char uuid[37] = "";

	if (!inv || !ids)
		return CKPT_E_NOMEM;
	ids->vm_id = ids->files_id = ids->fs_id = ids->sighand_id = OWN_KOBJ_ID;
	msg_set(ids, pid_ns_id, 1);
	msg_set(ids, net_ns_id, 2);
	msg_set(ids, ipc_ns_id, 3);
	msg_set(ids, uts_ns_id, 4);
	msg_set(ids, time_ns_id, 5);
	msg_set(ids, mnt_ns_id, 6);
	msg_set(ids, user_ns_id, 7);
	msg_set(ids, cgroup_ns_id, 8);
	inv->img_version = 2;
	msg_set(inv, fdinfo_per_id, 1);
	inv->root_ids = ids;
	msg_set(inv, ns_per_id, 1);
	msg_set(inv, root_cg_set, 1);
	msg_set(inv, lsmtype, lsm_here());
	msg_set(inv, network_lock_method, NETWORK_LOCK_NONE);
	inv->plugins_entry = msg_new(op, PluginsEntry, plugins_entry);
	if (!inv->plugins_entry)
		return CKPT_E_NOMEM;
	if (fd >= 0 && read(fd, uuid, 36) == 36)
		inv->dump_criu_run_id = arena_strdup(op->arena, uuid);
	d->s.inventory = inv;
	return 0;
}

static Timespec *clock_value(struct op *op, clockid_t clock)
{
	Timespec *t = msg_new(op, Timespec, timespec);
	struct timespec now;

	if (!t)
		return NULL;
	clock_gettime(clock, &now);
	t->tv_sec = (uint64_t)now.tv_sec;
	t->tv_nsec = (uint64_t)now.tv_nsec;
	return t;
}

static char *read_line(struct op *op, const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	char buf[128];
	ssize_t n = fd >= 0 ? read(fd, buf, sizeof(buf)) : -1;

	return n > 0 ? arena_strndup(op->arena, buf, buf[n - 1] == '\n' ? (size_t)n - 1 : (size_t)n) : NULL;
}

/* Clocks are read while the task is stopped: it must not see time go back. */
int frame_clocks(struct op *op, struct dump *d)
{
	struct timespec now;

	d->s.timens = msg_new(op, TimensEntry, timens_entry);
	if (!d->s.timens)
		return CKPT_E_NOMEM;
	d->s.timens->monotonic = clock_value(op, CLOCK_MONOTONIC);
	d->s.timens->boottime = clock_value(op, CLOCK_BOOTTIME);
	if (!d->s.timens->monotonic || !d->s.timens->boottime)
		return CKPT_E_NOMEM;
	clock_gettime(CLOCK_REALTIME, &now);
	msg_set(d->s.extra, dump_monotonic_ns, now_ns());
	msg_set(d->s.extra, dump_realtime_ns, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	return 0;
}

static int fill_extra(struct op *op, struct dump *d)
{
	CkptExtraEntry *x = msg_new(op, CkptExtraEntry, ckpt_extra_entry);
	struct utsname u;

	if (!x)
		return CKPT_E_NOMEM;
	uname(&u);
	x->version = arena_strdup(op->arena, ckpt_version());
	x->created = (uint64_t)time(NULL);
	x->hostname = arena_strdup(op->arena, u.nodename);
	x->kernel = arena_strdup(op->arena, u.release);
	x->arch = arena_strdup(op->arena, u.machine);
	x->boot_id = read_line(op, "/proc/sys/kernel/random/boot_id");
	if (!x->version || !x->hostname || !x->kernel || !x->arch)
		return op_nomem(op);
	d->s.extra = x;
	return 0;
}

int frame_begin(struct op *op, struct dump *d)
{
	int r;

	d->s.next_file_id = d->s.next_pages_id = 1;
	d->s.seccomp = msg_new(op, SeccompEntry, seccomp_entry);
	if (!d->s.seccomp)
		return CKPT_E_NOMEM;
	r = fill_inventory(op, d);
	return r ?: fill_extra(op, d);
}

/* --------------------------------------------------------------------------------------------------- the tasks */

/* The number of an object in the image: that of the first task that has it. */
static uint32_t kobj_id(const struct dump *d, size_t task, enum kobj which)
{
	return FIRST_KOBJ_ID + (uint32_t)d->tasks.v[task]->owner[which];
}

static int fill_ids(struct op *op, struct dump *d, size_t i)
{
	TaskKobjIdsEntry *ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);

	if (!ids)
		return CKPT_E_NOMEM;
	*ids = *d->s.inventory->root_ids; /* in all namespaces of ours */
	ids->vm_id = kobj_id(d, i, KOBJ_VM);
	ids->files_id = kobj_id(d, i, KOBJ_FILES);
	ids->fs_id = kobj_id(d, i, KOBJ_FS);
	ids->sighand_id = kobj_id(d, i, KOBJ_SIGHAND);
	d->tasks.v[i]->task->ids = ids;
	/* Shared descriptor tables the format knows. */
	if (!owns(d, i, KOBJ_VM) && snapshot_mark(op, &d->s, IMG_OWN_SHARED_VM))
		return CKPT_E_NOMEM;
	if (!owns(d, i, KOBJ_FS) || !owns(d, i, KOBJ_SIGHAND))
		return snapshot_mark(op, &d->s, IMG_OWN_SHARED_FS);
	return 0;
}

/* All that there is of a task that has ended: how it did, and its place in the tree. */
static int fill_zombie(struct op *op, struct dump_task *t)
{
	struct snap_thread *th = ARRAY_ADD(op->arena, &t->task->threads);
	TaskCoreEntry *tc = msg_new(op, TaskCoreEntry, task_core_entry);

	if (!th || !tc)
		return op_nomem(op);
	th->host = t->task->host;
	th->tid = t->task->pid;
	th->core = msg_new(op, CoreEntry, core_entry);
	if (!th->core)
		return CKPT_E_NOMEM;
	th->core->mtype = CORE_ENTRY__MARCH__X86_64;
	th->core->tc = tc;
	tc->task_state = TASK_DEAD;
	tc->exit_code = t->stat.exit_code;
	tc->comm = arena_strdup(op->arena, t->stat.comm);
	t->task->dead = true;
	return tc->comm ? 0 : op_nomem(op);
}

static int fill_task(struct op *op, struct dump *d, size_t i)
{
	struct dump_task *t = d->tasks.v[i];
	struct snap_task *st = t->task;
	CkptExtraEntry *x = d->s.extra;

	st->host = t->pid;
	st->pid = pids_inside(d->s.pids, t->pid);
	st->ps = msg_new(op, PstreeEntry, pstree_entry);
	if (!st->ps)
		return CKPT_E_NOMEM;
	st->ps->pid = (uint32_t)st->pid;
	st->ps->ppid = i ? (uint32_t)d->tasks.v[t->parent]->task->pid : 0;
	st->ps->pgid = (uint32_t)pids_inside(d->s.pids, t->stat.pgrp);
	st->ps->sid = (uint32_t)pids_inside(d->s.pids, t->stat.session);
	if (t->zombie)
		return fill_zombie(op, t);
	st->mm = owns(d, i, KOBJ_VM) ? msg_new(op, MmEntry, mm_entry) : NULL;
	st->fs = msg_new(op, FsEntry, fs_entry);
	st->extra = msg_new(op, TaskExtra, task_extra);
	if (!st->fs || !st->extra || (owns(d, i, KOBJ_VM) && !st->mm))
		return CKPT_E_NOMEM;
	st->extra->pid = (uint32_t)st->pid;
	x->tasks[x->n_tasks++] = st->extra;
	t->td = (struct task_dump){
		.s = &d->s, .task = st, .target = &t->target, .parasite = &d->tasks.v[t->owner[KOBJ_VM]]->parasite,
		.maps = &d->tasks.v[t->owner[KOBJ_VM]]->maps,
	};
	return fill_ids(op, d, i);
}

/* Which numbers the tree itself knows. Threads are added with their tasks; read anew, since groups and sessions can change. */
static int find_numbers(struct op *op, struct dump *d)
{
	int r = pids_begin(op, d->pid, &d->s.pids);

	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		const struct dump_task *t = d->tasks.v[i];

		r = pids_add_task(op, d->s.pids, t->pid);
		for (size_t j = 1; j < t->target.threads.n && !r; j++)
			r = pids_add(op, d->s.pids, &t->target.threads.v[j].status);
	}
	return r;
}

int frame_tasks(struct op *op, struct dump *d)
{
	size_t n = d->tasks.n;
	int r = find_numbers(op, d);

	/* Their addresses are kept: they must not move any more. */
	d->s.tasks.v = op_alloc(op, n * sizeof(*d->s.tasks.v));
	d->s.extra->tasks = op_alloc(op, n * sizeof(*d->s.extra->tasks));
	if (r || !d->s.tasks.v || !d->s.extra->tasks)
		return r ?: CKPT_E_NOMEM;
	d->s.tasks.n = d->s.tasks.cap = n;
	for (size_t i = 0; i < n && !r; i++) {
		d->tasks.v[i]->task = &d->s.tasks.v[i];
		r = fill_task(op, d, i);
	}
	return r;
}
