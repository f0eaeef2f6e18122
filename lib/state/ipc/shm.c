/* SPDX-License-Identifier: MIT */
/*
 * Shared memory segments. To read or fill one we attach it: through our own mapping its inode can be opened, and is then a
 * shared memory object like any other (memfd.c). A restore keeps its attachments until the tasks have theirs, so that
 * segments marked for deletion live that long, and no longer.
 */
#include <fcntl.h>
#include <sys/shm.h>
#include <sys/vfs.h>

#include "lib/state/ipc/core.h"
#include "lib/state/msg.h"

#define SEGMENT_MAX (1ull << 46)
#ifndef SHM_HUGE_SHIFT
#define SHM_HUGE_SHIFT 26
#endif
#define SHM_HUGE_FLAGS (SHM_HUGETLB | 0x3fu << SHM_HUGE_SHIFT)
#define FS_HUGETLBFS 0x958458f6u

static unsigned attached_by_tree(const struct ipc_state *st, uint32_t id)
{
	for (size_t i = 0; i < st->attachments.n; i++)
		if (st->attachments.v[i].id == id)
			return st->attachments.v[i].n;
	return 0;
}

/* The bytes an attachment of it takes. */
static uint64_t mapped_size(const struct ipc_shm *shm)
{
	uint32_t flags = shm->msg->has_hugetlb_flag ? shm->msg->hugetlb_flag : 0;
	uint64_t page = flags & SHM_HUGETLB ? 1ull << (flags >> SHM_HUGE_SHIFT & 0x3f) : PAGE_SIZE;

	return ALIGN_UP(shm->msg->size, page);
}

/* Opens the inode of a segment that is attached at @at. */
static int open_attached(const void *at, uint64_t len, int flags)
{
	char path[96];

	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + len);
	return open(path, flags | O_CLOEXEC);
}

static int object_of(struct op *op, struct ipc_shm *shm)
{
	const IpcDescEntry *d = shm->msg->desc;
	MemfdInodeEntry *m = msg_new(op, MemfdInodeEntry, memfd_inode_entry);

	if (!m)
		return CKPT_E_NOMEM;
	m->name = arena_printf(op->arena, "segment %u", d->id);
	m->size = shm->msg->size;
	m->shmid = d->id;
	if (shm->msg->has_hugetlb_flag)
		msg_set(m, hugetlb_flag, 4u | (shm->msg->hugetlb_flag & 0x3fu << SHM_HUGE_SHIFT)); /* MFD_HUGETLB */
	shm->mem.msg = m;
	shm->mem.fd = -1;
	return m->name ? 0 : op_nomem(op);
}

/* ---------------------------------------------------------------------------------------------------- dump */

static int find_huge_size(struct op *op, struct ipc_shm *shm, const void *at)
{
	struct statfs fs;

	/* Of ordinary ones the length is that of the area; of others it is found by asking for it with every size there is. */
	for (int shift = PAGE_SHIFT; shift < 35; shift++) {
		int fd = open_attached(at, ALIGN_UP(shm->msg->size, 1ull << shift), O_RDONLY);

		if (fd < 0)
			continue;
		shm->mem.fd = fd;
		if (fstatfs(fd, &fs) < 0)
			break;
		if ((uint32_t)fs.f_type == FS_HUGETLBFS)
			msg_set(shm->msg, hugetlb_flag, SHM_HUGETLB | (uint32_t)__builtin_ctzl((unsigned long)fs.f_bsize) << SHM_HUGE_SHIFT);
		return 0;
	}
	return ipc_errno(op, shm->msg->desc, "shm", "open the memory of");
}

static int open_segment(struct op *op, struct snapshot *s, struct ipc_shm *shm)
{
	const IpcDescEntry *d = shm->msg->desc;
	void *at = shmat((int)d->id, NULL, SHM_RDONLY);
	int r, fd;

	if (at == (void *)-1)
		return ipc_errno(op, d, "shm", "attach");
	r = find_huge_size(op, shm, at);
	shmdt(at);
	fd = shm->mem.fd;
	if (!r)
		r = object_of(op, shm);
	shm->mem.fd = fd;
	/* Its content is named by the id, which must not be the name of a memfd's, too. */
	return r ?: shmem_claim_id(op, s, d->id);
}

