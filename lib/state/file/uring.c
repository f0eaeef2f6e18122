/* SPDX-License-Identifier: MIT */
/*
 * io_uring. The format has no place for rings: their descriptors and mappings have the type of a plugin's, which makes other
 * readers refuse the checkpoint, and what they are is in our own file. A ring can be saved when it is at no request.
 * Requests that were not submitted yet, and completions that nobody has seen, are just memory.
 *
 * Restore: the ring is made by the engine (uring_ring.c) and inherited like other descriptors; it is mapped in each task by
 * lib/state/mem/uring_area.c; what is registered is registered by the task, whose memory and descriptors it is about.
 */
#include <sys/syscall.h>

#include "lib/kernel/proc/read.h"
#include "lib/kernel/sys.h"
#include "lib/state/file/uring_kind.h"
#include "lib/state/msg.h"
#include "lib/state/task/plan_build.h"

static bool uring_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[io_uring]") == 0;
}

/* ---------------------------------------------------------------------------------------------------- dump */

static int refuse(struct op *op, const struct fd_view *v, const char *hint, const char *why)
{
	return file_refuse(op, v, "io_uring", hint, "%s", why);
}

/* What can be seen while the task runs, too. */
static int check_info(struct op *op, const struct fd_view *v, const struct proc_uring *info)
{
	if (info->sq_thread >= 0)
		return refuse(op, v, NULL, "a thread of the kernel polls its submission queue (IORING_SETUP_SQPOLL)");
	if (info->napi)
		return refuse(op, v, NULL, "it does busy polling of network devices (NAPI)");
	if (info->personalities)
		return refuse(op, v, NULL, "credentials are registered with it (personalities)");
	if (info->sq_mask >= URING_MAX_ENTRIES || info->cq_mask >= 2 * URING_MAX_ENTRIES)
		return refuse(op, v, NULL, "it is larger than any that can be made");
	return 0;
}

static int check_idle(struct op *op, const struct fd_view *v, const struct proc_uring *info)
{
	const char *hint = "let its requests end, or cancel them, before the checkpoint";
	int32_t flying = (int32_t)(info->cached_sq_head - info->cached_cq_tail);

	if (info->overflows)
		return refuse(op, v, "let the program reap its completions before the checkpoint",
			      "completions have overflowed its queue");
	if (info->polls)
		return file_refuse(op, v, "io_uring", hint, "%u requests in flight wait for files to become ready", info->polls);
	if (flying > 0)
		return file_refuse(op, v, "io_uring", hint,
				   "%d requests are in flight (or were made with IOSQE_CQE_SKIP_SUCCESS, which looks the same)", flying);
	if (flying < 0)
		log_warn(op, "task %d: fd %d: io_uring: it has more completions than requests, so that requests in flight would not be noticed",
			 v->pid, v->fd);
	return 0;
}

static IoUringEntry *new_entry(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	IoUringEntry *e = msg_new(op, IoUringEntry, io_uring_entry);
	ExtFileEntry *m = msg_new(op, ExtFileEntry, ext_file_entry);

	if (!e || !m)
		return NULL;
	m->id = f->id;
	m->fown = file_fown(op, v);
	if (!m->fown)
		return NULL;
	f->msg->ext = m;
	f->priv = e;
	e->id = f->id;
	e->ino = v->st.st_ino;
	s->has_rings = true;
	return e;
}

