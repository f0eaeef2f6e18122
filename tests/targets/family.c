// SPDX-License-Identifier: MIT
/* Files that processes of one tree have in common. The child checks when the parent asks for it, and tells how it went. */
#include "target.h"

#include <sched.h>
#include <sys/file.h>
#include <sys/wait.h>

static int ask[2], answer[2];
static pid_t child;

static int make(const char *name, const char *content)
{
	int fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0640);

	CHECK(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
	return fd;
}

static bool holds(int fd, const char *want)
{
	char b[256];
	ssize_t n = pread(fd, b, sizeof(b), 0);

	return n == (ssize_t)strlen(want) && !memcmp(b, want, (size_t)n);
}

/* The child sets up (and says so), and when it is asked, checks. */
static void with_child(void (*setup)(void), void (*check)(void))
{
	char b;

	CHECK(!pipe(ask) && !pipe(answer) && (child = fork()) >= 0);
	if (child) {
		close(ask[0]);
		close(answer[1]);
		CHECK(read(answer[0], &b, 1) == 1);
		return;
	}
	close(ask[1]);
	close(answer[0]);
	if (setup)
		setup();
	CHECK(write(answer[1], "s", 1) == 1 && read(ask[0], &b, 1) == 1);
	check();
	CHECK(write(answer[1], "c", 1) == 1);
	_exit(0);
}

static void child_is_right(void)
{
	char b;
	int st;

	CHECK(write(ask[1], "?", 1) == 1 && read(answer[0], &b, 1) == 1);
	CHECK(waitpid(child, &st, 0) == child && st == 0);
}

/* ---- one description, position and lock included, under different numbers; the parent has closed one of two */
static int a, b, c;

static void position_setup(void)
{
	CHECK(dup2(a, 77) == 77 && !close(a) && lseek(77, 3, SEEK_SET) == 3);
}

static void position_check(void)
{
	CHECK(lseek(77, 0, SEEK_CUR) == 5 && lseek(77, 8, SEEK_SET) == 8 && holds(b, "other") && lseek(b, 1, SEEK_SET) == 1);
	CHECK(!flock(77, LOCK_EX | LOCK_NB)); /* the description has it already */
}

static void position(void)
{
	int other;

	a = make("a", "0123456789");
	b = make("b", "other");
	CHECK(!flock(a, LOCK_EX) && lseek(b, 0, SEEK_SET) == 0);
	with_child(position_setup, position_check);
	CHECK(!close(b) && lseek(a, 0, SEEK_CUR) == 3);
	t_wait();
	CHECK(lseek(a, 0, SEEK_CUR) == 3 && lseek(a, 5, SEEK_SET) == 5);
	child_is_right();
	CHECK(lseek(a, 0, SEEK_CUR) == 8 && (other = open("a", O_RDWR)) >= 0);
	CHECK(flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK && !close(a) && !flock(other, LOCK_EX | LOCK_NB));
}

/* ---- a deleted file, opened anew by the child; one without a name, which the child names */
static void ghost_setup(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", getppid(), b);
	CHECK((c = open("ghost", O_RDONLY)) >= 0 && !unlink("ghost"));
	CHECK(dup2(open(path, O_RDONLY), 88) == 88 && !close(b));
}

