/* SPDX-License-Identifier: MIT */
/*
 * POSIX message queues: descriptors (mq_open), and the queues behind them, which live in the IPC namespace.
 *
 * In a namespace of the tree's own all queues belong to it. In the dumper's they are like files: of a queue that somebody
 * outside has open, too, only the name is saved, and one that is still there at the restore is used.
 *
 * The format has no descriptors of this kind: they are written as regular files, which /dev/mqueue/NAME are, so that other
 * readers use a queue that is there, and say so if it is not. The rest is in our own file.
 */
#include <dirent.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "lib/state/file/core.h"
#include "lib/state/ipc/core.h"
#include "lib/state/ipc/mqueue.h"
#include "lib/state/msg.h"

#define PLACE "/dev/mqueue/"
#define PRIORITY_MAX 32768u
#define QUEUE_BYTES (1ull << 30)

static int refuse(struct op *op, const struct ipc_mqueue *q, const char *hint, const char *why)
{
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = q->seen, .kind = "message queue", .hint = hint), "message queue /%s: %s",
		       q->msg->name, why);
}

static struct ipc_mqueue *queue_new(struct op *op, struct ipc_state *st, MqueueEntry *m)
{
	struct ipc_mqueue *q = op_new(op, struct ipc_mqueue), **slot = q && m ? ARRAY_ADD(op->arena, &st->mqueues) : NULL;

	if (!slot) {
		op_nomem(op);
		return NULL;
	}
	*slot = q;
	q->msg = m;
	q->fd = -1;
	return q;
}

/* ---------------------------------------------------------------------------------------------------- dump */

static struct ipc_mqueue *find_queue(const struct ipc_state *st, const struct stat *s)
{
	for (size_t i = 0; i < st->mqueues.n; i++)
		if (st->mqueues.v[i]->st.st_ino == s->st_ino && st->mqueues.v[i]->st.st_dev == s->st_dev)
			return st->mqueues.v[i];
	return NULL;
}

static int examine(struct op *op, const struct snapshot *s, struct ipc_mqueue *q, const char *name)
{
	MqueueEntry *m = q->msg;
	struct mq_attr attr;
	size_t n = strlen(name), tail = strlen(" (deleted)");

	if (q->fd < 0 || fstat(q->fd, &q->st) < 0 || mq_getattr(q->fd, &attr) < 0)
		return op_errno(op, errno, AT(.kind = "message queue"), "look at message queue %s", name);
	if (!q->st.st_nlink) {
		msg_set(m, unlinked, 1);
		n -= n > tail && !strcmp(name + n - tail, " (deleted)") ? tail : 0;
	}
	m->name = arena_strndup(op->arena, name, n);
	m->maxmsg = (uint64_t)attr.mq_maxmsg;
	m->msgsize = (uint64_t)attr.mq_msgsize;
	m->mode = q->st.st_mode & 07777;
	m->uid = ns_uid_inside(s, q->st.st_uid);
	m->gid = ns_gid_inside(s, q->st.st_gid);
	m->n_queued = (uint64_t)attr.mq_curmsgs;
	return m->name ? 0 : op_nomem(op);
}

static bool mqueue_match(const struct fd_view *v)
{
	return v->fs_magic == FS_MQUEUE && S_ISREG(v->st.st_mode) && !(v->info.flags & O_PATH);
}

static int fill_file(struct op *op, const struct fd_view *v, struct snap_file *f, const struct ipc_mqueue *q)
{
	RegFileEntry *m = msg_new(op, RegFileEntry, reg_file_entry);

	if (!m)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->pos = v->info.pos;
	m->fown = file_fown(op, v);
	m->name = arena_printf(op->arena, PLACE "%s", q->msg->name);
	msg_set(m, size, (uint64_t)v->st.st_size);
	msg_set(m, mode, v->st.st_mode);
	f->msg->reg = m;
	f->msg->type = FD_TYPES__REG;
	return m->fown && m->name ? 0 : op_nomem(op);
}

