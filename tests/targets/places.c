// SPDX-License-Identifier: MIT
/* Files in places that the test has prepared: the folder "here", with "file", "other" and "folder" with three files in it. */
#include "target.h"

#include <dirent.h>

static bool holds(int fd, const char *want)
{
	char b[256];
	ssize_t n = pread(fd, b, sizeof(b), 0);

	return n == (ssize_t)strlen(want) && !memcmp(b, want, (size_t)n);
}

/* As they are, changed since, deleted, renamed, replaced. */
static void files(void)
{
	int rd = open("here/file", O_RDONLY), rw = open("here/other", O_RDWR), gone, moved, made, dir = open("here/folder", O_RDONLY);
	char *p;

	CHECK(rd >= 0 && rw >= 0 && dir >= 0);
	p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, rd, 0);
	CHECK(p != MAP_FAILED && p[0] == 'f');
	CHECK(pwrite(rw, "OTHER", 5, 0) == 5 && lseek(rd, 2, SEEK_SET) == 2);
	CHECK((gone = open("here/folder/1", O_RDONLY)) >= 0 && !unlink("here/folder/1"));
	CHECK((moved = open("here/folder/2", O_RDONLY)) >= 0 && !rename("here/folder/2", "here/moved"));
	CHECK((made = open("here/made", O_CREAT | O_EXCL | O_RDWR, 0644)) >= 0 && write(made, "made", 4) == 4);
	t_wait();
	CHECK(holds(rd, "file") && lseek(rd, 0, SEEK_CUR) == 2 && holds(rw, "OTHER") && holds(gone, "1") && holds(moved, "2"));
	CHECK(holds(made, "made") && p[0] == 'f' && access("here/folder/1", F_OK) < 0 && !access("here/moved", F_OK));
	CHECK(!faccessat(dir, "3", F_OK, 0) && faccessat(dir, "2", F_OK, 0) < 0);
	CHECK(close(openat(dir, "new", O_CREAT | O_EXCL | O_WRONLY, 0600)) == 0 && !access("here/folder/new", F_OK));
}

/* The names that are left, from where the kernel's position is. */
static unsigned rest_of(int fd)
{
	char buf[4096];
	unsigned seen = 0;
	long n;

	while ((n = syscall(SYS_getdents64, fd, buf, sizeof(buf))) > 0)
		for (long i = 0; i < n; i += ((struct dirent64 *)(buf + i))->d_reclen) {
			const char *name = ((struct dirent64 *)(buf + i))->d_name;

			if (name[0] == 'n')
				seen += (unsigned)atoi(name + 1) * 1000 + 1;
		}
	CHECK(n == 0);
	return seen;
}

/* In the middle of a large folder. */
static void position(void)
{
	char name[32], buf[256];
	int fd, again;
	unsigned want;

	CHECK(!mkdir("here/large", 0755));
	for (int i = 0; i < 300; i++) {
		snprintf(name, sizeof(name), "here/large/n%d", i);
		CHECK(!close(open(name, O_CREAT | O_WRONLY, 0600)));
	}
	CHECK((fd = open("here/large", O_RDONLY | O_DIRECTORY)) >= 0 && (again = dup(fd)) >= 0);
	for (int i = 0; i < 12; i++)
		CHECK(syscall(SYS_getdents64, fd, buf, sizeof(buf)) > 0);
	CHECK((want = (unsigned)lseek(fd, 0, SEEK_CUR)) != 0);
	{
		off_t pos = lseek(fd, 0, SEEK_CUR);

		want = rest_of(fd);
		CHECK(want % 1000 > 100 && want % 1000 < 300 && lseek(fd, pos, SEEK_SET) == pos);
	}
	t_wait();
	CHECK(rest_of(again) == want && rest_of(fd) == 0);
}

static void at_end(void)
{
	int fd = open("here/folder", O_RDONLY | O_DIRECTORY);

	CHECK(fd >= 0);
	rest_of(fd);
	t_wait();
	CHECK(rest_of(fd) == 0 && lseek(fd, 0, SEEK_SET) == 0);
}

/* Something is mounted over it after it was opened. */
static void covered(void)
{
	int fd = open("here/file", O_RDONLY);

	CHECK(fd >= 0 && !close(open("opened", O_CREAT | O_WRONLY, 0600)));
	while (access("here/covered", F_OK) < 0)
		t_sleep_ms(2);
	t_wait();
	CHECK(holds(fd, "file"));
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "files", files }, { "position", position }, { "at_end", at_end }, { "covered", covered },
	};

	T_RUN(variants, t_init(argc, argv));
}
