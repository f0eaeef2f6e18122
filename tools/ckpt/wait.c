// SPDX-License-Identifier: MIT
/*
 * A restored program that was started in the foreground looks to whoever started us as if we were it: signals are passed
 * on, the terminal is its, it stops and continues with us, and we end as it ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli.h"

struct job {
	pid_t root;
	int tty;		/* our controlling terminal, or -1 */
	bool lent;		/* its foreground was given to the group of the root task */
	sigset_t waited;	/* blocked, and taken one by one */
};

static void wait_set(sigset_t *set)
{
	static const int signals[] = { SIGTERM, SIGINT,	  SIGHUP,  SIGQUIT, SIGUSR1,
				       SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP, SIGCHLD };
	struct sigaction act;

	sigemptyset(set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		/* What our caller has us ignore (nohup, a background job of a script) stays ignored. */
		if (sigaction(signals[i], NULL, &act) == 0 && act.sa_handler != SIG_IGN)
			sigaddset(set, signals[i]);
}

static bool leads_group(pid_t root)
{
	return getpgid(root) == root && root != getpgrp();
}

/* Being in the background, we would be stopped for touching the terminal; there is nobody to mind. */
static void set_foreground(int tty, pid_t group)
{
	sigset_t ttou, old;

	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	sigprocmask(SIG_BLOCK, &ttou, &old);
	tcsetpgrp(tty, group);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void lend_terminal(struct job *job)
{
	if (job->tty < 0 || !leads_group(job->root) || getsid(job->root) != getsid(0))
		return;
	if (tcgetpgrp(job->tty) != getpgrp())
		return;
	set_foreground(job->tty, job->root);
	job->lent = true;
}

static void take_terminal_back(struct job *job)
{
	pid_t now = job->lent ? tcgetpgrp(job->tty) : -1;

	/* Only from the tree: somebody else may have it by now. A group that is empty has no session. */
	if (job->lent && now != getpgrp() && (now == job->root || getpgid(now) < 0))
		set_foreground(job->tty, getpgrp());
	job->lent = false;
}

static void stop_like_root(struct job *job, int sig)
{
	bool lent = job->lent;
	sigset_t set;

	/* Without a terminal nobody could continue us; then whoever stopped the root task continues it. */
	if (job->tty < 0 || (!lent && tcgetpgrp(job->tty) != getpgrp()))
		return;
	take_terminal_back(job);
	if (sig == SIGSTOP) {
		raise(sig);
		return;
	}
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	/* A stop from the keyboard is meant for the whole job, as if the terminal had never been lent. */
	kill(lent ? 0 : getpid(), sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	/* Here we were continued. SIGCONT is blocked, so it waits for the loop, which passes it on. */
	if (sigismember(&job->waited, sig))
		sigprocmask(SIG_BLOCK, &set, NULL);
}

static void pass_on(struct job *job, const siginfo_t *info)
{
	bool group = leads_group(job->root);

	/* The terminal has sent it to our whole group, of which the root task is a part. */
	if (info->si_code == SI_KERNEL && getpgid(job->root) == getpgrp())
		return;
	if (info->si_signo == SIGCONT) {
		lend_terminal(job);
		kill(group ? -job->root : job->root, SIGCONT);
		return;
	}
	kill(job->root, info->si_signo);
}

static void die_by(int sig)
{
	struct rlimit none = { 0 };
	sigset_t set;

	/* The program left its core dump already, if it wanted one; ours would overwrite it. */
	setrlimit(RLIMIT_CORE, &none);
	prctl(PR_SET_DUMPABLE, 0);
	signal(sig, SIG_DFL);
	sigemptyset(&set);
	sigaddset(&set, sig);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	raise(sig);
}

/* Returns true when the root task has ended, with its status. */
static bool look_after(struct job *job, int *status)
{
	for (;;) {
		pid_t pid = waitpid(-1, status, WNOHANG | WUNTRACED);

		if (pid < 0 && errno == EINTR)
			continue;
		if (pid < 0) {
			*status = 0;
			return true; /* somebody else has reaped it */
		}
		if (pid == 0)
			return false;
		if (pid != job->root)
			continue;
		if (!WIFSTOPPED(*status))
			return true;
		stop_like_root(job, WSTOPSIG(*status));
	}
}

static int wait_until_end(struct job *job)
{
	siginfo_t info;
	int status;

	while (!look_after(job, &status)) {
		if (sigwaitinfo(&job->waited, &info) < 0 || info.si_signo == SIGCHLD)
			continue;
		pass_on(job, &info);
	}
	return status;
}

int wait_for_root(struct cli *cli, pid_t root)
{
	struct job job = { .root = root };
	int status, early;

	wait_set(&job.waited);
	sigprocmask(SIG_BLOCK, &job.waited, NULL);
	early = cancel_signal();
	/* Came too late to cancel: then it is for the program. */
	if (early)
		kill(root, early);
	out_clear_line(&cli->out);
	job.tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	lend_terminal(&job);
	status = wait_until_end(&job);
	take_terminal_back(&job);
	if (job.tty >= 0)
		close(job.tty);
	if (cli->as_criu)
		return 0;
	if (WIFSIGNALED(status)) {
		out_close(cli);
		die_by(WTERMSIG(status));
		return 128 + WTERMSIG(status);
	}
	return WEXITSTATUS(status);
}
