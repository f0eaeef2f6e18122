/* SPDX-License-Identifier: MIT */
/*
 * Bringing pages: from the checkpoint to a buffer, from there to the address space. What cannot be read, or is not what was
 * written, becomes a page whose access is an error (SIGBUS), and never another page.
 */
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "lib/engine/lazy.h"
#include "lib/kernel/sys.h"
#include "lib/state/pieces.h"

#define COPY_PAGES 16u /* by one call: events wait for no longer than that */
#define AGAIN_US 50
#define NICE 10 /* of the background */
#define SAID_LOST 8 /* lines on pages that could not be read */

/* An ioctl on pages of the space: how many bytes it did, and why not more. */
static int64_t did(int ret, int64_t done, int *eno)
{
	*eno = ret == 0 ? 0 : errno;
	return ret == 0 || done > 0 ? done : 0;
}

static int64_t copy_pages(int fd, uint64_t addr, const void *from, uint64_t len, int *eno)
{
	struct uffdio_copy c = { .dst = addr, .src = (uintptr_t)from, .len = len };

	return did(ioctl(fd, UFFDIO_COPY, &c), c.copy, eno);
}

static int64_t poison_pages(int fd, uint64_t addr, uint64_t len, int *eno)
{
	struct uffdio_poison p = { .range = { addr, len } };

	return did(ioctl(fd, UFFDIO_POISON, &p), p.updated, eno);
}

static int64_t zero_pages(int fd, uint64_t addr, uint64_t len, int *eno)
{
	struct uffdio_zeropage z = { .range = { addr, len } };

	return did(ioctl(fd, UFFDIO_ZEROPAGE, &z), z.zeropage, eno);
}

static void wake(int fd, uint64_t addr)
{
	struct uffdio_range r = { addr, PAGE_SIZE };

	ioctl(fd, UFFDIO_WAKE, &r);
}

/* What is left after one of these calls: EAGAIN is left to the caller, everything else is settled for the page at @addr. */
static int settle(struct lazy *lz, struct lazy_space *sp, uint64_t addr, int eno)
{
	switch (eno) {
	case 0:
	case EAGAIN:
		return eno;
	case EEXIST: /* it is there already: who waits for it can go on */
		wake(sp->fd, addr);
		return 0;
	case ENOENT: /* no such area any more, or one that is none of ours: nobody faults there */
	case EINVAL:
		return 0;
	case ESRCH:
		return ESRCH;
	case ENOMEM: /* of its memory cgroup: somebody is ended for that, or has to make room */
	case ENOSPC:
		return EAGAIN;
	default:
		lazy_say(lz, CKPT_LOG_WARN, "task %d: bring the page at %#lx: %s", sp->map->pid, addr, strerror(eno));
		return ENOTRECOVERABLE;
	}
}

static int64_t try_pages(int fd, uint64_t addr, const void *buf, uint64_t n, int *eno)
{
	return buf ? copy_pages(fd, addr, buf, n * PAGE_SIZE, eno) : poison_pages(fd, addr, n * PAGE_SIZE, eno);
}

/*
 * The caller has the gate. No area there: the pages may be in several by now. Or the area is just being moved: the kernel looks for
 * it before it looks whether an event is due. At a second call it says so (EAGAIN), since nobody takes the event without the gate.
 */
static int64_t bring_pages(int fd, uint64_t addr, const void *buf, uint64_t n, int *eno)
{
	int64_t done = try_pages(fd, addr, buf, n, eno);

	if (!done && (*eno == ENOENT || *eno == EINVAL))
		done = try_pages(fd, addr, buf, 1, eno);
	return done;
}

/* The next few pages of the transfer, all in one state of the address space. 1: more may follow. */
static int bring_some(struct lazy *lz, struct lazy_space *sp, struct lazy_slot *slot, uint64_t upto, uint64_t max, const uint8_t *buf,
		      int *eno)
{
	uint64_t addr = 0, n = 0;
	int64_t done = 0;

	pthread_rwlock_rdlock(&sp->gate);
	pthread_mutex_lock(&sp->lock);
	if (!sp->over)
		n = lazy_next_run(sp, slot, max, &addr);
	n = slot->done >= upto ? 0 : MIN(n, upto - slot->done);
	pthread_mutex_unlock(&sp->lock);
	*eno = 0;
	if (n) {
		done = bring_pages(sp->fd, addr, buf ? buf + slot->done * PAGE_SIZE : NULL, n, eno);
		/* A part was done, and the rest is asked for again: the reason comes then. */
		*eno = done ? 0 : settle(lz, sp, addr, *eno);
		if (*eno == ENOTRECOVERABLE)
			poison_pages(sp->fd, addr, PAGE_SIZE, eno);
		if (!done && *eno != EAGAIN && *eno != ESRCH)
			done = PAGE_SIZE;
		pthread_mutex_lock(&sp->lock);
		slot->done += (uint64_t)done / PAGE_SIZE;
		pthread_mutex_unlock(&sp->lock);
	}
	pthread_rwlock_unlock(&sp->gate);
	return n != 0;
}

