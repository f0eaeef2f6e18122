/* SPDX-License-Identifier: MIT */
#include "lib/inject/tracker.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"

#define TRACKER_MAGIC 0x31544b43u /* "CKT1" */
#define BATCH 64		  /* descriptors in a message */
#define PATIENCE_S 2		  /* for the other side of the socket */

struct hello {
	uint32_t magic, n;
	char since[TRACKING_ID];
};

struct entry {
	int32_t pid;
	uint32_t zero;
	uint64_t starttime;
};

/* ---------------------------------------------------------------------------------------------- the list */

struct tracking *tracking_new(pid_t root, uint64_t starttime)
{
	struct tracking *t = calloc(1, sizeof(*t));

	if (t) {
		t->root = root;
		t->starttime = starttime;
	}
	return t;
}

int tracking_add(struct tracking *t, pid_t pid, uint64_t starttime, int uffd)
{
	struct tracked *v = realloc(t->v, (t->n + 1) * sizeof(*v));

	if (!v)
		return -1;
	t->v = v;
	v[t->n++] = (struct tracked){ .pid = pid, .uffd = uffd, .starttime = starttime };
	return 0;
}

struct tracking *tracking_free(struct tracking *t)
{
	for (size_t i = 0; t && i < t->n; i++)
		close_fd_p(&t->v[i].uffd);
	if (t)
		free(t->v);
	free(t);
	return NULL;
}

int tracking_pick(struct tracking *t, pid_t pid, uint64_t starttime)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->v[i].pid == pid && t->v[i].starttime == starttime)
			return TAKE_FD(t->v[i].uffd);
	return -1;
}

void tracking_list_add(struct tracking_list *l, struct tracking *t)
{
	t->next = l->first;
	l->first = t;
}

struct tracking *tracking_list_take(struct tracking_list *l, pid_t root, uint64_t starttime)
{
	for (struct tracking **p = &l->first, *t; (t = *p); p = &t->next)
		if (t->root == root && t->starttime == starttime) {
			*p = t->next;
			t->next = NULL;
			return t;
		}
	return NULL;
}

bool tracking_list_has(const struct tracking_list *l, pid_t root, uint64_t starttime)
{
	for (const struct tracking *t = l->first; t; t = t->next)
		if (t->root == root && t->starttime == starttime)
			return true;
	return false;
}

void tracking_list_free(struct tracking_list *l)
{
	for (struct tracking *t = l->first, *next; t; t = next) {
		next = t->next;
		tracking_free(t);
	}
	l->first = NULL;
}

/* -------------------------------------------------------------------------------------------- the socket */

/* Abstract: it leaves no file, and is gone with its owner. PID namespaces that share a network one are told apart. */
static socklen_t tracker_address(pid_t root, uint64_t starttime, struct sockaddr_un *a)
{
	struct stat ns = { 0 };
	int n;

	stat("/proc/self/ns/pid", &ns);
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	n = snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, "ckpt-tracker/%lu/%d/%lu", (unsigned long)ns.st_ino, root,
		     (unsigned long)starttime);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* Anybody may use a name: only root and ourselves are believed. */
static bool peer_is_ours(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0 && (cred.uid == 0 || cred.uid == geteuid());
}

static void set_patience(int fd)
{
	struct timeval tv = { .tv_sec = PATIENCE_S };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
}

static int tracker_connect(pid_t root, uint64_t starttime)
{
	struct sockaddr_un a;
	socklen_t len = tracker_address(root, starttime, &a);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	set_patience(fd);
	if (connect(fd, (struct sockaddr *)&a, len) < 0 || !peer_is_ours(fd)) {
		close(fd);
		return -1;
	}
	return fd;
}

union control {
	struct cmsghdr head;
	char space[CMSG_SPACE(BATCH * sizeof(int))];
};

