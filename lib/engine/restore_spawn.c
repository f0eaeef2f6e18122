/* SPDX-License-Identifier: MIT */
/*
 * The new process. It shares our memory and descriptors until it executes the restorer (as posix_spawn does), so that a large
 * host is not copied, and makes raw system calls on prepared data only, because the host may have other threads. We trace it
 * with EXITKILL: it cannot outlive us unfinished. Born into the namespaces that the tree is to have, it waits there while they
 * are filled and everything else is prepared.
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
#define EXEC_TRIES 50
#define VISIT_STACK (128u << 10)
enum { GO = 'g', VISIT = 'v' }; /* bytes in the pipe */
#define FREE_TRIES 300 /* of a millisecond */
#define SMALL_STACK (8u << 20)
#define TRACE_OPTIONS (PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACESYSGOOD)

struct child {
	int go;		/* pipe: a byte comes when all below is filled in */
	int self_pidfd; /* of the engine */
	int inherit[2]; /* the plan, and a pidfd of us */
	int elf_fd;
	bool fixed_layout; /* the kernel is to look for free addresses from the very top: lib/state/mem/uring_area.c */
	const char *argv[6];
	int *err; /* why the restorer was not executed */
	const char **step;
	struct {
		int fd, flag;
	} join[NS_N]; /* namespaces that are there already, which it enters first of all */
	size_t n_join;
	bool in_user_ns;     /* has all capabilities, and is nobody there */
	int cgroup_ns;	     /* that it enters; -1: stays in ours */
	int init_pidfd;	     /* whose mount namespace it joins; -1: stays in ours */
	/* What it is asked to do before it goes: in a thread of its own, so that its credentials and folders stay as they are. */
	void (*visit)(void *arg);
	void *visit_arg;
	char *visit_stack;
	volatile pid_t visiting; /* the thread; 0 when it is gone */
	const char *timens;
	size_t timens_len;
	int timens_fd;	     /* its own /proc/PID/timens_offsets: it may have no /proc by then */
};

#define IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread")))

/* Ends the new process with a word on what failed. */
IN_CHILD static void child_fail(struct child *c, const char *step, long ret)
{
	*c->step = step;
	*c->err = (int)-ret;
	for (;;)
		raw_syscall(__NR_exit, 127, 0, 0, 0, 0);
}

IN_CHILD static void join_namespaces(struct child *c)
{
	for (size_t i = 0; i < c->n_join; i++) {
		long ret = raw_syscall(__NR_setns, c->join[i].fd, c->join[i].flag, 0, 0, 0);

		if (ret < 0)
			child_fail(c, "enter a namespace that was given", ret);
	}
}

IN_CHILD static void enter_namespaces(struct child *c)
{
	long ret;

	if (c->timens_len) {
		ret = raw_syscall(__NR_unshare, CLONE_NEWTIME, 0, 0, 0, 0);
		if (ret == 0)
			ret = raw_syscall(__NR_write, c->timens_fd, (long)c->timens, (long)c->timens_len, 0, 0);
		if (ret < 0)
			child_fail(c, "make a time namespace", ret);
	}
	if (c->cgroup_ns >= 0) {
		ret = raw_syscall(__NR_setns, c->cgroup_ns, CLONE_NEWCGROUP, 0, 0, 0);
		if (ret < 0)
			child_fail(c, "enter its cgroup namespace", ret);
	}
	if (c->init_pidfd < 0)
		return;
	ret = raw_syscall(__NR_setns, c->init_pidfd, CLONE_NEWNS, 0, 0, 0);
	if (ret < 0)
		child_fail(c, "join the mount namespace of the new pid namespace", ret);
}

/* Who is not root loses his capabilities when he executes something, but for the ambient ones. */
IN_CHILD static void keep_capabilities(struct child *c)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	long ret = raw_syscall(__NR_capget, (long)&head, (long)data, 0, 0, 0);

	for (int i = 0; i < 2; i++)
		data[i].inheritable = data[i].permitted;
	if (ret == 0)
		ret = raw_syscall(__NR_capset, (long)&head, (long)data, 0, 0, 0);
	for (long cap = 0; cap < 64 && ret == 0; cap++)
		if (data[cap / 32].permitted >> cap % 32 & 1)
			ret = raw_syscall(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	if (ret < 0)
		child_fail(c, "keep its capabilities", ret);
}

/* Both are the program's own again when the restorer has set its personality and limits. */
IN_CHILD static void fix_layout(struct child *c)
{
	long old = raw_syscall(__NR_personality, 0xffffffff, 0, 0, 0, 0);
	struct rlimit limit;
	long ret = raw_syscall(__NR_prlimit64, 0, RLIMIT_STACK, 0, (long)&limit, 0);

	if (ret == 0) {
		limit.rlim_cur = MIN(limit.rlim_cur, (rlim_t)SMALL_STACK);
		ret = raw_syscall(__NR_prlimit64, 0, RLIMIT_STACK, (long)&limit, 0, 0);
	}
	if (ret == 0)
		ret = raw_syscall(__NR_personality, old | ADDR_NO_RANDOMIZE, 0, 0, 0, 0);
	if (ret < 0)
		child_fail(c, "have no randomization", ret);
}

IN_CHILD static void visit_main(void *arg)
{
	struct child *c = arg;

	c->visit(c->visit_arg);
	for (;;)
		raw_syscall(__NR_exit, 0, 0, 0, 0, 0);
}

IN_CHILD static void visit(struct child *c)
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_UNTRACED | CLONE_CHILD_CLEARTID,
		.child_tid = (uintptr_t)&c->visiting,
		.stack = (uintptr_t)c->visit_stack,
		.stack_size = VISIT_STACK,
	};

	if (clone_vm(&args, sizeof(args), visit_main, c) < 0)
		raw_syscall(__NR_exit, 125, 0, 0, 0, 0);
}

