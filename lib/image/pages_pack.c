// SPDX-License-Identifier: MIT
/*
 * The packing sink. The thread of the operation fills buffers of some blocks; workers pack them, take the next free place in
 * the image and write there, through the page cache, which is faster than they are. Their records are added to ckpt-blocks by
 * the thread of the operation when it takes the buffers back. Memory is that of the buffers.
 */
#include "lib/image/pages_pack.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

#include "lib/image/codec.h"
#include "lib/image/gate.h"
#include "lib/image/pack_dups.h"

#define JOB_BLOCKS 16
#define JOB_BYTES (JOB_BLOCKS * BLOCK_BYTES)
#define ROOM (256ul << 10) /* that a buffer has at least when it is given out */
#define MAX_WORKERS 8

struct pack_out {
	struct pages_out base;
	struct pack_out *next;
	int fd;
	uint64_t end;	  /* of what was given a place, under the lock */
	unsigned in_work; /* jobs, as the thread of the operation knows it */
	bool finished;
	struct pack_job *job; /* that is being filled */
};

enum job_state { JOB_FREE, JOB_GIVEN, JOB_QUEUED, JOB_RUNNING, JOB_DONE };

struct pack_job {
	enum job_state state;
	struct pack_job *next;
	struct pack_out *out;
	uint64_t first; /* page */
	size_t len;
	int eno;
	uint64_t stored;
	struct block_record rec[JOB_BLOCKS];
	char *in;
};

struct pack_pool {
	enum block_codec codec;
	int level;
	struct dups *dups;
	struct pack_out *outs; /* with jobs in work, or not finished */
	struct pack_job *jobs;
	unsigned n_workers;
	pthread_t workers[MAX_WORKERS];
	pthread_mutex_t lock; /* of the states of jobs, and of pack_out.end */
	pthread_cond_t queued, done;
	bool stop;
	uint64_t taken, stored; /* bytes of jobs that are done, before and after */
};

static struct pack_out *pack_out(struct pages_out *out)
{
	return (struct pack_out *)out;
}

bool pack_parse(const char *text, enum block_codec *codec, int *level)
{
	if (!strcmp(text, "dups")) {
		*codec = BLOCK_PLAIN;
		*level = 0;
		return true;
	}
	return codec_parse(text, codec, level);
}

/* ---- workers */

struct worker {
	struct pack_pool *pool;
	struct codec *codec;
	char *out; /* a packed job */
	char *own; /* the pages of a block that are not elsewhere */
};

static void collect_own(const struct block_record *r, const char *pages, char *own)
{
	for (unsigned k = 0; k < r->n_pages; k++)
		if (!(r->dups >> k & 1)) {
			memcpy(own, pages + k * PAGE_SIZE, PAGE_SIZE);
			own += PAGE_SIZE;
		}
}

/* Packs one block to @to, which has room for it as it is. Returns how much it is. */
static size_t pack_block(struct worker *w, struct block_record *r, const char *pages, char *to)
{
	struct block_ref refs[BLOCK_PAGES];
	size_t n, left = r->n_pages * PAGE_SIZE, packed;

	r->sum = block_sum_of(r, pages);
	r->dups = dups_find(w->pool->dups, r->pages_id, r->block * BLOCK_PAGES, pages, r->n_pages, refs);
	n = __builtin_popcount(r->dups) * sizeof(refs[0]);
	memcpy(to, refs, n);
	if (r->dups) {
		collect_own(r, pages, w->own);
		pages = w->own;
		left -= __builtin_popcount(r->dups) * PAGE_SIZE;
	}
	if (!left)
		return n;
	/* What hardly shrinks is not worth the unpacking. */
	packed = codec_pack(w->codec, pages, left, to + n, left - left / 16);
	r->codec = packed ? w->pool->codec : BLOCK_PLAIN;
	if (!packed)
		memcpy(to + n, pages, left);
	return n + (packed ?: left);
}

static int write_at(int fd, const char *p, size_t n, uint64_t off)
{
	while (n > 0) {
		ssize_t w = pwrite(fd, p, n, (off_t)off);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? errno : ENOSPC;
		p += w;
		n -= (size_t)w;
		off += (uint64_t)w;
	}
	return 0;
}