/* Up to page @upto of the transfer. False: the process is gone. @max: of the first call. */
static bool bring(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot, uint64_t upto, uint64_t max, const uint8_t *buf)
{
	int eno;

	while (slot->done < upto && bring_some(t->lz, sp, slot, upto, max, buf, &eno)) {
		max = COPY_PAGES;
		if (eno == ESRCH)
			return false;
		if (eno != EAGAIN)
			continue;
		/* An event waits to be taken. Whoever takes faults is who takes events. */
		if (t->epoll >= 0)
			lazy_pump(t, sp);
		usleep(AGAIN_US);
	}
	return !sp->over;
}

static int fetch(struct lazy_thread *t, const struct lazy_space *sp, uint64_t first, uint64_t n, void *buf)
{
	const struct lazy_piece *p = lazy_piece_of(sp->map, first);
	int r;

	if (p->source == PIECE_REMOTE)
		r = lazy_remote_read(t, sp->map, first, n, p->addr + (first - p->first) * PAGE_SIZE, buf);
	else
		r = pagein_read(&t->op, t->lz->s->sources.v[p->source], p->page + (first - p->first), n, buf);
	if (!r)
		return 0;
	if (n <= LAZY_BLOCK) {
		if (atomic_fetch_add(&t->lz->n_lost, n) < SAID_LOST * LAZY_BLOCK)
			lazy_say(t->lz, CKPT_LOG_ERROR, "task %d: %lu pages at %#lx are lost, their use is an error (SIGBUS): %s",
				 sp->map->pid, n, p->addr + (first - p->first) * PAGE_SIZE,
				 t->op.err ? ckpt_err_message(t->op.err) : ckpt_code_name(r));
	}
	op_forget(&t->op);
	return r;
}

/* How many pages from @first on lie in one block of the source. */
static uint64_t in_block(const struct lazy_space *sp, uint64_t first)
{
	const struct lazy_piece *p = lazy_piece_of(sp->map, first);

	return LAZY_BLOCK - (p->page + (first - p->first)) % LAZY_BLOCK;
}

static void over(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot, bool alive)
{
	pthread_mutex_lock(&sp->lock);
	lazy_release(sp, slot);
	pthread_mutex_unlock(&sp->lock);
	if (alive)
		lazy_finish_space(t->lz, sp);
	else
		lazy_end_space(t->lz, sp);
}

void lazy_bring(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot)
{
	bool alive = true;

	if (fetch(t, sp, slot->first, slot->n, t->buf) == 0) {
		alive = bring(t, sp, slot, slot->n, COPY_PAGES, t->buf);
	} else if (slot->n <= LAZY_BLOCK) {
		alive = bring(t, sp, slot, slot->n, COPY_PAGES, NULL);
	} else {
		/* Which of them it is. */
		while (alive && slot->done < slot->n) {
			uint64_t at = slot->done, n = MIN(slot->n - at, in_block(sp, slot->first + at));
			bool good = fetch(t, sp, slot->first + at, n, t->buf + at * PAGE_SIZE) == 0;

			alive = bring(t, sp, slot, at + n, COPY_PAGES, good ? t->buf : NULL);
		}
	}
	over(t, sp, slot, alive);
}

void lazy_bring_fault(struct lazy_thread *t, struct lazy_space *sp, struct lazy_slot *slot, uint64_t page)
{
	struct lazy_slot before = { 0 };
	uint64_t first = slot->first, n = slot->n;
	bool alive, good;

	atomic_fetch_add(&t->lz->n_fault_pages, n);
	if (page > first) {
		pthread_mutex_lock(&sp->lock);
		before = (struct lazy_slot){ .first = first, .n = page - first, .next = sp->slots };
		slot->first = page;
		slot->n -= page - first;
		sp->slots = &before;
		pthread_mutex_unlock(&sp->lock);
	}
	good = fetch(t, sp, first, n, t->buf) == 0;
	alive = bring(t, sp, slot, slot->n, 1, good ? t->buf + (page - first) * PAGE_SIZE : NULL);
	if (before.n) {
		alive = alive && bring(t, sp, &before, before.n, COPY_PAGES, good ? t->buf : NULL);
		over(t, sp, &before, alive);
	}
	over(t, sp, slot, alive);
}

