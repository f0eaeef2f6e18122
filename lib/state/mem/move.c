/* SPDX-License-Identifier: MIT */
/*
 * Which pages are moved: long runs of pages that nobody else has mapped, in areas that the task can read. The disk reads them
 * where they are, for which the kernel pins them; a page that a fork shares would be copied by that, so those take the other way.
 */
#include "lib/state/mem/move.h"

#include <fcntl.h>

#include "lib/image/gate.h"
#include "lib/image/pages_sink.h"
#include "lib/inject/mover.h"

#define MOVE_FROM (32ul << 20)	  /* of one task; less is copied before the mover is there */
#define RUN_MIN (256ul << 10)	  /* shorter ones cost a write of their own */
#define WINDOW (32ul << 20)	  /* ordered, not heard of yet; less where others go first */
#define ORDER (8ul << 20)	  /* asked for at once... */
#define ORDER_SMALL (1ul << 20)   /* ...where the rate is limited */
#define ENTRIES 8192		  /* of pagemap, read at once */
#define PM_EXCLUSIVE (1ull << 56)
#define PM_FILE (1ull << 61)
#define PM_PRESENT (1ull << 63)

struct moves {
	struct mover mover;
	struct task_dump *d;
	struct pages_out *out;
	ARRAY(struct mover_run) v; /* ascending in the image */
	uint64_t bytes;
	size_t at;		   /* of moves_at() */
	size_t run;		   /* to be ordered next: from @run_at on */
	uint64_t run_at;
	uint64_t ordered, heard;   /* bytes */
	bool last;		   /* everything was ordered */
	bool over;
	uint64_t *have;		   /* bit: this block of the image was moved */
	/* while planning */
	int pagemap;
	uint64_t *entry;
	struct mover_run open;
};

/* ---- what can be moved */

static bool movable(const struct proc_vma *v)
{
	return v->perms[0] == 'r' && v->perms[3] == 'p' && v->has_vmflags && !v->protection_key &&
	       !(v->vmflags & (VMF_IO | VMF_PF | VMF_MM | VMF_HT | VMF_SS));
}

/* Ends the run that is being collected: its whole blocks are moved. */
static int close_run(struct op *op, struct moves *m)
{
	struct mover_run *r = &m->open, *slot;
	uint64_t off = ALIGN_UP(r->off, (uint64_t)MOVER_BLOCK), end = ALIGN_DOWN(r->off + r->len, (uint64_t)MOVER_BLOCK);
	uint64_t addr = r->addr + (off - r->off);

	r->len = 0;
	if (end < off + RUN_MIN)
		return 0;
	slot = ARRAY_ADD(op->arena, &m->v);
	if (!slot)
		return op_nomem(op);
	*slot = (struct mover_run){ .addr = addr, .off = off, .len = end - off };
	m->bytes += slot->len;
	return 0;
}

static int add_page(struct op *op, struct moves *m, uint64_t addr, uint64_t off)
{
	int r = 0;

	if (m->open.len && (m->open.addr + m->open.len != addr || m->open.off + m->open.len != off))
		r = close_run(op, m);
	if (!m->open.len)
		m->open = (struct mover_run){ .addr = addr, .off = off };
	m->open.len += PAGE_SIZE;
	return r;
}

static bool is_exclusive(uint64_t entry)
{
	return (entry & (PM_PRESENT | PM_EXCLUSIVE | PM_FILE)) == (PM_PRESENT | PM_EXCLUSIVE);
}

/* [@start, @end) of the task is at @off in the image. */
static int plan_range(struct op *op, struct moves *m, uint64_t start, uint64_t end, uint64_t off)
{
	int r = 0;

	while (start < end && !r) {
		size_t n = MIN((end - start) / PAGE_SIZE, (uint64_t)ENTRIES);
		ssize_t got = pread(m->pagemap, m->entry, n * sizeof(*m->entry), (off_t)(start / PAGE_SIZE * sizeof(*m->entry)));

		if (got <= 0)
			return 0; /* then it is copied */
		n = (size_t)got / sizeof(*m->entry);
		for (size_t i = 0; i < n && !r; i++)
			if (is_exclusive(m->entry[i]))
				r = add_page(op, m, start + i * PAGE_SIZE, off + i * PAGE_SIZE);
		start += n * PAGE_SIZE;
		off += n * PAGE_SIZE;
		r = r ?: op_check_cancel(op);
	}
	return r;
}

