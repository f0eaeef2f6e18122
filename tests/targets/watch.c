// SPDX-License-Identifier: MIT
/* Descriptors that watch files: inotify, fanotify. In a folder of its own, below where the target is started. */
#include "target.h"

#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

static void touch(const char *path)
{
	int fd = open(path, O_CREAT | O_RDWR, 0644);

	CHECK(fd >= 0);
	close(fd);
}

static int watch(int in, const char *path, uint32_t mask)
{
	int wd = inotify_add_watch(in, path, mask);

	CHECK(wd > 0);
	return wd;
}

static int queued(int fd)
{
	int n = 0;

	CHECK(!ioctl(fd, FIONREAD, &n));
	return n;
}

static char buf[4096] __attribute__((aligned(8)));

/* The next event must be this one. */
static void expect(int in, int wd, uint32_t mask, const char *name)
{
	static size_t have, at;
	const struct inotify_event *e;

	if (at == have) {
		ssize_t n = read(in, buf, sizeof(buf));

		if (n <= 0)
			FAIL("no event %x of watch %d: %s", mask, wd, strerror(errno));
		have = (size_t)n;
		at = 0;
	}
	e = (const struct inotify_event *)(buf + at);
	at += sizeof(*e) + e->len;
	if (e->wd != wd || e->mask != mask || strcmp(e->len ? e->name : "", name))
		FAIL("event %x of watch %d (%s), not %x of %d (%s)", e->mask, e->wd, e->len ? e->name : "", mask, wd, name);
}

static void inotify(void)
{
	int in = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), two = inotify_init1(0), dir, file, once, gone, other, late;

	CHECK(in >= 0 && two >= 0 && !mkdir("watched", 0755));
	touch("watched/file");
	touch("once");
	dir = watch(in, "watched", IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_EXCL_UNLINK);
	gone = watch(in, ".", IN_CREATE);
	file = watch(in, "watched/file", IN_ALL_EVENTS);
	CHECK(!inotify_rm_watch(in, gone));
	once = watch(in, "once", IN_OPEN | IN_ONESHOT);
	CHECK(read(in, buf, sizeof(buf)) > 0); /* the watch that went */
	other = watch(two, "watched", IN_MOVED_TO);
	CHECK(dup2(in, 50) == 50);
	t_wait();
	CHECK(queued(in) == 0 && queued(two) == 0 && fcntl(in, F_GETFD) == FD_CLOEXEC && fcntl(50, F_GETFD) == 0);
	CHECK(fcntl(50, F_GETFL) & O_NONBLOCK && !(fcntl(two, F_GETFL) & O_NONBLOCK));
	touch("watched/new");
	expect(in, dir, IN_CREATE, "new");
	CHECK(!unlink("watched/new"));
	expect(in, dir, IN_DELETE, "new");
	CHECK(!chmod("watched/file", 0600));
	expect(50, file, IN_ATTRIB, "");
	touch("once");
	expect(in, once, IN_OPEN, "");
	expect(in, once, IN_IGNORED, "");
	touch("once");
	CHECK(queued(in) == 0);
	touch("x");
	CHECK(!rename("x", "watched/y"));
	expect(two, other, IN_MOVED_TO, "y");
	CHECK(watch(in, "watched", IN_CREATE) == dir && (late = watch(in, "once", IN_OPEN)) > once && late != file);
	CHECK(!inotify_rm_watch(in, file));
	expect(in, file, IN_IGNORED, "");
}

/* Where no handle can be opened, and on other file systems. */
static void places(void)
{
	int in = inotify_init1(IN_NONBLOCK), proc = watch(in, "/proc", IN_OPEN), etc = watch(in, "/etc/passwd", IN_OPEN), shm;
	char name[64];
	int null = watch(in, "/dev/null", IN_ATTRIB);

	snprintf(name, sizeof(name), "/dev/shm/ckpt-watch-%d", getpid());
	CHECK(!mkdir(name, 0700));
	shm = watch(in, name, IN_CREATE);
	t_wait();
	strcat(name, "/f");
	touch(name);
	unlink(name);
	*strrchr(name, '/') = 0;
	rmdir(name);
	close(open("/etc/passwd", O_RDONLY));
	(void)null;
	/* Others use these folders, too: what comes of ours is looked for among all. */
	unsigned seen = 0;
	int d = open("/proc", O_RDONLY | O_DIRECTORY);

	close(d);
	for (ssize_t n; (n = read(in, buf, sizeof(buf))) > 0;)
		for (ssize_t at = 0; at < n;) {
			const struct inotify_event *e = (const struct inotify_event *)(buf + at);

			at += (ssize_t)(sizeof(*e) + e->len);
			seen |= (e->wd == proc) | (e->wd == etc) << 1 | (e->wd == shm) << 2;
		}
	if (seen != 7)
		FAIL("watches that told something: %x", seen);
}

/* Numbers as high as they get in a program that ran for long; a name that changed since. */
static void numbers(void)
{
	int in = inotify_init1(IN_NONBLOCK), wd = 0, moved;
	int next = 1000000;

	CHECK(!mkdir("a", 0755) && !mkdir("b", 0755));
	touch("a/f");
	if (ioctl(in, _IOW('I', 0, int32_t), next))
		SKIP("numbers cannot be chosen here");
	wd = watch(in, "a", IN_ALL_EVENTS & ~IN_OPEN);
	CHECK(wd == next);
	CHECK(!ioctl(in, _IOW('I', 0, int32_t), 7));
	moved = watch(in, "a/f", IN_MODIFY);
	CHECK(moved == 7 && !rename("a", "c") && !rename("c/f", "b/g"));
	while (read(in, buf, sizeof(buf)) > 0)
		;
	t_wait();
	CHECK(queued(in) == 0);
	CHECK(!truncate("b/g", 5));
	expect(in, 7, IN_MODIFY, "");
	CHECK(!mkdir("c/sub", 0755));
	expect(in, next, IN_CREATE | IN_ISDIR, "sub");
}

