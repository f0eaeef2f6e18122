// SPDX-License-Identifier: MIT
/* What waits for something, between several processes: shared instances, descriptors of one another. */
#include "target.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

static int go[2], said[2];

/* Forks a child that runs @fn after the checkpoint, with @setup before it; the root goes on when it is ready. */
static pid_t child(void (*setup)(void), void (*fn)(void))
{
	pid_t pid = fork();
	char c;

	CHECK(pid >= 0);
	if (pid) {
		CHECK(read(said[0], &c, 1) == 1);
		return pid;
	}
	close(go[1]);
	if (setup)
		setup();
	CHECK(write(said[1], "r", 1) == 1);
	while (read(go[0], &c, 1) < 0)
		CHECK(errno == EINTR);
	fn();
	_exit(0);
}

/* Lets one child after the other go, and sees that it is content. */
static void content(pid_t pid)
{
	int st;

	CHECK(write(go[1], "g", 1) == 1);
	CHECK(waitpid(pid, &st, 0) == pid);
	if (st)
		_exit(1); /* it said why */
}

static void begin(void)
{
	CHECK(!pipe(go) && !pipe(said));
}

static int ep, shared_event;

static void add(int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = { events, { .u64 = data } };

	CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

static uint64_t one(void)
{
	struct epoll_event ev[4];
	int n = epoll_wait(ep, ev, 4, 0);

	if (n > 1 || n < 0)
		FAIL("%d events: %lx %lx", n, (long)ev[0].data.u64, (long)ev[1].data.u64);
	return n ? ev[0].data.u64 : 0;
}

static void bump(int fd)
{
	uint64_t v = 1;

	CHECK(write(fd, &v, 8) == 8);
}

static void drain(int fd)
{
	uint64_t v;

	CHECK(read(fd, &v, 8) == 8);
}

static void at(int fd, int number)
{
	CHECK(fd >= 0 && dup2(fd, number) == number);
	close(fd);
}

/* The child puts another file under the number and watches that with the instance that both have. */
static void setup_epoll(void)
{
	at(eventfd(0, EFD_NONBLOCK), 50);
	add(50, EPOLLIN, 0xc0);
	at(eventfd(0, EFD_NONBLOCK), 51);
	add(51, EPOLLIN | EPOLLET, 0xc1);
}

static void child_epoll(void)
{
	CHECK(one() == 0);
	bump(50);
	CHECK(one() == 0xc0);
	drain(50);
	bump(51);
	CHECK(one() == 0xc1);
	drain(51);
	bump(shared_event);
	CHECK(one() == 0xee);
	drain(shared_event);
	CHECK(!epoll_ctl(ep, EPOLL_CTL_DEL, 50, NULL));
	bump(50);
	CHECK(one() == 0);
}

static void epoll(void)
{
	pid_t pid;

	begin();
	CHECK((ep = epoll_create1(0)) >= 0 && (shared_event = eventfd(0, EFD_NONBLOCK)) >= 0);
	at(eventfd(0, EFD_NONBLOCK), 50);
	add(50, EPOLLIN, 0x50);
	add(shared_event, EPOLLIN, 0xee);
	pid = child(setup_epoll, child_epoll);
	t_wait();
	CHECK(one() == 0);
	content(pid);
	bump(50);
	CHECK(one() == 0x50);
	drain(50);
	CHECK(!epoll_ctl(ep, EPOLL_CTL_DEL, 50, NULL));
}

/* What the instance watches is open only in a process that does not have the instance. */
static void setup_apart(void)
{
	close(ep);
}

static void child_apart(void)
{
	bump(50);
	drain(50);
}

static void apart(void)
{
	pid_t pid;

	begin();
	CHECK((ep = epoll_create1(0)) >= 0);
	at(eventfd(0, EFD_NONBLOCK), 50);
	add(50, EPOLLIN, 0x50);
	pid = child(setup_apart, child_apart);
	close(50);
	t_wait();
	CHECK(one() == 0);
	content(pid);
}

/* A signalfd in an instance tells of the signals of who added it. */
static int sfd;

static void setup_signals(void)
{
	close(ep);
	CHECK((ep = epoll_create1(0)) >= 0);
	add(sfd, EPOLLIN, 2);
}

static void child_signals(void)
{
	struct signalfd_siginfo si;

	CHECK(one() == 2 && read(sfd, &si, sizeof(si)) == sizeof(si) && (int)si.ssi_pid == getppid() && si.ssi_signo == SIGHUP);
	CHECK(one() == 0);
	CHECK(!kill(getpid(), SIGHUP) && one() == 2);
}

static void signals(void)
{
	sigset_t s;
	pid_t pid;

	begin();
	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL) && (sfd = signalfd(-1, &s, SFD_NONBLOCK)) >= 0);
	CHECK((ep = epoll_create1(0)) >= 0);
	add(sfd, EPOLLIN, 1);
	pid = child(setup_signals, child_signals);
	CHECK(!kill(pid, SIGHUP));
	t_wait();
	CHECK(one() == 0);
	content(pid);
	CHECK(!kill(getpid(), SIGHUP) && one() == 1);
}

