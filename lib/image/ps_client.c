// SPDX-License-Identifier: MIT
#include "lib/image/ps_client.h"

#include <sys/mman.h>

#include "lib/image/pages_sink.h"
#include "lib/image/ps_proto.h"

/* Small enough to be still in the processor's cache when it is sent: measured, see docs/design/performance.md. */
#define BUF_SIZE (256ul << 10)
#define IOVS 256

struct ps_client {
	struct ps_stream *s;
	char *buf;
	/* The memory that is being sent. */
	bool has_parent; /* the server has an earlier image of it */
	enum img_kind kind;
	uint64_t dst;
	PagemapEntry *const *entries;
	size_t n, next;	  /* entries, and which of them was not begun yet */
	uint64_t left;	  /* bytes of the one that was */
	uint64_t pages;   /* sent in all */
	/* What is collected for one call. */
	struct iovec iov[IOVS];
	struct ps_wire head[IOVS];
	int n_iov, n_head;
};

static struct ps_client *client_of(const struct pages_out *out)
{
	return out->dir->sink_data;
}

/* ---- putting commands together */

static int flush(struct op *op, struct ps_client *c)
{
	int n = c->n_iov;

	c->n_iov = c->n_head = 0;
	return n ? ps_sendv(op, c->s, c->iov, n) : 0;
}

static int put(struct op *op, struct ps_client *c, const void *p, size_t n)
{
	int r = c->n_iov == IOVS ? flush(op, c) : 0;

	if (r == 0)
		c->iov[c->n_iov++] = (struct iovec){ (void *)p, n };
	return r;
}

static int put_command(struct op *op, struct ps_client *c, struct ps_wire w)
{
	int r = c->n_head == IOVS || c->n_iov == IOVS ? flush(op, c) : 0;

	if (r)
		return r;
	c->head[c->n_head] = w;
	return put(op, c, &c->head[c->n_head++], sizeof(w));
}

static uint32_t flags_of(const PagemapEntry *e)
{
	return e->has_flags ? e->flags : e->has_in_parent && e->in_parent ? PS_F_PARENT : PS_F_PRESENT;
}

/* Begins the next entry; of those that have no pages here, all up to one that has. */
static int next_entry(struct op *op, struct ps_client *c)
{
	while (c->left == 0 && c->next < c->n) {
		const PagemapEntry *e = c->entries[c->next++];
		int r = put_command(op, c, ps_make(PS_ADD_F, flags_of(e), c->dst, e->vaddr, e->nr_pages));

		if (r)
			return r;
		if (flags_of(e) & PS_F_PRESENT)
			c->left = e->nr_pages * PAGE_SIZE;
	}
	return 0;
}

/* ---- the sink */

static int begun(const struct ps_client *c)
{
	return c->left || c->next < c->n;
}

static int client_announce_more(struct op *op, struct img_dir *dir, PagemapEntry *const *entries, size_t n)
{
	struct ps_client *c = dir->sink_data;
	int r;

	if (begun(c))
		return op_fail(op, CKPT_E_INTERNAL, NULL, "pages of the page server are announced before others were sent");
	for (size_t i = 0; i < n && !c->has_parent; i++)
		if (flags_of(entries[i]) & PS_F_PARENT)
			return op_fail(op, CKPT_E_CHANGED, AT(.kind = "page server",
							      .hint = "start it with --prev-images-dir, or dump without"),
				       "the %s does not have the previous images that this dump builds upon", c->s->peer);
	c->entries = entries;
	c->n = n;
	c->next = 0;
	/* One that has no pages at all is not created as an image. */
	r = next_entry(op, c);
	return r ?: c->left ? 0 : flush(op, c);
}

static int client_announce(struct op *op, struct img_dir *dir, enum img_kind kind, uint32_t id, PagemapEntry *const *entries,
			   size_t n)
{
	struct ps_client *c = dir->sink_data;
	uint8_t has_parent;
	int r;

	if (begun(c))
		return op_fail(op, CKPT_E_INTERNAL, NULL, "two pagemaps are sent to the page server at once");
	c->dst = ps_dst(kind == IMG_PAGEMAP ? PS_TASK : PS_SHMEM, id);
	r = put_command(op, c, ps_make(PS_OPEN2, 0, c->dst, 0, 0)) ?: flush(op, c);
	r = r ?: ps_recv_all(op, c->s, &has_parent, 1, "its answer");
	if (r)
		return r;
	c->s->hint = "its own messages may say why";
	if (has_parent > 1)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "page server", .hint = "both sides need --tls, or neither"),
			       "the %s answers %u, which is no answer: it speaks another protocol", c->s->peer, has_parent);
	c->has_parent = has_parent;
	return client_announce_more(op, dir, entries, n);
}