enum lazy_result lazy_bring_hole(struct lazy_thread *t, struct lazy_space *sp, uint64_t addr)
{
	uint64_t page, lo = ALIGN_DOWN(addr, LAZY_BLOCK * PAGE_SIZE), start, end;
	enum lazy_where where = LAZY_COMING;
	int eno = 0;

	pthread_rwlock_rdlock(&sp->gate);
	pthread_mutex_lock(&sp->lock);
	if (!sp->over)
		where = lazy_find(sp, addr, &page);
	lazy_hole(sp, addr, lo, lo + LAZY_BLOCK * PAGE_SIZE, &start, &end);
	pthread_mutex_unlock(&sp->lock);
	if (where == LAZY_HERE) {
		poison_pages(sp->fd, addr, PAGE_SIZE, &eno);
		eno = settle(t->lz, sp, addr, eno);
	} else if (where == LAZY_HOLE) {
		if (!zero_pages(sp->fd, start, end - start, &eno) && eno != EAGAIN)
			zero_pages(sp->fd, addr, PAGE_SIZE, &eno);
		eno = settle(t->lz, sp, addr, eno);
		wake(sp->fd, addr);
		atomic_fetch_add(&t->lz->n_zero, 1);
	}
	pthread_rwlock_unlock(&sp->gate);
	if (eno == ESRCH)
		lazy_end_space(t->lz, sp);
	return eno == EAGAIN || where == LAZY_WANTED ? LAZY_AGAIN : LAZY_DONE;
}

void lazy_lose(struct lazy *lz, struct lazy_space *sp)
{
	struct lazy_thread t = { .lz = lz, .epoll = 0 }; /* takes events itself */
	struct lazy_slot slot;
	bool alive = !sp->over;

	while (alive && lazy_claim_next(sp, LAZY_CHUNK, &slot)) {
		alive = bring(&t, sp, &slot, slot.n, COPY_PAGES, NULL);
		lazy_release(sp, &slot);
		atomic_fetch_add(&lz->n_lost, slot.n);
	}
	free(t.faults);
}

/* ------------------------------------------------------------------------------------------------- background */

/* The first space of the task @pid, which is the one that was restored. */
static struct lazy_space *space_of(struct lazy *lz, pid_t pid)
{
	for (size_t i = 0; i < lz->n_spaces; i++)
		if (lz->spaces[i]->map->pid == pid)
			return lz->spaces[i];
	return NULL;
}

static bool claim_touched(struct lazy *lz, const struct lazy_touch *touch, struct lazy_space **sp, struct lazy_slot *slot)
{
	uint64_t page;
	bool got;

	*sp = space_of(lz, touch->pid);
	if (!*sp)
		return false;
	pthread_mutex_lock(&(*sp)->lock);
	got = !(*sp)->over && lazy_find(*sp, touch->addr, &page) == LAZY_WANTED && lazy_claim_around(*sp, page, LAZY_BLOCK, slot);
	pthread_mutex_unlock(&(*sp)->lock);
	return got;
}

static bool claim_any(struct lazy *lz, uint64_t max, struct lazy_space **sp, struct lazy_slot *slot)
{
	bool got = false;

	/* Tasks that were restored before what they forked since, which may be gone in a moment. */
	for (size_t i = 0; i < lz->n_spaces && !got; i++) {
		*sp = lz->spaces[i];
		pthread_mutex_lock(&(*sp)->lock);
		got = !(*sp)->over && lazy_claim_next(*sp, max, slot);
		pthread_mutex_unlock(&(*sp)->lock);
	}
	return got;
}

/* Something to bring; waits for it. False: it is over. */
static bool next_job(struct lazy *lz, struct lazy_space **sp, struct lazy_slot *slot)
{
	bool got = false;

	pthread_mutex_lock(&lz->lock);
	while (!got && !lz->stop) {
		/* What is known to be needed soon does not wait for the program to run. */
		while (lz->order && lz->all_named && !lz->recording && lz->order_at < lz->order->v.n && !got)
			got = claim_touched(lz, &lz->order->v.v[lz->order_at++], sp, slot);
		if (!got && lz->ended && !lz->recording)
			got = claim_any(lz, atomic_load(&lz->busy_faults) ? LAZY_BLOCK : LAZY_CHUNK, sp, slot);
		if (!got)
			pthread_cond_wait(&lz->work, &lz->lock);
	}
	pthread_mutex_unlock(&lz->lock);
	return got;
}

void *lazy_fill_main(void *arg)
{
	struct lazy_thread *t = arg;
	struct lazy_space *sp;
	struct lazy_slot slot;

	setpriority(PRIO_PROCESS, (id_t)sys_gettid(), NICE);
	while (next_job(t->lz, &sp, &slot)) {
		atomic_fetch_add(&t->lz->n_background_pages, slot.n);
		lazy_bring(t, sp, &slot);
	}
	return NULL;
}
