// SPDX-License-Identifier: MIT
/*
 * How an operation begins and ends: here the promises about sized structs are kept, so that the rest of the library
 * sees complete, checked options and never asks how old its caller is.
 */
#include "lib/api/ctx.h"

#include <signal.h>
#include <time.h>

/* op->stats points into this; the caller's struct, of whatever size, is filled at the end. */
struct stats_box {
	struct ckpt_stats stats;
	struct ckpt_stats *caller;
};

static bool is_zero(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const unsigned char *)p)[i])
			return false;
	return true;
}

static int copy_opts(struct op *op, const struct ckpt_opts *from, struct ckpt_opts *to)
{
	size_t known = sizeof(*to);

	if (!from)
		return 0;
	if (from->sz < sizeof(from->sz))
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "start from CKPT_OPTS_INIT"),
			       "the field sz of struct ckpt_opts is not set");
	if (from->sz > known && !is_zero((const char *)from + known, from->sz - known))
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "use the libckpt that the program was made for, or newer"),
			       "the program sets options that this libckpt (%s) does not know", ckpt_version());
	memcpy(to, from, MIN(from->sz, known));
	to->sz = known;
	return 0;
}

static int check_strv(struct op *op, const struct ckpt_strv *strv, const char *name)
{
	if (strv->n && !strv->v)
		return op_fail(op, CKPT_E_INVAL, NULL, "the list of option --%s is NULL", name);
	for (size_t i = 0; i < strv->n; i++)
		if (!strv->v[i])
			return op_fail(op, CKPT_E_INVAL, NULL, "entry %zu of option --%s is NULL", i, name);
	return 0;
}

/* A resource of a kind that nothing looks for would be dumped, or missed, without a word. */
int op_check_external(struct op *op, const struct ckpt_strv *external)
{
	static const char *const kinds[] = {
		"file[", "tty[", "shm[", "shmem[", "sem-undo[", "unix[", "mnt[", "dev[", "net[", "pid[", "veth[", "macvlan[", "netdev[",
	};

	for (size_t i = 0; i < external->n; i++) {
		const char *res = external->v[i];
		bool known = false;

		/* LXC says so where a container has no console. */
		if (strcmp(res, "console:") == 0)
			continue;
		for (size_t j = 0; j < ARRAY_SIZE(kinds); j++)
			known = known || strncmp(res, kinds[j], strlen(kinds[j])) == 0;
		if (!known || !strchr(res, ']'))
			return op_fail(op, CKPT_E_INVAL, AT(.kind = "external", .hint = "mnt[PLACE]:KEY, net[INODE]:KEY, file[MNT:INODE], tty[RDEV:DEV], unix[INODE]... (see ckpt(1))"),
				       "option --external %s: not understood", res);
	}
	return 0;
}

/* What makes no sense whatever the operation is. */
static int check_opts(struct op *op, const struct ckpt_opts *o)
{
	int r;

	if ((unsigned)o->pid_method > CKPT_PID_NS_LAST_PID)
		return op_fail(op, CKPT_E_INVAL, NULL, "%d is not a method to choose PIDs", (int)o->pid_method);
	if ((unsigned)o->file_validation > CKPT_VALIDATE_FILESIZE)
		return op_fail(op, CKPT_E_INVAL, NULL, "%d is not a way to validate files", (int)o->file_validation);
	if ((unsigned)o->io_policy > CKPT_IO_NONE)
		return op_fail(op, CKPT_E_INVAL, NULL, "%d is not a policy to share the disk", (int)o->io_policy);
	if ((unsigned)o->pre_dump_mode > CKPT_PRE_DUMP_READ)
		return op_fail(op, CKPT_E_INVAL, NULL, "%d is not a way to read memory", (int)o->pre_dump_mode);
	if (o->port > UINT16_MAX)
		return op_fail(op, CKPT_E_INVAL, NULL, "option --port: %u is no port", o->port);
	if (o->ps_socket < -1 || o->status_fd < -1)
		return op_fail(op, CKPT_E_INVAL, NULL, "option --%s: %u is no descriptor",
			       o->ps_socket < -1 ? "ps-socket" : "status-fd",
			       (unsigned)(o->ps_socket < -1 ? o->ps_socket : o->status_fd));
	r = check_strv(op, &o->external, "external");
	r = r ?: op_check_external(op, &o->external);
	r = r ?: check_strv(op, &o->irmap_scan_path, "irmap-scan-path");
	r = r ?: check_strv(op, &o->action_script, "action-script");
	return r ?: check_strv(op, &o->inherit_fd, "inherit-fd");
}

static int begin_stats(struct op *op, struct ckpt_stats *caller)
{
	struct stats_box *box = op_new(op, struct stats_box);

	if (!box)
		return CKPT_E_NOMEM;
	box->stats.sz = sizeof(box->stats);
	op->stats = &box->stats;
	if (caller && caller->sz < sizeof(caller->sz))
		return op_fail(op, CKPT_E_INVAL, NULL, "the field sz of struct ckpt_stats is not set");
	box->caller = caller;
	return 0;
}

/*
 * Writing beyond RLIMIT_FSIZE or to a pipe nobody reads would end the program that uses the library, with its target
 * frozen. Both signals go to the thread that writes: blocked there (and in the threads an operation starts, which inherit
 * the mask), what is left is the error of the call. Changing their disposition would concern the whole program.
 */