static int refuse_attached(struct op *op, int id, const struct shmid_ds *ds, unsigned ours)
{
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.kind = "SysV shared memory",
			  .hint = arena_printf(op->arena, "checkpoint all processes that use it; or, if it will be there at the restore, "
						"attach what it is then with --external shm[%d]", id)),
		       "shared memory segment %d (key 0x%x) is attached %lu times, %lu of them outside the tree", id,
		       ds->shm_perm.__key, (unsigned long)ds->shm_nattch, (unsigned long)ds->shm_nattch - ours);
}

static struct ipc_shm *shm_new(struct op *op, struct snapshot *s, IpcShmEntry *m, IpcShmExtra *x)
{
	struct ipc_shm *shm = op_new(op, struct ipc_shm), **slot = shm ? ARRAY_ADD(op->arena, &s->ipc->shms) : NULL;

	if (!slot || !m || !x) {
		op_nomem(op);
		return NULL;
	}
	*slot = shm;
	shm->msg = m;
	shm->extra = x;
	shm->mem.fd = -1;
	return shm;
}

static int collect_one(struct op *op, struct snapshot *s, int id, const struct shmid_ds *ds)
{
	unsigned ours = attached_by_tree(s->ipc, (uint32_t)id);
	const char *key = arena_printf(op->arena, "shm[%d]", id);
	bool external = key && file_is_external(op, key);
	struct ipc_shm *shm;

	if (!s->ipc->own && !ours && !ipc_of_tree(s, ds->shm_cpid))
		return 0;
	if (ds->shm_nattch > ours && !external)
		return refuse_attached(op, id, ds, ours);
	/* Our own attachment, when it goes, would be the last, and the segment would go with it. */
	if (!ds->shm_nattch && ipc_rmid_forced())
		return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "SysV shared memory"),
			       "shared memory segment %d is attached nowhere, and would vanish if it were looked at (kernel.shm_rmid_forced)", id);
	shm = shm_new(op, s, msg_new(op, IpcShmEntry, ipc_shm_entry), msg_new(op, IpcShmExtra, ipc_shm_extra));
	if (!shm || !(shm->msg->desc = ipc_desc(op, &ds->shm_perm, id)))
		return CKPT_E_NOMEM;
	shm->attached = ours;
	shm->msg->size = ds->shm_segsz;
	msg_set(shm->msg, in_pagemaps, 1);
	shm->extra->id = (uint32_t)id;
	if (ds->shm_perm.mode & SHM_DEST)
		msg_set(shm->extra, dest, 1);
	if (ds->shm_perm.mode & SHM_LOCKED)
		msg_set(shm->extra, locked, 1);
	if (external) {
		msg_set(shm->extra, external_key, ds->shm_perm.__key);
		msg_set(shm->extra, external_size, ds->shm_segsz);
		return 0;
	}
	return open_segment(op, s, shm);
}

/* Each attachment that was seen belongs to a segment. */
static int check_attachments(struct op *op, const struct snapshot *s)
{
	for (size_t i = 0; i < s->ipc->attachments.n; i++) {
		bool found = false;

		for (size_t j = 0; j < s->ipc->shms.n && !found; j++)
			found = s->ipc->shms.v[j]->extra->id == s->ipc->attachments.v[i].id;
		if (!found)
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "SysV shared memory"),
				       "shared memory segment %u is attached, but it is not of the IPC namespace of the tree",
				       s->ipc->attachments.v[i].id);
	}
	return 0;
}

static int shm_collect(struct op *op, struct snapshot *s)
{
	struct shm_info info = { 0 };
	struct shmid_ds ds;
	int last = shmctl(0, SHM_INFO, (struct shmid_ds *)&info), r = 0;

	for (int i = 0; i <= last && info.used_ids && !r; i++) {
		int id = shmctl(i, SHM_STAT, &ds);

		if (id >= 0)
			r = collect_one(op, s, id, &ds);
	}
	return r ?: check_attachments(op, s);
}

int ipc_dump_contents(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->ipc && i < s->ipc->shms.n && !r; i++) {
		struct ipc_shm *shm = s->ipc->shms.v[i];

		if (!shm->mem.msg)
			continue;
		r = shmem_dump_content(op, s, &shm->mem);
	}
	return r;
}

