/* SPDX-License-Identifier: MIT */
/*
 * A pre-dump: memory alone, of a tree that runs on. It stands still while the page tables are read, and from that moment the
 * kernel notes what is written. The pages themselves are read afterwards: one that changes meanwhile is noted, and stored
 * again by the next dump, so that it does not matter what we caught of it. What is gone meanwhile is not claimed.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/engine/dedup.h"
#include "lib/engine/dump.h"
#include "lib/engine/dump_parts.h"
#include "lib/engine/preflight.h"
#include "lib/engine/stage.h"
#include "lib/image/gate.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/msg.h"
#include "lib/state/pieces.h"

#define METADATA_BYTES (64u << 10)

static int check_target(struct op *op, void *arg)
{
	struct dump *d = arg;

	return preflight(op, d->pid);
}

static int freeze(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r = tree_freeze(op, d);

	op->stats->freezing_us = (now_ns() - begin) / 1000;
	return r ?: frame_tasks(op, d);
}

/* Which pages; from here on the kernel notes anew. Their memory stays open to us when the task runs. */
static int task_pages(struct op *op, struct dump *d, size_t i)
{
	struct dump_task *t = d->tasks.v[i];
	int r = dirty_areas(op, &t->td) ?: dirty_scan(op, &t->td) ?: pages_collect(op, &t->td);

	if (r)
		return r;
	t->mem = fcntl(t->target.mem, F_DUPFD_CLOEXEC, 3);
	if (t->mem < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "keep the memory of task %d open", t->pid);
	return 0;
}

static int collect_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t need = 0;
	int r = 0;

	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		if (!owns(d, i, KOBJ_VM))
			continue;
		r = task_pages(op, d, i) ?: op_check_cancel(op);
		need += d->tasks.v[i]->task->pagemap.n_pages * PAGE_SIZE;
	}
	track_count(op, d);
	op_bytes_total(op, need);
	gate_plan(img_dir_gate(d->s.dir), need);
	return r;
}

static void close_memory(struct op *op, void *arg)
{
	struct dump *d = arg;

	(void)op;
	for (size_t i = 0; i < d->tasks.n; i++) {
		if (d->tasks.v[i]->mem > 0)
			close(d->tasks.v[i]->mem);
		d->tasks.v[i]->mem = 0;
	}
}

static int resume(struct op *op, void *arg)
{
	struct dump *d = arg;

	tree_release(op, d);
	op->stats->frozen_us = (now_ns() - d->tasks.v[0]->target.seized_at) / 1000;
	op->deadline_ns = 0;
	return 0;
}

/* Not while everything stands still: asking the file system takes longer than the rest. */
static int check_space(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t need = METADATA_BYTES, have;
	int r = img_dir_space(op, d->s.dir, &have);

	for (size_t i = 0; i < d->tasks.n && !op->opts->page_server && !op->opts->compress; i++)
		need += d->tasks.v[i]->task->pagemap.n_pages * PAGE_SIZE;
	if (r || have >= need)
		return r;
	return op_fail(op, CKPT_E_NOSPACE, AT(.pid = d->pid, .hint = "free some space, or choose another folder with -D"),
		       "the pre-dump of process %d needs about %lu MiB, and %s has %lu MiB free", d->pid, (need >> 20) + 1,
		       op->opts->images_dir ?: "the images folder", have >> 20);
}

static int write_pages(struct op *op, void *arg)
{
	struct dump *d = arg;
	uint64_t begin = now_ns();
	int r = 0;

	for (size_t i = 0; i < d->tasks.n && !r; i++) {
		if (!owns(d, i, KOBJ_VM))
			continue;
		d->tasks.v[i]->task->pagemap.pages_id = d->s.next_pages_id++;
		r = pages_write_running(op, &d->tasks.v[i]->td, d->tasks.v[i]->mem);
	}
	op->stats->memwrite_us = (now_ns() - begin) / 1000;
	return r;
}

static int write_images(struct op *op, void *arg)
{
	struct dump *d = arg;
	int r = 0;

	for (size_t i = 0; i < d->tasks.n && !r; i++)
		if (owns(d, i, KOBJ_VM))
			r = dump_write_pagemap(op, d, d->tasks.v[i]->task) ?: op_check_cancel(op);
	d->s.extra->n_tasks = 0;
	return r ?: img_write_one(op, d->s.dir, IMG_EXTRA, 0, &d->s.extra->base);
}

/* The inventory of a pre-dump says that it is one, and little else: nobody may take the folder for a checkpoint. */
static int commit(struct op *op, void *arg)
{
	struct dump *d = arg;
	InventoryEntry *inv = d->s.inventory;

	inv->root_ids = NULL;
	inv->has_fdinfo_per_id = inv->has_ns_per_id = inv->has_root_cg_set = inv->has_lsmtype = inv->has_network_lock_method = false;
	msg_set(inv, pre_dump_mode, op->opts->pre_dump_mode == CKPT_PRE_DUMP_READ ? 2 : 1);
	op->stats->image_bytes = img_dir_bytes(d->s.dir);
	return remote_commit(op, &d->remote) ?: img_dir_commit(op, d->s.dir, d->s.inventory);
}

static const struct stage stages[] = {
	/* before the questions: what an engine that was killed left may have to be put back first */
	{ "guardian", stage_start_guardian, stage_stop_guardian, 1 },
	{ "check", check_target, NULL, 1 },
	{ "prepare", stage_prepare, NULL, 1 },
	{ "open images", stage_open_folder, stage_close_folder, 1 },
	{ "parent", stage_open_parent, NULL, 1 },
	{ "page server", stage_connect_server, stage_disconnect_server, 1 },
	/* from here on the tree is stopped */
	{ "freeze", freeze, stage_thaw, 2 },
	{ "tracking", stage_begin_tracking, stage_tracking_undo, 1 },
	{ "page tables", collect_pages, close_memory, 2 },
	{ "resume", resume, NULL, 1 },
	/* it runs again, and nothing of ours is in it */
	{ "check space", check_space, NULL, 1 },
	{ "write pages", write_pages, NULL, 60 },
	{ "write images", write_images, NULL, 4 },
	{ "commit", commit, NULL, 20 },
	{ NULL, NULL, NULL, 0 },
};

int predump_run(struct op *op, pid_t pid)
{
	struct ckpt_opts *opts = op_new(op, struct ckpt_opts);
	struct dump *d = op_new(op, struct dump);
	int r;

	if (!d || !opts)
		return CKPT_E_NOMEM;
	/* It runs on, whatever comes later; whether its session can be restored, the dump will ask. */
	*opts = *op->opts;
	opts->leave_running = true;
	opts->leave_stopped = false;
	opts->shell_job = true;
	op->opts = opts;
	d->pid = pid;
	d->freezer = (struct freezer)FREEZER_INIT;
	d->guardian = (struct guardian)GUARDIAN_INIT;
	d->claim = -1;
	d->remote = (struct remote)REMOTE_INIT;
	d->track.pre_dump = true;
	r = stages_run(op, stages, d);
	freezer_done(op, &d->freezer);
	cgroups_done(op, &d->s, true);
	pieces_done(&d->s);
	if (r)
		return op_wrap(op, tree_explain(op, d, r), "pre-dump of process %d", pid);
	remote_end(&d->remote);
	close_memory(op, d);
	track_commit(op, d);
	if (op->opts->auto_dedup && op->opts->prev_images_dir && !op->opts->page_server)
		dedup_after_dump(op, d->s.dir);
	stage_stop_guardian(op, d);
	dump_write_stats(op, d);
	d->s.dir = img_dir_close(d->s.dir);
	return 0;
}