static ssize_t send_batch(int fd, const struct tracked *v, size_t n)
{
	struct entry e[BATCH] = { 0 };
	int fds[BATCH];
	union control c = { 0 };
	struct iovec iov = { e, n * sizeof(*e) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = CMSG_SPACE(n * sizeof(int)) };

	for (size_t i = 0; i < n; i++) {
		e[i] = (struct entry){ .pid = v[i].pid, .starttime = v[i].starttime };
		fds[i] = v[i].uffd;
	}
	c.head.cmsg_level = SOL_SOCKET;
	c.head.cmsg_type = SCM_RIGHTS;
	c.head.cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(&c.head), fds, n * sizeof(int));
	return sendmsg(fd, &m, MSG_NOSIGNAL);
}

/* Adds what comes to @t; 0, or -1 when it is not what was promised. */
static int receive_batch(int fd, struct tracking *t)
{
	struct entry e[BATCH];
	int fds[BATCH];
	union control c;
	struct iovec iov = { e, sizeof(e) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	size_t n_fds = 0, n, added = 0;

	if (got <= 0 || m.msg_controllen < CMSG_LEN(sizeof(int)))
		return -1;
	n_fds = (c.head.cmsg_len - CMSG_LEN(0)) / sizeof(int);
	memcpy(fds, CMSG_DATA(&c.head), n_fds * sizeof(int));
	n = (size_t)got / sizeof(*e);
	while (n == n_fds && added < n && !tracking_add(t, e[added].pid, e[added].starttime, fds[added]))
		added++;
	for (size_t i = added; i < n_fds; i++)
		close(fds[i]);
	return added == n && n == n_fds && !(m.msg_flags & MSG_CTRUNC) ? 0 : -1;
}

/* --------------------------------------------------------------------------------------------- the process */

/*
 * Everything here runs in the tracker: a fork of a program that may have had other threads, so that only system calls and
 * plain computation are allowed, no malloc.
 */
struct tracker {
	int listener;
	struct tracking *t;
	struct pollfd *p; /* [0] the listener, then a pidfd for each of t->v */
};

/* Whether everything was handed over, to somebody who says that it arrived. */
static bool hand_over(const struct tracker *k, int fd)
{
	struct hello h = { .magic = TRACKER_MAGIC, .n = (uint32_t)k->t->n };
	char ack;

	memcpy(h.since, k->t->since, sizeof(h.since));
	if (send(fd, &h, sizeof(h), MSG_NOSIGNAL) != sizeof(h))
		return false;
	for (size_t i = 0; i < k->t->n; i += BATCH)
		if (send_batch(fd, &k->t->v[i], MIN(k->t->n - i, (size_t)BATCH)) < 0)
			return false;
	return recv(fd, &ack, 1, 0) == 1;
}

static void answer(const struct tracker *k)
{
	int fd = accept4(k->listener, NULL, NULL, SOCK_CLOEXEC);
	char what = 0;

	if (fd < 0)
		return;
	set_patience(fd);
	if (peer_is_ours(fd) && recv(fd, &what, 1, 0) == 1 && what == 't' && hand_over(k, fd))
		_exit(0); /* closes the descriptors, which the other side has now */
	close(fd);
}

/* A process has ended: what we hold of its memory is of no use, and keeps a little of it. */
static void forget(struct tracker *k, size_t i)
{
	struct tracking *t = k->t;

	close(t->v[i].uffd);
	close(k->p[1 + i].fd);
	t->v[i] = t->v[t->n - 1];
	k->p[1 + i] = k->p[t->n];
	t->n--;
}

__attribute__((noreturn)) static void track(struct tracker *k)
{
	while (k->t->n) {
		if (poll(k->p, k->t->n + 1, -1) < 0)
			continue;
		for (size_t i = k->t->n; i-- > 0;)
			if (k->p[1 + i].revents)
				forget(k, i);
		if (k->p[0].revents)
			answer(k);
	}
	_exit(0);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Closes all but @keep (ascending): nothing of the host stays open, whose other ends may wait for end of file. */
static void close_others(const int *keep, size_t n)
{
	unsigned from = 0;

	for (size_t i = 0; i < n; i++) {
		if ((unsigned)keep[i] > from)
			sys_close_range(from, (unsigned)keep[i] - 1, 0);
		from = (unsigned)keep[i] + 1;
	}
	sys_close_range(from, ~0u, 0);
}

/* Two forks: the tracker is then the child of init, or of whoever adopts orphans, and no zombie of ours at its end. */
static int launch(struct op *op, struct tracker *k, const int *keep, size_t n_keep)
{
	sigset_t all, old;
	pid_t pid;
	int status;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_fork_quiet(NULL);
	if (pid == 0) {
		if (sys_fork_quiet(NULL) == 0) {
			close_others(keep, n_keep);
			setsid(); /* signals to the host's process group are not for us */
			if (chdir("/") < 0)
				_exit(1);
			prctl(PR_SET_NAME, "ckpt-tracker");
			track(k);
		}
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pid < 0)
		return op_errno(op, errno, NULL, "start the process that tracks memory");
	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	return 0;
}

/* Opens the name and a pidfd for each process, and sorts what the tracker will keep. */
static int prepare(struct op *op, struct tracker *k, int *keep, size_t *n_keep)
{
	struct sockaddr_un a;
	socklen_t len = tracker_address(k->t->root, k->t->starttime, &a);

	k->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (k->listener < 0 || bind(k->listener, (struct sockaddr *)&a, len) < 0 || listen(k->listener, 4) < 0)
		return op_errno(op, errno, NULL, "name the process that tracks memory");
	k->p[0] = (struct pollfd){ .fd = k->listener, .events = POLLIN };
	keep[(*n_keep)++] = k->listener;
	for (size_t i = 0; i < k->t->n; i++) {
		int fd = sys_pidfd_open(k->t->v[i].pid, 0);

		if (fd < 0)
			return op_errno(op, errno, AT(.pid = k->t->v[i].pid), "watch process %d", k->t->v[i].pid);
		k->p[1 + i] = (struct pollfd){ .fd = fd, .events = POLLIN };
		keep[(*n_keep)++] = fd;
		keep[(*n_keep)++] = k->t->v[i].uffd;
	}
	qsort(keep, *n_keep, sizeof(*keep), by_number);
	return 0;
}

int tracker_start(struct op *op, struct tracking *t)
{
	struct tracker k = { .listener = -1, .t = t };
	_cleanup_free_ int *keep = calloc(2 * t->n + 1, sizeof(*keep));
	size_t n_keep = 0;
	int r = 0;

	k.p = calloc(t->n + 1, sizeof(*k.p));
	if (!keep || !k.p)
		r = op_nomem(op);
	for (size_t i = 0; !r && i <= t->n; i++)
		k.p[i].fd = -1;
	r = r ?: prepare(op, &k, keep, &n_keep);
	r = r ?: launch(op, &k, keep, n_keep);
	for (size_t i = 1; k.p && i <= t->n; i++)
		close_fd_p(&k.p[i].fd);
	close_fd_p(&k.listener);
	free(k.p);
	tracking_free(t);
	return r;
}

/* ---------------------------------------------------------------------------------------------- the client */

static int take(int fd, struct tracking *t)
{
	struct hello h;
	char end;

	if (send(fd, "t", 1, MSG_NOSIGNAL) != 1 || recv(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != TRACKER_MAGIC)
		return -1;
	memcpy(t->since, h.since, sizeof(t->since));
	t->since[TRACKING_ID - 1] = 0;
	while (t->n < h.n)
		if (receive_batch(fd, t))
			return -1;
	if (t->n != h.n || send(fd, "k", 1, MSG_NOSIGNAL) != 1)
		return -1;
	/* Its end: from then on its name is free again. */
	return recv(fd, &end, 1, 0) == 0 ? 0 : -1;
}

int tracker_take(struct op *op, pid_t root, uint64_t starttime, struct tracking **ret)
{
	_cleanup_close_ int fd = tracker_connect(root, starttime);
	struct tracking *t;

	if (fd < 0)
		return TRACKER_NONE;
	t = tracking_new(root, starttime);
	if (!t)
		return op_nomem(op);
	if (take(fd, t)) {
		log_warn(op, "the process that tracks the memory of process %d does not answer as it should", root);
		tracking_free(t);
		return TRACKER_NONE;
	}
	*ret = t;
	return 0;
}

bool tracker_exists(pid_t root, uint64_t starttime)
{
	_cleanup_close_ int fd = tracker_connect(root, starttime);

	return fd >= 0;
}
