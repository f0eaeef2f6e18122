/* SPDX-License-Identifier: MIT */
/*
 * The engine as tracer of the new task: follows the restorer until every thread stands at its int3, says what went wrong
 * where one does not, and then makes each of them the thread that was checkpointed: mask, registers, what only a tracer
 * can set. Nothing of the program runs before restore_release().
 */
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/sys.h"
#include "lib/kernel/uapi.h"

#define SPIN 400
#define PAUSE_MIN_US 20u
#define PAUSE_MAX_US 1000u
#define TRAP_CODE_KERNEL 0x80 /* SI_KERNEL: int3 */

static void report_progress(struct op *op, const struct restore *r)
{
	if (r->build.n_pages && op->progress.fn)
		op_progress(op, __atomic_load_n(&r->plan->pages_done, __ATOMIC_RELAXED), r->build.n_pages);
}

static int ended(struct op *op, struct restore *r, pid_t tid, int status);

/*
 * The end of a process is not reported for its leader before all its traced threads were reaped: whoever waits for one
 * thread has to look at the others now and then.
 */
static int look_around(struct op *op, struct restore *r)
{
	struct new_thread *t = &r->threads[1];
	int status;

	if (__atomic_load_n(&r->plan->error.step, __ATOMIC_ACQUIRE))
		return ended(op, r, r->pid, 0);
	if (r->task->threads.n < 2 || !t->tid || t->gone)
		return 0;
	if (waitpid(t->tid, &status, __WALL | WNOHANG | WNOWAIT) == t->tid && (WIFEXITED(status) || WIFSIGNALED(status)))
		return ended(op, r, t->tid, status);
	return 0;
}

int restore_wait(struct op *op, struct restore *r, pid_t tid, int *status)
{
	unsigned pause = PAUSE_MIN_US;

	for (unsigned i = 0;; i++) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);
		int ret;

		if (got == tid)
			return 0;
		if (got < 0 && errno != EINTR)
			return op_errno(op, errno, AT(.pid = tid), "wait for thread %d", tid);
		if (i < SPIN) {
			sched_yield();
			continue;
		}
		ret = op_check_cancel(op) ?: look_around(op, r);
		if (ret)
			return ret;
		report_progress(op, r);
		usleep(pause);
		pause = MIN(pause * 2, PAUSE_MAX_US);
	}
}

/* ---------------------------------------------------------------------------------- what the restorer reports */

static const char *const step_names[PLAN_N_STEPS] = {
	[PLAN_STEP_FETCH] = "take a descriptor from the engine",
	[PLAN_STEP_VDSO_PARK] = "move the vDSO", [PLAN_STEP_UNMAP] = "empty the address space",
	[PLAN_STEP_MAP] = "map an area", [PLAN_STEP_READ] = "read pages", [PLAN_STEP_PROTECT] = "protect an area",
	[PLAN_STEP_ADVISE] = "give advice on an area", [PLAN_STEP_LOCK] = "lock an area into memory",
	[PLAN_STEP_GUARD] = "install a guard range", [PLAN_STEP_NAME] = "name an area",
	[PLAN_STEP_VDSO_OLD] = "keep the old vDSO",
	[PLAN_STEP_VDSO_MOVE] = "put the vDSO in place", [PLAN_STEP_MM] = "set the fields of the address space",
	[PLAN_STEP_SESSION] = "set session and group", [PLAN_STEP_CWD] = "enter the working directory",
	[PLAN_STEP_ROOT] = "change the root directory", [PLAN_STEP_PERSONALITY] = "set the personality",
	[PLAN_STEP_PRCTL] = "prctl", [PLAN_STEP_MEMBARRIER] = "register for membarrier",
	[PLAN_STEP_SIGACTION] = "set the action of a signal", [PLAN_STEP_THREAD] = "make a thread",
	[PLAN_STEP_FD] = "put a descriptor in place", [PLAN_STEP_FOWN] = "set the owner of a descriptor",
	[PLAN_STEP_LOCKFILE] = "take a file lock again", [PLAN_STEP_ITIMER] = "set an interval timer",
	[PLAN_STEP_TIMER] = "make a POSIX timer", [PLAN_STEP_SIGNAL] = "queue a signal",
	[PLAN_STEP_RLIMIT] = "set a resource limit", [PLAN_STEP_COMM] = "set the name",
	[PLAN_STEP_ALTSTACK] = "set the signal stack", [PLAN_STEP_ROBUST] = "set the robust futex list",
	[PLAN_STEP_RSEQ] = "register restartable sequences", [PLAN_STEP_THREAD_AREA] = "set a TLS descriptor",
	[PLAN_STEP_SLACK] = "set the timer slack", [PLAN_STEP_SECCOMP] = "install a seccomp filter",
	[PLAN_STEP_GROUPS] = "set the supplementary groups", [PLAN_STEP_IDS] = "set user and group",
	[PLAN_STEP_CAPS] = "set the capabilities", [PLAN_STEP_SECUREBITS] = "set the securebits",
	[PLAN_STEP_AMBIENT] = "raise an ambient capability", [PLAN_STEP_BOUNDING] = "drop a capability from the bounding set",
};

