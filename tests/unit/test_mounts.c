/* SPDX-License-Identifier: MIT */
/*
 * Trees of mounts, dumped and made again: what /proc/PID/mountinfo shows of the new namespaces must be what it showed of the old
 * ones, but for numbers. And images that make no sense. Needs root.
 */
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "lib/image/image.h"
#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/state/mount/core.h"
#include "lib/state/msg.h"

static char base[] = "/tmp/ckpt-mounts-XXXXXX"; /* root/ the files of the tree, out/ external things, img/ */
static struct ckpt_opts opts = CKPT_OPTS_INIT;
static char root_path[64], img_path[64];

#define MUST(cond) ((cond) ? (void)0 : (fprintf(stderr, "line %d: %s: %s\n", __LINE__, #cond, strerror(errno)), _exit(1)))

static struct op *new_op(void)
{
	struct op *op = calloc(1, sizeof(*op));

	op->arena = arena_new();
	op->opts = &opts;
	return op;
}

static void free_op(struct op *op)
{
	ckpt_err_free(op->err);
	arena_free(op->arena);
	free(op);
}

static void no_err(const struct op *op, int r, int line)
{
	if (!r)
		return;
	fprintf(stderr, "line %d: %s (%s)\n", line, op->err ? ckpt_err_message(op->err) : "?",
		op->err ? ckpt_err_hint(op->err) ?: "" : "");
	_exit(1);
}
#define OK(op, call) no_err(op, call, __LINE__)

static void sh(const char *cmd)
{
	if (system(cmd) != 0) {
		fprintf(stderr, "failed: %s\n", cmd);
		_exit(1);
	}
}

/* ---- processes in namespaces, that wait to be killed */

struct other {
	pid_t pid[2];
	int fd[2];
	size_t n;
	bool user; /* in a user namespace, with PIDs and a network of its own */
	int user_fd, pid_fd, net_fd;
	int pty; /* of those that mounts show; 0: there was none */
};

static void wait_for_ever(int ready)
{
	MUST(write(ready, "", 1) == 1);
	for (;;)
		pause();
}

static int ns_fd(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", pid);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* A process in a new mount namespace, which @fn fills; and if @second does anything, one in a copy of that, which it changes. */
static struct other start(void (*fn)(void), void (*second)(void))
{
	struct other o = { .fd = { -1, -1 }, .n = second ? 2 : 1 };
	int ready[2], number[2];
	char byte;

	MUST(pipe(ready) == 0 && pipe(number) == 0);
	o.pid[0] = fork();
	if (!o.pid[0]) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		MUST(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0);
		if (fn)
			fn();
		if (second) {
			pid_t pid = fork();

			if (!pid) {
				prctl(PR_SET_PDEATHSIG, SIGKILL);
				MUST(unshare(CLONE_NEWNS) == 0);
				second();
				wait_for_ever(ready[1]);
			}
			MUST(write(number[1], &pid, sizeof(pid)) == sizeof(pid));
		}
		wait_for_ever(ready[1]);
	}
	close(ready[1]);
	for (size_t i = 0; i < o.n; i++)
		MUST(read(ready[0], &byte, 1) == 1);
	if (second)
		MUST(read(number[0], &o.pid[1], sizeof(pid_t)) == sizeof(pid_t));
	for (size_t i = 0; i < o.n; i++)
		o.fd[i] = ns_fd(o.pid[i]);
	return o;
}

static int other_fd(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static void write_map(pid_t pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY);
	MUST(fd >= 0 && write(fd, "0 100000 65536", 14) == 14);
	close(fd);
}

#define USER_FLAGS (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET)

/* The same with a user namespace: init of a PID namespace, by way of a raw clone. */
static struct other start_user(void (*fn)(void))
{
	struct other o = { .fd = { -1, -1 }, .n = 1, .user = true };
	struct clone_args args = { .flags = USER_FLAGS, .exit_signal = SIGCHLD };
	int ready[2], mapped[2];
	char byte;

