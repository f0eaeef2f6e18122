// SPDX-License-Identifier: MIT
/* Descriptors that are a little out of the ordinary. Files are made in the current directory. */
#include "target.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#ifndef F_SET_RW_HINT
#define F_GET_RW_HINT 1035
#define F_SET_RW_HINT 1036
#endif

static int make(const char *name, const char *content)
{
	int fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0640);

	CHECK(fd >= 0 && write(fd, content, strlen(content)) == (ssize_t)strlen(content));
	return fd;
}

/* O_PATH descriptors, of everything that has a name. */
static void onlynames(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX, .sun_path = "socket" };
	int s = socket(AF_UNIX, SOCK_DGRAM, 0), sock, fifo, link, file, dir, dev;
	char b[16];
	struct stat st;

	CHECK(!bind(s, (struct sockaddr *)&sun, sizeof(sun)) && !close(s) && !mkfifo("fifo", 0600) && !symlink("to", "link"));
	CHECK(!close(make("file", "content")) && !mkdir("dir", 0755));
	CHECK((sock = open("socket", O_PATH)) >= 0 && (fifo = open("fifo", O_PATH | O_CLOEXEC)) >= 0);
	CHECK((link = open("link", O_PATH | O_NOFOLLOW)) >= 0 && (file = open("file", O_PATH)) >= 0);
	CHECK((dir = open("dir", O_PATH | O_DIRECTORY)) >= 0 && (dev = open("/dev/full", O_PATH)) >= 0);
	t_wait();
	CHECK(!fstat(sock, &st) && S_ISSOCK(st.st_mode) && !fstat(fifo, &st) && S_ISFIFO(st.st_mode));
	CHECK(readlinkat(link, "", b, sizeof(b)) == 2 && !memcmp(b, "to", 2) && !fstat(file, &st) && st.st_size == 7);
	CHECK(read(file, b, 1) < 0 && errno == EBADF && !fstat(dev, &st) && st.st_rdev == makedev(1, 7));
	CHECK(close(openat(dir, "new", O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0 && fcntl(fifo, F_GETFD) == FD_CLOEXEC);
}

static void namelesspath(void)
{
	char path[64];
	int p[2], fd;
	struct stat st;

	CHECK(!pipe(p));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", p[0]);
	CHECK((fd = open(path, O_PATH)) >= 0);
	t_wait();
	CHECK(!fstat(fd, &st) && S_ISFIFO(st.st_mode));
}

static void flags(void)
{
	static const int wanted[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND, O_RDWR | O_NONBLOCK, O_RDWR | O_DSYNC,
				      O_RDWR | O_SYNC, O_RDONLY | O_NOATIME, O_RDWR | O_DIRECT, O_RDONLY | O_NOFOLLOW };
	int fd[ARRAY_SIZE(wanted)], before[ARRAY_SIZE(wanted)], sig = make("sig", "x");
	uint64_t hint = 3, now = 0;

	CHECK(!close(make("file", "content")));
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if ((fd[i] = open("file", wanted[i])) < 0 && wanted[i] & O_DIRECT)
			fd[i] = open("file", O_RDWR);
		CHECK(fd[i] >= 0 && (before[i] = fcntl(fd[i], F_GETFL)) >= 0);
	}
	CHECK(!fcntl(sig, F_SETSIG, SIGRTMIN + 2)); /* without an owner */
	if (fcntl(sig, F_SET_RW_HINT, &hint))
		hint = 0;
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		CHECK(fcntl(fd[i], F_GETFL) == before[i]);
	CHECK(fcntl(sig, F_GETSIG) == SIGRTMIN + 2 && fcntl(sig, F_GETOWN) == 0);
	CHECK(fcntl(sig, F_GET_RW_HINT, &now) || now == hint || now == 0);
}

static void devices(void)
{
	static const char *const names[] = { "/dev/loop-control", "/dev/kvm", "/dev/userfaultfd" };
	int kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC), fd[ARRAY_SIZE(names)];
	struct stat before[ARRAY_SIZE(names)], now;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if ((fd[i] = open(names[i], O_RDWR)) >= 0)
			CHECK(!fstat(fd[i], &before[i]));
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		CHECK(fd[i] < 0 || (!fstat(fd[i], &now) && now.st_rdev == before[i].st_rdev));
	CHECK(kmsg < 0 || (!fstat(kmsg, &now) && now.st_rdev == makedev(1, 11) && (fcntl(kmsg, F_GETFL) & O_ACCMODE) == O_WRONLY));
}

