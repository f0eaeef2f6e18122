/* SPDX-License-Identifier: MIT */
/*
 * The restore pipeline: from a folder to a running tree. Everything is read and checked first; then files are opened,
 * the plans are made, and only then processes. Until the release nothing of the programs runs, and every failure ends the
 * new processes and takes back what was made.
 */
#include "lib/engine/restore.h"

#include <fcntl.h>

#include "lib/engine/cpuinfo.h"
#include "lib/engine/leave.h"
#include "lib/engine/restore_parts.h"
#include "lib/engine/stage.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/file/file.h"
#include "lib/state/ipc/ipc.h"
#include "lib/state/mount/mount.h"
#include "lib/state/msg.h"
#include "lib/state/net/net.h"
#include "lib/engine/dedup.h"
#include "lib/state/pieces.h"

static int open_images(struct op *op, void *arg)
{
	struct restore *r = arg;

	r->started_at = now_ns();
	return img_dir_open_verified(op, &r->s.dir, &r->s.inventory);
}

static void close_images(struct op *op, void *arg)
{
	struct restore *r = arg;

	(void)op;
	pieces_done(&r->s);
	r->s.dir = img_dir_close(r->s.dir);
}

static int read_images(struct op *op, void *arg)
{
	struct restore *r = arg;

	return restore_read(op, &r->s) ?: ns_read(op, &r->s) ?: cgroups_read(op, &r->s) ?: mounts_read(op, &r->s) ?:
	       net_read(op, &r->s) ?: files_read(op, &r->s) ?: ipc_read(op, &r->s);
}

static int check(struct op *op, void *arg)
{
	struct restore *r = arg;

	return cpuinfo_check(op, r->s.dir) ?: restore_check(op, r) ?: op_event(op, CKPT_EVENT_PRE_RESTORE, 0, -1);
}

static int lazy_pages(struct op *op, void *arg)
{
	return restore_lazy_begin(op, arg);
}

static void lazy_undo(struct op *op, void *arg)
{
	(void)op;
	restore_lazy_done(arg);
}

static int make_cgroups(struct op *op, void *arg)
{
	struct restore *r = arg;

	return cgroups_make(op, &r->s);
}

static void cgroups_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	cgroups_done(op, &r->s, false);
}

/* The process that becomes the root task: it waits in its namespaces until they are filled. */
static int make_root(struct op *op, void *arg)
{
	struct restore *r = arg;
	int ret = restore_make_elf(op, r);

	ret = ret ?: restore_prepare_pids(op, r);
	ret = ret ?: restore_clocks(op, r);
	ret = ret ?: restore_pidns(op, r);
	return ret ?: restore_root(op, r);
}

static void root_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	restore_kill(op, r);
	restore_spawn_done(r);
	restore_pidns_done(r, false);
}

/* From its end on we live in the network namespace of the tree: its sockets are made there. */
static int fill_namespaces(struct op *op, void *arg)
{
	struct restore *r = arg;
	bool any = ns_clone_flags(&r->s);
	int ret = ns_make(op, &r->s, r->pid);

	if (any)
		ret = ret ?: op_event(op, CKPT_EVENT_SETUP_NAMESPACES, r->pid, -1);
	ret = ret ?: net_make(op, &r->s);
	ret = ret ?: mounts_make(op, &r->s);
	if (any)
		ret = ret ?: op_event(op, CKPT_EVENT_POST_SETUP_NAMESPACES, r->pid, -1);
	return ret ?: ns_visit(op, &r->s, true);
}

static void namespaces_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	namespaces_leave(op, &r->s, false);
}

static int make_ipc(struct op *op, void *arg)
{
	struct restore *r = arg;

	return ipc_make(op, &r->s);
}

static void ipc_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	ipc_done(op, &r->s, false);
}

static int open_files(struct op *op, void *arg)
{
	struct restore *r = arg;

	return files_open(op, &r->s);
}

static void files_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	files_restore_done(op, &r->s, false);
}

static int plan(struct op *op, void *arg)
{
	return restore_plan(op, arg);
}

static void plan_undo(struct op *op, void *arg)
{
	struct restore *r = arg;

	(void)op;
	restore_plan_done(r);
}

static int spawn(struct op *op, void *arg)
{
	return restore_spawn(op, arg);
}

static void kill_undo(struct op *op, void *arg)
{
	restore_kill(op, arg);
}

static int drive(struct op *op, void *arg)
{
	return restore_drive(op, arg);
}

static int finish(struct op *op, void *arg)
{
	struct restore *r = arg;

	return restore_finish(op, r) ?: op_event(op, CKPT_EVENT_POST_RESTORE, r->pid, -1);
}

