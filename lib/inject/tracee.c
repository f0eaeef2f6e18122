/* SPDX-License-Identifier: MIT */
#include "lib/inject/tracee.h"

#include <elf.h>
#include <sched.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/inject/sleepers.h"
#include "lib/inject/sud.h"
#include "lib/kernel/arch/x86_64/regs.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#define VFORK_PATIENCE_NS 2000000000u
#define PF_IO_WORKER 0x10 /* flag of a task, in its stat */

/* Linux-internal codes that ptrace shows in rax of an interrupted call. */
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

/* Calls that give up with a plain EINTR at any stop; made again they only wait anew. */
static bool gives_up_with_eintr(uint64_t nr)
{
	switch (nr) {
	case SYS_epoll_wait:
	case SYS_epoll_pwait:
	case SYS_epoll_pwait2:
	case SYS_semop:
	case SYS_semtimedop:
	case SYS_rt_sigtimedwait:
	case SYS_io_getevents:
	case SYS_io_pgetevents:
	case SYS_io_uring_enter:
	case SYS_accept:
	case SYS_accept4:
	case SYS_recvfrom:
	case SYS_recvmsg:
	case SYS_recvmmsg:
		return true;
	default:
		return false;
	}
}

bool regs_cook_restart(struct user_regs_struct *r, bool restart_block_eintr, bool signal_due)
{
	long ax = (long)r->rax;

	if ((long)r->orig_rax < 0)
		return false;
	switch (ax) {
	case -ERESTART_RESTARTBLOCK:
		if (restart_block_eintr) {
			r->rax = (uint64_t)-EINTR;
			return true;
		}
		break;
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
		break;
	case -EINTR:
		if (signal_due || !gives_up_with_eintr(r->orig_rax))
			return false;
		break;
	default:
		return false;
	}
	r->rax = r->orig_rax;
	r->rip -= 2; /* back to the syscall instruction */
	return true;
}

int tracee_get_regs(struct op *op, pid_t tid, struct user_regs_struct *regs)
{
	struct iovec iov = { regs, sizeof(*regs) };

	if (ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &iov) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	if (iov.iov_len != sizeof(*regs))
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = tid, .kind = "32-bit task", .hint = "only 64-bit programs can be checkpointed"),
			       "thread %d runs 32-bit code", tid);
	return 0;
}

int tracee_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs)
{
	struct iovec iov = { (void *)regs, sizeof(*regs) };

	if (ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, &iov) < 0)
		return op_errno(op, errno, AT(.pid = tid), "set the registers of thread %d", tid);
	return 0;
}

int tracee_get_sigmask(struct op *op, pid_t tid, uint64_t *mask)
{
	if (ptrace(PTRACE_GETSIGMASK, tid, sizeof(*mask), mask) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the signal mask of thread %d", tid);
	return 0;
}

int tracee_set_sigmask(struct op *op, pid_t tid, uint64_t mask)
{
	if (ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), &mask) < 0)
		return op_errno(op, errno, AT(.pid = tid), "set the signal mask of thread %d", tid);
	return 0;
}

static int get_xstate(struct op *op, struct tracee *tr)
{
	uint8_t buf[XSTATE_MAX];
	struct iovec iov = { buf, sizeof(buf) };

	if (ptrace(PTRACE_GETREGSET, tr->tid, NT_X86_XSTATE, &iov) < 0)
		return op_errno(op, errno, AT(.pid = tr->tid), "read the extended registers of thread %d", tr->tid);
	tr->xstate_len = x86_xstate_trim(buf, iov.iov_len, x86_tiles_offset(op));
	tr->xstate = arena_memdup(op->arena, buf, tr->xstate_len);
	return tr->xstate ? 0 : op_nomem(op);
}

/* Back-off of a loop that polls for a stop: most come within microseconds, and a blocking wait could not be cancelled. */
static void back_off(unsigned round)
{
	struct timespec ts = { 0, round < 64 ? 20000 : 500000 };

	if (round < 16)
		sched_yield();
	else
		nanosleep(&ts, NULL);
}

