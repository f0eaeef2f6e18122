/* SPDX-License-Identifier: MIT */
/* The images of tasks, from the snapshot to the folder. */
#include <fcntl.h>

#include "lib/engine/cpuinfo.h"
#include "lib/engine/dump_parts.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mount/mount.h"
#include "lib/state/msg.h"
#include "lib/state/net/net.h"

int dump_write_pagemap(struct op *op, struct dump *d, const struct snap_task *t)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	const struct snap_pagemap *pm = &t->pagemap;
	struct img_out *out;
	/* What says where they are goes with the pages. What was sent, the next dump that builds upon this one has to know. */
	int r = img_create(op, d->s.dir, pages_elsewhere(d->s.dir) ? IMG_SENT : IMG_PAGEMAP, (uint64_t)t->pid, &out);

	head.pages_id = pm->pages_id;
	r = r ?: img_write(op, out, &head.base);
	for (size_t i = 0; i < pm->entries.n && !r; i++)
		r = img_write(op, out, &pm->entries.v[i]->base);
	return r ?: img_close(op, out);
}

static int fill_threads(struct op *op, struct snap_task *t)
{
	PstreeEntry *ps = t->ps;

	ps->n_threads = t->threads.n;
	ps->threads = op_alloc(op, t->threads.n * sizeof(uint32_t));
	if (!ps->threads)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->threads.n; i++)
		ps->threads[i] = (uint32_t)t->threads.v[i].tid;
	return 0;
}

static int write_pstree(struct op *op, struct dump *d)
{
	struct img_out *out;
	int r = img_create(op, d->s.dir, IMG_PSTREE, 0, &out);

	for (size_t i = 0; i < d->s.tasks.n && !r; i++) {
		r = fill_threads(op, &d->s.tasks.v[i]);
		r = r ?: img_write(op, out, &d->s.tasks.v[i].ps->base);
	}
	return r ?: img_close(op, out);
}

static int write_task(struct op *op, struct dump *d, const struct snap_task *t)
{
	uint64_t id = (uint64_t)t->pid;
	int r = 0;

	for (size_t i = 0; i < t->threads.n && !r; i++)
		r = img_write_one(op, d->s.dir, IMG_CORE, (uint64_t)t->threads.v[i].tid, &t->threads.v[i].core->base);
	if (r || t->dead)
		return r;
	r = img_write_one(op, d->s.dir, IMG_IDS, id, &t->ids->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_FS, id, &t->fs->base);
	if (r || !t->mm)
		return r;
	r = img_write_one(op, d->s.dir, IMG_MM, id, &t->mm->base);
	return r ?: dump_write_pagemap(op, d, t);
}

int dump_write_images(struct op *op, struct dump *d)
{
	int r = write_pstree(op, d);

	for (size_t i = 0; i < d->s.tasks.n && !r; i++)
		r = write_task(op, d, &d->s.tasks.v[i]) ?: op_check_cancel(op);
	r = r ?: img_write_one(op, d->s.dir, IMG_SECCOMP, 0, &d->s.seccomp->base);
	r = r ?: img_write_one(op, d->s.dir, IMG_TIMENS, 0, &d->s.timens->base);
	r = r ?: ns_write(op, &d->s);
	r = r ?: mounts_write(op, &d->s);
	r = r ?: net_write(op, &d->s);
	r = r ?: ipc_write(op, &d->s);
	r = r ?: cgroups_write(op, &d->s);
	r = r ?: files_write(op, &d->s);
	r = r ?: cpuinfo_write(op, d->s.dir);
	return r ?: img_write_one(op, d->s.dir, IMG_EXTRA, 0, &d->s.extra->base);
}

static uint32_t us32(uint64_t us)
{
	return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

void dump_write_stats(struct op *op, struct dump *d)
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
	ds.pages_skipped_parent = op->stats->pages_skipped_parent;
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
