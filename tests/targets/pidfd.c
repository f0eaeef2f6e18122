// SPDX-License-Identifier: MIT
/* Descriptors of processes and threads: of the program itself, of threads, of children that have ended. */
#include "target.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#define THREAD O_EXCL

struct info {
	uint64_t mask, cgroupid;
	uint32_t pid, tgid, ppid, ids[8];
	int32_t exit_code;
};

static int open_pid(pid_t pid, int flags)
{
	int fd = (int)syscall(434 /* pidfd_open */, pid, flags);

	if (fd < 0 && errno == ENOSYS)
		SKIP("no pidfds here");
	return fd;
}

static bool is_of(int fd, int pid)
{
	char name[32], pids[32], want[32];

	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	snprintf(want, sizeof(want), "%d", pid);
	return t_proc_field(name, "Pid", pids, sizeof(pids)) && !strcmp(pids, want);
}

static int kill_by(int fd, int sig)
{
	return (int)syscall(424 /* pidfd_send_signal */, fd, sig, NULL, 0);
}

static bool ended(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

static void self(void)
{
	int fd = open_pid(getpid(), O_NONBLOCK), copy, other = open_pid(getpid(), 0);
	sigset_t s;

	CHECK(fd >= 0 && other >= 0);
	copy = fcntl(fd, F_DUPFD, 40);
	t_wait();
	CHECK(is_of(fd, getpid()) && is_of(copy, getpid()) && is_of(other, getpid()) && !ended(fd));
	CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK && fcntl(copy, F_GETFL) & O_NONBLOCK && !(fcntl(other, F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0);
	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL) && !kill_by(other, SIGHUP) && sigwaitinfo(&s, NULL) == SIGHUP);
}

static volatile int tid, go;

static void *thread(void *arg)
{
	(void)arg;
	__atomic_store_n(&tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	t_await(&go);
	syscall(SYS_exit, 0);
	return NULL;
}

static void threads(void)
{
	pthread_t t;
	int fd, leader;

	CHECK(!pthread_create(&t, NULL, thread, NULL));
	t_await(&tid);
	fd = open_pid(tid, THREAD);
	if (fd < 0 && errno == EINVAL)
		SKIP("no pidfds of threads here");
	leader = open_pid(getpid(), THREAD | O_NONBLOCK);
	CHECK(fd >= 0 && leader >= 0);
	t_wait();
	CHECK(is_of(fd, tid) && is_of(leader, getpid()) && fcntl(fd, F_GETFL) & THREAD && fcntl(leader, F_GETFL) & THREAD);
	CHECK(!ended(fd));
	__atomic_store_n(&go, 1, __ATOMIC_RELEASE);
	for (int i = 0; !ended(fd); i++) {
		CHECK(i < 2000);
		t_sleep_ms(1);
	}
	CHECK(!ended(leader));
}

static void check_dead(int fd, int status)
{
	struct info info = { .mask = 8 /* PIDFD_INFO_EXIT */ };
	struct stat st;

	CHECK(is_of(fd, -1) && ended(fd) && kill_by(fd, 0) < 0 && errno == ESRCH && !fstat(fd, &st));
	if (!ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, sizeof(info)), &info) && info.mask & 8 && info.exit_code != status)
		FAIL("exit status %x, not %x", info.exit_code, status);
}

static pid_t child(int status)
{
	pid_t pid = fork();

	if (!pid && status & 0x7f)
		kill(getpid(), status & 0x7f);
	if (!pid)
		_exit(status >> 8);
	return pid;
}

/* What is left of processes that were waited for: that they have ended, how, and which are the same. */
static void dead(void)
{
	int statuses[] = { 0, 7 << 8, SIGTERM }, fds[3], twin = -1, st;
	struct stat a, b, c;

	for (int i = 0; i < 3; i++) {
		pid_t pid = child(statuses[i]);

		fds[i] = open_pid(pid, i == 1 ? O_NONBLOCK : 0);
		if (i == 1)
			twin = open_pid(pid, 0);
		CHECK(fds[i] >= 0 && waitpid(pid, &st, 0) == pid && st == statuses[i]);
	}
	t_wait();
	for (int i = 0; i < 3; i++)
		check_dead(fds[i], statuses[i]);
	check_dead(twin, statuses[1]);
	CHECK(fcntl(fds[1], F_GETFL) & O_NONBLOCK && !(fcntl(twin, F_GETFL) & O_NONBLOCK));
	CHECK(!fstat(fds[1], &a) && !fstat(twin, &b) && !fstat(fds[0], &c));
	CHECK(a.st_dev == b.st_dev && a.st_ino == b.st_ino && (c.st_dev != a.st_dev || c.st_ino != a.st_ino || !a.st_ino));
	CHECK(waitpid(-1, &st, 0) < 0 && errno == ECHILD);
}

static void outside(void)
{
	int fd = open_pid(getppid(), 0);

	CHECK(fd >= 0);
	t_wait();
	CHECK(is_of(fd, getppid()));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "self", self }, { "threads", threads }, { "dead", dead }, { "outside", outside },
	};

	T_RUN(variants, t_init(argc, argv));
}
