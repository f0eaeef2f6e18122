/* SPDX-License-Identifier: MIT */
/*
 * The dump pipeline: from a running process to a folder that is a checkpoint. The table at the end is the order; each
 * stage says what holds after it. Until the commit every failure lets the process go on as it was.
 */
#include "lib/engine/dump.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>

#include "lib/engine/preflight.h"
#include "lib/engine/stage.h"
#include "lib/inject/guardian.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mem/mem.h"
#include "lib/state/msg.h"

/* Room for the metadata images of a task, on top of its pages. */
#define METADATA_BYTES (512u << 10)
#define OWN_KOBJ_ID 1	/* of the dumping process; the tree starts at 2 */
#define TASK_KOBJ_ID 2
#define NETWORK_LOCK_NONE 2

struct dump {
	pid_t pid;
	struct snapshot s;
	struct snap_task *task;
	struct target target;
	struct guardian guardian;
	struct parasite parasite;
	struct proc_maps maps;
	struct task_dump td;
	bool files_begun;
};

/* ---------------------------------------------------------------------------------- before anything is stopped */

/* Cgroups are not recorded yet. That changes where a restored program's resources are charged, so it is said. */
static void warn_of_cgroups(struct op *op, pid_t pid)
{
	char *theirs, *ours;
	size_t len;

	if (proc_read_file(op, pid, "cgroup", &theirs, &len) != 0 || proc_read_file(op, getpid(), "cgroup", &ours, &len) != 0)
		op_forget(op);
	else if (strcmp(theirs, ours))
		log_warn(op, "process %d is in other cgroups than we are; they are not recorded, and restore leaves it in its own",
			 pid);
}

static int check_target(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = preflight(op, d->pid);

	if (!r)
		warn_of_cgroups(op, d->pid);
	return r;
}

static int open_folder(struct op *op, void *arg)
{
	struct dump *d = arg;

	return img_dir_create(op, &d->s.dir);
}

static void close_folder(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (d->s.dir)
		img_dir_abort(op, d->s.dir);
	d->s.dir = img_dir_close(d->s.dir);
}

static int need_space(struct op *op, struct dump *d, uint64_t need)
{
	uint64_t have;
	int r = img_dir_space(op, d->s.dir, &have);

	if (r || have >= need)
		return r;
	return op_fail(op, CKPT_E_NOSPACE, AT(.pid = d->pid, .hint = "free some space, or choose another folder with -D"),
		       "the checkpoint of process %d needs about %lu MiB, and %s has %lu MiB free", d->pid,
		       (need >> 20) + 1, op->opts->images_dir ?: "the images folder", have >> 20);
}

/* What is resident is about what will be written; the exact number comes later, when the page tables were read. */
static int check_space(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct proc_status st;

	if (proc_read_status(op, d->pid, &st) != 0)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->pid), "process %d ended meanwhile", d->pid);
	/* Half: pages of mapped files are resident, too, and are not written. */
	return need_space(op, d, ((st.vm_rss_kb + st.vm_swap_kb) << 10) / 2);
}

static int start_guardian(struct op *op, void *arg)
{
	struct dump *d = arg;

	return guardian_start(op, &d->guardian);
}

static void stop_guardian(struct op *op, void *arg)
{
	struct dump *d = arg;

	(void)op;
	guardian_stop(&d->guardian);
}

/* --------------------------------------------------------------------------------------------------- the freeze */

static int freeze(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r = target_freeze(op, d->pid, &d->target);

	op->stats->freezing_us = (now_ns() - begin) / 1000;
	/* Asked again, now that nothing can change: a child may have been forked since. */
	return r ?: preflight_frozen(op, d->pid);
}

static void thaw(struct op *op, void *arg)
{
	struct dump *d = arg;

	target_release(op, &d->target);
}

static int read_areas(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = proc_read_smaps(op, d->pid, &d->maps);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->pid), "process %d ended meanwhile", d->pid);
	d->files_begun = true;
	return vmas_dump(op, &d->td);
}

static void files_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (d->files_begun)
		files_dump_done(op, &d->s, false);
	d->files_begun = false;
}

static int inject(struct op *op, void *arg)
{
	struct dump *d = arg;

	return parasite_inject(op, &d->target, &d->maps, &d->parasite, d->guardian.journal);
}

static void cure_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	/* Not stopped by the very cancellation or deadline that brought us here. */
	op->cancel = NULL;
	op->deadline_ns = 0;
	if (parasite_cure(op, &d->target, &d->parasite) != 0 && !target_has_ended(&d->target))
		log_warn(op, "process %d: the parasite could not be removed", d->pid);
}

static int collect_core(struct op *op, void *arg)
{
	struct dump *d = arg;

	return task_dump_core(op, &d->td);
}

static int cure(struct op *op, void *arg)
{
	struct dump *d = arg;

	return parasite_cure(op, &d->target, &d->parasite);
}