/* The descriptor of the task under which a registered file is open. The kernel tells only its name. */
static int find_fd(struct op *op, const struct fd_view *v, const struct proc_uring_file *file, uint32_t *fd)
{
	struct proc_numbers fds;
	int r = proc_list_numbers(op, v->pid, "fd", &fds), found = -1;

	for (size_t i = 0; !r && i < fds.v.n; i++) {
		char name[32], *link;

		snprintf(name, sizeof(name), "fd/%d", fds.v.v[i]);
		if (proc_read_link(op, v->pid, name, &link) != 0 || strcmp(link, file->path))
			continue;
		if (found >= 0 && sys_kcmp(v->pid, v->pid, KCMP_FILE, (uint64_t)found, (uint64_t)fds.v.v[i]) != 0)
			return file_refuse(op, v, "io_uring", "unregister its files before the checkpoint",
					   "registered file %u (%s) could be descriptor %d or %d: the kernel does not tell", file->slot,
					   file->path, found, fds.v.v[i]);
		found = fds.v.v[i];
	}
	if (r || found < 0)
		return r < 0 ? r : file_refuse(op, v, "io_uring", "unregister its files before the checkpoint",
					       "registered file %u (%s) is open under no descriptor of the program", file->slot,
					       file->path);
	*fd = (uint32_t)found;
	return 0;
}

static int save_files(struct op *op, const struct fd_view *v, const struct proc_uring *info, IoUringEntry *e)
{
	int r = 0;

	if (!info->n_files)
		return 0;
	msg_set(e, file_slots, info->n_files);
	e->files = op_alloc(op, (info->files.n + 1) * sizeof(*e->files));
	if (!e->files)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < info->files.n && !r; i++) {
		IoUringFile *m = msg_new(op, IoUringFile, io_uring_file);

		if (!m)
			return CKPT_E_NOMEM;
		m->slot = info->files.v[i].slot;
		r = find_fd(op, v, &info->files.v[i], &m->fd);
		e->files[e->n_files++] = m;
	}
	return r;
}

static int save_buffers(struct op *op, const struct fd_view *v, const struct proc_uring *info, IoUringEntry *e)
{
	if (!info->n_bufs)
		return 0;
	msg_set(e, buffer_slots, info->n_bufs);
	e->buffers = op_alloc(op, (info->bufs.n + 1) * sizeof(*e->buffers));
	if (!e->buffers)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < info->bufs.n; i++) {
		IoUringBuffer *m = msg_new(op, IoUringBuffer, io_uring_buffer);

		if (!m)
			return CKPT_E_NOMEM;
		if (!info->bufs.v[i].addr)
			return refuse(op, v, NULL, "memory of the kernel is registered with it");
		m->slot = info->bufs.v[i].slot;
		m->addr = info->bufs.v[i].addr;
		m->len = info->bufs.v[i].len;
		e->buffers[e->n_buffers++] = m;
	}
	return 0;
}

/* Which eventfd is registered the kernel does not tell: it must be the only one that the program has. */
static int save_eventfd(struct op *op, const struct fd_view *v, IoUringEntry *e)
{
	const struct proc_uring_file any = { .path = "anon_inode:[eventfd]" };
	uint32_t fd;
	int r = find_fd(op, v, &any, &fd);

	if (r == CKPT_E_UNSUPPORTED) {
		op_forget(op);
		return refuse(op, v, "unregister it before the checkpoint",
			      "an eventfd is registered with it, and it cannot be told which");
	}
	if (!r)
		msg_set(e, eventfd, fd);
	return r;
}

static int save_memory(struct op *op, const struct proc_uring *info, const struct uring *u, IoUringEntry *e)
{
	e->offsets = op_alloc(op, URING_OFFSETS * sizeof(*e->offsets));
	if (!e->offsets)
		return CKPT_E_NOMEM;
	uring_offsets(&u->p, e->offsets);
	e->n_offsets = URING_OFFSETS;
	msg_set(e, setup, u->p.flags);
	msg_set(e, sq_entries, u->p.sq_entries);
	msg_set(e, cq_entries, u->p.cq_entries);
	msg_set(e, sq_head, info->cached_sq_head);
	msg_set(e, cq_tail, info->cached_cq_tail);
	e->has_rings = e->has_sqes = 1;
	e->rings = (ProtobufCBinaryData){ u->rings_len, arena_memdup(op->arena, u->rings, u->rings_len) };
	e->sqes = (ProtobufCBinaryData){ u->sqes_len, arena_memdup(op->arena, u->sqes, u->sqes_len) };
	return e->rings.data && e->sqes.data ? 0 : op_nomem(op);
}

