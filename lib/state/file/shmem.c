/* SPDX-License-Identifier: MIT */
/*
 * Content of shared memory objects: pagemap-shmem-N and a file of pages, with holes left out. Objects of huge pages
 * (hugetlbfs) can be read like files, but neither written nor asked for holes.
 */
#include "lib/state/file/shmem.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include "lib/state/file/core.h"
#include "lib/state/pieces.h"

#define SHMEM_MAX (1ull << 47)
#define CHUNK (64ull << 20)
#define COMPARE_BYTES (1u << 20)

uint64_t shmem_page_size(const MemfdInodeEntry *m)
{
	uint32_t flag = m->has_hugetlb_flag ? m->hugetlb_flag : 0, shift = flag >> SHMEM_HUGE_SHIFT & 0x3f;

	if (!(flag & SHMEM_MFD_HUGETLB))
		return PAGE_SIZE;
	if (shift && (shift < PAGE_SHIFT || shift > 34))
		return 0;
	return 1ull << (shift ?: 21); /* without a size: the default one, which nearly everywhere is this */
}

uint32_t shmem_huge_flag(uint64_t size)
{
	return SHMEM_MFD_HUGETLB | (uint32_t)__builtin_ctzl(size) << SHMEM_HUGE_SHIFT;
}

int shmem_fail(struct op *op, const struct snap_shmem *sh, const char *what)
{
	const char *hint = errno == ENOMEM && sh->msg->has_hugetlb_flag ? "it needs free huge pages: raise vm.nr_hugepages" : NULL;

	return op_errno(op, errno, AT(.kind = "shared memory", .hint = hint), "cannot %s shared memory object %s of %lu bytes", what,
			sh->msg->name, (unsigned long)sh->msg->size);
}

bool file_is_external(const struct op *op, const char *key)
{
	return external_wanted(op, key);
}

/* ------------------------------------------------------------------------------------------------- dump half */

static int add_range(struct op *op, struct snap_pagemap *map, uint64_t start, uint64_t end)
{
	PagemapEntry *last = map->entries.n ? map->entries.v[map->entries.n - 1] : NULL, *m, **slot;
	uint64_t last_end = last ? last->vaddr + last->nr_pages * PAGE_SIZE : 0;

	/* Data that begins in the page where the last range ended: rounding made them overlap. */
	if (last && last_end > start)
		start = last_end;
	if (start >= end)
		return 0;
	map->n_pages += (end - start) / PAGE_SIZE;
	if (last && last_end == start) {
		last->nr_pages += (end - start) / PAGE_SIZE;
		return 0;
	}
	m = op_new(op, PagemapEntry);
	slot = m ? ARRAY_ADD(op->arena, &map->entries) : NULL;
	if (!slot)
		return op_nomem(op);
	pagemap_entry__init(m);
	m->vaddr = start;
	m->has_nr_pages = m->has_flags = true;
	m->nr_pages = (end - start) / PAGE_SIZE;
	m->flags = PE_PRESENT;
	*slot = m;
	return 0;
}

static int find_data(struct op *op, struct snap_shmem *sh)
{
	uint64_t size = sh->msg->size;
	off_t off = 0;
	int r = 0;

	while (!r && (uint64_t)off < size && (off = lseek(sh->fd, off, SEEK_DATA)) >= 0 && (uint64_t)off < size) {
		off_t end = lseek(sh->fd, off, SEEK_HOLE);

		if (end < 0)
			break;
		end = (off_t)MIN((uint64_t)end, size);
		r = add_range(op, &sh->pagemap, ALIGN_DOWN((uint64_t)off, PAGE_SIZE), ALIGN_UP((uint64_t)end, PAGE_SIZE));
		off = end;
	}
	if (!r && off < 0 && errno != ENXIO)
		return op_errno(op, errno, AT(.kind = "shared memory"), "cannot find the data of %s", sh->msg->name);
	return r;
}

/* Bytes after the end of the object are zero: the last page of it may be a part of one. */
static int read_padded(struct op *op, const struct snap_shmem *sh, char *buf, size_t n, uint64_t off)
{
	size_t done = 0;

	while (done < n) {
		ssize_t r = pread(sh->fd, buf + done, n - done, (off_t)(off + done));

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return op_errno(op, errno, AT(.kind = "shared memory"), "cannot read %s", sh->msg->name);
		if (r == 0)
			break;
		done += (size_t)r;
	}
	memset(buf + done, 0, n - done);
	return 0;
}

