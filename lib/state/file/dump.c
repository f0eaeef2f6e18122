/* SPDX-License-Identifier: MIT */
/*
 * Dump: the walk over the descriptors of frozen tasks. Which descriptors share one open file description is found with
 * kcmp(2), which also orders descriptions: those of one inode are kept sorted, so that thousands of them cost little.
 */
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/file/elf.h"

/* An open file description that was seen, and one descriptor of it, for comparison. */
struct description {
	pid_t pid;
	int fd;
	struct snap_file *file;
};

/* All descriptions of one inode, in the order of kcmp. */
struct known {
	ARRAY(struct description) v;
};

struct known_mapping {
	uint32_t id, private_flags;
	bool is_shmem, has_private_flags;
};

static void view_close(struct fd_view *v)
{
	close_fd_p(&v->copy);
}
#define _cleanup_view_ _cleanup_(view_close)

/* --------------------------------------------------------------------------------------- looking at descriptors */

static int task_gone(struct op *op, pid_t pid)
{
	return op_fail(op, CKPT_E_NO_PROCESS, AT(.pid = pid), "task %d went away while its files were looked at", pid);
}

static int view_look(struct op *op, struct fd_view *v)
{
	struct statfs fs;

	if (fstat(v->copy, &v->st) < 0 || fstatfs(v->copy, &fs) < 0)
		return file_errno(op, v, "look at it");
	v->fs_magic = (uint32_t)fs.f_type;
	return 0;
}

static void split_cloexec(struct fd_view *v)
{
	v->cloexec = v->info.flags & O_CLOEXEC;
	v->info.flags &= ~(uint32_t)O_CLOEXEC;
}

/* Which mount it is on is known: where it is looked up. */
static void view_place(const struct snapshot *s, struct fd_view *v, int32_t mnt_id)
{
	v->mnt_id = mnt_id;
	v->view = mounts_view(s, mnt_id);
	v->astray = mounts_own(s) && !mounts_know(s, mnt_id);
}

static int view_fd(struct op *op, const struct snapshot *s, pid_t pid, int pidfd, int fd, struct fd_view *v)
{
	char name[32], *link;
	int r;

	*v = (struct fd_view){
		.pid = pid, .fd = fd, .what = "fd", .copy = -1, .link = "", .shm_dev = s->file_state->shm_dev, .pids = s->pids,
	};
	snprintf(name, sizeof(name), "fd/%d", fd);
	r = proc_read_link(op, pid, name, &link);
	r = r ? r : proc_read_fdinfo(op, pid, fd, &v->info);
	if (r)
		return r < 0 ? r : task_gone(op, pid);
	v->link = link;
	view_place(s, v, v->info.mnt_id);
	split_cloexec(v);
	v->copy = sys_pidfd_getfd(pidfd, fd);
	if (v->copy < 0)
		return file_errno(op, v, "copy the descriptor");
	/*
	 * A slave that was opened through its master (TIOCGPTPEER with O_CLOEXEC) keeps the flag in its description, and all
	 * descriptors of it look as if they had it. Standard streams have not: somebody made them so for a program to come.
	 */
	if (v->cloexec && fd < 3 && (fcntl(v->copy, F_GETFL) & O_CLOEXEC))
		v->cloexec = false;
	return view_look(op, v);
}

int32_t file_mount(int fd)
{
	struct statx stx;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &stx) < 0 || !(stx.stx_mask & STATX_MNT_ID))
		return -1;
	return (int32_t)stx.stx_mnt_id;
}

/* Something that is no descriptor: @file is its name under /proc/PID. */
static int view_special(struct op *op, const struct snapshot *s, pid_t pid, const char *what, const char *file, uint64_t addr,
			struct fd_view *v)
{
	char path[128], *link;
	int r;

	*v = (struct fd_view){
		.pid = pid, .fd = -1, .what = what, .addr = addr, .copy = -1, .link = "", .shm_dev = s->file_state->shm_dev,
	};
	r = proc_read_link(op, pid, file, &link);
	if (r)
		return r < 0 ? r : task_gone(op, pid);
	v->link = link;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
	v->copy = open(path, O_PATH | O_CLOEXEC);
	if (v->copy < 0)
		return file_errno(op, v, "open it");
	view_place(s, v, file_mount(v->copy));
	return view_look(op, v);
}

/* -------------------------------------------------------------------------------------------- descriptions */

