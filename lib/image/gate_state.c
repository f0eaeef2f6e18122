// SPDX-License-Identifier: MIT
/* The shared state of the dumps of a machine: making, checking, owning. See the header. */
#include "lib/image/gate_state.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(struct gate_slot) == 64 && sizeof(struct gate_head) == 64, "a cache line each");

#define INIT_BYTE 0	  /* of the locks: held by whoever makes the file */
#define SLOT_BYTE(i) (1 + (i))
#define INIT_TRIES 20
#define INIT_PAUSE_US 500

static bool lock(int fd, off_t byte, short type)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &fl) == 0;
}

/* ---- the file */

/* Whoever else may write there could have us wait for nothing. */
static bool check_folder(struct op *op, int dirfd)
{
	struct stat st;

	if (fstat(dirfd, &st) == 0 && S_ISDIR(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & 022))
		return true;
	log_debug(op, "neighbours: the folder of the state is not ours alone");
	return false;
}

static bool check_file(struct op *op, int fd, off_t *size)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077) || st.st_nlink != 1) {
		log_debug(op, "neighbours: the file of the state is not ours alone");
		return false;
	}
	*size = st.st_size;
	return true;
}

static bool make_file(int fd)
{
	struct gate_head head = { .magic = GATE_MAGIC, .version = GATE_VERSION, .n_slots = GATE_SLOTS,
				  .slot_size = sizeof(struct gate_slot) };

	/* The size says that it is complete: it comes last. */
	return pwrite(fd, &head, sizeof(head), 0) == sizeof(head) && ftruncate(fd, sizeof(struct gate_shared)) == 0;
}

/* One that was begun by somebody who died half way is made again: nobody can have used it. */
static bool settle_file(struct op *op, int fd)
{
	off_t size = 0;

	for (int i = 0; i < INIT_TRIES; i++) {
		bool made;

		if (!check_file(op, fd, &size))
			return false;
		if (size >= (off_t)sizeof(struct gate_shared))
			break;
		if (!lock(fd, INIT_BYTE, F_WRLCK)) {
			usleep(INIT_PAUSE_US);
			continue;
		}
		made = check_file(op, fd, &size) && (size >= (off_t)sizeof(struct gate_shared) || make_file(fd));
		lock(fd, INIT_BYTE, F_UNLCK);
		if (!made)
			return false;
	}
	return size >= (off_t)sizeof(struct gate_shared) || check_file(op, fd, &size);
}

static bool check_head(const struct gate_head *h)
{
	return memcmp(h->magic, GATE_MAGIC, sizeof(h->magic)) == 0 && h->version == GATE_VERSION &&
	       h->n_slots == GATE_SLOTS && h->slot_size == sizeof(struct gate_slot);
}

static bool map_file(struct op *op, struct gate_state *st)
{
	struct stat sb;
	void *p;

	/* Of this size exactly: a page beyond the end would be a signal instead of a number. */
	if (fstat(st->fd, &sb) < 0 || sb.st_size != sizeof(struct gate_shared)) {
		log_debug(op, "neighbours: the state has an odd size");
		return false;
	}
	p = mmap(NULL, sizeof(struct gate_shared), PROT_READ | PROT_WRITE, MAP_SHARED, st->fd, 0);
	if (p == MAP_FAILED)
		return false;
	st->mem = p;
	if (check_head(&st->mem->head))
		return true;
	log_debug(op, "neighbours: the state is not one of this version");
	return false;
}

bool gate_state_open_at(struct op *op, int dirfd, struct gate_state *st)
{
	*st = (struct gate_state)GATE_STATE_INIT;
	if (!check_folder(op, dirfd))
		return false;
	st->fd = openat(dirfd, GATE_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
	if (st->fd < 0)
		log_debug(op, "neighbours: the state cannot be opened: %s", strerror(errno));
	if (st->fd >= 0 && settle_file(op, st->fd) && map_file(op, st))
		return true;
	gate_state_close(st);
	return false;
}

/* Memory only: a mapped file of a disk is stopped at by each writeback, by the very disk that is waited for. */
static int open_folder(const char *base)
{
	_cleanup_close_ int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs) < 0 || fs.f_type != TMPFS_MAGIC)
		return -1;
	if (mkdirat(fd, "ckpt", 0700) < 0 && errno != EEXIST)
		return -1;
	return openat(fd, "ckpt", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

bool gate_state_open(struct op *op, struct gate_state *st)
{
	static const char *const places[] = { "/run", "/dev/shm" };

	*st = (struct gate_state)GATE_STATE_INIT;
	if (geteuid() != 0)
		return false; /* who is not root may not slow down who is */
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		_cleanup_close_ int dirfd = open_folder(places[i]);

		if (dirfd >= 0)
			return gate_state_open_at(op, dirfd, st);
	}
	log_debug(op, "neighbours: there is no place for the state");
	return false;
}

void gate_state_close(struct gate_state *st)
{
	if (st->mem)
		munmap(st->mem, sizeof(*st->mem));
	st->mem = NULL;
	close_fd_p(&st->fd);
	st->fd = -1;
}

/* ---- slots */

static void clear(struct gate_slot *s)
{
	atomic_store(&s->phase, GATE_FREE);
	atomic_store(&s->flags, 0);
	atomic_store(&s->dev, 0);
	atomic_store(&s->left, 0);
	atomic_store(&s->served, 0);
	atomic_store(&s->beat, now_ns()); /* as good as never the number that somebody saw of an earlier owner */
}

int gate_slot_claim(struct gate_state *st)
{
	if (!st->mem)
		return -1;
	/* First those that look free; then those whose owner may be gone. */
	for (int look = 0; look < 2; look++)
		for (int i = 0; i < GATE_SLOTS; i++) {
			bool is_free = atomic_load(&st->mem->slot[i].phase) == GATE_FREE;

			if (is_free == (look == 0) && lock(st->fd, SLOT_BYTE(i), F_WRLCK)) {
				clear(&st->mem->slot[i]);
				return i;
			}
		}
	return -1;
}

/* The lock is taken back explicitly: a child of the caller that was forked meanwhile has the same description. */
void gate_slot_release(struct gate_state *st, int i)
{
	clear(&st->mem->slot[i]);
	lock(st->fd, SLOT_BYTE(i), F_UNLCK);
	gate_call(st);
}

bool gate_slot_reap(struct gate_state *st, int i)
{
	if (!lock(st->fd, SLOT_BYTE(i), F_WRLCK))
		return false;
	gate_slot_release(st, i);
	return true;
}

/* ---- waiting */

void gate_call(struct gate_state *st)
{
	atomic_fetch_add(&st->mem->head.seq, 1);
	syscall(SYS_futex, &st->mem->head.seq, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void gate_listen(struct gate_state *st, uint32_t seq, uint64_t ns)
{
	const struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u) };

	syscall(SYS_futex, &st->mem->head.seq, FUTEX_WAIT, seq, &ts, NULL, 0);
}