/* Makes no use of the arena: the guardian, who has none, waits for threads, too. */
static bool has_ended(pid_t pid, pid_t tid)
{
	char path[64], text[256], *state;
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, sizeof(text) - 1);
		close(fd);
	}
	if (n <= 0)
		return true;
	text[n] = 0;
	state = strrchr(text, ')');
	return state && (state[2] == 'Z' || state[2] == 'X');
}

bool target_has_ended(const struct target *t)
{
	return has_ended(t->pid, t->pid);
}

/* Seen from a task that does not run. What cannot be read has ended, or is not there. */
static bool waits_in_vfork(struct op *op, const struct target *t, const struct tracee *tr)
{
	struct proc_syscall call = { 0 };
	char file[48], *text;
	size_t len;

	snprintf(file, sizeof(file), "task/%d/syscall", tr->tid);
	if (proc_read_file(op, t->pid, file, &text, &len) != 0) {
		op_forget(op);
		return false;
	}
	if (proc_parse_syscall(text, len, &call) < 0 || call.running)
		return false;
	return call.nr == SYS_vfork || call.nr == SYS_clone || call.nr == SYS_clone3;
}

bool target_in_vfork(struct op *op, const struct target *t)
{
	for (size_t i = 0; i < t->threads.n; i++)
		if (waits_in_vfork(op, t, &t->threads.v[i]))
			return true;
	return false;
}

/*
 * A parent in vfork(2) cannot be stopped before its child has executed a program or ended. That is a matter of
 * microseconds, or else the child waits for something: then there is no use in waiting longer.
 */
static int check_vfork(struct op *op, const struct target *t, const struct tracee *tr)
{
	if (!waits_in_vfork(op, t, tr))
		return 0;
	return op_fail(op, CKPT_E_BUSY,
		       AT(.pid = t->pid, .kind = "vfork", .hint = "try again when the child has executed its program"),
		       "thread %d of task %d waits in vfork for a child that still runs in its memory", tr->tid, t->pid);
}

int tracee_wait(struct op *op, const struct target *t, struct tracee *tr, int *status)
{
	uint64_t began = 0;

	for (unsigned round = 0;; round++) {
		pid_t got = waitpid(tr->tid, status, __WALL | WNOHANG);
		int r;

		if (got == tr->tid) {
			if (WIFSTOPPED(*status)) {
				tr->stopped = true;
				return 0;
			}
			tr->exited = true;
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "thread %d of task %d ended meanwhile",
				       tr->tid, t->pid);
		}
		if (got < 0 && errno != EINTR) {
			tr->exited = errno == ECHILD;
			return op_errno(op, errno, AT(.pid = t->pid), "wait for thread %d", tr->tid);
		}
		r = op_check_cancel(op);
		if (r)
			return r;
		/* The end of a main thread is not reported before all other threads were waited for. */
		if (round % 64 == 63 && has_ended(t->pid, tr->tid)) {
			tr->exited = true;
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "task %d ended meanwhile", t->pid);
		}
		if (round == 64)
			began = now_ns();
		if (began && now_ns() - began > VFORK_PATIENCE_NS) {
			r = check_vfork(op, t, tr);
			if (r)
				return r;
			began = now_ns();
		}
		back_off(round);
	}
}

int target_read(struct op *op, const struct target *t, struct raddr from, void *buf, size_t n)
{
	ssize_t r = pread(t->mem, buf, n, (off_t)from.v);

	if (r == (ssize_t)n)
		return 0;
	return op_errno(op, r < 0 ? errno : EFAULT, AT(.pid = t->pid, .addr = from.v), "read memory of task %d at %#lx",
			t->pid, from.v);
}

int target_write(struct op *op, const struct target *t, struct raddr to, const void *buf, size_t n)
{
	ssize_t r = pwrite(t->mem, buf, n, (off_t)to.v);

	if (r == (ssize_t)n)
		return 0;
	return op_errno(op, r < 0 ? errno : EFAULT, AT(.pid = t->pid, .addr = to.v), "write memory of task %d at %#lx",
			t->pid, to.v);
}

