// SPDX-License-Identifier: MIT
/* Descriptors, one variant a kind. Files are made in the current directory. */
#include "target.h"

#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

static int make(const char *name, const char *content, int flags)
{
	int fd = open(name, O_CREAT | O_EXCL | flags, 0640);

	CHECK(fd >= 0);
	if (content)
		CHECK(write(fd, content, strlen(content)) == (ssize_t)strlen(content));
	return fd;
}

static bool reads(int fd, const char *want)
{
	char b[256];
	ssize_t n = read(fd, b, strlen(want));

	return n == (ssize_t)strlen(want) && !memcmp(b, want, n);
}

static void offsets(void)
{
	int a = make("a", "0123456789", O_RDWR), b = open("a", O_RDONLY), d, far = make("sparse", NULL, O_RDWR);

	CHECK(lseek(a, 4, SEEK_SET) == 4 && lseek(b, 7, SEEK_SET) == 7 && (d = dup(a)) >= 0);
	CHECK(dup2(b, 55) == 55);
	CHECK(lseek(far, 5l << 32, SEEK_SET) == 5l << 32);
	t_wait();
	CHECK(reads(a, "45") && reads(d, "67") && reads(a, "8"));
	CHECK(reads(b, "7") && reads(55, "89"));
	CHECK(lseek(far, 0, SEEK_CUR) == 5l << 32);
}

static void flags(void)
{
	int ap = make("append", "start ", O_WRONLY | O_APPEND), path, nb, ex, ro, sy;
	struct stat st;

	CHECK((path = open("append", O_PATH)) >= 0 && (ex = open("append", O_RDONLY | O_CLOEXEC)) >= 0);
	CHECK((nb = open("append", O_RDWR | O_NONBLOCK | O_NOATIME)) >= 0 && (ro = open("append", O_RDONLY)) >= 0);
	CHECK((sy = open("append", O_WRONLY | O_SYNC)) >= 0);
	t_wait();
	CHECK(fcntl(ap, F_GETFL) & O_APPEND && write(ap, "end", 3) == 3 && reads(ro, "start end"));
	CHECK(fcntl(path, F_GETFL) & O_PATH && read(path, &st, 1) < 0 && errno == EBADF && !fstat(path, &st));
	CHECK(fcntl(ex, F_GETFD) == FD_CLOEXEC && fcntl(ro, F_GETFD) == 0);
	CHECK((fcntl(nb, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_NOATIME)) == (O_RDWR | O_NONBLOCK | O_NOATIME));
	CHECK((fcntl(sy, F_GETFL) & O_SYNC) == O_SYNC);
}

static void owner(void)
{
	int p[2];
	struct f_owner_ex ex = { F_OWNER_TID, getpid() }, now;

	CHECK(!pipe(p));
	CHECK(!fcntl(p[0], F_SETOWN, getpid()) && !fcntl(p[0], F_SETSIG, SIGRTMIN + 4));
	CHECK(!fcntl(p[1], F_SETOWN_EX, &ex) && !fcntl(p[1], F_SETSIG, SIGIO));
	t_wait();
	CHECK(fcntl(p[0], F_GETOWN) == getpid() && fcntl(p[0], F_GETSIG) == SIGRTMIN + 4);
	CHECK(!fcntl(p[1], F_GETOWN_EX, &now) && now.type == F_OWNER_TID && now.pid == getpid());
	CHECK(fcntl(p[1], F_GETSIG) == SIGIO);
}

