/* SPDX-License-Identifier: MIT */
/*
 * Landlock: the kernel shows a domain to nobody, but every domain, whatever its rules are, keeps its threads from looking at
 * processes outside of it. So the thread is made to look (get_robust_list, which changes nothing) at a process of ours that
 * has its user and group and no rights of its own, is dumpable, and in whatever domain we are in: all other reasons to say
 * no are gone then, unless another security module confines the thread, which its label tells. A domain in which we are as
 * well is no obstacle, since what we restore is in it, too.
 *
 * The peer runs in a fork of a program that may have other threads: system calls only.
 */
#include "lib/state/task/confine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/task/lsm.h"

/* ------------------------------------------------------------------------------------------------------ the peer */

static void set_caps(bool none)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	if (!none) {
		syscall(SYS_capget, &head, data);
		data[0].effective = data[0].permitted;
		data[1].effective = data[1].permitted;
	}
	syscall(SYS_capset, &head, data);
}

struct peer_setup {
	int fd, userns; /* -1: ours */
	uint32_t uid, gid;
};

__attribute__((noreturn)) static void be_peer(const struct peer_setup *s)
{
	char byte = 0;

	prctl(PR_SET_KEEPCAPS, 1);
	syscall(SYS_setresgid, s->gid, s->gid, s->gid);
	syscall(SYS_setresuid, s->uid, s->uid, s->uid);
	set_caps(false);
	if (s->userns >= 0 && syscall(SYS_setns, s->userns, CLONE_NEWUSER) < 0)
		_exit(1);
	set_caps(true);
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_NAME, "ckpt-peer");
	/* Ends with us, however that happens: the read then sees the end. */
	if (syscall(SYS_dup3, s->fd, 0, 0) == 0 && sys_close_range(1, ~0u, 0) == 0 && write(0, &byte, 1) == 1)
		while (read(0, &byte, 1) < 0 && errno == EINTR)
			;
	_exit(0);
}

void peer_end(struct peer *p)
{
	int status;

	if (p->fd >= 0)
		close(p->fd);
	if (p->pid > 0)
		while (waitpid(p->pid, &status, __WALL) < 0 && errno == EINTR)
			;
	*p = (struct peer)PEER_INIT;
}

/* Of the thread's namespaces those in which it would not see, or not be equal to, a process of ours. -1: the same as ours. */
static int other_ns(pid_t pid, const char *name)
{
	char ours[64] = "", theirs[64] = "", path[64];

	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	if (readlink(path, ours, sizeof(ours) - 1) < 0)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	if (readlink(path, theirs, sizeof(theirs) - 1) < 0 || !strcmp(ours, theirs))
		return -1;
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* A child that is made in another pid namespace: by a thread that enters it for its children, and comes back. */
static pid_t fork_in(int pidns, const struct peer_setup *s)
{
	_cleanup_close_ int own = pidns >= 0 ? open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC) : -1;
	struct clone_args args = { 0 };
	sigset_t all, old;
	pid_t pid;

	if (pidns >= 0 && (own < 0 || setns(pidns, CLONE_NEWPID) < 0))
		return -1;
	/* Handlers of the host are not for it. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid = sys_clone3(&args, sizeof(args));
	if (pid == 0)
		be_peer(s);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pidns >= 0)
		setns(own, CLONE_NEWPID);
	return pid;
}

static int start(struct op *op, pid_t of, const struct tracee *tr, struct peer *p)
{
	_cleanup_close_ int userns = other_ns(of, "user"), pidns = other_ns(of, "pid"), theirs = -1;
	struct peer_setup s = { .userns = userns, .uid = tr->status.uid[0], .gid = tr->status.gid[0] };
	struct proc_status st;
	int pair[2];
	char byte;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return op_errno(op, errno, NULL, "socketpair");
	p->fd = pair[0];
	s.fd = theirs = pair[1];
	p->pid = fork_in(pidns, &s);
	if (p->pid < 0)
		return op_errno(op, errno, AT(.pid = of), "start a process for thread %d to look at", tr->tid);
	close(TAKE_FD(theirs));
	p->uid = s.uid;
	p->gid = s.gid;
	if (read(p->fd, &byte, 1) != 1 || proc_read_status(op, p->pid, &st) != 0) {
		op_forget(op);
		peer_end(p);
		return 0;
	}
	p->number = pidns >= 0 ? proc_own_number(&st.nspid) : p->pid;
	return 0;
}

int peer_for(struct op *op, const struct task_dump *d, const struct tracee *tr, struct peer *p, pid_t *number)
{
	int r = 0;

	*number = 0;
	if (p->useless || syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0) {
		p->useless = true;
		return 0;
	}
	if (p->pid && (p->uid != tr->status.uid[0] || p->gid != tr->status.gid[0]))
		peer_end(p);
	if (!p->pid)
		r = start(op, d->task->host, tr, p);
	*number = p->number;
	return r;
}

/* ----------------------------------------------------------------------------------------------------- the verdict */

/* What a security module with labels (SELinux, AppArmor, Smack) calls a thread; "" without one. */
static void read_label(pid_t tid, char *label, size_t size)
{
	_cleanup_close_ int fd = -1;
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/attr/current", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd >= 0 ? read(fd, label, size - 1) : -1;
	label[MAX(n, 0)] = '\0';
	label[strcspn(label, "\n")] = '\0';
}

/* Whether such a module confines the thread, and may be who said no. */
static bool has_label(pid_t tid)
{
	char label[256];

	read_label(tid, label, sizeof(label));
	return *label && strncmp(label, "unconfined", 10) != 0;
}

void label_check(struct op *op, pid_t pid)
{
	char theirs[256], ours[256];

	if (lsm_here() != LSMTYPE__NO_LSM)
		return; /* recorded */
	read_label(pid, theirs, sizeof(theirs));
	read_label(getpid(), ours, sizeof(ours));
	if (strcmp(theirs, ours))
		log_warn(op, "task %d has the security label \"%s\", which is not recorded; restored it has that of the restorer", pid,
			 theirs);
}

static int landlock_check(struct op *op, const struct tracee *tr, const struct parasite_args *a)
{
	if (!a->peer || a->peer_result == 0)
		return 0;
	if (a->peer_result == -EPERM && !has_label(tr->tid))
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = tr->tid, .kind = "Landlock",
				  .hint = "dump and restore it from inside the same Landlock domain, or checkpoint it before it restricts itself"),
			       "thread %d is in a Landlock domain: its rules cannot be read, and restored it would be free of them",
			       tr->tid);
	log_warn(op, "thread %d: whether it is in a Landlock domain cannot be told; if it is, it is restored without", tr->tid);
	return 0;
}

int confine_check(struct op *op, const struct tracee *tr, const struct parasite_args *a)
{
	static const char *const whose[] = { "thread", "process" };

	for (size_t i = 0; i < ARRAY_SIZE(whose); i++)
		if (a->keyrings[i] > 0 || a->keyrings[i] == -EACCES)
			return op_fail(op, CKPT_E_UNSUPPORTED,
				       AT(.pid = tr->tid, .kind = "keyring",
					  .hint = "keys in the user's keyring, which outlives the program, do not stand in the way"),
				       "thread %d has keys in its %s keyring, which would be lost", tr->tid, whose[i]);
	return landlock_check(op, tr, a);
}
