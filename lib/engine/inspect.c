// SPDX-License-Identifier: MIT
/*
 * Inspection: reads an images folder, of ours or of another engine, and describes it as JSON. Page contents are not read,
 * except the few pages that hold a command line where nothing else tells it.
 */
#include "lib/engine/inspect.h"

#include <dirent.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/image/codec.h"
#include "lib/image/pagein.h"
#include "lib/image/pages_reader.h"

/* Bits of vma_entry.status and pagemap_entry.flags that matter here. */
enum {
	VMA_HEAP = 0x20,
	VMA_FILE_PRIVATE = 0x40,
	VMA_FILE_SHARED = 0x80,
	VMA_ANON_SHARED = 0x100,
	VMA_ANON_PRIVATE = 0x200,
	VMA_SPECIAL = 0x4 | 0x8 | 0x1000 | 0x2000, /* vsyscall, vdso, vvar, AIO ring */
	VMA_MEMFD = 0x4000,
	VMA_GUARD = 0x10000,
	PE_PARENT = 1,
	PE_PRESENT = 4,
};

/* An address space, and the task whose images have it. */
struct space {
	uint32_t vm_id, pid;
};

struct inspect {
	struct op *op;
	struct img_dir *dir;
	InventoryEntry *inventory;
	CkptExtraEntry *extra;	  /* NULL: another engine made this */
	ARRAY(FileEntry *) files; /* by id */
	ARRAY(MemfdInodeEntry *) memfds;
	ARRAY(struct space) spaces; /* address spaces that were met */
	bool nomem;
};

struct pagemap {
	uint32_t pages_id;
	ARRAY(PagemapEntry *) v;
	uint64_t stored, lazy, parent; /* pages */
};

/* ---- JSON; one flag collects all failures of allocation */

static void put_json_p(json_object **o)
{
	json_object_put(*o);
}

static void put(struct inspect *in, json_object *to, const char *key, json_object *value)
{
	if (!to || !value || json_object_object_add(to, key, value) < 0) {
		in->nomem = true;
		json_object_put(value);
	}
}

/* Appends a new object to @list, and returns it: NULL when out of memory, which the other functions take. */
static json_object *append_object(struct inspect *in, json_object *list)
{
	json_object *o = json_object_new_object();

	if (!list || !o || json_object_array_add(list, o) < 0) {
		in->nomem = true;
		json_object_put(o);
		return NULL;
	}
	return o;
}

static json_object *put_object(struct inspect *in, json_object *to, const char *key)
{
	json_object *o = json_object_new_object();

	put(in, to, key, o);
	return in->nomem ? NULL : o;
}

static json_object *put_array(struct inspect *in, json_object *to, const char *key)
{
	json_object *o = json_object_new_array();

	put(in, to, key, o);
	return in->nomem ? NULL : o;
}

static void put_number(struct inspect *in, json_object *to, const char *key, uint64_t v)
{
	put(in, to, key, json_object_new_uint64(v));
}

/* Length of the UTF-8 character at @s, 0 if it is none. Stops at the terminator. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = 0;

	if (s[0] < 0x80)
		n = 1;
	else if (s[0] >= 0xc2 && s[0] < 0xe0)
		n = 2;
	else if (s[0] >= 0xe0 && s[0] < 0xf0)
		n = 3;
	else if (s[0] >= 0xf0 && s[0] < 0xf5)
		n = 4;
	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* Names in images are bytes, JSON is UTF-8: what is not valid becomes U+FFFD. NULL puts nothing. */
static void put_text(struct inspect *in, json_object *to, const char *key, const char *s)
{
	char *clean, *p;

	if (!s)
		return;
	p = clean = arena_alloc(in->op->arena, 3 * strlen(s) + 1);
	if (!clean) {
		in->nomem = true;
		return;
	}
	while (*s) {
		size_t n = utf8_length((const unsigned char *)s);

		memcpy(p, n ? s : "\xef\xbf\xbd", n ? n : 3);
		p += n ? n : 3;
		s += n ? n : 1;
	}
	put(in, to, key, json_object_new_string(clean));
}

/* ---- images */

static int missing(struct inspect *in, enum img_kind kind, uint64_t id)
{
	char name[64];

	return op_fail(in->op, CKPT_E_IMAGE, NULL, "image %s is missing", img_name(kind, id, name, sizeof(name)));
}

