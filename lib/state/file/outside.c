/* SPDX-License-Identifier: MIT */
/*
 * What the tree shares with processes outside of it. A restored program has a copy of its own, so the dump
 * - refuses where memory, a descriptor table or directories are shared: nothing holds those still; and connections, which
 *   would be two then, with one peer;
 * - warns, by name, of open files, and of pipes whose other end is outside: there the restore may be told what to use
 *   (--inherit-fd), and programs often do without.
 * Tables are compared with those of every process. Descriptors are looked for in a bounded number of others, nearest first:
 * who shares them inherited them, or is a neighbour in a pipeline. Nothing here touches a file system, which might block:
 * the text of links tells what is worth a comparison.
 */
#include <dirent.h>
#include <linux/kcmp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"

/* Of others: two milliseconds, or so. What is not found is told of without a name. */
#define PROCESSES_MAX 32
#define LOOK_MAX 500
#define WARN_MAX 16
/* Where there are connections: some ten milliseconds. */
#define PROCESSES_MAX_TCP 500
#define LOOK_MAX_TCP 5000

/* A description that somebody else may have, too; of pipes: the pipe. */
struct watched {
	pid_t pid; /* where it was seen */
	int fd;
	const char *link;
	dev_t dev;
	ino_t ino;
	bool pipe, fifo;
	bool ghost; /* deleted: its content travels along */
	bool tcp;   /* a connection */
	bool reads, writes; /* ends that are in the tree */
	bool alive;	    /* there is somebody at the other end */
	bool told;
	struct watched *next; /* another one with the same link */
};

struct search {
	struct snapshot *s;
	struct proc_numbers others; /* nearest first */
	pid_t *tree;
	size_t processes, looked, warned;
	bool tcp;   /* there are connections */
	int refused; /* an error code */
};

/* ----------------------------------------------------------------------------------------------- processes */

static int by_number(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

static int by_distance(const void *a, const void *b, void *root)
{
	int x = abs(*(const int *)a - *(const pid_t *)root), y = abs(*(const int *)b - *(const pid_t *)root);

	return (x > y) - (x < y);
}

static bool in_tree(const struct search *f, pid_t pid)
{
	return bsearch(&pid, f->tree, f->s->tasks.n, sizeof(pid), by_number) != NULL;
}

/* All processes but those of the tree and us. */
static int list_others(struct op *op, struct snapshot *s, struct search *f)
{
	struct proc_numbers all = { 0 };
	pid_t root = s->tasks.v[0].host;
	size_t n = 0;
	int r = proc_list_numbers(op, getpid(), "..", &all); /* /proc itself */

	*f = (struct search){ .s = s };
	f->tree = op_alloc(op, s->tasks.n * sizeof(*f->tree));
	if (r || !f->tree)
		return r ? r : CKPT_E_NOMEM;
	for (size_t i = 0; i < s->tasks.n; i++)
		f->tree[i] = s->tasks.v[i].host;
	qsort(f->tree, s->tasks.n, sizeof(*f->tree), by_number);
	for (size_t i = 0; i < all.v.n; i++)
		if (all.v.v[i] != getpid() && !in_tree(f, all.v.v[i]))
			all.v.v[n++] = all.v.v[i];
	all.v.n = n;
	qsort_r(all.v.v, n, sizeof(*all.v.v), by_distance, &root);
	f->others = all;
	return 0;
}

static const char *name_of(struct op *op, pid_t pid)
{
	struct proc_stat st;
	const char *name;

	if (proc_read_stat(op, pid, &st) != 0) {
		op_forget(op);
		return "";
	}
	name = arena_printf(op->arena, " (%s)", st.comm);
	return name ? name : "";
}

/* -------------------------------------------------------------------------------------------------- tables */

struct table {
	int type;
	const char *what, *kind;
};

static const struct table tables[] = {
	{ KCMP_VM, "its address space", "shared memory" },
	{ KCMP_FILES, "its descriptor table", "shared descriptors" },
	{ KCMP_FS, "its root, current directory and umask", "shared directories" },
};

/* Binary search in what kcmp has put in order. */
static bool find(const pid_t *v, size_t n, pid_t pid, int type, size_t *place)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = sys_kcmp(pid, v[mid], type, 0, 0);

		*place = mid;
		if (c == 0)
			return true;
		if (c < 0 || c > 2) {
			*place = n;
			return false;
		}
		if (c == 1)
			hi = mid;
		else
			lo = mid + 1;
	}
	*place = lo;
	return false;
}