static void do_job(struct worker *w, struct pack_job *j)
{
	size_t used = 0, i = 0;
	uint64_t at;

	for (size_t done = 0; done < j->len; done += BLOCK_BYTES, i++) {
		struct block_record *r = &j->rec[i];

		*r = (struct block_record){ .pages_id = j->out->base.pages_id, .block = j->first / BLOCK_PAGES + i,
					    .n_pages = MIN(j->len - done, BLOCK_BYTES) / PAGE_SIZE, .offset = used };
		r->stored = pack_block(w, r, j->in + done, w->out + used);
		r->sum ^= block_seal(r, w->out + used);
		used += r->stored;
	}
	pthread_mutex_lock(&w->pool->lock);
	at = j->out->end;
	j->out->end += used;
	pthread_mutex_unlock(&w->pool->lock);
	while (i-- > 0)
		j->rec[i].offset += at;
	j->stored = used;
	j->eno = write_at(j->out->fd, w->out, used, at);
}

static struct pack_job *with_state(const struct pack_pool *pool, enum job_state state)
{
	struct pack_job *oldest = NULL;

	for (struct pack_job *j = pool->jobs; j; j = j->next)
		if (j->state == state && (!oldest || j->first < oldest->first))
			oldest = j;
	return oldest;
}

static void *work(void *arg)
{
	struct pack_pool *pool = arg;
	struct worker w = { .pool = pool, .codec = codec_new(pool->codec, pool->level), .out = malloc(JOB_BYTES),
			    .own = malloc(BLOCK_BYTES) };

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct pack_job *j = with_state(pool, JOB_QUEUED);

		if (pool->stop)
			break;
		if (!j) {
			pthread_cond_wait(&pool->queued, &pool->lock);
			continue;
		}
		j->state = JOB_RUNNING;
		pthread_mutex_unlock(&pool->lock);
		if (w.codec && w.out && w.own)
			do_job(&w, j);
		else
			j->eno = ENOMEM;
		pthread_mutex_lock(&pool->lock);
		j->state = JOB_DONE;
		pthread_cond_signal(&pool->done);
	}
	pthread_mutex_unlock(&pool->lock);
	codec_free(w.codec);
	free(w.out);
	free(w.own);
	return NULL;
}

/* ---- the pool */

static unsigned worker_count(void)
{
	cpu_set_t set;
	int n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = CPU_COUNT(&set);
	return (unsigned)MAX(1, MIN(n, MAX_WORKERS));
}

static bool start_workers(struct pack_pool *pool, unsigned n)
{
	sigset_t all, old;

	sigfillset(&all); /* signals are for the threads of the program that calls us */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (pool->n_workers < n && pthread_create(&pool->workers[pool->n_workers], NULL, work, pool) == 0)
		pool->n_workers++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pool->n_workers > 0;
}

int pages_pack(struct op *op, struct img_dir *dir, const char *how)
{
	struct pack_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return op_nomem(op);
	if (!pack_parse(how, &pool->codec, &pool->level)) {
		free(pool);
		return op_fail(op, CKPT_E_INVAL, AT(.hint = "lz4, zstd, zstd:LEVEL (1 to 19) or dups"),
			       "'%s' is no way to compress pages", how);
	}
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->queued, NULL);
	pthread_cond_init(&pool->done, NULL);
	dir->pack = pool;
	dir->sink = &pages_sink_pack;
	return 0;
}

bool pages_are_packed(const struct img_dir *dir)
{
	return dir->sink == &pages_sink_pack;
}

static struct pack_job *add_job(struct pack_pool *pool)
{
	struct pack_job *j = calloc(1, sizeof(*j));

	if (j)
		j->in = aligned_alloc(PAGE_SIZE, JOB_BYTES);
	if (!j || !j->in) {
		free(j);
		return NULL;
	}
	pthread_mutex_lock(&pool->lock);
	j->next = pool->jobs;
	pool->jobs = j;
	pthread_mutex_unlock(&pool->lock);
	return j;
}

