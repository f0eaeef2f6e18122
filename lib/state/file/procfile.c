/* SPDX-License-Identifier: MIT */
/*
 * Files and directories of /proc/PID. They are REG entries, but their name is a process:
 * - one of the tree: opened again by a task when it exists (bytask.c), for some of these files are bound to an address
 *   space as it is at the open;
 * - one that has ended (the descriptor reads as ESRCH): opened through a short-lived process with its number, which the
 *   format calls a PROCFS remap;
 * - one outside of the tree: opened by name, if it is still the same one (our own file has when it was started).
 */
#include <limits.h>
#include <signal.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "lib/kernel/arch/x86_64/clone_vm.h"
#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/ns/ns.h"
#include "lib/state/pids.h"

#define DELETED " (deleted)"
#define PROC_ROOT_INO 1

/* "/proc/PID/task/TID/NAME", taken apart */
struct name {
	size_t dir;  /* length of "/proc" */
	pid_t pid;
	pid_t tid;   /* 0: no task/TID in it */
	size_t tail; /* where the rest begins */
};

static bool is_proc_root(const struct fs_view *view, const char *path, size_t n)
{
	char dir[PATH_MAX];
	struct statfs fs;
	struct stat st;

	if (n >= sizeof(dir))
		return false;
	memcpy(dir, path, n);
	dir[n] = 0;
	return view_stat(view, dir, &st) == 0 && st.st_ino == PROC_ROOT_INO && view_statfs(view, dir, &fs) == 0 &&
	       (uint32_t)fs.f_type == FS_PROC;
}

/* A number between slashes; *@end is behind it. */
static pid_t number(const char *s, const char **end)
{
	pid_t n = 0;

	for (*end = s; **end >= '0' && **end <= '9' && *end - s < 9; ++*end)
		n = n * 10 + (**end - '0');
	return *end > s && (**end == '/' || !**end) ? n : 0;
}

static bool take_apart(const struct fs_view *view, const char *path, struct name *name)
{
	const char *end;

	for (const char *p = strchr(path, '/'); p; p = strchr(p + 1, '/')) {
		*name = (struct name){ .dir = (size_t)(p - path), .pid = number(p + 1, &end) };
		if (!name->pid || p == path || !is_proc_root(view, path, name->dir))
			continue;
		if (strncmp(end, "/task/", 6) == 0 && (name->tid = number(end + 6, &end)) == 0)
			end = strstr(end, "/task/");
		name->tail = (size_t)(end - path);
		return true;
	}
	return false;
}

/* Of the kernel's text: without what it puts behind. */
static const char *without_deleted(struct op *op, const char *link, bool *deleted)
{
	size_t n = strlen(link), tail = sizeof(DELETED) - 1;

	*deleted = n > tail && strcmp(link + n - tail, DELETED) == 0;
	return *deleted ? arena_strndup(op->arena, link, n - tail) : link;
}

static bool procfile_match(const struct fd_view *v)
{
	char path[PATH_MAX];
	struct name name;
	size_t n = strlen(v->link), tail = sizeof(DELETED) - 1;

	if (v->fs_magic != FS_PROC || n >= sizeof(path))
		return false;
	memcpy(path, v->link, n + 1);
	if (n > tail && strcmp(path + n - tail, DELETED) == 0)
		path[n - tail] = 0;
	return take_apart(v->view, path, &name);
}

static int procfile_check(struct op *op, const struct fd_view *v)
{
	if (v->fd < 0)
		return file_refuse(op, v, "file of /proc/PID", "the program must leave it before the checkpoint",
				   "%s is of a process that must exist first: not supported", v->link);
	return 0;
}

static bool is_task(const struct snap_task *t, pid_t n)
{
	for (size_t i = 0; i < t->threads.n; i++)
		if (t->threads.v[i].tid == n)
			return true;
	return t->pid == n;
}

/* The process of the tree that has this number, or a thread with it. */
static const struct snap_task *task_of(const struct snapshot *s, pid_t n)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (is_task(&s->tasks.v[i], n))
			return &s->tasks.v[i];
	return NULL;
}

