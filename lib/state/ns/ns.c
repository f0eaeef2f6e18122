/* SPDX-License-Identifier: MIT */
/* Which namespaces there are, and who lives in which: the table that everything about them goes by. */
#include "lib/state/ns/core.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"
#include "lib/state/ns/nested.h"

#define MANY 4096
#define STAND_IN_ID 0xffffff00u /* no checkpoint has such ids */
#define FIRST_FREE_NS_ID 9 /* those below are the dumper's namespaces */
#define IOC_GET_USERNS 0xb701 /* linux/nsfs.h */
#define IOC_GET_PARENT 0xb702

#define ID(field) offsetof(TaskKobjIdsEntry, field), offsetof(TaskKobjIdsEntry, has_##field)
const struct ns_info ns_info[NS_N] = {
	[NS_USER] = { "user", "user", CLONE_NEWUSER, ID(user_ns_id) },
	[NS_PID] = { "pid", "PID", CLONE_NEWPID, ID(pid_ns_id) },
	[NS_MNT] = { "mnt", "mount", CLONE_NEWNS, ID(mnt_ns_id) },
	[NS_NET] = { "net", "network", CLONE_NEWNET, ID(net_ns_id) },
	[NS_IPC] = { "ipc", "IPC", CLONE_NEWIPC, ID(ipc_ns_id) },
	[NS_UTS] = { "uts", "UTS", CLONE_NEWUTS, ID(uts_ns_id) },
	[NS_CGROUP] = { "cgroup", "cgroup", CLONE_NEWCGROUP, ID(cgroup_ns_id) },
	[NS_TIME] = { "time", "time", NS_CLONE_TIME, ID(time_ns_id) },
};

/* What is in them; those without a row hold nothing, or have folders of their own. */
static const struct ns_content *const contents[NS_N] = {
	[NS_USER] = &ns_user,
	[NS_PID] = &ns_pid,
	[NS_UTS] = &ns_uts,
	[NS_TIME] = &ns_time,
};

uint32_t ns_id_of(const TaskKobjIdsEntry *ids, enum ns_kind kind)
{
	if (!ids || !*(const protobuf_c_boolean *)((const char *)ids + ns_info[kind].has_id))
		return 0;
	return *(const uint32_t *)((const char *)ids + ns_info[kind].id);
}

static void set_id(TaskKobjIdsEntry *ids, enum ns_kind kind, uint32_t id)
{
	*(protobuf_c_boolean *)((char *)ids + ns_info[kind].has_id) = 1;
	*(uint32_t *)((char *)ids + ns_info[kind].id) = id;
}

struct snap_ns *ns_find(const struct snapshot *s, enum ns_kind kind, uint32_t id)
{
	for (size_t i = 0; s->ns && i < s->ns->v.n; i++)
		if (s->ns->v.v[i]->kind == kind && s->ns->v.v[i]->id == id)
			return s->ns->v.v[i];
	return NULL;
}

static struct snap_ns *ours_of(const struct snapshot *s, enum ns_kind kind)
{
	return s->ns->v.v[kind]; /* the first ones, in their order */
}

struct snap_ns *ns_of(const struct snapshot *s, const struct snap_task *t, enum ns_kind kind)
{
	struct snap_ns *ns = ns_find(s, kind, ns_id_of(t->ids, kind));

	ns = ns || !s->ns ? ns : ours_of(s, kind);
	return ns && ns->instead ? ns->instead : ns;
}

struct snap_ns *ns_own(const struct snapshot *s, enum ns_kind kind)
{
	struct snap_ns *ns = s->ns && s->tasks.n ? ns_of(s, &s->tasks.v[0], kind) : NULL;

	return ns && !ns->ours ? ns : NULL;
}

static int own_fd(const struct snapshot *s, enum ns_kind kind)
{
	const struct snap_ns *ns = ns_own(s, kind);

	return ns ? ns->fd : -1;
}

struct errand_where ns_where(const struct snapshot *s)
{
	return (struct errand_where){
		.user = own_fd(s, NS_USER), .pid = own_fd(s, NS_PID), .mnt = own_fd(s, NS_MNT), .net = own_fd(s, NS_NET),
		.ipc = own_fd(s, NS_IPC), .uts = own_fd(s, NS_UTS), .cgroup = own_fd(s, NS_CGROUP), .time = -1,
	};
}

