/* SPDX-License-Identifier: MIT */
/*
 * AIO contexts (io_setup(2)). A context is known by the address of its ring, which the kernel maps into the task. Where
 * in the ring the kernel goes on writing it knows by itself: a new context is brought to the old place by requests that do
 * nothing, its ring is moved to the old address, and the events nobody has fetched yet are put back.
 *
 * The kernel tells nobody how many requests it is at. Those of disks end by themselves: we wait until nothing comes any
 * more. A thread that waits for events without a limit of time says that some are to come.
 */
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "lib/state/mem/aio.h"
#include "lib/state/msg.h"

#define AIO_MAGIC 0xa10a10a1u
#define HEADER_LEN 32u
#define EVENT_LEN 32u
#define RING_MAX (64u << 20) /* of two million events */
#define BATCH_MAX 4096u
#define QUIET_MS 30u
#define PATIENCE_MS 2000u
#define NO_FDS_NUMBER 100 /* for a descriptor of ours, in a task that has none */

/* The first page of the ring, as the kernel has it (fs/aio.c says that it is shared with programs). */
struct aio_ring {
	uint32_t id, nr, head, tail, magic, compat_features, incompat_features, header_length;
};
_Static_assert(sizeof(struct aio_ring) == HEADER_LEN && sizeof(struct io_event) == EVENT_LEN, "layout");

bool aio_is_ring(const struct proc_vma *v)
{
	return !strncmp(v->name, "/[aio]", 6);
}

/* ---------------------------------------------------------------------------------------------------- dump */

static int refuse(struct op *op, const struct task_dump *d, uint64_t addr, const char *hint, const char *why)
{
	return op_fail(op, CKPT_E_UNSUPPORTED, AT(.pid = d->task->host, .addr = addr, .kind = "AIO context", .hint = hint),
		       "task %d: AIO context at %#lx: %s", d->task->host, addr, why);
}

/* Whether any disk is at work. */
static bool disks_busy(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/diskstats", "re");
	char line[512];
	unsigned long n;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*u %*u %*s %*u %*u %*u %*u %*u %*u %*u %*u %lu", &n) == 1 && n)
			return true;
	return false;
}

static void pause_ms(unsigned ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000l }, NULL);
}

/* Reads the header when no event has come for a while. */
static int settle(struct op *op, const struct task_dump *d, uint64_t addr, struct aio_ring *ring)
{
	uint32_t tail = 0;
	unsigned quiet = 0, waited = 0;
	int r = 0;

	while (!r) {
		r = target_read(op, d->target, (struct raddr){ addr }, ring, sizeof(*ring));
		r = r ?: op_check_cancel(op);
		quiet = waited && ring->tail == tail ? quiet + 1 : 0;
		tail = ring->tail;
		if (r || (quiet >= QUIET_MS && (waited >= PATIENCE_MS || !disks_busy())))
			return r;
		if (waited++ >= 2 * PATIENCE_MS)
			return refuse(op, d, addr, "pause its I/O before the checkpoint", "requests go on ending while it is stopped");
		pause_ms(1);
	}
	return r;
}

/* io_getevents(ctx, min, nr, events, timeout), io_pgetevents alike */
static bool waits_for_more(const struct task_dump *d, uint64_t addr, const struct aio_ring *ring)
{
	uint32_t queued = (ring->tail + ring->nr - ring->head) % ring->nr;

	for (size_t i = 0; i < d->target->threads.n; i++) {
		const struct user_regs_struct *regs = &d->target->threads.v[i].regs;

		if ((regs->orig_rax == __NR_io_getevents || regs->orig_rax == __NR_io_pgetevents) && (long)regs->rax < 0 &&
		    regs->rdi == addr && (long)regs->rsi > (long)queued && !regs->r8)
			return true;
	}
	return false;
}

