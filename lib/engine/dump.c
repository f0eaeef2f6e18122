/* SPDX-License-Identifier: MIT */
/*
 * The dump pipeline: from a running process to a folder that is a checkpoint. The table at the end is the order; each
 * stage says what holds after it. Until the commit every failure lets the process go on as it was.
 */
#include "lib/engine/dump.h"

#include <signal.h>

#include "lib/engine/dedup.h"
#include "lib/engine/dump_parts.h"
#include "lib/engine/leave.h"
#include "lib/engine/preflight.h"
#include "lib/engine/stage.h"
#include "lib/engine/tree.h"
#include "lib/image/gate.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mem/copy.h"
#include "lib/state/mem/mem.h"
#include "lib/state/mount/mount.h"
#include "lib/state/msg.h"
#include "lib/state/net/net.h"
#include "lib/state/task/confine.h"

/* Room for the metadata images of a task, on top of its pages. */
#define METADATA_BYTES (512u << 10)

/* ---------------------------------------------------------------------------------- before anything is stopped */

static int check_target(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = preflight(op, d->pid);

	r = r ?: op_event(op, CKPT_EVENT_PRE_DUMP, d->pid, -1);
	r = r ?: files_preflight(op, d->pid);
	return r ?: cgroups_check_options(op, &d->s);
}

/*
 * @pages: bytes of memory; room for them is the page server's business, where there is one, and what they are compressed
 * nobody knows: a disk that gets full ends the dump, too.
 */
static int need_space(struct op *op, struct dump *d, uint64_t pages)
{
	uint64_t have, need = pages_elsewhere(d->s.dir) || op->opts->compress ? METADATA_BYTES : pages + METADATA_BYTES;
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

/* While others have much to write first, the tree runs on instead of standing still in the queue. */
static int wait_turn(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct proc_status st;
	uint64_t bytes;

	if (op->opts->page_server)
		return 0; /* its memory goes to another disk */
	if (proc_read_status(op, d->pid, &st) != 0)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = d->pid), "process %d ended meanwhile", d->pid);
	/* One that builds upon another writes what has changed since: how much that is, nobody knows yet; mostly little. */
	bytes = (st.vm_rss_kb + st.vm_swap_kb) << (op->opts->prev_images_dir ? 7 : 10);
	return gate_admit(op, img_dir_gate(d->s.dir), bytes);
}

static int look_ahead(struct op *op, void *arg)
{
	return snapshot_look(op, arg);
}

/* --------------------------------------------------------------------------------------------------- the freeze */

static int freeze(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r = tree_freeze(op, d);

	op->stats->freezing_us = (now_ns() - begin) / 1000;
	return r;
}

/* Said now rather than by the restore, when the tree is gone. */
static int check_shape(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct tree tree;

	return tree_plan(op, &d->s, &tree);
}

static int frame(struct op *op, void *arg)
{
	return frame_tasks(op, arg) ?: frame_clocks(op, arg);
}

/* ------------------------------------------------------------------------------------------------ containers */

/*
 * What surrounds the tree. From its end on we live in the network namespace of the tree, until the tree is gone or runs again:
 * its sockets, their connections and what holds these are there.
 */
static int enter_namespaces(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = ns_dump_begin(op, &d->s);

	if (!r && ns_own(&d->s, NS_NET)) {
		r = op_event(op, CKPT_EVENT_NETWORK_LOCK, d->pid, -1);
		d->told_of_lock = !r;
	}
	r = r ?: op_event(op, CKPT_EVENT_QUERY_EXT_FILES, d->pid, -1);
	r = r ?: mounts_dump_begin(op, &d->s);
	r = r ?: net_dump(op, &d->s);
	return r ?: ns_visit(op, &d->s, true);
}

/* Whoever was told that the network is locked hears that it is not. */
static void tell_unlocked(struct op *op, struct dump *d)
{
	if (d->told_of_lock)
		op_event(op, CKPT_EVENT_NETWORK_UNLOCK, d->pid, -1);
	d->told_of_lock = false;
}

static void namespaces_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	namespaces_leave(op, &d->s, false);
	tell_unlocked(op, d);
}