/* ------------------------------------------------------------------------------------------------ freezing */

static int seize_failed(struct op *op, const struct target *t, const struct tracee *tr, int eno)
{
	struct proc_status now;
	char *comm;
	size_t len;
	int r = proc_read_task_status(op, t->pid, tr->tid, &now);

	/* A thread that is ending cannot be seized either: EPERM. */
	if (r || now.state == 'Z' || now.state == 'X')
		return r < 0 ? r : PROC_GONE;
	if (eno == EPERM && now.tracer) {
		if (proc_read_file(op, now.tracer, "comm", &comm, &len) != 0)
			comm = (char *)"?", len = 1;
		return op_fail(op, CKPT_E_BUSY,
			       AT(.pid = t->pid, .kind = "ptrace", .hint = "detach the debugger or tracer first"),
			       "task %d is traced by pid %d (%.*s)", t->pid, now.tracer,
			       (int)(len && comm[len - 1] == '\n' ? len - 1 : len), comm);
	}
	if (eno == EPERM)
		return op_fail(op, CKPT_E_PERM, AT(.pid = t->pid, .hint = "run as root, or with CAP_SYS_PTRACE"),
			       "no permission to stop thread %d of task %d (CAP_SYS_PTRACE)", tr->tid, t->pid);
	return op_errno(op, eno, AT(.pid = t->pid), "seize thread %d of task %d", tr->tid, t->pid);
}

long tracee_options(const struct tracee *tr)
{
	return PTRACE_O_TRACESYSGOOD | (tr->status.seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);
}

/* Returns 0, PROC_GONE when the thread ended meanwhile, or a failure. */
static int seize(struct op *op, const struct target *t, struct tracee *tr)
{
	if (ptrace(PTRACE_SEIZE, tr->tid, 0, tracee_options(tr)) < 0)
		return errno == ESRCH ? PROC_GONE : seize_failed(op, t, tr, errno);
	tr->seized = true;
	if (ptrace(PTRACE_INTERRUPT, tr->tid, 0, 0) < 0 && errno != ESRCH)
		return op_errno(op, errno, AT(.pid = t->pid), "interrupt thread %d", tr->tid);
	return 0;
}

static bool is_event_stop(int status)
{
	return status >> 16 == PTRACE_EVENT_STOP;
}

/* Waits for the stop that our interrupt causes; signals that were on their way are delivered first, as they would be. */
static int await_stop(struct op *op, struct target *t, struct tracee *tr)
{
	int status, r;

	for (;;) {
		r = tracee_wait(op, t, tr, &status);
		if (r)
			return r;
		if (is_event_stop(status)) {
			tr->stop_sig = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
			return 0;
		}
		tr->stopped = false;
		if (ptrace(PTRACE_CONT, tr->tid, 0, (long)WSTOPSIG(status)) < 0 && errno != ESRCH)
			return op_errno(op, errno, AT(.pid = t->pid), "resume thread %d", tr->tid);
	}
}

static bool known(const struct target *t, pid_t tid)
{
	for (size_t i = 0; i < t->threads.n; i++)
		if (t->threads.v[i].tid == tid)
			return true;
	return false;
}

/*
 * Threads that the kernel runs for an io_uring are in the task's list, but none of the program's: they never leave the
 * kernel, and end with the ring. Their names begin like this; programs can call theirs so, too.
 */
static bool is_uring_worker(struct op *op, const struct tracee *tr)
{
	struct proc_stat st;

	if (strncmp(tr->status.name, "iou-", 4))
		return false;
	if (proc_read_stat(op, tr->tid, &st) == 0)
		return st.flags & PF_IO_WORKER;
	op_forget(op);
	return false;
}

