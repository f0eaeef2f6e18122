// SPDX-License-Identifier: MIT
#include "lib/image/ps_store.h"

#include <fcntl.h>

#include "lib/image/dir.h"
#include "lib/image/pages_sink.h"
#include "lib/image/ps_proto.h"

#define IMAGES_MAX (64u << 10) /* pagemaps of one session: what is known of each stays in memory */

/* The memory that is being received. */
struct incoming {
	bool open;
	enum img_kind kind;
	uint32_t id;
	struct img_out *map;
	struct pages_out *pages; /* from the first page on */
	uint32_t pages_id;
	char *buf;
	size_t cap, used;
	uint64_t end; /* of the last range: the next one begins there or later */
	/* The parent's pagemap, read as far as needed. */
	struct img_in *parent;
	uint64_t parent_start, parent_end;
};

struct store {
	struct img_dir *dir;
	struct ps_stream *s;
	bool keep, begun;
	const struct ps_store_hooks *hooks;
	struct img_dir *parent;
	struct arena *scratch; /* entries of a parent's pagemap */
	unsigned scratch_used;
	uint32_t next_pages_id;
	uint32_t n_images;
	uint64_t n_pages;
	struct incoming t;
};

static int refuse(struct op *op, const struct store *st, const char *hint, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server", .hint = hint), "%s: %s", st->s->peer, what);
}

static const char *target_name(struct op *op, enum img_kind kind, uint32_t id)
{
	char name[IMG_NAME_MAX];

	return arena_strdup(op->arena, img_name(kind, id, name, sizeof(name))) ?: "pagemap";
}

static enum img_kind kind_of(const struct ps_request *q)
{
	return q->type == PS_TASK ? IMG_PAGEMAP : IMG_SHMEM_PAGEMAP;
}

/* ---- what the parent has */

static bool parent_has(struct op *op, const struct store *st, const struct ps_request *q)
{
	const char *name = target_name(op, kind_of(q), q->id);
	bool has = st->parent && faccessat(st->parent->fd, name, R_OK, 0) == 0;

	log_debug(op, "%s: %s the parent folder", name, has ? "in" : "not in");
	return has;
}

/* The next entry of the parent's pagemap. Returns 0, IMG_END. */
static int parent_next(struct op *op, struct store *st)
{
	struct arena *own = op->arena;
	ProtobufCMessage *msg;
	uint64_t bytes, start;
	int r;

	if (!st->scratch || st->scratch_used++ > 4096) {
		arena_free(st->scratch);
		st->scratch_used = 0;
		st->scratch = arena_new();
		if (!st->scratch)
			return op_nomem(op);
	}
	op->arena = st->scratch;
	r = img_read(op, st->t.parent, &msg);
	op->arena = own;
	if (r)
		return r;
	start = ((PagemapEntry *)msg)->vaddr;
	bytes = ((PagemapEntry *)msg)->has_nr_pages ? ((PagemapEntry *)msg)->nr_pages : ((PagemapEntry *)msg)->compat_nr_pages;
	if (__builtin_mul_overflow(bytes, (uint64_t)PAGE_SIZE, &bytes) || start < st->t.parent_end ||
	    __builtin_add_overflow(start, bytes, &bytes))
		return op_fail(op, CKPT_E_IMAGE, NULL, "%s in the parent folder is damaged",
			       target_name(op, st->t.kind, st->t.id));
	if (start != st->t.parent_end)
		st->t.parent_start = start;
	st->t.parent_end = bytes;
	return 0;
}

/* Ranges come in ascending order, and so do the parent's: one pass is enough for all. */
static int check_parent(struct op *op, struct store *st, const struct ps_request *q)
{
	uint64_t end = q->start + q->n_pages * PAGE_SIZE;
	int r = st->t.parent ? 0 : IMG_END;

	while (r == 0 && st->t.parent_end < end)
		r = parent_next(op, st);
	if (r < 0)
		return r;
	if (r == IMG_END || st->t.parent_start > q->start)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server", .addr = q->start,
						    .hint = "name the folder of the previous dump with --prev-images-dir"),
			       "%s: %s: pages at 0x%lx are to be in the parent folder, and are not", st->s->peer,
			       target_name(op, st->t.kind, st->t.id), q->start);
	return 0;
}

