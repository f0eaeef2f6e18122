/* SPDX-License-Identifier: MIT */
/*
 * Namespaces of the new process. A time namespace, where our monotonic clock is behind the image's (after a reboot, or on
 * another host): to the program it must go on. A pid namespace, where that was asked for: its PIDs are free there.
 */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "lib/engine/restore_parts.h"
#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/features.h"
#include "lib/kernel/sys.h"
#include "lib/state/ns/ns.h"

#define STACK (32u << 10)
#define NSEC_PER_SEC 1000000000

/* ------------------------------------------------------------------------------------------------- clocks */

static int64_t behind(clockid_t clock, const Timespec *image)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return ((int64_t)image->tv_sec - now.tv_sec) * NSEC_PER_SEC + ((int64_t)image->tv_nsec - now.tv_nsec);
}

static int print_offset(char *buf, size_t n, const char *name, int64_t ns)
{
	int64_t s = ns / NSEC_PER_SEC, rest = ns % NSEC_PER_SEC;

	if (rest < 0) {
		s--;
		rest += NSEC_PER_SEC;
	}
	return snprintf(buf, n, "%s %ld %ld\n", name, s, rest);
}

int restore_clocks(struct op *op, struct restore *r)
{
	const struct snap_ns *own = ns_own(&r->s, NS_TIME);
	const TimensEntry *t = r->s.timens;
	int64_t mono, boot;
	int n;

	if (!t || (own && own->joined))
		return 0;
	if (!t->monotonic || !t->boottime || t->monotonic->tv_nsec >= NSEC_PER_SEC || t->boottime->tv_nsec >= NSEC_PER_SEC ||
	    t->monotonic->tv_sec > INT32_MAX || t->boottime->tv_sec > INT32_MAX)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "clock"), "timens-0.img makes no sense");
	mono = behind(CLOCK_MONOTONIC, t->monotonic);
	boot = behind(CLOCK_BOOTTIME, t->boottime);
	if (!own && mono <= 0 && boot <= 0)
		return 0;
	if (!feature_has(op->features, FEATURE_TIMENS))
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "clock"),
			       "the clocks of the checkpoint are other ones than ours, and the kernel has no time namespaces");
	if (!own)
		log_info(op, "the monotonic clock is %ld s behind the checkpoint's: the task gets a time namespace", mono / NSEC_PER_SEC);
	n = print_offset(r->timens, sizeof(r->timens), "monotonic", mono + ns_own_clock_offset(CLOCK_MONOTONIC));
	print_offset(r->timens + n, sizeof(r->timens) - (size_t)n, "boottime", boot + ns_own_clock_offset(CLOCK_BOOTTIME));
	return 0;
}

/* ----------------------------------------------------------------------------------------- a pid namespace */

struct init_child {
	int elf_fd, ready, go;
	void *stack; /* of init */
	const char *argv[5];
	volatile pid_t pid; /* of init, as we see it */
	volatile int err;
};

/* What runs here shares our memory: raw system calls on prepared data only. */
#define IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread")))

IN_CHILD static void init_exec(void *arg)
{
	static const char *const env[] = { NULL };
	struct init_child *c = arg;

	raw_syscall(__NR_fcntl, c->ready, F_SETFD, 0, 0, 0);
	raw_syscall(__NR_fcntl, c->go, F_SETFD, 0, 0, 0);
	c->err = (int)-raw_syscall(__NR_execveat, c->elf_fd, (long)"", (long)c->argv, (long)env, AT_EMPTY_PATH);
	raw_syscall(__NR_exit, 127, 0, 0, 0, 0);
}

/*
 * In between, so that init is not our child: whoever adopts orphans reaps it when it ends, long after this call. It stays
 * until init has executed its program (CLONE_VFORK), since it shares our memory.
 */
IN_CHILD static void init_parent(void *arg)
{
	struct init_child *c = arg;
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_VM | CLONE_VFORK,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)c->stack,
		.stack_size = STACK,
	};
	long pid = clone_vm(&args, sizeof(args), init_exec, c);

	if (pid < 0)
		c->err = (int)-pid;
	c->pid = (pid_t)pid;
	raw_syscall(__NR_exit, 0, 0, 0, 0, 0);
}