static int known_of(struct op *op, struct file_state *fs, const struct fd_view *v, struct known **ret)
{
	*ret = index_find(&fs->known, KEY(v->st.st_dev, v->st.st_ino));
	if (*ret)
		return 0;
	*ret = op_new(op, struct known);
	return *ret ? index_add(op, &fs->known, KEY(v->st.st_dev, v->st.st_ino), *ret) : CKPT_E_NOMEM;
}

/* Where the description of @fd of @pid is among the known ones, or belongs. -1 (errno) if that cannot be told. */
static int search(const struct known *k, pid_t pid, int fd, size_t *place, bool *found)
{
	size_t lo = 0, hi = k->v.n;

	*found = false;
	while (lo < hi && !*found) {
		size_t mid = lo + (hi - lo) / 2;
		const struct description *d = &k->v.v[mid];
		int c = sys_kcmp(pid, d->pid, KCMP_FILE, (uint64_t)fd, (uint64_t)d->fd);

		if (c < 0 || c > 2)
			return -1;
		*found = c == 0;
		if (c == 0)
			hi = lo = mid;
		else if (c == 1)
			hi = mid;
		else
			lo = mid + 1;
	}
	*place = lo;
	return 0;
}

static int find_place(struct op *op, const struct known *k, const struct fd_view *v, size_t *place, bool *found)
{
	if (search(k, v->pid, v->fd, place, found) == 0)
		return 0;
	if (errno == ENOSYS)
		return op_fail(op, CKPT_E_KERNEL, NULL, "the kernel has no kcmp(2): shared files cannot be told apart");
	return file_errno(op, v, "compare it with other descriptors");
}

struct snap_file *file_find_description(const struct file_state *fs, dev_t dev, ino_t ino, pid_t pid, int fd)
{
	const struct known *k = index_find(&fs->known, KEY(dev, ino));
	size_t place;
	bool found;

	return k && search(k, pid, fd, &place, &found) == 0 && found ? k->v.v[place].file : NULL;
}

static struct snap_file *search_watched(const struct known *k, pid_t pid, const struct kcmp_epoll_slot *slot)
{
	size_t lo = 0, hi = k ? k->v.n : 0;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		const struct description *d = &k->v.v[mid];
		int c = sys_kcmp(d->pid, pid, KCMP_EPOLL_TFD, (uint64_t)d->fd, (uintptr_t)slot);

