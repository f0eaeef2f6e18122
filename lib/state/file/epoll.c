/* SPDX-License-Identifier: MIT */
/*
 * epoll instances. An entry is keyed by an open file description and the number it had when it was added; under that number
 * there may meanwhile be another file, or none. kcmp(2) tells which description it is, through any descriptor of it. The
 * image holds a number under which a task that has the instance finds the target now; our own file has the rest: which
 * file it is, the number it was added under, and whether its edge was seen already.
 *
 * Entries are made again by the tasks (epoll_plan.c).
 */
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "lib/kernel/sys.h"
#include "lib/state/file/epoll.h"
#include "lib/state/msg.h"

/* Dump: what has to wait until all tasks were looked at. */
struct epoll_dump {
	struct fd_view view; /* without the copy */
	EpollExtra *extra;
	uint32_t *same_before; /* for each entry: how many before it have its number */
	struct epoll_holders holders;
};

static bool epoll_match(const struct fd_view *v)
{
	return strcmp(v->link, "anon_inode:[eventpoll]") == 0;
}

/* ----------------------------------------------------------------------------------------------- dump half */

static bool poll_now(int fd, short events)
{
	struct pollfd p = { fd, events, 0 };

	return poll(&p, 1, 0) == 1;
}

/* How long epoll_wait() busy-polls network devices; kernels before 6.9 have no such thing. */
static void dump_params(const struct fd_view *v, EpollExtra *x)
{
	struct epoll_params p = { 0 };

	if (ioctl(v->copy, EPIOCGPARAMS, &p) < 0 || (!p.busy_poll_usecs && !p.busy_poll_budget && !p.prefer_busy_poll))
		return;
	msg_set(x, busy_poll_usecs, p.busy_poll_usecs);
	msg_set(x, busy_poll_budget, p.busy_poll_budget);
	msg_set(x, prefer_busy_poll, p.prefer_busy_poll);
}

static int dump_entry(struct op *op, const struct proc_epoll_entry *e, EventpollTfdEntry **m, EpollEntryExtra **x)
{
	*m = msg_new(op, EventpollTfdEntry, eventpoll_tfd_entry);
	*x = msg_new(op, EpollEntryExtra, epoll_entry_extra);
	if (!*m || !*x)
		return CKPT_E_NOMEM;
	(*m)->tfd = e->tfd;
	(*m)->events = e->events;
	(*m)->data = e->data;
	if (!e->has_inode)
		return 0;
	msg_set(*m, dev, e->dev);
	msg_set(*m, inode, e->ino);
	msg_set(*m, pos, e->pos);
	return 0;
}

static int dump_entries(struct op *op, const struct fd_view *v, EventpollFileEntry *m, EpollExtra *x)
{
	struct proc_epoll list;
	int r = 0;

	if (proc_parse_epoll(op->arena, v->info.rest, v->info.rest_len, &list) != 0)
		return file_refuse(op, v, "epoll", NULL, "the kernel shows its entries in a way that is not known");
	m->tfd = op_alloc(op, (list.v.n + 1) * sizeof(*m->tfd));
	x->entries = op_alloc(op, (list.v.n + 1) * sizeof(*x->entries));
	if (!m->tfd || !x->entries)
		return CKPT_E_NOMEM;
	m->n_tfd = x->n_entries = list.v.n;
	for (size_t i = 0; !r && i < list.v.n; i++)
		r = dump_entry(op, &list.v.v[i], &m->tfd[i], &x->entries[i]);
	return r;
}

