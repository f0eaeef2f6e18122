/* SPDX-License-Identifier: MIT */
/*
 * Processes that stand in for others. The credentials that SO_PEERCRED shows are those of whoever called socketpair(),
 * listen() or connect(), its PID included; a relative name is looked up where the caller stands. So these calls are made in
 * a small child that has the number and the ids, or the folder and root, for the moment. It has our descriptor table, so
 * that what it opens is ours; it is gone before any task of the tree is made, and its number is free again.
 */
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/state/ns/ns.h"
#include "lib/state/sock/sock.h"
#include "lib/state/view.h"

/*
 * Everything up to stand_in_run() runs in the child: a fork of a program that may have other threads, so system calls and
 * plain computation only. The ids are set by the raw calls: those of the C library set them in all its threads.
 */
static int fail_at(struct stand_in_job *j, const char *step)
{
	j->err = errno;
	j->step = step;
	return -1;
}

#define PATH_SIZE (sizeof(((struct sockaddr_un *)0)->sun_path) + 1)

/* mkdir -p of what is before the last component. */
static int make_parents(const char *path)
{
	char part[PATH_SIZE];

	for (size_t i = 1; path[i] && i < sizeof(part); i++) {
		if (path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		if (mkdir(part, 0777) < 0 && errno != EEXIST)
			return -1;
	}
	return 0;
}

/* What make_parents() made, the innermost first. In a root of our own, where ".." leads nowhere else. */
static void remove_parents(const char *path)
{
	char part[PATH_SIZE];

	for (size_t i = strlen(path); i-- > 1;) {
		if (path[i] != '/')
			continue;
		memcpy(part, path, i);
		part[i] = '\0';
		rmdir(part);
	}
}

static int bind_as(const struct stand_in_job *j)
{
	int r = bind(j->fd, (const struct sockaddr *)&j->addr, j->addr_len);
	struct view_self self;

	if (r < 0 && errno == EOVERFLOW && view_become(j->view, &self)) {
		r = bind(j->fd, (const struct sockaddr *)&j->addr, j->addr_len);
		view_come_back(&self);
	}
	return r;
}

static int bind_name(struct stand_in_job *j, const char *name)
{
	if (j->make_parents && make_parents(name) < 0)
		return fail_at(j, "make its folders");
	if (bind_as(j) < 0)
		return fail_at(j, "bind it");
	if (name[0]) {
		j->result[0] = open(name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (j->result[0] < 0)
			return fail_at(j, "open the socket file");
		if (j->move_dir >= 0 && renameat(AT_FDCWD, name, j->move_dir, j->move_name) < 0)
			return fail_at(j, "move the socket file to its place");
		if (j->unlink && unlink(name) < 0)
			return fail_at(j, "remove the socket file");
	}
	return 0;
}

static int do_bind(struct stand_in_job *j, int root)
{
	char name[PATH_SIZE] = "";
	int ret;

	if (j->root >= 0 && (fchdir(j->root) < 0 || chroot(".") < 0))
		return fail_at(j, "enter its root");
	if (j->dir >= 0 && fchdir(j->dir) < 0)
		return fail_at(j, "enter its folder");
	memcpy(name, j->addr.sun_path, j->addr_len - offsetof(struct sockaddr_un, sun_path));
	ret = bind_name(j, name);
	if (j->make_parents) {
		if (ret < 0)
			unlink(name);
		remove_parents(name);
	}
	if (ret < 0)
		return ret;
	/* With the right to it, one leaves a root through a descriptor. */
	if (j->root >= 0 && (fchdir(root) < 0 || chroot(".") < 0))
		return fail_at(j, "leave its root");
	return 0;
}

static int do_connect(struct stand_in_job *j)
{
	struct sockaddr_un by_file = { .sun_family = AF_UNIX };
	const struct sockaddr *addr = (const struct sockaddr *)&j->addr;
	socklen_t len = j->addr_len;

	if (j->file >= 0) {
		snprintf(by_file.sun_path, sizeof(by_file.sun_path), "/proc/self/fd/%d", j->file);
		addr = (const struct sockaddr *)&by_file;
		len = sizeof(by_file);
	}
	if (connect(j->fd, addr, len) < 0)
		return fail_at(j, "connect it");
	if (j->listener < 0)
		return 0;
	j->result[0] = accept4(j->listener, NULL, NULL, SOCK_CLOEXEC);
	return j->result[0] < 0 ? fail_at(j, "accept it") : 0;
}

static int do_job(struct stand_in_job *j, int root)
{
	switch (j->call) {
	case STAND_IN_BIND:
		return do_bind(j, root);
	case STAND_IN_PAIR:
		return socketpair(AF_UNIX, j->type | SOCK_CLOEXEC, 0, j->result) < 0 ? fail_at(j, "make a pair") : 0;
	case STAND_IN_LISTEN:
		return listen(j->fd, j->backlog) < 0 ? fail_at(j, "listen") : 0;
	default:
		return do_connect(j);
	}
}

static int become(const PeerCred *who, bool keep_groups, struct stand_in_job *j)
{
	if (!who)
		return 0;
	if (!keep_groups && syscall(SYS_setgroups, who->n_groups, who->groups) < 0)
		return fail_at(j, "take the groups of whoever made it");
	if (syscall(SYS_setresgid, who->gid, who->gid, who->gid) < 0 ||
	    syscall(SYS_setresuid, who->uid, who->uid, who->uid) < 0)
		return fail_at(j, "take the ids of whoever made it");
	return 0;
}

static void do_jobs(const PeerCred *who, bool keep_groups, struct stand_in_job *jobs, size_t n)
{
	int root;

	umask(0);
	root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (become(who, keep_groups, &jobs[0]) == 0)
		for (size_t i = 0; i < n; i++)
			if (do_job(&jobs[i], root) < 0 && !jobs[i].optional)
				break;
	close(root);
}

__attribute__((noreturn)) static void child_main(const PeerCred *who, struct stand_in_job *jobs, size_t n)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "ckpt-stand-in");
	do_jobs(who, false, jobs, n);
	_exit(0);
}

