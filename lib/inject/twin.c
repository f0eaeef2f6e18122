/* SPDX-License-Identifier: MIT */
#include "lib/inject/twin.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/inject/sud.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#define ERESTARTNOINTR 513 /* Linux-internal: a signal came, the call is to be made again */
#define CLONE_ROUNDS 16
#define REAP_PATIENCE_NS 5000000000u
#define PLAIN_FRAME 448 /* without an extended state */

/*
 * What the clone needs in the target's memory, in the last part of the scratch pages. The child's stack pointer is at @frame:
 * should nobody hold it when it starts (we were killed in that instant), `ret` leads it to rt_sigreturn and that to exit_group,
 * and not to the program.
 */
struct twin_block {
	struct clone_args args;
	int32_t number; /* the kernel writes it before the child exists for anybody; the guardian reads it */
	char root[4];
	_Alignas(16) uint8_t frame[PLAIN_FRAME];
};

static uint64_t block_addr(const struct gadgets *g)
{
	return g->scratch + SIGFRAME_MAX - ALIGN_UP(sizeof(struct twin_block), (size_t)16);
}

/* ------------------------------------------------------------------------------------------------- the clone */

/* Children of a process may be of another PID namespace: the twin would be its init, and its end that of the namespace. */
static bool children_go_elsewhere(pid_t pid)
{
	struct stat own, children;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	if (stat(path, &own) < 0)
		return false; /* this kernel has none */
	snprintf(path, sizeof(path), "/proc/%d/ns/pid_for_children", pid);
	return stat(path, &children) < 0 || own.st_ino != children.st_ino || own.st_dev != children.st_dev;
}

static const char *obstacle(const struct target *t, const struct gadgets *g)
{
	const struct tracee *tr = &t->threads.v[0];

	if (!g->sigreturn || !g->scratch)
		return "no signal return code of its own was found in it, so that a call in it would not be safe";
	if (PLAIN_FRAME + 64 + tr->xstate_len + sizeof(uint32_t) > block_addr(g) - g->scratch)
		return "its registers take too much room on its stack";
	if (children_go_elsewhere(t->pid))
		return "its children go to another PID namespace";
	return NULL;
}

static int fill_block(struct op *op, const struct target *t, const struct gadgets *g, bool shares, struct twin_block *b)
{
	uint64_t at = block_addr(g);
	struct user_regs_struct last = t->threads.v[0].regs;

	last.rip = g->syscall_ret;
	last.rax = SYS_exit_group;
	last.rdi = 0;
	last.rsp = at;
	*b = (struct twin_block){
		.args = {
			.flags = CLONE_FILES | CLONE_CLEAR_SIGHAND | CLONE_PARENT_SETTID | (shares ? CLONE_VM : 0),
			.parent_tid = at + offsetof(struct twin_block, number),
			.stack = at,
			.stack_size = offsetof(struct twin_block, frame),
		},
		.root = "/",
	};
	if (sigframe_build(b->frame, sizeof(b->frame), at + offsetof(struct twin_block, frame), g->sigreturn, &last, NULL, 0, ~0ull))
		return 0;
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->pid), "a frame for the twin of task %d does not fit", t->pid);
}

static struct journal_twin *note(struct journal *j, const struct target *t, const struct gadgets *g)
{
	uint32_t n = j ? atomic_load(&j->n_twins) : JOURNAL_TWINS;
	struct journal_twin *e;

	if (n >= JOURNAL_TWINS)
		return NULL;
	e = &j->twins[n];
	e->owner = (struct journal_entry){ .pid = t->pid, .starttime = t->stat.starttime, .scratch = g->scratch,
					   .gadget_syscall_ret = g->syscall_ret, .gadget_sigreturn = g->sigreturn };
	e->number_at = block_addr(g) + offsetof(struct twin_block, number);
	e->options = tracee_options(&t->threads.v[0]);
	atomic_store(&e->pid, 0);
	atomic_store(&e->number, JOURNAL_TWIN_BEGUN);
	atomic_store(&j->n_twins, n + 1);
	return e;
}

static void noted(struct twin *w, int32_t number)
{
	if (w->journal)
		atomic_store(&w->journal->number, number);
}

/*
 * 0, TWIN_REFUSED or a failure. The child is ours from the beginning, by an option of the tracer and not by CLONE_PTRACE: if the
 * call is made after we were killed, it must not become the guardian's. Where we are killed in the middle of it, it may, and the
 * guardian lets go of it.
 */