static int open_parent(struct op *op, struct store *st)
{
	int fd = openat(st->dir->fd, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return op_errno(op, errno, NULL, "open the parent folder");
	st->parent = op_new(op, struct img_dir);
	if (!st->parent) {
		close(fd);
		return CKPT_E_NOMEM;
	}
	st->parent->fd = fd;
	return 0;
}

/* ---- one image after the other */

static int submit(struct op *op, struct store *st)
{
	size_t n = st->t.used;

	st->t.buf = NULL;
	st->t.used = 0;
	return pages_submit(op, st->t.pages, n);
}

static int close_target(struct op *op, struct store *st)
{
	struct incoming *t = &st->t;
	int r = 0;

	if (t->open && t->buf && t->used)
		r = submit(op, st);
	if (r == 0 && t->pages)
		r = pages_close(op, t->pages);
	if (r == 0 && t->open)
		r = img_close(op, t->map); /* after a failure it is the folder's to remove */
	img_in_close(t->parent);
	*t = (struct incoming){ 0 };
	return r;
}

static int open_target(struct op *op, struct store *st, const struct ps_request *q)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	ProtobufCMessage *msg;
	struct incoming *t = &st->t;
	int r = close_target(op, st);

	if (r)
		return r;
	if (st->n_images++ == IMAGES_MAX)
		return refuse(op, st, NULL, "it opens too many images");
	t->kind = kind_of(q);
	t->id = q->id;
	t->pages_id = head.pages_id = st->next_pages_id++;
	r = img_create_hidden(op, st->dir, t->kind, t->id, &t->map);
	if (r == IMG_EXISTS)
		return refuse(op, st, NULL, arena_printf(op->arena, "it opens %s a second time",
							 target_name(op, t->kind, t->id)) ?: "it opens an image twice");
	r = r ?: img_write(op, t->map, &head.base);
	if (r == 0 && st->parent) {
		r = img_open(op, st->parent, t->kind, t->id, &t->parent);
		if (r == IMG_ABSENT)
			r = 0;
		else if (r == 0)
			r = img_read(op, t->parent, &msg);
	}
	t->open = r == 0;
	return MIN(r, 0); /* a parent without any entry is none */
}

static int cut_off(struct op *op, const struct store *st, const char *where)
{
	return op_fail(op, CKPT_E_SYS, AT(.kind = "page server"), "%s closed the connection %s: what came is not complete",
		       st->s->peer, where);
}

static int receive_pages(struct op *op, struct store *st, uint64_t n_pages)
{
	struct incoming *t = &st->t;
	uint64_t left = n_pages * PAGE_SIZE;
	size_t n, got;
	void *buf;
	int r = t->pages ? 0 : pages_create_open_end(op, st->dir, t->pages_id, &t->pages);

	while (r == 0 && left) {
		if (!t->buf) {
			r = pages_buffer(op, t->pages, &buf, &t->cap);
			if (r)
				return r;
			t->buf = buf;
		}
		n = MIN(left, (uint64_t)(t->cap - t->used));
		r = ps_recv_ahead(op, st->s, t->buf + t->used, n, &got);
		if (r)
			return r;
		if (got < n)
			return cut_off(op, st, "among its pages");
		t->used += n;
		left -= n;
		if (t->used < t->cap)
			continue;
		r = submit(op, st);
		op_progress(op, st->s->received, 0);
	}
	return r;
}

static int put_entry(struct op *op, struct store *st, const struct ps_request *q)
{
	PagemapEntry e = PAGEMAP_ENTRY__INIT;

	e.vaddr = q->start;
	e.has_nr_pages = e.has_flags = true;
	e.nr_pages = q->n_pages;
	e.flags = q->flags;
	return img_write(op, st->t.map, &e.base);
}

static int add(struct op *op, struct store *st, const struct ps_request *q)
{
	struct incoming *t = &st->t;
	int r = 0;

	if (!t->open || t->kind != kind_of(q) || t->id != q->id)
		r = open_target(op, st, q); /* old clients did not say OPEN */
	if (r)
		return r;
	if (q->start < t->end)
		return refuse(op, st, NULL, arena_printf(op->arena, "%s: pages at 0x%lx come after those up to 0x%lx",
							 target_name(op, t->kind, t->id), q->start, t->end) ?:
							 "pages are out of order");
	t->end = q->start + q->n_pages * PAGE_SIZE;
	if (q->flags & PS_F_PARENT)
		r = check_parent(op, st, q);
	r = r ?: put_entry(op, st, q);
	if (r || !(q->flags & PS_F_PRESENT))
		return r;
	r = receive_pages(op, st, q->n_pages);
	st->n_pages += q->n_pages;
	if (r == 0 && st->hooks->stored)
		r = st->hooks->stored(op, st->hooks->arg, t->kind, t->id, q->start, q->n_pages);
	return r;
}

/* ---- the session */