static int read_mandatory(struct inspect *in, enum img_kind kind, uint64_t id, ProtobufCMessage **msg)
{
	int r = img_read_one(in->op, in->dir, kind, id, msg);

	return r == IMG_ABSENT ? missing(in, kind, id) : r;
}

/* Calls @fn for every entry. An absent image is an empty one. */
static int each_entry(struct inspect *in, enum img_kind kind, uint64_t id,
		      int (*fn)(struct inspect *in, void *arg, ProtobufCMessage *msg), void *arg)
{
	ProtobufCMessage *msg;
	struct img_in *img;
	int r = img_open(in->op, in->dir, kind, id, &img);

	if (r != 0)
		return r == IMG_ABSENT ? 0 : r;
	do {
		r = op_check_cancel(in->op);
		if (r == 0)
			r = img_read(in->op, img, &msg);
		if (r == 0)
			r = fn(in, arg, msg);
	} while (r == 0);
	img_in_close(img);
	return r == IMG_END ? 0 : r;
}

static int keep_file(struct inspect *in, void *arg, ProtobufCMessage *msg)
{
	FileEntry **f = ARRAY_ADD(in->op->arena, &in->files);

	(void)arg;
	if (!f)
		return op_nomem(in->op);
	*f = (FileEntry *)msg;
	return 0;
}

static int keep_memfd(struct inspect *in, void *arg, ProtobufCMessage *msg)
{
	MemfdInodeEntry **m = ARRAY_ADD(in->op->arena, &in->memfds);

	(void)arg;
	if (!m)
		return op_nomem(in->op);
	*m = (MemfdInodeEntry *)msg;
	return 0;
}

/* By id; of two with one id (a FIFO and its path) the regular file comes last. */
static int by_file_id(const void *a, const void *b)
{
	const FileEntry *x = *(FileEntry *const *)a, *y = *(FileEntry *const *)b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return !!x->reg - !!y->reg;
}

static int read_tables(struct inspect *in)
{
	ProtobufCMessage *msg;
	int r = img_read_one(in->op, in->dir, IMG_EXTRA, 0, &msg);

	if (r < 0)
		return r;
	if (r == 0)
		in->extra = (CkptExtraEntry *)msg;
	r = each_entry(in, IMG_FILES, 0, keep_file, NULL);
	if (r < 0)
		return r;
	if (in->files.n > 1)
		qsort(in->files.v, in->files.n, sizeof(*in->files.v), by_file_id);
	return each_entry(in, IMG_MEMFD, 0, keep_memfd, NULL);
}