static int task_areas(struct op *op, struct dump *d, struct dump_task *t)
{
	int r = snapshot_areas(op, d, t);

	if (r)
		return r;
	d->files_begun = true;
	return vmas_dump(op, &t->td);
}

/* Calls @fn for each task that is the first to have an object of a kind, the dead ones left out. */
static int each_owner(struct op *op, struct dump *d, enum kobj which, int (*fn)(struct op *, struct dump *, struct dump_task *))
{
	int r = 0;

	for (size_t i = 0; i < d->tasks.n && !r; i++)
		if (owns(d, i, which))
			r = fn(op, d, d->tasks.v[i]) ?: op_check_cancel(op);
	return r;
}

static int read_areas(struct op *op, void *arg)
{
	return each_owner(op, arg, KOBJ_VM, task_areas);
}

static void files_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (d->files_begun)
		files_dump_done(op, &d->s, false);
	d->files_begun = false;
}

static int task_inject(struct op *op, struct dump *d, struct dump_task *t)
{
	return parasite_inject(op, &t->target, &t->maps, &t->parasite, d->guardian.journal);
}

static int inject(struct op *op, void *arg)
{
	return each_owner(op, arg, KOBJ_VM, task_inject);
}

static int task_cure(struct op *op, struct dump *d, struct dump_task *t)
{
	(void)d;
	return parasite_cure(op, &t->target, &t->parasite);
}

static void cure_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	/* Not stopped by the very cancellation or deadline that brought us here. */
	op->cancel = NULL;
	op->deadline_ns = 0;
	for (size_t i = 0; i < d->tasks.n; i++)
		if (owns(d, i, KOBJ_VM) && task_cure(op, d, d->tasks.v[i]) != 0 && !target_has_ended(&d->tasks.v[i]->target))
			log_warn(op, "process %d: the parasite could not be removed", d->tasks.v[i]->pid);
}

static int collect_core(struct op *op, void *arg)
{
	struct dump *d = arg;
	struct peer peer = PEER_INIT;
	int r = 0;

	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		if (d->tasks.v[i]->zombie)
			continue;
		d->tasks.v[i]->td.peer = &peer;
		r = task_dump_core(op, &d->tasks.v[i]->td) ?: op_check_cancel(op);
	}
	peer_end(&peer);
	return r;
}

static int cure(struct op *op, void *arg)
{
	return each_owner(op, arg, KOBJ_VM, task_cure);
}

static int task_files(struct op *op, struct dump *d, size_t i)
{
	struct dump_task *t = d->tasks.v[i];
	struct snap_task *st = t->task;
	struct proc_status *status = &t->target.threads.v[0].status;
	int r = st->mm ? files_dump_special(op, &d->s, t->pid, "exe", &st->mm->exe_file_id) : 0;

	if (!r && owns(d, i, KOBJ_FILES))
		r = files_dump_task(op, &d->s, st, t->target.pidfd);
	r = r ?: files_dump_special(op, &d->s, t->pid, "cwd", &st->fs->cwd_id);
	r = r ?: files_dump_special(op, &d->s, t->pid, "root", &st->fs->root_id);
	msg_set(st->fs, umask, status->umask);
	return r;
}

static int collect_files(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = ipc_dump_begin(op, &d->s);

	for (size_t i = 0; i < d->tasks.n && !r; i++)
		if (!d->tasks.v[i]->zombie)
			r = task_files(op, d, i);
	return r ?: files_dump_complete(op, &d->s);
}

static int collect_ipc(struct op *op, void *arg)
{
	struct dump *d = arg;

	return ipc_dump(op, &d->s) ?: ns_dump(op, &d->s) ?: tree_check_nested(op, &d->s);
}

static void ipc_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	ipc_done(op, &d->s, false);
}

static int collect_cgroups(struct op *op, void *arg)
{
	struct dump *d = arg;

	return cgroups_dump(op, &d->s);
}

static void cgroups_undo(struct op *op, void *arg)
{
	struct dump *d = arg;

	cgroups_done(op, &d->s, false);
}