static bool header_ok(const struct aio_ring *ring, uint64_t len)
{
	return ring->magic == AIO_MAGIC && ring->header_length == HEADER_LEN && !ring->incompat_features &&
	       len >= PAGE_SIZE && ring->nr == (len - HEADER_LEN) / EVENT_LEN && ring->head < ring->nr && ring->tail < ring->nr;
}

int aio_dump(struct op *op, struct task_dump *d, const struct proc_vma *v, VmaEntry *e)
{
	MmEntry *mm = d->task->mm;
	AioRingEntry *ring = msg_new(op, AioRingEntry, aio_ring_entry);
	uint64_t len = v->end - v->start;
	struct aio_ring head;
	int r;

	if (!ring)
		return CKPT_E_NOMEM;
	if (!mm->aios)
		mm->aios = op_alloc(op, d->maps->vmas.n * sizeof(*mm->aios));
	if (!mm->aios)
		return CKPT_E_NOMEM;
	r = settle(op, d, v->start, &head);
	if (r)
		return r;
	if (!header_ok(&head, len) || len > RING_MAX)
		return refuse(op, d, v->start, NULL, "its ring does not look as the kernel makes them");
	if (waits_for_more(d, v->start, &head))
		return refuse(op, d, v->start, "let its requests end before the checkpoint",
			      "a thread waits for events that have not come: requests are in flight");
	e->status = VMA_AIORING;
	ring->id = v->start;
	ring->ring_len = (uint32_t)len;
	ring->nr_req = (head.nr - 2) / 2;
	mm->aios[mm->n_aios++] = ring;
	return 0;
}

/* ------------------------------------------------------------------------------------------------- restore */

static int bad(struct plan_build *b, uint64_t addr, const char *what)
{
	return op_fail(b->op, CKPT_E_IMAGE, AT(.pid = b->task->pid, .addr = addr, .kind = "AIO context"),
		       "the AIO context at %#lx of task %d: %s", addr, b->task->pid, what);
}

static const AioRingEntry *ring_at(const struct plan_build *b, uint64_t addr)
{
	const MmEntry *mm = b->task->mm;

	for (size_t i = 0; i < mm->n_aios; i++)
		if (addr >= mm->aios[i]->id && addr - mm->aios[i]->id < mm->aios[i]->ring_len)
			return mm->aios[i];
	return NULL;
}

int aio_area(struct plan_build *b, const VmaEntry *e, uint64_t *after)
{
	const AioRingEntry *ring = ring_at(b, e->start);

	if (!ring || ring->id != e->start || e->start % PAGE_SIZE || e->end <= e->start || e->end - e->start != ring->ring_len ||
	    ring->ring_len % PAGE_SIZE || ring->ring_len > RING_MAX)
		return bad(b, e->start, "area and context do not agree");
	if (e->start < *after || e->end > PLAN_TASK_SIZE)
		return bad(b, e->start, "it overlaps another area");
	*after = e->end;
	return 0;
}

bool aio_has_page(const struct plan_build *b, uint64_t addr)
{
	return ring_at(b, addr);
}

/* The ring as it was: what of it is in the image, zeroes elsewhere. */
static int read_ring(struct plan_build *b, const AioRingEntry *ring, char *buf)
{
	return pieces_read(b->op, b->s, &b->pieces, ring->id, ring->id + ring->ring_len, buf);
}

static unsigned possible_cpus(void)
{
	_cleanup_fclose_ FILE *f = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned first = 0, last = 0;
	int n = f ? fscanf(f, "%u-%u", &first, &last) : 0;

	return n == 2 ? last + 1 : 1;
}

/* A kernel that expects more processors makes a larger ring than was asked for. */
static int check_size(struct plan_build *b, const AioRingEntry *ring)
{
	uint64_t n = MAX(ring->nr_req, possible_cpus() * 4) * 2ull + 2;

	if (!ring->nr_req || ring->nr_req > RING_MAX / EVENT_LEN)
		return bad(b, ring->id, "the number of requests makes no sense");
	if (ALIGN_UP(HEADER_LEN + n * EVENT_LEN, PAGE_SIZE) == ring->ring_len)
		return 0;
	return op_fail(b->op, CKPT_E_UNSUPPORTED, AT(.pid = b->task->pid, .addr = ring->id, .kind = "AIO context"),
		       "the AIO context at %#lx of task %d: this machine (%u processors) makes rings of another size", ring->id,
		       b->task->pid, possible_cpus());
}

