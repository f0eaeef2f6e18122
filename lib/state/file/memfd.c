/* SPDX-License-Identifier: MIT */
/*
 * Shared memory objects of the kernel's own tmpfs: memfds and MAP_SHARED|MAP_ANONYMOUS areas (which appear as deleted files
 * named /dev/zero). A description is a MEMFD entry, the object behind it an entry of memfd.img, its content
 * pagemap-shmem-<inode> and a file of pages, with holes left out.
 */
#include <linux/memfd.h>
#include <sys/mman.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"

#define MEMFD_PREFIX "/memfd:"
#define ZERO_NAME "/dev/zero"
#define DELETED " (deleted)"
#define PE_PARENT 1u
#define PE_PRESENT 4u
#define SHMEM_MAX (1ull << 47)
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

bool memfd_is_shmem(const struct fd_view *v)
{
	if (!S_ISREG(v->st.st_mode))
		return false;
	if (v->st.st_dev == v->shm_dev)
		return strncmp(v->link, MEMFD_PREFIX, sizeof(MEMFD_PREFIX) - 1) == 0 || strcmp(v->link, ZERO_NAME DELETED) == 0;
	return v->fs_magic == FS_HUGETLBFS && strncmp(v->link, MEMFD_PREFIX, sizeof(MEMFD_PREFIX) - 1) == 0;
}

static int memfd_check(struct op *op, const struct fd_view *v)
{
	if (v->fs_magic == FS_HUGETLBFS)
		return file_refuse(op, v, "memfd", NULL, "memfds of huge pages are not supported yet");
	return 0;
}

/* The name without what the kernel puts around it. */
static char *object_name(struct op *op, const char *link)
{
	size_t n = strlen(link), tail = sizeof(DELETED) - 1;

	if (n > tail && strcmp(link + n - tail, DELETED) == 0)
		n -= tail;
	if (strncmp(link, MEMFD_PREFIX, sizeof(MEMFD_PREFIX) - 1) == 0) {
		link += sizeof(MEMFD_PREFIX) - 1;
		n -= sizeof(MEMFD_PREFIX) - 1;
	}
	return arena_strndup(op->arena, link, n);
}

static int object_new(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_shmem **ret)
{
	struct snap_shmem *sh = op_new(op, struct snap_shmem), **slot;
	MemfdInodeEntry *m = sh ? op_new(op, MemfdInodeEntry) : NULL;
	int seals;

	slot = m ? ARRAY_ADD(op->arena, &s->shmems) : NULL;
	if (!slot)
		return op_nomem(op);
	*slot = sh;
	sh->msg = m;
	sh->fd = file_reopen(v->copy, O_RDONLY);
	if (sh->fd < 0)
		return file_errno(op, v, "open the shared memory object");
	seals = fcntl(sh->fd, F_GET_SEALS);
	if (seals < 0)
		return file_errno(op, v, "read the seals");
	memfd_inode_entry__init(m);
	m->name = object_name(op, v->link);
	if (!m->name)
		return op_nomem(op);
	m->uid = v->st.st_uid;
	m->gid = v->st.st_gid;
	m->size = (uint64_t)v->st.st_size;
	m->shmid = (uint32_t)v->st.st_ino;
	m->seals = (uint32_t)seals;
	m->inode_id = s->shmems.n;
	m->has_mode = true;
	m->mode = v->st.st_mode;
	*ret = sh;
	return index_add(op, &s->file_state->shmems, KEY(v->st.st_dev, v->st.st_ino), sh);
}

static int memfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	MemfdFileEntry *m = op_new(op, MemfdFileEntry);
	struct snap_shmem *sh;
	int r = memfd_check(op, v);

	if (r || !m)
		return r ? r : CKPT_E_NOMEM;
	sh = index_find(&s->file_state->shmems, KEY(v->st.st_dev, v->st.st_ino));
	r = sh ? 0 : object_new(op, s, v, &sh);
	if (r)
		return r;
	memfd_file_entry__init(m);
	m->id = f->id;
	m->flags = v->info.flags;
	m->pos = v->fd < 0 ? 0 : v->info.pos;
	m->inode_id = (uint32_t)sh->msg->inode_id;
	m->fown = file_fown(op, v);
	f->msg->memfd = m;
	return m->fown ? 0 : CKPT_E_NOMEM;
}

/* ------------------------------------------------------------------------------------------------ content */