/* While the tree stands still, whatever is done about its memory later. */
static int find_written(struct op *op, void *arg)
{
	return track_scan(op, arg);
}

static int take_snapshot(struct op *op, void *arg)
{
	return snapshot_take(op, arg);
}

static void end_snapshot(struct op *op, void *arg)
{
	snapshot_end(op, arg);
}

/* What can be read only while the tree stands still: memory that others may write to as well, and deleted files. */
static int write_shared(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r = files_dump_contents(op, &d->s);

	r = r ?: ipc_dump_contents(op, &d->s);
	r = r ?: mounts_dump_contents(op, &d->s);
	op->stats->memwrite_us = (now_ns() - begin) / 1000;
	return r;
}

static void note_frozen(struct op *op, struct dump *d)
{
	op->stats->frozen_us = (now_ns() - d->tasks.v[0]->target.seized_at) / 1000;
}

static void let_go(struct op *op, struct dump *d)
{
	files_dump_let_go(op, &d->s);
	ipc_done(op, &d->s, true);
	tell_unlocked(op, d);
	tree_release(op, d);
	note_frozen(op, d);
	d->running = true;
	op->deadline_ns = 0; /* what took long may take long from here on */
}

static int resume_early(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (d->early)
		let_go(op, d);
	return 0;
}

static int task_pages(struct op *op, struct dump *d, struct dump_task *t)
{
	return mem_copy_explain(op, &t->td, snapshot_complete(op, d, t) ?: pages_collect(op, &t->td));
}

static int collect_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t need = 0;
	int r = each_owner(op, d, KOBJ_VM, task_pages);

	for (size_t i = 0; i < d->tasks.n; i++)
		need += d->tasks.v[i]->task->pagemap.n_pages * PAGE_SIZE;
	track_count(op, d);
	/* The limit is for stopping and collecting, as in the field. How long writing takes, the size of the memory says. */
	op->deadline_ns = 0;
	op_bytes_total(op, need);
	gate_plan(img_dir_gate(d->s.dir), op->opts->page_server ? 0 : need);
	return r ?: need_space(op, d, need);
}

/* --------------------------------------------------------------------------------------------------- writing */

static int task_write_pages(struct op *op, struct dump *d, struct dump_task *t)
{
	t->task->pagemap.pages_id = d->s.next_pages_id++;
	return mem_copy_explain(op, &t->td, pages_write(op, &t->td));
}

static int write_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r;

	op->stats->snapshot = d->running;
	r = each_owner(op, d, KOBJ_VM, task_write_pages);
	op->stats->memwrite_us += (now_ns() - begin) / 1000;
	snapshot_end(op, d); /* the memory it takes is better given back at once */
	return r;
}

static int write_images(struct op *op, void *arg)
{
	return dump_write_images(op, arg);
}

/* A tree that runs on anyway need not wait for the disk. */
static int resume_late(struct op *op, void *arg)
{
	struct dump *d = arg;

	if (op->opts->leave_running && !d->running)
		let_go(op, d);
	return 0;
}

/* From the commit on the tree may be killed at any moment: what is to last until the restore lasts without us. */
static int keep(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = op_event(op, CKPT_EVENT_POST_DUMP, d->pid, -1);

	return r || op->opts->leave_running || op->opts->leave_stopped ? r : files_dump_keep(op, &d->s);
}

/* After this stage the folder is a checkpoint, on stable storage. */
static int commit(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r;

	op->stats->image_bytes = img_dir_bytes(d->s.dir);
	/* The last copy must not be destroyed before the other host has its part: it says so first, then we do. */
	r = remote_commit(op, &d->remote);
	return r ?: img_dir_commit(op, d->s.dir, d->s.inventory);
}

