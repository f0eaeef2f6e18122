// SPDX-License-Identifier: MIT
/*
 * Pages out of page images, checked. Those that lie in a file as they are we read here: through the page cache where they are
 * in it, else past it. Other forms are the business of lib/image/pagein.c.
 */
#include <fcntl.h>

#include "lib/engine/restore_fill.h"
#include "lib/image/blocks.h"
#include "lib/image/page_sums.h"
#include "lib/kernel/uapi.h"

struct cache_range {
	uint64_t off, len;
};

struct cache_stat {
	uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

/* How many pages of the range are in the page cache. All of them where the kernel does not tell. */
static uint64_t cached(int fd, uint64_t first, uint64_t n)
{
	struct cache_range range = { first * PAGE_SIZE, n * PAGE_SIZE };
	struct cache_stat st;

	return syscall(__NR_cachestat, fd, &range, &st, 0) == 0 ? st.cached : n;
}

static int open_source(struct op *op, struct fill *f, uint32_t index)
{
	struct fill_source *s = &f->sources[index];

	(void)op;
	s->in = f->t->r->s.sources.v[index];
	s->fd = pagein_plain(s->in);
	s->direct = -1;
	return 0;
}

/* Past the page cache where most of what we need is not in it. */
static void look_at_cache(struct fill *f)
{
	uint64_t pages = 0, there = 0;
	char path[32];

	for (size_t i = 0, next; i < f->n; i = next) {
		int fd = f->sources[f->v[i].source].fd;
		uint64_t n = 0;

		/* One question for all pieces that lie together. */
		for (next = i; next < f->n && f->v[next].source == f->v[i].source && f->v[next].first == f->v[i].first + n; next++)
			n += f->v[next].n_pages;
		if (fd < 0)
			continue;
		pages += n;
		there += MIN(cached(fd, f->v[i].first, n), n);
	}
	f->cold = pages && there < pages - pages / 8;
	for (size_t i = 0; i < f->n_sources && f->cold; i++) {
		if (!f->sources[i].in || f->sources[i].fd < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", f->sources[i].fd);
		f->sources[i].direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	}
}

int fill_sources_open(struct op *op, struct fill *f)
{
	int r = 0;

	f->n_sources = f->t->r->s.sources.n;
	f->sources = calloc(f->n_sources + 1, sizeof(*f->sources));
	if (!f->sources)
		return op_nomem(op);
	for (size_t i = 0; i < f->n && !r; i++)
		if (!f->sources[f->v[i].source].in)
			r = open_source(op, f, f->v[i].source);
	if (!r)
		look_at_cache(f);
	return r;
}

void fill_sources_close(struct fill *f)
{
	for (size_t i = 0; f->sources && i < f->n_sources; i++)
		if (f->sources[i].in)
			close_fd_p(&f->sources[i].direct);
	free(f->sources);
	f->sources = NULL;
}

static int read_pages(struct filler *w, const struct fill_source *s, uint64_t first, uint64_t n)
{
	int fd = s->direct >= 0 && cached(s->fd, first, n) < n ? s->direct : s->fd;

	for (uint64_t done = 0, len = n * PAGE_SIZE; done < len;) {
		ssize_t got = pread(fd, w->buf + done, len - done, (off_t)(first * PAGE_SIZE + done));

		if (got < 0 && errno == EINTR)
			continue;
		/* Not every file system, and none that is asked for a page of a larger sector. */
		if (got < 0 && errno == EINVAL && fd == s->direct) {
			fd = s->fd;
			continue;
		}
		if (got < 0)
			return op_errno(&w->op, errno, AT(.kind = "pages"), "read image %s", pagein_name(s->in));
		if (got == 0)
			return op_fail(&w->op, CKPT_E_IMAGE, AT(.kind = "pages"), "image %s became shorter", pagein_name(s->in));
		done += (uint64_t)got;
	}
	return 0;
}

/* Where page @page of the image belongs; 0: nobody wants it. */
static uint64_t address_of(const struct chunk *c, uint64_t page)
{
	for (size_t i = 0; i < c->n_parts; i++) {
		const struct chunk_part *p = &c->parts[i];
		uint64_t first = p->piece->first + p->from;

		if (page >= first && page - first < p->n)
			return p->piece->addr + (p->from + (page - first)) * PAGE_SIZE;
	}
	return 0;
}

static int bad_block(struct filler *w, const struct chunk *c, const struct fill_source *s, uint64_t page, const char *what)
{
	uint64_t addr = address_of(c, page);

	for (unsigned k = 0; k < BLOCK_PAGES && !addr; k++)
		addr = address_of(c, page + k);
	return op_fail(&w->op, CKPT_E_IMAGE, AT(.pid = w->f->pid, .addr = addr, .kind = "pages"),
		       "image %s is damaged: page %lu (memory at %#lx): %s", pagein_name(s->in), page, addr, what);
}

/* A page that was freed since is no page of anybody. */
static int check_punched(struct filler *w, const struct chunk *c, const struct fill_source *s, const struct block_record *r,
			 uint64_t first)
{
	for (unsigned k = 0; k < BLOCK_PAGES && r->punched; k++)
		if ((r->punched >> k & 1) && address_of(c, first + k))
			return bad_block(w, c, s, first + k, "it was freed by deduplication, and is needed");
	return 0;
}

/* Blocks [@first, @first + @n pages) are in w->buf. What nothing is known of is taken as it is. */
static int check(struct filler *w, const struct chunk *c, const struct fill_source *s, uint64_t first, uint64_t n)
{
	const struct block_file *blocks = pagein_blocks(s->in);
	int r = 0;

	for (uint64_t at = 0; blocks && at < n && !r; at += BLOCK_PAGES) {
		uint64_t block = (first + at) / BLOCK_PAGES;
		const struct block_record *rec;

		if (block >= blocks->n)
			return bad_block(w, c, s, first + at, "it was not there when the checkpoint was made");
		rec = &blocks->v[block];
		if (rec->n_pages > n - at)
			return bad_block(w, c, s, first + at, "the image is too short");
		r = check_punched(w, c, s, rec, first + at);
		if (!r && page_sums(w->buf + at * PAGE_SIZE, rec->n_pages, rec->punched) != rec->sum)
			r = bad_block(w, c, s, first + at, "it, or one of the 15 after it, is not what was written");
	}
	return r;
}

int fill_read(struct filler *w, const struct chunk *c, const char **pages)
{
	const struct fill_source *s = &w->f->sources[c->source];
	uint64_t first = ALIGN_DOWN(c->first, (uint64_t)BLOCK_PAGES), end = ALIGN_UP(c->first + c->n, (uint64_t)BLOCK_PAGES);
	int r;

	*pages = w->buf;
	if (s->fd < 0)
		return pagein_read(&w->op, s->in, c->first, c->n, w->buf);
	end = MIN(end, pagein_pages(s->in));
	*pages = w->buf + (c->first - first) * PAGE_SIZE;
	r = read_pages(w, s, first, end - first);
	return r ?: check(w, c, s, first, end - first);
}