static size_t sort_tree(const struct snapshot *s, pid_t *v, int type)
{
	size_t n = 0, place;

	for (size_t i = 0; i < s->tasks.n; i++) {
		/* The dead have none, and would be equal to every process that has none. */
		if (s->tasks.v[i].dead || find(v, n, s->tasks.v[i].host, type, &place))
			continue;
		memmove(&v[place + 1], &v[place], (n - place) * sizeof(*v));
		v[place] = s->tasks.v[i].host;
		n++;
	}
	return n;
}

static int check_table(struct op *op, const struct search *f, const struct table *t)
{
	pid_t *v = op_alloc(op, (f->s->tasks.n + 1) * sizeof(*v));
	size_t n, place;

	if (!v)
		return CKPT_E_NOMEM;
	n = sort_tree(f->s, v, t->type);
	for (size_t i = 0; i < f->others.v.n; i++) {
		pid_t other = f->others.v.v[i];

		if (!find(v, n, other, t->type, &place))
			continue;
		return op_fail(op, CKPT_E_UNSUPPORTED,
			       AT(.pid = v[place], .kind = t->kind,
				  .hint = "checkpoint a tree that both are in; while a program is being started (vfork), try again"),
			       "task %d shares %s with process %d%s, which is not in the tree", v[place], t->what, other,
			       name_of(op, other));
	}
	return 0;
}

int outside_check_tables(struct op *op, struct snapshot *s)
{
	struct search f;
	int r = s->tasks.n ? list_others(op, s, &f) : 1;

	for (size_t i = 0; !r && i < ARRAY_SIZE(tables); i++)
		r = check_table(op, &f, &tables[i]);
	return r < 0 ? r : 0;
}

/* --------------------------------------------------------------------------------------------- what is watched */

/* What has no state of its own, or is told about by its kind, is not. */
static bool worth_it(const struct fd_view *v)
{
	mode_t type = v->st.st_mode & S_IFMT;

	if (v->fd < 0 || v->info.flags & O_PATH || v->fs_magic == FS_PROC || v->fs_magic == FS_NSFS)
		return false;
	if (type == S_IFREG)
		return !(v->info.flags & O_APPEND);
	return type != S_IFDIR && type != S_IFCHR && type != S_IFBLK;
}

static struct watched *watch_pipe(const struct file_state *fs, const struct fd_view *v)
{
	struct watched *w = index_find(&fs->watched, KEY(0, 0, v->link));

	while (w && (w->dev != v->st.st_dev || w->ino != v->st.st_ino))
		w = w->next;
	return w;
}

static bool is_connection(const struct snap_file *f)
{
	const InetSkEntry *m = f->msg->isk;

	return m && m->proto == IPPROTO_TCP && m->dst_port && m->state != TCP_LISTEN;
}

/* One end is enough to see whether the other one exists. Not of FIFOs: one that nobody has opened yet looks the same. */
static void see_end(struct watched *w, const struct fd_view *v)
{
	struct pollfd p = { .fd = v->copy };
	int mode = (int)v->info.flags & O_ACCMODE;

	w->reads |= mode != O_WRONLY;
	w->writes |= mode != O_RDONLY;
	if (!w->fifo && poll(&p, 1, 0) >= 0)
		w->alive = !(p.revents & (POLLHUP | POLLERR));
}