/* ------------------------------------------------------------------------------------------------ in the engine */

/* It starts, and stays, with every signal blocked: the host's handlers are not for it. */
static pid_t start(const struct snapshot *s, const PeerCred *who, struct stand_in_job *jobs, size_t n, bool *number_taken)
{
	pid_t want = who ? (pid_t)who->pid : 0, pid;
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = ns_fork_as(s, want, CLONE_FILES);
	if (pid < 0 && want) {
		*number_taken = true;
		pid = ns_fork_as(s, 0, CLONE_FILES);
	}
	if (pid == 0)
		child_main(who, jobs, n);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid;
}

static void reap(pid_t pid)
{
	while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

struct errand_of_root {
	const PeerCred *who;
	bool keep_groups;
	struct stand_in_job *jobs;
	size_t n;
};

static void in_root(void *arg)
{
	const struct errand_of_root *e = arg;

	do_jobs(e->who, e->keep_groups, e->jobs, e->n);
}

/* The process that is to become the root task lives in the tree's user namespace, where numbers are others. */
static PeerCred *inside(struct op *op, const struct snapshot *s, const PeerCred *who)
{
	PeerCred *c = arena_memdup(op->arena, who, sizeof(*who));
	uint32_t *groups = op_alloc(op, (who->n_groups + 1) * sizeof(*groups));

	if (!c || !groups)
		return NULL;
	c->uid = ns_uid_inside(s, who->uid);
	c->gid = ns_gid_inside(s, who->gid);
	c->groups = groups;
	c->n_groups = 0;
	for (size_t i = 0; i < who->n_groups; i++)
		if ((groups[c->n_groups] = ns_gid_inside(s, who->groups[i])) != (uint32_t)-1)
			c->n_groups++;
	return c;
}

/* A change of user of who shares our memory makes us undumpable: put back. */
static int run_in_root(struct op *op, const struct snapshot *s, const PeerCred *who, struct stand_in_job *jobs, size_t n)
{
	struct errand_of_root e = { inside(op, s, who), ns_groups_denied(s), jobs, n };
	int dumpable = prctl(PR_GET_DUMPABLE), r;

	if (!e.who)
		return op_nomem(op);
	r = s->ns->in_root(op, s->ns->in_root_arg, in_root, &e);
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	return r;
}

/* The root task's number has somebody already: the process that is to become it. */
static bool is_root(const struct snapshot *s, const PeerCred *who)
{
	return who && s->ns && s->ns->in_root && s->tasks.n && (pid_t)who->pid == s->tasks.v[0].pid;
}

int stand_in_run(struct op *op, const struct snapshot *s, const PeerCred *who, struct stand_in_job *const *jobs, size_t n,
		 bool *number_taken)
{
	size_t size = n * sizeof(**jobs);
	struct stand_in_job *shared;
	pid_t pid;
	int r = 0;

	if (!n)
		return 0;
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate memory for a process that stands in");
	for (size_t i = 0; i < n; i++) {
		shared[i] = *jobs[i];
		shared[i].result[0] = shared[i].result[1] = -1;
	}
	if (is_root(s, who)) {
		r = run_in_root(op, s, who, shared, n);
	} else {
		pid = start(s, who, shared, n, number_taken);
		if (pid < 0)
			r = op_errno(op, errno, NULL, "start a process that stands in");
		else
			reap(pid);
	}
	for (size_t i = 0; i < n; i++)
		*jobs[i] = shared[i];
	munmap(shared, size);
	return r;
}

pid_t stand_in_hold(const struct snapshot *s, pid_t pid)
{
	sigset_t all, old;
	pid_t got;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	got = ns_fork_as(s, pid, CLONE_FILES);
	if (got == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return got;
}

void stand_in_end(pid_t pid)
{
	kill(pid, SIGKILL);
	reap(pid);
}
