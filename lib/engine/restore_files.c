/* SPDX-License-Identifier: MIT */
/*
 * Descriptors: from the snapshot to the plan. Every open file description is already open in the engine, under some
 * number; the new task inherits it there and moves it to where the program has it. The moves are worked out here, so that
 * none overwrites a descriptor that is still needed.
 */
#include <fcntl.h>

#include "lib/engine/restore_parts.h"
#include "lib/state/file/file.h"

#define MAX_FD (1u << 20)
#define LOCK_POSIX_FLAG 1

struct moves {
	int *at;   /* [source number] -> where it is now */
	int *want; /* [number] -> how many moves still read it */
	size_t n;  /* of both */
	struct plan_fdop *ops;
	size_t n_ops;
};

static int bad_fd(struct plan_build *b, uint32_t fd, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, AT_FD((int)fd), .kind = "fdinfo"),
		       "fd %u of task %d: %s", fd, b->task->pid, what);
}

static int by_fd(const void *a, const void *b)
{
	const FdinfoEntry *x = *(FdinfoEntry *const *)a, *y = *(FdinfoEntry *const *)b;

	return x->fd < y->fd ? -1 : x->fd > y->fd;
}

static struct snap_file *file_of(struct plan_build *b, const FdinfoEntry *e)
{
	return snapshot_file(b->s, e->id);
}

static int check_fds(struct plan_build *b, int *highest)
{
	struct snap_task *t = b->task;

	qsort(t->fds.v, t->fds.n, sizeof(*t->fds.v), by_fd);
	for (size_t i = 0; i < t->fds.n; i++) {
		const FdinfoEntry *e = t->fds.v[i];
		const struct snap_file *f = file_of(b, e);

		if (e->fd >= MAX_FD || (i && t->fds.v[i - 1]->fd == e->fd))
			return bad_fd(b, e->fd, "the number is out of range, or is there twice");
		if (!f || f->fd < 0)
			return bad_fd(b, e->fd, "what it refers to is not in the image");
		*highest = MAX(*highest, MAX((int)e->fd, f->fd));
	}
	return 0;
}

static void add_op(struct moves *m, int from, int to, bool cloexec)
{
	m->ops[m->n_ops++] = (struct plan_fdop){ from, to, cloexec };
}

/*
 * A target that is the source of a move still to come is first copied out of the way, to a number above all others; from
 * then on that copy is the source. Each source is so moved at most once.
 */
static int order_moves(struct plan_build *b, struct moves *m, int spare)
{
	const struct snap_task *t = b->task;

	for (size_t i = 0; i < t->fds.n; i++)
		m->want[file_of(b, t->fds.v[i])->fd]++;
	for (size_t i = 0; i < t->fds.n; i++) {
		const FdinfoEntry *e = t->fds.v[i];
		int source = file_of(b, e)->fd, to = (int)e->fd;

		m->want[source]--;
		if (to != source && m->want[to] && m->at[to] == to) {
			add_op(m, to, spare, true);
			m->at[to] = spare++;
		}
		add_op(m, m->at[source], to, e->flags & FD_CLOEXEC);
	}
	return 0;
}

static int plan_moves(struct plan_build *b)
{
	struct snap_task *t = b->task;
	struct moves m = { 0 };
	struct plan_array ops, keep;
	int32_t *kept;
	int highest = 0, r = check_fds(b, &highest);

	if (r)
		return r;
	for (size_t i = 0; i < b->inherit.n; i++)
		highest = MAX(highest, b->inherit.v[i]);
	m.n = (size_t)highest + 1;
	m.at = op_alloc(b->op, m.n * sizeof(int));
	m.want = op_alloc(b->op, m.n * sizeof(int));
	m.ops = op_alloc(b->op, (2 * t->fds.n + 1) * sizeof(*m.ops));
	kept = op_alloc(b->op, (t->fds.n + 1) * sizeof(*kept));
	if (!m.at || !m.want || !m.ops || !kept)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < m.n; i++)
		m.at[i] = (int)i;
	order_moves(b, &m, highest + 1);
	for (size_t i = 0; i < t->fds.n && !r; i++) {
		kept[i] = (int32_t)t->fds.v[i]->fd;
		r = plan_inherit(b, file_of(b, t->fds.v[i])->fd, false);
	}
	r = r ?: plan_put_array(b, m.ops, m.n_ops, sizeof(*m.ops), &ops);
	r = r ?: plan_put_array(b, kept, t->fds.n, sizeof(*kept), &keep);
	if (r)
		return r;
	PLAN(b)->fdops = ops;
	PLAN(b)->keep = keep;
	return 0;
}

static int plan_owners(struct plan_build *b)
{
	const struct snap_task *t = b->task;
	struct plan_fown *v = op_alloc(b->op, (t->fds.n + 1) * sizeof(*v));
	const struct snap_file *last = NULL;
	struct plan_array arr;
	size_t n = 0;
	int r;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < t->fds.n; i++) {
		const struct snap_file *f = file_of(b, t->fds.v[i]);
		const FownEntry *o = files_fown(b->s, f);

		if (!o || f == last)
			continue;
		last = f;
		if (o->signum > 64 || o->pid_type > 2)
			return bad_fd(b, t->fds.v[i]->fd, "its owner makes no sense");
		v[n++] = (struct plan_fown){ (int32_t)t->fds.v[i]->fd, o->uid, o->euid, o->signum, o->pid_type, (int32_t)o->pid };
	}
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->fowns = arr;
	return r;
}

/* POSIX locks belong to the task; the others were taken when the descriptions were opened. */
static int plan_locks(struct plan_build *b)
{
	const struct snapshot *s = b->s;
	struct plan_lock *v = op_alloc(b->op, (s->locks.n + 1) * sizeof(*v));
	struct plan_array arr;
	size_t n = 0;
	int r;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->locks.n; i++) {
		const FileLockEntry *e = s->locks.v[i];

		if (e->flag == LOCK_POSIX_FLAG)
			v[n++] = (struct plan_lock){ .fd = e->fd, .type = (int32_t)e->type, .start = e->start, .len = e->len };
	}
	r = plan_put_array(b, v, n, sizeof(*v), &arr);
	PLAN(b)->locks = arr;
	return r;
}

static int plan_folders(struct plan_build *b)
{
	const FsEntry *fs = b->task->fs;
	const struct snap_file *root = snapshot_file(b->s, fs->root_id);
	bool chrooted = !root || !root->msg->reg || strcmp(root->msg->reg->name, "/");
	int fd, r;

	PLAN(b)->umask = fs->has_umask ? fs->umask & 0777 : 022;
	PLAN(b)->root_fd = -1;
	r = files_open_special(b->op, b->s, fs->cwd_id, "cwd", &fd);
	r = r ?: plan_inherit(b, fd, true);
	if (r)
		return r;
	PLAN(b)->cwd_fd = fd;
	if (!chrooted)
		return 0;
	r = files_open_special(b->op, b->s, fs->root_id, "root", &fd);
	r = r ?: plan_inherit(b, fd, true);
	if (!r)
		PLAN(b)->root_fd = fd;
	return r;
}

int plan_files(struct plan_build *b)
{
	int r = plan_folders(b);

	r = r ?: plan_owners(b);
	r = r ?: plan_locks(b);
	return r ?: plan_moves(b);
}