/* Threads that are not known yet join the list; all that is asked of running threads is asked here. */
static int find_new(struct op *op, struct target *t, struct sleepers *sleepers)
{
	struct proc_numbers tids = { 0 };
	int r = proc_list_numbers(op, t->pid, "task", &tids);

	if (r)
		return r < 0 ? r : op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "task %d ended meanwhile", t->pid);
	for (size_t i = 0; i < tids.v.n; i++) {
		struct tracee *tr;

		if (known(t, tids.v.v[i]))
			continue;
		tr = ARRAY_ADD(op->arena, &t->threads);
		if (!tr)
			return op_nomem(op);
		tr->tid = tids.v.v[i];
		r = proc_read_task_status(op, t->pid, tr->tid, &tr->status);
		if (r < 0)
			return r;
		tr->exited = r == PROC_GONE;
		if (!tr->exited && is_uring_worker(op, tr))
			t->threads.n--;
		else if (!tr->exited)
			sleepers_note(op, sleepers, t->pid, tr);
	}
	return 0;
}

static int seize_from(struct op *op, struct target *t, size_t first)
{
	int r;

	for (size_t i = first; i < t->threads.n; i++) {
		struct tracee *tr = &t->threads.v[i];

		if (tr->exited)
			continue;
		r = seize(op, t, tr);
		if (r == PROC_GONE)
			tr->exited = true;
		r = r < 0 ? r : op_check_cancel(op);
		if (r)
			return r;
	}
	return 0;
}

static int await_from(struct op *op, struct target *t, size_t first)
{
	for (size_t i = first; i < t->threads.n; i++) {
		struct tracee *tr = &t->threads.v[i];
		int r;

		r = tr->exited ? 0 : await_stop(op, t, tr);
		if (r == CKPT_E_NO_PROCESS)
			op_forget(op); /* a thread that ended while we looked: fine */
		else if (r)
			return r;
	}
	return 0;
}

/* One pass over the thread list; what is new is seized and interrupted. *@fresh counts it. */
static int seize_pass(struct op *op, struct target *t, struct sleepers *sleepers, size_t *fresh)
{
	size_t first = t->threads.n;
	int r = find_new(op, t, sleepers);

	if (!t->seized_at)
		t->seized_at = now_ns();
	r = r ?: seize_from(op, t, first);
	*fresh = t->threads.n - first;
	return r;
}

static void drop_exited(struct target *t)
{
	size_t keep = 0;

	for (size_t i = 0; i < t->threads.n; i++)
		if (!t->threads.v[i].exited)
			t->threads.v[keep++] = t->threads.v[i];
	t->threads.n = keep;
}

static int put_leader_first(struct op *op, struct target *t)
{
	for (size_t i = 0; i < t->threads.n; i++) {
		struct tracee tmp = t->threads.v[i];

		if (tmp.tid != t->pid)
			continue;
		t->threads.v[i] = t->threads.v[0];
		t->threads.v[0] = tmp;
		return 0;
	}
	if (!t->threads.n)
		return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "task %d ended meanwhile", t->pid);
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = t->pid, .kind = "dead leader"),
		       "the main thread of task %d has ended while others run", t->pid);
}

static int read_registers(struct op *op, struct target *t)
{
	int r = 0;

	for (size_t i = 0; i < t->threads.n && !r; i++) {
		struct tracee *tr = &t->threads.v[i];

		r = tracee_get_regs(op, tr->tid, &tr->regs);
		r = r ?: get_xstate(op, tr);
		r = r ?: tracee_get_sigmask(op, tr->tid, &tr->sigmask);
	}
	return r;
}

/* Of a leader that has ended, @thread has to lend its memory. */
static int open_target(struct op *op, struct target *t, pid_t thread)
{
	char path[64];

	t->pidfd = sys_pidfd_open(t->pid, 0);
	if (t->pidfd < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "open a pidfd for task %d", t->pid);
	snprintf(path, sizeof(path), "/proc/%d/mem", thread);
	t->mem = open(path, O_RDWR | O_CLOEXEC);
	if (t->mem < 0)
		return op_errno(op, errno, AT(.pid = t->pid), "open %s", path);
	return 0;
}

