/* SPDX-License-Identifier: MIT */
/* Could the files of this running task be dumped? Everything is looked at through /proc; nothing is opened or stopped. */
#include <sys/vfs.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"

struct check {
	pid_t pid;
	dev_t shm_dev;
	ckpt_obstacle_fn fn;
	void *arg;
	int obstacles;
	struct fs_view view; /* the task's own root, if it lives in another mount namespace */
	void *keep[CHECK_KEEP_N]; /* in the arena */
};

/* A refusal becomes an obstacle; positive: nothing to look at any more. */
static int report(struct op *op, struct check *c, int r)
{
	if (r >= 0)
		return 0;
	if (r != CKPT_E_UNSUPPORTED)
		return r;
	c->fn(c->arg, op->err);
	c->obstacles++;
	op_forget(op);
	return 0;
}

static int look(struct op *op, struct check *c, const char *file, struct fd_view *v)
{
	char path[128], *link;
	struct statfs fs;
	int r = proc_read_link(op, c->pid, file, &link);

	if (r)
		return r;
	v->link = link;
	snprintf(path, sizeof(path), "/proc/%d/%s", c->pid, file);
	if (stat(path, &v->st) < 0 || statfs(path, &fs) < 0)
		return errno == ENOENT || errno == ESRCH ? PROC_GONE : file_errno(op, v, "look at it");
	v->fs_magic = (uint32_t)fs.f_type;
	return 0;
}

static int check_view(struct op *op, const struct fd_view *v)
{
	const struct file_kind *kind = file_kind_of(v);
	int r = locks_check(op, v);

	if (r)
		return r;
	if (!kind)
		return file_refuse(op, v, "descriptor", NULL, "%s is of a kind that is not known", v->link);
	return kind->check ? kind->check(op, v) : 0;
}

static int check_fd(struct op *op, struct check *c, int fd)
{
	struct fd_view v = { .pid = c->pid, .fd = fd, .what = "fd", .copy = -1, .link = "", .shm_dev = c->shm_dev,
			     .keep = c->keep, .mnt_id = -1, .view = &c->view };
	char file[32];
	int r;

	snprintf(file, sizeof(file), "fd/%d", fd);
	r = look(op, c, file, &v);
	r = r ? r : proc_read_fdinfo(op, c->pid, fd, &v.info);
	v.info.flags &= ~(uint32_t)O_CLOEXEC;
	return report(op, c, r ? r : check_view(op, &v));
}

static int check_special(struct op *op, struct check *c, const char *what)
{
	struct fd_view v = { .pid = c->pid, .fd = -1, .what = what, .copy = -1, .link = "", .shm_dev = c->shm_dev,
			     .mnt_id = -1, .view = &c->view };
	int r = look(op, c, what, &v);

	return report(op, c, r ? r : check_view(op, &v));
}

static int open_view(struct op *op, struct check *c)
{
	struct stat ours, theirs;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", c->pid);
	if (stat(path, &theirs) < 0 || stat("/proc/thread-self/ns/mnt", &ours) < 0 || ours.st_ino == theirs.st_ino)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/root", c->pid);
	c->view.root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return c->view.root < 0 ? op_errno(op, errno, AT(.pid = c->pid), "task %d: cannot open its root directory", c->pid) : 0;
}

int files_check_task(struct op *op, pid_t pid, ckpt_obstacle_fn fn, void *arg)
{
	static const char *const specials[] = { "exe", "cwd", "root" };
	struct check c = { .pid = pid, .fn = fn, .arg = arg, .view = FS_VIEW_OURS };
	struct proc_numbers fds;
	int r;

	r = file_tmpfs_dev(op, &c.shm_dev);
	r = r ? r : open_view(op, &c);
	r = r ? r : proc_list_numbers(op, pid, "fd", &fds);
	if (r > 0)
		r = op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d is gone", pid);
	for (size_t i = 0; !r && i < fds.v.n; i++)
		r = check_fd(op, &c, fds.v.v[i]);
	for (size_t i = 0; !r && i < ARRAY_SIZE(specials); i++)
		r = check_special(op, &c, specials[i]);
	close_fd_p(&c.view.root);
	return r ? r : c.obstacles;
}