static int add_user(struct op *op, struct ipc_mqueue *q, const struct snap_file *f, bool by_path)
{
	MqueueEntry *m = q->msg;
	MqueueFile *u = msg_new(op, MqueueFile, mqueue_file), **v = op_alloc(op, (m->n_files + 1) * sizeof(*v));

	if (!u || !v)
		return CKPT_E_NOMEM;
	u->file_id = f->id;
	if (by_path)
		msg_set(u, by_path, 1);
	memcpy(v, m->files, m->n_files * sizeof(*v));
	v[m->n_files++] = u;
	m->files = v;
	return 0;
}

static int mqueue_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	struct ipc_state *st = ipc_state(op, s);
	struct ipc_mqueue *q = st ? find_queue(st, &v->st) : NULL;
	int r = 0;

	if (!st)
		return CKPT_E_NOMEM;
	if (!q) {
		q = queue_new(op, st, msg_new(op, MqueueEntry, mqueue_entry));
		if (!q)
			return CKPT_E_NOMEM;
		q->seen = v->pid;
		q->fd = file_reopen(v->copy, O_RDWR | O_NONBLOCK);
		r = examine(op, s, q, mqueue_base_name(v->link));
	}
	r = r ?: fill_file(op, v, f, q);
	/* mq_open() goes through a mount of the kernel's own, where all names are below the root. */
	return r ?: add_user(op, q, f, strchr(v->link + 1, '/'));
}

static int add_named(struct op *op, struct snapshot *s, int dir, const char *name)
{
	struct ipc_mqueue *q;
	struct stat st;

	if (fstatat(dir, name, &st, 0) < 0)
		return op_errno(op, errno, AT(.kind = "message queue"), "look at message queue /%s", name);
	if (find_queue(s->ipc, &st))
		return 0;
	q = queue_new(op, s->ipc, msg_new(op, MqueueEntry, mqueue_entry));
	if (!q)
		return CKPT_E_NOMEM;
	q->fd = openat(dir, name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return examine(op, s, q, name);
}

static int list_names(struct op *op, struct snapshot *s, int dir)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy >= 0 ? fdopendir(copy) : NULL;
	struct dirent *e;
	int r = 0;

	if (!d) {
		close_fd_p(&copy);
		return op_errno(op, errno, AT(.kind = "message queue"), "list the message queues");
	}
	while (!r && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			r = add_named(op, s, dir, e->d_name);
	closedir(d);
	return r;
}

/* A descriptor can be of another namespace's, through a mount of that. */
static int check_place(struct op *op, const struct snapshot *s, int dir)
{
	struct stat st;

	if (fstat(dir, &st) < 0)
		return op_errno(op, errno, AT(.kind = "message queue"), "look at the message queues");
	for (size_t i = 0; i < s->ipc->mqueues.n; i++)
		if (s->ipc->mqueues.v[i]->st.st_dev != st.st_dev)
			return refuse(op, s->ipc->mqueues.v[i], NULL, "it belongs to another IPC namespace than the tree");
	return 0;
}

/* All that have a name, where all are the tree's: through a mount of the namespace that nobody else sees. */
static int collect_named(struct op *op, struct snapshot *s)
{
	int r;

	_cleanup_close_ int fs = fsopen("mqueue", FSOPEN_CLOEXEC), dir = -1;

	if (fs < 0 && (errno == ENODEV || errno == ENOSYS)) {
		if (errno == ENODEV) /* a kernel without message queues */
			return 0;
		return op_errno(op, errno, AT(.kind = "message queue"), "look for message queues");
	}
	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 || (dir = fsmount(fs, FSMOUNT_CLOEXEC, 0)) < 0)
		return op_errno(op, errno, AT(.kind = "message queue"), "mount the message queues of the IPC namespace");
	r = check_place(op, s, dir);
	return r || !s->ipc->own ? r : list_names(op, s, dir);
}

/* "QSIZE:129 NOTIFY:2 SIGNO:0 NOTIFY_PID:8260": who is to be notified, 0: nobody */
static pid_t notified(const struct ipc_mqueue *q)
{
	char text[160], *at;
	ssize_t n = pread(q->fd, text, sizeof(text) - 1, 0);

	text[MAX(n, 0)] = '\0';
	at = strstr(text, "NOTIFY_PID:");
	return at ? (pid_t)strtol(at + strlen("NOTIFY_PID:"), NULL, 10) : 0;
}