		if (c == 0)
			return d->file;
		if (c < 0 || c > 2)
			return NULL;
		if (c == 1)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

struct snap_file *file_find_watched(const struct file_state *fs, dev_t dev, ino_t ino, pid_t pid,
				    const struct kcmp_epoll_slot *slot)
{
	struct snap_file *f = ino ? search_watched(index_find(&fs->known, KEY(dev, ino)), pid, slot) : NULL;

	/* Some file systems show another device in fdinfo than stat does. */
	for (size_t i = 0; !f && i < fs->known.cap; i++)
		f = search_watched(fs->known.slots[i].value, pid, slot);
	return f;
}

static int insert(struct op *op, struct known *k, size_t place, const struct fd_view *v, struct snap_file *f)
{
	struct description *slot = ARRAY_ADD(op->arena, &k->v);

	if (!slot)
		return op_nomem(op);
	memmove(&k->v.v[place + 1], &k->v.v[place], (k->v.n - 1 - place) * sizeof(*k->v.v));
	k->v.v[place] = (struct description){ .pid = v->pid, .fd = v->fd, .file = f };
	return 0;
}

static int dump_new(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file **ret)
{
	const struct file_kind *kind = file_kind_of(v);
	struct snap_file *f;

	if (!kind)
		return file_refuse(op, v, "descriptor", NULL, "%s is of a kind that is not known", v->link);
	f = file_new(op, s, kind);
	if (!f)
		return CKPT_E_NOMEM;
	*ret = f;
	return kind->dump(op, s, v, f);
}

static int dump_description(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file **f)
{
	struct known *k;
	size_t place = 0;
	bool found = false;
	int r;

	r = known_of(op, s->file_state, v, &k);
	r = r ? r : find_place(op, k, v, &place, &found);
	/* Leases are refused before anything opens the file: that would break them. */
	r = r ? r : locks_dump(op, s, v, found);
	if (r)
		return r;
	if (found) {
		*f = k->v.v[place].file;
		return 0;
	}
	r = dump_new(op, s, v, f);
	r = r ? r : insert(op, k, place, v, *f);
	return r ? r : outside_watch(op, s, v, *f);
}

static int add_fdinfo(struct op *op, struct snap_task *t, const struct fd_view *v, const struct snap_file *f)
{
	FdinfoEntry *m = op_new(op, FdinfoEntry), **slot;

	slot = m ? ARRAY_ADD(op->arena, &t->fds) : NULL;
	if (!slot)
		return op_nomem(op);
	fdinfo_entry__init(m);
	m->id = f->id;
	m->flags = v->cloexec ? FD_CLOEXEC : 0;
	m->type = f->msg->type;
	m->fd = (uint32_t)v->fd;
	*slot = m;
	return 0;
}

static int dump_fd(struct op *op, struct snapshot *s, struct snap_task *t, int pidfd, int fd)
{
	_cleanup_view_ struct fd_view v = { .copy = -1 };
	struct snap_file *f = NULL;
	int r;

	r = view_fd(op, s, t->host, pidfd, fd, &v);
	r = r ? r : dump_description(op, s, &v, &f);
	return r ? r : add_fdinfo(op, t, &v, f);
}

/* --------------------------------------------------------------------------------------- descriptors in flight */

int file_flight(struct op *op, struct snapshot *s, const struct fd_view *carrier, int fd, uint32_t *id)
{
	struct flight *slot = ARRAY_ADD(op->arena, &s->file_state->flights);

	if (!slot) {
		close_fd_p(&fd);
		return op_nomem(op);
	}
	*slot = (struct flight){ .carrier = carrier, .fd = fd, .id = id };
	return 0;
}

/* Nobody but us has it in a table: we take the place of the task. */
static int dump_flight(struct op *op, struct snapshot *s, int self, struct flight *flight)
{
	_cleanup_view_ struct fd_view v = { .copy = -1 };
	struct snap_file *f = NULL;
	int r;

	r = view_fd(op, s, getpid(), self, flight->fd, &v);
	v.carrier = flight->carrier;
	r = r ? r : dump_description(op, s, &v, &f);
	if (r)
		return r;
	if (f->kind == &file_nsfile || (v.fs_magic == FS_PROC && strncmp(v.link, "/proc/", 6) == 0 && v.link[6] <= '9'))
		return file_refuse(op, &v, f->kind->name, "let the program receive it before the checkpoint",
				   "descriptors of this kind cannot be put in flight again (%s)", v.link);
	*flight->id = f->id;
	flight->file = f;
	return 0;
}

/* What is dumped here may bring further ones. */
static int dump_flights(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;
	_cleanup_close_ int self = -1;
	int r = 0;

	if (fs->flights_done == fs->flights.n)
		return 0;
	self = sys_pidfd_open(getpid(), 0);
	if (self < 0)
		return op_errno(op, errno, NULL, "cannot open a pidfd of this process");
	while (!r && fs->flights_done < fs->flights.n) {
		struct flight flight = fs->flights.v[fs->flights_done];

		r = op_check_cancel(op);
		r = r ? r : dump_flight(op, s, self, &flight);
		fs->flights.v[fs->flights_done++].file = flight.file;
	}
	return r;
}

static bool some_task_has(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->tasks.n; i++)
		for (size_t j = 0; j < s->tasks.v[i].fds.n; j++)
			if (s->tasks.v[i].fds.v[j]->id == id)
				return true;
	return false;
}

/* Where a task has to do something for a descriptor, some task must have it. */
static int check_flights(struct op *op, const struct snapshot *s)
{
	for (size_t i = 0; i < s->file_state->flights.n; i++) {
		const struct flight *flight = &s->file_state->flights.v[i];
		const struct file_kind *kind = flight->file->kind;
		const struct fd_view v = { .what = "fd", .fd = -1, .link = "", .carrier = flight->carrier };

		if (kind->plan && kind != &file_reg && !some_task_has(s, flight->file->id))
			return file_refuse(op, &v, kind->name, "let the program receive it before the checkpoint",
					   "descriptors of this kind cannot be put in flight again");
	}
	return 0;
}

int files_dump_task(struct op *op, struct snapshot *s, struct snap_task *t, int pidfd)
{
	struct proc_numbers fds;
	int r;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	r = s->file_state->tables_checked ? 0 : outside_check_tables(op, s);
	s->file_state->tables_checked = true;
	r = r ? r : proc_list_numbers(op, t->host, "fd", &fds);
	if (r > 0)
		return task_gone(op, t->host);
	for (size_t i = 0; !r && i < fds.v.n; i++) {
		r = op_check_cancel(op);
		r = r ? r : dump_fd(op, s, t, pidfd, fds.v.v[i]);
	}
	return r ? r : dump_flights(op, s);
}