/* What the calls of one context share. */
struct context {
	struct plan_build *b;
	const AioRingEntry *ring;
	struct aio_ring head;
	uint32_t batch;
	int fd;	      /* number of a scratch file, in the task */
	uint64_t id;  /* offset in the plan: the context's id */
};

static const char *what(const struct context *c, const char *text)
{
	char *s = arena_printf(c->b->op->arena, "AIO context at %#lx: %s", c->ring->id, text);

	return s ? s : text;
}

static int call(const struct context *c, const struct plan_call *call, const char *text)
{
	int r = plan_call(c->b, PLAN_BARE, call, what(c, text));

	return r < 0 ? r : 0;
}

/* First all places are taken, so that no new ring lands in one. Until a ring comes there, its place serves as memory. */
static int reserve(const struct context *c)
{
	return call(c, &(struct plan_call){
		.nr = __NR_mmap, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)c->ring->id, .fd = -1,
		.args = { c->ring->id, c->ring->ring_len, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0 },
	}, "reserve its place");
}

/* In the scratch file: a request that does nothing, pointers to it, and what the ring has behind its header. */
static int put_scratch(const struct context *c, const char *ring)
{
	size_t head = sizeof(struct iocb) + c->batch * sizeof(uint64_t), tail = c->ring->ring_len - HEADER_LEN;
	_cleanup_free_ char *buf = calloc(1, head + tail);
	struct iocb cb = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (uint32_t)c->fd };
	uint64_t name, data;
	int r;

	if (!buf)
		return op_nomem(c->b->op);
	memcpy(buf, &cb, sizeof(cb));
	for (uint32_t i = 0; i < c->batch; i++)
		memcpy(buf + sizeof(cb) + i * sizeof(uint64_t), &c->ring->id, sizeof(uint64_t));
	memcpy(buf + head, ring + HEADER_LEN, tail);
	r = plan_put(c->b, "ckpt-aio", 9, &name);
	r = r ?: plan_put(c->b, buf, head + tail, &data);
	r = r ?: call(c, &(struct plan_call){
		.nr = __NR_memfd_create, .flags = PLAN_CALL_FD, .fd = c->fd, .data_args = 1, .args = { name, 0 },
	}, "make a scratch file");
	r = r ?: call(c, &(struct plan_call){
		.nr = __NR_write, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)(head + tail), .fd = -1, .data_args = 1 << 1,
		.args = { (uint64_t)c->fd, data, head + tail },
	}, "fill the scratch file");
	return r ?: call(c, &(struct plan_call){
		.nr = __NR_pread64, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)head, .fd = -1,
		.args = { (uint64_t)c->fd, c->ring->id, head, 0 },
	}, "put an empty request in place");
}

static int submit(const struct context *c, uint32_t n)
{
	return call(c, &(struct plan_call){
		.nr = __NR_io_submit, .flags = PLAN_CALL_EXPECT | PLAN_CALL_RETRY, .expect = n, .fd = -1, .load_args = 1,
		.args = { c->id, n, c->ring->id + sizeof(struct iocb) },
	}, "advance its ring");
}

static int fetch(const struct context *c, uint32_t n)
{
	uint64_t events = c->ring->id + sizeof(struct iocb) + c->batch * sizeof(uint64_t);

	return call(c, &(struct plan_call){
		.nr = __NR_io_getevents, .flags = PLAN_CALL_EXPECT, .expect = n, .fd = -1, .load_args = 1,
		.args = { c->id, n, n, events, 0 },
	}, "empty its ring");
}