/* With the first page image: a check of the options must not cost buffers and threads. */
static int pool_start(struct op *op, struct pack_pool *pool)
{
	unsigned n = worker_count();

	if (pool->n_workers)
		return 0;
	pool->dups = pool->dups ?: dups_new();
	if (!pool->dups)
		return op_nomem(op);
	for (unsigned i = 0; i < 2 * n + 1; i++)
		if (!add_job(pool))
			return op_nomem(op);
	return start_workers(pool, n) ? 0 : op_nomem(op);
}

void pack_pool_free(struct img_dir *dir)
{
	struct pack_pool *pool = TAKE_PTR(dir->pack);
	struct pack_job *j;

	if (!pool)
		return;
	dir->sink = pages_are_packed(dir) ? NULL : dir->sink;
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->queued);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n_workers; i++)
		pthread_join(pool->workers[i], NULL);
	for (struct pack_out *out = pool->outs; out; out = out->next)
		close_fd_p(&out->fd);
	while ((j = pool->jobs)) {
		pool->jobs = j->next;
		free(j->in);
		free(j);
	}
	dups_free(pool->dups);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->queued);
	pthread_cond_destroy(&pool->done);
	free(pool);
}

/* ---- jobs, in the thread of the operation */

static void out_done(struct pack_pool *pool, struct pack_out *out)
{
	for (struct pack_out **p = &pool->outs; *p; p = &(*p)->next)
		if (*p == out) {
			*p = out->next;
			break;
		}
	img_made_done(out->base.dir, out->base.name, TAKE_FD(out->fd));
}

static void set_state(struct pack_pool *pool, struct pack_job *j, enum job_state state)
{
	pthread_mutex_lock(&pool->lock);
	j->state = state;
	pthread_mutex_unlock(&pool->lock);
}

static void set_free(struct pack_pool *pool, struct pack_job *j)
{
	j->out = NULL;
	j->len = 0;
	j->eno = 0;
	set_state(pool, j, JOB_FREE);
}

/* What a worker has done: records to ckpt-blocks, or its failure told. */
static int take_back(struct op *op, struct pack_pool *pool, struct pack_job *j)
{
	struct pack_out *out = j->out;
	int r = 0;

	out->in_work--;
	out->base.dir->bytes += j->stored;
	pool->taken += j->len;
	pool->stored += j->stored;
	if (j->eno)
		r = op_errno(op, j->eno, NULL, "write image %s", out->base.name);
	for (size_t i = 0; i * BLOCK_BYTES < j->len && r == 0; i++)
		r = block_add(op, out->base.dir, &j->rec[i]);
	set_free(pool, j);
	if (out->finished && !out->in_work)
		out_done(pool, out);
	return r;
}

/* Takes back what is done, then a free job, if there is one: *@ret, else NULL. Waits for either where @wait. */
static int harvest(struct op *op, struct pack_pool *pool, bool wait, struct pack_job **ret)
{
	struct timespec until;
	struct pack_job *j;
	int r;

	for (;;) {
		pthread_mutex_lock(&pool->lock);
		j = with_state(pool, JOB_DONE);
		*ret = with_state(pool, JOB_FREE);
		if (!j && !*ret && wait) {
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_nsec += 100000000; /* to look whether we are to stop */
			if (until.tv_nsec >= 1000000000) {
				until.tv_sec++;
				until.tv_nsec -= 1000000000;
			}
			pthread_cond_timedwait(&pool->done, &pool->lock, &until);
		}
		pthread_mutex_unlock(&pool->lock);
		r = j ? take_back(op, pool, j) : op_check_cancel(op);
		if (r || (!j && (*ret || !wait)))
			return r;
	}
}

/* Gives a buffer to the workers, when it is our turn to write what it will probably shrink to. */
static int enqueue(struct op *op, struct pack_pool *pool, struct pack_out *out, struct pack_job *j)
{
	double ratio = pool->taken ? (double)pool->stored / (double)pool->taken : 1;
	int r = gate_pass(op, out->base.dir->gate, (uint64_t)(ratio * (double)j->len));

	if (r)
		return r;
	out->in_work++;
	set_state(pool, j, JOB_QUEUED);
	pthread_cond_signal(&pool->queued);
	return 0;
}