static int collect_one(struct op *op, struct snapshot *s, struct ipc_mqueue *q)
{
	pid_t who = notified(q), outside = q->outside;

	if (who && (s->ipc->own || ipc_of_tree(s, who)))
		return refuse(op, q, "the program must not wait for a notification (mq_notify) during the checkpoint",
			      "a task is registered for a notification, of which nobody can read all there is");
	if (outside && q->msg->has_unlinked)
		return refuse(op, q, "checkpoint a tree that both are in",
			      arena_printf(op->arena, "it has no name any more, and process %d, which is outside the tree, has it open, too", outside));
	if (outside) {
		msg_set(q->msg, shared, 1);
		return 0;
	}
	if (who && q->msg->n_queued)
		return refuse(op, q, NULL, arena_printf(op->arena, "process %d would be notified if its messages were looked at", who));
	if (q->msg->n_queued * q->msg->msgsize > QUEUE_BYTES)
		return refuse(op, q, NULL, "its messages may be more than a gigabyte");
	return q->msg->n_queued ? mqueue_take(op, q) : 0;
}

static int mqueue_collect(struct op *op, struct snapshot *s)
{
	int r = s->ipc->own || s->ipc->mqueues.n ? collect_named(op, s) : 0;

	if (!r && !s->ipc->own && s->ipc->mqueues.n)
		r = mqueue_find_outside(op, s);
	for (size_t i = 0; i < s->ipc->mqueues.n && !r; i++)
		r = collect_one(op, s, s->ipc->mqueues.v[i]);
	return r;
}

static int mqueue_write(struct op *op, struct snapshot *s)
{
	s->extra->mqueues = op_alloc(op, (s->ipc->mqueues.n + 1) * sizeof(*s->extra->mqueues));
	if (!s->extra->mqueues)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < s->ipc->mqueues.n; i++)
		s->extra->mqueues[s->extra->n_mqueues++] = s->ipc->mqueues.v[i]->msg;
	return 0;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int bad(struct op *op, const MqueueEntry *m, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "message queue"), "ckpt-extra: message queue /%s: %s", m->name, what);
}

static int check_entry(struct op *op, const MqueueEntry *m)
{
	if (!m->name[0] || strchr(m->name, '/') || strlen(m->name) > 255 || !strcmp(m->name, ".") || !strcmp(m->name, ".."))
		return bad(op, m, "its name makes no sense");
	if (!m->maxmsg || m->maxmsg > INT32_MAX || !m->msgsize || m->msgsize > INT32_MAX || m->n_messages > m->maxmsg ||
	    m->mode & ~07777u)
		return bad(op, m, "its attributes make no sense");
	for (size_t i = 0; i < m->n_messages; i++)
		if (m->messages[i]->bytes.len > m->msgsize || m->messages[i]->priority >= PRIORITY_MAX)
			return bad(op, m, "one of its messages makes no sense");
	return 0;
}

/* The descriptors of regular files that are none. */
static int take_files(struct op *op, struct snapshot *s, struct ipc_mqueue *q)
{
	for (size_t i = 0; i < q->msg->n_files; i++) {
		struct snap_file *f = snapshot_file(s, q->msg->files[i]->file_id);

		if (!f || f->msg->type != FD_TYPES__REG || f->kind == &file_mqueue)
			return bad(op, q->msg, "a descriptor of it is none");
		f->kind = &file_mqueue;
		f->priv = q;
	}
	return 0;
}

static int mqueue_read(struct op *op, struct snapshot *s)
{
	struct ipc_state *st = ipc_state(op, s);
	int r = st ? 0 : CKPT_E_NOMEM;

	for (size_t i = 0; s->extra && i < s->extra->n_mqueues && !r; i++) {
		struct ipc_mqueue *q = queue_new(op, st, s->extra->mqueues[i]);

		r = q ? check_entry(op, q->msg) : CKPT_E_NOMEM;
		r = r ?: take_files(op, s, q);
	}
	return r;
}