/* Waits for those that were seized from @first on, and catches what they made meanwhile. */
static int stop_all(struct op *op, struct target *t, struct sleepers *sleepers, size_t first)
{
	size_t fresh = t->threads.n - first;
	int r = 0;

	while (!r && fresh) {
		r = await_from(op, t, first);
		first = t->threads.n;
		r = r ?: seize_pass(op, t, sleepers, &fresh);
	}
	return r;
}

static int seize_all(struct op *op, struct target *t, struct sleepers *sleepers)
{
	size_t fresh;
	int r = open_target(op, t, t->pid);

	return r ?: seize_pass(op, t, sleepers, &fresh);
}

/* What is there once all of it stands still. */
static int look_at(struct op *op, struct target *t)
{
	int r;

	drop_exited(t);
	r = put_leader_first(op, t);
	r = r ?: read_registers(op, t);
	if (!r && proc_read_stat(op, t->pid, &t->stat) != 0)
		r = op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = t->pid), "task %d ended meanwhile", t->pid);
	return r;
}

static int released(struct op *op, struct target *t, int r)
{
	if (r)
		target_release(op, t);
	return r;
}

int target_seize(struct op *op, pid_t pid, struct target *t, struct sleepers *sleepers)
{
	*t = (struct target){ .pid = pid, .pidfd = -1, .mem = -1 };
	return released(op, t, seize_all(op, t, sleepers));
}

int target_stop(struct op *op, struct target *t, struct sleepers *sleepers)
{
	int r = stop_all(op, t, sleepers, 0);

	return released(op, t, r ?: look_at(op, t));
}

int target_freeze(struct op *op, pid_t pid, struct target *t)
{
	struct sleepers *sleepers = op_new(op, struct sleepers);
	int r;

	*t = (struct target){ .pid = pid, .pidfd = -1, .mem = -1 };
	if (!sleepers)
		return CKPT_E_NOMEM;
	sleepers_begin(sleepers);
	r = target_seize(op, pid, t, sleepers);
	r = r ?: target_stop(op, t, sleepers);
	sleepers_end(sleepers);
	return r;
}

/* @tid and no other thread. PROC_GONE: it has ended, others may be there. */
static int stop_thread(struct op *op, struct target *t, pid_t tid)
{
	struct tracee *tr = ARRAY_ADD(op->arena, &t->threads);
	int r;

	if (!tr)
		return op_nomem(op);
	*tr = (struct tracee){ .tid = tid };
	r = proc_read_task_status(op, t->pid, tid, &tr->status);
	if (!r && (tr->status.state == 'Z' || tr->status.state == 'X'))
		r = PROC_GONE;
	r = r ?: seize(op, t, tr);
	r = r ?: await_stop(op, t, tr);
	if (r == CKPT_E_NO_PROCESS && tr->exited) {
		op_forget(op);
		r = PROC_GONE;
	}
	r = r ?: read_registers(op, t);
	if (r == PROC_GONE)
		t->threads.n = 0;
	return r;
}

int target_stop_one(struct op *op, pid_t pid, struct target *t)
{
	struct proc_numbers tids = { 0 };
	int r;

	*t = (struct target){ .pid = pid, .pidfd = -1, .mem = -1 };
	r = stop_thread(op, t, pid);
	if (r == PROC_GONE && proc_list_numbers(op, pid, "task", &tids) < 0)
		op_forget(op);
	for (size_t i = 0; i < tids.v.n && r == PROC_GONE; i++)
		r = stop_thread(op, t, tids.v.v[i]);
	if (r == PROC_GONE || (!r && proc_read_stat(op, pid, &t->stat) != 0))
		r = op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d ended meanwhile", pid);
	return released(op, t, r ?: open_target(op, t, t->threads.v[0].tid));
}

/* ---------------------------------------------------------------------------------------------- letting go */