	MUST(pipe(ready) == 0 && pipe(mapped) == 0);
	o.pid[0] = sys_clone3(&args, sizeof(args));
	if (!o.pid[0]) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		MUST(read(mapped[0], &byte, 1) == 1 && setgid(0) == 0 && setuid(0) == 0);
		MUST(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0);
		if (fn)
			fn();
		wait_for_ever(ready[1]);
	}
	MUST(o.pid[0] > 0);
	close(ready[1]);
	write_map(o.pid[0], "uid_map");
	write_map(o.pid[0], "gid_map");
	MUST(write(mapped[1], "", 1) == 1 && read(ready[0], &byte, 1) == 1);
	o.fd[0] = ns_fd(o.pid[0]);
	o.user_fd = other_fd(o.pid[0], "user");
	o.pid_fd = other_fd(o.pid[0], "pid");
	o.net_fd = other_fd(o.pid[0], "net");
	return o;
}

static void end(struct other *o)
{
	for (size_t i = o->n; i > 0; i--)
		if (o->pid[i - 1] > 0)
			kill(o->pid[i - 1], SIGKILL);
	waitpid(o->pid[0], NULL, 0);
}

/* ---- a snapshot with a task in each namespace */

static struct snap_ns *add_ns(struct op *op, struct snapshot *s, enum ns_kind kind, uint32_t id, int fd)
{
	struct snap_ns *ns = op_new(op, struct snap_ns);

	*ns = (struct snap_ns){ .kind = kind, .id = id, .ours = id <= NS_N, .fd = fd };
	*ARRAY_ADD(op->arena, &s->ns->v) = ns;
	return ns;
}

/* As lib/state/ns/user.c keeps it: the map, and what else there is. */
static void add_map(struct op *op, struct snap_ns *ns)
{
	UsernsEntry *e = msg_new(op, UsernsEntry, userns_entry);
	UidGidExtent *x = msg_new(op, UidGidExtent, uid_gid_extent), **v = op_alloc(op, sizeof(*v));
	void **priv = op_alloc(op, 2 * sizeof(void *));

	x->first = 0;
	x->lower_first = 100000;
	x->count = 65536;
	*v = x;
	e->uid_map = e->gid_map = v;
	e->n_uid_map = e->n_gid_map = 1;
	priv[0] = e;
	ns->priv = priv;
}

static void make_snapshot(struct op *op, struct snapshot *s, const struct other *o)
{
	*s = (struct snapshot){ .ns = op_new(op, struct ns_state), .extra = op_new(op, CkptExtraEntry) };
	for (unsigned k = 0; k < NS_N; k++)
		add_ns(op, s, k, k + 1, -1);
	if (o->user) {
		add_map(op, add_ns(op, s, NS_USER, 11, o->user_fd));
		add_ns(op, s, NS_PID, 12, o->pid_fd);
		add_ns(op, s, NS_NET, 13, o->net_fd);
	}
	for (size_t i = 0; i < o->n; i++) {
		struct snap_task *t = ARRAY_ADD(op->arena, &s->tasks);

		t->host = o->pid[i];
		t->ids = msg_new(op, TaskKobjIdsEntry, task_kobj_ids_entry);
		msg_set(t->ids, mnt_ns_id, 9 + (uint32_t)i);
		if (o->user) {
			msg_set(t->ids, user_ns_id, 11);
			msg_set(t->ids, pid_ns_id, 12);
			msg_set(t->ids, net_ns_id, 13);
		}
		add_ns(op, s, NS_MNT, 9 + (uint32_t)i, o->fd[i]);
	}
}

static void dump(struct other *o)
{
	struct op *op = new_op();
	struct snapshot s;

	make_snapshot(op, &s, o);
	OK(op, img_dir_create(op, &s.dir));
	OK(op, mounts_dump_begin(op, &s));
	OK(op, mounts_dump_contents(op, &s));
	OK(op, mounts_write(op, &s));
	img_dir_close(s.dir);
	mounts_done(op, &s, true);
	free_op(op);
}