static int collect_files(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct snap_task *t = d->task;
	struct proc_status *st = &d->target.threads.v[0].status;
	int r = files_dump_special(op, &d->s, t->pid, "exe", &t->mm->exe_file_id);

	r = r ?: files_dump_task(op, &d->s, t, d->target.pidfd);
	r = r ?: files_dump_special(op, &d->s, t->pid, "cwd", &t->fs->cwd_id);
	r = r ?: files_dump_special(op, &d->s, t->pid, "root", &t->fs->root_id);
	msg_set(t->fs, umask, st->umask);
	return r ?: files_dump_complete(op, &d->s);
}

static int collect_ipc(struct op *op, void *arg)
{
	struct dump *d = arg;

	return ipc_dump(op, &d->s);
}

static void ipc_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	ipc_done(op, &d->s, false);
}

static int collect_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = pages_collect(op, &d->td);

	return r ?: need_space(op, d, d->task->pagemap.n_pages * PAGE_SIZE + METADATA_BYTES);
}

/* --------------------------------------------------------------------------------------------------- writing */

static int write_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r;

	d->task->pagemap.pages_id = d->s.next_pages_id++;
	r = pages_write(op, &d->td);
	r = r ?: files_dump_shmem(op, &d->s);
	r = r ?: ipc_dump_contents(op, &d->s);
	op->stats->memwrite_us = (now_ns() - begin) / 1000;
	return r;
}

static int write_pagemap(struct op *op, struct dump *d)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct snap_pagemap *pm = &d->task->pagemap;
	struct img_out *out;
	int r = img_create(op, d->s.dir, IMG_PAGEMAP, (uint64_t)d->pid, &out);

	head.pages_id = pm->pages_id;
	r = r ?: img_write(op, out, &head.base);
	for (size_t i = 0; i < pm->entries.n && !r; i++)
		r = img_write(op, out, &pm->entries.v[i]->base);
	return r ?: img_close(op, out);
}

static int write_pstree(struct op *op, struct dump *d)
{
	struct snap_task *t = d->task;

	t->ps->pid = (uint32_t)t->pid;
	t->ps->pgid = (uint32_t)d->target.stat.pgrp;
	t->ps->sid = (uint32_t)d->target.stat.session;
	t->ps->n_threads = t->threads.n;
	t->ps->threads = op_alloc(op, t->threads.n * sizeof(uint32_t));
	if (!t->ps->threads)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->threads.n; i++)
		t->ps->threads[i] = (uint32_t)t->threads.v[i].tid;
	return img_write_one(op, d->s.dir, IMG_PSTREE, 0, &t->ps->base);
}

static int write_images(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct snap_task *t = d->task;
	uint64_t id = (uint64_t)t->pid;
	int r = write_pstree(op, d);

	for (size_t i = 0; i < t->threads.n && !r; i++)
		r = img_write_one(op, d->s.dir, IMG_CORE, (uint64_t)t->threads.v[i].tid, &t->threads.v[i].core->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_IDS, id, &t->ids->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_MM, id, &t->mm->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_FS, id, &t->fs->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_SECCOMP, 0, &d->s.seccomp->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_TIMENS, 0, &d->s.timens->base);
	r = r ?: write_pagemap(op, d);
	r = r ?: ipc_write(op, &d->s);
	r = r ?: files_write(op, &d->s);
	return r ?: img_write_one(op, d->s.dir, IMG_EXTRA, 0, &d->s.extra->base);
}

static void note_frozen(struct op *op, struct dump *d)
{
	op->stats->frozen_us = (now_ns() - d->target.seized_at) / 1000;
}

/* A tree that runs on anyway need not wait for the disk. */
static int resume_early(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (!op->opts->leave_running)
		return 0;
	target_release(op, &d->target);
	note_frozen(op, d);
	return 0;
}

/* After this stage the folder is a checkpoint, on stable storage. */
static int commit(struct op *op, void *arg)
{
	struct dump *d = arg;

	op->stats->image_bytes = img_dir_bytes(d->s.dir);
	return img_dir_commit(op, d->s.dir, d->s.inventory);
}

static int finish_task(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = 0;

	if (op->opts->leave_running)
		return 0;
	if (op->opts->leave_stopped) {
		kill(d->pid, SIGSTOP);
		target_release(op, &d->target);
	} else {
		r = target_kill(op, &d->target);
	}
	note_frozen(op, d);
	return r;
}

/* ---------------------------------------------------------------------------------------------------- the frame */

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
	msg_set(inv, lsmtype, LSMTYPE__NO_LSM);
	msg_set(inv, network_lock_method, NETWORK_LOCK_NONE);
	inv->plugins_entry = msg_new(op, PluginsEntry, plugins_entry);
	if (!inv->plugins_entry)
		return CKPT_E_NOMEM;
	if (fd >= 0 && read(fd, uuid, 36) == 36)
		inv->dump_criu_run_id = arena_strdup(op->arena, uuid);
	d->s.inventory = inv;
	d->task->ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);
	if (!d->task->ids)
		return CKPT_E_NOMEM;
	*d->task->ids = *ids; /* in all namespaces of ours */
	d->task->ids->vm_id = d->task->ids->files_id = d->task->ids->fs_id = d->task->ids->sighand_id = TASK_KOBJ_ID;
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
static int fill_clocks(struct op *op, void *arg)
{
	struct dump *d = arg;
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
	x->tasks = op_alloc(op, sizeof(*x->tasks));
	d->task->extra = msg_new(op, TaskExtra, task_extra);
	if (!x->version || !x->hostname || !x->kernel || !x->arch || !x->tasks || !d->task->extra)
		return op_nomem(op);
	d->task->extra->pid = (uint32_t)d->pid;
	x->tasks[x->n_tasks++] = d->task->extra;
	d->s.extra = x;
	return 0;
}