static int add_range(struct op *op, struct snap_pagemap *map, uint64_t start, uint64_t end)
{
	PagemapEntry *last = map->entries.n ? map->entries.v[map->entries.n - 1] : NULL, *m, **slot;

	/* Data that begins in the page where the last range ended: rounding made them overlap. */
	if (last && last->vaddr + last->nr_pages * PAGE_SIZE > start)
		start = last->vaddr + last->nr_pages * PAGE_SIZE;
	if (start >= end)
		return 0;
	m = op_new(op, PagemapEntry);
	slot = m ? ARRAY_ADD(op->arena, &map->entries) : NULL;
	if (!slot)
		return op_nomem(op);
	pagemap_entry__init(m);
	m->vaddr = start;
	m->has_nr_pages = m->has_flags = true;
	m->nr_pages = (end - start) / PAGE_SIZE;
	m->flags = PE_PRESENT;
	map->n_pages += m->nr_pages;
	*slot = m;
	return 0;
}

static int find_data(struct op *op, struct snap_shmem *sh)
{
	uint64_t size = sh->msg->size;
	off_t off = 0;
	int r = 0;

	while (!r && (uint64_t)off < size && (off = lseek(sh->fd, off, SEEK_DATA)) >= 0 && (uint64_t)off < size) {
		off_t end = lseek(sh->fd, off, SEEK_HOLE);

		if (end < 0)
			break;
		end = (off_t)MIN((uint64_t)end, size);
		r = add_range(op, &sh->pagemap, ALIGN_DOWN((uint64_t)off, PAGE_SIZE), ALIGN_UP((uint64_t)end, PAGE_SIZE));
		off = end;
	}
	if (!r && off < 0 && errno != ENXIO)
		return op_errno(op, errno, AT(.kind = "shared memory"), "cannot find the data of %s", sh->msg->name);
	return r;
}

/* Bytes after the end of the object are zero: the last page of it may be a part of one. */
static int read_padded(struct op *op, const struct snap_shmem *sh, char *buf, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(sh->fd, buf + done, n - done, (off_t)(off + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "shared memory"), "cannot read %s", sh->msg->name);
		if (r == 0)
			break;
		done += (size_t)r;
	}
	memset(buf + done, 0, n - done);
	return 0;
}

static int write_pages(struct op *op, const struct snap_shmem *sh, struct pages_out *out, const PagemapEntry *e)
{
	uint64_t left = e->nr_pages * PAGE_SIZE, off = e->vaddr;
	int r = 0;

	while (!r && left) {
		size_t cap, n;
		void *buf;

		r = op_check_cancel(op);
		r = r ? r : pages_buffer(op, out, &buf, &cap);
		if (r)
			return r;
		n = MIN(left, (uint64_t)ALIGN_DOWN(cap, PAGE_SIZE));
		r = read_padded(op, sh, buf, n, off);
		r = r ? r : pages_submit(op, out, n);
		left -= n;
		off += n;
	}
	return r;
}

static int dump_content(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	struct pages_out *out = NULL;
	int r = find_data(op, sh), r2;

	if (r)
		return r;
	if (!s->next_pages_id)
		s->next_pages_id = 1;
	sh->pagemap.pages_id = s->next_pages_id++;
	if (!sh->pagemap.n_pages)
		return 0;
	r = pages_create(op, s->dir, sh->pagemap.pages_id, sh->pagemap.n_pages * PAGE_SIZE, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < sh->pagemap.entries.n; i++)
		r = write_pages(op, sh, out, sh->pagemap.entries.v[i]);
	r2 = pages_close(op, out);
	op->stats->shpages_written += sh->pagemap.n_pages;
	return r ? r : r2;
}

int files_dump_shmem(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = dump_content(op, s, s->shmems.v[i]);
	return r;
}

int shmem_write(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct img_out *out = NULL;
	int r, r2;

	r = img_create(op, s->dir, IMG_SHMEM_PAGEMAP, sh->msg->shmid, &out);
	if (r)
		return r;
	head.pages_id = sh->pagemap.pages_id;
	r = img_write(op, out, &head.base);
	for (size_t i = 0; !r && i < sh->pagemap.entries.n; i++)
		r = img_write(op, out, &sh->pagemap.entries.v[i]->base);
	r2 = img_close(op, out);
	return r ? r : r2;
}

/* ------------------------------------------------------------------------------------------- restore half */

struct snap_shmem *shmem_of(const struct snapshot *s, uint32_t inode_id)
{
	for (size_t i = 0; i < s->shmems.n; i++)
		if (s->shmems.v[i]->msg->inode_id == inode_id)
			return s->shmems.v[i];
	return NULL;
}