static bool all_zero(const char *p, size_t n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* Of huge pages there is nothing to ask: unless all are there, or none, those that are all zero are left out. */
static int find_huge_data(struct op *op, struct snap_shmem *sh)
{
	uint64_t page = MIN(shmem_page_size(sh->msg), CHUNK), size = ALIGN_UP(sh->msg->size, page);
	struct stat st;
	char *buf;
	int r = 0;

	if (fstat(sh->fd, &st) < 0)
		return shmem_fail(op, sh, "look at");
	if (!st.st_blocks || (uint64_t)st.st_blocks * 512 >= size)
		return st.st_blocks ? add_range(op, &sh->pagemap, 0, size) : 0;
	buf = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buf == MAP_FAILED)
		return op_nomem(op);
	for (uint64_t off = 0; off < size && !r; off += page) {
		r = read_padded(op, sh, buf, page, off);
		if (!r && !all_zero(buf, page))
			r = add_range(op, &sh->pagemap, off, off + page);
		r = r ?: op_check_cancel(op);
	}
	munmap(buf, page);
	return r;
}

static int write_pages(struct op *op, const struct snap_shmem *sh, struct pages_out *out, const PagemapEntry *e)
{
	uint64_t left = e->nr_pages * PAGE_SIZE, off = e->vaddr;
	int r = 0;

	while (!r && left) {
		size_t cap, n;
		void *buf;

		r = op_check_cancel(op);
		r = r ? r : pages_buffer(op, out, &buf, &cap);
		if (r)
			return r;
		n = MIN(left, (uint64_t)ALIGN_DOWN(cap, PAGE_SIZE));
		r = read_padded(op, sh, buf, n, off);
		r = r ? r : pages_submit(op, out, n);
		left -= n;
		off += n;
	}
	return r;
}

int shmem_dump_content(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	struct pages_out *out = NULL;
	int r = shmem_page_size(sh->msg) == PAGE_SIZE ? find_data(op, sh) : find_huge_data(op, sh), r2;

	if (r)
		return r;
	if (!s->next_pages_id)
		s->next_pages_id = 1;
	sh->pagemap.pages_id = s->next_pages_id++;
	r = pages_announce(op, s->dir, IMG_SHMEM_PAGEMAP, sh->msg->shmid, sh->pagemap.entries.v, sh->pagemap.entries.n);
	if (r || !sh->pagemap.n_pages)
		return r;
	r = pages_create(op, s->dir, sh->pagemap.pages_id, sh->pagemap.n_pages * PAGE_SIZE, &out);
	if (r)
		return r;
	for (size_t i = 0; !r && i < sh->pagemap.entries.n; i++)
		r = write_pages(op, sh, out, sh->pagemap.entries.v[i]);
	r2 = pages_close(op, out);
	op->stats->shpages_written += sh->pagemap.n_pages;
	return r ? r : r2;
}

int shmem_dump_contents(struct op *op, struct snapshot *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->shmems.n; i++)
		r = shmem_dump_content(op, s, s->shmems.v[i]);
	return r;
}

int shmem_write(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct img_out *out = NULL;
	int r, r2;

	if (pages_elsewhere(s->dir))
		return 0; /* so does what says where they are */
	r = img_create(op, s->dir, IMG_SHMEM_PAGEMAP, sh->msg->shmid, &out);
	if (r)
		return r;
	head.pages_id = sh->pagemap.pages_id;
	r = img_write(op, out, &head.base);
	for (size_t i = 0; !r && i < sh->pagemap.entries.n; i++)
		r = img_write(op, out, &sh->pagemap.entries.v[i]->base);
	r2 = img_close(op, out);
	return r ? r : r2;
}

static struct snap_shmem *with_shmid(const struct snapshot *s, uint32_t id)
{
	for (size_t i = 0; i < s->shmems.n; i++)
		if (s->shmems.v[i]->msg->shmid == id)
			return s->shmems.v[i];
	return NULL;
}