/* A process outside: that it is the same one at the restore shows in when it was started. */
static int note_foreign(struct op *op, struct snapshot *s, const struct fd_view *v, uint32_t id, pid_t pid)
{
	ForeignProcEntry *m, **slot;
	struct proc_stat st;
	int r = proc_read_stat(op, pid, &st);

	if (r)
		return r < 0 ? r : file_refuse(op, v, "file of /proc/PID", NULL, "process %d is ending", pid);
	m = op_new(op, ForeignProcEntry);
	slot = m ? ARRAY_ADD(op->arena, &s->file_state->foreign_procs) : NULL;
	if (!slot)
		return op_nomem(op);
	foreign_proc_entry__init(m);
	m->file_id = id;
	m->pid = (uint32_t)pid;
	m->starttime = st.starttime;
	m->comm = arena_strdup(op->arena, st.comm);
	*slot = m;
	if (pid != 1)
		log_warn(op, "task %d: fd %d: %s is of a process outside of the tree (%s): the checkpoint can be restored only while it lives",
			 v->pid, v->fd, v->link, st.comm);
	return m->comm ? 0 : op_nomem(op);
}

/* The kernel marks only the directory of an ended process: of what is in it, the name leads to nothing, or to another one. */
static bool has_ended(const char *path, const struct fd_view *v)
{
	struct stat st;

	return view_lstat(v->view, path, &st) < 0 || st.st_dev != v->st.st_dev || st.st_ino != v->st.st_ino;
}

static int fill(struct op *op, const struct snapshot *s, const struct fd_view *v, struct snap_file *f, const char *path)
{
	RegFileEntry *m = op_new(op, RegFileEntry);

	if (!m)
		return CKPT_E_NOMEM;
	reg_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->pos = reg_position(v);
	m->fown = file_fown(op, v);
	m->name = arena_strdup(op->arena, path);
	m->has_mode = true;
	m->mode = v->st.st_mode;
	reg_note_mount(s, v, m);
	f->msg->reg = m;
	return m->fown && m->name ? 0 : op_nomem(op);
}

static int procfile_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct name name;
	bool deleted;
	const char *path = without_deleted(op, v->link, &deleted);
	int r = procfile_check(op, v);

	if (r)
		return r;
	if (!path || !take_apart(v->view, path, &name))
		return op_nomem(op);
	r = fill(op, s, v, f, path);
	if (!r && (deleted || has_ended(path, v)))
		return remap_add(op, s, f->id, (uint32_t)(name.tid ? name.tid : name.pid), REMAP_TYPE__PROCFS);
	return r || task_of(s, name.pid) ? r : note_foreign(op, s, v, f->id, name.pid);
}

/* ------------------------------------------------------------------------------------------- restore half */

static int sorry(struct op *op, const char *path)
{
	return op_errno(op, errno, AT(.kind = "file of /proc/PID"), "cannot open %s", path);
}

/* A process with that number if it is to be had, else with another one; it does nothing but exist. */
static pid_t stand_in(const struct snapshot *s, pid_t want)
{
	long self = pids_namespace(s) < 0 ? getpid() : 0; /* of another PID namespace we are not seen */
	pid_t pid = ns_fork_as(s, want, 0);

	if (pid == 0)
		stay_while(self);
	return pid < 0 && want ? stand_in(s, 0) : pid;
}

/* What it is called in the tree's PID namespace. */
static pid_t number_of(struct op *op, const struct snapshot *s, pid_t pid)
{
	struct proc_status st;

	if (pids_namespace(s) < 0)
		return pid;
	if (proc_read_status(op, pid, &st) == 0)
		return proc_own_number(&st.nspid);
	op_forget(op);
	return 0;
}

static int open_as(struct op *op, const struct fs_view *view, const RegFileEntry *m, const struct name *name, pid_t pid, int *fd)
{
	const char *path = arena_printf(op->arena, "%.*s/%d", (int)name->dir, m->name, pid);

	if (path && name->tid)
		path = arena_printf(op->arena, "%s/task/%d", path, pid);
	path = path ? arena_printf(op->arena, "%s%s", path, m->name + name->tail) : NULL;
	if (!path)
		return op_nomem(op);
	*fd = file_high(view_open(view, path, (int)reg_open_flags(m->flags) | O_CLOEXEC | O_NOCTTY, 0));
	return *fd < 0 ? sorry(op, path) : 0;
}

