/* SPDX-License-Identifier: MIT */
/*
 * How the root process is made (what it does itself is restore_child.c): with its PID, in new namespaces, traced with EXITKILL, so
 * that it cannot outlive us unfinished. Then it waits, may be asked to call something for us, and is told to go.
 */
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/engine/restore_child.h"
#include "lib/engine/restore_parts.h"
#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/features.h"
#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/state/cgroup/cgroup.h"
#include "lib/state/ns/ns.h"

#define CHILD_STACK (64u << 10)
#define LAST_PID "/proc/sys/kernel/ns_last_pid"
/* Others fork between the write and the clone at any time; an attempt takes some ten microseconds. */
#define LAST_PID_TRIES 1000
#define FREE_TRIES 300 /* of a millisecond */
#define TRACE_OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACESYSGOOD)

static bool use_set_tid(struct op *op)
{
	if (op->opts->pid_method == CKPT_PID_AUTO)
		return feature_has(op->features, FEATURE_CLONE3_SET_TID);
	return op->opts->pid_method == CKPT_PID_SET_TID;
}

static int lock_last_pid(struct op *op, struct restore *r)
{
	int ret = 0;

	r->last_pid_fd = open(LAST_PID, O_RDWR | O_CLOEXEC);
	if (r->last_pid_fd < 0)
		return op_errno(op, errno, NULL, "open %s", LAST_PID);
	/* Only other restores honour the lock; everybody else's forks are what the retries are for. */
	while (!ret && flock(r->last_pid_fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return op_errno(op, errno, NULL, "lock %s", LAST_PID);
		usleep(500);
		ret = op_check_cancel(op);
	}
	return ret;
}

int restore_prepare_pids(struct op *op, struct restore *r)
{
	if (use_set_tid(op))
		return 0;
	if (op->opts->new_pidns || ns_own(&r->s, NS_PID))
		return op_fail(op, CKPT_E_NOT_YET, AT(.kind = "pid"), "numbers in another PID namespace need clone3 with set_tid");
	return lock_last_pid(op, r);
}

/* Groups that nobody in the user namespace may set are there at its birth. Of this thread only: libc would set those of all. */
static long clone_in_groups(struct op *op, struct restore *r, struct clone_args *args, struct child *c)
{
	const uint32_t *groups;
	size_t n = ns_groups_before(&r->s, &groups);
	int n_own = getgroups(0, NULL);
	gid_t *own;
	long pid;

	if (!ns_groups_denied(&r->s))
		return clone_vm(args, sizeof(*args), restore_child_main, c);
	own = op_alloc(op, ((size_t)MAX(n_own, 0) + 1) * sizeof(*own));
	if (!own || getgroups(n_own, own) != n_own)
		return -ENOMEM;
	if (syscall(SYS_setgroups, n, groups) < 0)
		return -errno;
	pid = clone_vm(args, sizeof(*args), restore_child_main, c);
	syscall(SYS_setgroups, (size_t)n_own, own);
	return pid;
}

static long clone_once(struct op *op, struct restore *r, struct child *c, pid_t *want)
{
	bool sibling = op->opts->restore_sibling;
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD | (sibling ? CLONE_PARENT : 0) | ns_clone_flags(&r->s),
		.pidfd = (uintptr_t)&r->pidfd,
		.exit_signal = sibling ? 0 : SIGCHLD,
		.stack = (uintptr_t)r->stack,
		.stack_size = CHILD_STACK,
		.set_tid = (uintptr_t)want,
		.set_tid_size = want ? 1 : 0,
	};

	return clone_in_groups(op, r, &args, c);
}

static void discard(struct restore *r, pid_t pid)
{
	sys_pidfd_send_signal(r->pidfd, SIGKILL, NULL, 0);
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	close_fd_p(&r->pidfd);
	r->pidfd = -1;
}

static long clone_by_last_pid(struct op *op, struct restore *r, struct child *c)
{
	pid_t want = r->tasks[0].task->pid;

	char text[16];
	int n = snprintf(text, sizeof(text), "%d", want - 1);

	for (int i = 1; i <= LAST_PID_TRIES; i++) {
		long pid;

		/* A process that got the number in between may be short-lived. */
		if (i % 50 == 0)
			usleep(1000);
		if (pwrite(r->last_pid_fd, text, (size_t)n, 0) != n)
			return -errno;
		pid = clone_once(op, r, c, NULL);
		if (pid < 0 || pid == want)
			return pid;
		discard(r, (pid_t)pid);
	}
	return -EAGAIN;
}