static int make_clone(struct op *op, struct target *t, const struct gadgets *g, struct twin *w)
{
	uint64_t args[6] = { block_addr(g), sizeof(struct clone_args) };
	struct tracee *tr = &t->threads.v[0];
	int64_t ret = -ERESTARTNOINTR;
	int r = 0;

	if (ptrace(PTRACE_SETOPTIONS, tr->tid, 0, tracee_options(tr) | PTRACE_O_TRACECLONE) < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "set the options of thread %d", tr->tid);
	for (int round = 0; round < CLONE_ROUNDS && !r && ret == -ERESTARTNOINTR; round++)
		r = remote_syscall(op, t, tr, g, SYS_clone3, args, &ret);
	if (!tr->exited)
		ptrace(PTRACE_SETOPTIONS, tr->tid, 0, tracee_options(tr));
	w->target.pid = tr->cloned;
	tr->cloned = 0;
	if (r)
		return r;
	noted(w, ret > 0 ? (int32_t)ret : 0);
	w->number = (pid_t)ret;
	if (ret > 0 && !w->target.pid)
		return op_fail(op, CKPT_E_INTERNAL, AT(.pid = t->pid), "the twin %d of task %d was not reported", w->number, t->pid);
	if (ret > 0)
		return 0;
	w->why = arena_printf(op->arena, "it could not be cloned: %s", strerror((int)-ret));
	return w->why ? TWIN_REFUSED : op_nomem(op);
}

/* ---------------------------------------------------------------------------------------------- what it becomes */

/* In our hands: stopped before its first instruction, and bound to our life. */
static int take(struct op *op, struct target *t, struct twin *w)
{
	struct tracee *tr = ARRAY_ADD(op->arena, &w->target.threads);
	int status, r;
	char path[64];

	if (!tr)
		return op_nomem(op);
	tr->tid = w->target.pid;
	tr->seized = true;
	if (w->journal)
		atomic_store(&w->journal->pid, w->target.pid);
	r = tracee_wait(op, &w->target, tr, &status);
	if (r)
		return r;
	if (ptrace(PTRACE_SETOPTIONS, tr->tid, 0, tracee_options(&t->threads.v[0]) | PTRACE_O_EXITKILL) < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "bind the twin of task %d to us", t->pid);
	r = tracee_get_regs(op, tr->tid, &tr->regs);
	tr->regs.orig_rax = (uint64_t)-1;
	tr->sigmask = ~0ull;
	if (r)
		return r;
	w->target.pidfd = sys_pidfd_open(w->target.pid, 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", w->target.pid);
	w->target.mem = open(path, O_RDWR | O_CLOEXEC);
	if (w->target.pidfd < 0 || w->target.mem < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "open the twin of task %d", t->pid);
	return 0;
}

int twin_syscall(struct op *op, struct twin *w, long nr, const uint64_t args[6], int64_t *ret)
{
	return remote_syscall(op, &w->target, &w->target.threads.v[0], &w->g, nr, args, ret);
}

static int expect(struct op *op, struct twin *w, const char *what, long nr, uint64_t a, uint64_t b, uint64_t c)
{
	int64_t ret = -1;
	int r = twin_syscall(op, w, nr, (uint64_t[6]){ a, b, c }, &ret);

	if (!r && ret < 0)
		return op_errno(op, (int)-ret, AT(.pid = w->owner), "%s in a twin of task %d", what, w->owner);
	return r;
}

/* It must hold nothing that somebody may wait to be let go of, and get no signal that is meant for the target's group. */
static int detach_from_world(struct op *op, struct twin *w, const struct gadgets *g)
{
	int64_t ret;
	int r = expect(op, w, "begin a session", SYS_setsid, 0, 0, 0);

	/* Where the root cannot be entered the directory stays in use while the twin lives. */
	r = r ?: twin_syscall(op, w, SYS_chdir, (uint64_t[6]){ block_addr(g) + offsetof(struct twin_block, root) }, &ret);
	return r ?: expect(op, w, "close the descriptors", SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE);
}

/* A copy was made in the middle of our call: the scratch pages in it become what they are in the target. */
static int heal_copy(struct op *op, const struct target *t, struct twin *w, const struct gadgets *g)
{
	uint8_t scratch[SIGFRAME_MAX];
	int r = target_read(op, t, (struct raddr){ g->scratch }, scratch, sizeof(scratch));
	int64_t ret;

	r = r ?: target_write(op, &w->target, (struct raddr){ g->scratch }, scratch, sizeof(scratch));
	for (unsigned i = 0; i < SIGFRAME_MAX / PAGE_SIZE && !r; i++)
		if (g->scratch_absent & 1u << i)
			r = twin_syscall(op, w, SYS_madvise,
					 (uint64_t[6]){ g->scratch + i * PAGE_SIZE, PAGE_SIZE, 4 /* MADV_DONTNEED */ }, &ret);
	return r;
}

/* As its tracer we hear of its end first; then it is the owner's to wait for. */
static void end_process(struct twin *w)
{
	int status;
	pid_t got;

	if (!w->target.pid)
		return;
	if (w->target.pidfd >= 0)
		sys_pidfd_send_signal(w->target.pidfd, SIGKILL, NULL, 0);
	else
		kill(w->target.pid, SIGKILL); /* nobody has waited for it: the number is still its own */
	do
		got = waitpid(w->target.pid, &status, __WALL);
	while (got < 0 ? errno == EINTR : !WIFEXITED(status) && !WIFSIGNALED(status));
	close_fd_p(&w->target.pidfd);
	close_fd_p(&w->target.mem);
	w->target.pidfd = w->target.mem = -1;
}

static int make(struct op *op, struct target *t, const struct gadgets *g, struct twin *w)
{
	const struct raddr at = { block_addr(g) };
	struct twin_block block, saved;
	int r = fill_block(op, t, g, w->shares, &block), r2;

	r = r ?: target_read(op, t, at, &saved, sizeof(saved));
	r = r ?: target_write(op, t, at, &block, sizeof(block));
	if (r)
		return r;
	w->journal = note(w->all, t, g);
	r = make_clone(op, t, g, w);
	r = r ?: take(op, t, w);
	r = r ?: detach_from_world(op, w, g);
	r2 = target_has_ended(t) ? 0 : target_write(op, t, at, &saved, sizeof(saved));
	r = r ?: r2;
	return r ?: w->shares ? r : heal_copy(op, t, w, g);
}

int twin_make(struct op *op, struct target *t, const struct gadgets *g, struct journal *journal, bool shares, struct twin *w)
{
	const atomic_bool *cancel = op->cancel;
	uint64_t deadline = op->deadline_ns;
	int r;

	*w = (struct twin){ .target = { .pidfd = -1, .mem = -1 }, .owner = t->pid, .owner_start = t->stat.starttime,
			    .shares = shares, .all = journal, .owner_g = *g, .g = { .syscall_ret = g->syscall_ret }, .why = obstacle(t, g) };
	if (w->why)
		return TWIN_REFUSED;
	r = sud_suspend(op, t, journal);
	op->cancel = NULL; /* a few system calls: a twin that is half made is not left to chance */
	op->deadline_ns = now_ns() + REAP_PATIENCE_NS;
	r = r ?: make(op, t, g, w);
	op->cancel = cancel;
	op->deadline_ns = deadline;
	sud_resume(t, journal);
	if (r && w->number > 0)
		twin_end(op, t, w);
	else if (r)
		end_process(w); /* cloned by a task that ended in that moment */
	return r;
}

/* --------------------------------------------------------------------------------------------------- the end */

static void pause_us(long us)
{
	nanosleep(&(struct timespec){ 0, us * 1000 }, NULL);
}

/* Thread [0] of @t waits for the twin, which has ended or is about to. */
static int wait_in(struct op *op, struct target *t, const struct gadgets *g, const struct twin *w)
{
	uint64_t args[6] = { (uint64_t)w->number, 0, __WALL | WNOHANG };
	int64_t ret = 0;
	int r = sud_suspend(op, t, w->all);

	for (int round = 0; round < 2000 && !r && !ret; round++) {
		if (round)
			pause_us(1000);
		r = remote_syscall(op, t, &t->threads.v[0], g, SYS_wait4, args, &ret);
	}
	sud_resume(t, w->all);
	/* -ECHILD: the program has waited for it itself. */
	if (!r && !ret)
		return op_fail(op, CKPT_E_BUSY, AT(.pid = t->pid), "the twin of task %d does not end", t->pid);
	return r;
}

/* The owner runs, and may be another program by now, with other code and another stack. */
static int reap_in_running(struct op *op, const struct twin *w)
{
	struct target t;
	struct proc_maps maps = { 0 };
	struct gadgets g;
	int r = target_stop_one(op, w->owner, &t);

	if (r)
		return r;
	if (t.stat.starttime == w->owner_start) {
		r = proc_read_maps(op, t.threads.v[0].tid, &maps);
		r = r > 0 ? op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t.pid), "task %d ended meanwhile", t.pid) : r;
		r = r ?: gadgets_find(op, &t, &maps, &g);
		r = r ?: wait_in(op, &t, &g, w);
	}
	target_release(op, &t);
	return r;
}