static int prepare(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r;

	d->s.next_file_id = d->s.next_pages_id = 1;
	d->task = ARRAY_ADD(op->arena, &d->s.tasks);
	if (!d->task)
		return op_nomem(op);
	d->task->pid = d->pid;
	d->task->ps = msg_new(op, PstreeEntry, pstree_entry);
	d->task->mm = msg_new(op, MmEntry, mm_entry);
	d->task->fs = msg_new(op, FsEntry, fs_entry);
	d->s.seccomp = msg_new(op, SeccompEntry, seccomp_entry);
	if (!d->task->ps || !d->task->mm || !d->task->fs || !d->s.seccomp)
		return CKPT_E_NOMEM;
	r = fill_inventory(op, d);
	r = r ?: fill_extra(op, d);
	d->td = (struct task_dump){ .s = &d->s, .task = d->task, .target = &d->target, .parasite = &d->parasite, .maps = &d->maps };
	return r;
}

static const struct stage stages[] = {
	{ "check", check_target, NULL, 1 },
	{ "prepare", prepare, NULL, 1 },
	{ "open images", open_folder, close_folder, 1 },
	{ "check space", check_space, NULL, 1 },
	{ "guardian", start_guardian, stop_guardian, 1 },
	/* from here on the tree is stopped */
	{ "freeze", freeze, thaw, 2 },
	{ "clocks", fill_clocks, NULL, 1 },
	{ "memory areas", read_areas, files_undo, 2 },
	{ "inject", inject, cure_undo, 1 },
	{ "tasks", collect_core, NULL, 2 },
	{ "cure", cure, NULL, 1 },
	/* nothing of ours is in the tree any more */
	{ "files", collect_files, NULL, 2 },
	{ "ipc", collect_ipc, ipc_undo, 1 },
	{ "page tables", collect_pages, NULL, 2 },
	{ "write pages", write_pages, NULL, 60 },
	{ "write images", write_images, NULL, 4 },
	{ "resume", resume_early, NULL, 1 },
	{ "commit", commit, NULL, 20 },
	/* the folder is a checkpoint */
	{ "finish", finish_task, NULL, 1 },
	{ NULL, NULL, NULL, 0 },
};

static uint32_t us32(uint64_t us)
{
	return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void write_stats(struct op *op, struct dump *d)
{
	DumpStatsEntry ds = DUMP_STATS_ENTRY__INIT;
	StatsEntry e = STATS_ENTRY__INIT;
	_cleanup_close_ int opened = -1;
	int dir = img_dir_fd(d->s.dir);

	ds.freezing_time = us32(op->stats->freezing_us);
	ds.frozen_time = us32(op->stats->frozen_us);
	ds.memdump_time = us32(op->stats->memwrite_us);
	ds.memwrite_time = us32(op->stats->memwrite_us);
	ds.pages_scanned = op->stats->pages_scanned;
	ds.pages_written = op->stats->pages_written;
	msg_set(&ds, shpages_written, op->stats->shpages_written);
	e.dump = &ds;
	if (op->opts->work_dir_fd >= 0)
		dir = op->opts->work_dir_fd;
	else if (op->opts->work_dir && (opened = open(op->opts->work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0)
		dir = opened;
	if (img_write_at(op, dir, IMG_STATS_DUMP, 0, &e.base) != 0) {
		log_warn(op, "the statistics could not be written: %s", ckpt_err_message(op->err));
		op_forget(op);
	}
}

/* A process that ends in the middle makes all sorts of things fail; only that it ended is of interest. */
static int explain(struct op *op, int r, pid_t pid)
{
	const struct target t = { .pid = pid };

	if (r == CKPT_E_CANCELED || r == CKPT_E_NO_PROCESS || pid <= 0 || !target_has_ended(&t))
		return r;
	op_forget(op);
	return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "it ended meanwhile");
}

int dump_run(struct op *op, pid_t pid)
{
	struct dump *d = op_new(op, struct dump);
	uint64_t begin = now_ns();
	int r;

	if (!d)
		return CKPT_E_NOMEM;
	d->pid = pid;
	d->target = (struct target){ .pidfd = -1, .mem = -1 };
	d->guardian = (struct guardian)GUARDIAN_INIT;
	r = stages_run(op, stages, d);
	op->stats->total_us = (now_ns() - begin) / 1000;
	if (r)
		return op_wrap(op, explain(op, r, pid), "checkpoint of process %d", pid);
	guardian_stop(&d->guardian);
	files_dump_done(op, &d->s, true);
	ipc_done(op, &d->s, true);
	write_stats(op, d);
	d->s.dir = img_dir_close(d->s.dir);
	return 0;
}
