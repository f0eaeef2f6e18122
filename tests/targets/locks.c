// SPDX-License-Identifier: MIT
/* File locks and leases. What belongs to the process itself does not show to it: a child looks. */
#include "target.h"

#include <sys/file.h>
#include <sys/wait.h>

#define TOLD (SIGRTMIN + 3)

static int make(const char *name, int flags)
{
	int fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0600);

	CHECK(fd >= 0 && write(fd, "0123456789", 10) == 10 && !close(fd) && (fd = open(name, flags)) >= 0);
	return fd;
}

static void block(int sig)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, sig);
	CHECK(!sigprocmask(SIG_BLOCK, &s, NULL));
}

/* The descriptor that the signal is about, -1: there was none. */
static int told(int sig)
{
	const struct timespec none = { 0, 0 };
	siginfo_t info;
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, sig);
	return sigtimedwait(&s, &info, &none) == sig ? info.si_fd : -1;
}

static bool in_child(bool (*fn)(const char *), const char *name)
{
	pid_t p = fork();
	int st;

	if (!p)
		_exit(fn(name) ? 0 : 1);
	CHECK(p > 0 && waitpid(p, &st, 0) == p);
	return st == 0;
}

static bool blocks_writers(const char *name)
{
	return open(name, O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK;
}

static bool blocks_readers(const char *name)
{
	return open(name, O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK;
}

static void lease(int fd, int type)
{
	CHECK(!fcntl(fd, F_SETSIG, TOLD) && (!fcntl(fd, F_SETLEASE, type) || errno == EINVAL));
	if (fcntl(fd, F_GETLEASE) != type)
		SKIP("no leases here");
}

static void leases(void)
{
	int rd = make("rd", O_RDONLY), wr = make("wr", O_RDWR), wo = make("wo", O_WRONLY), twice;

	block(TOLD);
	lease(rd, F_RDLCK);
	lease(wr, F_WRLCK);
	lease(wo, F_WRLCK);
	CHECK((twice = dup(wr)) >= 0);
	t_wait();
	CHECK(told(TOLD) < 0); /* nothing opened them */
	CHECK(fcntl(rd, F_GETLEASE) == F_RDLCK && fcntl(wr, F_GETLEASE) == F_WRLCK && fcntl(wo, F_GETLEASE) == F_WRLCK);
	CHECK(fcntl(wr, F_GETOWN) == getpid() && fcntl(wr, F_GETSIG) == TOLD && fcntl(twice, F_GETLEASE) == F_WRLCK);
	CHECK(in_child(blocks_writers, "rd") && told(TOLD) == rd && fcntl(rd, F_GETLEASE) == F_UNLCK);
	CHECK(in_child(blocks_readers, "wr") && told(TOLD) == wr && fcntl(wr, F_GETLEASE) == F_RDLCK);
	CHECK(!fcntl(wr, F_SETLEASE, F_UNLCK) && fcntl(twice, F_GETLEASE) == F_UNLCK && in_child(blocks_writers, "wo"));
}

/* Somebody wants them already; the signals are waiting. */
static void broken(void)
{
	int rd = make("rd", O_RDONLY), down = make("down", O_RDWR), off = make("off", O_RDWR);

	block(TOLD);
	lease(rd, F_RDLCK);
	lease(down, F_WRLCK);
	lease(off, F_WRLCK);
	CHECK(in_child(blocks_writers, "rd") && in_child(blocks_readers, "down") && in_child(blocks_writers, "off"));
	t_wait();
	CHECK(fcntl(rd, F_GETLEASE) == F_UNLCK && fcntl(down, F_GETLEASE) == F_RDLCK && fcntl(off, F_GETLEASE) == F_UNLCK);
	CHECK(told(TOLD) == rd && told(TOLD) == down && told(TOLD) == off && told(TOLD) < 0);
	CHECK(!fcntl(down, F_SETLEASE, F_UNLCK) && !in_child(blocks_readers, "down"));
	CHECK(!fcntl(rd, F_SETLEASE, F_UNLCK) && !in_child(blocks_writers, "rd"));
}

static void ghostlease(void)
{
	int fd = make("ghost", O_RDWR);

	CHECK(!unlink("ghost"));
	lease(fd, F_WRLCK);
	t_wait();
	CHECK(fcntl(fd, F_GETLEASE) == F_WRLCK);
}

static void mappedlease(void)
{
	int fd = make("mapped", O_RDWR);
	char *p = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED && p[0] == '0');
	block(TOLD);
	lease(fd, F_WRLCK);
	t_wait();
	CHECK(fcntl(fd, F_GETLEASE) == F_WRLCK && told(TOLD) < 0);
}

static void unasked(void)
{
	int fd = make("locked", O_RDONLY);

	lease(fd, F_RDLCK);
	t_wait();
	CHECK(fcntl(fd, F_GETLEASE) == F_RDLCK);
}

static bool flocked(const char *name)
{
	return flock(open(name, O_RDWR), LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* Locks of a description go when its last descriptor does; two descriptions stand in each other's way. */
static void shared(void)
{
	int a = make("a", O_RDWR), b = open("a", O_RDONLY), d;

	CHECK(!flock(a, LOCK_SH) && !flock(b, LOCK_SH) && (d = dup(a)) >= 0 && dup2(a, 70) == 70);
	t_wait();
	CHECK(flock(a, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK && !flock(b, LOCK_UN) && !flock(a, LOCK_EX | LOCK_NB));
	CHECK(!close(a) && !close(d) && in_child(flocked, "a") && !close(70) && !in_child(flocked, "a"));
}

static struct flock range(int type, off_t start, off_t len)
{
	return (struct flock){ .l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
}

static struct flock seen(const char *name, off_t start)
{
	struct flock fl = range(F_WRLCK, start, 1);

	CHECK(!fcntl(open(name, O_RDWR), F_GETLK, &fl));
	return fl;
}

static bool ranges_are_right(const char *name)
{
	struct flock a = seen(name, 5), b = seen(name, 100), c = seen(name, 1l << 40), none = seen(name, 50);

	return a.l_type == F_WRLCK && a.l_start == 0 && a.l_len == 10 && a.l_pid == getppid() && b.l_type == F_RDLCK &&
	       b.l_start == 100 && b.l_len == 20 && c.l_type == F_RDLCK && c.l_len == 0 && c.l_start == 1000 && none.l_type == F_UNLCK;
}

/* Many ranges, through two descriptors of one file. */
static void ranges(void)
{
	int a = make("a", O_RDWR), b = open("a", O_RDWR);
	struct flock fl[] = { range(F_WRLCK, 0, 10), range(F_RDLCK, 100, 20), range(F_RDLCK, 1000, 0) };
	struct flock ofd = range(F_WRLCK, 200, 10);

	CHECK(!fcntl(a, F_SETLK, &fl[0]) && !fcntl(b, F_SETLK, &fl[1]) && !fcntl(a, F_SETLK, &fl[2]));
	CHECK(!fcntl(b, F_OFD_SETLK, &ofd));
	t_wait();
	CHECK(in_child(ranges_are_right, "a"));
	CHECK(fcntl(a, F_SETLK, &ofd) < 0 && errno == EAGAIN); /* the description's stands in our own way */
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "leases", leases }, { "broken", broken }, { "ghostlease", ghostlease }, { "mappedlease", mappedlease }, { "unasked", unasked },
		{ "shared", shared }, { "ranges", ranges },
	};

	T_RUN(variants, t_init(argc, argv));
}