int files_dump_complete(struct op *op, struct snapshot *s)
{
	int r = files_state(op, s) ? check_flights(op, s) : CKPT_E_NOMEM;

	for (size_t i = 0; !r && file_kinds[i]; i++)
		r = file_kinds[i]->complete ? file_kinds[i]->complete(op, s) : 0;
	r = r ? r : files_check_mapped(op, s);
	return r ? r : outside_warn(op, s);
}

/* -------------------------------------------------------------------------------------- special references */

static int dump_special(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file **ret)
{
	/* The name counts too: hard links of one file stay apart. */
	char *text = arena_printf(op->arena, "%x %s", (unsigned)v->mnt_id, v->link);
	struct snap_file *f;
	int r;

	if (!text)
		return op_nomem(op);
	f = index_find(&s->file_state->specials, KEY(v->st.st_dev, v->st.st_ino, text));
	if (f) {
		*ret = f;
		return 0;
	}
	r = dump_new(op, s, v, ret);
	return r ? r : index_add(op, &s->file_state->specials, KEY(v->st.st_dev, v->st.st_ino, text), *ret);
}

int files_dump_special(struct op *op, struct snapshot *s, pid_t pid, const char *what, uint32_t *id)
{
	_cleanup_view_ struct fd_view v = { .copy = -1 };
	struct snap_file *f;
	int r;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	r = view_special(op, s, pid, what, what, 0, &v);
	r = r ? r : dump_special(op, s, &v, &f);
	if (!r)
		*id = f->id;
	return r;
}

static void mapping_link(const struct proc_vma *vma, char name[64])
{
	snprintf(name, 64, "map_files/%lx-%lx", (unsigned long)vma->start, (unsigned long)vma->end);
}

/*
 * The kernel can tell the build-id of what is mapped, without the file being opened: that might break a lease, and whether there
 * is one says only a file (/proc/locks) that takes ten milliseconds to read.
 */
static int ask_build_id(struct op *op, pid_t pid, const struct proc_vma *vma, struct fd_view *v)
{
	uint8_t id[BUILD_ID_MAX];
	struct procmap_query q = {
		.size = sizeof(q), .query_addr = vma->start, .build_id_addr = (uint64_t)(uintptr_t)id, .build_id_size = sizeof(id),
	};
	_cleanup_close_ int fd = -1;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, PROCMAP_QUERY, &q) < 0 || q.vma_start != vma->start || q.build_id_size > sizeof(id))
		return 0; /* then it is read */
	v->build_id_known = true;
	if (!q.build_id_size)
		return 0;
	v->build_id_len = q.build_id_size;
	v->build_id = arena_memdup(op->arena, id, q.build_id_size);
	return v->build_id ? 0 : op_nomem(op);
}

/* Whether it will be opened, which would break a lease: deleted files are, for their contents. */
static bool will_be_opened(const struct fd_view *v)
{
	if (v->st.st_nlink)
		return !v->build_id_known;
	/* Shared anonymous memory, which is no file to anybody who could take a lease. */
	return strncmp(v->link, "/dev/zero", 9) != 0;
}

static int mapping_new(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *vma, const char *known_as,
		       struct known_mapping **ret)
{
	_cleanup_view_ struct fd_view v = { .copy = -1 };
	struct known_mapping *k = op_new(op, struct known_mapping);
	char name[64];
	struct snap_file *f;
	int r;

	if (!k)
		return CKPT_E_NOMEM;
	mapping_link(vma, name);
	r = view_special(op, s, pid, "mapping", name, vma->start, &v);
	r = r ? r : ask_build_id(op, pid, vma, &v);
	if (!r && will_be_opened(&v))
		r = locks_check_mapped(op, s, &v);
	r = r ? r : dump_special(op, s, &v, &f);
	r = r ? r : index_add(op, &s->file_state->mapped, KEY(v.st.st_dev, v.st.st_ino), f);
	if (r)
		return r;
	k->id = f->id;
	k->is_shmem = f->kind == &file_memfd;
	*ret = k;
	return index_add(op, &s->file_state->mappings,
			 KEY(makedev(vma->dev_major, vma->dev_minor), vma->inode, known_as), k);
}

