// SPDX-License-Identifier: MIT
/*
 * Verification of page images: a few threads, each with a buffer and an operation of its own, take pieces of 1 MiB until
 * none is left. What they find is collected, and told by the thread of the operation, with the task and the address.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include "lib/engine/verify.h"
#include "lib/image/pagein.h"
#include "lib/image/pages_reader.h"

#define STEP 16 /* blocks that are read at once */
#define MAX_THREADS 8
#define GROUP 128 /* images that are open at once */
#define MAX_TOLD 1000 /* damages of pages in a folder that are told one by one */
#define PE_PRESENT 4
#define PE_PARENT 1

struct bad_block {
	uint32_t pages_id;
	uint64_t block;
	unsigned n_pages;
	char *text;
	int code;
};

struct image {
	struct pagein *in;
	const struct block_file *f;
};

struct search {
	struct verify *v;
	struct image images[GROUP];
	size_t n_images;
	pthread_mutex_t lock; /* of what follows */
	size_t image;
	uint64_t block; /* the next one to be taken, in @image */
	int failure;	/* of a thread, which ends the search */
	struct bad_block bad[MAX_TOLD];
	size_t n_bad, untold;
};

/* ---- the threads */

static bool take(struct search *s, struct image **image, uint64_t *block, size_t *n)
{
	bool got = false;

	pthread_mutex_lock(&s->lock);
	while (!s->failure && s->image < s->n_images && !got) {
		*image = &s->images[s->image];
		*block = s->block;
		*n = MIN((uint64_t)STEP, (*image)->f->n - s->block);
		got = *n > 0;
		s->block += *n;
		if (!got) {
			s->image++;
			s->block = 0;
		}
	}
	pthread_mutex_unlock(&s->lock);
	return got;
}

static void note(struct search *s, struct op *op, const struct block_record *r, int code)
{
	struct bad_block *b;

	pthread_mutex_lock(&s->lock);
	if (code != CKPT_E_IMAGE && code != CKPT_E_SYS) {
		s->failure = s->failure ?: code;
	} else if (s->n_bad == MAX_TOLD) {
		s->untold++;
	} else {
		b = &s->bad[s->n_bad++];
		*b = (struct bad_block){ r->pages_id, r->block, r->n_pages, strdup(ckpt_err_message(op->err)), code };
	}
	pthread_mutex_unlock(&s->lock);
	op_forget(op);
}

static void search(struct search *s, struct op *op, char *buf)
{
	struct image *image = NULL;
	uint64_t block = 0;
	size_t n = 0;

	while (take(s, &image, &block, &n)) {
		int r = op_check_cancel(op) ?: pagein_check(op, image->in, block, n, buf);

		if (!r)
			continue;
		op_forget(op);
		for (size_t i = 0; i < n; i++) { /* which of them? */
			r = op_check_cancel(op) ?: pagein_check(op, image->in, block + i, 1, buf);
			if (r)
				note(s, op, &image->f->v[block + i], r);
		}
	}
}

static void *search_thread(void *arg)
{
	struct search *s = arg;
	struct op *main_op = s->v->op, op = { .cancel = main_op->cancel, .deadline_ns = main_op->deadline_ns,
					      .timeout_s = main_op->timeout_s, .opts = main_op->opts, .arena = arena_new() };
	_cleanup_free_ char *buf = malloc(STEP * BLOCK_BYTES);

	if (op.arena && buf)
		search(s, &op, buf);
	else
		note(s, &op, NULL, CKPT_E_NOMEM);
	arena_free(op.arena);
	ckpt_err_free(op.err);
	return NULL;
}

static unsigned thread_count(const struct search *s)
{
	uint64_t steps = 0;
	cpu_set_t set;
	unsigned n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = (unsigned)CPU_COUNT(&set);
	for (size_t i = 0; i < s->n_images; i++)
		steps += (s->images[i].f->n + STEP - 1) / STEP;
	return MAX(1u, (unsigned)MIN((uint64_t)MIN(n, MAX_THREADS), steps / 4));
}