/*
 * Until the engine says that all is ready, or ends. Descriptors are shared with it up to here: what it opened meanwhile is
 * there, and the other end of the pipe would not be closed by its end.
 */
IN_CHILD static void await_go(struct child *c)
{
	char byte = VISIT;

	while (byte == VISIT) {
		struct pollfd p[2] = { { .fd = c->go, .events = POLLIN }, { .fd = c->self_pidfd, .events = POLLIN } };

		while (!p[0].revents && !p[1].revents)
			raw_syscall(__NR_poll, (long)p, ARRAY_SIZE(p), -1, 0, 0);
		if (p[1].revents || raw_syscall(__NR_read, c->go, (long)&byte, 1, 0, 0) != 1)
			raw_syscall(__NR_exit, 126, 0, 0, 0, 0);
		if (byte == VISIT)
			visit(c);
	}
	if (raw_syscall(__NR_unshare, CLONE_FILES, 0, 0, 0, 0) < 0)
		raw_syscall(__NR_exit, 126, 0, 0, 0, 0);
}

/* Runs in the new process. */
IN_CHILD static void child_main(void *arg)
{
	struct child *c = arg;
	static const char *const env[] = { NULL };
	long ret;

	join_namespaces(c);
	await_go(c);
	enter_namespaces(c);
	for (size_t i = 0; i < ARRAY_SIZE(c->inherit); i++)
		raw_syscall(__NR_fcntl, c->inherit[i], F_SETFD, 0, 0, 0);
	if (c->fixed_layout)
		fix_layout(c);
	if (c->in_user_ns)
		keep_capabilities(c);
	ret = raw_syscall(__NR_execveat, c->elf_fd, (long)"", (long)c->argv, (long)env, AT_EMPTY_PATH);
	/* ETXTBSY: another thread of the host forked while we had the file open for writing; that child is about to exec. */
	for (int i = 0; ret == -ETXTBSY && i < EXEC_TRIES; i++) {
		const struct timespec ts = { 0, 1000000 };

		raw_syscall(__NR_nanosleep, (long)&ts, 0, 0, 0, 0);
		ret = raw_syscall(__NR_execveat, c->elf_fd, (long)"", (long)c->argv, (long)env, AT_EMPTY_PATH);
	}
	child_fail(c, "execute the restorer", ret);
}

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
		return clone_vm(args, sizeof(*args), child_main, c);
	own = op_alloc(op, ((size_t)MAX(n_own, 0) + 1) * sizeof(*own));
	if (!own || getgroups(n_own, own) != n_own)
		return -ENOMEM;
	if (syscall(SYS_setgroups, n, groups) < 0)
		return -errno;
	pid = clone_vm(args, sizeof(*args), child_main, c);
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

/* Children that were forked a moment ago, of which we did not hear yet. They are ours, too: they are traced. */
static void kill_unknown(struct op *op, const struct new_task *t)
{
	struct proc_numbers children = { 0 };

	if (proc_list_children(op, t->pid, &children) != 0)
		op_forget(op);
	for (size_t i = 0; i < children.v.n; i++) {
		bool known = false;

		for (size_t k = 0; k < t->r->n_tasks && !known; k++)
			known = t->r->tasks[k].pid == children.v.v[i];
		if (known)
			continue;
		kill(children.v.v[i], SIGKILL);
		waitpid(children.v.v[i], NULL, __WALL);
	}
}

/*
 * Threads that we trace are ours to reap; the leader's end comes after all of theirs. Those in any order: the last one of the
 * threads of a PID namespace's init ends when the others were waited for.
 */
static void reap(struct new_task *t)
{
	bool more = true;

	for (unsigned round = 0; more; round++) {
		more = false;
		for (size_t i = 1; i < t->n_threads; i++) {
			struct new_thread *th = &t->threads[i];
			int status = 0;
			pid_t got;

			if (!th->tid || th->gone)
				continue;
			got = waitpid(th->tid, &status, __WALL | WNOHANG);
			th->gone = got < 0 ? errno != EINTR : got > 0 && !WIFSTOPPED(status);
			more = more || !th->gone;
		}
		if (more)
			usleep(round < 20 ? 20 : 500);
	}
	while (waitpid(t->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	t->pid = 0;
}

void restore_kill(struct op *op, struct restore *r)
{
	bool init_last = ns_clone_flags(&r->s) & CLONE_NEWPID || (r->s.extra && r->s.extra->n_nested_pids);

	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].pid && r->tasks[i].n_kids_born < r->tasks[i].n_kids)
			kill_unknown(op, &r->tasks[i]);
	/* A process that we trace keeps its number until we have waited for it. */
	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].pid)
			kill(r->tasks[i].pid, SIGKILL);
	/*
	 * Parents first: what a dead parent leaves goes to the next subreaper. Where that is our own process, what was waited
	 * for before would become a zombie of ours, which nobody knows of; so do the zombies of the tree. The init of a PID
	 * namespace is the subreaper of all in there, and ends when all of them have: it comes last.
	 */
	for (size_t i = 0; i < r->n_tasks; i++) {
		struct new_task *t = &r->tasks[init_last ? r->n_tasks - 1 - i : i];

		if (t->pid)
			reap(t);
	}
	for (size_t i = 0; i < r->n_tasks; i++)
		if (r->tasks[i].zombie)
			waitpid(r->tasks[i].zombie, NULL, __WALL | WNOHANG);
	r->pid = 0;
}