static int add_entry(struct op *op, struct snap_shmem *sh, PagemapEntry *e, uint64_t *end)
{
	uint64_t limit = ALIGN_UP(sh->msg->size, PAGE_SIZE), pages = e->has_nr_pages ? e->nr_pages : e->compat_nr_pages;
	uint32_t flags = e->has_flags ? e->flags : e->has_in_parent && e->in_parent ? PE_PARENT : PE_PRESENT;
	PagemapEntry **slot;

	if (flags & PE_PARENT)
		return op_fail(op, CKPT_E_NOT_YET, AT(.kind = "shared memory"),
			       "pagemap-shmem-%u.img: incremental checkpoints are not supported yet", sh->msg->shmid);
	if (e->vaddr % PAGE_SIZE || e->vaddr < *end || e->vaddr > limit || pages > (limit - e->vaddr) / PAGE_SIZE)
		return image_bad(op, "pagemap-shmem-%u.img: an entry at 0x%lx is out of order or beyond the end of the object",
				 sh->msg->shmid, (unsigned long)e->vaddr);
	*end = e->vaddr + pages * PAGE_SIZE;
	if (!(flags & PE_PRESENT) || !pages)
		return pages ? image_bad(op, "pagemap-shmem-%u.img: pages at 0x%lx are not in the checkpoint", sh->msg->shmid,
					 (unsigned long)e->vaddr)
			     : 0;
	e->has_nr_pages = true;
	e->nr_pages = pages;
	sh->pagemap.n_pages += pages;
	slot = ARRAY_ADD(op->arena, &sh->pagemap.entries);
	if (!slot)
		return op_nomem(op);
	*slot = e;
	return 0;
}

int shmem_read(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	struct img_in *in = NULL;
	ProtobufCMessage *msg;
	uint64_t end = 0;
	int r;

	if (!sh->msg->size)
		return 0;
	if (sh->msg->size > SHMEM_MAX)
		return image_bad(op, "memfd.img: the size %lu of %s is absurd", (unsigned long)sh->msg->size, sh->msg->name);
	r = img_open(op, s->dir, IMG_SHMEM_PAGEMAP, sh->msg->shmid, &in);
	if (r)
		return r < 0 ? r : image_bad(op, "pagemap-shmem-%u.img of %s is missing", sh->msg->shmid, sh->msg->name);
	r = img_read(op, in, &msg);
	if (r == IMG_END)
		r = image_bad(op, "pagemap-shmem-%u.img is empty", sh->msg->shmid);
	if (!r)
		sh->pagemap.pages_id = ((PagemapHead *)msg)->pages_id;
	while (!r && (r = img_read(op, in, &msg)) == 0)
		r = add_entry(op, sh, (PagemapEntry *)msg, &end);
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static int object_fail(struct op *op, const struct snap_shmem *sh, const char *what)
{
	return op_errno(op, errno, AT(.kind = "shared memory"), "cannot %s shared memory object %s of %lu bytes", what,
			sh->msg->name, (unsigned long)sh->msg->size);
}

/*
 * Shared anonymous memory, so that it has the same name in /proc/PID/maps: mapped as the program once did, and opened
 * through map_files. The mapping itself is then not needed.
 */
static int create_anonymous(uint64_t size)
{
	char path[96];
	void *p;
	int fd;

	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p, (unsigned long)p + size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	munmap(p, size);
	return fd;
}

static int create_object(struct op *op, struct snap_shmem *sh)
{
	const MemfdInodeEntry *m = sh->msg;
	unsigned flags = MFD_CLOEXEC | (m->seals == F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING);

	if (strcmp(m->name, ZERO_NAME) == 0 && m->seals == F_SEAL_SEAL && m->size && m->size % PAGE_SIZE == 0)
		sh->fd = file_high(create_anonymous(m->size));
	if (sh->fd < 0)
		sh->fd = file_high(sys_memfd_create(m->name, flags));
	if (sh->fd < 0)
		return object_fail(op, sh, "create");
	if (ftruncate(sh->fd, (off_t)m->size) < 0)
		return object_fail(op, sh, "set the size of");
	if (fchown(sh->fd, m->uid, m->gid) < 0)
		return object_fail(op, sh, "set the owner of");
	if (m->has_mode && fchmod(sh->fd, m->mode & 07777) < 0)
		return object_fail(op, sh, "set the mode of");
	return 0;
}

static int check_object(struct op *op, const struct snap_shmem *sh)
{
	const MemfdInodeEntry *m = sh->msg;

	if (m->has_hugetlb_flag && m->hugetlb_flag)
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "memfd"),
			       "memfd %s: memfds of huge pages are not supported yet", m->name);
	return 0;
}

