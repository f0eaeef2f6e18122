// SPDX-License-Identifier: MIT
/*
 * Memory of a new task, filled from outside while it stands still with its areas mapped: several threads take pieces of the
 * page images, check them, and put them in place. Pages come to fresh memory through the task's userfaultfd, which makes and
 * fills a page at once, without a fault; huge ones into its scratch memory, from where the task moves them
 * (lib/inject/restorer/fill.c); everything else is written as a debugger does.
 *
 * What is in the page cache is read through it. What is not is read past it, with more requests in flight: this is as fast as the
 * disk, and leaves the cache to others.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "lib/engine/restore_fill.h"
#include "lib/image/block.h"
#include "lib/image/page_sums.h"
#include "lib/kernel/sys.h"

/* What is read at once: through the cache as much as stays in the processor's own; from the disk enough to keep it busy. */
#define WARM_PAGES 64u
#define COLD_PAGES 256u
#define SMALL_PAGES 512u /* a filler that has less to do is not worth making */
#define MAX_FILLERS 8u
#define COLD_FILLERS 8u
#define STACK (256u << 10)

bool restore_wants_fill(const struct new_task *t)
{
	return PLAN(&t->build)->fill.wanted && t->plan->fill.standing;
}

/* ------------------------------------------------------------------------------------------------- what is next */

static bool joins(const struct fill *f, const struct chunk *c, const struct fill_piece *p, uint64_t first)
{
	uint64_t end = c->first + c->n;

	if (c->n_parts == CHUNK_PARTS || p->source != c->source)
		return false;
	/* What lies between two pieces is read, too, if it is little: it belongs to the same block. */
	return first == end || (f->sources[c->source].fd >= 0 && first > end && first - end < BLOCK_PAGES);
}

/* The next pieces that lie together in a page image. False: there is nothing more to do. */
static bool take(struct fill *f, struct chunk *c)
{
	c->n_parts = 0;
	c->n = 0;
	pthread_mutex_lock(&f->lock);
	while (f->at < f->n && c->n < f->max_pages) {
		const struct fill_piece *p = &f->v[f->at];
		uint64_t first = p->first + f->done, n = p->n_pages - f->done, room;

		if (!c->n_parts) {
			c->source = p->source;
			c->first = first;
		} else if (!joins(f, c, p, first)) {
			break;
		}
		/* Up to the end of a block, so that no block is read twice. */
		room = ALIGN_DOWN(c->first + f->max_pages, (uint64_t)BLOCK_PAGES);
		if (first >= room)
			break;
		n = MIN(n, room - first);
		c->parts[c->n_parts++] = (struct chunk_part){ p, f->done, n };
		c->n = first + n - c->first;
		f->done += n;
		if (f->done == p->n_pages) {
			f->at++;
			f->done = 0;
		}
	}
	pthread_mutex_unlock(&f->lock);
	return c->n_parts;
}

/* ------------------------------------------------------------------------------------------------ putting in place */

static int new_pages(struct filler *w, uint64_t addr, const char *from, uint64_t len)
{
	struct uffdio_copy c = { .dst = addr, .src = (uintptr_t)from, .len = len };

	while (c.len) {
		if (ioctl(w->f->uffd, UFFDIO_COPY, &c) < 0 && errno != EAGAIN && c.copy <= 0)
			return op_errno(&w->op, errno, AT(.pid = w->f->pid, .addr = c.dst, .kind = "vma"),
					"put a page at %#llx of task %d", (unsigned long long)c.dst, w->f->t->node->pid);
		if (c.copy > 0) {
			c.dst += (uint64_t)c.copy;
			c.src += (uint64_t)c.copy;
			c.len -= (uint64_t)c.copy;
		}
		c.copy = 0;
	}
	return 0;
}

