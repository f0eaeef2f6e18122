/* SPDX-License-Identifier: MIT */
/*
 * When the last descriptor of a userfaultfd is closed, what is still missing reads as zeroes: false memory. A daemon that is
 * killed must not do that to its programs. So there is a second process that shares the daemon's descriptor table, through
 * which everything stays open when the daemon is gone. Programs that touch a missing page go on waiting meanwhile; the keeper
 * turns every page that may be missing into one whose use is an error (SIGBUS), lets go of the descriptors, and ends.
 *
 * It needs to know nothing of who lacks what: a page that is there is not changed by that, so all ranges that were ever
 * missing anywhere are tried in every address space. They are in memory that both share; descriptors it finds in its table.
 *
 * The keeper is a fork of a program that may have other threads: system calls and plain computation only, no malloc.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/engine/lazy.h"
#include "lib/kernel/sys.h"

#define ROOM (1u << 20) /* ranges, of 16 bytes; pages of it that are not used cost nothing */
#define UFFD_LINK "anon_inode:[userfaultfd]"
#define STRIDE (2ull << 20)
#define ALONE_PIDFD_THREAD O_EXCL /* PIDFD_THREAD, since Linux 6.9 */

struct range {
	uint64_t start, end;
};

struct shared {
	atomic_uint n;
	atomic_uint done; /* nothing is missing any more */
	struct range v[ROOM];
};

struct lazy_keeper {
	struct shared *shared;
	pthread_mutex_t lock; /* of adding to it */
	int pidfd, self;
	pid_t pid;
};

/* ------------------------------------------------------------------------------------------- in the keeper */

static bool poison(int fd, uint64_t start, uint64_t end)
{
	for (uint64_t at = start, stride = STRIDE; at < end;) {
		struct uffdio_poison p = { .range = { at, MIN(stride, end - at) } };

		if (ioctl(fd, UFFDIO_POISON, &p) == 0 || p.updated > 0) {
			at += p.updated > 0 ? (uint64_t)p.updated : p.range.len;
			stride = STRIDE;
		} else if (errno == EEXIST) { /* the first one is there */
			at += PAGE_SIZE;
		} else if (errno == EAGAIN || errno == ENOMEM) { /* an event is to be taken first; a memory cgroup is full */
			return true;
		} else if (errno == ESRCH) {
			return false;
		} else if (p.range.len > PAGE_SIZE) { /* not all in one area */
			stride = PAGE_SIZE;
		} else {
			at += PAGE_SIZE;
			stride = at % STRIDE ? PAGE_SIZE : STRIDE;
		}
	}
	return false;
}

static void add_range(struct shared *s, uint64_t start, uint64_t end)
{
	unsigned n = atomic_load(&s->n);

	if (n < ROOM) {
		s->v[n] = (struct range){ start, end };
		atomic_store(&s->n, n + 1);
	}
}

/* Who waits for an event goes on. True: there was one. */
static bool take_events(struct shared *s, int fd)
{
	struct uffd_msg m;
	bool any = false;

	while (read(fd, &m, sizeof(m)) == sizeof(m)) {
		any = any || m.event != UFFD_EVENT_PAGEFAULT;
		if (m.event == UFFD_EVENT_REMAP)
			add_range(s, m.arg.remap.to, m.arg.remap.to + m.arg.remap.len);
	}
	return any;
}

struct dirent64 {
	uint64_t ino;
	int64_t off;
	unsigned short reclen;
	unsigned char type;
	char name[];
};