/* The first command may be from somebody who speaks something else, and would send no 32 bytes. */
static int first_command(struct op *op, struct store *st, struct ps_wire *w, size_t *got)
{
	static const size_t steps[] = { 4, PS_OLD_SIZE, sizeof(*w) };
	const char *foreign;
	size_t done = 0, n;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		r = ps_recv(op, st->s, (char *)w + done, steps[i] - done, &n);
		if (r)
			return r;
		done += n;
		foreign = ps_foreign(w, done);
		if (foreign)
			return refuse(op, st, "both sides have to speak the protocol of release 4.2 with commands of 32 bytes, and "
				      "both with --tls or both without", foreign);
		if (done < steps[i])
			break;
	}
	st->begun = done > 0;
	*got = done;
	return 0;
}

static int next_command(struct op *op, struct store *st, struct ps_request *q)
{
	struct ps_wire w = { 0 };
	const char *wrong;
	size_t got;
	int r = st->begun ? ps_recv_ahead(op, st->s, &w, sizeof(w), &got) : first_command(op, st, &w, &got);

	if (r)
		return r;
	if (got == 0)
		return cut_off(op, st, st->begun ? "before it said CLOSE" : "without a word");
	if (got < sizeof(w))
		return cut_off(op, st, "within a command");
	wrong = ps_parse(&w, q);
	if (!wrong)
		return 0;
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server"),
		       "%s: command %s (0x%x, %lu pages at 0x%lx, destination 0x%lx): %s", st->s->peer,
		       ps_name((enum ps_command)(w.cmd & 0xffff)), w.cmd, w.nr_pages, w.vaddr, w.dst_id, wrong);
}

static int answer_parent(struct op *op, struct store *st, const struct ps_request *q, size_t n)
{
	int32_t word = parent_has(op, st, q);
	uint8_t byte = (uint8_t)word;

	return n == 1 ? ps_send(op, st->s, &byte, 1) : ps_send(op, st->s, &word, sizeof(word));
}

/* The peer has got its answer: what it does after that changes nothing of what is stored. */
static int see_off(struct op *op, struct store *st, bool closes)
{
	uint8_t byte;
	size_t got;
	int r = ps_stream_bye(op, st->s);

	if (r < 0) {
		log_warn(op, "the pages are complete, but: %s", ckpt_err_message(op->err));
		op_forget(op);
		return 0;
	}
	if (st->keep || !closes || st->s->tls)
		return 0;
	r = ps_recv(op, st->s, &byte, 1, &got);
	if (r == 0 && got)
		return refuse(op, st, NULL, "it goes on after CLOSE");
	if (r < 0) { /* a reset is an end, too */
		log_info(op, "%s", ckpt_err_message(op->err));
		op_forget(op);
	}
	return 0;
}

static int close_session(struct op *op, struct store *st, bool closes, bool *told)
{
	const int32_t status = 0;
	int r = close_target(op, st);

	r = r ?: img_dir_publish(op, st->dir);
	if (r)
		return r;
	*told = true; /* even if sending fails: some of it may have arrived */
	r = ps_send(op, st->s, &status, sizeof(status));
	return r ?: see_off(op, st, closes);
}

static int session(struct op *op, struct store *st, bool *told)
{
	struct ps_request q;
	int r;

	for (;;) {
		r = next_command(op, st, &q);
		if (r)
			return r;
		switch (q.cmd) {
		case PS_OPEN:
			r = open_target(op, st, &q);
			break;
		case PS_OPEN2:
			r = open_target(op, st, &q) ?: answer_parent(op, st, &q, 1);
			break;
		case PS_PARENT:
			r = answer_parent(op, st, &q, 4);
			break;
		case PS_ADD_F:
			r = add(op, st, &q);
			break;
		case PS_CLOSE:
		case PS_FORCE_CLOSE:
			return close_session(op, st, q.cmd == PS_CLOSE, told);
		default:
			r = refuse(op, st, "a page server that serves pages is started with --lazy-pages",
				   "it wants pages from a server that stores them");
		}
		if (r)
			return r;
	}
}

int ps_store(struct op *op, struct img_dir *dir, struct ps_stream *s, bool keep, const struct ps_store_hooks *hooks, bool *told)
{
	struct store st = { .dir = dir, .s = s, .keep = keep, .hooks = hooks, .next_pages_id = PS_FIRST_PAGES_ID };
	int r = open_parent(op, &st);

	*told = false;
	r = r ?: session(op, &st, told);
	img_in_close(st.t.parent);
	if (st.parent)
		img_dir_close(st.parent);
	arena_free(st.scratch);
	op->stats->pages_written = st.n_pages;
	op->stats->image_bytes = dir->bytes;
	if (r == 0)
		log_info(op, "%s: %u images, %lu pages received", s->peer, st.n_images, st.n_pages);
	return r;
}