/* Signals are for the threads of the program that calls us. */
static void run(struct search *s)
{
	pthread_t thread[MAX_THREADS];
	unsigned n = thread_count(s) - 1, started = 0;
	sigset_t all, old;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (started < n && pthread_create(&thread[started], NULL, search_thread, s) == 0)
		started++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	search_thread(s);
	for (unsigned i = 0; i < started; i++)
		pthread_join(thread[i], NULL);
}

/* ---- whose pages they are */

/* Pages of a page image that a pagemap puts at an address. */
struct owner {
	uint32_t pages_id;
	uint64_t first, n, addr;
	pid_t pid;	/* 0: shared memory */
	uint32_t shmid; /* then */
};

struct owners {
	ARRAY(struct owner) v;
	bool needs_parent;
};

static int read_owner(struct verify *v, struct owners *o, enum img_kind kind, uint64_t id)
{
	uint64_t first = 0, n;
	ProtobufCMessage *m;
	struct img_in *in;
	uint32_t pages_id = 0, flags;
	int r = img_open(v->op, v->dir, kind, id, &in);

	if (r)
		return r;
	while ((r = img_read(v->op, in, &m)) == 0) {
		const PagemapEntry *e = (const PagemapEntry *)m;
		struct owner *slot;

		if (m->descriptor == &pagemap_head__descriptor) {
			pages_id = ((const PagemapHead *)m)->pages_id;
			continue;
		}
		n = e->has_nr_pages ? e->nr_pages : e->compat_nr_pages;
		flags = e->has_flags ? e->flags : e->has_in_parent && e->in_parent ? PE_PARENT : PE_PRESENT;
		o->needs_parent = o->needs_parent || flags & PE_PARENT;
		if (!(flags & PE_PRESENT))
			continue;
		slot = ARRAY_ADD(v->op->arena, &o->v);
		if (!slot) {
			r = op_nomem(v->op);
			break;
		}
		*slot = (struct owner){ pages_id, first, n, e->vaddr, kind == IMG_PAGEMAP ? (pid_t)id : 0, (uint32_t)id };
		first += n;
	}
	img_in_close(in);
	return r == IMG_END ? 0 : r;
}

static void close_dir_p(DIR **d)
{
	if (*d)
		closedir(*d);
}

/* What cannot be read has been told before: then there are no owners. */
static void read_owners(struct verify *v, struct owners *o)
{
	int fd = openat(img_dir_fd(v->dir), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_(close_dir_p) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		unsigned long id;

		if (!img_name_known(e->d_name))
			continue;
		if (sscanf(e->d_name, "pagemap-shmem-%lu.img", &id) == 1)
			read_owner(v, o, IMG_SHMEM_PAGEMAP, id);
		else if (sscanf(e->d_name, "pagemap-%lu.img", &id) == 1)
			read_owner(v, o, IMG_PAGEMAP, id);
		op_forget(v->op);
	}
}

static const struct owner *owner_of(const struct owners *o, uint32_t pages_id, uint64_t first, uint64_t n)
{
	for (size_t i = 0; i < o->v.n; i++) {
		const struct owner *w = &o->v.v[i];

		if (w->pages_id == pages_id && w->first < first + n && first < w->first + w->n)
			return w;
	}
	return NULL;
}

/* ---- what was found */

static int by_place(const void *a, const void *b)
{
	const struct bad_block *x = a, *y = b;

	if (x->pages_id != y->pages_id)
		return x->pages_id < y->pages_id ? -1 : 1;
	return x->block < y->block ? -1 : x->block > y->block;
}

static void tell_block(struct verify *v, const struct owners *o, const struct bad_block *b)
{
	uint64_t first = b->block * BLOCK_PAGES, addr = 0, end;
	const struct owner *w = owner_of(o, b->pages_id, first, b->n_pages);
	char more[128] = "";

	if (w) {
		addr = w->addr + (MAX(first, w->first) - w->first) * PAGE_SIZE;
		end = w->addr + (MIN(first + b->n_pages, w->first + w->n) - w->first) * PAGE_SIZE;
		if (w->pid)
			snprintf(more, sizeof(more), " (task %d, from %#lx to %#lx)", w->pid, addr, end);
		else
			snprintf(more, sizeof(more), " (shared memory %u, from %#lx to %#lx)", w->shmid, addr, end);
	}
	op_fail(v->op, b->code, AT(.kind = "pages"), "%s", b->text ?: "a page image is damaged");
	verify_tell(v, v->op, w ? w->pid : 0, addr, more);
}