static uint64_t area_of(const struct restore *r, const struct plan_error *e)
{
	const struct plan *p = (const struct plan *)r->build.buf;

	switch (e->step) {
	case PLAN_STEP_MAP:
	case PLAN_STEP_PROTECT:
	case PLAN_STEP_ADVISE:
	case PLAN_STEP_LOCK:
		return e->index < p->vmas.n ? PLAN_AT(p, const struct plan_vma, p->vmas)[e->index].start : 0;
	case PLAN_STEP_READ:
		return e->index < p->extents.n ? PLAN_AT(p, const struct plan_extent, p->extents)[e->index].addr : 0;
	case PLAN_STEP_GUARD:
		return e->index < p->guards.n ? PLAN_AT(p, const struct plan_range, p->guards)[e->index].start : 0;
	default:
		return 0;
	}
}

static int report(struct op *op, const struct restore *r, const struct plan_error *e)
{
	const char *what = e->step < PLAN_N_STEPS && step_names[e->step] ? step_names[e->step] : "an unknown step";
	uint64_t addr = area_of(r, e);

	if (e->step == PLAN_STEP_THREAD) {
		pid_t tid = e->index < r->task->threads.n ? r->task->threads.v[e->index].tid : 0;

		if (e->err == EEXIST)
			return restore_pid_taken(op, tid);
		if (!e->err)
			return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = tid), "thread number %d was not to be had: too much is started here",
				       tid);
		return op_errno(op, e->err, AT(.pid = tid, .kind = "thread"), "make thread %d", tid);
	}
	if (e->step == PLAN_STEP_CALL && e->index < r->build.calls.n) {
		const struct build_call *c = &r->build.calls.v[e->index];

		if (e->err == PLAN_UNEXPECTED)
			return op_fail(op, CKPT_E_SYS, AT(.pid = e->tid), "task %d: %s: the kernel gave something else", r->pid, c->what);
		return op_errno(op, e->err, AT(.pid = e->tid), "task %d: %s", r->pid, c->what);
	}
	if (addr)
		return op_errno(op, e->err, AT(.pid = e->tid, .addr = addr, .kind = "vma"), "task %d: %s at %#lx", r->pid, what, addr);
	if (e->step == PLAN_STEP_FD || e->step == PLAN_STEP_FOWN || e->step == PLAN_STEP_LOCKFILE)
		return op_errno(op, e->err, AT(.pid = e->tid, AT_FD((int)e->index), .kind = "fd"), "task %d: fd %lu: %s", r->pid,
				e->index, what);
	return op_errno(op, e->err, AT(.pid = e->tid), "thread %d: %s (%lu)", e->tid, what, e->index);
}

static int ended(struct op *op, struct restore *r, pid_t tid, int status)
{
	struct plan_error e = r->plan->error;

	if (e.step)
		return report(op, r, &e);
	if (r->exec_errno)
		return op_errno(op, r->exec_errno, AT(.pid = tid), "task %d: %s", r->task->pid,
				r->child_step ?: "execute the restorer");
	if (WIFSIGNALED(status))
		return op_fail(op, CKPT_E_SYS, AT(.pid = tid), "task %d was killed by signal %d while it was restored%s", r->pid,
			       WTERMSIG(status), WTERMSIG(status) == SIGKILL ? " (out of memory?)" : "");
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = tid), "the restorer of task %d ended with status %d", r->pid,
		       WEXITSTATUS(status));
}