static void dirs(void)
{
	int d, sub;

	CHECK(!mkdir("d", 0755) && !mkdir("d/sub", 0700) && (d = open("d", O_RDONLY | O_DIRECTORY)) >= 0);
	CHECK((sub = open("d/sub", O_PATH | O_DIRECTORY | O_CLOEXEC)) >= 0);
	t_wait();
	CHECK(close(openat(d, "made", O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0 && !access("d/made", F_OK));
	CHECK(close(openat(sub, "made", O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0 && !access("d/sub/made", F_OK));
}

static void ghost(void)
{
	int a = make("ghost", "the content", O_RDWR), b = open("ghost", O_RDONLY), empty = make("empty", NULL, O_WRONLY), big, tmp;
	static char buf[200000], now[200000];
	struct stat st;

	t_fill(buf, sizeof(buf), 1);
	CHECK(!fchmod(a, 0604) && (geteuid() || !fchown(a, 12, 34)));
	CHECK((big = make("big", NULL, O_RDWR)) >= 0 && pwrite(big, buf, sizeof(buf), 100000) == sizeof(buf));
	CHECK(!unlink("ghost") && !unlink("empty") && !unlink("big"));
	CHECK(lseek(a, 4, SEEK_SET) == 4);
	tmp = open(".", O_TMPFILE | O_RDWR, 0600);
	if (tmp >= 0)
		CHECK(write(tmp, "nameless", 8) == 8);
	t_wait();
	CHECK(reads(a, "content") && reads(b, "the content"));
	CHECK(pwrite(a, "THE", 3, 0) == 3 && lseek(b, 0, SEEK_SET) == 0 && reads(b, "THE")); /* still one file */
	CHECK(!fstat(a, &st) && st.st_nlink == 0 && (st.st_mode & 07777) == 0604);
	CHECK(geteuid() || (st.st_uid == 12 && st.st_gid == 34));
	CHECK(!fstat(empty, &st) && st.st_size == 0 && st.st_nlink == 0);
	CHECK(pread(big, now, sizeof(now), 100000) == sizeof(now) && !memcmp(now, buf, sizeof(now)));
	CHECK(pread(big, now, 100, 50) == 100 && now[0] == 0);
	CHECK(tmp < 0 || (pread(tmp, now, 8, 0) == 8 && !memcmp(now, "nameless", 8)));
	CHECK(access("ghost", F_OK) < 0 && access("empty", F_OK) < 0 && access("big", F_OK) < 0);
}

/* Something else has the name of the deleted file now. */
static void ghostname(void)
{
	int a = make("name", "old", O_RDWR), b;

	CHECK(!unlink("name"));
	b = make("name", "new one", O_RDWR);
	t_wait();
	CHECK(lseek(a, 0, SEEK_SET) == 0 && reads(a, "old") && lseek(b, 0, SEEK_SET) == 0 && reads(b, "new one"));
}

static void ghostdir(void)
{
	int d;
	struct stat st;

	CHECK(!mkdir("gone", 0711) && (d = open("gone", O_RDONLY | O_DIRECTORY)) >= 0 && !rmdir("gone"));
	t_wait();
	CHECK(!fstat(d, &st) && S_ISDIR(st.st_mode) && (st.st_mode & 0777) == 0711 && access("gone", F_OK) < 0);
}

/* The opened name is gone, but the file has another one. */
static void linked(void)
{
	int a = make("first", "content", O_RDWR);
	struct stat st, other;

	CHECK(!mkdir("sub", 0755) && !link("first", "sub/second") && !unlink("first"));
	CHECK(lseek(a, 3, SEEK_SET) == 3);
	t_wait();
	CHECK(reads(a, "tent") && !fstat(a, &st) && !stat("sub/second", &other));
	CHECK(st.st_ino == other.st_ino && access("first", F_OK) < 0);
}

static void devices(void)
{
	static const char *const names[] = { "null", "zero", "full", "random", "urandom" };
	int fd[5];
	char path[32], b[16];
	struct stat st;

	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof(path), "/dev/%s", names[i]);
		CHECK((fd[i] = open(path, O_RDWR | O_NONBLOCK)) >= 0 || (fd[i] = open(path, O_RDONLY)) >= 0);
	}
	t_wait();
	CHECK(read(fd[0], b, 16) == 0 && read(fd[1], b, 16) == 16 && b[0] == 0 && b[15] == 0);
	CHECK(write(fd[2], b, 1) < 0 && errno == ENOSPC && read(fd[4], b, 16) == 16);
	for (int i = 0; i < 5; i++)
		CHECK(!fstat(fd[i], &st) && S_ISCHR(st.st_mode) && major(st.st_rdev) == 1);
}

static void pipes(void)
{
	int p[2], q[2], w[2], n[2], full;
	char b[256];
	static char page[65536];

	CHECK(!pipe(p) && !pipe2(q, O_NONBLOCK | O_CLOEXEC) && !pipe(w) && !pipe2(n, O_NONBLOCK));
	CHECK(write(p[1], "some bytes", 10) == 10 && read(p[0], b, 5) == 5);
	CHECK(fcntl(q[0], F_SETPIPE_SZ, 16 * 4096 * 4) > 0);
	while (write(q[1], page, sizeof(page)) > 0) /* full to the brim */
		;
	full = fcntl(q[0], F_GETPIPE_SZ);
	close(w[0]); /* no reader any more */
	signal(SIGPIPE, SIG_IGN);
	close(n[1]); /* no writer */
	t_wait();
	CHECK(read(p[0], b, 256) == 5 && !memcmp(b, "bytes", 5));
	CHECK(write(p[1], "more", 4) == 4 && read(p[0], b, 256) == 4);
	CHECK(fcntl(q[0], F_GETPIPE_SZ) == full && write(q[1], "x", 1) < 0 && errno == EAGAIN);
	CHECK(fcntl(q[1], F_GETFD) == FD_CLOEXEC && fcntl(q[1], F_GETFL) & O_NONBLOCK);
	for (int i = 0; i < full / (int)sizeof(page); i++)
		CHECK(read(q[0], page, sizeof(page)) == sizeof(page));
	CHECK(read(q[0], b, 1) < 0 && errno == EAGAIN);
	CHECK(write(w[1], "x", 1) < 0 && errno == EPIPE && read(n[0], b, 1) == 0);
}

static void packets(void)
{
	int p[2];
	char b[64];

	CHECK(!pipe2(p, O_DIRECT | O_NONBLOCK));
	CHECK(write(p[1], "one", 3) == 3 && write(p[1], "second", 6) == 6);
	t_wait();
	CHECK(fcntl(p[1], F_GETFL) & O_DIRECT);
	CHECK(read(p[0], b, 64) == 3 && !memcmp(b, "one", 3));
	CHECK(read(p[0], b, 64) == 6 && !memcmp(b, "second", 6));
	CHECK(write(p[1], "a", 1) == 1 && write(p[1], "b", 1) == 1 && read(p[0], b, 64) == 1);
}

static void fifo(void)
{
	int rw, rd;
	char b[64];

	CHECK(!mkfifo("fifo", 0600) && (rw = open("fifo", O_RDWR)) >= 0 && (rd = open("fifo", O_RDONLY | O_NONBLOCK)) >= 0);
	CHECK(write(rw, "queued", 6) == 6 && fcntl(rw, F_SETPIPE_SZ, 8192) == 8192);
	t_wait();
	CHECK(read(rd, b, 64) == 6 && !memcmp(b, "queued", 6) && fcntl(rd, F_GETPIPE_SZ) == 8192);
	CHECK(write(rw, "more", 4) == 4 && read(rd, b, 64) == 4);
	CHECK(read(rd, b, 1) < 0 && errno == EAGAIN);
}

static void eventfds(void)
{
	int fd = eventfd(3, EFD_NONBLOCK), sem = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
	uint64_t v = 0;

	CHECK(fd >= 0 && sem >= 0);
	t_wait();
	CHECK(read(fd, &v, 8) == 8 && v == 3 && read(fd, &v, 8) < 0 && errno == EAGAIN);
	CHECK(read(sem, &v, 8) == 8 && v == 1 && read(sem, &v, 8) == 8 && v == 1 && read(sem, &v, 8) < 0);
	CHECK(fcntl(sem, F_GETFD) == FD_CLOEXEC);
}

static void cwd(void)
{
	char b[4096], want[4096];

	CHECK(!mkdir("here", 0700) && !chdir("here") && getcwd(want, sizeof(want)));
	umask(0137);
	t_wait();
	CHECK(getcwd(b, sizeof(b)) && !strcmp(b, want) && umask(0) == 0137);
	CHECK(close(open("made", O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0);
}

static void root(void)
{
	char b[4096];

	if (geteuid())
		SKIP("needs root");
	CHECK(!mkdir("jail", 0755) && !mkdir("jail/in", 0755) && !chroot("jail") && !chdir("/in"));
	t_wait();
	CHECK(getcwd(b, sizeof(b)) && !strcmp(b, "/in") && access("/proc", F_OK) < 0 && !access("/in", F_OK));
}

static bool locked(const char *name, int kind)
{
	int fd = open(name, O_RDWR);
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 10 };
	bool is;

	CHECK(fd >= 0);
	if (kind == 0)
		is = flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
	else
		is = !fcntl(fd, kind == 1 ? F_GETLK : F_OFD_GETLK, &fl) && fl.l_type != F_UNLCK;
	/* not closed: that would drop this process's POSIX locks of the file */
	return is;
}

static void locks(void)
{
	int a = make("flock", "x", O_RDWR), b = make("posix", "x", O_RDWR), c = make("ofd", "x", O_RDWR), s = make("share", "x", O_RDWR);
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 50 };

	CHECK(!flock(a, LOCK_EX) && !flock(s, LOCK_SH));
	CHECK(!fcntl(b, F_SETLK, &fl) && !fcntl(c, F_OFD_SETLK, &fl));
	fl.l_start = 1000, fl.l_len = 0, fl.l_type = F_RDLCK;
	CHECK(!fcntl(b, F_SETLK, &fl));
	t_wait();
	CHECK(locked("flock", 0) && locked("ofd", 2) && locked("share", 0));
	/* our own POSIX lock does not show to us: a child asks */
	pid_t p = fork();
	int st;
	if (!p)
		_exit(locked("posix", 1) ? 0 : 1);
	CHECK(waitpid(p, &st, 0) == p && st == 0);
	fl = (struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 5000, .l_len = 1 };
	CHECK(!fcntl(b, F_SETLK, &fl));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "offsets", offsets }, { "flags", flags }, { "owner", owner }, { "dirs", dirs }, { "ghost", ghost },
		{ "ghostname", ghostname }, { "ghostdir", ghostdir }, { "linked", linked }, { "devices", devices },
		{ "pipes", pipes }, { "packets", packets }, { "fifo", fifo }, { "eventfds", eventfds }, { "cwd", cwd }, { "root", root }, { "locks", locks },
	};

	T_RUN(variants, t_init(argc, argv));
}
