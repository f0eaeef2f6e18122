/* SPDX-License-Identifier: MIT */
/* Services of the core to the kinds: state, errors, small descriptor work. The walks are in dump.c and restore.c. */
#include "lib/state/file/core.h"

#include "lib/kernel/sys.h"
#include "lib/state/pids.h"

int file_tmpfs_dev(struct op *op, dev_t *dev)
{
	_cleanup_close_ int fd = sys_memfd_create("ckpt", MFD_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return op_errno(op, errno, NULL, "cannot create a memfd");
	*dev = st.st_dev;
	return 0;
}

struct file_state *files_state(struct op *op, struct snapshot *s)
{
	struct file_state *fs = s->file_state;

	if (fs)
		return fs;
	fs = op_new(op, struct file_state);
	if (!fs || file_tmpfs_dev(op, &fs->shm_dev))
		return NULL;
	s->file_state = fs;
	return fs;
}

const struct file_kind *file_kind_of(const struct fd_view *v)
{
	for (const struct file_kind *const *k = file_kinds; *k; k++)
		if ((*k)->match && (*k)->match(v))
			return *k;
	return NULL;
}

const struct file_kind *file_kind_of_type(FdTypes type)
{
	for (const struct file_kind *const *k = file_kinds; *k; k++)
		if ((*k)->type == type && (*k)->open)
			return *k;
	return NULL;
}

struct snap_file *file_new(struct op *op, struct snapshot *s, const struct file_kind *kind)
{
	struct snap_file *f = op_new(op, struct snap_file), **slot;

	if (!f)
		return NULL;
	f->msg = op_new(op, FileEntry);
	slot = f->msg ? ARRAY_ADD(op->arena, &s->files) : NULL;
	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	file_entry__init(f->msg);
	if (!s->next_file_id)
		s->next_file_id = 1;
	f->id = s->next_file_id++;
	f->kind = kind;
	f->fd = -1;
	f->msg->id = f->id;
	f->msg->type = kind->type;
	*slot = f;
	return f;
}

/* The descriptor of a task through which @v was found: sockets may be in flight in sockets. */
static const struct fd_view *owner_of(const struct fd_view *v)
{
	while (v->carrier)
		v = v->carrier;
	return v;
}

/* "fd 7", "cwd", "mapping 0x7f..." */
static const char *view_name(struct op *op, const struct fd_view *v)
{
	const char *name = v->what;

	if (v->carrier)
		name = arena_printf(op->arena, "in the queue of fd %d", owner_of(v)->fd);
	else if (v->fd >= 0)
		name = arena_printf(op->arena, "fd %d", v->fd);
	else if (v->addr)
		name = arena_printf(op->arena, "mapping 0x%lx", (unsigned long)v->addr);
	return name ? name : v->what;
}

int file_refuse(struct op *op, const struct fd_view *v, const char *kind, const char *hint, const char *fmt, ...)
{
	const struct fd_view *at = owner_of(v);
	const char *text;
	va_list ap;

	va_start(ap, fmt);
	text = arena_vprintf(op->arena, fmt, ap);
	va_end(ap);
	return op_fail(op, CKPT_E_UNSUPPORTED,
		       AT(.pid = at->pid, AT_FD(at->fd), .addr = v->addr, .kind = kind, .hint = hint),
		       "task %d: %s: %s: %s", at->pid, view_name(op, v), kind, text ? text : "not supported");
}

int file_errno(struct op *op, const struct fd_view *v, const char *what)
{
	const struct fd_view *at = owner_of(v);

	return op_errno(op, errno, AT(.pid = at->pid, AT_FD(at->fd), .addr = v->addr), "task %d: %s (%s): cannot %s",
			at->pid, view_name(op, v), v->link, what);
}

static void fown_read(const struct pids *pids, int fd, FownEntry *fown)
{
	struct f_owner_ex owner = { 0 };
	uint32_t uids[2] = { 0 };
	int sig = fcntl(fd, F_GETSIG);

	if (sig > 0)
		fown->signum = (uint32_t)sig;
	if (fcntl(fd, F_GETOWN_EX, &owner) < 0 || owner.pid <= 0)
		return;
	fown->pid = (uint32_t)pids_inside(pids, owner.pid);
	fown->pid_type = (uint32_t)owner.type;
#ifndef F_GETOWNER_UIDS
#define F_GETOWNER_UIDS 17
#endif
	if (fcntl(fd, F_GETOWNER_UIDS, uids) == 0) {
		fown->uid = uids[0];
		fown->euid = uids[1];
	}
}

FownEntry *file_fown(struct op *op, const struct fd_view *v)
{
	FownEntry *fown = op_new(op, FownEntry);

	if (!fown)
		return NULL;
	fown_entry__init(fown);
	if (v->fd >= 0 && !(v->info.flags & O_PATH))
		fown_read(v->pids, v->copy, fown);
	return fown;
}

const ProtobufCMessage *file_message(const FileEntry *m, const struct file_kind *kind)
{
	return kind && kind->message ? *(ProtobufCMessage *const *)((const char *)m + kind->message) : NULL;
}

/* The field @name of a message, or NULL if there is none. */
static const void *message_field(const ProtobufCMessage *m, const char *name)
{
	const ProtobufCFieldDescriptor *d = m ? protobuf_c_message_descriptor_get_field_by_name(m->descriptor, name) : NULL;

	return d ? (const char *)m + d->offset : NULL;
}

const uint32_t *file_message_id(const FileEntry *m, const struct file_kind *kind)
{
	return message_field(file_message(m, kind), "id");
}

const FownEntry *files_fown(const struct snapshot *s, const struct snap_file *f)
{
	const struct snap_file *owner = f;
	FownEntry *const *fown;

	if (f->msg->type == FD_TYPES__FIFO) /* its REG entry has it */
		owner = snapshot_file(s, f->msg->fifo->has_regf_id ? f->msg->fifo->regf_id : f->id);
	fown = owner ? message_field(file_message(owner->msg, owner->kind), "fown") : NULL;
	if (f->msg->type == FD_TYPES__TUNF && f->msg->reg)
		fown = &f->msg->reg->fown;
	return fown && *fown && ((*fown)->pid || (*fown)->signum) ? *fown : NULL;
}

int file_reopen(int fd, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC | O_NOCTTY);
}