/* --------------------------------------------------------------------------------------------- following it */

static int resume(struct op *op, struct restore *r, pid_t tid, int request, int sig)
{
	if (ptrace((enum __ptrace_request)request, tid, NULL, (void *)(long)sig) == 0)
		return 0;
	if (errno == ESRCH) {
		/* Killed under our hands: the next wait tells. */
		return 0;
	}
	return op_errno(op, errno, AT(.pid = tid), "resume thread %d of task %d", tid, r->pid);
}

static int crashed(struct op *op, struct restore *r, pid_t tid, const siginfo_t *si)
{
	struct user_regs_struct regs = { 0 };

	ptrace(PTRACE_GETREGS, tid, NULL, &regs);
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = tid, .addr = (uintptr_t)si->si_addr),
		       "the restorer of task %d met signal %d at +%#llx (address %p)", r->pid, si->si_signo,
		       (unsigned long long)(regs.rip - r->plan->base), si->si_addr);
}

/* A stop for a signal: 1 when it is the thread's int3. */
static int on_signal(struct op *op, struct restore *r, pid_t tid)
{
	siginfo_t si;

	if (ptrace(PTRACE_GETSIGINFO, tid, NULL, &si) < 0)
		return resume(op, r, tid, PTRACE_CONT, 0);
	switch (si.si_signo) {
	case SIGTRAP:
		if (si.si_code == TRAP_CODE_KERNEL)
			return 1;
		break;
	case SIGSTOP:
		r->stop_wanted = true;
		break;
	case SIGSEGV:
	case SIGBUS:
	case SIGILL:
	case SIGFPE:
		return crashed(op, r, tid, &si);
	}
	return resume(op, r, tid, PTRACE_CONT, 0);
}

static int on_clone(struct op *op, struct restore *r, size_t *n)
{
	unsigned long tid;
	int status, ret;

	if (ptrace(PTRACE_GETEVENTMSG, r->pid, NULL, &tid) < 0)
		return op_errno(op, errno, AT(.pid = r->pid), "ask for the new thread of task %d", r->pid);
	ret = restore_wait(op, r, (pid_t)tid, &status);
	if (ret)
		return ret;
	if (*n >= r->task->threads.n)
		return op_fail(op, CKPT_E_INTERNAL, AT(.pid = r->pid), "task %d has more threads than it should", r->pid);
	/* Through ns_last_pid a thread can have got another number; it ends by itself. */
	if (r->last_pid_fd >= 0 && (pid_t)tid != r->task->threads.v[*n].tid) {
		while (!ret && !WIFEXITED(status) && !WIFSIGNALED(status))
			ret = resume(op, r, (pid_t)tid, PTRACE_CONT, 0) ?: restore_wait(op, r, (pid_t)tid, &status);
		return ret ?: resume(op, r, r->pid, PTRACE_CONT, 0);
	}
	r->threads[(*n)++].tid = (pid_t)tid;
	if (WIFEXITED(status) || WIFSIGNALED(status)) {
		r->threads[*n - 1].gone = true;
		return ended(op, r, (pid_t)tid, status);
	}
	ret = resume(op, r, (pid_t)tid, PTRACE_CONT, 0);
	return ret ?: resume(op, r, r->pid, PTRACE_CONT, 0);
}

/* Follows one thread until it is ready. */
static int follow(struct op *op, struct restore *r, struct new_thread *t, size_t *n)
{
	int status, ret = 0;

	while (!ret && !t->ready) {
		ret = restore_wait(op, r, t->tid, &status);
		if (ret)
			return ret;
		if (WIFEXITED(status) || WIFSIGNALED(status)) {
			t->gone = t->tid != r->pid;
			if (!t->gone)
				r->pid = 0;
			ret = ended(op, r, t->tid, status);
		} else if (status >> 16 == PTRACE_EVENT_CLONE) {
			ret = on_clone(op, r, n);
		} else if (status >> 16) {
			ret = resume(op, r, t->tid, PTRACE_CONT, 0);
		} else {
			ret = on_signal(op, r, t->tid);
			if (ret == 1) {
				t->ready = true;
				ret = 0;
			}
		}
	}
	return ret;
}