/* Areas and entries both ascend. */
static int plan(struct op *op, struct moves *m)
{
	const struct snap_pagemap *pm = &m->d->task->pagemap;
	const struct proc_maps *maps = m->d->maps;
	uint64_t off = 0;
	size_t area = 0;
	int r = 0;

	for (size_t i = 0; i < pm->entries.n && !r; i++) {
		const PagemapEntry *e = pm->entries.v[i];
		uint64_t start = e->vaddr, end = start + e->nr_pages * PAGE_SIZE;

		if (!(e->flags & PE_PRESENT))
			continue;
		while (area < maps->vmas.n && maps->vmas.v[area].end <= start)
			area++;
		for (size_t k = area; k < maps->vmas.n && maps->vmas.v[k].start < end && !r; k++) {
			const struct proc_vma *v = &maps->vmas.v[k];
			uint64_t from = MAX(start, v->start), to = MIN(end, v->end);

			if (movable(v) && to > from)
				r = plan_range(op, m, from, to, off + (from - start));
		}
		/* Whoever copies goes by entries: a stretch that is left out ends where one does. */
		r = r ?: close_run(op, m);
		off += end - start;
	}
	return r;
}

/* Only a stopped task, and its memory itself. */
static bool possible(const struct op *op, const struct task_dump *d, const struct pages_out *out)
{
	return !op->opts->copy_pages && !d->copy && out->bytes >= MOVE_FROM && d->target->threads.n && d->target->threads.v[0].stopped &&
	       d->parasite->g.syscall_ret && pages_direct(out) >= 0;
}

static int start(struct op *op, struct moves *m)
{
	int r = mover_start(op, m->d->target, m->d->parasite, m->d->maps, pages_direct(m->out), &m->mover);

	if (r)
		return r;
	m->have = op_alloc(op, (m->out->bytes / MOVER_BLOCK / 64 + 1) * sizeof(*m->have));
	r = m->have ? moves_poll(op, m) : CKPT_E_NOMEM;
	if (r)
		moves_end(op, m);
	else
		log_debug(op, "task %d: %lu of %lu MiB are written from where they are, in %zu runs", m->d->task->host, m->bytes >> 20,
			  (unsigned long)(m->out->bytes >> 20), m->v.n);
	return r;
}