static int dump_fails(struct other *o, char *why, size_t n)
{
	struct op *op = new_op();
	struct snapshot s;
	int r;

	make_snapshot(op, &s, o);
	OK(op, img_dir_create(op, &s.dir));
	r = mounts_dump_begin(op, &s) ?: mounts_dump_contents(op, &s);
	snprintf(why, n, "%s", op->err ? ckpt_err_message(op->err) : "");
	img_dir_abort(op, s.dir);
	img_dir_close(s.dir);
	mounts_done(op, &s, false);
	free_op(op);
	return r;
}

static int restore_to(struct other *o, char *why, size_t n)
{
	struct op *op = new_op();
	struct snapshot s;
	int r;

	make_snapshot(op, &s, o);
	OK(op, img_dir_open_any(op, &s.dir));
	r = mounts_read(op, &s) ?: mounts_make(op, &s);
	if (r && why)
		snprintf(why, n, "%s", ckpt_err_message(op->err));
	else
		OK(op, r);
	for (size_t i = 0; i < s.ns->v.n; i++)
		if (s.ns->v.v[i]->kind == NS_MNT && s.ns->v.v[i]->id >= 9)
			o->fd[s.ns->v.v[i]->id - 9] = s.ns->v.v[i]->fd;
	if (!r)
		MUST(mounts_view(&s, -1)->root >= 0 && mounts_own(&s));
	/* The terminals that mounts show are kept by whoever takes them. */
	for (size_t i = 0; !r && i < s.mounts->all.n; i++) {
		int fd = mounts_pty(&s, (int32_t)s.mounts->all.v[i]->e->mnt_id, 1);

		o->pty = MAX(o->pty, fd);
	}
	img_dir_close(s.dir);
	mounts_done(op, &s, true);
	free_op(op);
	return r;
}

/* ---- comparing */

struct list {
	char *line[512];
	size_t n;
};