static void warn_of_timers(struct op *op, const struct restore *r)
{
	/* Where they are is read from our own copy: the other one the new task can write. */
	struct plan_array arr = ((const struct plan *)r->build.buf)->timers;
	const struct plan_timer *t = PLAN_AT(r->plan, const struct plan_timer, arr);

	for (uint64_t i = 0; i < arr.n; i++)
		if (t[i].lost)
			log_warn(op, "task %d: the overrun count of timer %u is lost", r->pid, t[i].id);
}

static void warn_of_calls(struct op *op, const struct restore *r)
{
	struct plan_array arr = ((const struct plan *)r->build.buf)->calls;
	const struct plan_call *c = PLAN_AT(r->plan, const struct plan_call, arr);

	for (uint64_t i = 0; i < arr.n; i++)
		if (c[i].result < 0 && c[i].result > -PLAN_UNEXPECTED)
			log_warn(op, "task %d: %s: %s", r->pid, r->build.calls.v[i].what, strerror((int)-c[i].result));
}

static void warn(struct op *op, const struct restore *r)
{
	uint32_t w = r->plan->warnings;

	warn_of_timers(op, r);
	warn_of_calls(op, r);

	if (w & PLAN_WARN_IO_FLUSHER)
		log_warn(op, "task %d: PR_SET_IO_FLUSHER was refused", r->pid);
	if (w & PLAN_WARN_NAME)
		log_warn(op, "task %d: an anonymous area could not be given its name", r->pid);
	if (w & PLAN_WARN_MEMBARRIER)
		log_warn(op, "task %d: a membarrier registration was refused", r->pid);
	for (unsigned i = 0; i < 16; i++)
		if (r->plan->rlimits_short >> i & 1)
			log_warn(op, "task %d: the hard limit of resource %u cannot be raised to what it was without CAP_SYS_RESOURCE",
				 r->pid, i);
}

int restore_drive(struct op *op, struct restore *r)
{
	size_t n = 1;
	int ret = follow(op, r, &r->threads[0], &n);

	if (!ret && n != r->task->threads.n)
		ret = op_fail(op, CKPT_E_INTERNAL, AT(.pid = r->pid), "task %d has %zu threads instead of %zu", r->pid, n,
			      r->task->threads.n);
	for (size_t i = 1; i < r->task->threads.n && !ret; i++)
		ret = follow(op, r, &r->threads[i], &n);
	if (!ret)
		warn(op, r);
	return ret;
}

/* ------------------------------------------------------------------------------------- the last touches */

int restore_set_regs(struct op *op, pid_t tid, const struct user_regs_struct *regs)
{
	struct iovec iov = { (void *)regs, sizeof(*regs) };

	if (ptrace(PTRACE_SETREGSET, tid, (void *)1 /* NT_PRSTATUS */, &iov) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = tid), "load the registers of thread %d", tid);
}

static int wait_syscall_stop(struct op *op, struct restore *r, pid_t tid)
{
	int status, ret = restore_wait(op, r, tid, &status);

	if (ret)
		return ret;
	if (WIFEXITED(status) || WIFSIGNALED(status)) {
		if (tid == r->pid)
			r->pid = 0;
		return op_fail(op, CKPT_E_SYS, AT(.pid = tid), "thread %d was killed while it was restored", tid);
	}
	if (WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80))
		return 0;
	return 1; /* another stop */
}

int restore_call(struct op *op, struct restore *r, pid_t tid, long nr, const uint64_t *args, long *result)
{
	struct user_regs_struct regs;
	int stops = 0, ret;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	regs.rip = r->syscall_at;
	regs.rax = (unsigned long long)nr;
	regs.orig_rax = (unsigned long long)-1;
	regs.rdi = args[0];
	regs.rsi = args[1];
	regs.rdx = args[2];
	regs.r10 = args[3];
	regs.r8 = args[4];
	regs.r9 = args[5];
	ret = restore_set_regs(op, tid, &regs);
	while (!ret && stops < 2) {
		ret = resume(op, r, tid, PTRACE_SYSCALL, 0) ?: wait_syscall_stop(op, r, tid);
		if (!ret)
			stops++;
		else if (ret == 1)
			ret = 0;
	}
	if (ret)
		return ret;
	if (ptrace(PTRACE_GETREGS, tid, NULL, &regs) < 0)
		return op_errno(op, errno, AT(.pid = tid), "read the registers of thread %d", tid);
	*result = (long)regs.rax;
	return 0;
}