/* First index with an id not below @id. */
static size_t file_index(const struct inspect *in, uint32_t id)
{
	size_t lo = 0, hi = in->files.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (in->files.v[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static const FileEntry *file_of(const struct inspect *in, uint32_t id)
{
	size_t i = file_index(in, id);

	return i < in->files.n && in->files.v[i]->id == id ? in->files.v[i] : NULL;
}

static const char *path_of(const struct inspect *in, uint32_t id)
{
	for (size_t i = file_index(in, id); i < in->files.n && in->files.v[i]->id == id; i++)
		if (in->files.v[i]->reg)
			return in->files.v[i]->reg->name;
	return NULL;
}

/* ---- pagemaps */

static int add_pages(struct inspect *in, struct pagemap *pm, PagemapEntry *e)
{
	uint64_t n = e->has_nr_pages ? e->nr_pages : e->compat_nr_pages, *sum = &pm->lazy;
	PagemapEntry **p = ARRAY_ADD(in->op->arena, &pm->v);

	if (!p)
		return op_nomem(in->op);
	*p = e;
	e->nr_pages = n;
	if (!e->has_flags)
		e->flags = e->in_parent ? PE_PARENT : PE_PRESENT;
	if (e->flags & PE_PRESENT)
		sum = &pm->stored;
	else if (e->flags & PE_PARENT)
		sum = &pm->parent;
	if (n == 0 || n > (UINT64_MAX - e->vaddr) >> PAGE_SHIFT || __builtin_add_overflow(*sum, n, sum) ||
	    *sum > UINT64_MAX >> PAGE_SHIFT)
		return op_fail(in->op, CKPT_E_IMAGE, AT(.addr = e->vaddr),
			       "a pagemap has an entry of %llu pages at 0x%llx", (unsigned long long)n,
			       (unsigned long long)e->vaddr);
	return 0;
}

static int keep_pages(struct inspect *in, void *arg, ProtobufCMessage *msg)
{
	struct pagemap *pm = arg;

	if (msg->descriptor == &pagemap_entry__descriptor)
		return add_pages(in, pm, (PagemapEntry *)msg);
	pm->pages_id = ((PagemapHead *)msg)->pages_id;
	return 0;
}

static int check_pages_size(struct inspect *in, const struct pagemap *pm)
{
	struct pagein *pages = NULL;
	uint64_t n;
	int r;

	if (pm->stored == 0)
		return 0;
	r = pagein_open(in->op, in->dir, pm->pages_id, &pages);
	if (r != 0)
		return r == IMG_ABSENT ? missing(in, IMG_PAGES, pm->pages_id) : r;
	n = pagein_pages(pages);
	pagein_close(pages);
	if (n < pm->stored)
		return op_fail(in->op, CKPT_E_IMAGE, NULL,
			       "image pages-%u.img is damaged: it has %llu pages, but %llu should be in it", pm->pages_id,
			       (unsigned long long)n, (unsigned long long)pm->stored);
	return 0;
}

static int read_pagemap(struct inspect *in, enum img_kind kind, uint64_t id, struct pagemap *pm)
{
	int r = each_entry(in, kind, id, keep_pages, pm);

	return r < 0 ? r : check_pages_size(in, pm);
}

/* Up to @n bytes from @at of a page image that are within one page and the next. Returns how many. */
static size_t peek_image(struct inspect *in, uint32_t pages_id, uint64_t at, char *buf, size_t n)
{
	_cleanup_free_ char *pages = malloc(2 * PAGE_SIZE);
	size_t skip = at % PAGE_SIZE, count;
	struct pagein *image = NULL;
	int r;

	if (!pages || pagein_open(in->op, in->dir, pages_id, &image) != 0)
		return 0;
	n = MIN(n, 2 * PAGE_SIZE - skip);
	count = (skip + n + PAGE_SIZE - 1) / PAGE_SIZE;
	r = pagein_read(in->op, image, at / PAGE_SIZE, count, pages);
	pagein_close(image);
	if (r)
		return 0;
	memcpy(buf, pages + skip, n);
	return n;
}

/* The bytes at @addr of a task's memory, as far as they are stored in one piece. Returns how many. */
static size_t peek(struct inspect *in, const struct pagemap *pm, uint64_t addr, char *buf, size_t n)
{
	uint64_t before = 0;

	for (size_t i = 0; i < pm->v.n; i++) {
		const PagemapEntry *e = pm->v.v[i];
		uint64_t bytes = e->nr_pages << PAGE_SHIFT;

		if (!(e->flags & PE_PRESENT))
			continue;
		if (addr < e->vaddr || addr - e->vaddr >= bytes) {
			before += bytes;
			continue;
		}
		return peek_image(in, pm->pages_id, before + (addr - e->vaddr), buf, MIN((uint64_t)n, bytes - (addr - e->vaddr)));
	}
	return 0;
}

/* ---- one task */

enum vma_class { ANONYMOUS, HEAP, STACK, FILE_PRIVATE, FILE_SHARED, SHARED, SPECIAL, N_CLASSES };

static const char *const class_names[N_CLASSES] = {
	[ANONYMOUS] = "anonymous",   [HEAP] = "heap",	  [STACK] = "stack", [FILE_PRIVATE] = "file_private",
	[FILE_SHARED] = "file_shared", [SHARED] = "shared", [SPECIAL] = "special",
};

static enum vma_class vma_class(const MmEntry *mm, const VmaEntry *v)
{
	if (v->status & VMA_SPECIAL)
		return SPECIAL;
	if (v->status & VMA_HEAP)
		return HEAP;
	if (v->status & (VMA_ANON_SHARED | VMA_MEMFD))
		return SHARED;
	if (v->status & VMA_FILE_SHARED)
		return FILE_SHARED;
	if (v->status & VMA_FILE_PRIVATE)
		return FILE_PRIVATE;
	if (v->flags & MAP_GROWSDOWN || (v->start <= mm->mm_start_stack && mm->mm_start_stack < v->end))
		return STACK;
	return v->status & VMA_ANON_PRIVATE ? ANONYMOUS : SPECIAL;
}

static int put_memory(struct inspect *in, json_object *task, const MmEntry *mm, const struct pagemap *pm)
{
	uint64_t bytes[N_CLASSES] = { 0 }, n_vmas = 0, total = 0;
	json_object *memory = put_object(in, task, "memory"), *kinds, *pages;

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];

		if (v->end <= v->start)
			return op_fail(in->op, CKPT_E_IMAGE, AT(.addr = v->start), "area 0x%llx-0x%llx ends before it starts",
				       (unsigned long long)v->start, (unsigned long long)v->end);
		if (v->status & VMA_GUARD)
			continue;
		n_vmas++;
		total += v->end - v->start;
		bytes[vma_class(mm, v)] += v->end - v->start;
	}
	put_number(in, memory, "vmas", n_vmas);
	put_number(in, memory, "bytes", total);
	kinds = put_object(in, memory, "kinds");
	for (size_t i = 0; i < N_CLASSES; i++)
		put_number(in, kinds, class_names[i], bytes[i]);
	pages = put_object(in, memory, "pages");
	put_number(in, pages, "stored", pm->stored);
	put_number(in, pages, "stored_bytes", pm->stored << PAGE_SHIFT);
	put_number(in, pages, "lazy", pm->lazy);
	put_number(in, pages, "parent", pm->parent);
	return 0;
}

static const char *type_name(FdTypes type)
{
	static const char *const names[] = {
		[FD_TYPES__REG] = "file",	     [FD_TYPES__PIPE] = "pipe",
		[FD_TYPES__FIFO] = "fifo",	     [FD_TYPES__INETSK] = "inet-socket",
		[FD_TYPES__UNIXSK] = "unix-socket",  [FD_TYPES__EVENTFD] = "eventfd",
		[FD_TYPES__EVENTPOLL] = "epoll",     [FD_TYPES__INOTIFY] = "inotify",
		[FD_TYPES__SIGNALFD] = "signalfd",   [FD_TYPES__PACKETSK] = "packet-socket",
		[FD_TYPES__TTY] = "tty",	     [FD_TYPES__FANOTIFY] = "fanotify",
		[FD_TYPES__NETLINKSK] = "netlink-socket", [FD_TYPES__NS] = "namespace",
		[FD_TYPES__TUNF] = "tun",	     [FD_TYPES__EXT] = "external",
		[FD_TYPES__TIMERFD] = "timerfd",     [FD_TYPES__MEMFD] = "memfd",
		[FD_TYPES__BPFMAP] = "bpf-map",	     [FD_TYPES__PIDFD] = "pidfd",
	};

	return (unsigned)type < ARRAY_SIZE(names) && names[type] ? names[type] : "unknown";
}

static const char *memfd_name(const struct inspect *in, uint32_t inode_id)
{
	for (size_t i = 0; i < in->memfds.n; i++)
		if (in->memfds.v[i]->inode_id == inode_id)
			return in->memfds.v[i]->name;
	return NULL;
}

/* What a descriptor refers to: a path, or a word with the number that tells it from others. NULL: the type says it all. */
static const char *what_of(struct inspect *in, const FileEntry *f)
{
	struct arena *a = in->op->arena;

	if (f->pipe)
		return arena_printf(a, "pipe:[%u]", f->pipe->pipe_id);
	if (f->fifo)
		return path_of(in, f->fifo->has_regf_id ? f->fifo->regf_id : f->id);
	if (f->tty)
		return f->tty->has_regf_id ? path_of(in, f->tty->regf_id) : NULL;
	if (f->memfd)
		return memfd_name(in, f->memfd->inode_id);
	if (f->isk)
		return arena_printf(a, "socket:[%u] port %u", f->isk->ino, f->isk->src_port);
	if (f->usk)
		return arena_printf(a, "socket:[%u]", f->usk->ino);
	if (f->pidfd)
		return arena_printf(a, "pid %d", f->pidfd->nspid);
	return path_of(in, f->id);
}

static int put_descriptor(struct inspect *in, void *arg, ProtobufCMessage *msg)
{
	const FdinfoEntry *fi = (FdinfoEntry *)msg;
	const FileEntry *f = file_of(in, fi->id);
	json_object *o;

	/* Without files.img the descriptions are in images of an older form, which are not read here. */
	if (!f && in->files.n > 0)
		return op_fail(in->op, CKPT_E_IMAGE, AT(AT_FD((int)fi->fd)),
			       "descriptor %u refers to file %u, which is not in files.img", fi->fd, fi->id);
	o = append_object(in, arg);
	put_number(in, o, "fd", fi->fd);
	put_text(in, o, "type", type_name(fi->type));
	if (f)
		put_text(in, o, "what", what_of(in, f));
	return in->nomem ? op_nomem(in->op) : 0;
}

/* From our own file; for images of other engines from the task's memory. */
static const char *cmdline_of(struct inspect *in, uint32_t pid, const MmEntry *mm, const struct pagemap *pm)
{
	enum { MOST = 4096 };
	size_t n;
	char *s;

	for (size_t i = 0; in->extra && i < in->extra->n_tasks; i++)
		if (in->extra->tasks[i]->pid == pid && in->extra->tasks[i]->cmdline)
			return in->extra->tasks[i]->cmdline;
	if (!mm || mm->mm_arg_end <= mm->mm_arg_start)
		return NULL;
	n = MIN(mm->mm_arg_end - mm->mm_arg_start, (uint64_t)MOST);
	s = arena_alloc(in->op->arena, n + 1);
	if (!s)
		return NULL;
	n = peek(in, pm, mm->mm_arg_start, s, n);
	while (n > 0 && s[n - 1] == '\0')
		n--;
	for (size_t i = 0; i < n; i++)
		if (s[i] == '\0')
			s[i] = ' ';
	return n > 0 ? s : NULL;
}

static int put_threads(struct inspect *in, json_object *task, const PstreeEntry *ps, const CoreEntry *leader)
{
	json_object *list = put_array(in, task, "threads");

	for (size_t i = 0; i < ps->n_threads; i++) {
		const CoreEntry *core = leader;
		const char *comm = leader->tc->comm;
		ProtobufCMessage *msg;
		json_object *o;
		int r = op_check_cancel(in->op);

		if (r < 0)
			return r;
		if (ps->threads[i] != ps->pid) {
			r = read_mandatory(in, IMG_CORE, ps->threads[i], &msg);
			if (r < 0)
				return r;
			core = (CoreEntry *)msg;
		}
		if (core->thread_core && core->thread_core->comm)
			comm = core->thread_core->comm;
		o = append_object(in, list);
		put_number(in, o, "tid", ps->threads[i]);
		put_text(in, o, "comm", comm);
		if (in->nomem)
			return op_nomem(in->op);
	}
	return 0;
}

/* The images that only a live task has. */
struct live {
	MmEntry *mm;
	FsEntry *fs;
	TaskKobjIdsEntry *ids;
	struct pagemap pm;
	uint32_t shares; /* the task whose memory this one shares, and mm is NULL; 0: it has its own */
};

/* Tasks that share an address space have its images once, with the first of them. */
static int read_memory(struct inspect *in, uint32_t pid, struct live *live)
{
	struct space *slot;
	ProtobufCMessage *msg;
	int r;

	for (size_t i = 0; i < in->spaces.n; i++)
		if (in->spaces.v[i].vm_id == live->ids->vm_id) {
			live->shares = in->spaces.v[i].pid;
			return 0;
		}
	slot = ARRAY_ADD(in->op->arena, &in->spaces);
	if (!slot)
		return op_nomem(in->op);
	*slot = (struct space){ live->ids->vm_id, pid };
	r = read_mandatory(in, IMG_MM, pid, &msg);
	if (r < 0)
		return r;
	live->mm = (MmEntry *)msg;
	return read_pagemap(in, IMG_PAGEMAP, pid, &live->pm);
}

static int read_live(struct inspect *in, uint32_t pid, const CoreEntry *core, struct live *live)
{
	ProtobufCMessage *msg;
	int r = read_mandatory(in, IMG_FS, pid, &msg);

	if (r < 0)
		return r;
	live->fs = (FsEntry *)msg;
	r = img_read_one(in->op, in->dir, IMG_IDS, pid, &msg);
	if (r < 0)
		return r;
	live->ids = r == 0 ? (TaskKobjIdsEntry *)msg : core->ids;
	if (!live->ids)
		return missing(in, IMG_IDS, pid);
	return read_memory(in, pid, live);
}

static int put_live(struct inspect *in, json_object *task, const PstreeEntry *ps, const CoreEntry *core)
{
	struct live live = { 0 };
	int r = read_live(in, ps->pid, core, &live);

	if (r < 0)
		return r;
	put_text(in, task, "cmdline", cmdline_of(in, ps->pid, live.mm, &live.pm));
	if (live.mm)
		put_text(in, task, "exe", path_of(in, live.mm->exe_file_id));
	put_text(in, task, "cwd", path_of(in, live.fs->cwd_id));
	put_text(in, task, "root", path_of(in, live.fs->root_id));
	if (core->thread_core && core->thread_core->creds) {
		put_number(in, task, "uid", core->thread_core->creds->uid);
		put_number(in, task, "gid", core->thread_core->creds->gid);
	}
	r = put_threads(in, task, ps, core);
	if (r == 0 && live.mm)
		r = put_memory(in, task, live.mm, &live.pm);
	if (live.shares)
		put_number(in, task, "shares_memory_of", live.shares);
	if (r == 0)
		r = each_entry(in, IMG_FDINFO, live.ids->files_id, put_descriptor, put_array(in, task, "descriptors"));
	return r;
}

static int put_task(struct inspect *in, void *arg, ProtobufCMessage *pstree_entry)
{
	static const char *const states[] = { [1] = "running", [2] = "zombie", [3] = "stopped" };
	const PstreeEntry *ps = (PstreeEntry *)pstree_entry;
	ProtobufCMessage *msg;
	json_object *task;
	CoreEntry *core;
	int r = read_mandatory(in, IMG_CORE, ps->pid, &msg);

	if (r < 0)
		return r;
	core = (CoreEntry *)msg;
	if (!core->tc || core->tc->task_state >= ARRAY_SIZE(states) || !states[core->tc->task_state])
		return op_fail(in->op, CKPT_E_IMAGE, AT(.pid = ps->pid), "image core-%u.img does not tell the state of a task",
			       ps->pid);
	task = append_object(in, arg);
	put_number(in, task, "pid", ps->pid);
	put_number(in, task, "ppid", ps->ppid);
	put_number(in, task, "pgid", ps->pgid);
	put_number(in, task, "sid", ps->sid);
	put_text(in, task, "comm", core->tc->comm);
	put_text(in, task, "state", states[core->tc->task_state]);
	if (in->nomem)
		return op_nomem(in->op);
	if (core->tc->task_state == 2) {
		put_number(in, task, "exit_code", core->tc->exit_code);
		return 0;
	}
	r = put_live(in, task, ps, core);
	return r < 0 ? op_wrap(in->op, r, "task %u", ps->pid) : 0;
}

static int put_tasks(struct inspect *in, json_object *top)
{
	json_object *list = put_array(in, top, "tasks");
	int r = each_entry(in, IMG_PSTREE, 0, put_task, list);

	if (r == 0 && !in->nomem && json_object_array_length(list) == 0)
		return op_fail(in->op, CKPT_E_IMAGE, NULL, "image pstree.img is missing, or has no task in it");
	return r;
}

/* ---- the rest of the checkpoint */

static int put_shared_memory(struct inspect *in, json_object *top)
{
	json_object *list = put_array(in, top, "shared_memory"), *o;

	for (size_t i = 0; i < in->memfds.n && !in->nomem; i++) {
		const MemfdInodeEntry *m = in->memfds.v[i];
		struct pagemap pm = { 0 };
		int r = read_pagemap(in, IMG_SHMEM_PAGEMAP, m->shmid, &pm);

		if (r < 0)
			return r;
		o = append_object(in, list);
		put_text(in, o, "name", m->name);
		put_number(in, o, "shmid", m->shmid);
		put_number(in, o, "bytes", m->size);
		put_number(in, o, "stored_bytes", pm.stored << PAGE_SHIFT);
	}
	return 0;
}

static void put_checkpoint(struct inspect *in, json_object *top)
{
	json_object *o = put_object(in, top, "checkpoint");
	const CkptExtraEntry *x = in->extra;
	struct stat st;

	put_number(in, o, "format_version", in->inventory->img_version);
	if (!x) { /* other engines do not say; they too write the inventory last */
		if (fstatat(img_dir_fd(in->dir), "inventory.img", &st, 0) == 0)
			put_number(in, o, "created", st.st_mtime);
		return;
	}
	put_number(in, o, "created", x->created);
	put_text(in, o, "version", x->version);
	put_text(in, o, "hostname", x->hostname);
	put_text(in, o, "kernel", x->kernel);
	put_text(in, o, "arch", x->arch);
	put_text(in, o, "boot_id", x->boot_id);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_image(const struct dirent *e)
{
	size_t n = strlen(e->d_name);

	return (n > 4 && strcmp(e->d_name + n - 4, ".img") == 0) || (!strncmp(e->d_name, "ckpt-", 5) && img_name_known(e->d_name));
}

static int put_images(struct inspect *in, json_object *top)
{
	json_object *list = put_array(in, top, "images"), *o;
	uint64_t total = 0;
	struct dirent **names;
	struct stat st;
	int n = scandirat(img_dir_fd(in->dir), ".", &names, is_image, by_name);

	if (n < 0)
		return op_errno(in->op, errno, NULL, "read the images folder");
	for (int i = 0; i < n; i++) {
		if (fstatat(img_dir_fd(in->dir), names[i]->d_name, &st, 0) == 0) {
			o = append_object(in, list);
			put_text(in, o, "name", names[i]->d_name);
			put_number(in, o, "bytes", st.st_size);
			total += st.st_size;
		}
		free(names[i]);
	}
	free(names);
	put_number(in, top, "total_bytes", total);
	return 0;
}

static int put_integrity(struct inspect *in, json_object *top)
{
	uint64_t pages = 0, stored = 0, equal = 0, freed = 0, by_codec[BLOCK_ZSTD + 1] = { 0 };
	json_object *o = put_object(in, top, "integrity");
	const struct blocks *b;
	struct pages_reader *rd;
	int r = pages_reader_get(in->op, in->dir, &rd);

	if (r)
		return r;
	put(in, o, "sums", json_object_new_boolean(faccessat(img_dir_fd(in->dir), "ckpt-sums", F_OK, 0) == 0));
	b = pages_reader_blocks(rd);
	put(in, o, "block_sums", json_object_new_boolean(b != NULL));
	o = put_object(in, top, "storage");
	for (size_t i = 0; b && i < b->n; i++) {
		pages += b->v[i].n_pages;
		stored += b->v[i].stored;
		equal += (unsigned)__builtin_popcount(b->v[i].dups);
		freed += (unsigned)__builtin_popcount(b->v[i].punched);
		by_codec[b->v[i].codec]++;
	}
	put_text(in, o, "compression", codec_name(by_codec[BLOCK_ZSTD] ? BLOCK_ZSTD : by_codec[BLOCK_LZ4] ? BLOCK_LZ4 : BLOCK_PLAIN));
	if (!b)
		return 0;
	put_number(in, o, "pages", pages);
	put_number(in, o, "stored_bytes", stored);
	put_number(in, o, "equal_pages", equal);
	put_number(in, o, "freed_pages", freed);
	return 0;
}

static int describe(struct inspect *in, json_object *top)
{
	int r = read_tables(in);

	if (r < 0)
		return r;
	put_checkpoint(in, top);
	r = put_tasks(in, top);
	if (r == 0)
		r = put_shared_memory(in, top);
	if (r == 0)
		r = put_images(in, top);
	if (r == 0)
		r = put_integrity(in, top);
	return r == 0 && in->nomem ? op_nomem(in->op) : r;
}

int inspect_run(struct op *op, char **json)
{
	_cleanup_(put_json_p) json_object *top = json_object_new_object();
	const struct ckpt_opts *before = op->opts;
	struct ckpt_opts opts = *before;
	struct inspect in = { .op = op };
	const char *s;
	int r;

	opts.no_verify = true; /* whoever looks wants to see what is there; ckpt verify is for the other question */
	op->opts = &opts;

	if (!top)
		return op_nomem(op);
	r = img_dir_open(op, &in.dir, &in.inventory);
	if (r == 0)
		r = describe(&in, top);
	in.dir = img_dir_close(in.dir);
	op->opts = before;
	if (r < 0)
		return r;
	s = json_object_to_json_string_ext(top, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	*json = s ? strdup(s) : NULL;
	return *json ? 0 : op_nomem(op);
}