int outside_watch(struct op *op, struct snapshot *s, const struct fd_view *v, const struct snap_file *f)
{
	struct file_state *fs = s->file_state;
	bool pipe = S_ISFIFO(v->st.st_mode);
	struct watched *w = pipe ? watch_pipe(fs, v) : NULL, *first, **slot;
	int r = 0;

	if (!worth_it(v))
		return 0;
	if (w) {
		see_end(w, v);
		return 0;
	}
	w = op_new(op, struct watched);
	slot = w ? ARRAY_ADD(op->arena, &fs->all_watched) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = w;
	*w = (struct watched){ .pid = v->pid, .fd = v->fd, .link = v->link, .dev = v->st.st_dev, .ino = v->st.st_ino,
			       .pipe = pipe, .fifo = v->link[0] == '/',
			       .ghost = S_ISREG(v->st.st_mode) && v->st.st_nlink == 0,
			       .tcp = !op->opts->tcp_close && is_connection(f) };
	if (pipe)
		see_end(w, v);
	first = index_find(&fs->watched, KEY(0, 0, w->link));
	if (!first)
		r = index_add(op, &fs->watched, KEY(0, 0, w->link), w);
	else
		w->next = first->next;
	if (first)
		first->next = w;
	return r ? r : index_add(op, &fs->watched_files, KEY(f->id), w);
}

/* -------------------------------------------------------------------------------------------------- search */

static bool one_ended(const struct watched *w)
{
	return w->pipe && w->alive && w->reads != w->writes && !w->told;
}

static void tell(struct op *op, struct search *f, struct watched *w, const char *what)
{
	w->told = true;
	if (f->warned++ < WARN_MAX)
		log_warn(op, "task %d: fd %d: %s %s", w->pid, w->fd, w->link, what);
	else if (f->warned == WARN_MAX + 1)
		log_warn(op, "...and more of that kind");
}

static void tell_pipe(struct op *op, struct search *f, struct watched *w, pid_t other)
{
	const char *who = other ? arena_printf(op->arena, "process %d%s, which", other, name_of(op, other)) : "a process that";
	const char *text;

	if (w->fifo || !one_ended(w))
		text = arena_printf(op->arena, "is open, too, in %s is not in the tree", who);
	else
		text = arena_printf(op->arena, "leads to %s is not in the tree: at the restore nobody is there, unless "
				    "--inherit-fd fd[N]:%s gives a descriptor for it", who, w->link);
	tell(op, f, w, text ? text : "leads out of the tree");
}

static void tell_shared(struct op *op, struct search *f, struct watched *w, pid_t other)
{
	const char *text = arena_printf(op->arena, "is shared with process %d%s, which is not in the tree: after a restore each has "
					"its own, with a position and a state of its own", other, name_of(op, other));

	tell(op, f, w, text ? text : "is shared with a process that is not in the tree");
}

static void refuse_shared(struct op *op, struct search *f, struct watched *w, pid_t other)
{
	w->told = true;
	if (f->refused)
		return;
	f->refused = op_fail(op, CKPT_E_UNSUPPORTED,
			     AT(.pid = w->pid, AT_FD(w->fd), .kind = "TCP socket",
				.hint = "checkpoint a tree that both are in, or have one of them close it; or use --tcp-close"),
			     "task %d: fd %d: TCP socket: the connection is shared with process %d%s, which is not in the tree", w->pid,
			     w->fd, other, name_of(op, other));
}

/* The permissions of the link tell how it was opened. A pipe's own end in another process is nothing new. */
static bool is_other_end(int dir, const char *name, const struct watched *w)
{
	struct stat st;

	if (w->reads && w->writes)
		return true;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_mode & (w->reads ? S_IWUSR : S_IRUSR);
}

static void look_at_pipe(struct op *op, struct search *f, pid_t pid, int dir, const char *name, struct watched *w)
{
	if (w->told || !is_other_end(dir, name, w))
		return;
	if (pid != getpid())
		tell_pipe(op, f, w, pid);
	w->told = true;
}

/* fdinfo tells without asking the file system. */
static bool is_inode(struct op *op, pid_t pid, const char *name, ino_t ino)
{
	struct proc_fdinfo info = { 0 };

	if (proc_read_fdinfo(op, pid, atoi(name), &info) != 0)
		op_forget(op);
	return info.ino == ino;
}

static void tell_ghost(struct op *op, struct search *f, struct watched *w, pid_t other)
{
	const char *text = arena_printf(op->arena, "is open in process %d%s, too, which is not in the tree: after a restore there are "
					"two files", other, name_of(op, other));

	tell(op, f, w, text ? text : "is open in a process that is not in the tree, too");
}