static int write_pages(struct filler *w, uint64_t addr, const char *from, uint64_t len)
{
	while (len) {
		struct iovec mine = { (void *)from, len }, its = { (void *)addr, len };
		ssize_t n = process_vm_writev(w->f->pid, &mine, 1, &its, 1, 0);

		/* Denied to us, perhaps, by a seccomp filter of our own. */
		if (n <= 0)
			n = pwrite(w->f->mem, from, len, (off_t)addr);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return op_errno(&w->op, n ? errno : EIO, AT(.pid = w->f->pid, .addr = addr, .kind = "vma"),
					"write memory at %#lx of task %d", addr, w->f->t->node->pid);
		addr += (uint64_t)n;
		from += n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int have_pages(struct filler *w, uint64_t addr, uint64_t len)
{
	for (uint64_t done = 0; done < len;) {
		/* Not process_vm_readv(): it takes a copy of each page that is shared with a relative. */
		ssize_t n = pread(w->f->mem, w->have + done, len - done, (off_t)(addr + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return op_errno(&w->op, n ? errno : EIO, AT(.pid = w->f->pid, .addr = addr, .kind = "vma"),
					"read memory at %#lx of task %d", addr + done, w->f->t->node->pid);
		done += (uint64_t)n;
	}
	return 0;
}

/* Only what differs is written: the rest stays shared with relatives. */
static int compare_pages(struct filler *w, uint64_t addr, const char *from, uint64_t len)
{
	int r = have_pages(w, addr, len);

	for (uint64_t i = 0, n; i < len && !r; i += n) {
		for (n = 0; i + n < len && memcmp(w->have + i + n, from + i + n, PAGE_SIZE); n += PAGE_SIZE)
			;
		if (n)
			r = write_pages(w, addr + i, from + i, n);
		else
			n = PAGE_SIZE;
	}
	return r;
}

static int put(struct filler *w, const struct chunk_part *part, const char *from)
{
	const struct fill_piece *p = part->piece;
	uint64_t off = part->from * PAGE_SIZE, len = part->n * PAGE_SIZE;

	switch (p->how) {
	case FILL_HUGE:
		if (w->f->scratch)
			return write_pages(w, w->f->scratch + p->scratch + off, from, len);
		/* fall through */
	case FILL_NEW:
		return w->f->uffd >= 0 ? new_pages(w, p->addr + off, from, len) : write_pages(w, p->addr + off, from, len);
	case FILL_COMPARE:
		return compare_pages(w, p->addr + off, from, len);
	case FILL_WRITE:
		break;
	}
	return write_pages(w, p->addr + off, from, len);
}

static void work(struct filler *w)
{
	struct fill *f = w->f;
	struct chunk c;

	while (!w->ret && !atomic_load_explicit(&f->stop, memory_order_relaxed) && take(f, &c)) {
		const char *pages = NULL;

		w->ret = op_check_cancel(&w->op) ?: fill_read(w, &c, &pages);
		for (size_t i = 0; i < c.n_parts && !w->ret; i++) {
			const struct chunk_part *part = &c.parts[i];

			w->ret = put(w, part, pages + (part->piece->first + part->from - c.first) * PAGE_SIZE);
			__atomic_fetch_add(&f->t->plan->pages_done, part->n, __ATOMIC_RELAXED);
		}
		if (w->progress)
			restore_progress(w->progress, f->t->r);
	}
	if (w->ret)
		atomic_store(&f->stop, true);
}

/* --------------------------------------------------------------------------------------------------- many at once */

static void *thread_main(void *arg)
{
	work(arg);
	return NULL;
}

static int filler_begin(struct op *op, struct fill *f, struct filler *w)
{
	size_t len = (f->max_pages + 2 * BLOCK_PAGES) * (size_t)PAGE_SIZE;

	/* Each has an operation of its own: what it shares with ours are constants, and the wish to cancel. */
	*w = (struct filler){ .f = f, .op = *op, .buf_len = len };
	w->op.err = NULL;
	w->op.log.fn = NULL;
	w->op.progress.fn = NULL;
	w->op.stats = &w->stats;
	w->op.arena = arena_new();
	w->buf = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	w->have = f->compares ? mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
	if (w->op.arena && w->buf != MAP_FAILED && w->have != MAP_FAILED)
		return 0;
	return op_nomem(op);
}

static void filler_end(struct op *op, struct filler *w)
{
	if (w->ret && !op->err)
		op->err = TAKE_PTR(w->op.err);
	op_forget(&w->op);
	arena_free(w->op.arena);
	if (w->buf && w->buf != MAP_FAILED)
		munmap(w->buf, w->buf_len);
	if (w->have && w->have != MAP_FAILED)
		munmap(w->have, w->buf_len);
}

/* A thread that cannot be made is none: the others do its part. */
static void start(struct filler *w)
{
	pthread_attr_t attr;
	sigset_t all, old;

	if (pthread_attr_init(&attr))
		return;
	sigfillset(&all);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	w->started = pthread_create(&w->thread, &attr, thread_main, w) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
}

static unsigned n_fillers(const struct fill *f, uint64_t pages)
{
	unsigned n = f->cold ? COLD_FILLERS : 1;
	cpu_set_t cpus;

	if (!f->cold && sched_getaffinity(0, sizeof(cpus), &cpus) == 0)
		n = MIN((unsigned)CPU_COUNT(&cpus), MAX_FILLERS);
	return (unsigned)MIN(n, MAX(pages / SMALL_PAGES, 1));
}

static int run(struct op *op, struct fill *f, uint64_t pages)
{
	struct filler w[MAX(MAX_FILLERS, COLD_FILLERS)] = { 0 };
	unsigned n = n_fillers(f, pages), made = 0;
	int r = 0;

	while (made < n && !r)
		r = filler_begin(op, f, &w[made++]);
	for (unsigned i = 1; i < n && !r; i++)
		start(&w[i]);
	/* We are one of them. */
	if (!r) {
		w[0].progress = op;
		work(&w[0]);
	}
	for (unsigned i = 1; i < made; i++)
		if (w[i].started)
			pthread_join(w[i].thread, NULL);
	for (unsigned i = 0; i < made; i++) {
		r = r ?: w[i].ret;
		filler_end(op, &w[i]);
	}
	restore_progress(op, f->t->r);
	return r;
}

static int take_uffd(struct op *op, struct fill *f)
{
	const struct plan_fill *p = &f->t->plan->fill;
	_cleanup_close_ int pidfd = -1;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/mem", f->pid);
	f->mem = open(path, O_RDWR | O_CLOEXEC);
	if (f->mem < 0)
		return op_errno(op, errno, AT(.pid = f->pid), "open %s", path);
	if (p->uffd < 0)
		return 0;
	pidfd = sys_pidfd_open(f->pid, 0);
	f->uffd = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, p->uffd);
	if (f->uffd < 0)
		return op_errno(op, errno, AT(.pid = f->pid), "take the userfaultfd of task %d", f->t->node->pid);
	f->scratch = p->has_scratch ? PLAN(&f->t->build)->fill.scratch : 0;
	return 0;
}

int restore_fill(struct op *op, struct new_task *t)
{
	struct fill f = { .t = t, .pid = t->pid, .v = t->build.fills.v, .n = t->build.fills.n, .uffd = -1, .mem = -1,
			  .max_pages = WARM_PAGES };
	uint64_t pages = 0;
	int r;

	for (size_t i = 0; i < f.n; i++) {
		pages += f.v[i].n_pages;
		f.compares = f.compares || f.v[i].how == FILL_COMPARE;
	}
	pthread_mutex_init(&f.lock, NULL);
	r = take_uffd(op, &f) ?: fill_sources_open(op, &f);
	if (f.cold)
		f.max_pages = COLD_PAGES;
	r = r ?: run(op, &f, pages);
	fill_sources_close(&f);
	close_fd_p(&f.uffd);
	close_fd_p(&f.mem);
	pthread_mutex_destroy(&f.lock);
	return op_wrap(op, r, "the memory of task %d", t->node->pid);
}