static int in_the_way(struct op *op, const struct ipc_mqueue *q, const char *why)
{
	const char *hint = arena_printf(op->arena, "remove it (rm " PLACE "%s) if nobody needs it, or restore in an IPC namespace of its own: "
						"unshare --ipc ckpt restore ...", q->msg->name);

	return op_fail(op, CKPT_E_EXISTS, AT(.kind = "message queue", .hint = hint), "message queue /%s: %s", q->msg->name, why);
}

/* One that is there is used, if it can be the one. */
static int take_over(struct op *op, struct ipc_mqueue *q, const char *name)
{
	const MqueueEntry *m = q->msg;
	struct mq_attr attr;

	q->fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (q->fd < 0 || mq_getattr(q->fd, &attr) < 0)
		return mqueue_errno(op, q, "open");
	if ((uint64_t)attr.mq_maxmsg != m->maxmsg || (uint64_t)attr.mq_msgsize != m->msgsize)
		return in_the_way(op, q, "another one has its name");
	if (!m->has_shared && (uint64_t)attr.mq_curmsgs != m->n_messages)
		return in_the_way(op, q, "it is there, and has not as many messages as in the checkpoint any more");
	return 0;
}

/* Those of one user are counted in bytes. */
static mqd_t create(const char *name, const struct mq_attr *attr)
{
	struct rlimit old, most = { RLIM_INFINITY, RLIM_INFINITY };
	mqd_t fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_CREAT | O_EXCL, 0600, attr);

	if (fd >= 0 || errno != EMFILE || getrlimit(RLIMIT_MSGQUEUE, &old) < 0 || setrlimit(RLIMIT_MSGQUEUE, &most) < 0)
		return fd;
	fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_CREAT | O_EXCL, 0600, attr);
	setrlimit(RLIMIT_MSGQUEUE, &old);
	return fd;
}

/* By the path that the program used, where that leads to it. */
static int open_by_path(const struct snapshot *s, const struct ipc_mqueue *q, int flags)
{
	char path[300];
	struct stat ours, st;
	int fd;

	snprintf(path, sizeof(path), PLACE "%s", q->msg->name);
	fd = view_open(mounts_view(s, -1), path, flags | O_CLOEXEC, 0);
	if (fd >= 0 && (fstat(fd, &st) < 0 || fstat(q->fd, &ours) < 0 || st.st_ino != ours.st_ino || st.st_dev != ours.st_dev)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* While it has its name. */
static int open_files(struct op *op, struct snapshot *s, struct ipc_mqueue *q, const char *name)
{
	q->files = op_alloc(op, (q->msg->n_files + 1) * sizeof(*q->files));
	if (!q->files)
		return CKPT_E_NOMEM;
	for (size_t i = 0; i < q->msg->n_files; i++)
		q->files[i] = -1;
	for (size_t i = 0; i < q->msg->n_files; i++) {
		const MqueueFile *u = q->msg->files[i];
		const RegFileEntry *m = snapshot_file(s, u->file_id)->msg->reg;
		int flags = (int)(m->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND | O_NOATIME)) | O_CLOEXEC;

		if (u->has_by_path && u->by_path)
			q->files[i] = file_high(open_by_path(s, q, flags));
		if (q->files[i] < 0)
			q->files[i] = file_high(mq_open(name, flags));
		if (q->files[i] < 0)
			return mqueue_errno(op, q, "open");
	}
	return 0;
}

static int fill_queue(struct op *op, const struct snapshot *s, struct ipc_mqueue *q)
{
	const MqueueEntry *m = q->msg;

	if (fchown(q->fd, ns_uid_outside(s, m->uid), ns_gid_outside(s, m->gid)) < 0 || fchmod(q->fd, m->mode) < 0)
		return mqueue_errno(op, q, "set the owner of");
	for (size_t i = 0; i < m->n_messages; i++)
		if (mq_send(q->fd, (const char *)m->messages[i]->bytes.data ?: "", m->messages[i]->bytes.len, m->messages[i]->priority) < 0)
			return mqueue_errno(op, q, "send a message to");
	return 0;
}

static int unlink_queue(struct op *op, struct ipc_mqueue *q, const char *name)
{
	return !q->msg->has_unlinked || !q->msg->unlinked || mq_unlink(name) == 0 ? 0 : mqueue_errno(op, q, "unlink");
}

static int make_one(struct op *op, struct snapshot *s, struct ipc_mqueue *q)
{
	const MqueueEntry *m = q->msg;
	struct mq_attr attr = { .mq_maxmsg = (long)m->maxmsg, .mq_msgsize = (long)m->msgsize };
	char *name = arena_printf(op->arena, "/%s", m->name);
	bool unlinked = m->has_unlinked && m->unlinked;
	int r;

	if (!name)
		return op_nomem(op);
	q->fd = m->has_shared && m->shared ? -1 : create(name, &attr);
	if (q->fd < 0 && errno == EEXIST && unlinked) { /* another one has the name now; it is but for show */
		name = arena_printf(op->arena, "/%.200s.ckpt-%d", m->name, getpid());
		q->fd = name ? create(name, &attr) : -1;
	} else if (q->fd < 0 && (errno == EEXIST || m->has_shared)) {
		return take_over(op, q, name) ?: open_files(op, s, q, name);
	}
	if (q->fd < 0)
		return mqueue_errno(op, q, "make");
	q->made = true;
	r = fill_queue(op, s, q);
	r = r ?: open_files(op, s, q, name);
	return r ?: unlink_queue(op, q, name);
}

static int mqueue_make(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; i < s->ipc->mqueues.n && !r; i++)
		r = make_one(op, s, s->ipc->mqueues.v[i]);
	return r;
}