static struct snap_ns *add(struct op *op, struct snapshot *s, enum ns_kind kind, uint32_t id)
{
	struct snap_ns *ns = op_new(op, struct snap_ns), **slot = ns ? ARRAY_ADD(op->arena, &s->ns->v) : NULL;

	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*ns = (struct snap_ns){ .kind = kind, .id = id, .fd = -1 };
	*slot = ns;
	return ns;
}

/* With an entry of each kind for ours. */
static int begin(struct op *op, struct snapshot *s)
{
	s->ns = op_new(op, struct ns_state);
	if (!s->ns)
		return CKPT_E_NOMEM;
	s->ns->home = -1;
	for (unsigned k = 0; k < NS_N; k++) {
		struct snap_ns *ns = add(op, s, k, ns_id_of(s->inventory->root_ids, k));
		char path[64];
		struct stat st;

		if (!ns)
			return CKPT_E_NOMEM;
		ns->ours = true;
		snprintf(path, sizeof(path), "/proc/thread-self/ns/%s", ns_info[k].name);
		if (stat(path, &st) == 0)
			ns->ino = st.st_ino;
	}
	return 0;
}

static int each_content(struct op *op, struct snapshot *s, size_t which)
{
	int r = 0;

	for (size_t i = NS_N; s->ns && i < s->ns->v.n && !r; i++) {
		struct snap_ns *ns = s->ns->v.v[i];
		const struct ns_content *c = contents[ns->kind];
		int (*fn)(struct op *, struct snapshot *, struct snap_ns *) = NULL;

		if (c)
			fn = *(int (*const *)(struct op *, struct snapshot *, struct snap_ns *))((const char *)c + which);
		if (fn && !ns->ext_key && !ns->joined)
			r = fn(op, s, ns);
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------------ dump */

static struct snap_ns *by_ino(const struct snapshot *s, enum ns_kind kind, uint64_t ino)
{
	for (size_t i = 0; i < s->ns->v.n; i++)
		if (s->ns->v.v[i]->kind == kind && s->ns->v.v[i]->ino == ino)
			return s->ns->v.v[i];
	return NULL;
}

/* --external net[INODE]:KEY */
static const char *external_key(const struct op *op, const struct snap_ns *ns)
{
	char want[48];
	int n = snprintf(want, sizeof(want), "%s[%lu]:", ns_info[ns->kind].name, (unsigned long)ns->ino);

	for (size_t i = 0; i < op->opts->external.n; i++)
		if (strncmp(op->opts->external.v[i], want, (size_t)n) == 0 && op->opts->external.v[i][n])
			return op->opts->external.v[i] + n;
	return NULL;
}

static int open_of(struct op *op, struct snap_ns *ns, pid_t host)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", host, ns_info[ns->kind].name);
	ns->fd = file_high(open(path, O_RDONLY | O_CLOEXEC));
	return ns->fd >= 0 ? 0 : op_errno(op, errno, AT(.pid = host, .kind = "namespace"), "open %s", path);
}

static int live_in(struct op *op, struct snapshot *s, struct snap_task *t, enum ns_kind kind)
{
	struct snap_ns *ns;
	struct stat st;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", t->host, ns_info[kind].name);
	if (stat(path, &st) < 0) {
		if (errno == ENOENT && access("/proc/self/ns", F_OK) == 0 && ours_of(s, kind)->ino == 0)
			return 0; /* a kernel without such namespaces */
		return op_errno(op, errno, AT(.pid = t->host, .kind = "namespace"), "look at %s", path);
	}
	ns = by_ino(s, kind, st.st_ino);
	if (!ns) {
		int r;

		s->next_ns_id = MAX(s->next_ns_id, (uint32_t)FIRST_FREE_NS_ID);
		ns = add(op, s, kind, s->next_ns_id++);
		if (!ns)
			return CKPT_E_NOMEM;
		ns->ino = st.st_ino;
		ns->host = t->host;
		ns->ext_key = external_key(op, ns);
		r = open_of(op, ns, t->host);
		if (r)
			return r;
	}
	set_id(t->ids, kind, ns->id);
	return 0;
}

/* Which of ours a namespace belongs to, or is below of. NULL: ours, or one that is none of the tree's. */
static struct snap_ns *relative(const struct snapshot *s, const struct snap_ns *ns, enum ns_kind kind, unsigned long how)
{
	_cleanup_close_ int fd = ioctl(ns->fd, how);
	struct snap_ns *found = NULL;
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0)
		found = by_ino(s, kind, st.st_ino);
	return found && !found->ours ? found : NULL;
}