static int advance(const struct context *c)
{
	uint32_t queued = (c->head.tail + c->head.nr - c->head.head) % c->head.nr, n;
	int r = 0;

	for (uint32_t left = c->head.head; left && !r; left -= n) {
		n = MIN(left, c->batch);
		r = submit(c, n) ?: fetch(c, n);
	}
	for (uint32_t left = queued; left && !r; left -= n) {
		n = MIN(left, c->batch);
		r = submit(c, n);
	}
	return r;
}

static int settle_in(const struct context *c)
{
	size_t head = sizeof(struct iocb) + c->batch * sizeof(uint64_t), tail = c->ring->ring_len - HEADER_LEN;
	int r = call(c, &(struct plan_call){
		.nr = __NR_mremap, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)c->ring->id, .fd = -1, .load_args = 1,
		.args = { c->id, c->ring->ring_len, c->ring->ring_len, MREMAP_MAYMOVE | MREMAP_FIXED, c->ring->id },
	}, "move its ring into place");

	r = r ?: call(c, &(struct plan_call){
		.nr = __NR_pread64, .flags = PLAN_CALL_EXPECT, .expect = (int64_t)tail, .fd = -1,
		.args = { (uint64_t)c->fd, c->ring->id + HEADER_LEN, tail, head },
	}, "put its events back");
	return r ?: call(c, &(struct plan_call){ .nr = __NR_close, .fd = -1, .args = { (uint64_t)c->fd } }, "close the scratch file");
}

static int make(struct context *c, const char *ring)
{
	uint64_t zero = 0;
	int r;

	memcpy(&c->head, ring, sizeof(c->head));
	if (!header_ok(&c->head, c->ring->ring_len))
		return bad(c->b, c->ring->id, "its ring is damaged");
	/* The request, pointers to it, and room for events must fit into the place of the ring. */
	c->batch = (c->ring->ring_len - (uint32_t)sizeof(struct iocb)) / (sizeof(uint64_t) + EVENT_LEN);
	c->batch = MIN(MIN(c->batch, c->head.nr / 4), BATCH_MAX);
	r = plan_put(c->b, &zero, sizeof(zero), &c->id);
	r = r ?: put_scratch(c, ring);
	r = r ?: call(c, &(struct plan_call){
		.nr = __NR_io_setup, .fd = -1, .data_args = 1 << 1, .args = { c->ring->nr_req, c->id },
	}, "make it (the sysctl fs.aio-max-nr limits how many there are)");
	r = r ?: advance(c);
	return r ?: settle_in(c);
}

static int one(struct plan_build *b, const AioRingEntry *ring)
{
	_cleanup_free_ char *buf = calloc(1, ring->ring_len);
	/* Numbers up to the program's highest are free meanwhile. */
	struct context c = { .b = b, .ring = ring, .fd = b->task->fds.n ? (int)b->task->fds.v[0]->fd : NO_FDS_NUMBER };
	int r;

	if (!buf)
		return op_nomem(b->op);
	r = read_ring(b, ring, buf);
	return r ?: make(&c, buf);
}

/* Each context has exactly one area: else ring_len and id were not checked. */
static int check_areas(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	size_t n = 0;

	for (size_t i = 0; i < mm->n_vmas; i++)
		n += !(mm->vmas[i]->status & VMA_REGULAR) && (mm->vmas[i]->status & VMA_AIORING);
	return n == mm->n_aios ? 0 : bad(b, mm->aios[0]->id, "it has no area");
}

int aio_plan(struct plan_build *b)
{
	const MmEntry *mm = b->task->mm;
	int r = mm->n_aios ? check_areas(b) : 0;

	for (size_t i = 0; i < mm->n_aios && !r; i++) {
		r = check_size(b, mm->aios[i]);
		r = r ?: reserve(&(struct context){ .b = b, .ring = mm->aios[i] });
	}
	for (size_t i = 0; i < mm->n_aios && !r; i++)
		r = one(b, mm->aios[i]);
	return r;
}