static bool is_busy(struct pack_pool *pool)
{
	bool busy;

	pthread_mutex_lock(&pool->lock);
	busy = with_state(pool, JOB_QUEUED) || with_state(pool, JOB_RUNNING) || with_state(pool, JOB_DONE);
	pthread_mutex_unlock(&pool->lock);
	return busy;
}

/* A buffer for more of @out. Where all are with images that are not finished, there must be one more. */
static int new_job(struct op *op, struct pack_pool *pool, struct pack_out *out, struct pack_job **ret)
{
	int r = harvest(op, pool, false, ret);

	if (!r && !*ret && !is_busy(pool)) {
		*ret = add_job(pool);
		r = *ret ? 0 : op_nomem(op);
	} else if (!r && !*ret) {
		r = harvest(op, pool, true, ret);
	}
	if (r)
		return r;
	(*ret)->out = out;
	set_state(pool, *ret, JOB_GIVEN);
	return 0;
}

/* ---- the sink */

static int pack_create(struct op *op, struct img_dir *dir, struct pages_out **ret)
{
	struct pack_out *out = op_new(op, struct pack_out);
	int r = out ? pool_start(op, dir->pack) : CKPT_E_NOMEM;

	if (r)
		return r;
	out->fd = -1;
	*ret = &out->base;
	return 0;
}

static int pack_begin(struct op *op, struct pages_out *base)
{
	struct pack_out *out = pack_out(base);
	int r = img_make(op, base->dir, base->name, &out->fd);

	if (r)
		return r;
	out->next = base->dir->pack->outs;
	base->dir->pack->outs = out;
	return 0;
}

static int pack_buffer(struct op *op, struct pages_out *base, void **buf, size_t *cap)
{
	struct pack_out *out = pack_out(base);
	int r;

	if (!out->job) {
		r = new_job(op, base->dir->pack, out, &out->job);
		if (r)
			return r;
		out->job->first = base->off / PAGE_SIZE;
	}
	*buf = out->job->in + out->job->len;
	*cap = JOB_BYTES - out->job->len;
	return 0;
}

static int pack_submit(struct op *op, struct pages_out *base, size_t len)
{
	struct pack_out *out = pack_out(base);
	struct pack_job *j = out->job, *next = NULL;
	size_t part;
	int r;

	j->len += len;
	if (JOB_BYTES - j->len >= ROOM)
		return 0;
	part = j->len % BLOCK_BYTES;
	j->len -= part;
	if (part) { /* it goes on in another buffer */
		r = new_job(op, base->dir->pack, out, &next);
		if (r)
			return r;
		next->first = j->first + j->len / PAGE_SIZE;
		memcpy(next->in, j->in + j->len, part);
		next->len = part;
	}
	out->job = next;
	return enqueue(op, base->dir->pack, out, j);
}

static int pack_finish(struct op *op, struct pages_out *base)
{
	struct pack_out *out = pack_out(base);
	struct pack_pool *pool = base->dir->pack;
	struct pack_job *j = TAKE_PTR(out->job);
	int r = 0;

	out->finished = true;
	if (j && j->len)
		r = enqueue(op, pool, out, j);
	else if (j)
		set_free(pool, j);
	if (!out->in_work)
		out_done(pool, out);
	return r;
}

static int pack_settle(struct op *op, struct img_dir *dir)
{
	struct pack_pool *pool = dir->pack;
	struct pack_job *j;
	int r = 0;

	while (pool && pool->outs && !r) {
		if (!pool->outs->in_work)
			return op_fail(op, CKPT_E_INTERNAL, NULL, "image %s was not finished", pool->outs->base.name);
		r = harvest(op, pool, true, &j);
	}
	return r;
}

const struct pages_sink pages_sink_pack = {
	.in_folder = true,
	.adds_blocks = true,
	.create = pack_create,
	.begin = pack_begin,
	.buffer = pack_buffer,
	.submit = pack_submit,
	.finish = pack_finish,
	.settle = pack_settle,
};
