/* SPDX-License-Identifier: MIT */
#include "lib/state/view.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "lib/kernel/sys.h"

const struct fs_view fs_view_ours = FS_VIEW_OURS;

/* What openat2(2) takes; it refuses any other flag, which open(2) ignores. */
#define OPEN_FLAGS                                                                                                          \
	(O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_ASYNC | O_DIRECT |          \
	 K_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | __O_TMPFILE)
#define K_LARGEFILE 0100000 /* the C library has it as zero */
#define TRIES 100	    /* a lookup of ".." gives up whenever something is renamed or mounted anywhere */

bool view_is_ours(const struct fs_view *v)
{
	return !v || v->root == AT_FDCWD;
}

/* Capabilities for files are lost with the user id, and may be had again as long as they are permitted. */
static void set_capabilities(const struct view_self *want, struct view_self *had)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(caps); i++) {
		if (had)
			had->effective[i] = caps[i].effective;
		caps[i].effective = want ? want->effective[i] : caps[i].permitted;
	}
	syscall(SYS_capset, &head, caps);
}

bool view_become(const struct fs_view *v, struct view_self *self)
{
	if (!v || (!v->uid && !v->gid) || v->uid == (uint32_t)-1 || v->gid == (uint32_t)-1)
		return false;
	set_capabilities(NULL, self);
	self->dumpable = prctl(PR_GET_DUMPABLE);
	syscall(SYS_setfsgid, v->gid);
	syscall(SYS_setfsuid, v->uid);
	set_capabilities(NULL, NULL);
	return true;
}

void view_come_back(const struct view_self *self)
{
	int saved = errno;

	syscall(SYS_setfsuid, geteuid());
	syscall(SYS_setfsgid, getegid());
	set_capabilities(self, NULL);
	if (self->dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1);
	errno = saved;
}

#define AS_OWNER(v, call)                                                \
	({                                                               \
		struct view_self _self;                                  \
		int _r = (call);                                         \
		if (_r < 0 && errno == EOVERFLOW && view_become(v, &_self)) { \
			_r = (call);                                     \
			view_come_back(&_self);                          \
		}                                                        \
		_r;                                                      \
	})

static int open_once(const struct fs_view *v, const char *path, int flags, mode_t mode)
{
	struct open_how how = { .flags = (uint64_t)(unsigned)(flags & OPEN_FLAGS), .resolve = RESOLVE_IN_ROOT };
	int fd = -1;

	if (view_is_ours(v))
		return open(path, flags, mode);
	/* openat2 is strict where open is not. */
	if (flags & (O_CREAT | __O_TMPFILE))
		how.mode = mode & 07777;
	if (flags & O_PATH)
		how.flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	for (int i = 0; i < TRIES; i++) {
		fd = sys_openat2(v->root, path, &how, sizeof(how));
		if (fd >= 0 || errno != EAGAIN)
			break;
	}
	return fd;
}

int view_open(const struct fs_view *v, const char *path, int flags, mode_t mode)
{
	return AS_OWNER(v, open_once(v, path, flags, mode));
}

int view_lstat(const struct fs_view *v, const char *path, struct stat *st)
{
	_cleanup_close_ int fd = -1;

	if (view_is_ours(v))
		return lstat(path, st);
	fd = view_open(v, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	return fd < 0 ? -1 : fstat(fd, st);
}

int view_stat(const struct fs_view *v, const char *path, struct stat *st)
{
	_cleanup_close_ int fd = -1;

	if (view_is_ours(v))
		return stat(path, st);
	fd = view_open(v, path, O_PATH | O_CLOEXEC, 0);
	return fd < 0 ? -1 : fstat(fd, st);
}

int view_statfs(const struct fs_view *v, const char *path, struct statfs *st)
{
	_cleanup_close_ int fd = -1;

	if (view_is_ours(v))
		return statfs(path, st);
	fd = view_open(v, path, O_PATH | O_CLOEXEC, 0);
	return fd < 0 ? -1 : fstatfs(fd, st);
}

int view_parent(const struct fs_view *v, const char *path, const char **last)
{
	size_t end = strlen(path), from;
	_cleanup_free_ char *dir = NULL;

	while (end && path[end - 1] == '/')
		end--;
	for (from = end; from && path[from - 1] != '/'; from--)
		;
	/* A trailing slash would be a part of what *@last points to. */
	if (from == end || path[end] == '/' || strcmp(path + from, ".") == 0 || strcmp(path + from, "..") == 0) {
		errno = EINVAL;
		return -1;
	}
	dir = from ? strndup(path, from) : strdup(".");
	if (!dir) {
		errno = ENOMEM;
		return -1;
	}
	*last = path + from;
	return view_open(v, dir, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
}

/* A folder and a name in it, for *at() calls; in our own view that is simply the name. */
struct place {
	int dir;
	const char *name;
};

static void place_close(struct place *p)
{
	close_fd_p(&p->dir);
}
#define _cleanup_place_ _cleanup_(place_close)

static struct place place_of(const struct fs_view *v, const char *path)
{
	struct place p = { AT_FDCWD, path };

	if (!view_is_ours(v))
		p.dir = view_parent(v, path, &p.name);
	return p;
}

/* Without the folder errno is why. */
#define AT_PLACE(v, p, call) ((p).dir == -1 ? -1 : AS_OWNER(v, call))

int view_mkdir(const struct fs_view *v, const char *path, mode_t mode)
{
	_cleanup_place_ struct place p = place_of(v, path);

	return AT_PLACE(v, p, mkdirat(p.dir, p.name, mode));
}

int view_mknod(const struct fs_view *v, const char *path, mode_t mode, dev_t dev)
{
	_cleanup_place_ struct place p = place_of(v, path);

	return AT_PLACE(v, p, mknodat(p.dir, p.name, mode, dev));
}

int view_symlink(const struct fs_view *v, const char *target, const char *path)
{
	_cleanup_place_ struct place p = place_of(v, path);

	return AT_PLACE(v, p, symlinkat(target, p.dir, p.name));
}

int view_unlink(const struct fs_view *v, const char *path)
{
	_cleanup_place_ struct place p = place_of(v, path);

	return AT_PLACE(v, p, unlinkat(p.dir, p.name, 0));
}

int view_rmdir(const struct fs_view *v, const char *path)
{
	_cleanup_place_ struct place p = place_of(v, path);

	return AT_PLACE(v, p, unlinkat(p.dir, p.name, AT_REMOVEDIR));
}

int view_link(const struct fs_view *v, const char *have, const char *want)
{
	_cleanup_place_ struct place a = place_of(v, have), b = place_of(v, want);

	return a.dir == -1 || b.dir == -1 ? -1 : AS_OWNER(v, linkat(a.dir, a.name, b.dir, b.name, 0));
}

int view_link_fd(const struct fs_view *v, int fd, const char *want)
{
	_cleanup_place_ struct place p = place_of(v, want);
	char own[64];

	snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
	return AT_PLACE(v, p, linkat(AT_FDCWD, own, p.dir, p.name, AT_SYMLINK_FOLLOW));
}