/* Entries with one number are told apart by their order, which in fdinfo is the kernel's. */
static int count_same(struct op *op, const EventpollFileEntry *m, struct epoll_dump *d)
{
	struct file_index seen = { 0 };
	int r = 0;

	d->same_before = op_alloc(op, (m->n_tfd + 1) * sizeof(*d->same_before));
	if (!d->same_before)
		return CKPT_E_NOMEM;
	for (size_t i = 0; !r && i < m->n_tfd; i++) {
		uint32_t *n = index_find(&seen, KEY(m->tfd[i]->tfd));

		if (!n) {
			n = op_new(op, uint32_t);
			r = n ? index_add(op, &seen, KEY(m->tfd[i]->tfd), n) : CKPT_E_NOMEM;
		}
		if (!r)
			d->same_before[i] = (*n)++;
	}
	return r;
}

static int epoll_dump(struct op *op, struct snapshot *s, const struct fd_view *v, struct snap_file *f)
{
	EventpollFileEntry *m = msg_new(op, EventpollFileEntry, eventpoll_file_entry);
	struct epoll_dump *d = op_new(op, struct epoll_dump);
	int r;

	(void)s;
	if (!m || !d)
		return CKPT_E_NOMEM;
	m->id = f->id;
	m->flags = v->info.flags;
	m->fown = file_fown(op, v);
	f->msg->epfd = m;
	d->view = *v;
	d->view.copy = -1;
	d->view.info.rest = NULL;
	d->extra = msg_new(op, EpollExtra, epoll_extra);
	if (!m->fown || !d->extra)
		return CKPT_E_NOMEM;
	d->extra->file_id = f->id;
	dump_params(v, d->extra);
	f->priv = d;
	r = dump_entries(op, v, m, d->extra);
	return r ? r : count_same(op, m, d);
}

const FdinfoEntry *epoll_find_number(const struct snap_task *t, uint32_t fd)
{
	size_t lo = 0, hi = t->fds.n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->fds.v[mid]->fd == fd)
			return t->fds.v[mid];
		if (t->fds.v[mid]->fd < fd)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

int64_t epoll_find_file(const struct snap_task *t, uint32_t id)
{
	for (size_t i = 0; i < t->fds.n; i++)
		if (t->fds.v[i]->id == id)
			return t->fds.v[i]->fd;
	return -1;
}

int epoll_find_holders(struct op *op, const struct snapshot *s, const struct snap_file *f, struct epoll_holders *out)
{
	for (size_t i = 0; i < s->tasks.n; i++) {
		const struct snap_task **slot;

		if (epoll_find_file(&s->tasks.v[i], f->id) < 0)
			continue;
		slot = ARRAY_ADD(op->arena, &out->v);
		if (!slot)
			return op_nomem(op);
		*slot = &s->tasks.v[i];
	}
	return 0;
}

static int refuse_target(struct op *op, const struct epoll_dump *d, const EventpollTfdEntry *m, const char *why, const char *hint)
{
	return file_refuse(op, &d->view, "epoll", hint, "what it watches under number %u %s", m->tfd, why);
}

/* A task that has both is needed to add the entry. One that has the target under the very number is the best. */
static bool find_adder(const struct epoll_holders *holders, const struct snap_file *target, uint32_t tfd, uint32_t *number)
{
	bool found = false;

	for (size_t i = 0; i < holders->v.n; i++) {
		const struct snap_task *t = holders->v.v[i];
		const FdinfoEntry *e = epoll_find_number(t, tfd);
		int64_t other;

		if (e && e->id == target->id) {
			*number = tfd;
			return true;
		}
		other = found ? -1 : epoll_find_file(t, target->id);
		if (other < 0)
			continue;
		*number = (uint32_t)other;
		found = true;
	}
	return found;
}

/*
 * Usually it is still there under its number. To be asked first: for each question the kernel looks through all entries of
 * the instance.
 */
static struct snap_file *still_there(const struct snapshot *s, const struct epoll_dump *d, const struct kcmp_epoll_slot *slot)
{
	for (size_t i = 0; i < d->holders.v.n; i++) {
		const struct snap_task *t = d->holders.v.v[i];
		const FdinfoEntry *e = epoll_find_number(t, slot->tfd);

		if (e && sys_kcmp(t->host, d->view.pid, KCMP_EPOLL_TFD, slot->tfd, (uintptr_t)slot) == 0)
			return snapshot_file(s, e->id);
	}
	return NULL;
}

