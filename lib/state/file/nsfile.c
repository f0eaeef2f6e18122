/* SPDX-License-Identifier: MIT */
/*
 * Descriptors of namespaces (/proc/PID/ns/...), by the number that the namespace has in the images. Only those in which a
 * task of the tree lives have one. A namespace that is mounted somewhere (/run/netns) is a file with a name: reg.c.
 */
#include <sched.h>

#include "lib/state/file/core.h"
#include "lib/state/ns/ns.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

struct type {
	const char *name;     /* in /proc/PID/ns, and in the link */
	enum ns_kind kind;
	uint32_t clone_flag;
	size_t id;	      /* of the field in TaskKobjIdsEntry */
	const char *children; /* the name of what children will get, if that is a namespace of its own */
};

static const struct type types[] = {
	{ "pid", NS_PID, CLONE_NEWPID, offsetof(TaskKobjIdsEntry, pid_ns_id), "pid_for_children" },
	{ "net", NS_NET, CLONE_NEWNET, offsetof(TaskKobjIdsEntry, net_ns_id), NULL },
	{ "ipc", NS_IPC, CLONE_NEWIPC, offsetof(TaskKobjIdsEntry, ipc_ns_id), NULL },
	{ "uts", NS_UTS, CLONE_NEWUTS, offsetof(TaskKobjIdsEntry, uts_ns_id), NULL },
	{ "mnt", NS_MNT, CLONE_NEWNS, offsetof(TaskKobjIdsEntry, mnt_ns_id), NULL },
	{ "user", NS_USER, CLONE_NEWUSER, offsetof(TaskKobjIdsEntry, user_ns_id), NULL },
	{ "cgroup", NS_CGROUP, CLONE_NEWCGROUP, offsetof(TaskKobjIdsEntry, cgroup_ns_id), NULL },
	{ "time", NS_TIME, CLONE_NEWTIME, offsetof(TaskKobjIdsEntry, time_ns_id), "time_for_children" },
};

static bool nsfile_match(const struct fd_view *v)
{
	return v->fs_magic == FS_NSFS && v->link[0] != '/';
}

/* "mnt:[4026531841]" */
static const struct type *type_of(const char *link)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		size_t n = strlen(types[i].name);

		if (strncmp(link, types[i].name, n) == 0 && link[n] == ':')
			return &types[i];
	}
	return NULL;
}

static uint32_t id_of(const TaskKobjIdsEntry *ids, const struct type *t)
{
	return ids ? *(const uint32_t *)((const char *)ids + t->id) : 0;
}

static bool lives_in(pid_t pid, const char *name, const struct stat *ns)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return stat(path, &st) == 0 && st.st_dev == ns->st_dev && st.st_ino == ns->st_ino;
}

static int foreign(struct op *op, const struct fd_view *v, const struct type *t)
{
	if (t && t->children && lives_in(v->pid, t->children, &v->st))
		return file_refuse(op, v, "namespace", "the program must close it before the checkpoint",
				   "%s is that of children to come, in which no process is yet: not supported", v->link);
	return file_refuse(op, v, "namespace", "the program must close it before the checkpoint",
			   "%s is one in which no process of the tree lives: not supported", v->link);
}

static int nsfile_check(struct op *op, const struct fd_view *v)
{
	const struct type *t = type_of(v->link);

	if (v->info.flags & O_PATH)
		return file_refuse(op, v, "namespace", NULL, "an O_PATH descriptor of %s is not supported", v->link);
	if (!t)
		return foreign(op, v, t);
	/* Which other processes are in the tree, but for its root, is not known here. */
	return v->copy >= 0 || lives_in(v->pid, t->name, &v->st) || (op->root && lives_in(op->root, t->name, &v->st)) ? 0 : foreign(op, v, t);
}

static int nsfile_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	const struct type *t = type_of(v->link);
	NsFileEntry *m = op_new(op, NsFileEntry);
	int r = m ? nsfile_check(op, v) : CKPT_E_NOMEM;

	if (r)
		return r;
	ns_file_entry__init(m);
	m->id = f->id;
	m->ns_cflag = t->clone_flag;
	m->flags = v->info.flags;
	for (size_t i = 0; i < s->tasks.n && !m->ns_id; i++)
		if (lives_in(s->tasks.v[i].host, t->name, &v->st))
			m->ns_id = id_of(s->tasks.v[i].ids, t);
	if (!m->ns_id)
		return foreign(op, v, t);
	f->msg->nsf = m;
	return 0;
}

/* ------------------------------------------------------------------------------------------- restore half */

/* Does the restore make a namespace of this type for a tree that lives in ours? */
static bool is_made(const struct op *op, const struct type *t)
{
	return t->clone_flag == CLONE_NEWTIME || (op->opts->new_pidns && (t->clone_flag & (CLONE_NEWPID | CLONE_NEWNS)));
}

static const struct snap_task *task_in(const struct snapshot *s, const struct type *t, uint32_t id)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		if (s->tasks.v[i].ids && id_of(s->tasks.v[i].ids, t) == id)
			return &s->tasks.v[i];
	return NULL;
}

static int open_ours(struct op *op, const struct type *t, struct snap_file *f)
{
	const char *path = arena_printf(op->arena, "/proc/thread-self/ns/%s", t->name);

	if (!path)
		return op_nomem(op);
	f->fd = file_high(open(path, O_RDONLY | O_CLOEXEC));
	return f->fd < 0 ? op_errno(op, errno, AT(.kind = "namespace"), "cannot open %s", path) : 0;
}

static int nsfile_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const NsFileEntry *m = f->msg->nsf;
	const struct type *t = NULL;
	const struct snap_task *task;
	const struct snap_ns *ns;
	const char *path;

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].clone_flag == m->ns_cflag)
			t = &types[i];
	if (!t)
		return image_bad(op, "files.img: id %u: there is no type 0x%x of namespace", m->id, m->ns_cflag);
	task = task_in(s, t, m->ns_id);
	if (!task)
		return image_bad(op, "files.img: id %u: no task lives in %s namespace %u", m->id, t->name, m->ns_id);
	if (!is_made(op, t) && s->inventory && m->ns_id == id_of(s->inventory->root_ids, t))
		return open_ours(op, t, f);
	ns = ns_find(s, t->kind, m->ns_id);
	if (ns && !ns->ours && ns->fd >= 0) {
		f->fd = file_high(file_reopen(ns->fd, O_RDONLY));
		return f->fd < 0 ? op_errno(op, errno, AT(.kind = "namespace"), "open a namespace of the tree") : 0;
	}
	path = arena_printf(op->arena, "/proc/%d/ns/%s", task->pid, t->name);
	if (!path)
		return op_nomem(op);
	return bytask_open(op, s, f, &(const struct bytask_what){ .pid = task->pid, .view = mounts_view(s, -1), .path = path, .flags = O_RDONLY,
								  .kind = "namespace" });
}

const struct file_kind file_nsfile = {
	.name = "namespace",
	.type = FD_TYPES__NS,
	.message = offsetof(FileEntry, nsf),
	.match = nsfile_match,
	.check = nsfile_check,
	.dump = nsfile_dump,
	.open = nsfile_open,
	.plan = bytask_plan,
};