/* One timer, one instance of inotify, in two processes. */
static int timer, watcher, wd;

static void child_shared(void)
{
	char buf[256] __attribute__((aligned(8)));
	struct itimerspec its = { .it_value = { 0, 1 } };
	int fd;

	CHECK(!timerfd_gettime(timer, &its) && its.it_value.tv_sec > 900);
	its = (struct itimerspec){ .it_value = { 0, 1 } };
	CHECK(!timerfd_settime(timer, 0, &its, NULL));
	fd = open("f", O_CREAT | O_RDWR, 0600);
	CHECK(fd >= 0 && read(watcher, buf, sizeof(buf)) > 0 && ((struct inotify_event *)buf)->wd == wd);
}

static void shared(void)
{
	struct itimerspec its = { .it_value = { 1000, 0 } };
	struct pollfd p;
	pid_t pid;

	begin();
	CHECK((timer = timerfd_create(CLOCK_BOOTTIME, 0)) >= 0 && !timerfd_settime(timer, 0, &its, NULL));
	CHECK((watcher = inotify_init1(IN_NONBLOCK)) >= 0 && (wd = inotify_add_watch(watcher, ".", IN_CREATE)) > 0);
	pid = child(NULL, child_shared);
	t_wait();
	content(pid);
	p = (struct pollfd){ timer, POLLIN, 0 };
	CHECK(poll(&p, 1, 5000) == 1);
	CHECK(read(watcher, &its, sizeof(its)) < 0 && errno == EAGAIN);
}

/* ------------------------------------------------------------------------------------------------- pidfds */

static int open_pid(pid_t pid, int flags)
{
	int fd = (int)syscall(434 /* pidfd_open */, pid, flags);

	CHECK(fd >= 0);
	return fd;
}

static bool is_of(int fd, int pid)
{
	char name[32], pids[32], want[32];

	snprintf(name, sizeof(name), "fdinfo/%d", fd);
	snprintf(want, sizeof(want), "%d", pid);
	return t_proc_field(name, "Pid", pids, sizeof(pids)) && !strcmp(pids, want);
}

static bool ended(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };

	return poll(&p, 1, 0) == 1;
}

static volatile int tid;
static pid_t root, older;
static int parent_fd = 60, sibling_fd = 61, thread_fd = 62, own_fd = 63;

static void *thread(void *arg)
{
	(void)arg;
	__atomic_store_n(&tid, (int)syscall(SYS_gettid), __ATOMIC_RELEASE);
	for (;;)
		pause();
	return NULL;
}

static void setup_pidfds(void)
{
	at(open_pid(older, 0), sibling_fd);
	at(open_pid(tid, O_EXCL), thread_fd);
	CHECK(dup2(thread_fd, 70) == 70);
	at(open_pid(getpid(), 0), own_fd);
}

static void child_pidfds(void)
{
	CHECK(is_of(parent_fd, root) && !ended(parent_fd) && is_of(thread_fd, tid) && is_of(70, tid) && is_of(own_fd, getpid()));
	CHECK(!ended(thread_fd) && is_of(sibling_fd, older) && ended(sibling_fd)); /* a zombie */
	CHECK(fcntl(parent_fd, F_GETFL) & O_NONBLOCK);
}

static void pidfds(void)
{
	pthread_t t;
	pid_t pid;
	int fd, dead, st;

	begin();
	root = getpid();
	older = fork();
	if (!older)
		_exit(9);
	dead = open_pid(older, 0);
	while (!ended(dead))
		t_sleep_ms(1);
	at(open_pid(root, O_NONBLOCK), parent_fd);
	CHECK(!pthread_create(&t, NULL, thread, NULL));
	t_await(&tid);
	pid = child(setup_pidfds, child_pidfds);
	fd = open_pid(pid, 0);
	t_wait();
	CHECK(is_of(fd, pid) && !ended(fd) && is_of(dead, older) && ended(dead) && is_of(parent_fd, root));
	content(pid);
	CHECK(ended(fd) && is_of(fd, -1));
	CHECK(waitpid(older, &st, 0) == older && st == 9 << 8 && is_of(dead, -1));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "epoll", epoll }, { "apart", apart }, { "signals", signals }, { "shared", shared }, { "pidfds", pidfds },
	};

	T_RUN(variants, t_init(argc, argv));
}