static int no_state(struct op *op, const struct fd_view *v)
{
	return refuse(op, v, "a newer kernel does", "the kernel does not show its state");
}

static int uring_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	IoUringEntry *e = new_entry(op, s, v, f);
	struct proc_uring info;
	struct uring u = URING_INIT;
	bool has_eventfd;
	int r;

	if (!e)
		return op_nomem(op);
	if (v->fd < 0) {
		msg_set(e, mapping, true);
		return 0;
	}
	msg_set(e, open_flags, v->info.flags);
	if (proc_parse_uring(op->arena, v->info.rest, v->info.rest_len, &info) < 0)
		return no_state(op, v);
	r = check_info(op, v, &info);
	r = r ? r : check_idle(op, v, &info);
	r = r ? r : uring_look(op, v, &info, &u, &has_eventfd);
	r = r ? r : save_memory(op, &info, &u, e);
	uring_unmap(&u);
	r = r ? r : save_files(op, v, &info, e);
	r = r ? r : save_buffers(op, v, &info, e);
	return r || !has_eventfd ? r : save_eventfd(op, v, e);
}

static int uring_check(struct op *op, const struct fd_view *v)
{
	_cleanup_close_ int pidfd = sys_pidfd_open(v->pid, 0), copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, v->fd);
	struct proc_uring info;
	int r;

	if (proc_parse_uring(op->arena, v->info.rest, v->info.rest_len, &info) < 0)
		return no_state(op, v);
	r = check_info(op, v, &info);
	if (r || copy < 0)
		return r;
	/* A question that changes nothing: whether it answers anybody. */
	uring_register(copy, CKPT_IORING_REGISTER_NAPI, (void *)-4096L, 1);
	return errno == EEXIST ? refuse(op, v, NULL, "it is bound to one thread (IORING_SETUP_SINGLE_ISSUER)") : 0;
}

static IoUringEntry *entry_of(const struct snap_file *f)
{
	return f->kind == &file_uring ? f->priv : NULL;
}

/* The ring whose mappings @e stands for. */
static struct snap_file *ring_of(const struct snapshot *s, const IoUringEntry *e)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const IoUringEntry *other = entry_of(s->files.v[i]);

		if (other && other->ino == e->ino && !other->mapping)
			return s->files.v[i];
	}
	return NULL;
}

static int uring_complete(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const IoUringEntry *e = entry_of(s->files.v[i]);

		if (e && e->mapping && !ring_of(s, e))
			return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "io_uring"),
				       "an io_uring is mapped that no task has a descriptor of");
	}
	return 0;
}

static int uring_write(struct op *op, struct snapshot *s)
{
	size_t n = 0;

	for (size_t i = 0; i < s->files.n; i++)
		n += entry_of(s->files.v[i]) != NULL;
	if (!n)
		return 0;
	s->extra->io_urings = op_alloc(op, n * sizeof(*s->extra->io_urings));
	if (!s->extra->io_urings)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->files.n; i++)
		if (entry_of(s->files.v[i]))
			s->extra->io_urings[s->extra->n_io_urings++] = entry_of(s->files.v[i]);
	return 0;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int bad(struct op *op, const IoUringEntry *e, const char *what)
{
	return image_bad(op, "ckpt-extra: io_uring id %u: %s", e->id, what);
}

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static int check_tables(struct op *op, const IoUringEntry *e)
{
	if (e->file_slots > URING_MAX_ENTRIES * 32 || e->buffer_slots > URING_MAX_ENTRIES)
		return bad(op, e, "too much is registered with it");
	for (size_t i = 0; i < e->n_files; i++)
		if (e->files[i]->slot >= e->file_slots || e->files[i]->fd > INT32_MAX)
			return bad(op, e, "a registered file makes no sense");
	for (size_t i = 0; i < e->n_buffers; i++)
		if (e->buffers[i]->slot >= e->buffer_slots)
			return bad(op, e, "a registered buffer makes no sense");
	return 0;
}