static bool owner_is_there(struct op *op, const struct twin *w)
{
	struct proc_stat st;

	return proc_read_stat(op, w->owner, &st) == 0 && st.starttime == w->owner_start && st.state != 'X' &&
	       !(st.state == 'Z' && st.num_threads <= 1);
}

/* Somebody may trace the owner for a moment, or it is just being ended. */
static int reap(struct op *op, const struct twin *w)
{
	uint64_t begin = now_ns();
	int r;

	for (;;) {
		r = reap_in_running(op, w);
		if (!r || !owner_is_there(op, w))
			return 0;
		if (now_ns() - begin > REAP_PATIENCE_NS)
			return r;
		op_forget(op);
		pause_us(1000);
	}
}

void twin_end(struct op *op, struct target *t, struct twin *w)
{
	const atomic_bool *cancel = op->cancel;
	uint64_t deadline = op->deadline_ns;
	struct ckpt_err *err = op->err; /* what brought us here is not to be lost */
	int r;

	if (w->number <= 0)
		return;
	op->err = NULL;
	op->cancel = NULL;
	op->deadline_ns = now_ns() + REAP_PATIENCE_NS;
	end_process(w);
	if (t) {
		r = wait_in(op, t, &w->owner_g, w);
		r = target_has_ended(t) ? 0 : r;
	} else {
		r = reap(op, w);
	}
	if (r)
		log_warn(op, "task %d keeps a zombie (%d) until it ends: it could not be made to wait for it", w->owner, w->number);
	op_forget(op);
	op->err = err;
	op->cancel = cancel;
	op->deadline_ns = deadline;
	noted(w, 0);
	w->number = w->target.pid = 0;
}