static void ghost_check(void)
{
	CHECK(holds(a, "GHOST") && holds(c, "GHOST") && holds(88, "nameless"));
	CHECK(!linkat(AT_FDCWD, "/proc/self/fd/88", AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
}

static void ghosts(void)
{
	struct stat st;

	a = make("ghost", "ghost");
	if ((b = open(".", O_TMPFILE | O_RDWR, 0600)) < 0)
		SKIP("no O_TMPFILE here");
	CHECK(write(b, "nameless", 8) == 8);
	with_child(ghost_setup, ghost_check);
	t_wait();
	CHECK(pwrite(a, "GHOST", 5, 0) == 5);
	child_is_right();
	CHECK(!fstat(b, &st) && st.st_nlink == 1 && lseek(b, 0, SEEK_CUR) == 8 && !access("named", F_OK) && access("ghost", F_OK) < 0);
}

/* ---- the child waits for a lock that the parent has, and has one of its own */
static struct flock range(int type, off_t start)
{
	return (struct flock){ .l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = 10 };
}

static void lock_setup(void)
{
	struct flock mine = range(F_WRLCK, 100);

	CHECK(!fcntl(a, F_SETLK, &mine));
}

static void lock_check(void)
{
	struct flock theirs = range(F_WRLCK, 0);

	CHECK(fcntl(a, F_GETLK, &theirs) == 0 && theirs.l_type == F_WRLCK && theirs.l_pid == getppid());
	theirs = range(F_WRLCK, 0);
	CHECK(write(answer[1], "w", 1) == 1 && !fcntl(a, F_SETLKW, &theirs));
}

static void posix_locks(void)
{
	struct flock mine = range(F_WRLCK, 0), theirs = range(F_RDLCK, 100);
	char byte;

	a = make("a", "x");
	with_child(lock_setup, lock_check);
	CHECK(!fcntl(a, F_SETLK, &mine));
	t_wait();
	CHECK(!fcntl(a, F_GETLK, &theirs) && theirs.l_type == F_WRLCK && theirs.l_pid == child && theirs.l_start == 100);
	CHECK(write(ask[1], "?", 1) == 1 && read(answer[0], &byte, 1) == 1 && byte == 'w');
	t_sleep_ms(20);
	mine = range(F_UNLCK, 0);
	CHECK(!fcntl(a, F_SETLK, &mine) && read(answer[0], &byte, 1) == 1 && byte == 'c');
	CHECK(waitpid(child, NULL, 0) == child);
}

/* ---- the child waits already at the dump */
static void waiter_check(void)
{
	struct flock all = range(F_WRLCK, 0);

	CHECK(!fcntl(a, F_SETLKW, &all));
}

static void waiter(void)
{
	struct flock mine = range(F_WRLCK, 0);
	char byte;

	a = make("a", "x");
	CHECK(!fcntl(a, F_SETLK, &mine));
	with_child(NULL, waiter_check);
	CHECK(write(ask[1], "?", 1) == 1);
	t_sleep_ms(50);
	CHECK(fcntl(answer[0], F_SETFL, O_NONBLOCK) == 0 && read(answer[0], &byte, 1) < 0);
	t_wait();
	t_sleep_ms(20);
	CHECK(read(answer[0], &byte, 1) < 0 && errno == EAGAIN);
	mine = range(F_UNLCK, 0);
	CHECK(!fcntl(a, F_SETLK, &mine) && !fcntl(answer[0], F_SETFL, 0) && read(answer[0], &byte, 1) == 1 && byte == 'c');
	CHECK(waitpid(child, NULL, 0) == child);
}

/* ---- a lease that the child took, through a description that the parent has, too */
static void lease_setup(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGIO);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL));
	if (fcntl(a, F_SETLEASE, F_WRLCK))
		CHECK(errno == EINVAL || errno == EAGAIN);
}

static void lease_check(void)
{
	const struct timespec soon = { 5, 0 };
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGIO);
	CHECK(fcntl(a, F_GETOWN) == getpid() && sigtimedwait(&s, NULL, &soon) == SIGIO && !fcntl(a, F_SETLEASE, F_UNLCK));
}