static int check_entry(struct op *op, const struct snapshot *s, const IoUringEntry *e)
{
	if (e->mapping)
		return ring_of(s, e) ? 0 : bad(op, e, "its descriptor is missing");
	if (!power_of_two(e->sq_entries) || e->sq_entries > URING_MAX_ENTRIES || !power_of_two(e->cq_entries) ||
	    e->cq_entries > 2 * URING_MAX_ENTRIES || e->n_offsets != URING_OFFSETS ||
	    (e->setup & ~(uint32_t)(URING_LAYOUT | IORING_SETUP_IOPOLL)))
		return bad(op, e, "its sizes or flags make no sense");
	return check_tables(op, e);
}

static int uring_read(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->extra && i < s->extra->n_io_urings; i++) {
		IoUringEntry *e = s->extra->io_urings[i];
		struct snap_file *f = snapshot_file(s, e->id);

		if (!f || f->kind != &file_uring || f->priv)
			return bad(op, e, "files.img has no such entry");
		f->priv = e;
		s->has_rings = true;
	}
	for (size_t i = 0; s->extra && i < s->extra->n_io_urings && !r; i++)
		r = check_entry(op, s, s->extra->io_urings[i]);
	return r;
}

static int not_ours(struct op *op, const struct snap_file *f)
{
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.kind = "plugin"), "files.img: id %u belongs to a plugin that is not there", f->id);
}

static int fail(struct op *op, const char *what)
{
	return op_errno(op, errno, AT(.kind = "io_uring", .hint = errno == EPERM ? "look at the sysctl kernel.io_uring_disabled" : NULL),
			"cannot %s an io_uring", what);
}

static int check_layout(struct op *op, const IoUringEntry *e, const struct uring *u)
{
	uint32_t off[URING_OFFSETS];

	uring_offsets(&u->p, off);
	if (memcmp(off, e->offsets, sizeof(off)))
		return op_fail(op, CKPT_E_KERNEL, AT(.kind = "io_uring"),
			       "this kernel lays the memory of an io_uring out in another way than the one where it was dumped");
	if (e->rings.len != u->rings_len || e->sqes.len != u->sqes_len)
		return bad(op, e, "its memory has the wrong size");
	return 0;
}

static uint32_t saved(const IoUringEntry *e, uint32_t offset)
{
	uint32_t word;

	memcpy(&word, e->rings.data + offset, sizeof(word));
	return word;
}

/* What programs write, and what lies in the queues. The rest the kernel has written already, and it is the same. */
static void put_memory(const IoUringEntry *e, const struct uring *u)
{
	const struct io_uring_params *p = &u->p;
	const uint32_t words[] = { p->sq_off.tail, p->sq_off.dropped, p->cq_off.head, p->cq_off.overflow, p->cq_off.flags };

	memcpy(u->rings + p->cq_off.cqes, e->rings.data + p->cq_off.cqes, u->rings_len - p->cq_off.cqes);
	memcpy(u->sqes, e->sqes.data, u->sqes_len);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		__atomic_store_n(uring_word(u, words[i]), saved(e, words[i]), __ATOMIC_RELEASE);
}

static int make(struct op *op, const IoUringEntry *e, struct uring *u)
{
	uint32_t cq_head;
	int r;

	if (uring_make(u, e->setup, e->sq_entries, e->cq_entries) < 0)
		return fail(op, "make");
	if (uring_map(u) < 0)
		return fail(op, "map");
	r = check_layout(op, e, u);
	if (r)
		return r;
	cq_head = saved(e, u->p.cq_off.head);
	if (e->cq_tail - cq_head > e->cq_entries)
		return bad(op, e, "its completion queue makes no sense");
	r = uring_advance(op, u, e->sq_head, e->cq_tail, cq_head);
	if (!r)
		put_memory(e, u);
	return r;
}

