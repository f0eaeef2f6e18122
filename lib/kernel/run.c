/* SPDX-License-Identifier: MIT */
#include "lib/kernel/run.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
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

/* A child of whose end nobody hears, with all signals blocked; the caller's mask goes to @old. */
static pid_t fork_between(sigset_t *old)
{
	struct clone_args args = { .flags = CLONE_CLEAR_SIGHAND };
	sigset_t all;
	pid_t pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, old);
	pid = sys_clone3(&args, sizeof(args));
	if (pid < 0 && errno == EINVAL) /* before 5.5; what is executed has no handlers anyway */
		pid = sys_fork_quiet(NULL);
	return pid;
}

/* Its input is a file in memory: a pipe could be too small for it. */
int run_program(char *const argv[], const void *input, size_t n, int out)
{
	_cleanup_close_ int in = sys_memfd_create("input", MFD_CLOEXEC);
	sigset_t old;
	pid_t pid;

	if (in < 0 || write(in, input, n) != (ssize_t)n || lseek(in, 0, SEEK_SET) < 0)
		return -1;
	pid = fork_between(&old);
	if (pid == 0)
		between(argv, in, out);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -1 : wait_for(pid);
}

/* ----------------------------------------------------------------------------------------------- scripts */

struct script {
	const char *path;
	char *const *envp;
	const int *ns;
	size_t n_ns;
};

__attribute__((noreturn)) static void execute_script(const struct script *s)
{
	char *const argv[] = { (char *)s->path, NULL };
	int null = open("/dev/null", O_RDONLY);
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < s->n_ns; i++)
		if (s->ns[i] >= 0 && setns(s->ns[i], 0) < 0)
			_exit(126);
	if (null < 0 || dup2(null, 0) < 0)
		_exit(126);
	sys_close_range(FIRST_OTHER_FD, ~0u, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execvpe(s->path, argv, s->envp);
	_exit(127);
}

__attribute__((noreturn)) static void between_script(const struct script *s)
{
	pid_t pid;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pid = sys_fork_quiet(NULL);
	if (pid == 0)
		execute_script(s);
	_exit(pid < 0 ? 126 : wait_for(pid));
}

enum { LOOK_EVERY_MS = 50 };

static int wait_or_kill(pid_t pid, run_stop_fn stop, void *arg)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(pid, 0);
	struct pollfd p = { .fd = pidfd, .events = POLLIN };

	while (pidfd >= 0 && poll(&p, 1, LOOK_EVERY_MS) <= 0) {
		if (!stop(arg))
			continue;
		kill(pid, SIGKILL);
		break;
	}
	return wait_for(pid);
}

int run_script(const char *path, char *const envp[], const int ns[], size_t n, run_stop_fn stop, void *arg)
{
	const struct script script = { .path = path, .envp = envp, .ns = ns, .n_ns = n };
	sigset_t old;
	pid_t pid = fork_between(&old);

	if (pid == 0)
		between_script(&script);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -1 : wait_or_kill(pid, stop, arg);
}