/* The last stage. Others hear of us when the files open up: nobody's wish to cancel comes between that and the end. */
static int release(struct op *op, void *arg)
{
	struct restore *r = arg;
	int ret = files_settle(op, &r->s);

	if (ret)
		return ret;
	if (ns_own(&r->s, NS_NET))
		op_event(op, CKPT_EVENT_NETWORK_UNLOCK, r->pid, -1);
	op_event(op, CKPT_EVENT_PRE_RESUME, r->pid, -1);
	ipc_detach(&r->s);
	ret = restore_lazy_end(op, r) ?: cgroups_freeze(op, &r->s) ?: restore_untie(op, r) ?: files_open_up(op, &r->s) ?: restore_release(op, r);

	op->stats->pages_written = r->n_pages;
	if (!ret)
		op_event(op, CKPT_EVENT_POST_RESUME, r->pid, -1);
	return ret;
}

static const struct stage stages[] = {
	{ "open images", open_images, close_images, 1 },
	{ "read images", read_images, NULL, 5 },
	{ "check", check, NULL, 1 },
	{ "lazy pages", lazy_pages, lazy_undo, 1 },
	{ "cgroups", make_cgroups, cgroups_undo, 1 },
	{ "root", make_root, root_undo, 2 },
	{ "namespaces", fill_namespaces, namespaces_undo, 2 },
	{ "ipc", make_ipc, ipc_undo, 2 },
	{ "open files", open_files, files_undo, 5 },
	{ "plan", plan, plan_undo, 3 },
	{ "spawn", spawn, kill_undo, 5 },
	{ "restorer", drive, NULL, 70 },
	{ "finish", finish, NULL, 5 },
	{ "release", release, NULL, 1 },
	{ 0 },
};

/* Beside the log, in the work folder. A restore that went well does not fail for lack of them. */
static void write_stats(struct op *op, const struct restore *r)
{
	StatsEntry e = STATS_ENTRY__INIT;
	RestoreStatsEntry rs = RESTORE_STATS_ENTRY__INIT;
	_cleanup_close_ int opened = -1;
	int dir = img_dir_fd(r->s.dir);

	rs.forking_time = (uint32_t)((r->forked_at - r->started_at) / 1000);
	rs.restore_time = (uint32_t)((now_ns() - r->started_at) / 1000);
	msg_set(&rs, pages_restored, r->n_pages);
	e.restore = &rs;
	if (op->opts->work_dir_fd >= 0)
		dir = op->opts->work_dir_fd;
	else if (op->opts->work_dir && (opened = open(op->opts->work_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) >= 0)
		dir = opened;
	if (img_write_at(op, dir, IMG_STATS_RESTORE, 0, &e.base) != 0) {
		log_warn(op, "stats-restore could not be written");
		op_forget(op);
	}
}

/* What was restored is of no use any more, says who asks for it. */
static void restore_dedup(struct op *op, struct restore *r)
{
	const struct pieces **p = op_alloc(op, (r->n_tasks + r->s.shmems.n + 1) * sizeof(*p));
	size_t n = 0;

	for (size_t i = 0; p && i < r->n_tasks; i++)
		p[n++] = &r->tasks[i].build.pieces;
	for (size_t i = 0; p && i < r->s.shmems.n; i++)
		p[n++] = &r->s.shmems.v[i]->pieces;
	if (p)
		dedup_after_restore(op, &r->s, p, n);
	else
		op_forget(op);
}

int restore_run(struct op *op, pid_t *pid)
{
	struct restore *r = op_new(op, struct restore);
	int ret;

	if (!r)
		return CKPT_E_NOMEM;
	r->elf_fd = r->self_pidfd = r->source_fd = r->last_pid_fd = r->pidfd = -1;
	r->init_pidfd = r->init_go = r->own_pidns = r->lazy_conn = -1;
	r->root_go[0] = r->root_go[1] = r->timens_fd = -1;
	ret = stages_run(op, stages, r);
	if (ret)
		return ret;
	*pid = r->pid;
	restore_lazy_done(r);
	files_restore_done(op, &r->s, true);
	ipc_done(op, &r->s, true);
	cgroups_done(op, &r->s, true);
	restore_pidns_done(r, true);
	restore_spawn_done(r);
	namespaces_leave(op, &r->s, true);
	write_stats(op, r);
	if (op->opts->auto_dedup && !op->opts->lazy_pages)
		restore_dedup(op, r);
	plan_undo(op, r);
	close_images(op, r);
	return 0;
}
