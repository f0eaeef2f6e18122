// SPDX-License-Identifier: MIT
/* The service: listens, and has a worker for each client. */
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/base/base.h"
#include "lib/rpc/rpc.h"

enum { BACKLOG = 16, MODE = 0666 };

static void say(const struct rpc_service *s, enum ckpt_log_level level, const char *fmt, ...) PRINTF_LIKE(3, 4);
static void say(const struct rpc_service *s, enum ckpt_log_level level, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	s->say(s->arg, level, text);
}

static int say_errno(const struct rpc_service *s, const char *what)
{
	say(s, CKPT_LOG_ERROR, "%s %s: %s", what, s->path, strerror(errno));
	return -1;
}

/* ------------------------------------------------------------------------------------------------- listening */

/* An address has room for 107 bytes: the folder is named by its descriptor. */
static int bind_to(const struct rpc_service *s, int fd)
{
	const char *slash = strrchr(s->path, '/');
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	_cleanup_free_ char *folder = slash ? strndup(s->path, (size_t)(slash + 1 - s->path)) : strdup(".");
	_cleanup_close_ int dir = folder ? openat(s->dir >= 0 ? s->dir : AT_FDCWD, folder, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
	const char *name = slash ? slash + 1 : s->path;
	struct stat st;

	if (dir < 0)
		return -1;
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		if (!S_ISSOCK(st.st_mode)) {
			errno = EEXIST;
			return -1;
		}
		unlinkat(dir, name, 0);
	}
	if (snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", dir, name) >= (int)sizeof(addr.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -1;
	return fchmodat(dir, name, MODE, 0);
}

static int start_listening(const struct rpc_service *s)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return say_errno(s, "no socket for");
	if (bind_to(s, fd) < 0 || listen(fd, BACKLOG) < 0) {
		say_errno(s, "cannot listen at");
		close(fd);
		return -1;
	}
	return fd;
}

/* ---------------------------------------------------------------------------------------------------- workers */

static int take_groups(int sock)
{
	socklen_t len = 0;
	_cleanup_free_ gid_t *groups = NULL;

	if (getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, NULL, &len) < 0 && errno != ERANGE)
		return -1;
	groups = malloc(len + 1);
	if (!groups || (len && getsockopt(sock, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0))
		return -1;
	return setgroups(len / sizeof(*groups), groups);
}

/* From here on we may what the client may, if that is not root. */
static int become_client(const struct rpc_service *s, int sock)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0) {
		say(s, CKPT_LOG_ERROR, "a client without credentials: %s", strerror(errno));
		return -1;
	}
	say(s, CKPT_LOG_INFO, "a request of process %d, user %u", (int)cred.pid, cred.uid);
	if (cred.uid == 0 && geteuid() == 0)
		return 0;
	if (geteuid() != 0 && cred.uid == geteuid())
		return 0; /* we are no more than that already */
	if (take_groups(sock) == 0 && setresgid(cred.gid, cred.gid, cred.gid) == 0 && setresuid(cred.uid, cred.uid, cred.uid) == 0)
		return 0;
	say(s, CKPT_LOG_ERROR, "process %d, user %u: cannot become that user: %s", (int)cred.pid, cred.uid, strerror(errno));
	return -1;
}

/* Everything that waits is taken away; who is waited for by a worker is that one's child. */
static void reap(void)
{
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
}

static int work(const struct rpc_service *s, int sock, const sigset_t *mask)
{
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_SETMASK, mask, NULL);
	if (become_client(s, sock) != 0) {
		close(sock);
		return 255;
	}
	return rpc_work(sock, &s->conf);
}

/* ------------------------------------------------------------------------------------------------------- loop */

static void wake(int sig)
{
	(void)sig;
}

/* Signals come while we wait, and only then, so that none is missed. */
static void hold_signals(sigset_t *old)
{
	static const int signals[] = { SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT };
	struct sigaction act = { .sa_handler = wake };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(signals); i++)
		sigaddset(&set, signals[i]);
	sigaction(SIGCHLD, &act, NULL);
	sigprocmask(SIG_BLOCK, &set, old);
}

/* Returns a connection, or -1. */
static int wait_for_client(int listener, const sigset_t *mask)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	return ppoll(&p, 1, NULL, mask) > 0 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
}

static int loop(const struct rpc_service *s, int listener, const sigset_t *mask, bool *worker)
{
	while (!s->stop(s->arg)) {
		int sock = wait_for_client(listener, mask);
		pid_t pid = sock < 0 ? -1 : fork();

		if (pid == 0) {
			*worker = true;
			close(listener);
			return work(s, sock, mask);
		}
		if (sock >= 0 && pid < 0)
			say(s, CKPT_LOG_ERROR, "no process for a client: %s", strerror(errno));
		if (sock >= 0)
			close(sock);
		reap();
	}
	return 0;
}

int rpc_serve(const struct rpc_service *s)
{
	int listener = start_listening(s), r;
	bool worker = false;
	sigset_t old;

	if (listener < 0)
		return -1;
	hold_signals(&old);
	if (s->ready)
		s->ready(s->arg);
	r = loop(s, listener, &old, &worker);
	if (worker)
		return r;
	close(listener);
	if (unlinkat(s->dir >= 0 ? s->dir : AT_FDCWD, s->path, 0) < 0)
		say(s, CKPT_LOG_WARN, "cannot remove %s: %s", s->path, strerror(errno));
	sigprocmask(SIG_SETMASK, &old, NULL);
	return r;
}