static int find_target(struct op *op, struct snapshot *s, struct snap_file *f, size_t i)
{
	struct epoll_dump *d = f->priv;
	EventpollTfdEntry *m = f->msg->epfd->tfd[i];
	EpollEntryExtra *x = d->extra->entries[i];
	struct kcmp_epoll_slot slot = {
		.efd = (uint32_t)d->view.fd, .tfd = m->tfd, .toff = d->same_before[i],
	};
	dev_t dev = makedev(m->dev >> 20, m->dev & 0xfffff);
	struct snap_file *target = still_there(s, d, &slot);
	uint32_t number = m->tfd;

	if (!target)
		target = file_find_watched(s->file_state, m->has_inode ? dev : 0, m->inode, d->view.pid, &slot);
	if (!target)
		return refuse_target(op, d, m, "is open in no process of the tree",
				     "a process outside has it, or only a mapping or the queue of a socket; the program can take it out with EPOLL_CTL_DEL");
	if (!find_adder(&d->holders, target, m->tfd, &number))
		return refuse_target(op, d, m, "is open only in processes that do not have the epoll descriptor", NULL);
	x->target = target->id;
	if (number != m->tfd) {
		msg_set(x, tfd, m->tfd);
		m->tfd = number;
	}
	return 0;
}

/*
 * A signalfd tells about the signals of whoever asks. Asked by us, also through an instance that watches it, it says that
 * there is nothing, and the instance would believe that and not tell the program.
 */
static bool tells_signals(const struct snapshot *s, const struct snap_file *f, unsigned depth)
{
	const struct epoll_dump *d = f->priv;

	if (f->kind != &file_epoll)
		return f->kind == &file_signalfd;
	for (size_t i = 0; i < d->extra->n_entries; i++) {
		const struct snap_file *target = snapshot_file(s, d->extra->entries[i]->target);

		/* The kernel nests no deeper. */
		if (!target || depth > 5 || tells_signals(s, target, depth + 1))
			return true;
	}
	return false;
}

/* Asks a description through any descriptor of it. */
static bool ask(const struct snapshot *s, const struct snap_file *f, short events)
{
	for (size_t t = 0; t < s->tasks.n; t++) {
		int64_t fd = epoll_find_file(&s->tasks.v[t], f->id);
		_cleanup_close_ int pidfd = fd < 0 ? -1 : sys_pidfd_open(s->tasks.v[t].host, 0);
		_cleanup_close_ int copy = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, (int)fd);

		if (copy >= 0)
			return poll_now(copy, events);
	}
	return false;
}

static bool has_edges(const EventpollFileEntry *m)
{
	for (size_t i = 0; i < m->n_tfd; i++)
		if (m->tfd[i]->events & EPOLLET)
			return true;
	return false;
}

/* Is there what an edge-triggered entry waits for? If so, and the instance has nothing to tell, that was told before. */
static void find_edge(struct snapshot *s, const struct snap_file *f, size_t i)
{
	const EventpollTfdEntry *m = f->msg->epfd->tfd[i];
	EpollEntryExtra *x = ((struct epoll_dump *)f->priv)->extra->entries[i];
	const struct snap_file *target = snapshot_file(s, x->target);

	if (m->events & EPOLLET && m->events & ~(uint32_t)EPOLL_NOT_EVENTS && ask(s, target, (short)(m->events & 0x3fff)))
		msg_set(x, spent, 1);
}

static int complete_one(struct op *op, struct snapshot *s, struct snap_file *f)
{
	struct epoll_dump *d = f->priv;
	int r = epoll_find_holders(op, s, f, &d->holders);

	for (size_t i = 0; !r && i < f->msg->epfd->n_tfd; i++)
		r = find_target(op, s, f, i);
	return r;
}

