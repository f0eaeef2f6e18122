/* SPDX-License-Identifier: MIT */
/*
 * Restore: every description that a descriptor refers to is opened once, here, before any task exists; the tasks inherit
 * them. What the opening leaves on disk for a while (ghosts, second names) goes in files_restore_done().
 */
#include "lib/state/file/core.h"

/* A library must not keep what it took: the limit is put back as soon as the tree exists. */
static void raise_limit(struct op *op, struct file_state *fs, size_t n)
{
	struct rlimit want;

	if (getrlimit(RLIMIT_NOFILE, &fs->old_limit) < 0 || fs->old_limit.rlim_cur > n + 256)
		return;
	want = fs->old_limit;
	if (want.rlim_max < n + 256) { /* as far as we may */
		want.rlim_cur = want.rlim_max = n + 256;
		fs->limit_raised = setrlimit(RLIMIT_NOFILE, &want) == 0;
	}
	if (fs->limit_raised)
		return;
	want.rlim_cur = want.rlim_max = fs->old_limit.rlim_max;
	fs->limit_raised = setrlimit(RLIMIT_NOFILE, &want) == 0;
	if (want.rlim_cur < n + 64)
		log_warn(op, "the checkpoint has %zu open files, the limit of this process is %lu", n,
			 (unsigned long)want.rlim_cur);
}

int file_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	int r;

	if (f->fd >= 0)
		return 0;
	if (!f->kind)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "descriptor"),
			       "files.img: id %u: descriptors of type %d are not supported yet", f->id, (int)f->msg->type);
	r = op_check_cancel(op);
	return r ? r : f->kind->open(op, s, f);
}

static int open_task(struct op *op, struct snapshot *s, const struct snap_task *t)
{
	for (size_t i = 0; i < t->fds.n; i++) {
		int r = file_open(op, s, snapshot_file(s, t->fds.v[i]->id));

		if (r)
			return op_wrap(op, r, "task %d: fd %u", t->pid, t->fds.v[i]->fd);
	}
	return 0;
}

/* What we kept of pipes for those that were not opened yet: from here on an end nobody has is closed. */
static void close_ends(struct file_state *fs)
{
	for (size_t i = 0; i < fs->all_ends.n; i++) {
		close_fd_p(&fs->all_ends.v[i]->r);
		close_fd_p(&fs->all_ends.v[i]->w);
	}
	fs->all_ends.n = 0;
}

/* For ours, and for the tasks, which inherit the limit and use the numbers that the program had. */
static size_t descriptors_needed(const struct snapshot *s)
{
	/* of each task its plan, its pages, and what it maps that nobody else does */
	size_t n = s->files.n + s->shmems.n + 2 * s->pipes.n + 4 * s->tasks.n, highest = 0;

	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].fds.n)
			highest = MAX(highest, (size_t)s->tasks.v[i].fds.v[s->tasks.v[i].fds.n - 1]->fd);
	/* Pseudo terminals get their numbers by holding all that are lower. */
	for (size_t i = 0; i < s->ttys.n; i++)
		if (s->ttys.v[i]->pty)
			highest = MAX(highest, (size_t)s->ttys.v[i]->pty->index);
	return n + highest;
}

int files_open(struct op *op, struct snapshot *s)
{
	int r;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	raise_limit(op, s->file_state, descriptors_needed(s));
	r = inherit_check(op);
	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = shmem_create(op, s, s->shmems.v[i]);
	for (size_t i = 0; !r && i < s->tasks.n; i++)
		r = open_task(op, s, &s->tasks.v[i]);
	r = r ? r : locks_apply(op, s);
	close_ends(s->file_state);
	return r;
}

static int not_a_file(struct op *op, uint32_t id, const char *what)
{
	return image_bad(op, "the %s refers to file id %u, which is no file of files.img", what, id);
}

/* The rings of a packet socket, which no task may have a descriptor of any more. */
static int open_ring(struct op *op, struct snapshot *s, struct snap_file *f, int *fd)
{
	int r = file_open(op, s, f);

	if (r)
		return r;
	*fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	return *fd < 0 ? op_errno(op, errno, AT(.kind = "packet socket"), "copy the descriptor of a packet socket") : 0;
}

static int open_mapping(struct op *op, struct snapshot *s, uint32_t id, uint32_t fdflags, int *fd)
{
	const struct reg_how how = { .flags = fdflags & O_ACCMODE, .special = S_IFCHR };
	struct snap_file *f = snapshot_file(s, id);
	const struct snap_shmem *sh;

	if (!f || !files_state(op, s))
		return not_a_file(op, id, "mapping");
	if (f->msg->type == FD_TYPES__REG)
		return reg_open_as(op, s, f, &how, fd);
	if (f->msg->type == FD_TYPES__PACKETSK)
		return open_ring(op, s, f, fd);
	if (f->msg->type != FD_TYPES__MEMFD)
		return not_a_file(op, id, "mapping");
	sh = shmem_of(s, f->msg->memfd->inode_id);
	if (!sh || sh->fd < 0)
		return image_bad(op, "a mapping refers to shared memory object %u, which does not exist",
				 f->msg->memfd->inode_id);
	*fd = file_high(file_reopen(sh->fd, (int)how.flags));
	if (*fd < 0)
		return op_errno(op, errno, AT(.kind = "shared memory"), "cannot open %s", sh->msg->name);
	return 0;
}

