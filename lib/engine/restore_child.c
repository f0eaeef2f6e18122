/* SPDX-License-Identifier: MIT */
/*
 * The new process. It shares our memory and descriptors until it executes the restorer (as posix_spawn does), so that a large
 * host is not copied, and makes raw system calls on prepared data only, because the host may have other threads. Born into the
 * namespaces that the tree is to have, it waits there while they are filled and everything else is prepared.
 */
#include "lib/engine/restore_child.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/sys.h"

#define EXEC_TRIES 50
#define SMALL_STACK (8u << 20)

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
IN_CHILD void restore_child_main(void *arg)
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