static int finish_task(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = 0;

	if (op->opts->leave_running)
		return 0;
	if (op->opts->leave_stopped) {
		files_dump_let_go(op, &d->s);
		for (size_t i = 0; i < d->tasks.n; i++)
			if (!d->tasks.v[i]->zombie)
				kill(d->tasks.v[i]->pid, SIGSTOP);
		tree_release(op, d);
	} else {
		/* If we are killed from here on, they are: half of a tree, or one whose sockets are silent, is not to go on. */
		guardian_note_end(&d->guardian, d->pid);
		for (size_t i = 0; i < d->tasks.n; i++)
			if (!d->tasks.v[i]->zombie)
				target_bind(&d->tasks.v[i]->target);
		files_dump_end(op, &d->s);
		r = tree_kill(op, d);
	}
	note_frozen(op, d);
	return r;
}

static const struct stage stages[] = {
	/* before the questions: what an engine that was killed left may have to be put back first */
	{ "guardian", stage_start_guardian, stage_stop_guardian, 1 },
	{ "check", check_target, cgroups_undo, 1 },
	{ "prepare", stage_prepare, NULL, 1 },
	{ "open images", stage_open_folder, stage_close_folder, 1 },
	{ "parent", stage_open_parent, NULL, 1 },
	{ "page server", stage_connect_server, stage_disconnect_server, 1 },
	{ "check space", check_space, NULL, 1 },
	{ "turn", wait_turn, NULL, 1 },
	{ "look ahead", look_ahead, NULL, 1 },
	/* from here on the tree is stopped */
	{ "freeze", freeze, stage_thaw, 2 },
	{ "clocks", frame, NULL, 1 },
	/* who tracks memory is found by a name in our own network namespace: before we enter another one */
	{ "tracking", stage_begin_tracking, stage_tracking_undo, 1 },
	{ "namespaces", enter_namespaces, namespaces_undo, 1 },
	{ "memory areas", read_areas, files_undo, 2 },
	{ "inject", inject, cure_undo, 1 },
	{ "tasks", collect_core, NULL, 2 },
	{ "shape", check_shape, NULL, 1 },
	{ "cure", cure, NULL, 1 },
	/* nothing of ours is in the tree any more */
	{ "files", collect_files, NULL, 2 },
	{ "ipc", collect_ipc, ipc_undo, 1 },
	{ "cgroups", collect_cgroups, NULL, 1 },
	{ "written pages", find_written, NULL, 1 },
	{ "snapshot", take_snapshot, end_snapshot, 2 },
	{ "shared memory", write_shared, NULL, 10 },
	{ "resume", resume_early, NULL, 1 },
	/* from here on it may run again, with --leave-running: see dump_snapshot.c */
	{ "page tables", collect_pages, NULL, 2 },
	{ "write pages", write_pages, NULL, 60 },
	{ "write images", write_images, NULL, 4 },
	{ "resume late", resume_late, NULL, 1 },
	{ "keep", keep, NULL, 1 },
	{ "commit", commit, NULL, 20 },
	/* the folder is a checkpoint */
	{ "finish", finish_task, NULL, 1 },
	{ NULL, NULL, NULL, 0 },
};

int dump_run(struct op *op, pid_t pid)
{
	struct dump *d = op_new(op, struct dump);
	uint64_t begin = now_ns();
	int r;

	if (!d)
		return CKPT_E_NOMEM;
	d->pid = pid;
	d->freezer = (struct freezer)FREEZER_INIT;
	d->guardian = (struct guardian)GUARDIAN_INIT;
	d->claim = -1;
	d->remote = (struct remote)REMOTE_INIT;
	r = stages_run(op, stages, d);
	pieces_done(&d->s);
	op->stats->total_us = (now_ns() - begin) / 1000;
	freezer_done(op, &d->freezer);
	if (r)
		return op_wrap(op, d->running ? r : tree_explain(op, d, r), "checkpoint of process %d", pid);
	if (op->opts->auto_dedup && op->opts->prev_images_dir && !op->opts->page_server)
		dedup_after_dump(op, d->s.dir);
	stage_stop_guardian(op, d);
	remote_end(&d->remote);
	files_dump_done(op, &d->s, true);
	ipc_done(op, &d->s, true);
	cgroups_done(op, &d->s, true);
	namespaces_leave(op, &d->s, true);
	track_commit(op, d);
	dump_write_stats(op, d);
	d->s.dir = img_dir_close(d->s.dir);
	return 0;
}