static int open_special(struct op *op, struct snapshot *s, uint32_t id, const char *what, int *fd)
{
	bool exe = strcmp(what, "exe") == 0;
	const struct reg_how how = { .flags = exe ? O_RDONLY : O_PATH | O_DIRECTORY };
	struct snap_file *f = snapshot_file(s, id);

	if (!f || !files_state(op, s))
		return not_a_file(op, id, what);
	if (exe && f->msg->type == FD_TYPES__MEMFD)
		return open_mapping(op, s, id, O_RDONLY, fd);
	if (f->msg->type != FD_TYPES__REG)
		return not_a_file(op, id, what);
	return op_wrap(op, reg_open_as(op, s, f, &how, fd), "%s", what);
}

/* What one task needs others mostly need, too: each is opened, and checked against the image, once. */
static struct shared_fd *shared_fd(struct op *op, struct snapshot *s, uint32_t id, uint64_t how)
{
	struct shared_fd *fd = index_find(&s->file_state->shared, KEY(id, how)), **slot;

	if (fd)
		return fd;
	fd = op_new(op, struct shared_fd);
	slot = fd ? ARRAY_ADD(op->arena, &s->file_state->all_shared) : NULL;
	if (!slot || index_add(op, &s->file_state->shared, KEY(id, how), fd))
		return NULL;
	fd->fd = -1;
	*slot = fd;
	return fd;
}

#define HOW_SPECIAL (1ull << 32)

int files_open_mapping(struct op *op, struct snapshot *s, uint32_t id, uint32_t fdflags, int *fd)
{
	struct shared_fd *shared = files_state(op, s) ? shared_fd(op, s, id, fdflags) : NULL;
	int r = 0;

	if (!shared)
		return CKPT_E_NOMEM;
	if (shared->fd < 0)
		r = open_mapping(op, s, id, fdflags, &shared->fd);
	*fd = shared->fd;
	return r;
}

int files_open_special(struct op *op, struct snapshot *s, uint32_t id, const char *what, int *fd)
{
	/* cwd and root are opened alike */
	uint64_t how = HOW_SPECIAL | (strcmp(what, "exe") == 0);
	struct shared_fd *shared = files_state(op, s) ? shared_fd(op, s, id, how) : NULL;
	int r = 0;

	if (!shared)
		return CKPT_E_NOMEM;
	if (shared->fd < 0)
		r = open_special(op, s, id, what, &shared->fd);
	*fd = shared->fd;
	return r;
}

/* Names that go whatever happens go before anybody looks on. */
static void remove_temporary(struct op *op, struct file_state *fs)
{
	struct file_state gone = { 0 };
	size_t n = 0;

	for (size_t i = 0; i < fs->made.n; i++) {
		const struct made_name m = fs->made.v[i];
		struct made_name *slot = m.only_on_failure || m.only_on_success ? NULL : ARRAY_ADD(op->arena, &gone.made);

		if (slot)
			*slot = m;
		else
			fs->made.v[n++] = m;
	}
	fs->made.n = n;
	files_remove_made(op, &gone, true);
}

int files_settle(struct op *op, struct snapshot *s)
{
	int r = 0;

	if (!s->file_state)
		return 0;
	remove_temporary(op, s->file_state);
	for (size_t i = 0; !r && file_kinds[i]; i++)
		r = file_kinds[i]->settle ? file_kinds[i]->settle(op, s) : 0;
	return r;
}

int files_open_up(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->file_state && !r && file_kinds[i]; i++)
		r = file_kinds[i]->open_up ? file_kinds[i]->open_up(op, s) : 0;
	return r;
}

void files_restore_done(struct op *op, struct snapshot *s, bool success)
{
	struct file_state *fs = s->file_state;

	if (!fs)
		return;
	close_ends(fs);
	files_kinds_done(op, s, success);
	for (size_t i = 0; i < s->files.n; i++) {
		close_fd_p(&s->files.v[i]->fd);
		s->files.v[i]->fd = -1;
	}
	for (size_t i = 0; i < fs->all_shared.n; i++) {
		close_fd_p(&fs->all_shared.v[i]->fd);
		fs->all_shared.v[i]->fd = -1;
	}
	for (size_t i = 0; i < s->shmems.n; i++)
		shmem_done(op, s->shmems.v[i], success);
	for (size_t i = 0; i < fs->held.n; i++)
		close_fd_p(&fs->held.v[i]);
	fs->held.n = 0;
	files_remove_made(op, fs, success);
	if (fs->limit_raised)
		setrlimit(RLIMIT_NOFILE, &fs->old_limit);
	fs->limit_raised = false;
}
