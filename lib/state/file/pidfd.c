/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of processes and threads. Those of the tree are opened again by the tasks, when what they are of exists. One
 * of a process that has ended and was waited for gets another that is made to end; how it ended can still be asked
 * (PIDFD_GET_INFO) and goes to our own file. Those of processes outside are refused: nothing of them is in the checkpoint.
 */
#include <asm/unistd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"
#include "lib/state/ns/ns.h"
#include "lib/state/pids.h"
#include "lib/state/task/plan_build.h"
#include "lib/state/ns/nested.h"

/* Dump: what has to wait until all tasks were looked at. */
struct pidfd_dump {
	struct fd_view view; /* without the copy */
	pid_t pid;
	PidfdExtra *extra;   /* may be NULL */
};

/* Restore: one of a thread of another task, which is there only when all tables are filled. */
struct pidfd_late {
	pid_t opener; /* the last task that was planned to open it, and the number it has there */
	uint32_t opener_fd;
};

static bool pidfd_match(const struct fd_view *v)
{
	return v->fs_magic == FS_PIDFS || strcmp(v->link, "anon_inode:[pidfd]") == 0;
}

/* ----------------------------------------------------------------------------------------------- dump half */

static int dump_end(struct op *op, const struct fd_view *v, struct snap_file *f, struct pidfd_dump *d)
{
	struct pidfd_info info = { .mask = PIDFD_INFO_EXIT };

	if (ioctl(v->copy, PIDFD_GET_INFO, &info) < 0 || !(info.mask & PIDFD_INFO_EXIT))
		return 0; /* before Linux 6.15 nobody could ask */
	d->extra = msg_new(op, PidfdExtra, pidfd_extra);
	if (!d->extra)
		return CKPT_E_NOMEM;
	d->extra->file_id = f->id;
	d->extra->exit_code = (uint32_t)info.exit_code;
	return 0;
}

static int pidfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	PidfdEntry *m = msg_new(op, PidfdEntry, pidfd_entry);
	struct pidfd_dump *d = op_new(op, struct pidfd_dump);
	struct proc_pidfd p;

	(void)s;
	if (!m || !d)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags & ~(uint32_t)O_ACCMODE;
	m->fown = file_fown(op, v);
	f->msg->pidfd = m;
	if (!m->fown)
		return CKPT_E_NOMEM;
	if (proc_parse_pidfd(v->info.rest, v->info.rest_len, &p) != 0)
		return file_refuse(op, v, "pidfd", NULL, "the kernel does not show whose it is");
	if (!p.pid)
		return file_refuse(op, v, "pidfd", NULL, "it is of a process in a pid namespace that cannot be seen from here");
	m->ino = (uint32_t)v->st.st_ino;
	m->nspid = p.pid < 0 ? -1 : pids_inside(v->pids, p.pid);
	d->view = *v;
	d->view.copy = -1;
	d->pid = p.pid;
	f->priv = d;
	return p.pid < 0 ? dump_end(op, v, f, d) : 0;
}

/* Dump. */
static bool in_tree(const struct snapshot *s, pid_t host)
{
	for (size_t i = 0; i < s->tasks.n; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		if (t->host == host)
			return true;
		for (size_t j = 0; j < t->threads.n; j++)
			if (t->threads.v[j].host == host)
				return true;
	}
	return false;
}

/* The task of which @tid is a thread, by numbers in the images. */
static const struct snap_task *task_of(const struct snapshot *s, pid_t tid)
{
	for (size_t i = 0; i < s->tasks.n; i++) {
		const struct snap_task *t = &s->tasks.v[i];

		if (t->pid == tid)
			return t;
		for (size_t j = 0; j < t->threads.n; j++)
			if (t->threads.v[j].tid == tid)
				return t;
	}
	return NULL;
}

static int pidfd_complete(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const struct pidfd_dump *d = f->priv;

		if (f->kind == &file_pidfd && d->pid > 0 && !in_tree(s, d->pid))
			return file_refuse(op, &d->view, "pidfd", "checkpoint both together, or have the program close it before",
					   "it is of process %d, which is outside of the tree", d->pid);
	}
	return 0;
}

static int pidfd_write(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const struct pidfd_dump *d = f->priv;

		if (f->kind != &file_pidfd || !d->extra)
			continue;
		if (!s->extra->pidfds)
			s->extra->pidfds = op_alloc(op, s->files.n * sizeof(*s->extra->pidfds));
		if (!s->extra->pidfds)
			return CKPT_E_NOMEM;
		s->extra->pidfds[s->extra->n_pidfds++] = d->extra;
	}
	return 0;
}

/* -------------------------------------------------------------------------------------------- restore half */

static uint32_t open_flags(const PidfdEntry *m)
{
	return m->flags & (O_NONBLOCK | PIDFD_THREAD);
}

static int failed(struct op *op, const struct snap_file *f)
{
	return op_errno(op, errno, AT(.kind = "pidfd"), "cannot make the ended process of pidfd id %u", f->id);
}

/* How the process ended that the descriptors with this number were of. */
static uint32_t end_of(const struct snapshot *s, uint32_t ino)
{
	for (size_t i = 0; s->extra && i < s->extra->n_pidfds; i++) {
		const struct snap_file *f = snapshot_file(s, s->extra->pidfds[i]->file_id);

		if (f && f->kind == &file_pidfd && f->msg->pidfd->ino == ino)
			return s->extra->pidfds[i]->exit_code;
	}
	return 0;
}