int moves_begin(struct op *op, struct task_dump *d, struct pages_out *out, struct moves **ret)
{
	_cleanup_close_ int pagemap = -1;
	char path[64];
	struct moves *m;
	int r;

	*ret = NULL;
	if (!possible(op, d, out))
		return 0;
	if (move_is_limited(op, d->target->pid)) {
		log_info(op, "task %d: its pages are copied to be written, since its cgroup limits what it may write", d->task->host);
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/%d/pagemap", d->target->pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	if (pagemap < 0)
		return op_errno(op, errno, AT(.pid = d->task->host), "open %s", path);
	m = op_new(op, struct moves);
	if (!m)
		return CKPT_E_NOMEM;
	m->d = d;
	m->out = out;
	m->pagemap = pagemap;
	m->mover.sock = -1;
	m->entry = op_alloc(op, ENTRIES * sizeof(*m->entry));
	r = m->entry ? plan(op, m) : CKPT_E_NOMEM;
	if (r || m->bytes < MOVE_FROM)
		return r;
	r = start(op, m);
	if (!r)
		*ret = m;
	return r == MOVER_REFUSED ? 0 : r;
}

uint64_t moves_at(struct moves *m, uint64_t off, uint64_t *until)
{
	*until = UINT64_MAX;
	while (m && m->at < m->v.n && m->v.v[m->at].off + m->v.v[m->at].len <= off)
		m->at++;
	if (!m || m->at == m->v.n)
		return 0;
	if (m->v.v[m->at].off <= off)
		return m->v.v[m->at].off + m->v.v[m->at].len - off;
	*until = m->v.v[m->at].off;
	return 0;
}

/* ---- orders, and what comes back */

static bool have(const struct moves *m, uint64_t block)
{
	return m->have[block / 64] >> block % 64 & 1;
}

static int heard(struct op *op, struct moves *m, const struct mover_done *done)
{
	int r = 0;

	m->heard += done->len;
	if (done->result != (int32_t)done->len || done->off % MOVER_BLOCK || done->len % MOVER_BLOCK || done->len > MOVER_CHUNK ||
	    done->off + done->len > m->out->bytes) {
		log_debug(op, "task %d: a write of %u bytes at %lu of %s gave %d", m->d->task->host, done->len,
			  (unsigned long)done->off, m->out->name, done->result);
		return 0; /* it is copied in the end, and then the error is the disk's own */
	}
	for (uint32_t i = 0; i < done->len / MOVER_BLOCK && !r; i++) {
		uint64_t block = done->off / MOVER_BLOCK + i;

		m->have[block / 64] |= 1ull << block % 64;
		r = pages_moved(op, m->out, block, done->sum[i]);
	}
	return r;
}

static int hear(struct op *op, struct moves *m, bool wait)
{
	struct mover_done done;
	int r = 0;

	while (!m->over && !r) {
		r = mover_take(op, &m->mover, wait, &done);
		if (r == 0)
			r = heard(op, m, &done);
		else if (r == MOVER_ENDED)
			m->over = true;
		wait = false;
	}
	return MIN(r, 0);
}

/* The next piece, of @most bytes at most, and where that ends. */
static struct mover_run next_piece(const struct moves *m, uint64_t most, size_t *run, uint64_t *at)
{
	const struct mover_run *v = &m->v.v[*run];
	struct mover_run piece = { v->addr + *at, v->off + *at, MIN(v->len - *at, most) };

	*at += piece.len;
	if (*at == v->len) {
		*at = 0;
		++*run;
	}
	return piece;
}

/* How much may be ordered now, in whole blocks. */
static uint64_t room(const struct op *op, const struct moves *m)
{
	uint64_t window = gate_crowded(m->out->dir->gate) ? GATE_CROWDED_BYTES : WINDOW, waiting = m->ordered - m->heard;
	uint64_t most = op->opts->io_max ? ORDER_SMALL : ORDER;

	return waiting >= window ? 0 : MIN(window - waiting, most);
}

static int order(struct op *op, struct moves *m)
{
	struct mover_run runs[MOVER_RUNS];
	uint64_t at = m->run_at, left = room(op, m), bytes = 0;
	size_t run = m->run, n = 0;
	int r;

	for (; run < m->v.n && n < MOVER_RUNS && left; left -= runs[n++].len) {
		runs[n] = next_piece(m, left, &run, &at);
		bytes += runs[n].len;
	}
	if (!n)
		return MOVER_FULL;
	r = gate_pass(op, m->out->dir->gate, bytes);
	r = r ?: mover_order(op, &m->mover, runs, n, run == m->v.n);
	if (r)
		return r;
	m->run = run;
	m->run_at = at;
	m->ordered += bytes;
	m->last = run == m->v.n;
	return 0;
}

static int step(struct op *op, struct moves *m, bool wait)
{
	int r = hear(op, m, wait);

	while (!r && !m->over && !m->last)
		r = order(op, m);
	return MIN(r, 0);
}

int moves_poll(struct op *op, struct moves *m)
{
	return m ? step(op, m, false) : 0;
}

/* ---- the end */

static int copy_block(struct op *op, struct moves *m, const struct mover_run *run, uint64_t block)
{
	uint64_t off = block * MOVER_BLOCK;
	size_t cap;
	void *buf;
	int r = pages_buffer(op, m->out, &buf, &cap);

	r = r ?: target_read(op, m->d->target, (struct raddr){ run->addr + (off - run->off) }, buf, MOVER_BLOCK);
	return r ?: pages_submit_block(op, m->out, block);
}

static int copy_rest(struct op *op, struct moves *m)
{
	uint64_t n = 0;
	int r = 0;

	for (size_t i = 0; i < m->v.n && !r; i++) {
		const struct mover_run *run = &m->v.v[i];

		for (uint64_t b = run->off / MOVER_BLOCK; b < (run->off + run->len) / MOVER_BLOCK && !r; b++) {
			if (have(m, b))
				continue;
			n++;
			r = copy_block(op, m, run, b) ?: op_check_cancel(op);
		}
	}
	if (n)
		log_warn(op, "task %d: %lu MiB of its memory had to be copied: writing it from where it is did not work%s%s",
			 m->d->task->host, (unsigned long)(n * MOVER_BLOCK >> 20), m->mover.result ? ": " : "",
			 m->mover.result ? strerror(-m->mover.result) : "");
	return r;
}

int moves_finish(struct op *op, struct moves *m)
{
	int r = 0;

	while (m && !m->over && !r)
		r = step(op, m, true) ?: op_check_cancel(op);
	return !m ? 0 : r ?: moves_end(op, m) ?: copy_rest(op, m);
}

int moves_end(struct op *op, struct moves *m)
{
	if (!m)
		return 0;
	m->over = true;
	return mover_end(op, &m->mover);
}