static int clone_failed(struct op *op, struct restore *r, int eno)
{
	pid_t pid = r->tasks[0].task->pid;

	if (eno == EEXIST && ns_own(&r->s, NS_PID))
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "end who has it there"),
			       "PID %d is in use in the PID namespace that was given", pid);
	if (eno == EEXIST)
		return restore_pid_taken(op, pid);
	if (eno == EAGAIN && r->last_pid_fd >= 0)
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid), "PID %d was not to be had in %d attempts: too much is started here",
			       pid, LAST_PID_TRIES);
	if (eno == EINVAL)
		return op_fail(op, CKPT_E_PID_IN_USE, AT(.pid = pid, .hint = "raise kernel.pid_max"),
			       "PID %d cannot exist in this pid namespace", pid);
	return op_errno(op, eno, AT(.pid = pid), "make process %d", pid);
}

/* A process that was just ended keeps its number a moment longer than it can be seen. */
static long clone_when_free(struct op *op, struct restore *r, struct child *c)
{
	long pid = clone_once(op, r, c, &r->tasks[0].task->pid);

	for (int i = 0; pid == -EEXIST && i < FREE_TRIES; i++) {
		usleep(1000);
		pid = clone_once(op, r, c, &r->tasks[0].task->pid);
	}
	return pid;
}

/* Signals stay blocked in the child, whose handlers would be ours, and after exec, until the final mask is loaded. But
 * for SIGTRAP: a blocked one would be forced, which resets its handler. */
