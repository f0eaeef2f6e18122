/* SPDX-License-Identifier: MIT */
/*
 * Shared memory objects of the kernel's own tmpfs and hugetlbfs: memfds, and MAP_SHARED|MAP_ANONYMOUS areas (which appear as
 * deleted files named /dev/zero, or /anon_hugepage). A description is a MEMFD entry, the object behind it an entry of
 * memfd.img; its content is shmem.c's.
 */
#include <linux/memfd.h>
#include <sys/mman.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/core.h"
#include "lib/state/msg.h"

#define MEMFD_PREFIX "/memfd:"
#define ZERO_NAME "/dev/zero"
#define DELETED " (deleted)"
#define HUGE_NAME "/anon_hugepage"
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x10
#endif

bool memfd_is_shmem(const struct fd_view *v)
{
	if (!S_ISREG(v->st.st_mode))
		return false;
	if (v->st.st_dev == v->shm_dev)
		return strncmp(v->link, MEMFD_PREFIX, sizeof(MEMFD_PREFIX) - 1) == 0 || strcmp(v->link, ZERO_NAME DELETED) == 0;
	return v->fs_magic == FS_HUGETLBFS &&
	       (strncmp(v->link, MEMFD_PREFIX, sizeof(MEMFD_PREFIX) - 1) == 0 || strcmp(v->link, HUGE_NAME DELETED) == 0);
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
	m->uid = ns_uid_inside(s, v->st.st_uid);
	m->gid = ns_gid_inside(s, v->st.st_gid);
	m->size = (uint64_t)v->st.st_size;
	m->shmid = (uint32_t)v->st.st_ino;
	m->seals = (uint32_t)seals;
	m->inode_id = s->shmems.n;
	m->has_mode = true;
	m->mode = v->st.st_mode;
	if (v->fs_magic == FS_HUGETLBFS)
		msg_set(m, hugetlb_flag, shmem_huge_flag((uint64_t)v->st.st_blksize));
	*ret = sh;
	return index_add(op, &s->file_state->shmems, KEY(v->st.st_dev, v->st.st_ino), sh);
}

static int memfd_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	MemfdFileEntry *m = op_new(op, MemfdFileEntry);
	struct snap_shmem *sh;
	int r;

	if (!m)
		return CKPT_E_NOMEM;
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

/* ------------------------------------------------------------------------------------------- restore half */

struct snap_shmem *shmem_of(const struct snapshot *s, uint32_t inode_id)
{
	for (size_t i = 0; i < s->shmems.n; i++)
		if (s->shmems.v[i]->msg->inode_id == inode_id)
			return s->shmems.v[i];
	return NULL;
}

/*
 * Shared anonymous memory, so that it has the same name in /proc/PID/maps: mapped as the program once did, and opened
 * through map_files. The mapping itself is then not needed.
 */
static int create_anonymous(uint64_t size, int huge)
{
	char path[96];
	void *p;
	int fd;

	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | huge, -1, 0);
	if (p == MAP_FAILED)
		p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | huge, -1, 0);
	if (p == MAP_FAILED)
		return -1;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)p, (unsigned long)p + size);
	fd = open(path, O_RDWR | O_CLOEXEC);
	munmap(p, size);
	return fd;
}

static bool is_anonymous(const MemfdInodeEntry *m)
{
	const char *name = m->has_hugetlb_flag && m->hugetlb_flag ? HUGE_NAME : ZERO_NAME;

	return strcmp(m->name, name) == 0 && m->seals == F_SEAL_SEAL && m->size && m->size % shmem_page_size(m) == 0;
}

static int create_object(struct op *op, const struct snapshot *s, struct snap_shmem *sh)
{
	const MemfdInodeEntry *m = sh->msg;
	uint32_t huge = m->has_hugetlb_flag ? m->hugetlb_flag : 0;
	unsigned flags = MFD_CLOEXEC | (m->seals == F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING);

	/* The size code is at the same place in both calls. */
	if (is_anonymous(m))
		sh->fd = file_high(create_anonymous(m->size, huge ? (int)(MAP_HUGETLB | (huge & ~SHMEM_MFD_HUGETLB)) : 0));
	if (sh->fd < 0)
		sh->fd = file_high(sys_memfd_create(m->name, flags | huge));
	if (sh->fd < 0)
		return shmem_fail(op, sh, "create");
	if (ftruncate(sh->fd, (off_t)m->size) < 0)
		return shmem_fail(op, sh, "set the size of");
	if (fchown(sh->fd, ns_uid_outside(s, m->uid), ns_gid_outside(s, m->gid)) < 0)
		return shmem_fail(op, sh, "set the owner of");
	if (m->has_mode && fchmod(sh->fd, m->mode & 07777) < 0)
		return shmem_fail(op, sh, "set the mode of");
	return 0;
}

static int check_object(struct op *op, const struct snap_shmem *sh)
{
	const MemfdInodeEntry *m = sh->msg;
	uint64_t page = shmem_page_size(m);

	if (m->has_hugetlb_flag && (m->hugetlb_flag & ~(SHMEM_MFD_HUGETLB | 0x3fu << SHMEM_HUGE_SHIFT)))
		return image_bad(op, "memfd.img: the huge page flags 0x%x of %s make no sense", m->hugetlb_flag, m->name);
	if (!page || (page != PAGE_SIZE && m->size % page))
		return image_bad(op, "memfd.img: the size %lu of %s is not one of huge pages", (unsigned long)m->size, m->name);
	return 0;
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

	r = r ? r : create_object(op, s, sh);
	r = r ? r : shmem_load(op, s, sh);
	if (!r && !seals_wait(sh) && add_seals(sh) < 0)
		return shmem_fail(op, sh, "seal");
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
		return shmem_fail(op, sh, "open");
	if (given < 0 && !(m->flags & O_PATH) && m->pos && lseek(f->fd, (off_t)m->pos, SEEK_SET) < 0)
		return shmem_fail(op, sh, "seek in");
	return 0;
}

const struct file_kind file_memfd = {
	.name = "memfd",
	.type = FD_TYPES__MEMFD,
	.message = offsetof(FileEntry, memfd),
	.match = memfd_is_shmem,
	.dump = memfd_dump,
	.open = memfd_open,
};