/* Any block device that there is. */
static void block(void)
{
	static const char *const names[] = { "/dev/loop0", "/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/ram0" };
	int fd = -1;
	struct stat st;
	char b[16];

	for (size_t i = 0; i < ARRAY_SIZE(names) && fd < 0; i++)
		fd = open(names[i], O_RDONLY);
	if (fd < 0)
		SKIP("no block device can be opened here");
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	if (read(fd, b, 16) == 16)
		CHECK(lseek(fd, 16, SEEK_SET) == 16);
	t_wait();
	CHECK(!fstat(fd, &st) && S_ISBLK(st.st_mode) && (lseek(fd, 0, SEEK_CUR) == 16 || lseek(fd, 0, SEEK_CUR) == 0));
}

static void pressure(void)
{
	static const char trigger[] = "some 500000 2000000";
	int fd = open("/proc/pressure/cpu", O_RDWR | O_NONBLOCK);

	if (fd < 0)
		SKIP("no pressure files here");
	if (write(fd, trigger, sizeof(trigger)) < 0)
		SKIP("no triggers: %s", strerror(errno));
	t_wait();
	CHECK(fcntl(fd, F_GETFL) & O_RDWR);
}

static void notify(void)
{
	int fd = open(".", O_RDONLY | O_DIRECTORY);

	signal(SIGIO, SIG_IGN);
	if (fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT))
		SKIP("no directory notification here");
	t_wait();
	CHECK(!fcntl(fd, F_NOTIFY, 0));
}

/* Many, with holes between them, and a high number. */
static void many(void)
{
	struct rlimit r;
	int fd = make("file", "0123456789"), highest;
	char b[4];

	CHECK(!getrlimit(RLIMIT_NOFILE, &r));
	r.rlim_cur = r.rlim_max;
	CHECK(!setrlimit(RLIMIT_NOFILE, &r));
	highest = r.rlim_max > 15000 ? 15000 : (int)r.rlim_max - 1;
	for (int i = 0; i < 3000; i++) {
		int one = open("file", O_RDONLY);

		CHECK(one >= 0 && lseek(one, i % 10, SEEK_SET) == i % 10);
	}
	CHECK(dup2(fd, highest) == highest && !close(500) && !close(501));
	t_wait();
	CHECK(fcntl(highest, F_GETFD) == 0 && fcntl(500, F_GETFD) < 0 && fcntl(highest - 1, F_GETFD) < 0);
	for (int i = 600; i < 2900; i++)
		CHECK(lseek(i, 0, SEEK_CUR) >= 0 && read(i, b, 1) == 1 && b[0] >= '0');
}

/* A file that was made without a name and has one now; one that has another name in the same folder. */
static void named(void)
{
	int tmp = open(".", O_TMPFILE | O_RDWR, 0640), a = make("a", "content");
	struct stat x, y;
	char path[64];

	if (tmp < 0)
		SKIP("no O_TMPFILE here: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tmp);
	CHECK(write(tmp, "was nameless", 12) == 12 && !linkat(AT_FDCWD, path, AT_FDCWD, "name", AT_SYMLINK_FOLLOW) && !link("a", "b") && !unlink("a"));
	t_wait();
	CHECK(pread(tmp, path, 12, 0) == 12 && !memcmp(path, "was nameless", 12) && lseek(tmp, 0, SEEK_CUR) == 12 && !fstat(tmp, &x) && !stat("name", &y));
	CHECK(x.st_ino == y.st_ino && x.st_nlink == 1 && pread(a, path, 7, 0) == 7 && !fstat(a, &x) && !stat("b", &y));
	CHECK(x.st_ino == y.st_ino && access("a", F_OK) < 0);
}

static void shm(void)
{
	char name[64];
	int fd, gone;

	snprintf(name, sizeof(name), "/dev/shm/ckpt-test-%d", getpid());
	if ((fd = open(name, O_CREAT | O_EXCL | O_RDWR, 0600)) < 0)
		SKIP("no /dev/shm");
	CHECK(write(fd, "kept", 4) == 4 && (gone = open("/dev/shm", O_TMPFILE | O_RDWR, 0600)) >= 0 && write(gone, "gone", 4) == 4);
	t_wait();
	CHECK(pwrite(fd, "KEPT", 4, 0) == 4 && lseek(gone, 0, SEEK_CUR) == 4 && pwrite(gone, "GONE", 4, 0) == 4 && !unlink(name));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "onlynames", onlynames }, { "namelesspath", namelesspath }, { "flags", flags }, { "devices", devices },
		{ "block", block }, { "pressure", pressure }, { "notify", notify }, { "many", many }, { "shm", shm }, { "named", named },
	};

	T_RUN(variants, t_init(argc, argv));
}