/* The first mount in order of place that is in this group, as a name for it that is the same before and after. */
static const char *group_name(struct arena *a, const struct proc_mounts *m, size_t n, int id)
{
	if (!id)
		return "-";
	for (size_t k = 0; k < n; k++)
		for (size_t i = 0; i < m[k].v.n; i++)
			if (m[k].v.v[i].shared_id == id)
				return arena_printf(a, "%zu:%s", k, m[k].v.v[i].mountpoint);
	return "outside";
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Also which of its mounts are on which: by the places of all parents. */
static const char *chain(struct arena *a, const struct proc_mounts *m, const struct proc_mount *p)
{
	for (size_t i = 0; i < m->v.n; i++)
		if (m->v.v[i].mnt_id == p->parent_id)
			return arena_printf(a, "%s<%s(%s)", p->mountpoint, chain(a, m, &m->v.v[i]), m->v.v[i].fstype);
	return p->mountpoint;
}

static int by_place(const void *a, const void *b)
{
	return strcmp(((const struct proc_mount *)a)->mountpoint, ((const struct proc_mount *)b)->mountpoint);
}

struct reading {
	struct proc_mounts *m;
	int proc;
};

static int read_mounts(struct op *op, void *arg)
{
	struct reading *r = arg;
	int fd = openat(r->proc, "thread-self/mountinfo", O_RDONLY);
	char *text = op_alloc(op, 1 << 20);
	size_t len = 0;

	for (ssize_t n; (n = read(fd, text + len, (1 << 20) - len)) > 0;)
		len += (size_t)n;
	close(fd);
	return proc_parse_mountinfo(op->arena, text, len, r->m);
}

/* One line a mount; numbers of devices and groups are replaced by what they stand for. */
static struct list describe(struct op *op, const struct other *o)
{
	struct proc_mounts m[2] = { 0 };
	struct list l = { .n = 0 };

	for (size_t k = 0; k < o->n; k++) {
		struct errand_where where = ERRAND_HERE;
		struct reading r = { &m[k], open("/proc", O_PATH) };

		where.mnt = o->fd[k];
		OK(op, errand_run(op, &where, read_mounts, &r));
		close(r.proc);
		qsort(m[k].v.v, m[k].v.n, sizeof(*m[k].v.v), by_place);
	}
	for (size_t k = 0; k < o->n; k++)
		for (size_t i = 0; i < m[k].v.n; i++) {
			const struct proc_mount *p = &m[k].v.v[i];

			l.line[l.n++] = arena_printf(op->arena, "%zu %s root=%s %s %s %s %s shared=%s master=%s%s", k,
						     chain(op->arena, &m[k], p), p->root, p->fstype, p->source, p->options,
						     p->sb_options, group_name(op->arena, m, o->n, p->shared_id),
						     group_name(op->arena, m, o->n, p->master_id), p->unbindable ? " unbindable" : "");
			MUST(l.n < ARRAY_SIZE(l.line));
		}
	qsort(l.line, l.n, sizeof(*l.line), by_text);
	return l;
}

static void same(const struct list *a, const struct list *b)
{
	bool differ = a->n != b->n;

	for (size_t i = 0; i < MAX(a->n, b->n); i++) {
		const char *x = i < a->n ? a->line[i] : "", *y = i < b->n ? b->line[i] : "";

		if (strcmp(x, y) == 0)
			continue;
		differ = true;
		fprintf(stderr, "- %s\n+ %s\n", x, y);
	}
	if (differ)
		_exit(1);
}

/* ---- the trees. The files of the tree are on the host's file system, below base/root. */

static void go_in(void)
{
	MUST(mount(root_path, root_path, NULL, MS_BIND | MS_REC, NULL) == 0 && chdir(root_path) == 0);
	MUST(syscall(__NR_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0);
}

static void t(const char *source, const char *place, const char *type, unsigned long flags, const char *data)
{
	if (mount(source, place, type, flags, data) < 0) {
		fprintf(stderr, "mount %s on %s: %s\n", type ?: "", place, strerror(errno));
		_exit(1);
	}
}

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	MUST(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* What a runtime mounts. */
static void container(void)
{
	go_in();
	t("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "hidepid=2");
	t("tmpfs", "/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	MUST(mkdir("/dev/pts", 0755) == 0 && mkdir("/dev/shm", 0755) == 0 && mkdir("/dev/mqueue", 0755) == 0);
	MUST(symlink("/proc/self/fd", "/dev/fd") == 0 && mknod("/dev/null", S_IFCHR | 0666, 1 << 8 | 3) == 0);
	t("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	t("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k");
	t("mqueue", "/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	t("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	t(NULL, "/sys", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	t("/proc/sys", "/proc/sys", NULL, MS_BIND, NULL);
	t(NULL, "/proc/sys", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, NULL);
	t("/dev/null", "/proc/timer_list", NULL, MS_BIND, NULL);
	t("tmpfs", "/proc/irq", "tmpfs", MS_RDONLY, NULL);
	put("/dev/shm/data", "kept");
	t(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
}

/* Places hidden by others, at all levels. */
static void overmounts(void)
{
	go_in();
	t("low", "/a", "tmpfs", 0, NULL);
	MUST(mkdir("/a/b", 0700) == 0);
	put("/a/low", "1");
	t("deep", "/a/b", "tmpfs", 0, NULL);
	put("/a/b/deep", "2");
	t("top", "/a", "tmpfs", MS_NODEV, NULL); /* on the root of the first */
	put("/a/top", "3");
	t("third", "/a", "tmpfs", 0, NULL);
	put("/a/third", "4");
	t("x", "/d/e", "tmpfs", 0, NULL);
	put("/d/e/x", "5");
	t("y", "/d", "tmpfs", 0, NULL);
	MUST(mkdir("/d/e", 0700) == 0);
	t("z", "/d/e", "tmpfs", 0, NULL);
	put("/d/e/z", "6");
	t("only", "/f", "tmpfs", 0, NULL);
	t("only", "/f", NULL, MS_UNBINDABLE, NULL);
	put("/f/only", "7");
}

static void bind_tree(void)
{
	go_in();
	t("tmp", "/a", "tmpfs", 0, NULL);
	MUST(mkdir("/a/folder", 0700) == 0 && mkdir("/a/gone", 0700) == 0 && mkdir("/a/x", 0700) == 0 && mkdir("/a/x/y", 0700) == 0);
	put("/a/file", "in a tmpfs");
	put("/a/empty", "");
	put("/a/place", "");
	put("/a/place2", "");
	MUST(mkdir("/a/p1", 0700) == 0 && mkdir("/a/p2", 0700) == 0 && mkdir("/a/p3", 0700) == 0);
	t("/a/file", "/a/place", NULL, MS_BIND, NULL);
	t("/a/folder", "/a/p1", NULL, MS_BIND, NULL);
	t("/a/gone", "/a/p2", NULL, MS_BIND, NULL);
	MUST(rmdir("/a/gone") == 0);
	t("/a/x/y", "/a/p3", NULL, MS_BIND, NULL);
	MUST(rmdir("/a/x/y") == 0 && rmdir("/a/x") == 0);
	t("/a/empty", "/a/place2", NULL, MS_BIND, NULL);
	MUST(unlink("/a/empty") == 0);
	t("/etc/file", "/f/file", NULL, MS_BIND, NULL);
	t("/etc", "/b", NULL, MS_BIND, NULL);
	t(NULL, "/b", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOATIME | MS_NODIRATIME, NULL);
	t("/b", "/c", NULL, MS_BIND, NULL);
	/* the first mount of a file system is gone, one of all of it remains */
	t("other", "/d", "tmpfs", 0, "size=1m");
	MUST(mkdir("/d/in", 0700) == 0);
	t("/d", "/d/in", NULL, MS_BIND, NULL);
	t("/d/in", "/e", NULL, MS_MOVE, NULL);
}

static void shared_tree(void)
{
	go_in();
	t("s", "/a", "tmpfs", 0, NULL);
	t(NULL, "/a", NULL, MS_SHARED, NULL);
	MUST(mkdir("/a/in", 0700) == 0 && mkdir("/a/sub", 0700) == 0);
	t("/a", "/b", NULL, MS_BIND, NULL); /* a peer */
	t("/a/sub", "/c", NULL, MS_BIND, NULL); /* and one that shows less */
	t("/a", "/d", NULL, MS_BIND, NULL);
	t(NULL, "/d", NULL, MS_SLAVE, NULL);
	t("/d", "/e", NULL, MS_BIND, NULL);
	t(NULL, "/e", NULL, MS_SHARED, NULL); /* slave and shared */
	t("/e", "/f", NULL, MS_BIND, NULL);
	t("below", "/a/in", "tmpfs", 0, NULL); /* arrives everywhere */
	put("/a/in/text", "everywhere");
	t("own", "/d/sub", "tmpfs", 0, NULL);
	t(NULL, "/d/sub", NULL, MS_SHARED, NULL);
}

static void shared_second(void)
{
	t(NULL, "/f", NULL, MS_SLAVE, NULL);
	t("here only", "/etc", "tmpfs", 0, NULL);
	put("/etc/second", "8");
	t(NULL, "/b", NULL, MS_PRIVATE, NULL);
}

static void overlay_tree(void)
{
	go_in();
	t("low", "/a", "tmpfs", 0, NULL);
	MUST(mkdir("/a/low", 0755) == 0 && mkdir("/a/up", 0755) == 0 && mkdir("/a/work", 0755) == 0 && mkdir("/a/low/place", 0755) == 0);
	put("/a/low/file", "below");
	t("over", "/b", "overlay", 0, "lowerdir=/a/low,upperdir=/a/up,workdir=/a/work");
	put("/b/new", "above");
	t("in", "/b/place", "tmpfs", 0, NULL);
	put("/b/place/x", "9");
	t("/b", "/c", NULL, MS_BIND, NULL);
}

/* In a user namespace; with a terminal, as runtimes give one, and a file of it mounted. */
static void user_container(void)
{
	int ptmx, zero = 0;

	/* These are allowed as long as some can be seen. */
	MUST(mount(root_path, root_path, NULL, MS_BIND, NULL) == 0 && chdir(root_path) == 0);
	t("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	t("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL);
	MUST(syscall(__NR_pivot_root, ".", ".") == 0 && umount2(".", MNT_DETACH) == 0 && chdir("/") == 0);
	t("tmpfs", "/dev", "tmpfs", MS_NOSUID, "mode=755,uid=7,gid=8");
	MUST(mkdir("/dev/pts", 0755) == 0 && mkdir("/dev/mqueue", 0755) == 0);
	t("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
	put("/dev/owned", "by");
	MUST(chown("/dev/owned", 12, 34) == 0);
	put("/dev/console", "");
	for (int i = 0; i < 2; i++) {
		ptmx = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY);
		MUST(ptmx >= 0 && ioctl(ptmx, TIOCSPTLCK, &zero) == 0);
	}
	t("/dev/pts/1", "/dev/console", NULL, MS_BIND, NULL);
	t("tmpfs", "/etc", "tmpfs", MS_RDONLY, NULL);
}

/* With a file and a folder of somebody outside. */
static void external_tree(void)
{
	char path[128], to[128];

	snprintf(path, sizeof(path), "%s/file", base);
	snprintf(to, sizeof(to), "%s/etc/file", root_path);
	t(path, to, NULL, MS_BIND, NULL);
	snprintf(path, sizeof(path), "%s/out", base);
	snprintf(to, sizeof(to), "%s/b", root_path);
	t(path, to, NULL, MS_BIND, NULL); /* a slave of ours */
	go_in();
	t("/b", "/c", NULL, MS_BIND, NULL); /* of the same group */
}

static void ramfs_tree(void)
{
	go_in();
	t("ram", "/a", "ramfs", 0, NULL);
}

static void idmapped_tree(void)
{
	struct mount_attr attr = { .attr_set = MOUNT_ATTR_IDMAP };
	struct clone_args args = { .flags = CLONE_NEWUSER, .exit_signal = SIGCHLD };
	pid_t pid = sys_clone3(&args, sizeof(args));
	int tree;

	if (!pid)
		for (;;)
			pause();
	MUST(pid > 0);
	write_map(pid, "uid_map");
	write_map(pid, "gid_map");
	attr.userns_fd = (uint64_t)other_fd(pid, "user");
	go_in();
	t("tmp", "/a", "tmpfs", 0, NULL);
	tree = sys_open_tree(AT_FDCWD, "/a", OPEN_TREE_CLONE);
	MUST(tree >= 0 && sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) == 0);
	MUST(sys_move_mount(tree, "", AT_FDCWD, "/b", MOVE_MOUNT_F_EMPTY_PATH) == 0);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void part_tree(void)
{
	go_in();
	t("tmp", "/a", "tmpfs", 0, NULL);
	MUST(mkdir("/a/in", 0700) == 0);
	t("/a/in", "/b", NULL, MS_BIND, NULL);
	MUST(umount("/a") == 0);
}

static void deleted_tree(void)
{
	go_in();
	put("/a/file", "x");
	t("/a/file", "/etc/file", NULL, MS_BIND, NULL);
	MUST(unlink("/a/file") == 0);
}

/* ------------------------------------------------------------------------------------------------- tests */

static void prepare(void)
{
	char cmd[512];

	snprintf(root_path, sizeof(root_path), "%s/root", base);
	snprintf(img_path, sizeof(img_path), "%s/img", base);
	snprintf(cmd, sizeof(cmd),
		 "cd %s && mkdir root img out && cd root && mkdir proc sys dev etc a b c d d/e e f && echo host >etc/file "
		 "&& echo place >f/file && chown -R 100000:100000 . && chmod 755 . ..",
		 base);
	sh(cmd);
	MUST(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	opts.images_dir = img_path;
	opts.root = root_path;
}

static struct other go(void (*fn)(void), void (*second)(void))
{
	struct other o = start(fn, second), new;
	struct op *op = new_op();
	struct list before = describe(op, &o), after;

	dump(&o);
	end(&o);
	new = start(NULL, NULL);
	if (second)
		new.n = 2;
	restore_to(&new, NULL, 0);
	after = describe(op, &new);
	same(&before, &after);
	free_op(op);
	return new;
}

static void check_container(void)
{
	struct other o = go(container, NULL);
	char text[8] = "";
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/root/dev/shm/data", o.pid[0]);
	fd = open(path, O_RDONLY);
	MUST(fd >= 0 && read(fd, text, 8) == 4 && strcmp(text, "kept") == 0);
	end(&o);
}

static void at(const struct other *o, const char *path, const char *want)
{
	char full[128], text[64] = "";
	int fd;

	snprintf(full, sizeof(full), "/proc/%d/root%s", o->pid[0], path);
	fd = open(full, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || strcmp(text, want) != 0) {
		fprintf(stderr, "%s has '%s', not '%s'\n", full, text, want);
		_exit(1);
	}
	close(fd);
}

/* In the namespace of @o (but the files are ours), with what is mounted at @path unmounted. */
static void umount_in(const struct other *o, const char *path)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		MUST(setns(o->fd[0], CLONE_NEWNS) == 0 && umount2(path, MNT_DETACH) == 0);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	MUST(status == 0);
}

static void forget_images(void)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s/*", img_path);
	sh(cmd);
}

/* By mount(2): what is no sharing group. */
static void check_old_way(void)
{
	char why[512];
	struct other o;

	opts.mntns_compat_mode = true;
	o = go(container, NULL);
	end(&o);
	forget_images();
	o = go(overmounts, NULL);
	end(&o);
	forget_images();
	o = go(bind_tree, NULL);
	end(&o);
	forget_images();
	o = start(shared_tree, NULL);
	dump(&o);
	end(&o);
	o = start(NULL, NULL);
	MUST(restore_to(&o, why, sizeof(why)) == CKPT_E_UNSUPPORTED && strstr(why, "in the old way"));
	end(&o);
}

static void check_user(void)
{
	struct op *op = new_op();
	struct other o = start_user(user_container), new;
	struct list before = describe(op, &o), after;
	char path[64];
	struct stat st;

	dump(&o);
	end(&o);
	new = start_user(NULL);
	restore_to(&new, NULL, 0);
	after = describe(op, &new);
	same(&before, &after);
	snprintf(path, sizeof(path), "/proc/%d/root/dev/owned", new.pid[0]);
	MUST(stat(path, &st) == 0 && st.st_uid == 100012 && st.st_gid == 100034);
	snprintf(path, sizeof(path), "/proc/%d/root/dev", new.pid[0]);
	MUST(stat(path, &st) == 0 && st.st_uid == 100007 && st.st_gid == 100008);
	MUST(new.pty > 0);
	free_op(op);
	end(&new);
}

static void check_overmounts(void)
{
	struct other o = go(overmounts, NULL);

	at(&o, "/a/third", "4");
	umount_in(&o, "/a");
	at(&o, "/a/top", "3");
	umount_in(&o, "/a");
	at(&o, "/a/low", "1");
	at(&o, "/a/b/deep", "2");
	at(&o, "/d/e/z", "6");
	umount_in(&o, "/d");
	at(&o, "/d/e/x", "5");
	at(&o, "/f/only", "7");
	end(&o);
}

static void check_binds(void)
{
	struct other o = go(bind_tree, NULL);

	at(&o, "/a/place", "in a tmpfs");
	at(&o, "/f/file", "host\n");
	at(&o, "/c/file", "host\n");
	end(&o);
}

static void check_shared(void)
{
	struct other o = go(shared_tree, NULL);

	at(&o, "/f/in/text", "everywhere");
	end(&o);
}

static void check_two(void)
{
	struct other o = go(shared_tree, shared_second);

	at(&o, "/etc/file", "host\n");
	end(&o);
}

static void check_overlay(void)
{
	struct other o = go(overlay_tree, NULL);

	at(&o, "/b/file", "below");
	at(&o, "/c/new", "above");
	at(&o, "/b/place/x", "9");
	end(&o);
}

/* What is outside at the restore is not what was there at the dump. */
static void check_external(void)
{
	const char *dumped[] = { "mnt[/etc/file]:FILE", "mnt[/b]:VOLUME" };
	char file[128], volume[128], why[512];
	const char *restored[] = { file, volume };
	struct other o, new;
	int r;

	snprintf(file, sizeof(file), "%s/file", base);
	put(file, "outside");
	snprintf(volume, sizeof(volume), "%s/out", base);
	t("volume", volume, "tmpfs", 0, NULL);
	t(NULL, volume, NULL, MS_SHARED, NULL);
	o = start(external_tree, NULL);

	r = dump_fails(&o, why, sizeof(why));
	if (r != CKPT_E_UNSUPPORTED)
		fprintf(stderr, "%d %s\n", r, why);
	MUST(r == CKPT_E_UNSUPPORTED);
	opts.external = (struct ckpt_strv){ dumped, 2 };
	dump(&o);
	end(&o);
	new = start(NULL, NULL);
	opts.external = (struct ckpt_strv){ NULL, 0 };
	MUST(restore_to(&new, why, sizeof(why)) == CKPT_E_INVAL && strstr(why, "nothing is said of its key"));
	snprintf(file, sizeof(file), "mnt[FILE]:%s/file", base);
	snprintf(volume, sizeof(volume), "mnt[VOLUME]:%s/other", base);
	MUST(mkdir(volume + 12, 0700) == 0);
	t("vol", volume + 12, "tmpfs", 0, NULL);
	t(NULL, volume + 12, NULL, MS_SHARED, NULL);
	opts.external = (struct ckpt_strv){ restored, 2 };
	restore_to(&new, NULL, 0);
	at(&new, "/etc/file", "outside");
	/* They are slaves of that, both. */
	MUST(chdir(volume + 12) == 0 && mkdir("in", 0700) == 0 && mount("later", "in", "tmpfs", 0, NULL) == 0);
	put("in/news", "arrived");
	at(&new, "/b/in/news", "arrived");
	at(&new, "/c/in/news", "arrived");
	end(&new);
}

static void check_refused(void)
{
	static const struct {
		void (*fn)(void);
		const char *why;
	} v[] = {
		{ ramfs_tree, "(ramfs on /a): a file system of this kind cannot be made again" },
		{ idmapped_tree, "(tmpfs on /b) shows files with other owners than they have (idmapped)" },
		{ part_tree, "(tmpfs on /b): only /in of its file system is mounted" },
		{ deleted_tree, "shows a deleted file, whose 1 bytes would be lost" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		struct other o = start(v[i].fn, NULL);
		char why[512];

		MUST(dump_fails(&o, why, sizeof(why)) == CKPT_E_UNSUPPORTED);
		if (!strstr(why, v[i].why)) {
			fprintf(stderr, "%s\n", why);
			_exit(1);
		}
		end(&o);
	}
}

static void run(void **state, void (*fn)(void))
{
	char cmd[64];
	int status;
	pid_t pid;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_non_null(mkdtemp(base));
	pid = fork();
	if (!pid) {
		alarm(20);
		prepare();
		fn();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	snprintf(cmd, sizeof(cmd), "rm -rf --one-file-system %s", base);
	assert_int_equal(system(cmd), 0);
	memcpy(base + strlen(base) - 6, "XXXXXX", 6);
	assert_int_equal(status, 0);
}

#define TEST(name)                                  \
	static void name##_again(void **state)      \
	{                                           \
		run(state, check_##name);           \
	}
TEST(container)
TEST(user)
TEST(old_way)
TEST(overmounts)
TEST(binds)
TEST(shared)
TEST(two)
TEST(overlay)
TEST(external)
TEST(refused)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(container_again), cmocka_unit_test(user_again), cmocka_unit_test(old_way_again),
		cmocka_unit_test(overmounts_again), cmocka_unit_test(binds_again),
		cmocka_unit_test(shared_again), cmocka_unit_test(two_again), cmocka_unit_test(overlay_again),
		cmocka_unit_test(external_again), cmocka_unit_test(refused_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