static int must_call(struct op *op, struct restore *r, long nr, const uint64_t *args, const char *what)
{
	long result = 0;
	int ret = restore_call(op, r, r->pid, nr, args, &result);

	if (!ret && result < 0)
		ret = op_errno(op, (int)-result, AT(.pid = r->pid), "task %d: %s", r->pid, what);
	return ret;
}

int restore_scratch(struct op *op, struct restore *r, const void *p, size_t n, uint64_t *at)
{
	uint64_t scratch = r->plan->base + r->plan->map_len - PLAN_SCRATCH;
	struct iovec local = { (void *)p, n }, remote = { (void *)scratch, n };

	*at = scratch;
	if (process_vm_writev(r->pid, &local, 1, &remote, 1, 0) == (ssize_t)n)
		return 0;
	return op_errno(op, errno, AT(.pid = r->pid), "write into task %d", r->pid);
}

static int ignore_sigtrap(struct op *op, struct restore *r)
{
	const SaEntry *sa = r->task->threads.v[0].core->tc->sigactions[SIGTRAP - 1];
	uint64_t act[4] = { sa->sigaction, sa->flags, sa->restorer, sa->mask }, at;
	int ret;

	if (sa->sigaction != (uint64_t)(uintptr_t)SIG_IGN)
		return 0;
	ret = restore_scratch(op, r, act, sizeof(act), &at);
	return ret ?: must_call(op, r, __NR_rt_sigaction, (const uint64_t[6]){ SIGTRAP, at, 0, 8 }, "ignore SIGTRAP");
}

/* The pointer to a critical section that must survive signals: registering took it away. */
static int set_rseq_cs(struct op *op, struct restore *r)
{
	for (size_t i = 0; i < r->task->threads.n; i++) {
		const RseqEntry *e = r->task->threads.v[i].core->thread_core->rseq_entry;

		if (!e || !e->has_rseq_cs_pointer)
			continue;
		/* rseq_cs is the third field, after two u32 */
		if (ptrace(PTRACE_POKEDATA, r->threads[i].tid, (void *)(e->rseq_abi_pointer + 8), (void *)e->rseq_cs_pointer) < 0)
			return op_errno(op, errno, AT(.pid = r->threads[i].tid, .kind = "rseq"),
					"set the critical section of thread %d", r->threads[i].tid);
	}
	return 0;
}

/* A change of user takes the dumpable flag away: it comes after the last thread's. */
static int set_dumpable(struct op *op, struct restore *r)
{
	const MmEntry *mm = r->task->mm;

	if (!mm->has_dumpable || mm->dumpable < 0 || mm->dumpable > 1 || (mm->dumpable == 1 && !r->build.creds_change))
		return 0;
	return must_call(op, r, __NR_prctl, (const uint64_t[6]){ PR_SET_DUMPABLE, (uint64_t)mm->dumpable }, "set the dumpable flag");
}

static int unmap_area(struct op *op, struct restore *r)
{
	return must_call(op, r, __NR_munmap, (const uint64_t[6]){ r->plan->base, r->plan->area_len }, "remove the restorer");
}

static int load_thread(struct op *op, struct restore *r, size_t i)
{
	struct new_thread *t = &r->threads[i];
	struct iovec iov = { t->xstate, t->xstate_len };
	int ret = restore_set_regs(op, t->tid, &t->regs);

	if (ret)
		return ret;
	if (ptrace(PTRACE_SETREGSET, t->tid, (void *)NT_X86_XSTATE, &iov) < 0)
		return op_errno(op, errno, AT(.pid = t->tid), "load the extended registers of thread %d", t->tid);
	return 0;
}