static long clone_blocked(struct op *op, struct restore *r, struct child *c)
{
	sigset_t all, old;
	long pid;

	sigfillset(&all);
	sigdelset(&all, SIGTRAP);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	/* The first process of a PID namespace has number 1 in any case. */
	if (ns_clone_flags(&r->s) & CLONE_NEWPID)
		pid = clone_once(op, r, c, NULL);
	else
		pid = r->last_pid_fd >= 0 ? clone_by_last_pid(op, r, c) : clone_when_free(op, r, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

static int seize(struct op *op, struct restore *r)
{
	long options = TRACE_OPTIONS | (r->seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);

	if (ptrace(PTRACE_SEIZE, r->pid, NULL, (void *)options) == 0)
		return 0;
	if (r->seccomp)
		return op_errno(op, errno, AT(.pid = r->pid, .kind = "seccomp", .hint = "this needs CAP_SYS_ADMIN, and no seccomp filter on us"),
				"trace process %d with its seccomp filters suspended", r->pid);
	return op_errno(op, errno, AT(.pid = r->pid), "trace the new process %d", r->pid);
}

static int make_child(struct op *op, struct restore *r, struct child *c)
{
	long pid;
	int ret;

	r->stack = mmap(NULL, CHILD_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (r->stack == MAP_FAILED) {
		r->stack = NULL;
		return op_errno(op, errno, NULL, "allocate a stack");
	}
	ret = restore_pidns_enter(op, r, true);
	if (ret)
		return ret;
	pid = clone_blocked(op, r, c);
	ret = restore_pidns_enter(op, r, false);
	if (pid < 0)
		return clone_failed(op, r, (int)-pid);
	r->pid = (pid_t)pid;
	r->tasks[0].pid = r->tasks[0].threads[0].tid = r->pid;
	r->tasks[0].n_born = 1;
	ret = ret ?: restore_pidns_go(op, r);
	ret = ret ?: seize(op, r);
	return ret ?: cgroups_enter(op, &r->s, r->pid);
}

/* Some thread has filters: they are to stay suspended until it runs. */
static bool has_filters(const struct snapshot *s)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t k = 0; k < s->tasks.v[i].threads.n; k++) {
			const CoreEntry *core = s->tasks.v[i].threads.v[k].core;

			if (core->thread_core && core->thread_core->seccomp_mode)
				return true;
			if (core->tc && core->tc->old_seccomp_mode)
				return true;
		}
	return false;
}

/* Has the root process, before it becomes the root task, call @fn: what counts is who makes a system call. */
static int call_in_root(struct op *op, void *arg, void (*fn)(void *arg), void *fn_arg)
{
	const struct timespec a_while = { 0, 50000000 };
	struct restore *r = arg;
	struct child *c = r->child;
	pid_t seen;

	c->visit = fn;
	c->visit_arg = fn_arg;
	c->visiting = -1;
	c->visit_stack = mmap(NULL, VISIT_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (c->visit_stack == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate a stack");
	if (write(r->root_go[1], &(char){ VISIT }, 1) != 1)
		return op_errno(op, errno, NULL, "ask process %d", r->pid);
	while ((seen = c->visiting) != 0) {
		struct pollfd p = { .fd = r->pidfd, .events = POLLIN };

		syscall(SYS_futex, &c->visiting, FUTEX_WAIT, seen, &a_while, NULL, 0);
		if (c->visiting && poll(&p, 1, 0) > 0)
			return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = r->pid), "process %d was killed while it was being made", r->pid);
	}
	munmap(c->visit_stack, VISIT_STACK);
	return 0;
}

IN_CHILD static void unshare_cgroups(void *arg)
{
	long *fd = arg, ret = raw_syscall(__NR_unshare, CLONE_NEWCGROUP, 0, 0, 0, 0);

	*fd = ret < 0 ? ret : raw_syscall(__NR_openat, AT_FDCWD, (long)"/proc/thread-self/ns/cgroup", O_RDONLY | O_CLOEXEC, 0, 0);
}

/* Made by a thread of the root process, whose cgroups are the roots that it has; mounts want it, and that process enters it later. */
static int make_cgroup_ns(struct op *op, struct restore *r)
{
	struct snap_ns *ns = ns_own(&r->s, NS_CGROUP);
	long fd = -ESRCH;
	int ret;

	if (!ns || ns->joined)
		return 0;
	ret = call_in_root(op, r, unshare_cgroups, &fd);
	if (ret)
		return ret;
	if (fd < 0)
		return op_errno(op, (int)-fd, AT(.pid = r->pid, .kind = "namespace"), "make a cgroup namespace");
	ns->fd = (int)fd;
	return 0;
}

/* That of PIDs can only be entered by whoever forks, that of clocks by the restorer. */
static void note_joined(const struct snapshot *s, struct child *c)
{
	for (unsigned k = 0; k < NS_N; k++) {
		const struct snap_ns *ns = ns_own(s, k);

		if (!ns || !ns->joined || ns->fd < 0 || k == NS_PID || k == NS_TIME)
			continue;
		c->join[c->n_join].fd = ns->fd;
		c->join[c->n_join++].flag = ns_info[k].flag;
	}
}

int restore_root(struct op *op, struct restore *r)
{
	/* Not on our stack: the child reads it until it has executed the restorer, which nobody waits for here. */
	struct child *c = r->child = op_new(op, struct child);
	int go[2];

	if (!c)
		return CKPT_E_NOMEM;
	r->self_pidfd = sys_pidfd_open(getpid(), 0);
	if (r->self_pidfd < 0)
		return op_errno(op, errno, NULL, "open a pidfd for ourselves");
	if (pipe2(go, O_CLOEXEC) < 0)
		return op_errno(op, errno, NULL, "make a pipe");
	r->root_go[0] = go[0];
	r->root_go[1] = go[1];
	r->seccomp = has_filters(&r->s);
	*c = (struct child){ .go = go[0], .self_pidfd = r->self_pidfd, .err = &r->exec_errno, .step = &r->child_step };
	note_joined(&r->s, c);
	r->forked_at = now_ns();
	r->s.ns->in_root = call_in_root;
	r->s.ns->in_root_arg = r;
	return make_child(op, r, c) ?: make_cgroup_ns(op, r);
}

int restore_spawn(struct op *op, struct restore *r)
{
	const struct snap_ns *cgroup = ns_own(&r->s, NS_CGROUP);
	_cleanup_close_ int timens = -1;
	struct child *c = r->child;
	char path[64];

	if (r->timens[0]) {
		snprintf(path, sizeof(path), "/proc/%d/timens_offsets", r->pid);
		timens = open(path, O_WRONLY | O_CLOEXEC);
		if (timens < 0)
			return op_errno(op, errno, AT(.pid = r->pid, .kind = "clock"), "open %s", path);
	}
	c->inherit[0] = r->tasks[0].plan_fd;
	c->inherit[1] = r->source_fd;
	c->in_user_ns = ns_clone_flags(&r->s) & CLONE_NEWUSER;
	c->elf_fd = r->elf_fd;
	c->argv[0] = "ckpt-restorer";
	for (size_t i = 0; i < ARRAY_SIZE(r->argv); i++)
		c->argv[i + 1] = r->argv[i];
	c->timens = r->timens;
	c->timens_len = strlen(r->timens);
	c->timens_fd = TAKE_FD(timens); /* closed with the engine's others, or by the child's exec */
	r->timens_fd = c->timens_fd;
	c->init_pidfd = r->init_pidfd;
	c->cgroup_ns = cgroup && !cgroup->joined ? cgroup->fd : -1;
	c->fixed_layout = r->s.has_rings;
	return write(r->root_go[1], &(char){ GO }, 1) == 1 ? 0 : op_errno(op, errno, NULL, "start process %d", r->pid);
}

/* After the child has executed the restorer, or ended. */
void restore_spawn_done(struct restore *r)
{
	if (r->stack)
		munmap(r->stack, CHILD_STACK);
	r->stack = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(r->root_go); i++) {
		close_fd_p(&r->root_go[i]);
		r->root_go[i] = -1;
	}
	close_fd_p(&r->timens_fd);
	r->timens_fd = -1;
}