static void error_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGXFSZ);
	sigaddset(set, SIGPIPE);
}

static void mask_error_signals(struct op *op)
{
	sigset_t set;

	error_signals(&set);
	sigpending(&op->old_pending);
	op->masked = pthread_sigmask(SIG_BLOCK, &set, &op->old_mask) == 0;
}

/* What became pending in the meantime is ours; what was before, or is blocked for another reason, stays. */
static void unmask_error_signals(struct op *op)
{
	static const int signals[] = { SIGXFSZ, SIGPIPE };
	const struct timespec now = { 0 };
	sigset_t set;

	if (!op->masked)
		return;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		if (!sigismember(&op->old_pending, signals[i]))
			sigaddset(&set, signals[i]);
	while (sigtimedwait(&set, NULL, &now) > 0)
		;
	pthread_sigmask(SIG_SETMASK, &op->old_mask, NULL);
	op->masked = false;
}

int op_begin(struct op *op, struct ckpt_ctx *ctx, const struct ckpt_opts *opts, struct ckpt_stats *stats)
{
	struct ckpt_opts *own;
	int r;

	*op = (struct op){ .log = ctx->log, .progress = ctx->progress, .events = ctx->events, .cancel = &ctx->cancel,
			   .features = ctx->features, .trackings = &ctx->trackings };
	mask_error_signals(op);
	op->arena = arena_new();
	if (!op->arena)
		return op_nomem(op);
	own = op_new(op, struct ckpt_opts);
	if (!own)
		return CKPT_E_NOMEM;
	*own = (struct ckpt_opts)CKPT_OPTS_INIT;
	op->opts = own;
	r = begin_stats(op, stats);
	r = r ?: copy_opts(op, opts, own);
	r = r ?: check_opts(op, own);
	if (r)
		return r;
	r = events_begin(op);
	if (r)
		return r;
	op->fault_stage = own->fault_stage;
	if (own->timeout) {
		op->timeout_s = own->timeout;
		op->deadline_ns = now_ns() + own->timeout * 1000000000ull;
	}
	return op_check_cancel(op);
}

static void give_stats(const struct stats_box *box)
{
	struct ckpt_stats *to = box->caller;
	size_t sz = to->sz, known = MIN(sz, sizeof(*to)), max;

	memcpy(to, &box->stats, known);
	if (sz > known)
		memset((char *)to + known, 0, sz - known);
	to->sz = sz;
	if (known < offsetof(struct ckpt_stats, stages))
		return;
	max = (known - offsetof(struct ckpt_stats, stages)) / sizeof(to->stages[0]);
	to->n_stages = MIN(to->n_stages, max);
}

/* Both columns only of stages that moved memory. */
static void log_row(struct op *op, const char *name, uint64_t us, uint64_t bytes, bool frozen)
{
	char row[96];
	int n = snprintf(row, sizeof(row), "%-24s %12.3f", name, us / 1e3);

	if (bytes)
		n += snprintf(row + n, sizeof(row) - n, " %10.1f %9.0f", (double)bytes / (1 << 20),
			      us ? (double)bytes / (1 << 20) * 1e6 / (double)us : 0);
	if (frozen)
		snprintf(row + n, sizeof(row) - n, "%*s", bytes ? 8 : 29, "frozen");
	log_msg(op, "%s", row);
}

static void log_count(struct op *op, const char *name, uint64_t n)
{
	if (n)
		log_msg(op, "%-24s %12lu", name, n);
}

static void log_stats(struct op *op)
{
	const struct ckpt_stats *s = op->stats;

	log_msg(op, "%-24s %12s %10s %9s", "stage", "ms", "MiB", "MiB/s");
	for (size_t i = 0; i < MIN(s->n_stages, ARRAY_SIZE(s->stages)); i++)
		log_row(op, s->stages[i].name, s->stages[i].us, s->stages[i].bytes, s->stages[i].frozen);
	log_row(op, "total", s->total_us, op->moved.bytes_done, false);
	if (s->frozen_us)
		log_row(op, "  of it frozen", s->frozen_us, 0, false);
	if (s->memwrite_us)
		log_row(op, "  of it pages", s->memwrite_us, 0, false);
	if (s->waited_us)
		log_row(op, "  of it waiting", s->waited_us, 0, false);
	log_count(op, "pages scanned", s->pages_scanned);
	log_msg(op, "%-24s %12lu", "pages", s->pages_written);
	log_count(op, "pages in the parent", s->pages_skipped_parent);
	log_count(op, "shared pages", s->shpages_written);
	log_count(op, "bytes of images", s->image_bytes);
	if (s->snapshot)
		log_msg(op, "The tree ran while its memory was written, from a snapshot.");
}

int op_end(struct op *op, int r, struct ckpt_err **err)
{
	if (op->stats) {
		struct stats_box *box = (struct stats_box *)op->stats;

		if (op->opts->display_stats && box->stats.n_stages)
			log_stats(op);
		if (box->caller)
			give_stats(box);
	}
	if (r < 0 && !op->err)
		op_fail(op, r, NULL, "%s", ckpt_code_name(r));
	if (r < 0 && err)
		*err = TAKE_PTR(op->err);
	events_end(op);
	ckpt_err_free(op->err);
	op->arena = arena_free(op->arena);
	unmask_error_signals(op);
	return r;
}