static int open_dead(struct op *op, const struct snapshot *s, const struct fs_view *view, const RegFileEntry *m, const struct name *name, int *fd)
{
	pid_t host = stand_in(s, name->pid), pid = host < 0 ? -1 : number_of(op, s, host);
	int r;

	if (host < 0)
		return op_errno(op, errno, AT(.kind = "file of /proc/PID"), "cannot make a process for %s", m->name);
	if (pid != name->pid || (name->tid && name->tid != pid))
		log_info(op, "%s: its number is not to be had: the descriptor is of a process that was %d", m->name, pid);
	r = open_as(op, view, m, name, pid, fd);
	kill(host, SIGKILL);
	while (waitpid(host, NULL, __WALL) < 0 && errno == EINTR)
		;
	return r;
}

static bool same_boot(const struct snapshot *s)
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char id[37] = "";

	return !s->extra->boot_id || fd < 0 || read(fd, id, 36) != 36 || strcmp(id, s->extra->boot_id) == 0;
}

/* What the image says about a process outside; NULL: nothing. */
static const ForeignProcEntry *foreign_of(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_foreign_procs; i++)
		if (s->extra->foreign_procs[i]->file_id == id)
			return s->extra->foreign_procs[i];
	return NULL;
}

static int check_foreign(struct op *op, const struct snapshot *s, const RegFileEntry *m, pid_t pid)
{
	const ForeignProcEntry *was = foreign_of(s, m->id);
	struct proc_stat st;
	int r;

	if (!was || pid == 1)
		return 0;
	r = proc_read_stat(op, pid, &st);
	if (r < 0 || (!r && st.starttime == was->starttime && same_boot(s)))
		return r;
	return op_fail(op, CKPT_E_CHANGED, AT(.kind = "file of /proc/PID"),
		       "%s: process %d (%s), which it tells about, has ended since the checkpoint", m->name, pid, was->comm);
}

static int open_foreign(struct op *op, struct snapshot *s, const RegFileEntry *m, const struct name *name, int *fd)
{
	int r = check_foreign(op, s, m, name->pid);

	if (r)
		return r;
	*fd = file_high(view_open(reg_view(s, m), m->name, (int)reg_open_flags(m->flags) | O_CLOEXEC | O_NOCTTY, 0));
	return *fd < 0 ? sorry(op, m->name) : 0;
}

int procfile_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const RegFileEntry *m = f->msg->reg;
	const RemapFilePathEntry *remap = index_find(&s->file_state->remaps, KEY(f->id));
	bool dead = remap && remap->has_remap_type && remap->remap_type == REMAP_TYPE__PROCFS;
	const struct snap_task *t;
	struct name name;
	int r;

	if (m->ext || !take_apart(reg_view(s, m), m->name, &name))
		return dead ? image_bad(op, "remap-fpath.img: file id %u (%s) is not of /proc/PID", f->id, m->name) : IMG_ABSENT;
	t = task_of(s, name.pid);
	if (t && !dead)
		return bytask_open(op, s, f,
				   &(const struct bytask_what){
					   .pid = t->pid, .view = reg_view(s, m), .path = m->name, .flags = m->flags, .pos = m->pos,
					   .thread = name.pid != t->pid || (name.tid && name.tid != t->pid),
					   .kind = "file of /proc/PID",
				   });
	r = dead ? open_dead(op, s, reg_view(s, m), m, &name, &f->fd) : open_foreign(op, s, m, &name, &f->fd);
	if (!r && m->pos != POS_NONE && m->pos && !(m->flags & O_PATH) && lseek(f->fd, (off_t)m->pos, SEEK_SET) < 0)
		log_debug(op, "%s: cannot seek to %lu: %s", m->name, (unsigned long)m->pos, strerror(errno));
	return r;
}

/* The restore half is that of REG entries, which call procfile_open(). */
const struct file_kind file_procfile = {
	.name = "reg",
	.type = FD_TYPES__REG,
	.match = procfile_match,
	.check = procfile_check,
	.dump = procfile_dump,
};
