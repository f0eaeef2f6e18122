// SPDX-License-Identifier: MIT
/* Deleted files of all sorts, with everything that is part of them. Files are made in the current directory. */
#include "target.h"

#include <sys/vfs.h>

#include <sys/sysmacros.h>
#include <sys/xattr.h>

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

/* The kernel's form of an access control list: version 2, then (tag, permissions, id). */
struct acl {
	uint32_t version;
	struct {
		uint16_t tag, perm;
		uint32_t id;
	} e[5];
};

static const struct acl acl = {
	2, { { 1, 6, ~0u }, { 2, 4, 12345 }, { 4, 4, ~0u }, { 16, 6, ~0u }, { 32, 0, ~0u } },
};

static bool xattr_is(int fd, const char *name, const void *want, size_t n)
{
	char b[256];

	return fgetxattr(fd, name, b, sizeof(b)) == (ssize_t)n && !memcmp(b, want, n);
}

static void attributes(void)
{
	int a = make("a", "content"), d, empty;
	const struct timespec times[2] = { { 1000000000, 123456789 }, { 1500000000, 987654321 } };
	struct stat st, now;

	CHECK(!mkdir("d", 0700) && (d = open("d", O_RDONLY | O_DIRECTORY)) >= 0 && (empty = make("empty", "")) >= 0);
	if (fsetxattr(a, "user.text", "some value", 10, 0) < 0)
		SKIP("no extended attributes here: %s", strerror(errno));
	CHECK(!fsetxattr(a, "user.empty", "", 0, 0) && !fsetxattr(d, "user.dir", "x", 1, 0));
	CHECK(!fsetxattr(a, "system.posix_acl_access", &acl, sizeof(acl), 0));
	CHECK(!fsetxattr(d, "system.posix_acl_default", &acl, sizeof(acl), 0));
	if (!geteuid())
		CHECK(!fsetxattr(a, "trusted.root", "r", 1, 0) && !fchown(a, 77, 88) && !fchmod(a, 04750));
	CHECK(!unlink("a") && !rmdir("d") && !unlink("empty") && !futimens(a, times) && !fstat(a, &st));
	t_wait();
	CHECK(holds(a, "content") && xattr_is(a, "user.text", "some value", 10) && xattr_is(a, "user.empty", "", 0));
	CHECK(xattr_is(d, "user.dir", "x", 1) && xattr_is(d, "system.posix_acl_default", &acl, sizeof(acl)));
	CHECK(geteuid() || xattr_is(a, "trusted.root", "r", 1));
	CHECK(fgetxattr(a, "system.posix_acl_access", NULL, 0) == sizeof(acl));
	CHECK(!fstat(a, &now) && now.st_mode == st.st_mode && now.st_uid == st.st_uid && now.st_gid == st.st_gid);
	CHECK(now.st_mtim.tv_sec == 1500000000 && now.st_mtim.tv_nsec == 987654321);
	CHECK(flistxattr(empty, NULL, 0) == 0 && now.st_nlink == 0);
}

/* Everything but regular files: symbolic links, FIFOs, devices, sockets' names cannot be opened but as O_PATH. */
static void nodes(void)
{
	int link, fifo, rw, dev = -1, path;
	char b[64];
	struct stat st;

	CHECK(!symlink("where/it/leads", "link") && (link = open("link", O_PATH | O_NOFOLLOW)) >= 0 && !unlink("link"));
	CHECK(!mkfifo("fifo", 0620) && (rw = open("fifo", O_RDWR)) >= 0 && (fifo = open("fifo", O_PATH)) >= 0 && !unlink("fifo"));
	CHECK(write(rw, "queued", 6) == 6 && (path = open(".", O_PATH)) >= 0);
	if (!geteuid() && !mknod("dev", S_IFCHR | 0600, makedev(1, 7)))
		CHECK((dev = open("dev", O_PATH)) >= 0 && !unlink("dev"));
	t_wait();
	CHECK(readlinkat(link, "", b, sizeof(b)) == 14 && !memcmp(b, "where/it/leads", 14));
	CHECK(!fstat(fifo, &st) && S_ISFIFO(st.st_mode) && st.st_nlink == 0 && (st.st_mode & 0777) == (0620 & ~(umask(0) & 0777)));
	CHECK(read(rw, b, sizeof(b)) == 6 && !memcmp(b, "queued", 6));
	CHECK(dev < 0 || (!fstat(dev, &st) && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 7) && st.st_nlink == 0));
}