static void find_edges(struct snapshot *s, const struct snap_file *f)
{
	if (!has_edges(f->msg->epfd) || tells_signals(s, f, 0) || ask(s, f, POLLIN))
		return;
	for (size_t i = 0; i < f->msg->epfd->n_tfd; i++)
		find_edge(s, f, i);
}

static int epoll_complete(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->files.n; i++) {
		struct snap_file *f = s->files.v[i];
		if (f->kind == &file_epoll)
			r = complete_one(op, s, f) ?: op_check_cancel(op);
	}
	for (size_t i = 0; !r && i < s->files.n; i++)
		if (s->files.v[i]->kind == &file_epoll)
			find_edges(s, s->files.v[i]);
	return r;
}

static int epoll_write(struct op *op, struct snapshot *s)
{
	for (size_t i = 0; i < s->files.n; i++) {
		const struct snap_file *f = s->files.v[i];
		const struct epoll_dump *d = f->priv;

		if (f->kind != &file_epoll || (!d->extra->n_entries && !d->extra->has_busy_poll_usecs))
			continue;
		if (!s->extra->epolls)
			s->extra->epolls = op_alloc(op, s->files.n * sizeof(*s->extra->epolls));
		if (!s->extra->epolls)
			return CKPT_E_NOMEM;
		s->extra->epolls[s->extra->n_epolls++] = d->extra;
	}
	return 0;
}

/* -------------------------------------------------------------------------------------------- restore half */

static int read_one(struct op *op, struct snapshot *s, EpollExtra *x)
{
	struct snap_file *f = snapshot_file(s, x->file_id);

	if (!f || f->kind != &file_epoll)
		return image_bad(op, "ckpt-extra: file id %u is no epoll descriptor", x->file_id);
	if (x->n_entries != f->msg->epfd->n_tfd)
		return image_bad(op, "ckpt-extra: epoll id %u has %zu entries, in files.img it has %zu", x->file_id,
				 x->n_entries, f->msg->epfd->n_tfd);
	for (size_t i = 0; i < x->n_entries; i++)
		if (!snapshot_file(s, x->entries[i]->target))
			return image_bad(op, "ckpt-extra: epoll id %u watches file id %u, which is not in files.img", x->file_id,
					 x->entries[i]->target);
	f->priv = x;
	return 0;
}

static int epoll_read(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; s->extra && !r && i < s->extra->n_epolls; i++)
		r = read_one(op, s, s->extra->epolls[i]);
	return r;
}

static int set_params(const struct snap_file *f)
{
	const EpollExtra *x = f->priv;
	struct epoll_params p = { 0 };

	if (!x || !x->has_busy_poll_usecs)
		return 0;
	p.busy_poll_usecs = x->busy_poll_usecs;
	p.busy_poll_budget = (uint16_t)x->busy_poll_budget;
	p.prefer_busy_poll = x->prefer_busy_poll;
	return ioctl(f->fd, EPIOCSPARAMS, &p);
}

static int epoll_open(struct op *op, struct snapshot *s, struct snap_file *f)
{
	(void)s;
	f->fd = file_high(epoll_create1(EPOLL_CLOEXEC));
	if (f->fd < 0 || file_set_flags(f->fd, f->msg->epfd->flags) < 0 || set_params(f) < 0)
		return op_errno(op, errno, AT(.kind = "epoll"), "cannot create epoll id %u", f->id);
	return 0;
}

const struct file_kind file_epoll = {
	.name = "epoll",
	.type = FD_TYPES__EVENTPOLL,
	.message = offsetof(FileEntry, epfd),
	.match = epoll_match,
	.dump = epoll_dump,
	.complete = epoll_complete,
	.write = epoll_write,
	.read = epoll_read,
	.open = epoll_open,
	.plan = epoll_plan,
};
