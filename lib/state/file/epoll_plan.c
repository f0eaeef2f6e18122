/* SPDX-License-Identifier: MIT */
/*
 * Entries of epoll instances, made again by the tasks. An entry is added by a task that has the target under the number
 * that is the entry's key. If the target has another number now, it is put there for a moment.
 *
 * EPOLL_CTL_ADD always arms. So what had fired or was told before is made to be told while the program does not look:
 * - a one-shot that has fired waits for anything at all, and epoll_wait() takes that. If there is nothing at all, it
 *   stays armed for errors and hang-ups, which the kernel does not let anybody leave out;
 * - an edge that was told before is taken by epoll_wait().
 * Both come before the entries that are armed, so that those are not told. Where several tasks have to add entries to one
 * instance, nothing is taken: an event that is told twice does less harm than one that is lost.
 */
#include <asm/unistd.h>

#include "lib/state/file/epoll.h"
#include "lib/state/task/plan_build.h"

#define ALL_EVENTS 0x0fffffffu /* ONESHOT, ET and their like are above */

/* An entry as it is made again. */
struct entry {
	pid_t pid;	 /* by this task */
	uint32_t number; /* where it has the target */
	uint32_t key;	 /* the number to add it under */
	uint32_t events;
	uint64_t data;
	bool fired, spent;
};

struct epoll_instance {
	EpollExtra *extra; /* may be NULL */
	struct entry *v;
	size_t n;
	bool shared; /* several tasks add entries */
	pid_t planned; /* the last task that was */
};

/* How the entries of one task are added: data of the plan. */
struct adding {
	struct plan_build *b;
	uint32_t epfd;
	const struct epoll_instance *ep;
};

/* ------------------------------------------------------------------------------------------- who adds what */

/* Without our own file: the number is what it says, in the first task that has the instance and something there. */
static bool find_adder(const struct epoll_holders *holders, const EpollEntryExtra *x, struct entry *e)
{
	for (size_t i = 0; i < holders->v.n; i++) {
		const FdinfoEntry *there = epoll_find_number(holders->v.v[i], e->number);

		if (!there || (x && there->id != x->target))
			continue;
		e->pid = holders->v.v[i]->pid;
		return true;
	}
	return false;
}

static int find_entry(struct plan_build *b, const struct snap_file *f, const struct epoll_holders *holders, const EpollExtra *x,
		      size_t i, struct entry *e)
{
	const EventpollTfdEntry *m = f->msg->epfd->tfd[i];
	const EpollEntryExtra *xe = x ? x->entries[i] : NULL;

	*e = (struct entry){
		.number = m->tfd, .key = xe && xe->has_tfd ? xe->tfd : m->tfd, .events = m->events, .data = m->data,
		.fired = (m->events & EPOLLONESHOT) && !(m->events & ~(uint32_t)EPOLL_NOT_EVENTS), .spent = xe && xe->spent,
	};
	if (e->key >= PLAN_MAX_FD)
		return image_bad(b->op, "ckpt-extra: epoll id %u: number %u is out of range", f->id, e->key);
	if (find_adder(holders, xe, e))
		return 0;
	return image_bad(b->op, "files.img: epoll id %u watches descriptor %u, which no task has that has the epoll descriptor",
			 f->id, m->tfd);
}

static int find_entries(struct plan_build *b, struct snap_file *f)
{
	struct epoll_instance *ep = op_new(b->op, struct epoll_instance);
	struct epoll_holders holders = { 0 };
	size_t n = f->msg->epfd->n_tfd;
	int r;

	if (!ep)
		return CKPT_E_NOMEM;
	ep->extra = f->priv;
	ep->v = op_alloc(b->op, (n + 1) * sizeof(*ep->v));
	ep->n = n;
	if (!ep->v)
		return CKPT_E_NOMEM;
	r = epoll_find_holders(b->op, b->s, f, &holders);
	for (size_t i = 0; !r && i < n; i++) {
		r = find_entry(b, f, &holders, ep->extra, i, &ep->v[i]);
		ep->shared |= !r && ep->v[i].pid != ep->v[0].pid;
	}
	f->priv = ep;
	return r;
}

/* --------------------------------------------------------------------------------------------- the calls */

static int call(const struct adding *a, const struct plan_call *c, const char *fmt, uint32_t fd)
{
	const char *what = arena_printf(a->b->op->arena, "fd %u: epoll: %s %u", a->epfd, fmt, fd);

	return what ? plan_call(a->b, PLAN_LINK, c, what) : op_nomem(a->b->op);
}

