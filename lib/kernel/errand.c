/* SPDX-License-Identifier: MIT */
/*
 * CLONE_VM | CLONE_VFORK | CLONE_FILES: the thread that asks stands still until the process has ended, so that both may use
 * the same thread-local storage, as a vfork does. Without CLONE_FS and CLONE_THREAD, which the kernel wants for entering
 * namespaces of users and mounts.
 */
#include "lib/kernel/errand.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/uapi.h"

#define STACK (512u << 10)

struct errand {
	struct op *op;
	const struct errand_where *where;
	int (*fn)(struct op *op, void *arg);
	void *arg;
	char *stacks;
	bool done; /* ret is what it returned */
	int ret;
};

static const struct {
	size_t field;
	int flag;
	const char *name;
} kinds[] = {
	{ offsetof(struct errand_where, user), CLONE_NEWUSER, "user" },
	{ offsetof(struct errand_where, pid), CLONE_NEWPID, "pid" },
	{ offsetof(struct errand_where, mnt), CLONE_NEWNS, "mount" },
	{ offsetof(struct errand_where, net), CLONE_NEWNET, "network" },
	{ offsetof(struct errand_where, ipc), CLONE_NEWIPC, "IPC" },
	{ offsetof(struct errand_where, uts), CLONE_NEWUTS, "UTS" },
	{ offsetof(struct errand_where, cgroup), CLONE_NEWCGROUP, "cgroup" },
	{ offsetof(struct errand_where, time), 0x80 /* CLONE_NEWTIME */, "time" },
};

static int enter(struct errand *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		int fd = *(const int *)((const char *)e->where + kinds[i].field);

		if (fd >= 0 && setns(fd, kinds[i].flag) < 0)
			return op_errno(e->op, errno, AT(.kind = "namespace"), "enter the %s namespace of the tree", kinds[i].name);
	}
	/* Whoever is mapped to nobody in there could make no file. EINVAL: the namespace has no root, or nobody yet. */
	if (e->where->user >= 0 && ((setresgid(0, 0, 0) < 0 && errno != EINVAL) || (setresuid(0, 0, 0) < 0 && errno != EINVAL)))
		return op_errno(e->op, errno, AT(.kind = "namespace"), "become root in the user namespace of the tree");
	return 0;
}

static int start(struct errand *e, unsigned level);

/* Not by way of exit(), which is our program's. */
static void end(void)
{
	for (;;)
		raw_syscall(__NR_exit, 0, 0, 0, 0, 0);
}

static void run(void *arg)
{
	struct errand *e = arg;

	e->ret = e->fn(e->op, e->arg);
	e->done = true;
	end();
}

static void go(void *arg)
{
	struct errand *e = arg;
	int r = enter(e);

	/* The pid namespace that was entered is that of children. */
	if (!r && e->where->pid >= 0)
		r = start(e, 1);
	else if (!r)
		r = e->fn(e->op, e->arg);
	if (!e->done)
		e->ret = r;
	e->done = true;
	end();
}

static int start(struct errand *e, unsigned level)
{
	struct clone_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES,
		.stack = (uintptr_t)e->stacks + level * STACK,
		.stack_size = STACK,
	};
	long pid = clone_vm(&args, sizeof(args), level ? run : go, e);

	if (pid < 0)
		return op_errno(e->op, (int)-pid, NULL, "make a process");
	while (waitpid((pid_t)pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	if (e->done)
		return e->ret;
	return op_fail(e->op, CKPT_E_SYS, AT(.kind = "namespace"), "a process in the namespaces of the tree was killed");
}

int errand_run(struct op *op, const struct errand_where *where, int (*fn)(struct op *op, void *arg), void *arg)
{
	/* What a new process sees must not lie in a register: it is written by another one. */
	struct errand *e = op_new(op, struct errand);
	int dumpable = where->user >= 0 ? prctl(PR_GET_DUMPABLE) : 0;
	sigset_t all, old;
	int r;

	if (!e)
		return CKPT_E_NOMEM;
	*e = (struct errand){ .op = op, .where = where, .fn = fn, .arg = arg };
	e->stacks = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (e->stacks == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate a stack");
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	/* What it shares with us is out of reach of those who have all rights in there, or are that user outside. */
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 0);
	r = start(e, 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	munmap(e->stacks, 2 * STACK);
	return r;
}