static int client_create(struct op *op, struct img_dir *dir, struct pages_out **ret)
{
	(void)dir;
	*ret = op_new(op, struct pages_out);
	return *ret ? 0 : CKPT_E_NOMEM;
}

static int client_begin(struct op *op, struct pages_out *out)
{
	struct ps_client *c = client_of(out);
	uint64_t sum = c->left;

	for (size_t i = c->next; i < c->n; i++)
		if (flags_of(c->entries[i]) & PS_F_PRESENT)
			sum += c->entries[i]->nr_pages * PAGE_SIZE;
	if (sum == out->bytes || out->open_end)
		return 0;
	return op_fail(op, CKPT_E_INTERNAL, NULL, "image %s is not what was announced", out->name);
}

static int client_buffer(struct op *op, struct pages_out *out, void **buf, size_t *cap)
{
	(void)op;
	*buf = client_of(out)->buf;
	*cap = BUF_SIZE;
	return 0;
}

static int client_submit(struct op *op, struct pages_out *out, size_t len)
{
	struct ps_client *c = client_of(out);
	const char *p = c->buf;
	int r = 0;

	while (len && r == 0) {
		uint64_t n;

		r = next_entry(op, c);
		n = MIN((uint64_t)len, c->left);
		if (r == 0 && n == 0)
			return op_fail(op, CKPT_E_INTERNAL, NULL, "more pages than were announced");
		r = r ?: put(op, c, p, n);
		p += n;
		len -= n;
		c->left -= n;
	}
	return r ?: flush(op, c); /* the buffer is filled again */
}

static int client_finish(struct op *op, struct pages_out *out)
{
	struct ps_client *c = client_of(out);
	int r = next_entry(op, c) ?: flush(op, c);

	if (r == 0 && begun(c))
		return op_fail(op, CKPT_E_INTERNAL, NULL, "fewer pages than were announced");
	out->dir->bytes += out->off;
	c->pages += out->off / PAGE_SIZE;
	return r;
}

static const struct pages_sink sink = {
	.announce = client_announce,
	.announce_more = client_announce_more,
	.create = client_create,
	.begin = client_begin,
	.buffer = client_buffer,
	.submit = client_submit,
	.finish = client_finish,
};

/* ---- the session */

int ps_client_new(struct op *op, struct img_dir *dir, struct ps_stream *s, struct ps_client **ret)
{
	struct ps_client *c = op_new(op, struct ps_client);

	if (!c)
		return CKPT_E_NOMEM;
	c->buf = mmap(NULL, BUF_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (c->buf == MAP_FAILED)
		return op_nomem(op);
	c->s = s;
	/* Until it has answered once. */
	s->hint = "it may be of another release than 4.2, or one side has --tls and the other has not; its messages may say more";
	dir->sink = &sink;
	dir->sink_data = c;
	*ret = c;
	return 0;
}

struct ps_client *ps_client_free(struct ps_client *c)
{
	if (c && c->buf)
		munmap(TAKE_PTR(c->buf), BUF_SIZE);
	return NULL;
}

int ps_client_parent(struct op *op, struct ps_client *c, enum img_kind kind, uint32_t id, bool *has)
{
	uint64_t dst = ps_dst(kind == IMG_PAGEMAP ? PS_TASK : PS_SHMEM, id);
	int32_t answer;
	int r = put_command(op, c, ps_make(PS_PARENT, 0, dst, 0, 0)) ?: flush(op, c);

	r = r ?: ps_recv_all(op, c->s, &answer, sizeof(answer), "its answer");
	if (r == 0 && answer != 0 && answer != 1)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "page server"), "the %s answers %d, which is no answer", c->s->peer,
			       answer);
	*has = answer;
	return r;
}

int ps_client_close(struct op *op, struct ps_client *c, bool keep)
{
	int32_t status;
	int r = put_command(op, c, ps_make(keep ? PS_FORCE_CLOSE : PS_CLOSE, 0, 0, 0, 0)) ?: flush(op, c);

	r = r ?: ps_recv_all(op, c->s, &status, sizeof(status), "that all is stored");
	if (r)
		return r;
	if (status != 0)
		return op_fail(op, CKPT_E_SYS, AT(.kind = "page server"), "the %s could not store the pages (status %d)", c->s->peer,
			       status);
	log_info(op, "%s: %lu pages sent", c->s->peer, c->pages);
	if (ps_stream_bye(op, c->s) < 0) { /* it has all: how it goes is its own affair */
		log_info(op, "%s", ckpt_err_message(op->err));
		op_forget(op);
	}
	return 0;
}
