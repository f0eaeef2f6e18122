/* SPDX-License-Identifier: MIT */
/*
 * Dump: bytes in a pseudo terminal are taken out and put back by a process of its own, so that an engine which is killed in
 * that moment takes nothing with it. It is a fork of a program that may have other threads: it makes system calls only.
 * Without a session of its own it could be stopped for touching a terminal in the background; with one, no terminal is its.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/tty/tty.h"

__attribute__((noreturn)) static void keeper(struct tty_job *jobs, size_t n)
{
	setsid();
	for (size_t i = 0; i < n; i++)
		tty_job_run(&jobs[i]);
	_exit(0);
}

static int run(struct op *op, struct tty_job *jobs, size_t n)
{
	sigset_t all, old;
	int status = 0;
	pid_t pid;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_fork_quiet(NULL);
	if (pid == 0)
		keeper(jobs, n);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return op_errno(op, errno, AT(.kind = "terminal"), "start the keeper of terminals");
	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	if (status)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "terminal"), "the keeper of terminals ended with status %d", status);
	return 0;
}

static int judge(struct op *op, const struct terminal *t, const struct tty_job *j)
{
	if (j->err == EBUSY)
		return op_fail(op, CKPT_E_BUSY, AT(.pid = t->where.pid, AT_FD(t->where.fd), .kind = "pty master", .hint = "try again"),
			       "task %d: fd %d: terminal %u has told its master of a change, and that has not listened yet",
			       t->where.pid, t->where.fd, t->index);
	if (j->err)
		return op_errno(op, j->err, AT(.pid = t->where.pid, AT_FD(t->where.fd), .kind = "pty master"),
				"task %d: fd %d: what is queued in terminal %u: cannot %s", t->where.pid, t->where.fd, t->index,
				j->step);
	return 0;
}

static size_t prepare(struct tty_state *ts, struct tty_job *jobs)
{
	size_t n = 0;

	for (size_t i = 0; i < ts->all.n; i++) {
		struct terminal *t = ts->all.v[i];

		if (!t->master)
			continue;
		t->job = &jobs[n++];
		t->job->master = t->master_fd;
		t->job->has_slave = t->slave || t->has_ctty;
		t->job->slave_closed = t->extra->slave_closed;
		t->job->async = t->async.v;
		t->job->n_async = t->async.n;
	}
	return n;
}

int tty_queues_collect(struct op *op, struct snapshot *s)
{
	struct tty_state *ts = s->file_state->tty;
	size_t n = ts->all.n, len = n * sizeof(struct tty_job);
	struct tty_job *jobs;
	int r;

	if (!n)
		return 0;
	jobs = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (jobs == MAP_FAILED)
		return op_errno(op, errno, AT(.kind = "terminal"), "map memory for the contents of terminals");
	n = prepare(ts, jobs);
	r = n ? run(op, jobs, n) : 0;
	for (size_t i = 0; i < ts->all.n && !r; i++) {
		struct terminal *t = ts->all.v[i];

		r = t->job ? judge(op, t, t->job) : 0;
		r = r || !t->job ? r : tty_note_queues(op, ts, t);
		t->job = NULL;
	}
	munmap(jobs, len);
	return r;
}