static int set_mask(struct op *op, struct new_thread *t)
{
	if (ptrace((enum __ptrace_request)PTRACE_SETSIGMASK, t->tid, (void *)sizeof(t->sigmask), &t->sigmask) == 0)
		return 0;
	return op_errno(op, errno, AT(.pid = t->tid), "set the signal mask of thread %d", t->tid);
}

/* Runs the leader into its next stop, without a step of the program. */
static int next_stop(struct op *op, struct restore *r, int request, int sig, int *status)
{
	int ret = resume(op, r, r->pid, request, sig) ?: restore_wait(op, r, r->pid, status);

	if (!ret && !WIFSTOPPED(*status)) {
		r->pid = 0;
		ret = op_fail(op, CKPT_E_SYS, AT(.pid = r->threads[0].tid), "task %d was killed while it was restored",
			      r->threads[0].tid);
	}
	return ret;
}

/*
 * A call that is to be restarted is restarted on the way out of a stop for a signal or an event. The leader's last stop
 * was the exit from a remote call.
 */
static int leave_call(struct op *op, struct restore *r)
{
	int status = 0, ret = 0;

	if ((long)r->threads[0].regs.orig_rax < 0)
		return 0;
	if (ptrace(PTRACE_INTERRUPT, r->pid, NULL, NULL) < 0)
		return op_errno(op, errno, AT(.pid = r->pid), "interrupt task %d", r->pid);
	while (!ret && status >> 16 != PTRACE_EVENT_STOP)
		ret = next_stop(op, r, PTRACE_CONT, 0, &status);
	return ret;
}

int restore_finish(struct op *op, struct restore *r)
{
	size_t n = r->task->threads.n;
	int ret = ignore_sigtrap(op, r);

	for (size_t i = 0; i < n && !ret; i++)
		ret = sched_restore(op, &r->task->threads.v[i], r->threads[i].tid);
	if (!ret)
		proc_values_restore(op, r->task, r->pid);
	ret = ret ?: set_dumpable(op, r);
	ret = ret ?: restore_sleeps(op, r);
	ret = ret ?: unmap_area(op, r);
	ret = ret ?: set_rseq_cs(op, r);
	ret = ret ?: leave_call(op, r);
	for (size_t i = 0; i < n && !ret; i++)
		ret = load_thread(op, r, i) ?: sud_restore(op, &r->task->threads.v[i], r->threads[i].tid);
	return ret;
}

/* --------------------------------------------------------------------------------------------- letting go */

static bool to_be_stopped(struct op *op, const struct restore *r)
{
	return op->opts->leave_stopped || r->stop_wanted || r->task->threads.v[0].core->tc->task_state == 3;
}

/*
 * A group stop is begun while all threads still stand still: each joins it as it is let go, and none runs. It begins with
 * the delivery of a SIGSTOP to the leader.
 */
static int begin_stop(struct op *op, struct restore *r)
{
	int status = 0, ret = 0;

	if (sys_tgkill(r->pid, r->pid, SIGSTOP) < 0)
		return op_errno(op, errno, AT(.pid = r->pid), "stop task %d", r->pid);
	for (int i = 0; i < 16 && !ret; i++) {
		ret = next_stop(op, r, PTRACE_CONT, 0, &status);
		if (!ret && !(status >> 16) && WSTOPSIG(status) == SIGSTOP)
			break;
	}
	/* Deliver it: the leader reports the group stop. */
	return ret ?: next_stop(op, r, PTRACE_CONT, SIGSTOP, &status);
}

int restore_release(struct op *op, struct restore *r)
{
	size_t n = r->task->threads.n;
	int ret = to_be_stopped(op, r) ? begin_stop(op, r) : 0;

	/* From here on signals are delivered: as soon as a thread is let go. */
	for (size_t i = 0; i < n && !ret; i++)
		ret = set_mask(op, &r->threads[i]);
	for (size_t i = n; i-- > 0 && !ret;)
		if (ptrace(PTRACE_DETACH, r->threads[i].tid, NULL, NULL) < 0 && errno != ESRCH)
			return op_errno(op, errno, AT(.pid = r->threads[i].tid), "let thread %d go", r->threads[i].tid);
	return ret;
}
