// SPDX-License-Identifier: MIT
/*
 * State that is not supported yet, one variant a kind: a dump must refuse it by name and leave the program as it was.
 * Each variant goes on to use what it has.
 */
#include "target.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

static void timerfd(void)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, 0);

	CHECK(fd >= 0);
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void signalfd_(void)
{
	sigset_t s;
	int fd;

	sigemptyset(&s);
	sigaddset(&s, SIGHUP);
	CHECK((fd = signalfd(-1, &s, 0)) >= 0);
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void inotify(void)
{
	int fd = inotify_init1(0);

	CHECK(fd >= 0);
	t_wait();
	CHECK(inotify_add_watch(fd, ".", IN_CREATE) > 0);
}

static void unix_(void)
{
	int s[2];
	char b[4];

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, s) && write(s[0], "data", 4) == 4);
	t_wait();
	CHECK(read(s[1], b, 4) == 4 && !memcmp(b, "data", 4));
}

static void tcp(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	CHECK(fd >= 0 && !listen(fd, 1));
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void sysvshm(void)
{
	int id = shmget(IPC_PRIVATE, 65536, IPC_CREAT | 0600);
	char *p = shmat(id, NULL, 0);

	CHECK(id >= 0 && p != (void *)-1);
	shmctl(id, IPC_RMID, NULL);
	strcpy(p, "sysv");
	t_wait();
	CHECK(!strcmp(p, "sysv"));
}

static void secretmem(void)
{
	int fd = syscall(447 /* memfd_secret */, 0);
	char *p;

	if (fd < 0)
		SKIP("this kernel has no secret memory");
	CHECK(!ftruncate(fd, PAGE));
	p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		SKIP("secret memory cannot be mapped here");
	strcpy(p, "secret");
	close(fd);
	t_wait();
	CHECK(!strcmp(p, "secret"));
}

static void procfd(void)
{
	int fd = open("/proc/self/maps", O_RDONLY);
	char b[8];

	CHECK(fd >= 0);
	t_wait();
	CHECK(read(fd, b, 8) == 8);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "timerfd", timerfd }, { "signalfd", signalfd_ }, { "inotify", inotify },
		{ "unix", unix_ }, { "tcp", tcp }, { "sysvshm", sysvshm }, { "secretmem", secretmem }, { "procfd", procfd },
	};

	T_RUN(variants, t_init(argc, argv));
}