static int write_extra(struct op *op, struct snapshot *s)
{
	IpcShmExtra **v = op_alloc(op, (s->ipc->shms.n + 1) * sizeof(*v));
	size_t n = 0;

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->ipc->shms.n; i++) {
		IpcShmExtra *x = s->ipc->shms.v[i]->extra;

		if (x->has_dest || x->has_locked || x->has_external_size)
			v[n++] = x;
	}
	s->extra->ipc_shms = v;
	s->extra->n_ipc_shms = n;
	return 0;
}

static int shm_write(struct op *op, struct snapshot *s)
{
	struct img_out *out = NULL;
	int r = write_extra(op, s);

	for (size_t i = 0; !r && i < s->ipc->shms.n; i++) {
		struct ipc_shm *shm = s->ipc->shms.v[i];

		if (!shm->mem.msg)
			continue;
		r = out ? 0 : img_create(op, s->dir, IMG_IPCNS_SHM, s->ipc->ns_id, &out);
		r = r ?: img_write(op, out, &shm->msg->base);
		r = r ?: shmem_write(op, s, &shm->mem);
	}
	return out ? r ?: img_close(op, out) : r;
}

/* ------------------------------------------------------------------------------------------------- restore */

static IpcShmExtra *extra_of(struct op *op, const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; s->extra && i < s->extra->n_ipc_shms; i++)
		if (s->extra->ipc_shms[i]->id == id)
			return s->extra->ipc_shms[i];
	return msg_new(op, IpcShmExtra, ipc_shm_extra);
}

static int bad(struct op *op, uint32_t id, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "SysV shared memory"), "ipcns-shm: segment %u: %s", id, what);
}

static int read_one(struct op *op, struct snapshot *s, IpcShmEntry *m)
{
	uint32_t huge = m->has_hugetlb_flag ? m->hugetlb_flag : 0, shift = huge >> SHM_HUGE_SHIFT & 0x3f;
	struct ipc_shm *shm;
	int r = ipc_check_desc(op, m->desc, "ipcns-shm");

	for (size_t i = 0; i < s->ipc->shms.n && !r; i++)
		if (s->ipc->shms.v[i]->msg->desc->id == m->desc->id)
			r = bad(op, m->desc->id, "it is there twice");
	if (!r && (!m->size || m->size > SEGMENT_MAX || huge & ~SHM_HUGE_FLAGS || (huge && (!(huge & SHM_HUGETLB) || shift > 34))))
		r = bad(op, m->desc->id, "its size or flags make no sense");
	if (!r && (!m->has_in_pagemaps || !m->in_pagemaps))
		r = op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "SysV shared memory"),
			    "the content of shared memory segment %u is stored in an old way, which is not supported", m->desc->id);
	if (r)
		return r;
	shm = shm_new(op, s, m, extra_of(op, s, m->desc->id));
	r = shm ? object_of(op, shm) : CKPT_E_NOMEM;
	return r ?: shmem_read(op, s, &shm->mem);
}

static int read_external(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; s->extra && i < s->extra->n_ipc_shms; i++) {
		IpcShmExtra *x = s->extra->ipc_shms[i];
		struct ipc_shm *shm;

		if (!x->has_external_size)
			continue;
		shm = shm_new(op, s, msg_new(op, IpcShmEntry, ipc_shm_entry), x);
		if (!shm || !(shm->msg->desc = msg_new(op, IpcDescEntry, ipc_desc_entry)))
			return CKPT_E_NOMEM;
		shm->msg->desc->id = x->id;
		shm->msg->desc->key = x->external_key;
		shm->msg->size = x->external_size;
	}
	return 0;
}

static int shm_read(struct op *op, struct snapshot *s)
{
	struct img_in *in = NULL;
	ProtobufCMessage *m;
	int r = img_open(op, s->dir, IMG_IPCNS_SHM, s->ipc->ns_id, &in);

	if (r == IMG_ABSENT)
		return read_external(op, s);
	while (!r && (r = img_read(op, in, &m)) == 0)
		r = read_one(op, s, (IpcShmEntry *)m);
	img_in_close(in);
	return r == IMG_END ? read_external(op, s) : r;
}

static int get(const void *arg, int key, int flags)
{
	const struct ipc_shm *shm = arg;
	int id;

	flags |= shm->msg->has_hugetlb_flag ? (int)shm->msg->hugetlb_flag : 0;
	id = shmget(key, shm->msg->size, flags);
	/* What the program may have asked for, too: nobody can tell. */
	return id < 0 && errno == ENOMEM && !(flags & SHM_HUGETLB) ? shmget(key, shm->msg->size, flags | SHM_NORESERVE) : id;
}

