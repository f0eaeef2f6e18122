/* SPDX-License-Identifier: MIT */
/*
 * It shares our memory, too (what it would copy may be large), and so makes raw system calls only. Somebody who may trace it
 * could write to our memory: it must not be made in a namespace in which there are others already.
 */
#include "lib/kernel/depot.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/sys.h"

#define STACK (16u << 10)
#define IN_CHILD __attribute__((no_sanitize("address", "undefined", "thread")))

struct depot {
	char *stack;
	pid_t pid;
	int user_ns, ready;
	long parent;
	volatile long err;
};

IN_CHILD static void depot_main(void *arg)
{
	static const uint64_t one = 1;
	struct depot *d = arg;

	raw_syscall(__NR_prctl, PR_SET_NAME, (long)"ckpt-depot", 0, 0, 0);
	d->err = raw_syscall(__NR_setns, d->user_ns, CLONE_NEWUSER, 0, 0, 0);
	raw_syscall(__NR_write, d->ready, (long)&one, sizeof(one), 0, 0);
	stay_while(d->parent);
}

static int await(struct op *op, struct depot *d, int pidfd)
{
	struct pollfd p[] = { { .fd = d->ready, .events = POLLIN }, { .fd = pidfd, .events = POLLIN } };

	while (poll(p, 2, -1) < 0)
		if (errno != EINTR)
			return op_errno(op, errno, NULL, "wait for a process");
	if (!(p[0].revents & POLLIN))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "namespace"), "a process in the user namespace of the tree was killed");
	return d->err ? op_errno(op, (int)-d->err, AT(.kind = "namespace"), "enter the user namespace of the tree") : 0;
}

static long start(struct depot *d, int *pidfd)
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD,
		.pidfd = (uintptr_t)pidfd,
		.stack = (uintptr_t)d->stack,
		.stack_size = STACK,
	};
	sigset_t all, old;
	long pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = clone_vm(&args, sizeof(args), depot_main, d);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

int depot_open(struct op *op, int user_ns, struct depot **ret, int *pidfd)
{
	struct depot *d = op_new(op, struct depot);
	long pid;
	int r;

	if (!d)
		return CKPT_E_NOMEM;
	*d = (struct depot){ .user_ns = user_ns, .parent = getpid() };
	d->stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (d->stack == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate a stack");
	d->ready = eventfd(0, EFD_CLOEXEC);
	pid = d->ready < 0 ? -errno : start(d, pidfd);
	if (pid < 0) {
		close_fd_p(&d->ready);
		munmap(d->stack, STACK);
		return op_errno(op, (int)-pid, NULL, "make a process");
	}
	d->pid = (pid_t)pid;
	r = await(op, d, *pidfd);
	close(d->ready);
	if (r) {
		depot_close(d);
		close_fd_p(pidfd);
		*pidfd = -1;
		return r;
	}
	*ret = d;
	return 0;
}

void depot_close(struct depot *d)
{
	if (!d)
		return;
	kill(d->pid, SIGKILL);
	while (waitpid(d->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	munmap(d->stack, STACK);
}