/* All descriptions of one inode are in one place; what has no inode of its own has one text. */
static void look_at_file(struct op *op, struct search *f, pid_t pid, const char *name, struct watched *w)
{
	struct file_state *fs = f->s->file_state;
	const struct snap_file *file = file_find_description(fs, w->dev, w->ino, pid, atoi(name));
	struct watched *same = file ? index_find(&fs->watched_files, KEY(file->id)) : NULL;

	if (same && !same->told && same->tcp)
		refuse_shared(op, f, same, pid);
	else if (same && !same->told)
		tell_shared(op, f, same, pid);
	else if (!file && w->ghost && !w->told && is_inode(op, pid, name, w->ino))
		tell_ghost(op, f, w, pid);
}

static void look_at(struct op *op, struct search *f, pid_t pid, int dir, const char *name)
{
	char link[4096];
	ssize_t n = readlinkat(dir, name, link, sizeof(link) - 1);
	struct watched *first;

	if (n <= 0)
		return;
	link[n] = 0;
	first = index_find(&f->s->file_state->watched, KEY(0, 0, link));
	for (struct watched *w = first; w; w = w->next) {
		if (w->pipe)
			look_at_pipe(op, f, pid, dir, name, w);
		else if (pid != getpid() && (w == first || w->ino != first->ino || w->dev != first->dev))
			look_at_file(op, f, pid, name, w);
	}
}

static void look_into(struct op *op, struct search *f, pid_t pid)
{
	char path[32];
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	f->processes++;
	dir = opendir(path);
	while (dir && f->looked < (f->tcp ? LOOK_MAX_TCP : LOOK_MAX) && !f->refused && (e = readdir(dir)))
		if (e->d_name[0] != '.') {
			f->looked++;
			look_at(op, f, pid, dirfd(dir), e->d_name);
		}
	if (dir)
		closedir(dir);
}

static bool is_enough(const struct search *f)
{
	return f->refused || f->looked >= (f->tcp ? LOOK_MAX_TCP : LOOK_MAX) ||
	       f->processes >= (f->tcp ? PROCESSES_MAX_TCP : PROCESSES_MAX);
}

static bool anything_wanted(const struct file_state *fs)
{
	for (size_t i = 0; i < fs->all_watched.n; i++)
		if (one_ended(fs->all_watched.v[i]) || fs->all_watched.v[i]->tcp)
			return true;
	return false;
}

/* Who inherited what the root has: its parent, and other children of that. */
static int look_at_relatives(struct op *op, struct search *f)
{
	struct proc_numbers siblings = { 0 };
	struct proc_stat st;
	int r = proc_read_stat(op, f->s->tasks.v[0].host, &st);

	if (r || st.ppid <= 0)
		return r < 0 ? r : 0;
	if (!in_tree(f, st.ppid) && st.ppid != getpid())
		look_into(op, f, st.ppid);
	if (st.ppid == 1) /* not for what they have in common */
		return 0;
	r = proc_list_children(op, st.ppid, &siblings);
	for (size_t i = 0; !r && i < siblings.v.n && !is_enough(f); i++)
		if (!in_tree(f, siblings.v.v[i]) && siblings.v.v[i] != getpid())
			look_into(op, f, siblings.v.v[i]);
	return r < 0 ? r : 0;
}

int outside_warn(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	struct search f;
	int r;

	if (!fs->all_watched.n || !s->tasks.n)
		return 0;
	r = list_others(op, s, &f);
	if (r)
		return r;
	for (size_t i = 0; i < fs->all_watched.n; i++)
		f.tcp = f.tcp || fs->all_watched.v[i]->tcp;
	look_into(op, &f, getpid()); /* a program that checkpoints itself waits for us at a pipe */
	f.looked = f.processes = 0;
	r = look_at_relatives(op, &f);
	for (size_t i = 0; !r && i < f.others.v.n && !is_enough(&f) && anything_wanted(fs); i++)
		look_into(op, &f, f.others.v.v[i]);
	for (size_t i = 0; !r && i < fs->all_watched.n; i++)
		if (one_ended(fs->all_watched.v[i]))
			tell_pipe(op, &f, fs->all_watched.v[i], 0);
	return r ?: f.refused;
}
