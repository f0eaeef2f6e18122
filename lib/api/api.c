// SPDX-License-Identifier: MIT
/* The public operations: begin, let the engine do it, end. */
#include "lib/api/ctx.h"

#include "lib/engine/check.h"
#include "lib/engine/cpuinfo.h"
#include "lib/engine/dedup.h"
#include "lib/engine/dump.h"
#include "lib/engine/inspect.h"
#include "lib/engine/lazy_pages.h"
#include "lib/engine/lock.h"
#include "lib/engine/page_server.h"
#include "lib/engine/restore.h"
#include "lib/engine/verify.h"
#include "lib/kernel/features.h"

static void forget_err(struct ckpt_err **err)
{
	if (err)
		*err = NULL;
}

static int check_dump_opts(struct op *op)
{
	const struct ckpt_opts *o = op->opts;

	if (o->leave_running && o->leave_stopped)
		return op_fail(op, CKPT_E_INVAL, NULL, "--leave-running and --leave-stopped exclude each other");
	if (o->lazy_pages)
		return op_fail(op, CKPT_E_NOT_YET, NULL, "option --lazy-pages of a dump is not implemented yet");
	if (o->compress && o->page_server)
		return op_fail(op, CKPT_E_INVAL, NULL, "--compress and --page-server exclude each other: a page server gets pages as they are");
	if (o->no_sync && !o->leave_running)
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "add --leave-running"),
			       "--no-sync would kill a program whose only copy is not on stable storage");
	return 0;
}

int ckpt_dump(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, struct ckpt_stats *stats,
	      struct ckpt_err **err)
{
	uint64_t begin = now_ns();
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, stats);
	if (!r && pid <= 0)
		r = op_fail(&op, CKPT_E_INVAL, NULL, "%d is not a process ID", (int)pid);
	r = r ?: check_dump_opts(&op);
	r = r ?: dump_run(&op, pid);
	if (op.stats)
		op.stats->total_us = (now_ns() - begin) / 1000;
	return op_end(&op, r, err);
}

int ckpt_pre_dump(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, struct ckpt_stats *stats,
		  struct ckpt_err **err)
{
	uint64_t begin = now_ns();
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, stats);
	if (!r && pid <= 0)
		r = op_fail(&op, CKPT_E_INVAL, NULL, "%d is not a process ID", (int)pid);
	r = r ?: predump_run(&op, pid);
	if (op.stats)
		op.stats->total_us = (now_ns() - begin) / 1000;
	return op_end(&op, r, err);
}

int ckpt_dedup(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, uint64_t *freed, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: dedup_run(&op, freed);
	return op_end(&op, r, err);
}

int ckpt_dump_self(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	if (!r && op.opts->leave_stopped)
		r = op_fail(&op, CKPT_E_INVAL, NULL,
			    "a process that checkpoints itself runs on: leave_stopped is not possible");
	r = r ?: dump_self_run(&op);
	return op_end(&op, r, err);
}

int ckpt_restore(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, pid_t *pid, struct ckpt_stats *stats,
		 struct ckpt_err **err)
{
	uint64_t begin = now_ns();
	pid_t root = 0;
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, stats);
	if (!r && op.opts->record_faults && !op.opts->lazy_pages)
		r = op_fail(&op, CKPT_E_INVAL, AT(.hint = "add --lazy-pages"), "--record-faults is for lazy restores");
	if (!r && op.opts->network_lock)
		log_warn(&op, "--network-lock has no effect on a restore: it goes by what the dump did");
	r = r ?: restore_run(&op, &root);
	if (op.stats)
		op.stats->total_us = (now_ns() - begin) / 1000;
	if (!r && pid)
		*pid = root;
	return op_end(&op, r, err);
}

int ckpt_page_server(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, ckpt_ready_fn ready, void *arg,
		     struct ckpt_stats *stats, struct ckpt_err **err)
{
	uint64_t begin = now_ns();
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, stats);
	r = r ?: page_server_run(&op, ready, arg);
	if (op.stats)
		op.stats->total_us = (now_ns() - begin) / 1000;
	return op_end(&op, r, err);
}

int ckpt_lazy_pages(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, ckpt_ready_fn ready, void *arg,
		    struct ckpt_stats *stats, struct ckpt_err **err)
{
	uint64_t begin = now_ns();
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, stats);
	r = r ?: lazy_pages_run(&op, ready, arg);
	if (op.stats)
		op.stats->total_us = (now_ns() - begin) / 1000;
	return op_end(&op, r, err);
}

int ckpt_lock(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, uint64_t *n, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: lock_run(&op, n);
	return op_end(&op, r, err);
}

int ckpt_unlock(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, const char *id, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: unlock_run(&op, id);
	return op_end(&op, r, err);
}

int ckpt_locks(struct ckpt_ctx *ctx, ckpt_lock_fn fn, void *arg, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, NULL, NULL);
	r = r ?: locks_run(&op, fn, arg);
	return op_end(&op, r, err);
}

int ckpt_check_task(struct ckpt_ctx *ctx, pid_t pid, const struct ckpt_opts *opts, ckpt_obstacle_fn fn, void *arg,
		    struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	if (!r && pid <= 0)
		r = op_fail(&op, CKPT_E_INVAL, NULL, "%d is not a process ID", (int)pid);
	r = r ?: check_task_run(&op, pid, fn, arg);
	return op_end(&op, r, err);
}

int ckpt_check_kernel(struct ckpt_ctx *ctx, ckpt_feature_fn fn, void *arg, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, NULL, NULL);
	r = r ?: features_run(&op, fn, arg);
	return op_end(&op, r, err);
}

static int cpuinfo(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, int (*run)(struct op *op), struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: run(&op);
	return op_end(&op, r, err);
}

int ckpt_cpuinfo_dump(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err)
{
	return cpuinfo(ctx, opts, cpuinfo_dump_run, err);
}

int ckpt_cpuinfo_check(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_err **err)
{
	return cpuinfo(ctx, opts, cpuinfo_check_run, err);
}

int ckpt_inspect(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, char **json, struct ckpt_err **err)
{
	struct op op;
	int r;

	forget_err(err);
	*json = NULL;
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: inspect_run(&op, json);
	return op_end(&op, r, err);
}

int ckpt_verify(struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_verify_stats *stats, ckpt_damage_fn fn,
		void *arg, struct ckpt_err **err)
{
	struct ckpt_verify_stats own = { 0 };
	uint64_t begin = now_ns();
	size_t sz = stats ? stats->sz : 0;
	struct op op;
	int r;

	forget_err(err);
	r = op_begin(&op, ctx, opts, NULL);
	r = r ?: verify_run(&op, &own, fn, arg);
	own.us = (now_ns() - begin) / 1000;
	if (stats) {
		memset(stats, 0, sz);
		memcpy(stats, &own, MIN(sz, sizeof(own)));
		if (sz >= sizeof(stats->sz))
			stats->sz = sz;
	}
	return op_end(&op, r, err);
}
