/* SPDX-License-Identifier: MIT */
/*
 * A program that checkpoints itself. A helper process, no descendant of the caller's (it would be part of the tree), makes
 * the dump while the caller waits at a pipe whose other end only the helper holds. The original reads the outcome from it;
 * a restored life reads end of file, from a pipe that is another one than it was.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/base/err.h"
#include "lib/engine/dump.h"

struct outcome {
	int code;
	int eno;
	char message[1024], hint[256];
};

/* In the helper: the dump, and a word on how it went. */
__attribute__((noreturn)) static void helper(struct op *op, pid_t pid, int fd)
{
	struct ckpt_opts opts = *op->opts;
	struct outcome out = { 0 };

	opts.leave_running = true;
	opts.leave_stopped = false;
	op->opts = &opts;
	out.code = dump_run(op, pid);
	if (out.code) {
		out.eno = ckpt_err_errno(op->err);
		snprintf(out.message, sizeof(out.message), "%s", ckpt_err_message(op->err));
		snprintf(out.hint, sizeof(out.hint), "%s", ckpt_err_hint(op->err) ?: "");
	}
	/* The caller may be gone by now, which is nobody's business any more. */
	if (write(fd, &out, sizeof(out)) != sizeof(out))
		_exit(1);
	_exit(0);
}

/* In the child between: a helper that is not in our session, whose number would otherwise be taken for a restore. */
__attribute__((noreturn)) static void fork_helper(struct op *op, pid_t self, const int fds[2], const int go[2])
{
	char c;
	pid_t pid;

	setsid();
	pid = fork();
	if (pid == 0) {
		close(fds[0]);
		close(go[1]);
		/* Until the child between is gone from the tree that is dumped. */
		while (read(go[0], &c, 1) < 0 && errno == EINTR)
			;
		close(go[0]);
		helper(op, self, fds[1]);
	}
	_exit(pid < 0);
}

/* Two forks and an end in between: the helper is adopted by somebody above. */
static int start_helper(struct op *op, pid_t self, const int fds[2])
{
	_cleanup_close_ int go_write = -1;
	pid_t child;
	int go[2], status = 0;

	if (pipe2(go, O_CLOEXEC) < 0)
		return op_errno(op, errno, NULL, "make a pipe");
	child = fork();
	if (child == 0)
		fork_helper(op, self, fds, go);
	close(go[0]);
	go_write = go[1];
	if (child < 0)
		return op_errno(op, errno, NULL, "start the process that makes the checkpoint");
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return op_fail(op, CKPT_E_SYS, NULL, "the process that makes the checkpoint could not be started");
	/* The end of the pipe, when we close it, is the word; nothing is written that could raise SIGPIPE. */
	return 0;
}

static int await_outcome(struct op *op, int fd, ino_t ino)
{
	struct outcome out = { 0 };
	struct stat st;
	size_t got = 0;

	while (got < sizeof(out)) {
		ssize_t n = read(fd, (char *)&out + got, sizeof(out) - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	if (got == sizeof(out)) {
		if (!out.code)
			return 0;
		op_fail(op, out.code, AT(.pid = getpid(), .hint = out.hint[0] ? out.hint : NULL), "%s", out.message);
		op->err->eno = out.eno;
		return out.code;
	}
	if (fstat(fd, &st) == 0 && st.st_ino != ino)
		return 1;
	return op_fail(op, CKPT_E_INTERNAL, AT(.pid = getpid()), "the process that made the checkpoint ended early");
}

int dump_self_run(struct op *op)
{
	_cleanup_close_ int rd = -1;
	struct stat st;
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return op_errno(op, errno, NULL, "make a pipe");
	rd = fds[0];
	if (fstat(rd, &st) < 0) {
		close(fds[1]);
		return op_errno(op, errno, NULL, "look at a pipe");
	}
	r = start_helper(op, getpid(), fds);
	close(fds[1]);
	return r ?: await_outcome(op, rd, st.st_ino);
}