static void unread(void)
{
	int in = inotify_init1(IN_NONBLOCK), wd;

	CHECK(!mkdir("d", 0755));
	wd = watch(in, "d", IN_CREATE);
	touch("d/lost");
	t_wait();
	while (read(in, buf, sizeof(buf)) > 0)
		;
	touch("d/new");
	expect(in, wd, IN_CREATE, "new");
}

static void deleted(void)
{
	int in = inotify_init1(IN_NONBLOCK), fd, wd;

	touch("e");
	CHECK((fd = open("e", O_RDWR)) >= 0);
	wd = watch(in, "e", IN_MODIFY);
	unlink("e");
	t_wait();
	CHECK(write(fd, "x", 1) == 1);
	expect(in, wd, IN_MODIFY, "");
}

static int group(unsigned flags, unsigned event_flags)
{
	int fd = fanotify_init(flags, event_flags);

	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		SKIP("no fanotify here");
	CHECK(fd >= 0);
	return fd;
}

static bool mark(int fd, unsigned flags, uint64_t mask, const char *path)
{
	return !fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path);
}

/* How many events with this mask; closes what they carry. */
static int events(int fd, uint64_t mask)
{
	int n = 0;
	ssize_t got;

	while ((got = read(fd, buf, sizeof(buf))) > 0)
		for (struct fanotify_event_metadata *m = (void *)buf; FAN_EVENT_OK(m, got); m = FAN_EVENT_NEXT(m, got)) {
			n += m->pid == getpid() && m->mask & mask;
			if (m->fd >= 0)
				close(m->fd);
		}
	return n;
}

/* Lines of fdinfo: of marks on file systems, or the others. */
static void marks(int fd, bool fs, char *text, size_t size)
{
	char name[64], line[512];
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", fd);
	f = fopen(name, "re");
	CHECK(f);
	*text = 0;
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "fanotify", 8) && !strstr(line, "fanotify sdev") == !fs && strlen(text) + strlen(line) < size)
			strcat(text, line);
	fclose(f);
	for (; *text; text++)
		*text = *text == '\n' ? ';' : *text;
}

static void fanotify(void)
{
	static char before[4][2048], after[4][2048];
	int a = group(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_UNLIMITED_MARKS, O_RDONLY | O_LARGEFILE | O_CLOEXEC);
	int b = group(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME, 0);

	CHECK(!mkdir("in", 0755) && !mkdir("out", 0755));
	touch("in/f");
	touch("out/f");
	CHECK(mark(a, 0, FAN_OPEN | FAN_EVENT_ON_CHILD, "in"));
	CHECK(mark(a, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, "out/f"));
	CHECK(mark(a, FAN_MARK_MOUNT, FAN_CLOSE_WRITE, "."));
	mark(a, FAN_MARK_FILESYSTEM, FAN_MODIFY, "/dev/shm");
	CHECK(mark(b, 0, FAN_CREATE | FAN_ONDIR, "out"));
	mark(b, 0x200 /* FAN_MARK_EVICTABLE */, FAN_DELETE, "in");
	for (int i = 0; i < 4; i++)
		marks(i & 1 ? b : a, i & 2, before[i], sizeof(before[i]));
	t_wait();
	for (int i = 0; i < 4; i++)
		marks(i & 1 ? b : a, i & 2, after[i], sizeof(after[i]));
	for (int i = 0; i < 4; i++)
		if (strcmp(before[i], after[i]))
			FAIL("marks of group %d differ: %s / %s", i, before[i], after[i]);
	events(a, 0);
	events(b, 0);
	close(open("in/f", O_RDONLY));
	CHECK(events(a, FAN_OPEN) == 1);
	close(open("out/f", O_RDWR));
	CHECK(events(a, FAN_CLOSE_WRITE) == 1);
	CHECK(!mkdir("out/d", 0755) && events(b, FAN_CREATE) == 1);
	CHECK(fcntl(a, F_GETFD) == 0 && fcntl(b, F_GETFD) == FD_CLOEXEC);
}

/* A whole mount: whoever opens something there would wait for the stopped program. */
static void guard(void)
{
	int fd = group(FAN_CLASS_CONTENT | FAN_NONBLOCK, O_RDONLY);

	if (!mark(fd, FAN_MARK_MOUNT, FAN_OPEN_EXEC_PERM, "/dev/shm"))
		SKIP("no permission events here");
	t_wait();
	CHECK(fcntl(fd, F_GETFD) >= 0);
}

static void permission(void)
{
	int fd = group(FAN_CLASS_CONTENT | FAN_NONBLOCK, O_RDONLY);

	CHECK(!mkdir("guarded", 0755));
	if (!mark(fd, 0, FAN_OPEN_PERM | FAN_EVENT_ON_CHILD, "guarded"))
		SKIP("no permission events here");
	t_wait();
	CHECK(events(fd, FAN_OPEN_PERM) == 0);
}

int main(int argc, char **argv)
{
	static const struct t_variant variants[] = {
		{ "inotify", inotify }, { "places", places }, { "numbers", numbers }, { "unread", unread }, { "deleted", deleted },
		{ "fanotify", fanotify }, { "permission", permission }, { "guard", guard },
	};

	T_RUN(variants, t_init(argc, argv));
}