/* Reads @n bytes of the page image to offset @off of the object, through a mapping. */
static int load_range(struct op *op, const struct snap_shmem *sh, int pages, uint64_t from, uint64_t off, size_t n)
{
	char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, sh->fd, (off_t)off);
	size_t done = 0;
	int eno = 0;

	if (p == MAP_FAILED)
		return object_fail(op, sh, "map");
	while (done < n && !eno) {
		ssize_t r = pread(pages, p + done, n - done, (off_t)(from + done));

		if (r > 0)
			done += (size_t)r;
		else if (r == 0)
			eno = EIO;
		else if (errno != EINTR)
			eno = errno;
	}
	munmap(p, n);
	errno = eno;
	return eno ? object_fail(op, sh, "fill") : 0;
}

static int load_entry(struct op *op, const struct snap_shmem *sh, int pages, uint64_t *from, const PagemapEntry *e)
{
	uint64_t left = e->nr_pages * PAGE_SIZE, off = e->vaddr;
	int r = 0;

	while (!r && left) {
		size_t n = MIN(left, 64ull << 20);

		r = op_check_cancel(op);
		r = r ? r : load_range(op, sh, pages, *from, off, n);
		left -= n;
		off += n;
		*from += n;
	}
	return r;
}

static int load_content(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	_cleanup_close_ int pages = -1;
	uint64_t size = 0, from = 0;
	int r;

	if (!sh->pagemap.n_pages)
		return 0;
	r = img_open_pages(op, s->dir, sh->pagemap.pages_id, &pages, &size);
	if (r)
		return r < 0 ? r : image_bad(op, "pages-%u.img of %s is missing", sh->pagemap.pages_id, sh->msg->name);
	if (size / PAGE_SIZE < sh->pagemap.n_pages)
		return image_bad(op, "pages-%u.img is too short for %s", sh->pagemap.pages_id, sh->msg->name);
	for (size_t i = 0; !r && i < sh->pagemap.entries.n; i++)
		r = load_entry(op, sh, pages, &from, sh->pagemap.entries.v[i]);
	return r;
}

/* Seals against new writable mappings wait until the tasks have made theirs. */
static bool seals_wait(const struct snap_shmem *sh)
{
	return sh->msg->seals & F_SEAL_FUTURE_WRITE;
}

static int add_seals(const struct snap_shmem *sh)
{
	if (!sh->msg->seals || sh->msg->seals == F_SEAL_SEAL)
		return 0;
	return fcntl(sh->fd, F_ADD_SEALS, sh->msg->seals);
}

int shmem_create(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	int r = check_object(op, sh);

	r = r ? r : create_object(op, sh);
	r = r ? r : load_content(op, s, sh);
	if (!r && !seals_wait(sh) && add_seals(sh) < 0)
		return object_fail(op, sh, "seal");
	return r;
}

void shmem_done(struct op *op, struct snap_shmem *sh, bool success)
{
	if (success && sh->fd >= 0 && seals_wait(sh) && add_seals(sh) < 0)
		log_warn(op, "memfd %s: cannot be sealed: %s", sh->msg->name, strerror(errno));
	close_fd_p(&sh->fd);
	sh->fd = -1;
}

static int memfd_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const MemfdFileEntry *m = f->msg->memfd;
	const struct snap_shmem *sh = shmem_of(s, m->inode_id);
	char *key = sh ? arena_printf(op->arena, MEMFD_PREFIX "%s", sh->msg->name) : NULL;
	int given;

	if (!sh)
		return image_bad(op, "files.img: memfd id %u: no object %u in memfd.img", f->id, m->inode_id);
	given = key ? inherit_find(op, key) : -1;
	if (given >= 0)
		f->fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	else
		f->fd = file_high(file_reopen(sh->fd, (int)(m->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC))));
	if (f->fd < 0)
		return object_fail(op, sh, "open");
	if (given < 0 && !(m->flags & O_PATH) && m->pos && lseek(f->fd, (off_t)m->pos, SEEK_SET) < 0)
		return object_fail(op, sh, "seek in");
	return 0;
}

const struct file_kind file_memfd = {
	.name = "memfd",
	.type = FD_TYPES__MEMFD,
	.message = offsetof(FileEntry, memfd),
	.match = memfd_is_shmem,
	.check = memfd_check,
	.dump = memfd_dump,
	.open = memfd_open,
};