static void find_relatives(struct snapshot *s)
{
	for (size_t i = NS_N; i < s->ns->v.n; i++) {
		struct snap_ns *ns = s->ns->v.v[i];

		ns->owner = ns->kind == NS_USER ? NULL : relative(s, ns, NS_USER, IOC_GET_USERNS);
		if (ns->kind == NS_USER || ns->kind == NS_PID)
			ns->parent = relative(s, ns, ns->kind, IOC_GET_PARENT);
	}
}

/* The init of a PID namespace ends with it, and cannot be any task. */
static int check_init(struct op *op, const struct snapshot *s)
{
	const struct snap_ns *ns = ns_own(s, NS_PID);

	if (!ns || ns->ext_key || s->tasks.v[0].pid == 1)
		return 0;
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = s->tasks.v[0].host, .kind = "namespace",
			  .hint = "checkpoint the whole container, from its init on, or run the checkpoint inside (nsenter)"),
		       "process %d is number %d of another PID namespace, not its init, without which it cannot be made again",
		       s->tasks.v[0].host, s->tasks.v[0].pid);
}

int ns_dump_begin(struct op *op, struct snapshot *s)
{
	int r = begin(op, s);

	for (size_t i = 0; i < s->tasks.n && !r; i++)
		for (unsigned k = 0; k < NS_N && !r && s->tasks.v[i].ids; k++)
			r = live_in(op, s, &s->tasks.v[i], k);
	if (r)
		return r;
	find_relatives(s);
	for (size_t i = NS_N; i < s->ns->v.n && !r; i++)
		if (ns_is_below(s, s->ns->v.v[i]))
			r = snapshot_mark(op, s, IMG_OWN_BELOW);
	if (r)
		return r;
	return check_init(op, s) ?: ns_user_begin(op, s) ?: ns_time_begin(op, s);
}

int ns_dump(struct op *op, struct snapshot *s)
{
	return nested_dump(op, s) ?: each_content(op, s, offsetof(struct ns_content, dump));
}

int ns_write(struct op *op, struct snapshot *s)
{
	return pidns_write_keys(op, s) ?: each_content(op, s, offsetof(struct ns_content, write));
}

/* --------------------------------------------------------------------------------------------------- restore */

/* A namespace that the image only has a key of. */
static int read_external(struct op *op, struct snapshot *s, struct snap_ns *ns)
{
	ProtobufCMessage *m = NULL;
	int r, fd;

	if (ns->kind != NS_NET && ns->kind != NS_PID)
		return 0;
	r = img_read_one(op, s->dir, ns->kind == NS_NET ? IMG_NETNS : IMG_PIDNS, ns->id, &m);
	if (r)
		return r < 0 ? r : 0;
	ns->ext_key = ns->kind == NS_NET ? ((NetnsEntry *)m)->ext_key : ((PidnsEntry *)m)->ext_key;
	if (!ns->ext_key)
		return 0;
	fd = inherit_find(op, ns->ext_key);
	if (fd < 0)
		return op_fail(op, CKPT_E_INVAL, AT(.kind = "namespace", .hint = "give one with --inherit-fd fd[N]:KEY"),
			       "the checkpoint needs a %s namespace from outside, known as %s", ns_info[ns->kind].word, ns->ext_key);
	ns->fd = file_high(fcntl(fd, F_DUPFD_CLOEXEC, 3));
	if (ns->fd < 0)
		return op_errno(op, errno, AT(AT_FD(fd), .kind = "namespace"), "cannot take descriptor %d for %s", fd, ns->ext_key);
	ns->joined = true;
	return 0;
}

static int read_ns(struct op *op, struct snapshot *s, const struct snap_task *t, enum ns_kind kind)
{
	uint32_t id = ns_id_of(t->ids, kind);
	struct snap_ns *ns;

	if (!id || ns_find(s, kind, id))
		return 0;
	if (s->ns->v.n > MANY)
		return op_fail(op, CKPT_E_IMAGE, AT(.pid = t->pid, .kind = "namespace"), "ids-%d.img: there are too many namespaces", t->pid);
	ns = add(op, s, kind, id);
	return ns ? read_external(op, s, ns) : CKPT_E_NOMEM;
}