static void mqueue_unmake(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->ipc->mqueues.n; i++) {
		struct ipc_mqueue *q = s->ipc->mqueues.v[i];
		char *name = arena_printf(op->arena, "/%s", q->msg->name);
		struct stat st;

		/* Only if that name is its own. */
		if (q->made && name && fstat(q->fd, &st) == 0 && st.st_nlink)
			mq_unlink(name);
	}
}

static int mqueue_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	const struct ipc_mqueue *q = f->priv;
	const RegFileEntry *m = f->msg->reg;

	(void)s;
	for (size_t i = 0; i < q->msg->n_files; i++)
		if (q->msg->files[i]->file_id == f->id)
			f->fd = TAKE_FD(q->files[i]);
	if (f->fd >= 0 && m->pos && m->pos <= INT64_MAX && lseek(f->fd, (off_t)m->pos, SEEK_SET) < 0)
		return mqueue_errno(op, q, "seek in");
	return 0;
}

void ipc_mqueues_close(struct ipc_state *st)
{
	for (size_t i = 0; i < st->mqueues.n; i++) {
		struct ipc_mqueue *q = st->mqueues.v[i];

		close_fd_p(&q->fd);
		q->fd = -1;
		for (size_t j = 0; q->files && j < q->msg->n_files; j++)
			close_fd_p(&q->files[j]);
		q->files = NULL;
	}
}

bool ipc_mqueues_made(const struct ipc_state *st)
{
	bool made = false;

	for (size_t i = 0; i < st->mqueues.n; i++)
		made |= st->mqueues.v[i]->made;
	return made;
}

static int nothing_to_read(struct op *op, struct snapshot *s)
{
	(void)op;
	(void)s;
	return 0; /* with the descriptors, before */
}

const struct ipc_kind ipc_kind_mqueue = {
	.name = "mqueue",
	.collect = mqueue_collect,
	.write = mqueue_write,
	.read = nothing_to_read,
	.make = mqueue_make,
	.unmake = mqueue_unmake,
};

const struct file_kind file_mqueue = {
	.name = "mqueue",
	.type = FD_TYPES__UND, /* none in the format */
	.message = offsetof(FileEntry, reg),
	.match = mqueue_match,
	.dump = mqueue_dump,
	.read = mqueue_read,
	.open = mqueue_open,
};
