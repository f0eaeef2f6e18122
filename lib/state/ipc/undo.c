/* SPDX-License-Identifier: MIT */
/*
 * What the kernel undoes on semaphores when a process ends (SEM_UNDO). The values are shown to nobody, and cannot be had by
 * trial without changing semaphores under those who wait for them. Visible is only whether a thread has a list of them at
 * all: kcmp(2) tells it from a process that has none. A process with one thread gets one by using SEM_UNDO; one with
 * several has always one, since they share it.
 */
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/sys.h"
#include "lib/state/ipc/core.h"

#define STACK 16384

/* Shares our memory: system calls only. */
__attribute__((no_sanitize("address", "undefined", "thread"))) static void idle(void *arg)
{
	stay_while((long)(intptr_t)arg);
}

/* A process that has no list, for it was made just now. */
static long start_idle(void *stack, int *pidfd)
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_FILES | CLONE_PIDFD, .pidfd = (uintptr_t)pidfd, .stack = (uintptr_t)stack, .stack_size = STACK,
	};
	sigset_t all, old;
	long pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = clone_vm(&args, sizeof(args), idle, (void *)(intptr_t)getpid());
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

static int refuse(struct op *op, pid_t pid)
{
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = pid, .kind = "semaphores",
			  .hint = "with --external sem-undo[] the checkpoint is made without them"),
		       "task %d has used semaphores with SEM_UNDO: what the kernel would undo cannot be read by anybody", pid);
}

static int judge(struct op *op, const struct snapshot *s, const struct snap_task *t)
{
	bool concerned = s->ipc->own || s->ipc->sems.n;

	if (file_is_external(op, "sem-undo[]"))
		log_warn(op, "task %d: what the kernel would undo on semaphores (SEM_UNDO) is left out", t->host);
	else if (t->threads.n == 1 && concerned)
		return refuse(op, t->host);
	else if (t->threads.n == 1)
		log_warn(op, "task %d has used SEM_UNDO, but was the last to use no semaphore: what the kernel would still undo is not in the checkpoint",
			 t->host);
	else if (concerned)
		log_warn(op, "task %d uses semaphores; whether one of its threads has used SEM_UNDO cannot be told: if so, what the kernel would undo is not in the checkpoint",
			 t->host);
	return 0;
}

static bool has_list(const struct snap_task *t, pid_t other)
{
	for (size_t i = 0; i < t->threads.n; i++)
		if (sys_kcmp(t->threads.v[i].host, other, KCMP_SYSVSEM, 0, 0) > 0)
			return true;
	return false;
}

int ipc_undo_check(struct op *op, struct snapshot *s)
{
	int pidfd = -1, r = 0;
	void *stack;
	long pid;

	if (!s->ipc->sets)
		return 0;
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (stack == MAP_FAILED)
		return op_nomem(op);
	pid = start_idle(stack, &pidfd);
	if (pid < 0)
		r = op_errno(op, (int)-pid, NULL, "make a process");
	for (size_t i = 0; i < s->tasks.n && !r; i++)
		if (has_list(&s->tasks.v[i], (pid_t)pid))
			r = judge(op, s, &s->tasks.v[i]);
	if (pid > 0) {
		sys_pidfd_send_signal(pidfd, SIGKILL, NULL, 0);
		while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
			;
		close(pidfd);
	}
	munmap(stack, STACK);
	return r;
}