/* Calls @fn for each userfaultfd in our table. True: one of the calls gave true. */
static bool each_uffd(struct shared *s, bool (*fn)(struct shared *s, int fd))
{
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char buf[4096] __attribute__((aligned(8))), link[64];
	bool any = false;
	long n;

	while ((n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct dirent64 *e = (const struct dirent64 *)(buf + at);
			ssize_t len = readlinkat(dir, e->name, link, sizeof(link));
			int fd = 0;

			for (const char *c = e->name; *c >= '0' && *c <= '9'; c++)
				fd = fd * 10 + (*c - '0');
			if (len == (ssize_t)strlen(UFFD_LINK) && memcmp(link, UFFD_LINK, (size_t)len) == 0 && fn(s, fd))
				any = true;
			at += e->reclen;
		}
	close(dir);
	return any;
}

static bool poison_all(struct shared *s, int fd)
{
	bool again = take_events(s, fd);

	for (unsigned i = 0; i < atomic_load(&s->n); i++)
		again = poison(fd, s->v[i].start, s->v[i].end) || again;
	return take_events(s, fd) || again;
}

static _Noreturn void keep(struct shared *s, int daemon_pidfd)
{
	struct pollfd p = { .fd = daemon_pidfd, .events = POLLIN };
	sigset_t all;
	int fd;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	if (chdir("/") < 0)
		errno = 0;
	prctl(PR_SET_NAME, "lazy-keeper");
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "-1000", 5) < 0)
		errno = 0;
	close(fd);
	while (poll(&p, 1, -1) <= 0)
		;
	if (!atomic_load(&s->done))
		/* A fork that was under way brings one more, and moved memory one more range. */
		while (each_uffd(s, poison_all))
			usleep(100);
	_exit(0);
}

/* ------------------------------------------------------------------------------------------- in the daemon */

static int start(struct op *op, struct lazy_keeper *k)
{
	struct clone_args args = { .flags = CLONE_FILES | CLONE_PIDFD, .pidfd = (uintptr_t)&k->pidfd };

	if (k->self < 0)
		k->self = sys_pidfd_open(sys_gettid(), ALONE_PIDFD_THREAD);
	if (k->self < 0)
		k->self = sys_pidfd_open(getpid(), 0);
	if (k->self < 0)
		return op_errno(op, errno, NULL, "open a pidfd for ourselves");
	k->pid = sys_clone3(&args, sizeof(args));
	if (k->pid < 0)
		return op_errno(op, errno, NULL, "start the keeper of lazy pages");
	if (k->pid == 0)
		keep(k->shared, k->self);
	return 0;
}

int lazy_keeper_start(struct op *op, struct lazy_keeper **ret)
{
	struct lazy_keeper *k = op_new(op, struct lazy_keeper);
	int r;

	if (!k)
		return CKPT_E_NOMEM;
	k->pidfd = k->self = -1;
	pthread_mutex_init(&k->lock, NULL);
	k->shared = mmap(NULL, sizeof(*k->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (k->shared == MAP_FAILED)
		return op_errno(op, errno, NULL, "allocate memory");
	r = start(op, k);
	if (r)
		munmap(k->shared, sizeof(*k->shared));
	else
		*ret = k;
	return r;
}

/* Ranges that follow each other are one; where there are very many, also those with a small hole between them. */
int lazy_keeper_range(struct lazy_keeper *k, uint64_t start, uint64_t end)
{
	struct shared *s = k->shared;
	unsigned n;
	int r = 0;

	pthread_mutex_lock(&k->lock);
	n = atomic_load(&s->n);
	if (n && start >= s->v[n - 1].end && start - s->v[n - 1].end <= (n > ROOM / 2 ? STRIDE : 0))
		s->v[n - 1].end = end;
	else if (n == ROOM)
		r = CKPT_E_NOMEM;
	else
		add_range(s, start, end);
	pthread_mutex_unlock(&k->lock);
	return r;
}

int lazy_keeper_pidfd(const struct lazy_keeper *k)
{
	return k->pidfd;
}

static void wait_for(struct lazy_keeper *k)
{
	while (waitpid(k->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	close_fd_p(&k->pidfd);
	k->pidfd = -1;
}

int lazy_keeper_again(struct op *op, struct lazy_keeper *k)
{
	wait_for(k);
	return start(op, k);
}

struct lazy_keeper *lazy_keeper_stop(struct lazy_keeper *k)
{
	if (!k)
		return NULL;
	atomic_store(&k->shared->done, 1);
	if (k->pidfd >= 0) {
		sys_pidfd_send_signal(k->pidfd, SIGKILL, NULL, 0);
		wait_for(k);
	}
	close_fd_p(&k->self);
	munmap(k->shared, sizeof(*k->shared));
	return NULL;
}