/* How the mapped file was opened shows in the mode of the link. */
static int mapping_flags(struct op *op, pid_t pid, const struct proc_vma *vma, uint32_t *flags)
{
	char name[64], path[128];
	struct stat st;

	mapping_link(vma, name);
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	if (lstat(path, &st) < 0)
		return op_errno(op, errno, AT(.pid = pid, .addr = vma->start), "task %d: cannot look at %s", pid, path);
	*flags = st.st_mode & 0200 ? (st.st_mode & 0400 ? O_RDWR : O_WRONLY) : O_RDONLY;
	return 0;
}

/* By which name a mapping is remembered: the same name may be another file in another mount namespace of the tree. */
static const char *mapping_name(struct op *op, const struct snapshot *s, pid_t pid, const struct proc_vma *vma)
{
	bool several = false;
	uint32_t id = 0;

	for (size_t i = 0; mounts_own(s) && i < s->tasks.n; i++) {
		uint32_t ns = ns_id_of(s->tasks.v[i].ids, NS_MNT);

		several = several || ns != ns_id_of(s->tasks.v[0].ids, NS_MNT);
		id = s->tasks.v[i].host == pid ? ns : id;
	}
	return several ? arena_printf(op->arena, "%u %s", id, vma->name ?: "") : vma->name;
}

int files_dump_mapping(struct op *op, struct snapshot *s, pid_t pid, const struct proc_vma *vma, uint32_t *id,
		       bool *is_shmem, uint32_t *fdflags)
{
	bool private = vma->perms[3] != 's';
	const char *name = mapping_name(op, s, pid, vma);
	struct known_mapping *k;
	int r = 0;

	if (!files_state(op, s))
		return CKPT_E_NOMEM;
	k = index_find(&s->file_state->mappings, KEY(makedev(vma->dev_major, vma->dev_minor), vma->inode, name));
	if (!k)
		r = mapping_new(op, s, pid, vma, name, &k);
	if (r)
		return r;
	*id = k->id;
	*is_shmem = k->is_shmem;
	/* Of private mappings of one file one answer is as good as another: nothing they may do depends on it. */
	if (private && k->has_private_flags) {
		*fdflags = k->private_flags;
		return 0;
	}
	r = mapping_flags(op, pid, vma, fdflags);
	if (!r && private) {
		k->private_flags = *fdflags;
		k->has_private_flags = true;
	}
	return r;
}

/* ------------------------------------------------------------------------------------------------- the end */

/* Newest first: what lies in a directory goes before the directory. */
void files_remove_made(struct op *op, struct file_state *fs, bool success)
{
	for (size_t i = fs->made.n; i-- > 0;) {
		const struct made_name *m = &fs->made.v[i];

		if (success ? m->only_on_failure : m->only_on_success)
			continue;
		if ((m->dir ? view_rmdir(m->view, m->path) : view_unlink(m->view, m->path)) < 0 && errno != ENOENT)
			log_warn(op, "%s: cannot be removed: %s", m->path, strerror(errno));
	}
	fs->made.n = 0;
}

int files_dump_keep(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && file_kinds[i]; i++)
		r = file_kinds[i]->keep ? file_kinds[i]->keep(op, s) : 0;
	return r;
}

void files_dump_end(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; file_kinds[i]; i++)
		if (file_kinds[i]->end)
			file_kinds[i]->end(op, s);
}

/* Descriptors of ours that the tree would notice. */
static void close_kept(struct snapshot *s)
{
	for (size_t i = 0; s->file_state && i < s->file_state->flights.n; i++)
		close_fd_p(&s->file_state->flights.v[i].fd);
	if (s->file_state)
		s->file_state->flights.n = 0;
	for (size_t i = 0; i < s->ghosts.n; i++) {
		close_fd_p(&s->ghosts.v[i].fd);
		s->ghosts.v[i].fd = -1;
	}
	for (size_t i = 0; i < s->shmems.n; i++) {
		close_fd_p(&s->shmems.v[i]->fd);
		s->shmems.v[i]->fd = -1;
	}
}

void files_dump_let_go(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; file_kinds[i]; i++)
		if (file_kinds[i]->let_go)
			file_kinds[i]->let_go(op, s);
	close_kept(s);
}

void files_dump_done(struct op *op, struct snapshot *s, bool success)
{
	if (!s->file_state)
		return;
	files_kinds_done(op, s, success);
	files_remove_made(op, s->file_state, success);
	close_kept(s);
}