int shmem_claim_id(struct op *op, struct snapshot *s, uint32_t id)
{
	struct snap_shmem *sh = with_shmid(s, id);
	uint32_t other = UINT32_MAX;

	(void)op;
	if (!sh)
		return 0;
	while (with_shmid(s, other))
		other--;
	sh->msg->shmid = other;
	return 0;
}

/* ------------------------------------------------------------------------------------------- restore half */

int shmem_read(struct op *op, struct snapshot *s, struct snap_shmem *sh)
{
	uint64_t page = shmem_page_size(sh->msg);
	int r;

	if (!sh->msg->size)
		return 0;
	if (sh->msg->size > SHMEM_MAX || !page)
		return image_bad(op, "memfd.img: the size %lu of %s is absurd", (unsigned long)sh->msg->size, sh->msg->name);
	r = pagemap_read(op, s->dir, IMG_SHMEM_PAGEMAP, sh->msg->shmid, &sh->pagemap);
	if (r)
		return r < 0 ? r : image_bad(op, "pagemap-shmem-%u.img of %s is missing", sh->msg->shmid, sh->msg->name);
	return pieces_resolve(op, s, &sh->pagemap, IMG_SHMEM_PAGEMAP, sh->msg->shmid, ALIGN_UP(sh->msg->size, page), &sh->pieces);
}

/* Reads a part of a piece to offset @off of the object, through a mapping, which begins with a page of it. */
static int load_range(struct op *op, struct snapshot *s, const struct snap_shmem *sh, uint64_t off, size_t n)
{
	uint64_t page = shmem_page_size(sh->msg), base = ALIGN_DOWN(off, page);
	size_t len = ALIGN_UP(off + n, page) - base;
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, sh->fd, (off_t)base);
	int r;

	if (p == MAP_FAILED)
		return shmem_fail(op, sh, "map");
	r = pieces_read(op, s, &sh->pieces, off, off + n, p + (off - base));
	munmap(p, len);
	return r;
}

int shmem_load(struct op *op, struct snapshot *s, const struct snap_shmem *sh)
{
	int r = 0;

	for (size_t i = 0; !r && i < sh->pieces.v.n; i++) {
		const struct page_piece *p = &sh->pieces.v.v[i];

		for (uint64_t done = 0, n; !r && done < p->n_pages * PAGE_SIZE; done += n) {
			n = MIN(p->n_pages * PAGE_SIZE - done, (uint64_t)CHUNK);
			r = op_check_cancel(op) ?: load_range(op, s, sh, p->start + done, n);
		}
	}
	return r;
}

struct comparison {
	struct op *op;
	struct snapshot *s;
	const struct snap_shmem *sh;
	char *a, *b;
	bool *same;
};

/* [@off, @end) of the object against the page image, or (@there false) against zeroes. */
static int compare_range(struct comparison *c, uint64_t off, uint64_t end, bool there)
{
	int r = 0;

	while (off < end && *c->same && !r) {
		size_t n = MIN(end - off, (uint64_t)COMPARE_BYTES);

		r = read_padded(c->op, c->sh, c->a, n, off);
		if (!r && there)
			r = pieces_read(c->op, c->s, &c->sh->pieces, off, off + n, c->b);
		*c->same = there ? !memcmp(c->a, c->b, n) : all_zero(c->a, n);
		off += n;
		r = r ?: op_check_cancel(c->op);
	}
	return r;
}

int shmem_compare(struct op *op, struct snapshot *s, const struct snap_shmem *sh, bool *same)
{
	struct comparison c = { .op = op, .s = s, .sh = sh, .same = same, .a = op_alloc(op, COMPARE_BYTES), .b = op_alloc(op, COMPARE_BYTES) };
	uint64_t off = 0;
	int r = c.a && c.b ? 0 : CKPT_E_NOMEM;

	*same = true;
	for (size_t i = 0; !r && i < sh->pieces.v.n; i++) {
		const struct page_piece *p = &sh->pieces.v.v[i];

		r = compare_range(&c, off, p->start, false);
		off = p->start + p->n_pages * PAGE_SIZE;
		r = r ?: compare_range(&c, p->start, off, true);
	}
	return r ?: compare_range(&c, off, sh->msg->size, false);
}