static int name_it(int fd, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return linkat(AT_FDCWD, path, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
}

/* Files without a name, which get one later; and one that was deleted, which cannot get one. */
static void nameless(void)
{
	int tmp = open(".", O_TMPFILE | O_RDWR, 0640), wo = open(".", O_TMPFILE | O_WRONLY | O_APPEND, 0600), again, del = make("del", "x");
	char path[64];
	struct stat a, b;

	if (tmp < 0)
		SKIP("no O_TMPFILE here: %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tmp);
	CHECK(wo >= 0 && write(tmp, "nameless", 8) == 8 && write(wo, "first ", 6) == 6 && (again = open(path, O_RDONLY)) >= 0);
	CHECK(!unlink("del") && lseek(tmp, 4, SEEK_SET) == 4);
	t_wait();
	CHECK(lseek(tmp, 0, SEEK_CUR) == 4 && holds(again, "nameless") && !fstat(again, &a) && !fstat(tmp, &b));
	CHECK(a.st_ino == b.st_ino && a.st_nlink == 0 && (a.st_mode & 0777) == (0640 & ~umask(0)));
	CHECK(!name_it(tmp, "named") && !fstat(again, &a) && a.st_nlink == 1 && !stat("named", &b) && a.st_ino == b.st_ino);
	CHECK((fcntl(wo, F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY) && lseek(wo, 0, SEEK_SET) == 0);
	CHECK(write(wo, "last", 4) == 4 && !name_it(wo, "two") && holds(open("two", O_RDONLY), "first last"));
	CHECK(holds(del, "x") && name_it(del, "three") < 0 && errno == ENOENT);
}

/* One inode under two names, both deleted, opened by each; and one more name that was opened before it was moved. */
static void links(void)
{
	int a = make("a", "shared"), b, c;
	struct stat x, y, z;

	CHECK(!link("a", "b") && (b = open("b", O_RDONLY)) >= 0 && !rename("a", "c") && (c = open("c", O_RDONLY)) >= 0);
	CHECK(!unlink("b") && !unlink("c"));
	t_wait();
	CHECK(pwrite(a, "SHARED", 6, 0) == 6 && holds(b, "SHARED") && holds(c, "SHARED"));
	CHECK(!fstat(a, &x) && !fstat(b, &y) && !fstat(c, &z) && x.st_ino == y.st_ino && y.st_ino == z.st_ino && x.st_nlink == 0);
}

static void sparse(void)
{
	int fd = make("sparse", "head");
	struct stat st;
	char b[8];

	CHECK(pwrite(fd, "tail", 4, 3l << 30) == 4 && !ftruncate(fd, 5l << 30) && !unlink("sparse"));
	t_wait();
	CHECK(!fstat(fd, &st) && st.st_size == 5l << 30 && st.st_blocks < 1000);
	CHECK(pread(fd, b, 4, 3l << 30) == 4 && !memcmp(b, "tail", 4) && pread(fd, b, 8, 1l << 30) == 8 && !b[0] && !b[7]);
	CHECK(pread(fd, b, 4, 0) == 4 && !memcmp(b, "head", 4));
}

/* In a directory that is deleted, too, below the current directory, which is deleted as well. */
static void deep(void)
{
	int fd, dir;
	struct stat a, b;

	CHECK(!mkdir("x", 0755) && !chdir("x") && !mkdir("y", 0700) && (fd = make("y/file", "deep")) >= 0);
	CHECK((dir = open("y", O_RDONLY | O_DIRECTORY)) >= 0 && !unlink("y/file") && !rmdir("y") && !rmdir("../x"));
	t_wait();
	CHECK(holds(fd, "deep") && !fstat(dir, &a) && (a.st_mode & 0777) == 0700 && open("file", O_CREAT | O_RDWR, 0600) < 0);
	CHECK(!stat(".", &a) && !stat("/proc/self/cwd", &b) && a.st_ino == b.st_ino);
}

/* The name leads to another file, once by renaming, once by making it anew; and a directory took its place. */
static void replaced(void)
{
	int a = make("a", "old a"), b = make("b", "old b"), c = make("c", "old c"), other = make("other", "new a");

	CHECK(!rename("other", "a") && !unlink("b") && make("b", "new b") >= 0 && !unlink("c") && !mkdir("c", 0755));
	t_wait();
	CHECK(holds(a, "old a") && holds(b, "old b") && holds(c, "old c") && holds(other, "new a"));
	CHECK(holds(open("a", O_RDONLY), "new a") && holds(open("b", O_RDONLY), "new b") && !access("c/.", F_OK));
}

static void big(void)
{
	static char buf[2 << 20];
	int fd = make("big", "");

	t_fill(buf, sizeof(buf), 3);
	CHECK(write(fd, buf, sizeof(buf)) == sizeof(buf) && !unlink("big"));
	memset(buf, 0, sizeof(buf));
	t_wait();
	CHECK(pread(fd, buf, sizeof(buf), 0) == sizeof(buf) && t_same(buf, sizeof(buf), 3));
}

/* In memory there is no limit. */
static void limit(void)
{
	struct statfs fs;

	if (!statfs(".", &fs) && fs.f_type == 0x01021994 /* tmpfs */)
		SKIP("the current directory is on tmpfs");
	big();
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "attributes", attributes }, { "nodes", nodes }, { "nameless", nameless }, { "links", links },
		{ "sparse", sparse }, { "deep", deep }, { "replaced", replaced }, { "limit", limit }, { "big", big },
	};

	T_RUN(variants, t_init(argc, argv));
}
