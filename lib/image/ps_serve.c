// SPDX-License-Identifier: MIT
#include "lib/image/ps_serve.h"

#include <sys/mman.h>

#include "lib/image/ps_proto.h"

#define BUF_PAGES 64u /* read and sent at once */

static int bad(struct op *op, struct ps_stream *s, const struct ps_wire *w, const char *what)
{
	return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server"), "%s: request %s (0x%x, %lu pages at 0x%lx of 0x%lx): %s",
		       s->peer, ps_name((enum ps_command)(w->cmd & 0xffff)), w->cmd, w->nr_pages, w->vaddr, w->dst_id, what);
}

/* Whoever restores may take a long time until its next request; within one it may not. */
static int next_request(struct op *op, struct ps_stream *s, bool first, struct ps_wire *w, struct ps_request *q)
{
	const char *wrong;
	size_t got;
	int r = ps_wait(op, s) ?: ps_recv_ahead(op, s, w, sizeof(*w), &got);

	if (r)
		return r;
	wrong = first && got ? ps_foreign(w, got) : NULL;
	if (wrong)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server", .hint = "both sides need --tls, or neither"), "%s: %s",
			       s->peer, wrong);
	if (got < sizeof(*w))
		return op_fail(op, CKPT_E_SYS, AT(.kind = "page server"), "%s closed the connection %s", s->peer,
			       got ? "within a request" : "before it said that it has all pages");
	wrong = ps_parse(w, q);
	return wrong ? bad(op, s, w, wrong) : 0;
}

static int answer(struct op *op, struct ps_stream *s, const struct ps_source *src, const struct ps_request *q, void *buf)
{
	struct ps_wire head;
	uint64_t n = 0, at = q->start;
	int r = src->have(op, src->arg, q->id, q->start, q->n_pages, &n);

	if (r)
		return r;
	if (n == 0 || n > q->n_pages)
		return op_fail(op, CKPT_E_IMAGE, AT(.kind = "page server", .addr = q->start),
			       "%s wants the page at 0x%lx of process %u, which is not here", s->peer, q->start, q->id);
	head = ps_make(PS_ADD_F, PS_F_PRESENT, q->id, q->start, n);
	for (bool begun = false; n && r == 0; begun = true) {
		size_t part = MIN(n, (uint64_t)BUF_PAGES);
		struct iovec iov[2] = { { &head, sizeof(head) }, { buf, part * PAGE_SIZE } };

		/* A failure here closes the connection within a reply: nothing false is taken for a page. */
		r = src->read(op, src->arg, q->id, at, part, buf);
		r = r ?: ps_sendv(op, s, iov + begun, 2 - begun);
		op->stats->pages_written += part;
		at += part * PAGE_SIZE;
		n -= part;
	}
	return r;
}

static int finish(struct op *op, struct ps_stream *s, bool keep)
{
	const int32_t status = 0;
	int r = ps_send(op, s, &status, sizeof(status));

	/* It has all it wants: how it goes is its own affair. */
	if (r == 0 && !keep && ps_stream_bye(op, s) < 0) {
		log_info(op, "%s", ckpt_err_message(op->err));
		op_forget(op);
	}
	return r;
}

int ps_serve(struct op *op, struct ps_stream *s, const struct ps_source *source, bool keep)
{
	void *buf = mmap(NULL, BUF_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct ps_wire w;
	struct ps_request q;
	int r = 0;

	if (buf == MAP_FAILED)
		return op_nomem(op);
	for (bool first = true; r == 0; first = false) {
		r = next_request(op, s, first, &w, &q);
		if (r)
			break;
		if (q.cmd == PS_CLOSE || q.cmd == PS_FORCE_CLOSE) {
			r = finish(op, s, keep || q.cmd == PS_FORCE_CLOSE);
			break;
		}
		r = q.cmd == PS_GET ? answer(op, s, source, &q, buf)
				    : bad(op, s, &w, "pages are only served here, not stored (--lazy-pages)");
	}
	munmap(buf, BUF_PAGES * PAGE_SIZE);
	return r;
}