static void lease(void)
{
	a = make("a", "x");
	with_child(lease_setup, lease_check);
	if (fcntl(a, F_GETLEASE) != F_WRLCK)
		SKIP("no leases here");
	t_wait();
	CHECK(fcntl(a, F_GETLEASE) == F_WRLCK && open("a", O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
	child_is_right();
	CHECK(open("a", O_RDONLY | O_NONBLOCK) >= 0);
}

/* ---- /proc of each other; a description that both have, of the child; threads of the other */
static volatile int thread_id;

static void *thread(void *arg)
{
	thread_id = (int)syscall(SYS_gettid);
	for (;;)
		pause();
	return arg;
}

static void proc_setup(void)
{
	char path[64];
	pthread_t t;

	CHECK(!pthread_create(&t, NULL, thread, NULL));
	t_await(&thread_id);
	snprintf(path, sizeof(path), "/proc/%d/stat", getppid());
	CHECK((b = open(path, O_RDONLY)) >= 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", getppid());
	CHECK((c = open(path, O_RDONLY)) >= 0 && write(answer[1], (const void *)&thread_id, 4) == 4);
}

static long shared_value = 1;

static void proc_check(void)
{
	char buf[256];
	long seen;

	CHECK(pread(b, buf, sizeof(buf), 0) > 10 && atoi(buf) == getppid());
	CHECK(pread(c, &seen, 8, (off_t)&shared_value) == 8 && seen == 4711);
	CHECK(pread(a, buf, sizeof(buf), 0) > 10 && atoi(buf) == getppid() && lseek(a, 0, SEEK_CUR) == 2);
}

static void proc(void)
{
	char path[64], buf[256];
	int stat, comm, tid, twice;

	CHECK((a = open("/proc/self/stat", O_RDONLY)) >= 0 && read(a, buf, 2) == 2);
	CHECK(!pipe(ask) && !pipe(answer) && (child = fork()) >= 0);
	if (!child) {
		proc_setup();
		CHECK(read(ask[0], buf, 1) == 1);
		proc_check();
		CHECK(write(answer[1], "c", 1) == 1);
		_exit(0);
	}
	CHECK(read(answer[0], &tid, 4) == 4);
	snprintf(path, sizeof(path), "/proc/%d/stat", child);
	CHECK((stat = open(path, O_RDONLY | O_CLOEXEC)) >= 0 && (twice = dup(stat)) >= 0 && read(stat, buf, 1) == 1);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", child, tid);
	CHECK((comm = open(path, O_RDONLY)) >= 0);
	shared_value = 4711;
	t_wait();
	CHECK(lseek(twice, 0, SEEK_CUR) == 1 && pread(stat, buf, sizeof(buf), 0) > 10 && atoi(buf) == child);
	CHECK(fcntl(stat, F_GETFD) == FD_CLOEXEC && fcntl(twice, F_GETFD) == 0);
	CHECK(pread(comm, buf, 16, 0) == 7 && !memcmp(buf, "family\n", 7));
	child_is_right();
}

/* ---- a description of a file of a thread of the child's, that a third process has, too */
static void third(void)
{
	char path[64], byte;
	int tid, comm, go[2], done[2], st;
	pid_t pid;

	CHECK(!pipe(ask) && !pipe(answer) && !pipe(go) && !pipe(done) && (child = fork()) >= 0);
	if (!child) {
		proc_setup();
		_exit(read(ask[0], &byte, 1) == 1 ? 0 : 1);
	}
	CHECK(read(answer[0], &tid, 4) == 4);
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", child, tid);
	CHECK((comm = open(path, O_RDONLY)) >= 0 && (pid = fork()) >= 0);
	if (!pid) {
		CHECK(read(go[0], &byte, 1) == 1 && pread(comm, path, 16, 0) > 0);
		_exit(0);
	}
	t_wait();
	CHECK(pread(comm, path, 16, 0) > 0 && write(go[1], "x", 1) == 1 && waitpid(pid, &st, 0) == pid && st == 0);
	CHECK(write(ask[1], "x", 1) == 1 && waitpid(child, &st, 0) == child && st == 0);
}

/* ---- a zombie child's files, and its namespace file */
static void zombie(void)
{
	char path[64], buf[256];
	int stat, dir, ns;
	siginfo_t info;

	CHECK((child = fork()) >= 0);
	if (!child)
		_exit(7);
	CHECK(!waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
	snprintf(path, sizeof(path), "/proc/%d", child);
	CHECK((dir = open(path, O_RDONLY | O_DIRECTORY)) >= 0 && (stat = openat(dir, "stat", O_RDONLY)) >= 0);
	CHECK((ns = open("/proc/self/ns/uts", O_RDONLY)) >= 0);
	t_wait();
	CHECK(pread(stat, buf, sizeof(buf), 0) > 10 && atoi(buf) == child && strstr(buf, ") Z "));
	CHECK(!faccessat(dir, "comm", F_OK, 0) && fcntl(ns, F_GETFD) == 0);
	CHECK(waitpid(child, NULL, 0) == child && pread(stat, buf, sizeof(buf), 0) < 0 && errno == ESRCH);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "position", position }, { "ghosts", ghosts }, { "posix_locks", posix_locks }, { "waiter", waiter },
		{ "lease", lease }, { "proc", proc }, { "third", third }, { "zombie", zombie },
	};

	T_RUN(variants, t_init(argc, argv));
}
