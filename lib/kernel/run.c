/* SPDX-License-Identifier: MIT */
#include "lib/kernel/run.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>

#include "lib/base/base.h"
#include "lib/kernel/sys.h"

#define FIRST_OTHER_FD 3

__attribute__((noreturn)) static void execute(char *const argv[], int in, int out)
{
	char *const envp[] = { NULL };
	sigset_t none;

	/* Neither may be in the way of the other's new number. */
	in = fcntl(in, F_DUPFD, FIRST_OTHER_FD);
	out = out < 0 ? open("/dev/null", O_WRONLY) : out;
	out = fcntl(out, F_DUPFD, FIRST_OTHER_FD);
	if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
		_exit(127);
	sys_close_range(FIRST_OTHER_FD, ~0u, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(argv[0], argv, envp);
	_exit(127);
}

static int wait_for(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, __WALL) < 0)
		if (errno != EINTR)
			return -1;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* The process between has no exit signal; a program that is executed gets one again. */
__attribute__((noreturn)) static void between(char *const argv[], int in, int out)
{
	pid_t pid = sys_fork_quiet(NULL);

	if (pid == 0)
		execute(argv, in, out);
	_exit(pid < 0 ? 127 : wait_for(pid));
}

/* Its input is a file in memory: a pipe could be too small for it. */
int run_program(char *const argv[], const void *input, size_t n, int out)
{
	_cleanup_close_ int in = sys_memfd_create("input", MFD_CLOEXEC);
	struct clone_args args = { .flags = CLONE_CLEAR_SIGHAND };
	sigset_t all, old;
	pid_t pid;

	if (in < 0 || write(in, input, n) != (ssize_t)n || lseek(in, 0, SEEK_SET) < 0)
		return -1;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_clone3(&args, sizeof(args));
	if (pid < 0 && errno == EINVAL) /* before 5.5; what is executed has no handlers anyway */
		pid = sys_fork_quiet(NULL);
	if (pid == 0)
		between(argv, in, out);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -1 : wait_for(pid);
}