static int start_init(struct op *op, struct init_child *c, void *stacks)
{
	struct clone_args args = { .flags = CLONE_VM | CLONE_VFORK, .stack = (uintptr_t)stacks, .stack_size = STACK };
	sigset_t all, old;
	long pid;

	c->stack = (char *)stacks + STACK;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = clone_vm(&args, sizeof(args), init_parent, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return op_errno(op, (int)-pid, NULL, "make a process");
	while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	return c->err ? op_errno(op, c->err, AT(.kind = "namespace"), "make a pid namespace") : 0;
}

static int await_init(struct op *op, struct restore *r, int ready)
{
	char byte;
	ssize_t n = read(ready, &byte, 1); /* the end of init is the end of the pipe */

	r->own_pidns = open("/proc/thread-self/ns/pid_for_children", O_RDONLY | O_CLOEXEC);
	if (r->own_pidns < 0)
		return op_errno(op, errno, NULL, "open our own pid namespace");
	return n == 1 ? 0 : op_fail(op, CKPT_E_SYS, AT(.kind = "namespace"), "the init of the new pid namespace could not mount its /proc");
}

static int run_init(struct op *op, struct restore *r, const int ready[2], const int go[2])
{
	struct init_child *c = op_new(op, struct init_child);
	char(*text)[16] = op_alloc(op, 3 * sizeof(*text));
	void *stacks;
	int ret;

	if (!c || !text)
		return CKPT_E_NOMEM;
	snprintf(text[0], sizeof(*text), "%d", ready[1]);
	snprintf(text[1], sizeof(*text), "%d", go[0]);
	snprintf(text[2], sizeof(*text), "%d", r->s.tasks.v[0].pid);
	*c = (struct init_child){
		.elf_fd = r->elf_fd, .ready = ready[1], .go = go[0], .argv = { "ckpt-init", text[0], text[1], text[2], NULL },
	};
	stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stacks == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate a stack");
	ret = start_init(op, c, stacks);
	munmap(stacks, 2 * STACK);
	if (ret)
		return ret;
	r->init_pidfd = sys_pidfd_open(c->pid, 0);
	return r->init_pidfd >= 0 ? 0 : op_errno(op, errno, NULL, "open the init of the new pid namespace");
}

/* A PID namespace that was given: there are others in it, and an init. */
static int given_pidns(const struct restore *r)
{
	const struct snap_ns *ns = ns_own(&r->s, NS_PID);

	return ns && ns->joined ? ns->fd : -1;
}

static int open_home(struct op *op, struct restore *r)
{
	if (given_pidns(r) < 0)
		return 0;
	r->own_pidns = open("/proc/thread-self/ns/pid_for_children", O_RDONLY | O_CLOEXEC);
	return r->own_pidns >= 0 ? 0 : op_errno(op, errno, NULL, "open our own pid namespace");
}

int restore_pidns(struct op *op, struct restore *r)
{
	int ready[2], go[2], ret;

	if (!op->opts->new_pidns)
		return open_home(op, r);
	if (r->s.tasks.v[0].pid == 1)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = 1, .kind = "namespace"),
			       "task 1 cannot be restored into a pid namespace that has our init");
	if (pipe2(ready, O_CLOEXEC) < 0)
		return op_errno(op, errno, NULL, "make a pipe");
	if (pipe2(go, O_CLOEXEC) < 0) {
		close(ready[0]);
		close(ready[1]);
		return op_errno(op, errno, NULL, "make a pipe");
	}
	r->init_go = go[1];
	ret = run_init(op, r, ready, go);
	close(ready[1]);
	close(go[0]);
	ret = ret ?: await_init(op, r, ready[0]);
	close(ready[0]);
	return ret;
}

int restore_pidns_enter(struct op *op, struct restore *r, bool enter)
{
	int there = r->init_pidfd >= 0 ? r->init_pidfd : given_pidns(r);

	if (there < 0 || setns(enter ? there : r->own_pidns, CLONE_NEWPID) == 0)
		return 0;
	return op_errno(op, errno, AT(.kind = "namespace"), enter ? "enter the new pid namespace" : "come back from the new pid namespace");
}

int restore_pidns_go(struct op *op, struct restore *r)
{
	if (r->init_pidfd < 0 || write(r->init_go, "", 1) == 1)
		return 0;
	return op_errno(op, errno, AT(.kind = "namespace"), "the init of the new pid namespace ended");
}

void restore_pidns_done(struct restore *r, bool success)
{
	if (r->init_pidfd >= 0 && !success)
		sys_pidfd_send_signal(r->init_pidfd, SIGKILL, NULL, 0);
	close_fd_p(&r->init_pidfd);
	close_fd_p(&r->init_go);
	close_fd_p(&r->own_pidns);
	r->init_pidfd = r->init_go = r->own_pidns = -1;
}