static int uring_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	_cleanup_uring_ struct uring u = URING_INIT;
	const IoUringEntry *e = f->priv;
	int r;

	(void)s;
	if (!e)
		return not_ours(op, f);
	if (e->mapping)
		return bad(op, e, "a descriptor refers to it, but it stands for mappings");
	r = make(op, e, &u);
	if (r)
		return r;
	f->fd = file_high(TAKE_FD(u.fd));
	return f->fd < 0 || file_set_flags(f->fd, e->open_flags) < 0 ? fail(op, "open") : 0;
}

int uring_find_mapped(struct op *op, const struct snapshot *s, uint32_t id, int *fd)
{
	struct snap_file *f = snapshot_file(s, id);
	const IoUringEntry *e = f ? entry_of(f) : NULL;

	if (!e)
		return f && f->kind == &file_uring ? not_ours(op, f) : image_bad(op, "a mapping refers to file id %u, which is no io_uring", id);
	f = e->mapping ? ring_of(s, e) : f;
	if (!f || f->fd < 0)
		return bad(op, e, "no task has a descriptor of it");
	*fd = f->fd;
	return 0;
}

static int plan_register(struct plan_build *b, const FdinfoEntry *fd, unsigned what, const void *p, size_t size, uint32_t n,
			 const char *text)
{
	char *say = arena_printf(b->op->arena, "fd %u: io_uring: register its %s", fd->fd, text);
	struct plan_call c = { .nr = __NR_io_uring_register, .data_args = 1 << 2, .fd = -1, .args = { fd->fd, what, 0, n } };
	int r = say ? plan_put(b, p, size * n, &c.args[2]) : op_nomem(b->op);

	r = r ? r : plan_call(b, PLAN_LINK, &c, say);
	return r < 0 ? r : 0;
}

static int plan_files_of(struct plan_build *b, const FdinfoEntry *fd, const IoUringEntry *e)
{
	int32_t *v = op_alloc(b->op, (e->file_slots + 1) * sizeof(*v));

	if (!v)
		return CKPT_E_NOMEM;
	for (uint32_t i = 0; i < e->file_slots; i++)
		v[i] = -1;
	for (size_t i = 0; i < e->n_files; i++)
		v[e->files[i]->slot] = (int32_t)e->files[i]->fd;
	return plan_register(b, fd, IORING_REGISTER_FILES, v, sizeof(*v), e->file_slots, "files");
}

static int plan_buffers_of(struct plan_build *b, const FdinfoEntry *fd, const IoUringEntry *e)
{
	struct {
		uint64_t addr, len;
	} *v = op_alloc(b->op, (e->buffer_slots + 1) * sizeof(*v));

	if (!v)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < e->n_buffers; i++) {
		v[e->buffers[i]->slot].addr = e->buffers[i]->addr;
		v[e->buffers[i]->slot].len = e->buffers[i]->len;
	}
	return plan_register(b, fd, IORING_REGISTER_BUFFERS, v, sizeof(*v), e->buffer_slots, "buffers");
}

static int uring_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *fd, bool first)
{
	const IoUringEntry *e = f->priv;
	int32_t efd = (int32_t)e->eventfd;
	int r = 0;

	if (!first)
		return 0;
	if (e->file_slots)
		r = plan_files_of(b, fd, e);
	if (!r && e->buffer_slots)
		r = plan_buffers_of(b, fd, e);
	if (!r && e->has_eventfd)
		r = plan_register(b, fd, IORING_REGISTER_EVENTFD, &efd, sizeof(efd), 1, "eventfd");
	return r;
}

const struct file_kind file_uring = {
	.name = "io_uring",
	.type = FD_TYPES__EXT,
	.message = offsetof(FileEntry, ext),
	.match = uring_match,
	.check = uring_check,
	.dump = uring_dump,
	.complete = uring_complete,
	.write = uring_write,
	.read = uring_read,
	.open = uring_open,
	.plan = uring_plan,
};