/* The child's part, in a copy of a program that we know nothing of. */
static _Noreturn void end_like(uint32_t code)
{
	const struct rlimit no_core = { 0, 0 };
	uint64_t none = 0;

	if (code & 0x7f) {
		setrlimit(RLIMIT_CORE, &no_core);
		syscall(__NR_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
		syscall(__NR_kill, syscall(__NR_getpid), code & 0x7f);
	}
	for (;;)
		syscall(__NR_exit_group, code >> 8 & 0xff);
}

/* Descriptors with one inode are of one process. */
static int open_all_of(struct op *op, struct snapshot *s, pid_t pid, uint32_t ino)
{
	for (size_t i = 0; i < s->files.n; i++) {
		struct snap_file *f = s->files.v[i];

		if (f->kind != &file_pidfd || f->msg->pidfd->nspid != -1 || f->msg->pidfd->ino != ino || f->fd >= 0)
			continue;
		f->fd = file_high(sys_pidfd_open(pid, open_flags(f->msg->pidfd)));
		if (f->fd < 0)
			return failed(op, f);
	}
	return 0;
}

static int open_ended(struct op *op, struct snapshot *s, struct snap_file *f)
{
	uint32_t ino = f->msg->pidfd->ino, code = end_of(s, ino);
	pid_t pid = ns_fork_as(s, 0, CLONE_CLEAR_SIGHAND);
	int r;

	if (pid == 0)
		end_like(code);
	if (pid < 0)
		return failed(op, f);
	r = open_all_of(op, s, pid, ino);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return r;
}

static int pidfd_open_file(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const PidfdEntry *m = f->msg->pidfd;
	const struct snap_task *t = m->nspid > 0 ? task_of(s, m->nspid) : NULL;

	f->priv = NULL;
	if (m->nspid == -1)
		return open_ended(op, s, f);
	if (!t)
		return image_bad(op, "files.img: pidfd id %u is of process %d, which is not in the images", f->id, m->nspid);
	if (t->pid == m->nspid || t->pid == snapshot_first_holder(s, f->id))
		return 0; /* by the first task that has it */
	f->priv = op_new(op, struct pidfd_late);
	f->fd = file_high(open("/dev/null", O_RDONLY | O_CLOEXEC));
	if (f->fd < 0)
		return op_errno(op, errno, AT(.kind = "pidfd"), "cannot open /dev/null");
	return f->priv ? 0 : CKPT_E_NOMEM;
}

static int plan_open(struct plan_build *b, const PidfdEntry *m, const FdinfoEntry *e, enum plan_phase phase)
{
	const char *what = arena_printf(b->op->arena, "fd %u: pidfd: open process %d", e->fd, m->nspid);
	pid_t seen = nested_seen(b->s, b->task, m->nspid);
	const struct plan_call c = {
		.nr = __NR_pidfd_open, .flags = PLAN_CALL_FD | (e->flags & FD_CLOEXEC ? PLAN_CALL_CLOEXEC : 0),
		.fd = (int32_t)e->fd, .args = { (uint64_t)seen, open_flags(m) },
	};

	if (!seen)
		return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, AT_FD(e->fd), .kind = "pidfd"),
			       "task %d: fd %u is of process %d, which it does not see from its PID namespace: not supported",
			       b->task->pid, e->fd, m->nspid);
	return what ? plan_call(b, phase, &c, what) : op_nomem(b->op);
}

static int plan_copy(struct plan_build *b, const struct pidfd_late *late, const FdinfoEntry *e)
{
	const char *what = arena_printf(b->op->arena, "fd %u: pidfd: copy descriptor %u", e->fd, late->opener_fd);
	const struct plan_call c = { .nr = __NR_dup3, .fd = -1,
				     .args = { late->opener_fd, e->fd, e->flags & FD_CLOEXEC ? O_CLOEXEC : 0 } };

	return what ? plan_call(b, PLAN_LINK, &c, what) : op_nomem(b->op);
}

/* Each task opens its own: such a descriptor has nothing that could be shared but O_NONBLOCK. */
static int plan_late(struct plan_build *b, const PidfdEntry *m, struct pidfd_late *late, const FdinfoEntry *e)
{
	if (late->opener == b->task->pid)
		return plan_copy(b, late, e);
	late->opener = b->task->pid;
	late->opener_fd = e->fd;
	return plan_open(b, m, e, PLAN_LINK);
}

static int pidfd_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first)
{
	const PidfdEntry *m = f->msg->pidfd;
	int r = 0;

	if (f->priv)
		r = plan_late(b, m, f->priv, e);
	else if (first && f->fd < 0)
		r = plan_open(b, m, e, PLAN_OPEN);
	return MIN(r, 0);
}

const struct file_kind file_pidfd = {
	.name = "pidfd",
	.type = FD_TYPES__PIDFD,
	.message = offsetof(FileEntry, pidfd),
	.match = pidfd_match,
	.dump = pidfd_dump,
	.complete = pidfd_complete,
	.write = pidfd_write,
	.open = pidfd_open_file,
	.plan = pidfd_plan,
};
