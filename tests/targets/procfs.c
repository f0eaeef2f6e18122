// SPDX-License-Identifier: MIT
/* Files of /proc: of the program itself, of its threads, of processes that have ended, of init; and namespaces. */
#include "target.h"

#include <dirent.h>
#include <sys/wait.h>

static char *link_of(int fd, char b[256])
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, b, 255);
	b[n > 0 ? n : 0] = 0;
	return b;
}

/* Bound to the address space at the open, read at different times, with a position, through two descriptors. */
static void self(void)
{
	int mem = open("/proc/self/mem", O_RDWR), maps = open("/proc/self/maps", O_RDONLY), stat = open("/proc/self/stat", O_RDONLY);
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), twice, oom = open("/proc/self/oom_score_adj", O_RDWR);
	static long value = 0x1234567890abcdef;
	uint64_t entry;
	long seen;
	char b[4096], want[64];

	CHECK(mem >= 0 && maps >= 0 && stat >= 0 && pagemap >= 0 && oom >= 0 && (twice = dup(stat)) >= 0);
	CHECK(lseek(mem, (off_t)&value, SEEK_SET) == (off_t)&value && read(stat, b, 3) == 3);
	t_wait();
	CHECK(lseek(mem, 0, SEEK_CUR) == (off_t)&value && read(mem, &seen, 8) == 8 && seen == 0x1234567890abcdef);
	seen = 5;
	CHECK(pwrite(mem, &seen, 8, (off_t)&value) == 8 && *(volatile long *)&value == 5);
	CHECK(read(maps, b, sizeof(b)) > 100 && strstr(b, "procfs"));
	CHECK(pread(pagemap, &entry, 8, (off_t)((uintptr_t)&value / PAGE * 8)) == 8 && entry >> 63);
	CHECK(fcntl(pagemap, F_GETFD) == FD_CLOEXEC && fcntl(stat, F_GETFD) == 0);
	CHECK(lseek(twice, 0, SEEK_CUR) == 3 && lseek(stat, 0, SEEK_SET) == 0 && lseek(twice, 0, SEEK_CUR) == 0);
	CHECK(read(twice, b, sizeof(b)) > 10 && atoi(b) == getpid());
	snprintf(want, sizeof(want), "/proc/%d/stat", getpid());
	CHECK(!strcmp(link_of(stat, b), want) && read(oom, b, 8) >= 2 && write(oom, "0", 1) == 1);
}

static void *sleeper(void *arg)
{
	*(volatile int *)arg = (int)syscall(SYS_gettid);
	for (;;)
		pause();
	return NULL;
}