int file_high(int fd)
{
	int high;

	if (fd < 0 || fd > 2)
		return fd;
	high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	close_fd_p(&fd);
	return high;
}

int file_set_flags(int fd, uint32_t flags)
{
	const int changeable = O_APPEND | O_NONBLOCK | O_ASYNC | O_DIRECT | O_NOATIME;
	int now = fcntl(fd, F_GETFL);

	if (now < 0)
		return -1;
	if ((now & changeable) == ((int)flags & changeable))
		return 0;
	return fcntl(fd, F_SETFL, (now & ~changeable) | ((int)flags & changeable));
}

int image_bad(struct op *op, const char *fmt, ...)
{
	const char *text;
	va_list ap;

	va_start(ap, fmt);
	text = arena_vprintf(op->arena, fmt, ap);
	va_end(ap);
	return op_fail(op, CKPT_E_IMAGE, NULL, "%s", text ? text : "the images contradict each other");
}

void files_kinds_done(struct op *op, struct snapshot *s, bool success)
{
	for (const struct file_kind *const *k = file_kinds; *k; k++)
		if ((*k)->done)
			(*k)->done(op, s, success);
}

int file_made(struct op *op, struct file_state *fs, const struct made_name *made)
{
	struct made_name *slot = ARRAY_ADD(op->arena, &fs->made);

	if (!slot)
		return op_nomem(op);
	*slot = *made;
	return 0;
}
