/* SPDX-License-Identifier: MIT */
/*
 * Threads that wait for userfaultfds: events are told to the space at once, under its gate, and faults are answered. A
 * program that forks, moves or frees memory waits until its event is taken.
 */
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "lib/engine/lazy.h"
#include "lib/kernel/uapi.h"

#define MESSAGES 16
#define EVENTS 8
#define AGAIN_US 50

static void add_fault(struct lazy_thread *t, uint64_t addr)
{
	if (t->n_faults == t->cap_faults) {
		size_t cap = MAX(t->cap_faults * 2, (size_t)64);
		uint64_t *v = realloc(t->faults, cap * sizeof(*v));

		/* It is not forgotten: the thread that faulted tells again when it is woken. */
		if (!v)
			return;
		t->faults = v;
		t->cap_faults = cap;
	}
	t->faults[t->n_faults++] = addr;
}

static void on_fork(struct lazy_thread *t, struct lazy_space *sp, int fd)
{
	struct lazy_space *child;

	pthread_mutex_lock(&sp->lock);
	child = lazy_space_fork(sp, fd);
	pthread_mutex_unlock(&sp->lock);
	if (!child || lazy_add_space(t->lz, child) != 0)
		/* Its descriptor stays open: the child's memory never comes, and never is zeroes. */
		lazy_say(t->lz, CKPT_LOG_ERROR, "out of memory: a process that task %d forked will wait for its memory for ever",
			 sp->map->pid);
}

/* The caller has the gate for writing. */
static void on_message(struct lazy_thread *t, struct lazy_space *sp, const struct uffd_msg *m)
{
	int r = 0;

	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		add_fault(t, ALIGN_DOWN((uint64_t)m->arg.pagefault.address, PAGE_SIZE));
		return;
	case UFFD_EVENT_FORK:
		on_fork(t, sp, (int)m->arg.fork.ufd);
		return;
	case UFFD_EVENT_REMAP:
		r = lazy_keeper_range(t->lz->keeper, m->arg.remap.to, m->arg.remap.to + m->arg.remap.len);
		pthread_mutex_lock(&sp->lock);
		r = r ?: lazy_event_move(sp, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		pthread_mutex_unlock(&sp->lock);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		pthread_mutex_lock(&sp->lock);
		lazy_event_remove(sp, m->arg.remove.start, m->arg.remove.end);
		pthread_mutex_unlock(&sp->lock);
		break;
	}
	if (r)
		lazy_say(t->lz, CKPT_LOG_ERROR, "out of memory: task %d moved memory, whose pages are lost", sp->map->pid);
}

bool lazy_pump(struct lazy_thread *t, struct lazy_space *sp)
{
	struct uffd_msg m[MESSAGES];
	ssize_t n = -1;

	pthread_rwlock_wrlock(&sp->gate);
	if (!sp->over)
		n = read(sp->fd, m, sizeof(m));
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(*m); i++)
		on_message(t, sp, &m[i]);
	pthread_rwlock_unlock(&sp->gate);
	/* Too many descriptors, or no memory, for that of a child: it waits, and so may we. */
	if (n < 0 && errno != EAGAIN && errno != EINTR && !sp->over)
		usleep(1000);
	return n > 0;
}

static void record(struct lazy *lz, const struct lazy_space *sp, uint64_t page)
{
	const struct lazy_piece *p = lazy_piece_of(sp->map, page);
	struct lazy_touch *touch;

	pthread_mutex_lock(&lz->lock);
	touch = ARRAY_ADD(lz->op->arena, &lz->touched.v);
	if (touch)
		*touch = (struct lazy_touch){ sp->map->pid, p->addr + (page - p->first) * PAGE_SIZE };
	pthread_mutex_unlock(&lz->lock);
}

static enum lazy_result on_fault(struct lazy_thread *t, struct lazy_space *sp, uint64_t addr)
{
	struct lazy_slot slot;
	uint64_t page = 0;
	bool claimed;

	pthread_mutex_lock(&sp->lock);
	if (sp->over) {
		pthread_mutex_unlock(&sp->lock);
		return LAZY_DONE;
	}
	claimed = lazy_find(sp, addr, &page) == LAZY_WANTED && lazy_claim_around(sp, page, t->lz->recording ? 1 : LAZY_BLOCK, &slot);
	pthread_mutex_unlock(&sp->lock);
	if (!claimed)
		return lazy_bring_hole(t, sp, addr);
	if (t->lz->recording)
		record(t->lz, sp, page);
	lazy_bring_fault(t, sp, &slot, page);
	return LAZY_DONE;
}

static void serve(struct lazy_thread *t, struct lazy_space *sp)
{
	atomic_fetch_add(&t->lz->busy_faults, 1);
	while (lazy_pump(t, sp) || t->n_faults) {
		size_t n = t->n_faults;
		bool again = false;

		/* In the order in which they came; those that come meanwhile follow. */
		for (size_t i = 0; i < n; i++) {
			uint64_t addr = t->faults[i];

			atomic_fetch_add(&t->lz->n_faults, 1);
			if (on_fault(t, sp, addr) == LAZY_AGAIN) {
				add_fault(t, addr);
				again = true;
			}
		}
		if (again)
			usleep(AGAIN_US);
		t->n_faults -= n;
		memmove(t->faults, t->faults + n, t->n_faults * sizeof(*t->faults));
	}
	atomic_store(&t->lz->last_fault_ns, now_ns());
	atomic_fetch_sub(&t->lz->busy_faults, 1);
}

void *lazy_fault_main(void *arg)
{
	struct lazy_thread *t = arg;
	struct epoll_event ev[EVENTS];

	while (!__atomic_load_n(&t->lz->stop, __ATOMIC_ACQUIRE)) {
		int n = epoll_wait(t->epoll, ev, EVENTS, -1);

		for (int i = 0; i < n; i++)
			if (ev[i].data.ptr)
				serve(t, ev[i].data.ptr);
	}
	return NULL;
}