static void threads(void)
{
	volatile int tid = 0;
	pthread_t t;
	char path[64], b[512];
	int comm, own, dir, hidden;

	CHECK(!pthread_create(&t, NULL, sleeper, (void *)&tid));
	t_await(&tid);
	snprintf(path, sizeof(path), "/proc/self/task/%d/comm", tid);
	CHECK((comm = open(path, O_RDWR)) >= 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", tid);
	CHECK((hidden = open(path, O_RDONLY)) >= 0);
	CHECK((own = open("/proc/thread-self/stat", O_RDONLY)) >= 0 && (dir = open("/proc/self/task", O_RDONLY | O_DIRECTORY)) >= 0);
	t_wait();
	CHECK(write(comm, "renamed", 7) == 7 && lseek(comm, 0, SEEK_SET) == 0 && read(comm, b, 16) == 8 && !memcmp(b, "renamed\n", 8));
	CHECK(read(own, b, sizeof(b)) > 10 && atoi(b) == getpid());
	CHECK(read(hidden, b, sizeof(b)) > 10 && atoi(b) == tid);
	snprintf(path, sizeof(path), "%d/comm", tid);
	CHECK((comm = openat(dir, path, O_RDONLY)) >= 0 && read(comm, b, 16) == 8);
}

static int next_number(DIR *d)
{
	struct dirent *e;

	while ((e = readdir(d)))
		if (e->d_name[0] >= '0' && e->d_name[0] <= '9')
			return atoi(e->d_name);
	return -1;
}

static void dirs(void)
{
	DIR *root = opendir("/proc"), *fds = opendir("/proc/self/fd"), *self;
	int path = open("/proc/self", O_PATH | O_DIRECTORY), link = open("/proc/self/exe", O_PATH | O_NOFOLLOW), system;
	char b[256];

	CHECK(root && fds && path >= 0 && link >= 0 && (self = opendir("/proc/self/task")));
	CHECK(next_number(root) == 1 && next_number(fds) == 0);
	CHECK((system = open("/proc/sys/kernel/ostype", O_RDONLY)) >= 0 && read(system, b, 2) == 2);
	t_wait();
	seekdir(root, telldir(root)); /* what was read already is forgotten: the kernel's position counts */
	seekdir(fds, telldir(fds));
	CHECK(next_number(root) > 1 && next_number(fds) == 1);
	CHECK(readlinkat(path, "cwd", b, sizeof(b)) > 0 && readlinkat(link, "", b, sizeof(b)) > 0);
	CHECK(next_number(self) == getpid() && read(system, b, 3) == 3 && !memcmp(b, "nux", 3));
}

static void dead(void)
{
	int go[2], stat, dir, maps, root;
	char path[64], b[256], link[2][256];
	pid_t pid;

	CHECK(!pipe(go) && (pid = fork()) >= 0);
	if (!pid)
		_exit(read(go[0], b, 1) == 1 ? 0 : 1);
	snprintf(path, sizeof(path), "/proc/%d", pid);
	CHECK((dir = open(path, O_RDONLY | O_DIRECTORY)) >= 0 && (stat = openat(dir, "stat", O_RDONLY)) >= 0);
	CHECK((maps = openat(dir, "maps", O_RDONLY)) >= 0 && (root = openat(dir, "task", O_PATH)) >= 0);
	CHECK(write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid && !close(go[0]) && !close(go[1]));
	link_of(stat, link[0]);
	link_of(dir, link[1]);
	t_wait();
	CHECK(read(stat, b, sizeof(b)) < 0 && errno == ESRCH);
	CHECK(read(maps, b, sizeof(b)) <= 0);
	CHECK(openat(dir, "stat", O_RDONLY) < 0 && openat(root, "1", O_RDONLY) < 0);
	CHECK(!strcmp(link_of(stat, b), link[0]) && !strcmp(link_of(dir, b), link[1]));
}

/* Of a process that is not in the tree, but will be there again. */
static void outside(void)
{
	int fd = open("/proc/1/stat", O_RDONLY), parent;
	char path[64], b[64];

	snprintf(path, sizeof(path), "/proc/%d/stat", getppid());
	CHECK(fd >= 0 && (parent = open(path, O_RDONLY)) >= 0);
	t_wait();
	CHECK(read(fd, b, 2) == 2 && !memcmp(b, "1 ", 2));
	CHECK(read(parent, b, 2) == 2);
}

/* From before the chroot, where no name leads any more. */
static void jail(void)
{
	int stat, mem, dir, ns;
	static long value = 77;
	long seen;
	char b[64];

	if (geteuid())
		SKIP("needs root");
	CHECK((stat = open("/proc/self/stat", O_RDONLY)) >= 0 && (mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC)) >= 0);
	CHECK((dir = open("/proc/self/task", O_RDONLY | O_DIRECTORY)) >= 0 && (ns = open("/proc/self/ns/time", O_RDONLY)) >= 0);
	CHECK(!mkdir("jail", 0755) && !chroot("jail") && !chdir("/") && !close(0));
	t_wait();
	CHECK(read(stat, b, sizeof(b)) > 10 && atoi(b) == getpid() && pread(mem, &seen, 8, (off_t)&value) == 8 && seen == 77);
	snprintf(b, sizeof(b), "%d/stat", getpid());
	CHECK(!faccessat(dir, b, F_OK, 0) && fcntl(ns, F_GETFD) == 0 && fcntl(0, F_GETFD) < 0);
}

static void namespaces(void)
{
	static const char *const names[] = { "net", "uts", "ipc", "user", "cgroup", "mnt", "pid", "time", "pid_for_children" };
	int fd[ARRAY_SIZE(names)], dup_net;
	char path[64];
	struct stat now, held;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		CHECK((fd[i] = open(path, O_RDONLY | (i % 2 ? O_CLOEXEC : 0))) >= 0);
	}
	CHECK((dup_net = dup(fd[0])) >= 0);
	t_wait();
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/proc/self/ns/%s", names[i]);
		CHECK(!stat(path, &now) && !fstat(fd[i], &held) && now.st_ino == held.st_ino && now.st_dev == held.st_dev);
		CHECK(fcntl(fd[i], F_GETFD) == (i % 2 ? FD_CLOEXEC : 0));
	}
	CHECK(!fstat(dup_net, &held) && held.st_ino);
}

static void foreign(void)
{
	char b = 0;
	int go[2], ready[2], fd;
	char path[64];
	pid_t pid;

	if (geteuid())
		SKIP("needs root");
	CHECK(!pipe(go) && !pipe(ready) && (pid = fork()) >= 0);
	if (!pid) {
		CHECK(!unshare(CLONE_NEWUTS) && write(ready[1], "x", 1) == 1);
		_exit(read(go[0], &b, 1) == 1 ? 0 : 1);
	}
	snprintf(path, sizeof(path), "/proc/%d/ns/uts", pid);
	CHECK(read(ready[0], &b, 1) == 1 && (fd = open(path, O_RDONLY)) >= 0);
	CHECK(write(go[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid);
	t_wait();
	CHECK(fcntl(fd, F_GETFD) == 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "self", self }, { "threads", threads }, { "dirs", dirs }, { "dead", dead }, { "outside", outside }, { "jail", jail },
		{ "namespaces", namespaces }, { "foreign", foreign },
	};

	T_RUN(variants, t_init(argc, argv));
}