/* A stopped thread that was cut short in a call that gives up with EINTR is made to call again. */
static void undo_eintr(struct op *op, struct tracee *tr)
{
	struct proc_status now;
	struct user_regs_struct regs = tr->regs;
	bool due;

	if (!tr->xstate || (long)regs.rax != -EINTR)
		return;
	if (proc_read_task_status(op, tr->status.tgid, tr->tid, &now) != 0)
		return;
	due = (now.sig_pending | now.shd_pending) & ~now.sig_blocked;
	if (!regs_cook_restart(&regs, false, due))
		return;
	regs.orig_rax = (uint64_t)-1; /* nothing left to restart for the kernel */
	tracee_set_regs(op, tr->tid, &regs);
}

static void close_target(struct target *t)
{
	if (t->pidfd > 0)
		close(t->pidfd);
	if (t->mem > 0)
		close(t->mem);
	t->pidfd = t->mem = -1;
	t->threads.n = 0;
}

void target_release(struct op *op, struct target *t)
{
	/* A thread that was seized and interrupted but has not stopped yet cannot be detached: wait for it, briefly. */
	for (size_t i = 0; i < t->threads.n; i++) {
		struct tracee *tr = &t->threads.v[i];
		int status;

		for (unsigned round = 0; tr->seized && !tr->stopped && !tr->exited && round < 2000; round++) {
			pid_t got = waitpid(tr->tid, &status, __WALL | WNOHANG);

			if (got == tr->tid && WIFSTOPPED(status)) {
				tr->stopped = true;
				if (!is_event_stop(status)) /* a signal on its way: let it through */
					ptrace(PTRACE_DETACH, tr->tid, 0, (long)WSTOPSIG(status)), tr->exited = true;
			} else if (got == tr->tid || (got < 0 && errno == ECHILD)) {
				tr->exited = true;
			} else {
				back_off(round);
			}
		}
	}
	sud_resume(t, NULL);
	for (size_t i = 0; i < t->threads.n; i++) {
		struct tracee *tr = &t->threads.v[i];

		if (tr->exited || !tr->stopped)
			continue;
		undo_eintr(op, tr);
		if (tr->late_stop)
			sys_tgkill(t->pid, tr->tid, SIGSTOP);
		ptrace(PTRACE_DETACH, tr->tid, 0, 0);
	}
	close_target(t);
}

void target_bind(struct target *t)
{
	for (size_t i = 0; i < t->threads.n; i++)
		ptrace(PTRACE_SETOPTIONS, t->threads.v[i].tid, 0, tracee_options(&t->threads.v[i]) | PTRACE_O_EXITKILL);
}

int target_end(struct op *op, struct target *t)
{
	if (t->pidfd < 0 || sys_pidfd_send_signal(t->pidfd, SIGKILL, NULL, 0) == 0 || errno == ESRCH)
		return 0;
	return op_errno(op, errno, AT(.pid = t->pid), "end task %d", t->pid);
}

/* Whether there is nothing more to hear of it. */
static bool reaped(const struct tracee *tr, int flags)
{
	int status;
	pid_t got = waitpid(tr->tid, &status, __WALL | flags);

	return got < 0 ? errno != EINTR : got > 0 && (WIFEXITED(status) || WIFSIGNALED(status));
}

/*
 * As its tracer we have to hear of each thread: of the leader last, of the others in any order, for the last of the threads of a
 * PID namespace's init ends only when we have heard of all others.
 */
void target_reap(struct target *t)
{
	size_t left = t->threads.n;

	for (unsigned round = 0; left > 1; round++) {
		size_t before = left;

		for (size_t i = 1; i < t->threads.n; i++) {
			struct tracee *tr = &t->threads.v[i];

			if (tr->tid && reaped(tr, WNOHANG)) {
				tr->tid = 0;
				left--;
			}
		}
		if (left == before)
			back_off(round);
		else
			round = 0;
	}
	while (left && !reaped(&t->threads.v[0], 0))
		;
	close_target(t);
}