static void tell(struct search *s, const struct owners *o)
{
	struct verify *v = s->v;

	qsort(s->bad, s->n_bad, sizeof(s->bad[0]), by_place);
	for (size_t i = 0; i < s->n_bad; i++) {
		tell_block(v, o, &s->bad[i]);
		free(s->bad[i].text);
	}
	if (s->untold) {
		op_fail(v->op, CKPT_E_IMAGE, AT(.kind = "pages"), "%zu more blocks of pages are damaged", s->untold);
		verify_tell(v, v->op, 0, 0, "");
	}
}

/* ---- the images of a folder */

static int add_image(struct verify *v, struct search *s, const struct block_file *f)
{
	struct image *image = &s->images[s->n_images];
	int r = pagein_open(v->op, v->dir, f->pages_id, &image->in);

	if (r == IMG_ABSENT)
		r = op_fail(v->op, CKPT_E_IMAGE, AT(.kind = "pages"), "image pages-%u.img is missing", f->pages_id);
	if (r)
		return verify_damage(v, r) ? 0 : r;
	image->f = f;
	s->n_images++;
	v->stats->page_images++;
	for (size_t i = 0; i < f->n; i++) {
		v->stats->pages += f->v[i].n_pages - __builtin_popcount(f->v[i].punched);
		v->stats->page_bytes += f->v[i].stored;
	}
	return 0;
}

/* Page images that ckpt-blocks does not tell of. */
static int check_unknown(struct verify *v, const struct blocks *b)
{
	int fd = openat(img_dir_fd(v->dir), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
	_cleanup_(close_dir_p) DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	struct pagein *in;
	unsigned id;

	while (d && !r && (e = readdir(d))) {
		if (!img_name_known(e->d_name) || sscanf(e->d_name, "pages-%u.img", &id) != 1 || (b && blocks_file(b, id)))
			continue;
		r = pagein_open(v->op, v->dir, id, &in); /* refuses what should be known */
		if (r == 0) {
			pagein_close(in);
			v->stats->unknown++;
		}
		r = verify_damage(v, r) ? 0 : r;
	}
	return r;
}

/* Some images at a time: each is open meanwhile. */
static int check_group(struct search *s, const struct block_file *f, size_t n)
{
	int r = 0;

	s->n_images = 0;
	s->image = 0;
	s->block = 0;
	for (size_t i = 0; i < n && !r; i++)
		r = add_image(s->v, s, &f[i]);
	if (!r) {
		run(s);
		r = s->failure;
	}
	for (size_t i = 0; i < s->n_images; i++)
		pagein_close(s->images[i].in);
	if (r && !s->v->op->err && op_check_cancel(s->v->op) == 0)
		op_nomem(s->v->op);
	return r;
}

static int check_parent(struct verify *v, const struct owners *o)
{
	struct img_dir *parent = NULL;

	if (!o->needs_parent)
		return 0;
	if (img_dir_open_parent(v->op, v->dir, &parent) == IMG_ABSENT)
		return op_fail(v->op, CKPT_E_IMAGE, NULL, "some pages are in a parent, but there is no link parent to its folder");
	op_forget(v->op); /* whoever goes there will tell */
	img_dir_close(parent);
	return 0;
}

int verify_pages(struct verify *v)
{
	struct pages_reader *rd;
	struct owners o = { 0 };
	const struct blocks *b;
	struct search *s;
	int r;

	read_owners(v, &o);
	r = check_parent(v, &o);
	if (r && !verify_damage(v, r))
		return r;
	r = pages_reader_get(v->op, v->dir, &rd);
	if (r)
		return verify_damage(v, r) ? 0 : r;
	b = pages_reader_blocks(rd);
	s = op_new(v->op, struct search);
	if (!s)
		return CKPT_E_NOMEM;
	s->v = v;
	pthread_mutex_init(&s->lock, NULL);
	r = check_unknown(v, b);
	for (size_t i = 0; b && i < b->n_files && !r; i += GROUP)
		r = check_group(s, &b->files[i], MIN(b->n_files - i, (size_t)GROUP));
	tell(s, &o);
	return r;
}