static void remove_segment(int id)
{
	shmctl(id, IPC_RMID, NULL);
}

static int attach(struct op *op, struct ipc_shm *shm)
{
	void *at = shmat((int)shm->msg->desc->id, NULL, 0);

	if (at == (void *)-1)
		return ipc_errno(op, shm->msg->desc, "shm", "attach");
	shm->at = at;
	shm->mem.fd = open_attached(at, mapped_size(shm), O_RDWR);
	return shm->mem.fd >= 0 ? 0 : ipc_errno(op, shm->msg->desc, "shm", "open the memory of");
}

static int take_over(struct op *op, struct snapshot *s, struct ipc_shm *shm, const struct shmid_ds *ds)
{
	const IpcDescEntry *d = shm->msg->desc;
	bool same = false;
	int r;

	if (!ipc_same(d, &ds->shm_perm) || ds->shm_segsz != shm->msg->size || ds->shm_perm.mode & SHM_DEST)
		return ipc_in_the_way(op, d, "shm", "another one has its id");
	if (ds->shm_nattch)
		return ipc_in_the_way(op, d, "shm", "it is there, and somebody has it attached");
	r = attach(op, shm);
	r = r ?: shmem_compare(op, s, &shm->mem, &same);
	if (!r && !same)
		r = ipc_in_the_way(op, d, "shm", "it is there, and its content is not that of the checkpoint any more");
	return r;
}

static int find_external(struct op *op, const struct ipc_shm *shm)
{
	const IpcDescEntry *d = shm->msg->desc;
	struct shmid_ds ds;

	if (shmctl((int)d->id, IPC_STAT, &ds) < 0)
		return ipc_errno(op, d, "shm", "find the external");
	if ((uint32_t)ds.shm_perm.__key != d->key || ds.shm_segsz != shm->msg->size)
		return op_fail(op, CKPT_E_CHANGED, AT(.kind = "SysV shared memory"),
			       "the external shared memory segment %u is not what it was: key 0x%x and %lu bytes instead of 0x%x and %lu", d->id,
			       (uint32_t)ds.shm_perm.__key, (unsigned long)ds.shm_segsz, d->key, (unsigned long)shm->msg->size);
	return 0;
}

static int finish(struct op *op, const struct ipc_shm *shm)
{
	const IpcDescEntry *d = shm->msg->desc;
	struct shmid_ds ds = { .shm_perm = { .uid = d->uid, .gid = d->gid, .mode = (mode_t)d->mode } };

	if (shmctl((int)d->id, IPC_SET, &ds) < 0)
		return ipc_errno(op, d, "shm", "set the owner of");
	if (shm->extra->has_locked && shm->extra->locked && shmctl((int)d->id, SHM_LOCK, NULL) < 0)
		return ipc_errno(op, d, "shm", "lock");
	/* We have it attached: it lives until we and the tasks have not. */
	if (shm->extra->has_dest && shm->extra->dest && shmctl((int)d->id, IPC_RMID, NULL) < 0)
		return ipc_errno(op, d, "shm", "mark for deletion the");
	return 0;
}

static int make_one(struct op *op, struct snapshot *s, struct ipc_shm *shm)
{
	const IpcDescEntry *d = shm->msg->desc;
	struct shmid_ds ds;
	int r;

	if (!shm->mem.msg)
		return find_external(op, shm);
	if (shmctl((int)d->id, IPC_STAT, &ds) == 0)
		return take_over(op, s, shm, &ds);
	r = ipc_create(op, d, "shm", get, remove_segment, shm);
	if (r)
		return r;
	shm->made = true;
	r = attach(op, shm);
	r = r ?: shmem_load(op, s, &shm->mem);
	return r ?: finish(op, shm);
}

static int shm_make(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->ipc->shms.n && !r; i++)
		r = make_one(op, s, s->ipc->shms.v[i]);
	return r;
}

static void shm_unmake(struct op *op, struct snapshot *s)
{
	(void)op;
	for (size_t i = 0; i < s->ipc->shms.n; i++)
		if (s->ipc->shms.v[i]->made)
			remove_segment((int)s->ipc->shms.v[i]->msg->desc->id);
}

const struct ipc_kind ipc_kind_shm = {
	.name = "shm",
	.collect = shm_collect,
	.write = shm_write,
	.read = shm_read,
	.make = shm_make,
	.unmake = shm_unmake,
};