struct snap_ns *ns_stand_in(struct op *op, struct snapshot *s, enum ns_kind kind)
{
	struct snap_ns *ns = add(op, s, kind, STAND_IN_ID + kind);

	ours_of(s, kind)->instead = ns;
	return ns;
}

int ns_read(struct op *op, struct snapshot *s)
{
	int r = begin(op, s);

	for (size_t i = 0; i < s->tasks.n && !r; i++)
		for (unsigned k = 0; k < NS_N && !r && s->tasks.v[i].ids; k++)
			r = read_ns(op, s, &s->tasks.v[i], k);
	r = r ?: ns_join(op, s);
	r = r ?: nested_read(op, s);
	return r ?: each_content(op, s, offsetof(struct ns_content, read));
}

uint64_t ns_clone_flags(const struct snapshot *s)
{
	uint64_t flags = 0;

	for (unsigned k = 0; k < NS_N; k++) {
		const struct snap_ns *ns = ns_own(s, k);

		/* Clocks are set before the namespace is entered; the root of the other is the cgroup of whoever makes it. */
		if (ns && !ns->joined && k != NS_TIME && k != NS_CGROUP)
			flags |= (uint64_t)ns_info[k].flag;
	}
	return flags;
}

int ns_make(struct op *op, struct snapshot *s, pid_t host)
{
	int r = 0;

	for (unsigned k = 0; k < NS_N && !r; k++) {
		struct snap_ns *ns = ns_own(s, k);

		if (ns && ns->fd < 0 && k != NS_TIME && k != NS_CGROUP)
			r = open_of(op, ns, host);
		if (ns)
			ns->host = host;
	}
	r = r ?: ns_below_make(op, s);
	return r ?: each_content(op, s, offsetof(struct ns_content, make));
}

pid_t ns_fork_as(const struct snapshot *s, pid_t pid, uint64_t flags)
{
	struct clone_args args = { .flags = flags };
	const struct snap_ns *ns = ns_own(s, NS_PID);
	_cleanup_close_ int home = -1;
	pid_t got;

	if (pid) {
		args.set_tid = (uintptr_t)&pid;
		args.set_tid_size = 1;
	}
	if (!ns || ns->fd < 0)
		return sys_clone3(&args, sizeof(args));
	home = open("/proc/thread-self/ns/pid_for_children", O_RDONLY | O_CLOEXEC);
	if (home < 0 || setns(ns->fd, CLONE_NEWPID) < 0)
		return -1;
	got = sys_clone3(&args, sizeof(args));
	if (got == 0 && flags & CLONE_FILES)
		home = -1; /* the table of descriptors is common: it is for the parent to close */
	if (got) {
		int saved = errno;

		if (setns(home, CLONE_NEWPID) < 0 && got > 0) {
			/* Whatever this thread makes next would be a part of the tree. */
			kill(got, SIGKILL);
			waitpid(got, NULL, __WALL);
			return -1;
		}
		errno = saved;
	}
	return got;
}

/* ------------------------------------------------------------------------------------------------------ both */

int ns_visit(struct op *op, struct snapshot *s, bool enter)
{
	struct snap_ns *net = ns_own(s, NS_NET);

	if (!net || net->fd < 0 || enter == (s->ns->home >= 0))
		return 0;
	if (enter) {
		s->ns->home = file_high(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
		if (s->ns->home < 0)
			return op_errno(op, errno, AT(.kind = "namespace"), "open our own network namespace");
	}
	if (setns(enter ? net->fd : s->ns->home, CLONE_NEWNET) < 0)
		return op_errno(op, errno, AT(.kind = "namespace"), enter ? "enter the network namespace of the tree" :
									  "come back from the network namespace of the tree");
	if (!enter) {
		close_fd_p(&s->ns->home);
		s->ns->home = -1;
	}
	return 0;
}

void ns_done(struct snapshot *s)
{
	if (!s->ns)
		return;
	for (size_t i = 0; i < s->ns->v.n; i++) {
		close_fd_p(&s->ns->v.v[i]->fd);
		s->ns->v.v[i]->fd = -1;
	}
}
