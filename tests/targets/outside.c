// SPDX-License-Identifier: MIT
/* What is shared with a process that is no child: made with CLONE_PARENT, so that it is our sibling. */
#include "target.h"

static char stack[65536] __attribute__((aligned(16)));
static pid_t self;

/* It shares our memory: system calls only. */
static int sibling(void *arg)
{
	struct timespec ts = { 0, 5000000 };

	(void)arg;
	while (syscall(SYS_kill, self, 0) == 0)
		syscall(SYS_nanosleep, &ts, NULL);
	syscall(SYS_exit, 0);
	return 0;
}

static void share(int flags)
{
	self = getpid();
	CHECK(clone(sibling, stack + sizeof(stack), flags | CLONE_PARENT | SIGCHLD, NULL) > 0);
	t_wait();
}

static void memory(void)
{
	share(CLONE_VM);
}

static void files(void)
{
	share(CLONE_FILES);
}

static void folders(void)
{
	share(CLONE_FS);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = { { "memory", memory }, { "files", files }, { "folders", folders } };

	T_RUN(variants, t_init(argc, argv));
}