/* @after: a number of an epoll_wait(): only if that told nothing. -1: always. */
static int plan_ctl(const struct adding *a, int what, const struct entry *e, uint32_t events, int after)
{
	struct epoll_event ev = { .events = events, .data.u64 = e->data };
	struct plan_call c = { .nr = __NR_epoll_ctl, .data_args = 1 << 3, .args = { a->epfd, (uint64_t)what, e->key } };
	int r = plan_put(a->b, &ev, sizeof(ev), &c.args[3]);

	if (after >= 0) {
		c.flags = PLAN_CALL_UNLESS;
		c.expect = after;
	}
	return r ? r : call(a, &c, "watch descriptor", e->key);
}

/* Takes up to @n events. Returns the number of the call. */
static int plan_take(const struct adding *a, size_t n)
{
	struct plan_call c = { .nr = __NR_epoll_pwait, .flags = PLAN_CALL_RETRY, .data_args = 1 << 1, .args = { a->epfd, 0, n } };
	struct epoll_event *room = op_alloc(a->b->op, n * sizeof(*room));
	int r = room ? plan_put(a->b, room, n * sizeof(*room), &c.args[1]) : CKPT_E_NOMEM;

	return r ? r : call(a, &c, "take events of descriptors already told about, up to", (uint32_t)n);
}

/* Puts @from at number @to, where @occupant is now (NULL: nothing). *@kept is the call that kept that. */
static int plan_borrow(const struct adding *a, uint32_t from, uint32_t to, const FdinfoEntry *occupant, int *kept)
{
	int r = 0;

	a->b->numbers = MAX(a->b->numbers, to + 1);
	if (occupant)
		r = *kept = call(a, &(const struct plan_call){ .nr = __NR_fcntl, .fd = -1, .args = { to, F_DUPFD_CLOEXEC } },
				 "keep descriptor", to);
	return r < 0 ? r : call(a, &(const struct plan_call){ .nr = __NR_dup3, .fd = -1, .args = { from, to, O_CLOEXEC } },
				"borrow number", to);
}

static int plan_give_back(const struct adding *a, uint32_t to, const FdinfoEntry *occupant, int kept)
{
	const struct plan_call back = {
		.nr = __NR_dup3, .fd = -1, .result_args = 1,
		.args = { (uint64_t)kept, to, occupant && occupant->flags & FD_CLOEXEC ? O_CLOEXEC : 0 },
	};
	int r;

	if (!occupant)
		return call(a, &(const struct plan_call){ .nr = __NR_close, .fd = -1, .args = { to } }, "give back number", to);
	r = call(a, &back, "give back number", to);
	return r < 0 ? r : call(a, &(const struct plan_call){ .nr = __NR_close, .fd = -1, .result_args = 1, .args = { (uint64_t)kept } },
				"let go what was kept of number", to);
}

static int add(const struct adding *a, const struct entry *e)
{
	bool take = e->fired && !a->ep->shared;
	int r = plan_ctl(a, EPOLL_CTL_ADD, e, take ? e->events | ALL_EVENTS : e->events, -1);

	if (r < 0 || !take)
		return r;
	r = plan_take(a, 1);
	return r < 0 ? r : plan_ctl(a, EPOLL_CTL_MOD, e, e->events, r);
}

static int plan_entry(const struct adding *a, const struct entry *e)
{
	const FdinfoEntry *occupant = epoll_find_number(a->b->task, e->key);
	int kept = -1, r;

	if (e->key == e->number)
		return add(a, e);
	r = plan_borrow(a, e->number, e->key, occupant, &kept);
	r = r < 0 ? r : add(a, e);
	return r < 0 ? r : plan_give_back(a, e->key, occupant, kept);
}

enum turn { FIRED, SPENT, ARMED };

static enum turn turn_of(const struct epoll_instance *ep, const struct entry *e)
{
	return ep->shared ? ARMED : e->fired ? FIRED : e->spent ? SPENT : ARMED;
}

static int plan_turn(const struct adding *a, enum turn turn, size_t *n)
{
	int r = 0;

	*n = 0;
	for (size_t i = 0; r >= 0 && i < a->ep->n; i++) {
		const struct entry *e = &a->ep->v[i];

		if (e->pid != a->b->task->pid || turn_of(a->ep, e) != turn)
			continue;
		r = plan_entry(a, e);
		++*n;
	}
	return r;
}

int epoll_plan(struct plan_build *b, struct snap_file *f, const FdinfoEntry *e, bool first)
{
	struct epoll_instance *ep;
	size_t n;
	int r = first ? find_entries(b, f) : 0;

	if (r)
		return r;
	ep = f->priv;
	if (ep->planned == b->task->pid) /* through another descriptor of it */
		return 0;
	ep->planned = b->task->pid;
	const struct adding a = { .b = b, .epfd = e->fd, .ep = ep };

	r = plan_turn(&a, FIRED, &n);
	r = r < 0 ? r : plan_turn(&a, SPENT, &n);
	if (r >= 0 && n)
		r = plan_take(&a, n);
	r = r < 0 ? r : plan_turn(&a, ARMED, &n);
	return MIN(r, 0);
}
